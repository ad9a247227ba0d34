"""The stages, by the names that they have in a configuration."""

from __future__ import annotations

from deepcompress.pipeline.stage import Stage
from deepcompress.pipeline.stages.encode import HuffmanEncode, Lossless
from deepcompress.pipeline.stages.prune import Prune
from deepcompress.pipeline.stages.quantize import Finetune, KMeansQuantize
from deepcompress.pipeline.stages.retrain import GradualPrune, Retrain

STAGES: dict[str, type[Stage]] = {
    stage.kind: stage for stage in (Prune, GradualPrune, Retrain, KMeansQuantize, Finetune, HuffmanEncode, Lossless)
}

__all__ = ["STAGES", "Finetune", "GradualPrune", "HuffmanEncode", "KMeansQuantize", "Lossless", "Prune", "Retrain"]
