"""The model's way through the stages, and what else the report says besides the file's bits."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import torch

from deepcompress.pipeline.assemble import count_nonzero
from deepcompress.pipeline.selection import floating_weights
from deepcompress.pipeline.state import Measure, State
from deepcompress.report.rows import StageRow
from deepcompress.tensors.codebook import Codebook
from deepcompress.tensors.model import INFERENCE
from deepcompress.training.seeds import generators_kept
from deepcompress.training.snapshot import mode_kept
from deepcompress.version import __version__


class Journal:
    """The rows of the report's way through the stages, taken while they run."""

    def __init__(self, evaluate: Measure | None) -> None:
        self._evaluate = evaluate
        self.entries: list[tuple[dict[str, Any], dict[str, int]]] = []  # plain data, which a checkpoint keeps

    def note(self, name: str, kind: str, state: State, seconds: float) -> None:
        """Take the row of the stage that led to `state`, all but the accuracy."""
        zeros = {key: weight.numel() - count_nonzero(weight) for key, weight in floating_weights(state.model).items()}
        row = {"name": name, "kind": kind, "seconds": seconds, "accuracy": None, "notes": state.notes}
        self.entries.append((row, zeros))

    def measure(self, state: State) -> None:
        """Ask `evaluate` for the accuracy of the last row."""
        self.entries[-1][0]["accuracy"] = self._accuracy(state)

    def rows(self, final: State) -> tuple[StageRow, ...]:
        """Sparsity is over the weights that are pruned or share values in the end."""
        weights = floating_weights(final.model)
        chosen = [name for name in weights if name in final.masks or name in final.codebooks]
        total = max(sum(weights[name].numel() for name in chosen), 1)
        return tuple(
            StageRow(**row, sparsity=sum(zeros.get(name, 0) for name in chosen) / total) for row, zeros in self.entries
        )

    def _accuracy(self, state: State) -> float | None:
        if self._evaluate is None:
            return None
        model = state.module("evaluate")
        with mode_kept(model), generators_kept(), torch.no_grad():  # it only looks: nothing after it may depend on it
            return float(self._evaluate(model.eval()))


def storage_notes(state: State) -> tuple[str, ...]:
    """What a reader of the report must know about how values are stored."""
    notes = [INFERENCE] if state.inference else []
    books = [book for book in state.codebooks.values() if isinstance(book, Codebook)]
    if halves := [book for book in books if book.centroids.dtype == np.float16]:
        count = f"{len(halves)} of {len(books)} codebooks"
        notes.append(f"{count} are stored as float16; their centroids were rounded to it.")
    if state.stored:
        notes.append(f"{len(state.stored)} tensors without a codebook are stored as float16; their values were rounded to it.")
    return tuple(notes)


def environment() -> dict[str, str]:
    """What a compression ran with: versions, and the machine's kind and threads."""
    return {
        "deepcompress": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }
