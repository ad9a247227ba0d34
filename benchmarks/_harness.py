"""What every benchmark does alike: time two things in turns, say the ratio with its spread, keep it as JSON, draw it.

    bench = Bench("kmeans", __doc__)                     # reads --tiny, --repeats, --out
    pair = bench.time(ours, theirs)                      # medians of interleaved runs; what the last run of each returned
    bench.at_least(300, "k-means, 4 M weights", "scikit-learn", pair)     # a row: they take 300 times as long, or more
    bench.at_most(6, "k-means", "numpy.sort", other)     # a row: we take 6 times as long, or less
    bench.measured(4, "compress", "4 s", seconds, "s")   # a row of plain values instead of a ratio: at most 4
    bench.finish()                                       # prints the table, writes NAME.json and NAME.png

Where the limit is None, a row is shown and promises nothing.

A benchmark checks its results itself, in the same run, and raises where they are wrong: a fast wrong answer has no row.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from _show import draw, table_of
from rich.console import Console

from deepcompress.coding.pool import thread_count

RESULTS = Path(__file__).parent / "results"
_VERSIONED = (
    "numpy", "numba", "torch", "zstandard", "bitarray", "dahuffman", "constriction", "scikit-learn", "kmeans1d",
    "safetensors", "zipnn", "openzl", "torchvision",
)  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """Seconds of each run of two things that were run in turns, and what each returned last."""

    ours: list[float]
    theirs: list[float]
    our_result: Any = None
    their_result: Any = None

    @property
    def speedups(self) -> list[float]:
        """How many times as long they took, run by run."""
        return [them / us for us, them in zip(self.ours, self.theirs, strict=True)]

    def scaled(self, factor: float) -> Pair:
        """Theirs as if they had had `factor` times the work: for slow ones, which are given less of it."""
        return replace(self, theirs=[factor * seconds for seconds in self.theirs])


@dataclass(frozen=True)
class Row:
    """One line of the table. `ratio` and `spread` (lowest, highest) are of what `limit` speaks of."""

    what: str
    against: str
    sense: str  # "at least", "at most" or "" where nothing is promised
    limit: float | None
    ratio: float
    spread: tuple[float, float]
    ours: str = ""
    theirs: str = ""
    note: str = ""

    @property
    def met(self) -> bool | None:
        if self.limit is None:
            return None
        return self.ratio >= self.limit if self.sense == "at least" else self.ratio <= self.limit


@dataclass
class Bench:
    """A benchmark's settings, its rows, and its end."""

    name: str
    doc: str | None
    arguments: list[str] | None = None
    extra: Callable[[argparse.ArgumentParser], None] | None = None
    rows: list[Row] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)  # whatever else the JSON is to keep

    def __post_init__(self) -> None:
        parser = argparse.ArgumentParser(description=self.doc, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--tiny", action="store_true", help="sizes that only show that it runs; the figures mean nothing")
        parser.add_argument("--repeats", type=int, default=5, help="runs of each; the medians count (default: 5)")
        parser.add_argument("--out", type=Path, default=RESULTS, help="folder for JSON and plot")
        if self.extra is not None:
            self.extra(parser)
        self.options = parser.parse_args(self.arguments)
        self.tiny: bool = self.options.tiny
        self.repeats: int = 1 if self.tiny else self.options.repeats

    def size(self, full: int) -> int:
        """`full`, or what is enough to show that it runs."""
        return max(full // 1000, 4096) if self.tiny else full

    def unless_missing(self, module: str, work: Callable[[], object]) -> None:
        """Do `work` where `module` is installed; else say that its rows are missing."""
        if importlib.util.find_spec(module) is None:
            print(f"{module} is not installed: no rows against it (pip install 'deepcompress[bench]')")
            self.data.setdefault("missing", []).append(module)
        else:
            work()

    def time(
        self,
        ours: Callable[[], Any],
        theirs: Callable[..., Any],
        repeats: int | None = None,
        warm: int = 1,
        fresh: Callable[[], Any] | None = None,
    ) -> Pair:
        """Run both in turns, after `warm` runs of each that do not count.

        `fresh` makes what each run of theirs is called with, outside the clock: for those that overwrite their input.
        """

        def given() -> Callable[[], Any]:
            return theirs if fresh is None else partial(theirs, fresh())

        for _ in range(warm):
            ours(), given()()
        pair = Pair([], [])
        found: Any = None
        other: Any = None
        for _ in range(repeats or self.repeats):
            found = other = None  # memory goes back before the clock starts
            found = _clock(ours, pair.ours)
            other = _clock(given(), pair.theirs)
        return Pair(pair.ours, pair.theirs, found, other)

    def at_least(
        self, limit: float | None, what: str, against: str, pair: Pair, rate: tuple[float, str] | None = None, note: str = ""
    ) -> None:
        """They must take `limit` times as long as we do, or longer. `rate` is (amount per run, unit) for the columns."""
        self._add(_row("at least", limit, what, against, pair.speedups), pair, rate, note)

    def at_most(
        self, limit: float | None, what: str, against: str, pair: Pair, rate: tuple[float, str] | None = None, note: str = ""
    ) -> None:
        """We must take at most `limit` times as long as they do."""
        self._add(_row("at most", limit, what, against, [1 / ratio for ratio in pair.speedups]), pair, rate, note)

    def measured(self, limit: float | None, what: str, against: str, values: list[float], unit: str, note: str = "") -> None:
        """The values themselves, of which the median must be at most `limit`: seconds, bytes, a ratio of them."""
        row = _row("at most", limit, what, against, values)
        self.rows.append(replace(row, ours=f"{row.ratio:.3g} {unit}".strip(), note=note))

    def figure(self, row: Row) -> None:
        """A row that is put together elsewhere."""
        self.rows.append(row)

    def _add(self, row: Row, pair: Pair, rate: tuple[float, str] | None, note: str) -> None:
        ours, theirs = (_rate(statistics.median(seconds), rate) for seconds in (pair.ours, pair.theirs))
        self.rows.append(replace(row, ours=ours, theirs=theirs, note=note))

    def finish(self) -> list[Row]:
        """Print the table, write the JSON, draw the plot."""
        self.options.out.mkdir(parents=True, exist_ok=True)
        Console(width=150).print(table_of(self.rows, f"{self.name}{' (tiny: figures mean nothing)' if self.tiny else ''}"))
        kept = {
            "benchmark": self.name, "tiny": self.tiny, "repeats": self.repeats, "machine": machine(),
            "rows": [{**asdict(row), "met": row.met} for row in self.rows], **self.data,
        }  # fmt: skip
        (self.options.out / f"{self.name}.json").write_text(json.dumps(kept, indent=1) + "\n")
        draw(self.rows, self.options.out / f"{self.name}.png", self.name)
        return self.rows


def _row(sense: str, limit: float | None, what: str, against: str, ratios: list[float]) -> Row:
    """A row without its columns of plain figures."""
    return Row(what, against, sense if limit is not None else "", limit, statistics.median(ratios), (min(ratios), max(ratios)))


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "processor": _processor(), "threads": thread_count(), "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(), "date": time.strftime("%Y-%m-%d"),
        "versions": {name: version for name in ("deepcompress", *_VERSIONED) if (version := _version(name))},
    }  # fmt: skip


def _clock(work: Callable[[], Any], seconds: list[float]) -> Any:
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - start)
    finally:
        gc.enable()
    return result


def _rate(seconds: float, rate: tuple[float, str] | None) -> str:
    if rate is not None:
        return f"{rate[0] / seconds:,.0f} {rate[1]}"
    return f"{seconds:.3f} s" if seconds >= 0.1 else f"{1e3 * seconds:.2f} ms"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor() or "unknown"
