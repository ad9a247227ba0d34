"""Any module goes through a pipeline, a file and into a fresh module: equal in every bit, and equal in what it computes."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import deepcompress as dc
from tests.pipeline.samples import same_bits, state_of

Make = Callable[[], nn.Module]

LOSSY = dc.Pipeline(
    [("prune", dc.Prune("percentile", q=0.4)), ("quantize", dc.KMeansQuantize(3)), ("encode", dc.HuffmanEncode())]
)
GRID = dc.Pipeline([("quantize", dc.AffineQuantize(5)), ("encode", dc.HuffmanEncode(leftovers="float16"))])
LOSSLESS = dc.Pipeline([("lossless", dc.Lossless())])


class Given(nn.Module):
    """Parameters of any kind beside an ordinary layer."""

    def __init__(self, **tensors: Tensor) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 5)
        for name, tensor in tensors.items():
            learns = tensor.is_floating_point() or tensor.is_complex()
            self.register_parameter(name, nn.Parameter(tensor, requires_grad=learns))

    def forward(self, rows: Tensor) -> Tensor:
        out: Tensor = self.fc(rows)
        return out


class Language(nn.Module):
    """Words in, words out, by one table; and a layer that is called under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 6, padding_idx=0)
        self.first = self.second = nn.Linear(6, 6)
        self.out = nn.Linear(6, 11)
        self.out.weight = self.words.weight

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.out(self.second(torch.tanh(self.first(self.words(ids)))))
        return out


class Lists(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 6), nn.ModuleList([nn.Linear(6, 6)])])
        self.scales = nn.ParameterList([torch.randn(6), torch.randn(()), torch.randn(6, 6)])
        self.named = nn.ParameterDict({"a": torch.randn(6, 6), "b": torch.zeros(0, 3)})

    def forward(self, rows: Tensor) -> Tensor:
        hidden = self.layers[1][0](self.layers[0](rows)) * self.scales[0] + self.scales[1]  # type: ignore[index]
        return hidden @ self.scales[2] @ self.named["a"]


class Table(nn.Module):
    """What it looks up is made anew, and in no state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.register_buffer("steps", torch.arange(6.0), persistent=False)
        self.register_buffer("nothing", None)

    def forward(self, rows: Tensor) -> Tensor:
        out: Tensor = self.fc(rows) * self.steps
        return out


class Told(nn.Linear):
    """Its extra state is a tensor, as quantized layers have it."""

    factor = torch.tensor([2.0])

    def get_extra_state(self) -> Tensor:
        return self.factor

    def set_extra_state(self, state: Tensor) -> None:
        self.factor = state

    def forward(self, rows: Tensor) -> Tensor:
        return super().forward(rows) * self.factor


class Waves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 5, dtype=torch.complex64)
        self.out = nn.Linear(5, 4)

    def forward(self, rows: Tensor) -> Tensor:
        out: Tensor = self.out(self.inner(torch.complex(rows, rows.flip(0))).abs())
        return out


class Attention(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(6, 2, batch_first=True, **options)

    def forward(self, queries: Tensor, others: Tensor) -> Any:
        return self.inner(queries, others, others)


def one_storage() -> nn.Module:
    """Two weights side by side in one vector, as flattened optimizers keep them."""
    flat = torch.randn(60)
    model = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Linear(6, 4, bias=False))
    model[0].weight, model[1].weight = nn.Parameter(flat[:36].view(6, 6)), nn.Parameter(flat[36:].view(4, 6))
    return model


def with_weight(weight: Tensor) -> nn.Module:
    model = nn.Linear(weight.shape[1], weight.shape[0])
    model.weight = nn.Parameter(weight)
    return model


def initialized(model: nn.Module, batch: Tensor) -> nn.Module:
    model(batch)
    return model


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(4))


ROWS, IDS = randn(3, 6), torch.tensor([[1, 4, 0], [10, 1, 2]])

MODULES: dict[str, tuple[Make, tuple[Tensor, ...]]] = {
    "tied and shared": (Language, (IDS,)),
    "weight norm": (lambda: parametrizations.weight_norm(nn.Linear(6, 4)), (ROWS,)),
    "weight norm of a convolution": (lambda: parametrizations.weight_norm(nn.Conv1d(2, 4, 3), dim=None), (randn(1, 2, 8),)),
    "spectral norm": (lambda: parametrizations.spectral_norm(nn.Conv2d(2, 4, 3)), (randn(1, 2, 5, 5),)),
    "orthogonal": (lambda: parametrizations.orthogonal(nn.Linear(6, 6)), (ROWS,)),
    "orthogonal by exponential": (lambda: parametrizations.orthogonal(nn.Linear(6, 6), orthogonal_map="matrix_exp"), (ROWS,)),
    "old spectral norm": (lambda: nn.utils.spectral_norm(nn.Linear(6, 4)), (ROWS,)),
    "lazy, initialized": (lambda: initialized(nn.Sequential(nn.LazyLinear(5), nn.LazyBatchNorm1d()), ROWS), (ROWS,)),
    "buffers in no state dict": (Table, (ROWS,)),
    "extra state": (lambda: Told(6, 4), (ROWS,)),
    "channels last": (lambda: nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last), (randn(1, 3, 5, 5),)),  # type: ignore[call-overload]
    "channels last, 3-D": (lambda: nn.Conv3d(3, 4, 2).to(memory_format=torch.channels_last_3d), (randn(1, 3, 3, 3, 3),)),  # type: ignore[call-overload]
    **{
        str(dtype): (lambda dtype=dtype: nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5)).to(dtype), (ROWS.to(dtype),))
        for dtype in (torch.float16, torch.bfloat16, torch.float64)
    },
    "complex": (Waves, (ROWS,)),
    **{
        f"beside {dtype}": (lambda dtype=dtype: Given(other=(torch.randn(4, 4) * 3).to(dtype)), (ROWS,))
        for dtype in (
            torch.complex128, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32,
            torch.uint64, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz,
            torch.float8_e8m0fnu,
        )
    },
    "empty and 0-d": (lambda: Given(none=torch.zeros(0, 6), box=torch.zeros(3, 0, 2), one=torch.randn(()), row=ROWS[0]), (ROWS,)),
    "odd names": (lambda: Given(**{name: torch.randn(5, 5) for name in ("a b", "ünï🙂", "*[!", "\n", "__class")}), (ROWS,)),
    "1-D convolution": (lambda: nn.Conv1d(4, 6, 3, groups=2, dilation=2), (randn(1, 4, 9),)),
    "3-D convolution": (lambda: nn.Conv3d(2, 4, 2, padding_mode="circular", padding=1), (randn(1, 2, 3, 3, 3),)),
    "1-D transposed": (lambda: nn.ConvTranspose1d(3, 5, 3, stride=2), (randn(1, 3, 4),)),
    "2-D transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), (randn(1, 4, 4, 4),)),
    "3-D transposed": (lambda: nn.ConvTranspose3d(2, 3, 2), (randn(1, 2, 2, 2, 2),)),
    "embedding bag": (lambda: nn.EmbeddingBag(11, 6, mode="max", padding_idx=0), (IDS,)),
    "embedding with a bound": (lambda: nn.Embedding(11, 6, max_norm=None, sparse=True), (IDS,)),
    "attention": (Attention, (randn(2, 3, 6), randn(2, 4, 6))),
    "attention over other widths": (lambda: Attention(kdim=5, vdim=5, add_bias_kv=True), (randn(2, 3, 6), randn(2, 4, 5))),
    "transformer": (lambda: nn.Transformer(6, 2, 1, 1, 8, batch_first=True), (randn(2, 3, 6), randn(2, 4, 6))),
    "LSTM": (lambda: nn.LSTM(6, 5, 2, bidirectional=True), (randn(4, 2, 6),)),
    "GRU": (lambda: nn.GRU(6, 5, 2, batch_first=True), (randn(4, 2, 6),)),
    "cell": (lambda: nn.LSTMCell(6, 5), (ROWS,)),
    "bilinear": (lambda: nn.Bilinear(6, 6, 4), (ROWS, ROWS)),
    "lists and dictionaries": (Lists, (ROWS,)),
    "one storage": (one_storage, (ROWS,)),
    "transposed in memory": (lambda: with_weight(torch.randn(6, 5).t()), (ROWS,)),
    "not dense in memory": (lambda: with_weight(torch.randn(5, 12)[:, ::2]), (ROWS,)),
    "expanded": (lambda: with_weight(torch.randn(1, 6).expand(5, 6)), (ROWS,)),
}  # fmt: skip
every_module = pytest.mark.parametrize("kind", MODULES)


def made(kind: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = MODULES[kind][0]()
    return (copy.deepcopy(model) if kind in ("not dense in memory", "expanded") else model).eval()


def tensors_in(found: Any) -> list[Tensor]:
    return [tensor for each in found for tensor in tensors_in(each)] if isinstance(found, tuple) else [found]


@torch.no_grad()
def outputs(model: nn.Module, kind: str) -> list[Tensor]:
    return tensors_in(model(*MODULES[kind][1]))


@every_module
@pytest.mark.parametrize("pipeline", [LOSSY, GRID, LOSSLESS], ids=["lossy", "grid", "lossless"])
def test_there_and_back(kind: str, pipeline: dc.Pipeline, tmp_path: Path) -> None:
    given = made(kind, 0)
    before = state_of(given)
    result = pipeline.run(given, quiet=True)
    assert same_bits(given, before)
    assert same_bits(result.model, result.compressed.state_dict())
    if pipeline is LOSSLESS:
        assert same_bits(result.model, before)
    result.compressed.save(tmp_path / "model.dcz")
    fresh = made(kind, 1)
    parameters = list(fresh.parameters())
    dc.load(tmp_path / "model.dcz").load_into(fresh)
    assert all(a is b for a, b in zip(fresh.parameters(), parameters, strict=True))
    assert same_bits(fresh, result.model)
    found, expected = outputs(fresh, kind), outputs(result.model, kind)  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_the_cases_tell_something() -> None:
    """Two modules of a kind differ."""
    for kind in MODULES:
        one, other = made(kind, 0), made(kind, 1)
        assert not same_bits(one, other), kind
        assert not torch.equal(outputs(one, kind)[0], outputs(other, kind)[0]), kind


@every_module
def test_trained_there_and_back(kind: str) -> None:
    """Under masks, then the shared values."""
    model, inputs = made(kind, 0), MODULES[kind][1]
    if any(getattr(module, "sparse", False) for module in model.modules()):
        pytest.skip("sparse gradients go with optimizers for them alone")

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return torch.stack([tensor.float().square().mean() for tensor in tensors_in(model(*batch))]).sum()

    stages = [
        ("prune", dc.Prune("percentile", q=0.4)),
        ("retrain", dc.Retrain(1, 1e-3, "SGD")),
        ("quantize", dc.KMeansQuantize(3)),
        ("finetune", dc.Finetune(1, 1e-3, "SGD")),
        ("encode", dc.HuffmanEncode()),
    ]
    result = dc.Pipeline(stages).run(model, train=[inputs] * 2, loss=loss, quiet=True)
    assert same_bits(result.model, result.compressed.state_dict())
    fresh = made(kind, 1)
    result.compressed.load_into(fresh)
    found, expected = outputs(fresh, kind), outputs(result.model.eval(), kind)  # type: ignore[union-attr]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float8_e8m0fnu, torch.float4_e2m1fn_x2])
def test_scales_and_packed_pairs_are_no_weights(dtype: torch.dtype) -> None:
    """A power of two is never zero, and half a byte is no element: only their bytes are kept."""
    held = torch.arange(64, dtype=torch.uint8).reshape(8, 8)
    tensors = {"scales": held.view(dtype), "weight": torch.randn(8, 8)}
    for stage in (dc.Prune("percentile", q=0.5), dc.Prune("filter_l1", sparsity=0.5), dc.KMeansQuantize(2), dc.AffineQuantize(2)):
        pipeline = dc.Pipeline([("stage", stage), ("encode", dc.HuffmanEncode(leftovers="float16"))])
        assert torch.equal(pipeline.run(tensors, quiet=True).compressed["scales"].view(torch.uint8), held)


def test_ties_are_ties_in_the_file_and_afterwards() -> None:
    result = LOSSY.run(made("tied and shared", 0), quiet=True)
    assert result.compressed.ties == {"second.weight": "first.weight", "second.bias": "first.bias", "out.weight": "words.weight"}
    fresh = made("tied and shared", 1)
    result.compressed.load_into(fresh)
    for model in (fresh, result.model):
        assert model.out.weight is model.words.weight  # type: ignore[union-attr]
        assert model.first is model.second  # type: ignore[union-attr]
    assert not bool(fresh.words.weight[0].any())  # type: ignore[index, union-attr]


def test_recurrent_layers_keep_their_flat_weights() -> None:
    result = LOSSY.run(made("LSTM", 0), quiet=True)
    fresh = made("LSTM", 1)
    result.compressed.load_into(fresh)
    for model in (fresh, result.model):
        assert isinstance(model, nn.LSTM)
        assert all(flat is weight for flat, weight in zip(model._flat_weights, model.parameters(), strict=True))


def test_memory_formats_and_extra_state_stay() -> None:
    result = LOSSY.run(made("channels last", 0), quiet=True)
    fresh = made("channels last", 1)
    result.compressed.load_into(fresh)
    for model in (fresh, result.model):
        assert model.weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[union-attr]
    given = Told(6, 4)
    given.factor = torch.tensor([3.0])
    told = Told(6, 4)
    LOSSY.run(given, quiet=True).compressed.load_into(told)
    assert told.factor.tolist() == [3.0]


def test_a_parametrized_weight_is_made_of_what_is_pruned() -> None:
    """Of weight normalization the directions; they are pruned, so that the weight is."""
    result = LOSSY.run(made("weight norm", 0), quiet=True)
    assert [row.name for row in result.report.layers if row.pruned] == ["parametrizations.weight.original1"]
    direction = result.model.parametrizations.weight.original1  # type: ignore[union-attr]
    assert int((direction == 0).sum()) == 10
    assert torch.equal(result.model.weight == 0, direction == 0)  # type: ignore[union-attr]


def test_a_lazy_module_takes_the_files_shapes() -> None:
    result = LOSSY.run(made("lazy, initialized", 0), quiet=True)
    fresh = nn.Sequential(nn.LazyLinear(5), nn.LazyBatchNorm1d()).eval()
    result.compressed.load_into(fresh)
    assert same_bits(fresh, result.model)
    assert torch.equal(fresh(ROWS), result.model(ROWS))  # type: ignore[operator]


def over_each_other() -> nn.Module:
    """A decoder that is its encoder, transposed; a head that is a part of a table."""
    model = nn.Sequential(nn.Linear(6, 4, bias=False), nn.Linear(4, 6, bias=False), nn.Linear(6, 3, bias=False))
    model[1].weight = nn.Parameter(model[0].weight.detach().t())
    model[2].weight = nn.Parameter(model[0].weight.detach()[1:])
    return model


def test_memory_that_lies_over_another_is_no_tie() -> None:
    """A copy has it apart, as `deepcopy` makes it, and so has the file; what is lossless fits the like of it too."""
    torch.manual_seed(0)
    given, apart = over_each_other(), nn.Sequential(*(nn.Linear(*size, bias=False) for size in ((6, 4), (4, 6), (6, 3))))
    lossy, exact = LOSSY.run(given, quiet=True), LOSSLESS.run(given, quiet=True)
    for result in (lossy, exact):
        assert result.compressed.ties == {}
        assert same_bits(result.model, result.compressed.state_dict())
        assert same_bits(result.compressed.load_into(apart), result.model)
    assert same_bits(exact.compressed.load_into(over_each_other()), given)


def old_weight_norm() -> nn.Module:
    with warnings.catch_warnings(action="ignore"):
        return nn.utils.weight_norm(nn.Linear(6, 4))


OLD: dict[str, Make] = {"weight_norm": old_weight_norm, "prune": lambda: prune.l1_unstructured(nn.Linear(6, 4), "weight", 0.5)}


@pytest.mark.parametrize("kind", OLD)
def test_hooks_of_the_old_kind_cannot_be_copied_and_work_in_place(kind: str) -> None:
    """The weight is an attribute that they compute, and torch copies no tensor that has been computed."""
    text = r"^the model cannot be copied \(Only Tensors .*\); give a copy yourself and say inplace=True$"
    with pytest.raises(dc.ModelError, match=text):
        LOSSY.run(OLD[kind](), quiet=True)
    result = LOSSY.run(OLD[kind](), quiet=True, inplace=True)
    assert same_bits(result.model, result.compressed.state_dict())
    fresh = OLD[kind]()
    result.compressed.load_into(fresh)
    assert same_bits(fresh, result.model)
    assert torch.equal(fresh(ROWS), result.model(ROWS))  # type: ignore[operator]


def quantized() -> Tensor:
    with warnings.catch_warnings(action="ignore"):
        return torch.quantize_per_tensor(torch.randn(3, 3), 0.1, 0, torch.qint8)


def nested() -> Tensor:
    with warnings.catch_warnings(action="ignore"):
        return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])


NO_SHAPE = "has no shape yet: pass one batch through the model first"


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: nn.LazyLinear(3), f"'weight' {NO_SHAPE}"),
        (lambda: nn.Sequential(nn.LazyConv2d(3, 3), nn.LazyBatchNorm2d()), f"'0.weight' {NO_SHAPE}"),
        (lambda: nn.Sequential(nn.Linear(2, 2), nn.LazyBatchNorm1d(affine=False)), f"'1.running_mean' {NO_SHAPE}"),
        (lambda: nn.Linear(3, 3, device="meta"), "'weight' is a meta tensor, so it cannot be stored"),
        (lambda: {"w": quantized()}, "'w' is a tensor whose dtype qint8 cannot be stored"),
        (lambda: {"w": torch.zeros(3, dtype=torch.uint4)}, "'w' is a tensor whose dtype uint4 cannot be stored"),
        (lambda: {"w": nested()}, "'w' is no dense tensor, so it cannot be stored"),
    ],
)
@pytest.mark.parametrize("pipeline", [LOSSY, LOSSLESS], ids=["lossy", "lossless"])
def test_what_cannot_be_stored(make: Callable[[], Any], text: str, pipeline: dc.Pipeline) -> None:
    with pytest.raises(dc.ModelError, match=f"^{re.escape(text)}$"):
        pipeline.run(make(), quiet=True)


EXPANDED = with_weight(torch.randn(1, 6).expand(5, 6))


def test_expanded_weights_are_not_written_to() -> None:
    """In a copy each element has its own place; where it has not, that is said before anything is changed."""
    before = state_of(EXPANDED)
    for owner, stage in {"Prune": dc.Prune("percentile", q=0.5), "KMeansQuantize": dc.KMeansQuantize(2)}.items():
        text = f"^{owner}: 'weight' is expanded, several of its elements being one place in memory: make it nn.Parameter"
        with pytest.raises(dc.ModelError, match=text):
            dc.Pipeline([("stage", stage)]).run(EXPANDED, quiet=True, inplace=True)
    with pytest.raises(dc.ModelError, match=r"^sensitivity_scan: 'weight' is expanded"):
        dc.sensitivity_scan(EXPANDED, lambda model: 0.0, quiet=True)
    result = dc.Pipeline([("encode", dc.HuffmanEncode(leftovers="float16"))]).run(EXPANDED, quiet=True, inplace=True)
    assert same_bits(result.model, result.compressed.state_dict())
    assert torch.equal(EXPANDED.weight, before["weight"])  # type: ignore[arg-type]


def unwritable() -> dict[str, nn.Module]:
    with torch.inference_mode():
        inference = nn.Linear(6, 5)
    return {"expanded": with_weight(torch.randn(1, 6).expand(5, 6)), "inference": inference}


@pytest.mark.parametrize("kind", ["expanded", "inference"])
def test_modules_that_cannot_be_written_to_stay_as_they_are(kind: str) -> None:
    module = unwritable()[kind]
    before = state_of(module)
    compressed = LOSSLESS.run(nn.Linear(6, 5), quiet=True).compressed
    with pytest.raises(dc.ModelError, match=r"^<bytes> does not fit Linear: While copying the parameter named \"weight\""):
        compressed.load_into(module)
    assert same_bits(module, before)


def test_a_module_without_memory_is_not_loaded_in_silence() -> None:
    compressed = LOSSLESS.run(nn.Linear(6, 5), quiet=True).compressed
    module = nn.Linear(6, 5, device="meta")
    text = "<bytes> cannot be loaded into Linear: 'weight' has no memory; module.to_empty(device=...) gives it some"
    with pytest.raises(dc.ModelError, match=f"^{re.escape(text)}$"):
        compressed.load_into(module)
    assert same_bits(compressed.load_into(module.to_empty(device="cpu")), compressed.state_dict())
