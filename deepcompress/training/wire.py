"""Many tensors as few long ones, as they travel between processes; and their bits in short, to compare."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

_PIECE = 32 << 20  # bytes that travel at once


def is_dense(tensor: Tensor) -> bool:
    """Whether each element has a place of its own, to be written to."""
    if tensor.layout != torch.strided:
        return False
    return all(step or size < 2 for size, step in zip(tensor.shape, tensor.stride(), strict=True))


def exchange_in_pieces(tensors: Iterable[Tensor], exchange: Callable[[Tensor], object], *, as_bytes: bool = False) -> None:
    """Let `exchange` change one long tensor after another, and write the outcome back.

    Args:
        tensors: dense ones.
        exchange: changes a flat tensor in place.
        as_bytes: whatever their dtypes, show them as uint8.
    """
    with torch.no_grad():
        for piece in _pieces(tensors, as_bytes):
            flat = torch.cat([_flat(tensor, as_bytes) for tensor in piece])
            exchange(flat)
            parts = flat.split([_flat(tensor, as_bytes).numel() for tensor in piece])
            for tensor, part in zip(piece, parts, strict=True):
                values = part.clone().view(tensor.dtype) if as_bytes else part  # a view wants to begin at a multiple of its width
                tensor.copy_(values.view(tensor.shape))


def _pieces(tensors: Iterable[Tensor], as_bytes: bool) -> Iterator[Sequence[Tensor]]:
    """Tensors that go together: of one device, and one dtype unless they travel as bytes."""
    waiting: dict[tuple[torch.device, torch.dtype | None], list[Tensor]] = {}
    for tensor in tensors:
        key = tensor.device, None if as_bytes else tensor.dtype
        piece = waiting.setdefault(key, [])
        piece.append(tensor)
        if sum(map(_bytes, piece)) >= _PIECE:
            yield waiting.pop(key)
    yield from waiting.values()


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _flat(tensor: Tensor, as_bytes: bool) -> Tensor:
    flat = tensor.detach().reshape(-1).contiguous()
    return flat.view(torch.uint8) if as_bytes else flat


def digest_of(tensor: Tensor) -> str:
    """A fingerprint of a tensor's bits."""
    if not is_dense(tensor):
        tensor = tensor.detach().to_dense().contiguous()
    content = _flat(tensor, True).cpu().numpy()
    return hashlib.blake2b(content.data, digest_size=16).hexdigest()
