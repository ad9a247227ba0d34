"""Which dimension of a weight its output channels are."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

# Where a weight has its inputs first: the class that torch's three transposed convolutions come from, and GPT-2's linear layer.
_INPUTS_FIRST = {"_ConvTransposeNd", "Conv1D"}


def channel_axis(name: str, weight: Tensor, types: Mapping[str, tuple[str, ...]]) -> int | None:
    """The dimension of a weight's output channels: the second of a transposed convolution's or a `Conv1D`'s (of
    transformers: a linear layer, the other way round), else the first.

    Those of an embedding are its rows. A vector has no channels, for each would be one number; and in a bare state dict, where
    nothing tells transposed convolutions from others, the first dimension is taken.

    Args:
        name, weight: as `named_weights` gives them.
        types: as `layer_types` gives them.
    """
    if weight.ndim < 2:
        return None
    return 1 if _INPUTS_FIRST.intersection(types.get(name, ())) else 0
