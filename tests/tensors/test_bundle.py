"""A tree of plain data and tensors comes back as it was; whatever else it holds, or the file is, has its words."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import deepcompress as dc
from deepcompress.errors import FormatError, ParameterError, StorageError
from deepcompress.tensors.build import Extras, write_model
from deepcompress.tensors.bundle import read_bundle, write_bundle
from deepcompress.tensors.compressed import DenseTensor
from deepcompress.tensors.streams import Encoding
from tests.pipeline.samples import raw

TEXT = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(["!", "tree", "..", "a/b", "0", ""])
NUMBERS = st.integers() | st.floats() | st.booleans() | st.none()
TENSORS = st.sampled_from(
    [
        torch.arange(6).reshape(2, 3), torch.tensor(1.5), torch.zeros(0, 3), torch.tensor([True, False]),
        torch.ones(2).bfloat16(), torch.tensor([math.nan, -0.0, 1e-40]), torch.ones(3, 4).t(), torch.tensor(2 + 1j),
        torch.get_rng_state()[:40],
    ]
)  # fmt: skip
ARRAYS = st.sampled_from([np.arange(5, dtype=np.uint32), np.float32(0.1), np.zeros((0, 2)), np.array([np.nan, -0.0])])
KEYS = TEXT | st.integers() | st.tuples(st.integers(), TEXT)


def of(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    items = st.lists(children, max_size=3)
    counters = st.dictionaries(st.integers(), st.integers(), max_size=3).map(Counter)
    return items | items.map(tuple) | st.dictionaries(KEYS, children, max_size=3) | counters


TREES = st.recursive(NUMBERS | TEXT | TENSORS | ARRAYS, of, max_leaves=12)


def same(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and raw(left) == raw(right)
    if isinstance(left, (np.ndarray, np.generic)):
        bits = left.dtype, left.shape, left.tobytes()
        return type(left) is type(right) and bits == (right.dtype, right.shape, right.tobytes())
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return repr(left) == repr(right)  # of floats: NaN, and the sign of zero


@given(TREES)
@settings(max_examples=150, deadline=None)
def test_a_tree_comes_back(tmp_path_factory: pytest.TempPathFactory, tree: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "tree.dcz"
    write_bundle(path, tree)
    assert same(read_bundle(path), tree)


def test_a_mapping_of_another_kind_comes_back_as_a_dict(tmp_path: Path) -> None:
    write_bundle(tmp_path / "a", OrderedDict(a=1, b=(2,)))
    assert read_bundle(tmp_path / "a") == {"a": 1, "b": (2,)}


def test_tensors_are_named_by_the_way_to_them(tmp_path: Path) -> None:
    write_bundle(tmp_path / "a", {"optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}, "..": torch.zeros(1)})
    assert sorted(dc.open(tmp_path / "a")) == ["1", "optimizer/state/0/exp_avg", "tree"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (object(), "a checkpoint cannot hold a/0/b, which is of type object"),
        (len, "a checkpoint cannot hold a/0/b, which is of type builtin_function_or_method"),
        (b"x", "a checkpoint cannot hold a/0/b, which is of type bytes"),
        (np.array(["x"]), "a checkpoint cannot hold a/0/b: dtype <U1 cannot be stored"),
        (torch.eye(2).to_sparse(), "a checkpoint cannot hold a/0/b: "),
        (torch.ones(2, device="meta"), "a checkpoint cannot hold a/0/b: "),
    ],
)
def test_what_it_cannot_hold_is_named_and_nothing_is_written(value: Any, text: str, tmp_path: Path) -> None:
    with pytest.raises(ParameterError) as caught:
        write_bundle(tmp_path / "a", {"a": [{"b": value}]})
    assert str(caught.value).startswith(text)
    assert not list(tmp_path.iterdir())


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.dcz"
    dc.Pipeline([("encode", dc.HuffmanEncode())]).run(torch.nn.Linear(2, 2)).compressed.save(path)
    with pytest.raises(FormatError, match=r"a\.dcz is a \.dcz file, but not a checkpoint"):
        read_bundle(path)
    with pytest.raises(StorageError):
        read_bundle(tmp_path / "b")


@pytest.mark.parametrize(
    "text",
    ["{", '{"!": "tensor", "name": "b"}', '{"!": "code"}', '{"!": "dict"}', '{"!": "dict", "items": [[{}, 1]]}', "[" * 10**5],
)
def test_a_broken_tree_is_refused(text: str, tmp_path: Path) -> None:
    tree = DenseTensor(np.frombuffer(text.encode(), np.uint8), "uint8", "uint8")
    with (tmp_path / "a").open("wb") as file:
        write_model(file, [("tree", tree)], Encoding(), Extras({"kind": "deepcompress bundle"}))
    with pytest.raises(FormatError, match=r"a: the tree of a checkpoint is broken: "):
        read_bundle(tmp_path / "a")
