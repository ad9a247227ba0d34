"""deepcompress: prune, share weights, entropy-code: any PyTorch model as one small, safe file, and the proof of its size.

    import deepcompress as dc

    pipeline = dc.Pipeline([
        ("prune", dc.Prune("percentile", q=0.6)),
        ("retrain", dc.Retrain(epochs=10, lr=1e-3)),
        ("quantize", dc.KMeansQuantize(bits=5, init="kmeans++")),
        ("encode", dc.HuffmanEncode()),
    ])
    result = pipeline.run(model, train=train_loader, evaluate=accuracy)
    result.compressed.save("model.dcz")
    dc.load("model.dcz").load_into(fresh_model)

Names are handed on when they are first asked for: reading a file needs neither torch nor scikit-learn.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from deepcompress.errors import (
    DeepCompressError,
    FormatError,
    MissingExtraError,
    ModelError,
    ParameterError,
    PipelineError,
    StorageError,
    TrainingError,
    UnsupportedError,
    VersionError,
)
from deepcompress.version import __version__

if TYPE_CHECKING:
    from deepcompress import recipes
    from deepcompress.auto.compress import compress
    from deepcompress.layers.masking import apply_masks, hold_masks
    from deepcompress.pipeline.pipeline import Pipeline, Result
    from deepcompress.pipeline.sensitivity import sensitivity_scan
    from deepcompress.pipeline.stages import (
        AffineQuantize,
        ContextEncode,
        Finetune,
        FoldNorm,
        GradualPrune,
        HuffmanEncode,
        KMeansQuantize,
        Lossless,
        Prune,
        RateQuantize,
        RateRetrain,
        Retrain,
    )
    from deepcompress.quantize.activations import quantize_activations
    from deepcompress.quantize.affine import AffineArray, dequantize_affine, quantize_affine
    from deepcompress.quantize.calibration import Calibration, calibrate
    from deepcompress.quantize.fixed_point.check import check_fixed_point
    from deepcompress.quantize.fixed_point.folding import fold_batch_norm
    from deepcompress.quantize.fixed_point.model import FixedPointModel
    from deepcompress.report.report import Report
    from deepcompress.report.sensitivity import SensitivityTable
    from deepcompress.tensors.codebook import Codebook
    from deepcompress.tensors.model import CompressedModel, load, open
    from deepcompress.training.checkpoint import Checkpoint
    from deepcompress.training.distill import distillation
    from deepcompress.training.distributed import process_group
    from deepcompress.training.history import History
    from deepcompress.training.imagine import imagine_inputs
    from deepcompress.training.loop import fit
    from deepcompress.training.settings import TrainSettings
    from deepcompress.training.trace import profile_trace

_HOMES = {
    "CompressedModel": "tensors.model",
    "load": "tensors.model",
    "open": "tensors.model",
    "Codebook": "tensors.codebook",
    "compress": "auto.compress",
    "AffineArray": "quantize.affine",
    "dequantize_affine": "quantize.affine",
    "quantize_affine": "quantize.affine",
    "apply_masks": "layers.masking",
    "hold_masks": "layers.masking",
    "Pipeline": "pipeline.pipeline",
    "Result": "pipeline.pipeline",
    "AffineQuantize": "pipeline.stages",
    "ContextEncode": "pipeline.stages",
    "Finetune": "pipeline.stages",
    "FoldNorm": "pipeline.stages",
    "GradualPrune": "pipeline.stages",
    "HuffmanEncode": "pipeline.stages",
    "KMeansQuantize": "pipeline.stages",
    "Lossless": "pipeline.stages",
    "Prune": "pipeline.stages",
    "RateQuantize": "pipeline.stages",
    "RateRetrain": "pipeline.stages",
    "Retrain": "pipeline.stages",
    "Calibration": "quantize.calibration",
    "calibrate": "quantize.calibration",
    "check_fixed_point": "quantize.fixed_point.check",
    "fold_batch_norm": "quantize.fixed_point.folding",
    "FixedPointModel": "quantize.fixed_point.model",
    "quantize_activations": "quantize.activations",
    "Report": "report.report",
    "SensitivityTable": "report.sensitivity",
    "sensitivity_scan": "pipeline.sensitivity",
    "Checkpoint": "training.checkpoint",
    "distillation": "training.distill",
    "History": "training.history",
    "TrainSettings": "training.settings",
    "fit": "training.loop",
    "imagine_inputs": "training.imagine",
    "process_group": "training.distributed",
    "profile_trace": "training.trace",
}

__all__ = [
    "AffineArray",
    "AffineQuantize",
    "Calibration",
    "Checkpoint",
    "Codebook",
    "CompressedModel",
    "ContextEncode",
    "DeepCompressError",
    "Finetune",
    "FixedPointModel",
    "FoldNorm",
    "FormatError",
    "GradualPrune",
    "History",
    "HuffmanEncode",
    "KMeansQuantize",
    "Lossless",
    "MissingExtraError",
    "ModelError",
    "ParameterError",
    "Pipeline",
    "PipelineError",
    "Prune",
    "RateQuantize",
    "RateRetrain",
    "Report",
    "Result",
    "Retrain",
    "SensitivityTable",
    "StorageError",
    "TrainSettings",
    "TrainingError",
    "UnsupportedError",
    "VersionError",
    "__version__",
    "apply_masks",
    "calibrate",
    "check_fixed_point",
    "compress",
    "dequantize_affine",
    "distillation",
    "fit",
    "fold_batch_norm",
    "hold_masks",
    "imagine_inputs",
    "load",
    "open",
    "process_group",
    "profile_trace",
    "quantize_activations",
    "quantize_affine",
    "recipes",
    "sensitivity_scan",
]


def __getattr__(name: str) -> Any:
    if name == "recipes":
        return importlib.import_module("deepcompress.recipes")
    if name not in _HOMES:
        raise AttributeError(f"module 'deepcompress' has no attribute {name!r}")
    return getattr(importlib.import_module(f"deepcompress.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
