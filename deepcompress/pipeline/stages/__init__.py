"""The stages, by the names that they have in a configuration."""

from __future__ import annotations

from deepcompress.pipeline.stage import Stage
from deepcompress.pipeline.stages.affine import AffineQuantize
from deepcompress.pipeline.stages.encode import ContextEncode, HuffmanEncode, Lossless
from deepcompress.pipeline.stages.finetune import Finetune
from deepcompress.pipeline.stages.prune import Prune
from deepcompress.pipeline.stages.quantize import KMeansQuantize
from deepcompress.pipeline.stages.retrain import GradualPrune, Retrain

STAGES: dict[str, type[Stage]] = {
    stage.kind: stage
    for stage in (Prune, GradualPrune, Retrain, KMeansQuantize, AffineQuantize, Finetune, HuffmanEncode, ContextEncode, Lossless)
}

__all__ = [
    "STAGES",
    "AffineQuantize",
    "ContextEncode",
    "Finetune",
    "GradualPrune",
    "HuffmanEncode",
    "KMeansQuantize",
    "Lossless",
    "Prune",
    "Retrain",
]
