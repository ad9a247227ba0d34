"""Ties are found by memory, not by value or by object."""

from __future__ import annotations

import torch
from torch import nn

from deepcompress.layers.sharing import tied_names


def test_one_parameter_under_two_names_is_tied_to_the_first() -> None:
    weight = torch.randn(3, 4)
    assert tied_names({"a": weight, "b": torch.randn(3, 4), "c": weight}) == {"c": "a"}


def test_equal_values_are_not_tied() -> None:
    weight = torch.randn(3, 4)
    assert tied_names({"a": weight, "b": weight.clone()}) == {}


def test_detached_views_of_one_memory_are_tied() -> None:
    embedding, head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
    head.weight = embedding.weight
    assert tied_names({"head": head.weight.detach(), "emb": embedding.weight.data}) == {"emb": "head"}


def test_other_offset_shape_strides_or_dtype_are_not_tied() -> None:
    square = torch.zeros(4, 4)
    views = {"all": square, "t": square.T, "flat": square.view(16), "row": square[1], "bits": square.view(torch.int32)}
    assert tied_names({**views, "other row": square[2], "row again": square[1]}) == {"row again": "row"}


def test_empty_tensors_never_tie() -> None:
    empty = torch.empty(0, 3)
    assert tied_names({"a": empty, "b": empty}) == {}


def test_tensors_without_memory_tie_as_objects() -> None:
    meta, sparse = torch.empty(2, 2, device="meta"), torch.eye(2).to_sparse()
    tensors = {"m": meta, "n": torch.empty(2, 2, device="meta"), "m2": meta, "s": sparse, "s2": sparse}
    assert tied_names(tensors) == {"m2": "m", "s2": "s"}
