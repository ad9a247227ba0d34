"""The stages that a search tries: lists, to which a stage is added in one line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from deepcompress.errors import ParameterError
from deepcompress.pipeline.stage import Stage
from deepcompress.pipeline.stages import AffineQuantize, ContextEncode, Lossless, RateQuantize, RateRetrain

__all__ = ["Plan", "calibrated_plan", "grid_plan", "lossless_plan", "rate_plan"]

Plan = list[tuple[str, Stage]]

_RATE = {"lr": 1e-3, "scheduler": "onecycle", "scheduler_options": {"pct_start": 0.051}}  # 0.05: torch divides by 0 at 20 steps
_FEWEST_LEVELS, _FEW_BITS = 3, 1.5


def rate_plan(bits: float, epochs: int, settings: Mapping[str, Any]) -> Plan:
    """Training for the coder towards so many bits per weight.

    Args:
        settings: other arguments of RateRetrain.

    Raises:
        ParameterError: `settings` holds one that it does not have, or a value out of its range.
    """
    given = {**_RATE, "levels": _levels(bits), **settings, "bits": bits, "epochs": epochs}
    if not epochs:  # quantized as it came: for a look at the file
        given |= {"scheduler": "constant", "scheduler_options": {}}
    try:
        rate = RateRetrain(**given)
    except TypeError as error:
        raise ParameterError(f"compress: settings: {str(error).replace('RateRetrain.__init__()', 'RateRetrain')}") from None
    return [("rate", rate), _encode()]


def grid_plan(widths: Mapping[str, int]) -> Plan:
    """Rounding without training: weight name -> bits."""
    quantize: Plan = [("quantize", AffineQuantize(bits=dict(widths)))] if widths else []
    return [*quantize, _encode()]


def calibrated_plan(bits: float) -> Plan:
    """So many bits per weight without training, by what the inputs of the run say of the weights."""
    return [("quantize", RateQuantize(bits=bits)), _encode()]


def lossless_plan() -> Plan:
    """The last resort: nothing is lost."""
    return [("lossless", Lossless())]


def _encode() -> tuple[str, Stage]:
    return "encode", ContextEncode(leftovers="float16")


def _levels(bits: float) -> int:
    """On each side of zero: a few more than so many bits can tell apart."""
    return _FEWEST_LEVELS if bits <= _FEW_BITS else min(2 ** math.ceil(bits + 2 - _FEW_BITS) - 1, 127)
