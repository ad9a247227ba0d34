"""The one way in which loops are compiled: at their first call, without the GIL, kept on disk where that is possible."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def jit(function: F) -> F:
    """Compile `function` for each new combination of argument types, at the call that brings it.

    Compiled code is kept where numba finds a writable folder (`NUMBA_CACHE_DIR`, beside the source, the user's own); where
    there is none, or the disk is full, it lives as long as the process.
    """
    try:
        compiled: Any = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # "cannot cache function: no locator available"
        compiled = numba.njit(nogil=True)(function)
    _save_if_possible(compiled)
    return cast(F, compiled)


def inline(function: F) -> F:
    """Make `function` a part of the compiled functions of its own file that call it.

    A call would cost more than the few instructions that such a part is: numba counts references to its array arguments. Only
    within one file, as compiled code is kept until its own file changes.
    """
    return cast(F, numba.njit(nogil=True, inline="always")(function))


def _save_if_possible(compiled: Any) -> None:
    """A folder that was writable at import may be full or gone at the call, and numba would raise OSError from there."""
    cache = getattr(compiled, "_cache", None)
    save = getattr(cache, "save_overload", None)
    if cache is None or save is None:  # numba's own business: without it, only the protection is missing
        return

    def save_overload(*args: Any) -> None:
        with contextlib.suppress(OSError):
            save(*args)

    cache.save_overload = save_overload
