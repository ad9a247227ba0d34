"""Orders of stages that cannot work are refused when the pipeline is built."""

from __future__ import annotations

from collections.abc import Sequence

from deepcompress.errors import PipelineError
from deepcompress.pipeline.stage import Stage
from deepcompress.training.settings import TrainSettings

# A stage of the phase on the left may not come after one of the phases on the right, and why.
_NEVER_AFTER = {
    "prune": (("quantize", "finetune"), "pruning after weight sharing would score shared values; prune first"),
    "train": (("quantize", "finetune"), "retraining would tear shared weights apart; finetune the centroids instead"),
    "encode": (("encode",), "a file has one encoding"),
}
_NEEDS_BEFORE = {"finetune": ("quantize", "there are no centroids to finetune before weights are shared")}


def check_order(stages: Sequence[tuple[str, Stage]]) -> None:
    """Raise PipelineError naming the first two stages whose order cannot work."""
    seen: dict[str, str] = {}
    folded = ""
    alone = [name for name, stage in stages if stage.phase == "lossless"]
    if alone and len(stages) > 1:
        raise PipelineError(f"stage {alone[0]!r} must be the only one: what loses nothing goes with nothing that changes weights")
    for name, stage in stages:
        later_than, reason = _NEVER_AFTER.get(stage.phase, ((), ""))
        for phase in later_than:
            if phase in seen:
                raise PipelineError(f"stage {name!r} cannot follow {seen[phase]!r}: {reason}")
        if folded and isinstance(stage, TrainSettings) and not stage.frozen_statistics:
            reason = "training would start statistics anew; fold last, or train with frozen_statistics=True"
            raise PipelineError(f"stage {name!r} cannot follow {folded!r}: {reason}")
        folded = name if stage.kind == "fold_norm" else folded
        if "encode" in seen:
            raise PipelineError(f"stage {name!r} cannot follow {seen['encode']!r}: encoding is the last stage")
        needed, reason = _NEEDS_BEFORE.get(stage.phase, ("", ""))
        if needed and needed not in seen:
            raise PipelineError(f"stage {name!r} needs a {needed!r} stage before it: {reason}")
        seen.setdefault(stage.phase, name)
