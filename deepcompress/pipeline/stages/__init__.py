"""The stages, by the names that they have in a configuration."""

from __future__ import annotations

from deepcompress.pipeline.stage import Stage
from deepcompress.pipeline.stages.affine import AffineQuantize
from deepcompress.pipeline.stages.encode import ContextEncode, HuffmanEncode, Lossless
from deepcompress.pipeline.stages.finetune import Finetune
from deepcompress.pipeline.stages.fold import FoldNorm
from deepcompress.pipeline.stages.prune import Prune
from deepcompress.pipeline.stages.quantize import KMeansQuantize
from deepcompress.pipeline.stages.rate import RateRetrain
from deepcompress.pipeline.stages.rate_quantize import RateQuantize
from deepcompress.pipeline.stages.retrain import GradualPrune, Retrain

_PRUNING = (Prune, GradualPrune, Retrain)
_QUANTIZING = (KMeansQuantize, AffineQuantize, RateQuantize, RateRetrain, Finetune, FoldNorm)
_ENCODING = (HuffmanEncode, ContextEncode, Lossless)

STAGES: dict[str, type[Stage]] = {stage.kind: stage for stage in (*_PRUNING, *_QUANTIZING, *_ENCODING)}

__all__ = [
    "STAGES",
    "AffineQuantize",
    "ContextEncode",
    "Finetune",
    "FoldNorm",
    "GradualPrune",
    "HuffmanEncode",
    "KMeansQuantize",
    "Lossless",
    "Prune",
    "RateQuantize",
    "RateRetrain",
    "Retrain",
]
