"""The transformer is the paper's: equal to torch's with the same weights, causal, blind to padding, its products counted."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from deepcompress.errors import ParameterError
from deepcompress.nn import (
    AttentionHead,
    DecoderLayer,
    EncoderLayer,
    MatrixProducts,
    MultiHeadAttention,
    SinusoidalPositions,
    Transformer,
    TransformerConfig,
    attention_weights,
    causal_mask,
    padding_mask,
    sinusoids,
)


def products(run: Any) -> int:
    with MatrixProducts() as counter, torch.no_grad():
        run()
    return counter.total


def small(**changes: Any) -> Transformer:
    sizes = {"d_model": 16, "heads": 2, "layers": 2, "d_ff": 24, "dropout": 0.0, "max_length": 12}
    return Transformer(TransformerConfig(11, 13, **{**sizes, **changes})).eval()


def tokens(*shape: int, size: int = 11) -> Tensor:
    """Of a vocabulary without its padding token, 0."""
    return torch.randint(1, size, shape)


# torch's modules with our weights


def fill_attention(theirs: nn.MultiheadAttention, ours: MultiHeadAttention) -> None:
    for place, name in enumerate(("query", "key", "value")):
        rows = slice(place * theirs.embed_dim, (place + 1) * theirs.embed_dim)
        heads = [getattr(head, name) for head in ours.heads]
        theirs.in_proj_weight[rows] = torch.cat([head.weight for head in heads])
        theirs.in_proj_bias[rows] = torch.cat([head.bias for head in heads])
    theirs.out_proj.load_state_dict(ours.output.state_dict())


def fill_layer(theirs: Any, ours: EncoderLayer | DecoderLayer) -> None:
    fill_attention(theirs.self_attn, ours.attention)
    arounds = [ours.around_attention, ours.around_feed_forward]
    if isinstance(ours, DecoderLayer):
        fill_attention(theirs.multihead_attn, ours.cross_attention)
        arounds.insert(1, ours.around_cross_attention)
    for place, around in enumerate(arounds, 1):
        getattr(theirs, f"norm{place}").load_state_dict(around.norm.state_dict())
    theirs.linear1.load_state_dict(ours.feed_forward[0].state_dict())
    theirs.linear2.load_state_dict(ours.feed_forward[3].state_dict())


@torch.no_grad()
def torchs(ours: Transformer) -> nn.Transformer:
    """nn.Transformer with our weights; its last norms only where ours has them."""
    config = ours.config
    sizes = {"dim_feedforward": config.d_ff, "dropout": 0.0, "batch_first": True, "norm_first": config.norm_first}
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(config.d_model, config.heads, **sizes), config.layers,
        copy.deepcopy(ours.encoder_norm), enable_nested_tensor=False,
    )  # fmt: skip
    decoder = nn.TransformerDecoder(
        nn.TransformerDecoderLayer(config.d_model, config.heads, **sizes), config.layers, copy.deepcopy(ours.decoder_norm)
    )
    theirs = nn.Transformer(config.d_model, config.heads, custom_encoder=encoder, custom_decoder=decoder, batch_first=True)
    theirs = theirs.to(ours.logits.weight.dtype).train(ours.training)
    for layer, own in zip([*encoder.layers, *decoder.layers], [*ours.encoder, *ours.decoder], strict=True):
        fill_layer(layer, own)  # now, for nn.Transformer draws weights anew
    for theirs_last, own_last in ((encoder.norm, ours.encoder_norm), (decoder.norm, ours.decoder_norm)):
        theirs_last.load_state_dict(own_last.state_dict())
    return theirs


def randomized(module: nn.Module) -> nn.Module:
    """Biases and norms away from where they start, so that a forgotten one shows."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return module


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_torchs(heads: int, masked: bool) -> None:
    ours = randomized(MultiHeadAttention(16, heads)).double()
    theirs = nn.MultiheadAttention(16, heads, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        fill_attention(theirs, ours)
    queries, memory = torch.randn(3, 5, 16, dtype=torch.float64), torch.randn(3, 7, 16, dtype=torch.float64)
    mask = torch.rand(5, 7) < 0.5 if masked else None
    if mask is not None:
        mask[:, 0] = True
    wanted, _ = theirs(queries, memory, memory, attn_mask=None if mask is None else ~mask)
    torch.testing.assert_close(ours(queries, memory, mask), wanted)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("mode", [False, True])
def test_encoder_and_decoder_are_torchs(norm_first: bool, mode: bool) -> None:
    ours = randomized(small(norm_first=norm_first, layers=3)).double().train(mode)
    theirs = torchs(ours)
    source, target = tokens(4, 6), tokens(4, 5)
    source[0, 4:] = target[1, 3:] = 0
    embedded = [
        ours.positions(embedding(each) * 4)
        for embedding, each in ((ours.source_embedding, source), (ours.target_embedding, target))
    ]
    out = theirs(
        *embedded, tgt_mask=~causal_mask(5), src_key_padding_mask=source == 0, memory_key_padding_mask=source == 0,
        tgt_key_padding_mask=target == 0,
    )  # fmt: skip
    torch.testing.assert_close(ours(source, target), ours.logits(out))


def test_gradients_are_torchs() -> None:
    ours = randomized(small()).double()
    theirs = torchs(ours)
    source, target = tokens(2, 6), tokens(2, 5)
    ours(source, target).square().sum().backward()
    embedded = [ours.positions(e(t) * 4) for e, t in ((ours.source_embedding, source), (ours.target_embedding, target))]
    ours.logits(theirs(*embedded, tgt_mask=~causal_mask(5))).square().sum().backward()
    packed = theirs.encoder.layers[0].self_attn.in_proj_weight.grad[16:32]
    torch.testing.assert_close(torch.cat([head.key.weight.grad for head in ours.encoder[0].attention.heads]), packed)


# laws


@pytest.mark.parametrize("norm_first", [False, True])
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 6), st.data())
def test_logits_at_t_do_not_depend_on_later_tokens(norm_first: bool, t: int, data: st.DataObject) -> None:
    model = small(norm_first=norm_first)
    source, target = tokens(2, 5), tokens(2, 8, size=13)
    other = target.clone()
    other[:, t + 1 :] = torch.tensor(data.draw(st.lists(st.integers(0, 12), min_size=7 - t, max_size=7 - t)), dtype=torch.int64)
    assert torch.equal(model(source, target)[:, : t + 1], model(source, other)[:, : t + 1])


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("more", [1, 4])
def test_padding_changes_nothing(norm_first: bool, more: int) -> None:
    model = small(norm_first=norm_first).double()
    source, target = tokens(3, 5), tokens(3, 4)
    longer = [torch.cat([each, each.new_zeros(3, more)], 1) for each in (source, target)]
    torch.testing.assert_close(model(*longer)[:, :4], model(source, target))


def test_what_stands_at_padded_places_is_never_seen() -> None:
    model = small()
    source, target = tokens(2, 6), tokens(2, 4)
    source[:, 4:] = 0
    before = model(source, target)
    with torch.no_grad():
        model.source_embedding.weight[0] = 1e3
    assert torch.equal(model(source, target), before)


def test_without_a_padding_token_zero_is_a_token_like_others() -> None:
    model, source = small(padding=None), torch.zeros(1, 3, dtype=torch.int64)
    memory, mask = model.encode(source)
    assert mask is None
    assert not torch.allclose(model(source, tokens(1, 3)), small()(source, tokens(1, 3)))
    assert memory.shape == (1, 3, 16)


def test_rows_of_padding_alone_are_finite() -> None:
    model, nothing = small(), torch.zeros(2, 4, dtype=torch.int64)
    assert model(nothing, nothing).isfinite().all()


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.data())
@settings(max_examples=40, deadline=None)
def test_attention_weights(d: int, n: int, m: int, data: st.DataObject) -> None:
    queries, keys = torch.randn(2, n, d, dtype=torch.float64), torch.randn(2, m, d, dtype=torch.float64)
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=n * m, max_size=n * m))).view(n, m)
    weights = attention_weights(queries, keys, mask)
    assert not weights[:, ~mask].any()
    torch.testing.assert_close(weights.sum(-1), mask.any(-1).double().expand(2, n))
    scores = np.exp(queries.numpy() @ keys.numpy().transpose(0, 2, 1) / math.sqrt(d)) * mask.numpy()
    np.testing.assert_allclose(weights.numpy(), scores / np.maximum(scores.sum(-1, keepdims=True), 1e-300), atol=1e-12)


def test_masks() -> None:
    assert causal_mask(3).tolist() == [[True, False, False], [True, True, False], [True, True, True]]
    assert padding_mask(torch.tensor([[4, 0, 2], [1, 3, 0]]), 0).tolist() == [[[True, False, True]], [[True, True, False]]]


# positions


def test_sinusoids_by_hand() -> None:
    table = sinusoids(50, 8)
    for position, column in ((0, 0), (3, 0), (7, 5), (49, 6)):
        angle = position / 10_000 ** (2 * (column // 2) / 8)
        assert table[position, column].item() == pytest.approx((math.sin, math.cos)[column % 2](angle))
    assert (table.shape, table.dtype) == ((50, 8), torch.float64)


@pytest.mark.parametrize("width", [2, 16, 64])
def test_their_gram_matrix_depends_on_the_distance_alone(width: int) -> None:
    gram = sinusoids(40, width) @ sinusoids(40, width).T
    for distance in range(40):
        diagonal = gram.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    torch.testing.assert_close(gram.diagonal(), torch.full((40,), width / 2, dtype=torch.float64))


@pytest.mark.parametrize("width", [1, 5])
def test_an_odd_width_ends_with_a_sine(width: int) -> None:
    table = sinusoids(6, width)
    assert table.shape == (6, width)
    for position in range(6):
        assert table[position, -1].item() == pytest.approx(math.sin(position / 10_000 ** ((width - 1) / width)))


def test_positions_are_added_and_no_weights() -> None:
    positions, vectors = SinusoidalPositions(8, 10), torch.randn(2, 6, 8)
    torch.testing.assert_close(positions(vectors), vectors + sinusoids(6, 8).float())
    assert not positions.state_dict()
    assert positions.double()(vectors.double()).dtype == torch.float64
    assert torch.equal(positions(vectors[:, :0]), vectors[:, :0])
    with pytest.raises(ParameterError, match=r"^The 'tokens' parameter of SinusoidalPositions must be at most 10 positions long"):
        positions(torch.randn(1, 11, 8))


# matrix products


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("layers", [1, 3])
def test_matrix_products_are_as_counted_on_paper(heads: int, layers: int) -> None:
    model = small(heads=heads, layers=layers)
    source, target = tokens(3, 6), tokens(3, 5)
    memory, seen = model.encode(source)
    assert products(lambda: model.encode(source)) == layers * (5 * heads + 3)
    assert products(lambda: model.decode(target, memory, seen)) == layers * (10 * heads + 4) + 1
    assert products(lambda: model(source, target)) == layers * (15 * heads + 7) + 1 == model.config.products


def test_products_of_the_parts() -> None:
    vectors = torch.randn(2, 5, 16)
    assert products(lambda: AttentionHead(16, 4)(vectors, vectors)) == 5
    assert products(lambda: MultiHeadAttention(16, 4)(vectors, vectors)) == 5 * 4 + 1
    assert products(lambda: EncoderLayer(16, 4, 32)(vectors)) == 5 * 4 + 3
    assert products(lambda: DecoderLayer(16, 4, 32)(vectors, vectors)) == 10 * 4 + 4


def test_module_hooks_miss_two_products_of_each_head() -> None:
    model, calls = small(heads=4), []
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda *_: calls.append(1))
    model(tokens(1, 4), tokens(1, 4))
    assert model.config.products - len(calls) == 2 * 4 * 3 * 2


def test_fused_products_are_torchs_with_each_projection_apart() -> None:
    """torch packs q, k and v of self-attention in one product, and k and v of the other: 2 + 2 + 1 fewer in a pair of layers."""
    model = small(heads=4, layers=3).train()
    theirs, vectors = torchs(model), torch.randn(2, 5, 16)
    found = products(lambda: theirs(vectors, vectors)) + 1
    assert found == model.config.fused_products - 5 * 3


# greedy decoding


class Scripted(Transformer):
    """Answers with the row of a script that a source's first token names."""

    script = torch.tensor([[5, 2, 7, 7], [4, 4, 4, 2]])

    def decode(self, target: Tensor, memory: Tensor, memory_mask: Tensor | None = None) -> Tensor:
        step = target.shape[1] - 1
        rows = self.script[:, min(step, 3)]
        return nn.functional.one_hot(rows, 13).float()[:, None].expand(-1, target.shape[1], -1)


def test_greedy_ends_each_row_at_its_end_token() -> None:
    model = Scripted(TransformerConfig(11, 13))
    source = tokens(2, 3)
    assert model.greedy(source, 1, end=2).tolist() == [[5, 2, 0, 0], [4, 4, 4, 2]]
    assert model.greedy(source, 1, end=2, limit=3).tolist() == [[5, 2, 0], [4, 4, 4]]
    assert model.greedy(source, 1, limit=4).tolist() == [[5, 2, 7, 7], [4, 4, 4, 2]]
    assert model.greedy(source, 1, end=2, limit=0).shape == (2, 0)
    assert model.training


def test_greedy_without_padding_repeats_the_end() -> None:
    model = Scripted(TransformerConfig(11, 13, padding=None))
    assert model.greedy(tokens(2, 3), 1, end=2).tolist() == [[5, 2, 2, 2], [4, 4, 4, 2]]


def test_greedy_writes_the_likeliest_token_given_what_it_wrote() -> None:
    model, source = small(dropout=0.5).train(), tokens(3, 5)
    written = model.greedy(source, 1)
    assert written.shape == (3, 12)
    so_far = torch.cat([torch.ones(3, 1, dtype=torch.int64), written], 1)
    assert torch.equal(model.eval()(source, so_far[:, :-1]).argmax(-1), written)


def test_it_learns_to_copy() -> None:
    torch.manual_seed(1)
    model = Transformer(TransformerConfig(8, 8, d_model=32, heads=2, layers=1, d_ff=64, dropout=0.0, norm_first=True))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(150):
        source = torch.randint(2, 8, (64, 4))
        target = torch.cat([torch.ones(64, 1, dtype=torch.int64), source], 1)
        loss = nn.functional.cross_entropy(model(source, target[:, :-1]).flatten(0, 1), target[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    source = torch.randint(2, 8, (100, 4))
    assert (model.greedy(source, 1, limit=4) == source).all(1).float().mean() > 0.95


# initialisation and errors


def test_weights_start_as_documented() -> None:
    model = Transformer(TransformerConfig(200, 300, d_model=64, heads=4))
    head = model.encoder[0].attention.heads[0].query
    bound = math.sqrt(6 / (64 + 16))
    assert 0.9 * bound < head.weight.abs().max() <= bound
    assert not any(module.bias.any() for module in model.modules() if isinstance(module, nn.Linear))
    assert model.source_embedding.weight.std().item() == pytest.approx(64**-0.5, rel=0.05)
    assert torch.equal(model.encoder[1].around_attention.norm.weight, torch.ones(64))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, r"^The 'heads' parameter of TransformerConfig must be a divisor of d_model, 64. Got 3 instead\.$"),
        ({"layers": 0}, r"^The 'layers' parameter of TransformerConfig must be an int of at least 1. Got 0 instead\.$"),
        ({"d_ff": 2.0}, r"'d_ff' .* Got 2.0"),
        ({"source_tokens": True}, r"'source_tokens' .* Got True"),
        ({"dropout": 1.0}, r"^The 'dropout' parameter of TransformerConfig must be a number in \[0, 1\). Got 1.0 instead\.$"),
        ({"padding": -1}, r"'padding' .* None or a token, an int of at least 0. Got -1"),
    ],
)
def test_bad_hyperparameters(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        TransformerConfig(**{"source_tokens": 10, "target_tokens": 10, **changes})


@pytest.mark.parametrize(("d_model", "heads"), [(16, 3), (16, 0), (0, 1)])
def test_heads_that_do_not_divide(d_model: int, heads: int) -> None:
    with pytest.raises(ParameterError, match=r"^The 'heads' parameter of MultiHeadAttention must be at least 1, and a divisor"):
        MultiHeadAttention(d_model, heads)


def test_tokens_of_another_shape_or_too_long() -> None:
    model = small()
    with pytest.raises(ParameterError, match=r"^The 'tokens' parameter of Transformer must be of shape \(b, n\). Got \(4,\)"):
        model(tokens(4), tokens(1, 4))
    with pytest.raises(ParameterError, match=r"at most 12 positions long. Got 13 instead"):
        model(tokens(1, 13), tokens(1, 4))
