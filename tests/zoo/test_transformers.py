"""BERT and GPT-2 as Hugging Face builds them from a configuration: ties stay ties, logits come back in every bit."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deepcompress as dc
from deepcompress.layers.channels import channel_axis
from deepcompress.layers.select import layer_types, named_weights
from tests.pipeline.samples import same_bits, state_of

if importlib.util.find_spec("transformers") is None:
    pytest.skip("transformers is not installed; pip install 'deepcompress[transformers]'", allow_module_level=True)
if importlib.util.find_spec("torchvision") is not None:
    from deepcompress.vision import import_torchvision

    import_torchvision()  # transformers imports it too, and dies with one that was built for another torch

from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

PIPELINE = dc.Pipeline(
    [("prune", dc.Prune("percentile", q=0.5)), ("quantize", dc.KMeansQuantize(4)), ("encode", dc.HuffmanEncode())]
)
IDS = torch.randint(2, 99, (2, 12), generator=torch.Generator().manual_seed(3))


def bert(**options: Any) -> nn.Module:
    config = BertConfig(
        vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, **options
    )  # fmt: skip
    return BertForMaskedLM(config)


def gpt2(**options: Any) -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=1, **options))


MODELS: dict[str, tuple[Callable[..., nn.Module], dict[str, str]]] = {
    "BERT": (
        bert,
        {
            "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
            "cls.predictions.decoder.bias": "cls.predictions.bias",
        },
    ),
    "GPT-2": (gpt2, {"lm_head.weight": "transformer.wte.weight"}),
}
every_model = pytest.mark.parametrize(("make", "ties"), MODELS.values(), ids=MODELS)


def made(make: Callable[..., nn.Module], seed: int, **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    model = make(**options).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases begin at zero, norms at one
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return model


@torch.no_grad()
def logits(model: Any) -> Tensor:
    found: Tensor = model(input_ids=IDS, attention_mask=(IDS > 9).long()).logits
    return found


@every_model
def test_there_and_back(make: Callable[..., nn.Module], ties: dict[str, str], tmp_path: Path) -> None:
    given = made(make, 0)
    before = state_of(given)
    result = PIPELINE.run(given, quiet=True)
    assert same_bits(given, before)
    assert result.compressed.ties == ties
    assert same_bits(result.model, result.compressed.state_dict())
    result.compressed.save(tmp_path / "model.dcz")
    fresh = made(make, 1)
    assert not torch.equal(logits(fresh), logits(result.model))
    dc.load(tmp_path / "model.dcz").load_into(fresh)
    assert same_bits(fresh, result.model)
    assert torch.equal(logits(fresh), logits(result.model))
    for model in (fresh, result.model):
        parameters: Any = dict(model.named_parameters(remove_duplicate=False))  # type: ignore[union-attr]
        assert all(parameters[alias] is parameters[first] for alias, first in ties.items())


@every_model
def test_training_under_masks_and_centroids_keeps_ties(make: Callable[..., nn.Module], ties: dict[str, str]) -> None:
    def loss(model: Any, batch: Tensor) -> Tensor:
        found: Tensor = model(input_ids=batch, labels=batch).loss
        return found

    stages = [
        ("prune", dc.Prune("percentile", q=0.5)),
        ("retrain", dc.Retrain(1, 1e-3)),
        ("quantize", dc.KMeansQuantize(4)),
        ("finetune", dc.Finetune(1, 1e-4)),
        ("encode", dc.HuffmanEncode()),
    ]
    result = dc.Pipeline(stages).run(made(make, 0), train=[IDS, IDS], loss=loss, quiet=True)
    assert result.compressed.ties == ties
    assert same_bits(result.model, result.compressed.state_dict())
    assert sum(row.pruned for row in result.report.layers) >= 10
    fresh = made(make, 1)
    result.compressed.load_into(fresh)
    assert torch.equal(logits(fresh), logits(result.model.eval()))  # type: ignore[union-attr]


@every_model
def test_what_is_not_tied_is_not(make: Callable[..., nn.Module], ties: dict[str, str]) -> None:
    result = PIPELINE.run(made(make, 0, tie_word_embeddings=False), quiet=True)
    head, table = next((alias, first) for alias, first in ties.items() if alias.endswith("weight"))
    assert head not in result.compressed.ties
    assert not torch.equal(result.compressed[head], result.compressed[table])
    fresh = made(make, 1, tie_word_embeddings=False)
    result.compressed.load_into(fresh)
    assert torch.equal(logits(fresh), logits(result.model))


def test_channels_of_gpt2s_linear_layers_are_their_outputs() -> None:
    model = gpt2()
    weights, types = named_weights(model), layer_types(model)
    layers = [name for name in weights if ".c_" in name and name.endswith(".weight")]
    assert len(layers) == 8
    for name in layers:
        assert weights[name].shape[channel_axis(name, weights[name], types)] == len(weights[name.replace("weight", "bias")])


def test_losslessly_and_through_a_state_dict() -> None:
    given = made(gpt2, 0)
    compressed = dc.Pipeline([("lossless", dc.Lossless())]).run(given.state_dict(), quiet=True).compressed
    assert compressed.ties == MODELS["GPT-2"][1]
    fresh = made(gpt2, 1)
    fresh.load_state_dict(compressed.state_dict())
    assert same_bits(fresh, given)
    assert torch.equal(logits(fresh), logits(given))
