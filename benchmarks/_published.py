"""What others report of the same networks, each with its source, and the goals that have no recipe yet."""

from __future__ import annotations

from dataclasses import dataclass

from deepcompress.recipes import Goal


@dataclass(frozen=True)
class Published:
    """A point of somebody else's: bytes where a file was weighed, else a ratio as its source states it.

    `error` is a share of the test images, None where the source, as far as it was at hand, states none.
    """

    network: str
    who: str
    ratio: float | None
    bytes: int | None
    error: float | None
    source: str

    def size(self, dense_bytes: int) -> float:
        """In bytes; of a ratio, what it makes of ours."""
        return float(self.bytes) if self.bytes is not None else dense_bytes / (self.ratio or 1.0)


PUBLISHED: tuple[Published, ...] = ()

# Rows whose files come from no training: name -> (network, goal).
PLANNED: dict[str, tuple[str, Goal]] = {
    "resnet-20-no-data-91.4": ("resnet20", Goal(bytes=112_900, error=0.086)),
    "resnet-20-no-data-91.1": ("resnet20", Goal(bytes=91_800, error=0.089)),
    "resnet-20-unlabelled-91.4": ("resnet20", Goal(bytes=94_100, error=0.086)),
    "resnet-20-unlabelled-91.1": ("resnet20", Goal(bytes=76_500, error=0.089)),
}
