"""What counts as one matrix product."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from deepcompress.nn import MatrixProducts

A, B, V = torch.randn(3, 3), torch.randn(2, 3, 3), torch.randn(3)

CASES: dict[str, tuple[Callable[[], object], int]] = {
    "mm": (lambda: A @ A, 1),
    "transposed": (lambda: A @ A.T, 1),
    "matrix and vector": (lambda: A @ V, 1),
    "batch": (lambda: B @ B, 1),
    "batch and matrix": (lambda: B @ A, 1),
    "einsum": (lambda: torch.einsum("bij,bjk->bik", B, B), 1),
    "chain": (lambda: torch.linalg.multi_dot([A, A, A]), 2),
    "linear layer": (lambda: nn.Linear(3, 5)(A), 1),
    "without bias": (lambda: nn.Linear(3, 5, bias=False)(B), 1),
    "linear layer on a batch": (lambda: nn.Linear(3, 5)(B), 1),
    "bilinear form": (lambda: torch.baddbmm(B, B, B), 1),
    "attention": (lambda: F.scaled_dot_product_attention(B[None], B[None], B[None]), 2),
    "elementwise": (lambda: A * A + A.softmax(-1).sum(), 0),
    "convolution": (lambda: nn.Conv2d(1, 2, 3)(torch.randn(1, 1, 4, 4)), 0),
    "nothing": (lambda: None, 0),
}


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_one_product(name: str, mode: type) -> None:
    run, expected = CASES[name]
    with mode(), MatrixProducts() as products:
        run()
    assert products.total == expected


def test_a_backward_pass_counts_where_it_is_within() -> None:
    weight = torch.randn(3, 3, requires_grad=True)
    with MatrixProducts() as products:
        loss = (torch.randn(2, 3, requires_grad=True) @ weight).sum()
    assert products.total == 1
    with products:
        loss.backward()
    assert products.total == 1 + 2


def test_calls_by_operator_and_results_unchanged() -> None:
    layer = nn.Linear(3, 4)
    expected = layer(A) @ layer.weight
    with MatrixProducts() as products:
        found = layer(A) @ layer.weight
    assert torch.equal(found, expected)
    assert dict(products.calls) == {"addmm": 1, "mm": 1}
    assert torch.equal(A @ A, torch.mm(A, A))
    assert products.total == 2
