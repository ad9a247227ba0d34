"""Denormal numbers, the least that a floating-point type has, are numbers here, whatever a thread was told before.

`torch.set_flush_denormal(True)` lets the processor take them for zero: in the thread that says so and in threads that it starts
later, not in others. Then a codebook of such numbers would hold zeros, a tensor would lose weights without a word, and a file
would depend on the number of threads. So whoever reduces, compares or decodes numbers does it within `denormals_kept`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_LEAST, _ONE = 5e-324, 1.0  # variables, so that the product is not calculated by the compiler


def are_flushed() -> bool:
    """Whether this thread takes denormal numbers for zero."""
    return _LEAST * _ONE == 0.0


@contextmanager
def denormals_kept() -> Iterator[None]:
    """This thread calculates with denormal numbers; afterwards it does what it did before. Also a decorator.

    It is torch that switches: where torch is not imported, nothing of ours or of torch's has flushed them.
    """
    torch = sys.modules.get("torch")
    if torch is None or not are_flushed():
        yield
        return
    torch.set_flush_denormal(False)
    try:
        yield
    finally:
        torch.set_flush_denormal(True)
