"""Counting the matrix products that run."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

# Operators of torch's that are one product, a batch of equal ones included.
_ONE = frozenset(
    {"mm", "mv", "dot", "vdot", "bmm", "addmm", "addmv", "addbmm", "baddbmm", "linear", "matmul", "_addmm_activation"}
)
_ATTENTION = "_scaled_dot_product"  # a kernel for Q K^T, softmax and the product with V


class MatrixProducts(TorchDispatchMode):
    """Counts matrix products while it is entered: `with MatrixProducts() as products: model(inputs)`, then `products.total`.

    One is whatever torch hands to one kernel as a product of two matrices, or of a matrix and a vector: mm, addmm (a linear
    layer with its bias), bmm and its kin. A batch of equal products is one. A fused attention kernel, which holds Q K^T and the
    product with V, is two. Convolutions are none. It sees what reaches torch, thus `q @ k.T` as well as a layer: hooks on
    modules see layers alone. Those of a backward pass within count too.

    Attributes:
        calls: operator -> products.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """All products so far."""
        return self.calls.total()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        products = 2 if name.startswith(_ATTENTION) else int(name in _ONE)
        if not products:
            with self:  # an operator that is made of others (einsum, in inference mode) shows them
                found = func.decompose(*args, **(kwargs or {}))
            if found is not NotImplemented:
                return found
        else:
            self.calls[name] += products
        return func(*args, **(kwargs or {}))
