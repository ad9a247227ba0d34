"""How many weights learn."""

from __future__ import annotations

from torch import nn


def trainable_parameters(module: nn.Module) -> tuple[int, int]:
    """Scalars that require gradients, and all of them; a tied parameter counts once, buffers never.

    Returns:
        (trainable, all).
    """
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in module.parameters()]
    return sum(size for size, learns in sizes if learns), sum(size for size, _ in sizes)
