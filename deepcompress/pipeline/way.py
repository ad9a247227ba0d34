"""What a pipeline's run has come to, stage by stage, and its form in a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from numpy.typing import NDArray

from deepcompress.pipeline.journal import Journal
from deepcompress.pipeline.selection import floating_weights
from deepcompress.pipeline.state import State
from deepcompress.tensors.affine import AffineGrid
from deepcompress.tensors.codebook import Codebook
from deepcompress.tensors.streams import Encoding
from deepcompress.training.group import tensors_of
from deepcompress.training.history import History
from deepcompress.training.snapshot import write_values

__all__ = ["Way"]

_BOOKS = {"codebook": Codebook, "grid": AffineGrid}


@dataclass
class Way:
    """A run so far.

    Attributes:
        state: what the last stage returned.
        journal: the report's rows.
        before: weight name -> a sample of its values before compression began.
        histories: stage name -> what was measured while it trained.
    """

    state: State
    journal: Journal
    before: dict[str, NDArray[Any]] = field(default_factory=dict)
    histories: dict[str, History] = field(default_factory=dict)

    def as_tree(self) -> dict[str, Any]:
        """Plain data and tensors, as `write_bundle` takes them."""
        state = self.state
        return {
            "model": tensors_of(state.model),
            "masks": dict(state.masks),
            "codebooks": {name: _packed(book) for name, book in state.codebooks.items()},
            "errors": dict(state.errors),
            "stored": dict(state.stored),
            "inference": state.inference,
            "encoding": asdict(state.encoding),
            "notes": state.notes,
            "journal": self.journal.entries,
            "before": self.before,
            "histories": {name: history.as_dict() for name, history in self.histories.items()},
        }

    def take(self, tree: Mapping[str, Any]) -> None:
        """Come to where `as_tree` was called; the model at hand gets the values of then.

        Raises:
            ModelError: the values are those of another model.
        """
        write_values(self.state.model, tree["model"])
        weights = floating_weights(self.state.model)
        self.state = replace(
            self.state,
            masks={name: mask.to(weights[name].device) for name, mask in tree["masks"].items()},
            codebooks={name: _unpacked(book) for name, book in tree["codebooks"].items()},
            errors=tree["errors"],
            stored=tree["stored"],
            inference=tree["inference"],
            encoding=Encoding(**tree["encoding"]),
            notes=tree["notes"],
        )
        self.journal.entries = tree["journal"]
        self.before = tree["before"]
        self.histories = {name: History.from_dict(history) for name, history in tree["histories"].items()}


def _packed(book: Codebook | AffineGrid) -> dict[str, Any]:
    kind = next(kind for kind, made in _BOOKS.items() if isinstance(book, made))
    return {"kind": kind, **vars(book)}


def _unpacked(tree: Mapping[str, Any]) -> Codebook | AffineGrid:
    fields = {name: value for name, value in tree.items() if name != "kind"}
    book: Codebook | AffineGrid = _BOOKS[tree["kind"]](**fields)
    return book
