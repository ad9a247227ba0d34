"""What was measured while training."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EpochRecord:
    """One epoch: mean loss, accuracy on its batches (default loss only), the user's validation measure, sparsity of the masked
    weights, seconds, learning rate at its end."""

    epoch: int
    loss: float
    accuracy: float | None
    validation: float | None
    sparsity: float | None
    seconds: float
    lr: float

    def __str__(self) -> str:
        measured = {"accuracy": self.accuracy, "validation": self.validation, "sparsity": self.sparsity}
        shares = "".join(f", {name} {value:.4f}" for name, value in measured.items() if value is not None)
        return f"epoch {self.epoch}: loss {self.loss:.4f}{shares}, {self.seconds:.0f} s"


@dataclass(frozen=True)
class History:
    """All epochs of a stage, and the one (from 1) that the model ended with."""

    epochs: tuple[EpochRecord, ...] = ()
    kept: int | None = None
