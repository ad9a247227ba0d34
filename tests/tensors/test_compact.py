"""Compact files: the same tensors in fewer bytes, constants for next to nothing, steps for two bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import deepcompress as dc
from deepcompress.container.layout import DTYPES, NARROWER
from deepcompress.errors import FormatError
from deepcompress.models import resnet20
from deepcompress.tensors.affine import AffineTensor
from deepcompress.tensors.build import Extras
from deepcompress.tensors.compressed import DenseTensor
from deepcompress.tensors.model import CompressedModel
from deepcompress.tensors.streams import Encoding
from tests.attacks.compact import HEAD, levels
from tests.reference.writer import Entry, Parts, Raw, build
from tests.tensors import samples

COMPACT = Encoding("context", compact=True)


@settings(max_examples=40, deadline=None)
@given(samples.models(), st.sampled_from(["huffman", "fixed", "context"]))
def test_the_same_tensors(tensors: samples.Named, coder: str) -> None:
    extras = Extras({"a": "b"}, {"stages": []}, inference=True)
    data = samples.to_file(tensors, Encoding(coder, compact=True), extras)
    model = dc.load(data, framework="numpy")
    model.verify()
    assert model.version == (1, 4)
    assert (model.metadata, model.recipe, model.inference) == ({"a": "b"}, {"stages": []}, True)
    assert {name: array.tobytes() for name, array in model.numpy().items()} == {
        name: data for name, (_, _, data) in samples.dense_values(tensors).items()
    }
    assert model.bits.file.total == 8 * len(data)
    assert len(data) <= len(samples.to_file(tensors, Encoding(coder, one_offset=True), extras)) + 4


@pytest.mark.parametrize("dtype", [kind.name for kind in DTYPES])
@pytest.mark.parametrize("place", [0, 3])
def test_equal_elements_have_no_section(dtype: str, place: int) -> None:
    value = samples.weights(dtype, (9,), 5).reshape(-1)[place : place + 1]
    for one in (value, np.zeros_like(value)):
        tensor = DenseTensor(np.repeat(one, 12).reshape(3, 4), dtype, dtype)
        small, large = (samples.to_file([("w", each)], COMPACT) for each in (tensor, DenseTensor(one, dtype, dtype)))
        model = dc.load(small, framework="numpy")
        (row,) = model.inspect()["tensors"]
        assert (row["representation"], row["bytes"], row["codec"]) == ("constant", 0, None)
        assert model["w"].tobytes() == np.repeat(one, 12).tobytes()
        assert model["w"].shape == (3, 4)
        assert abs(len(small) - len(large)) <= 1  # another shape, and no more


@pytest.mark.parametrize(
    ("dtype", "value", "stored"),
    [
        ("float32", 1.0, "float16"), ("float32", 2.0**100, "bfloat16"), ("float32", 0.1, "float32"), ("float32", -0.0, "float16"),
        ("float64", 1e-300, "float64"), ("float64", 0.1, "float64"), ("float64", np.inf, "float16"), ("int64", 128, "int16"),
        ("float32", np.nan, "float32"),
    ],
)  # fmt: skip
def test_the_one_value_in_its_narrowest_type(dtype: str, value: float, stored: str) -> None:
    tensor = DenseTensor(np.full(7, value, dtype), dtype, dtype)
    model = CompressedModel(samples.to_file([("w", tensor)], COMPACT), framework="numpy")
    assert model.records[0].stored == stored
    assert stored == dtype or stored in NARROWER[dtype]
    assert model["w"].tobytes() == np.full(7, value, dtype).tobytes()


def test_bookkeeping_of_norms_takes_next_to_nothing() -> None:
    """57 tensors of constants take less than a byte and a half each: records, names and all."""
    torch.manual_seed(0)
    module = resnet20()
    result = dc.Pipeline([("fold", dc.FoldNorm()), ("encode", dc.HuffmanEncode())]).run(module)
    state = result.model.state_dict()
    kept = {name: tensor for name, tensor in state.items() if not name.endswith(("mean", "var", "tracked"))}
    named: list[list[tuple[str, Any]]] = [
        [(name, DenseTensor(tensor.numpy(), str(tensor.dtype)[6:], str(tensor.dtype)[6:])) for name, tensor in tensors.items()]
        for tensors in (state, kept)
    ]
    whole, without = (len(samples.to_file(each, Encoding(compact=True))) for each in named)
    assert len(state) - len(kept) == 57
    assert 0 < whole - without < 85


def test_a_step_takes_two_bytes() -> None:
    symbols = np.random.default_rng(0).choice(7, 600, p=[0.02, 0.02, 0.05, 0.8, 0.05, 0.03, 0.03]).astype(np.uint8)
    scale, offset = np.array([0.037], np.float16), np.array([3], np.int32)
    tensor = AffineTensor((20, 30), "float32", "float16", scale, offset, None, symbols)
    model = CompressedModel(samples.to_file([("w", tensor)], COMPACT), framework="numpy")
    assert (model.records[0].offset, model.bits.tensors[0].codebook) == (3, 16)
    assert model["w"].tobytes() == tensor.to_dense().tobytes()
    below = AffineTensor((20, 30), "float32", "float16", scale, offset - 7, None, symbols)
    assert CompressedModel(samples.to_file([("w", below)], COMPACT)).records[0].offset is None


@pytest.mark.parametrize("numbers", [(4, 0, 0, 0), (0, 65_533, 0, 0), (0, 0, 0, 2)])
def test_levels_that_cannot_be_fail_their_tensor(numbers: tuple[int, ...]) -> None:
    entries = [Entry("w", levels(*numbers), [Raw(b"\0\0\x80?")]), Entry("z", bytes([7, 0, 1, 3]))]
    model = dc.load(build(Parts(entries, head=HEAD)), framework="numpy")
    assert model["z"].tolist() == [0.0] * 3
    with pytest.raises(FormatError, match=r"tensor 'w', values: codec parameters"):
        model["w"]


def test_it_loads_into_a_module() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.BatchNorm1d(4)).eval()
    result = dc.Pipeline([("fold", dc.FoldNorm(4)), ("encode", dc.ContextEncode())]).run(module)
    again = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.BatchNorm1d(4)).eval()
    dc.load(result.compressed.to_bytes()).load_into(again)
    inputs = torch.randn(5, 8)
    assert torch.equal(again(inputs), result.model.eval()(inputs))
