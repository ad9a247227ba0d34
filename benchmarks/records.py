"""The smallest files: each is loaded into a fresh network and measured on the test images, beside what others report.

    python benchmarks/records.py --data DIR                                   # the table, from benchmarks/records/*.dcz
    python benchmarks/records.py --data DIR --records runs/records --keep     # three seeds, just made: measure, keep the figures
    python benchmarks/records.py --data DIR --dense resnet20=FILE --keep      # a dense network, of which losses count

A file NAME-seedS.dcz belongs to the recipe NAME; `make_record.py` wrote it, and NAME-seedS.json beside it. The test images are
read once for each file. Of the seeds, the one that counts is the median by the error on the validation images of the runs with
--choose (choices.json); what the others reach is in measured.json. A ratio is of the dense state dict's bytes, all of its tensors
as torch has them (float32, and the counts of batch norm as int64), to the bytes of the file, all of it.

Exit status 1 where a file is measured otherwise than measured.json says; a row that is not met is told, not an error.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from _networks import (
    RECORDS,
    dense_bytes,
    error_of_file,
    error_on,
    images,
    load_checkpoint,
    make,
    read_json,
    write_json,
)
from _published import PUBLISHED, Published
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

import deepcompress as dc
from deepcompress.pipeline.points import fingerprint
from deepcompress.recipes import Goal, Recipe

_OTHER_MACHINE = 2.5e-4  # two images of 10,000 at most, by which sums in another order may differ
_FILE = re.compile(r"(.+)-seed(\d+)")


@dataclass(frozen=True)
class Measured:
    """One file: how large it is, and the share of the test images that it classifies wrong."""

    recipe: str
    seed: int
    digest: str  # of the recipe that made it
    dense: str  # fingerprint of the network before compression
    sha256: str
    bytes: int
    error: float


@dataclass(frozen=True)
class Row:
    """A goal, and what we have for it. `others` are all seeds that were measured, this file among them."""

    name: str
    network: str
    goal: Goal
    file: Measured | None
    others: tuple[Measured, ...]
    dense_error: float | None
    is_median: bool | None  # None where no three choosing runs tell

    @property
    def ratio(self) -> float | None:
        return None if self.file is None else dense_bytes(self.network) / self.file.bytes

    @property
    def verdict(self) -> str:
        if self.file is None:
            return "no file"
        goal, error = self.goal, self.file.error
        small = dense_bytes(self.network) >= goal.ratio * self.file.bytes if goal.ratio else self.file.bytes <= (goal.bytes or 0)
        if goal.error is not None:
            return "met" if small and error <= goal.error + 1e-9 else "NOT MET"
        if self.dense_error is None:
            return "dense network not measured"
        good = round(error - self.dense_error, 6) < (goal.lost or 0.0) and 1 - self.dense_error >= (goal.dense or 0.0)
        return "met" if small and good else "NOT MET"


def measure(path: Path, recipe: Recipe, data: Path | None) -> Measured:
    """Load the file into a fresh network, and read the test images once."""
    facts, seed = read_json(path.with_suffix(".json")), int(_name_of(path)[1])
    error = error_of_file(path, recipe, images(recipe, data, train=False))
    content = path.read_bytes()
    digest = sha256(content).hexdigest()
    return Measured(recipe.name, seed, facts.get("digest", ""), facts.get("dense", ""), digest, len(content), error)


def _name_of(path: Path) -> tuple[str, str]:
    match = _FILE.fullmatch(path.stem)
    if match is None:
        raise SystemExit(f"{path} is not named RECIPE-seedNUMBER.dcz")
    return match[1], match[2]


def measure_dense(said: str, recipes: Iterable[Recipe], data: Path | None) -> tuple[str, dict[str, Any]]:
    """Of NETWORK=FILE: the fingerprint of the weights, and what is kept of them."""
    network, _, file = said.partition("=")
    found = [recipe for recipe in recipes if recipe.network == network]
    if not found:
        raise SystemExit(f"--dense {said}: no recipe is for a network named {network!r}")
    model = make(network)
    load_checkpoint(model, Path(file))
    error = error_on(images(found[0], data, train=False), model)
    return fingerprint(model)[:12], {"network": network, "file": Path(file).name, "error": error}


def row_of(name: str, network: str, goal: Goal, digest: str, kept: dict[str, Any], runs: dict[str, Any],
           there: list[Measured]) -> Row:  # fmt: skip
    """The row of a recipe, from the files that are there and the figures that are kept of others."""
    known = [Measured(**facts) for facts in kept.get("files", {}).values() if facts["recipe"] == name]
    seeds = {file.seed: file for file in (*known, *there) if file.digest == digest}
    median = median_seed(runs, digest)
    here = {file.seed: file for file in there}
    file = here.get(median if median in here else min(here)) if here else None
    dense = kept.get("dense", {}).get(file.dense) if file is not None else None
    others = tuple(seeds[seed] for seed in sorted(seeds))
    is_median = None if median is None or file is None else file.seed == median
    return Row(name, network, goal, file, others, None if dense is None else dense["error"], is_median)


def median_seed(runs: dict[str, Any], digest: str | None) -> int | None:
    """The seed in the middle by validation error; of an even number the better of the two. None where no run tells."""
    errors = sorted((run["validation_error"], run["seed"]) for run in runs.values() if digest in (None, run["digest"]))
    return errors[(len(errors) - 1) // 2][1] if errors else None


def table_of(rows: list[Row]) -> Table:
    table = Table(box=MARKDOWN)
    for heading in ("record", "to reach", "published", "ours: bytes", "ratio", "error", "seeds: bytes", "error", ""):
        table.add_column(heading, no_wrap=True)
    for row in rows:
        file = row.file
        ours = ("", "", "") if file is None else (f"{file.bytes:,}", _times(row.ratio or 0.0), _percent(file.error))
        table.add_row(row.name, _goal(row), _published(row), *ours, *_spread(row.others), row.verdict + _notes(row))
    return table


def _goal(row: Row) -> str:
    goal = row.goal
    size = f"{goal.ratio:g}x" if goal.ratio else f"{goal.bytes:,} bytes"
    if goal.error is not None:
        return f"{size} at {_percent(goal.error)}"
    points = 100 * (goal.lost or 0.0)
    return f"{size}, less than {points:.4g} point{'' if points == 1 else 's'} lost"


def _published(row: Row) -> str:
    """The smallest that others report at this error or less."""
    goal = row.goal
    worst = goal.error if goal.error is not None else 1 - (goal.dense or 1.0) + (goal.lost or 0.0)
    good = [point for point in PUBLISHED if point.network == row.network and point.error is not None and point.error <= worst]
    if not good:
        return ""
    full = dense_bytes(row.network)
    least = min(good, key=lambda point: point.bytes_of(full))
    return f"{_times(full / least.bytes_of(full))} at {_percent(least.error)} [{_number(least)}]"


def _times(ratio: float) -> str:
    return f"{ratio:.0f}x" if ratio >= 100 else f"{ratio:.1f}x"


def _number(point: Published) -> int:
    return 1 + PUBLISHED.index(point)


def _spread(files: tuple[Measured, ...]) -> tuple[str, str]:
    if not files:
        return "", ""
    sizes, errors = [file.bytes for file in files], [file.error for file in files]
    return f"{min(sizes):,} to {max(sizes):,} ({len(files)})", f"{_percent(min(errors))} to {_percent(max(errors))}"


def _notes(row: Row) -> str:
    notes = []
    if row.goal.lost is not None and row.dense_error is not None:
        notes.append(f"dense {_percent(row.dense_error)}")
    if row.is_median is False:
        notes.append("not the median seed")
    if row.file is not None and row.file not in row.others:
        notes.append("of an earlier form of the recipe")
    return f" ({', '.join(notes)})" if notes else ""


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.4g} %"


def published_table(networks: Iterable[str]) -> Table:
    """What others report of these networks, by the numbers that the other table has them by."""
    table = Table(box=MARKDOWN)
    for heading in ("", "network", "published", "size", "error", "source"):
        table.add_column(heading, no_wrap=True)
    for point in PUBLISHED:
        if point.network in networks:
            number, error = f"{_number(point)}", _percent(point.error) or "not stated"
            table.add_row(number, point.network, point.who, point.size, error, point.source)
    return table


def draw(rows: list[Row], folder: Path) -> list[Path]:
    """For each network a plot of bytes against accuracy: ours, and what others report."""
    from deepcompress.report.curves import lines, picture

    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for network in dict.fromkeys(row.network for row in rows):
        if series := _frontier([row for row in rows if row.network == network]):
            drawn.append(folder / f"frontier_{network}.png")
            with picture(drawn[-1], size=(7.6, 4.2)) as (axes,):
                labels = {"xlabel": "Bytes of the file", "ylabel": "Accuracy on the test images", "title": network}
                lines(axes, series, percent=True, joined=False, **labels)  # each point is a file of its own
                _logarithmic(axes)
    return drawn


def _frontier(rows: list[Row]) -> dict[str, tuple[list[float], list[float]]]:
    """Name -> (bytes, accuracy), from few bytes to many; of one network."""
    network = rows[0].network
    points = [("ours", float(file.bytes), file.error) for row in rows for file in row.others]
    known = [(point, point.error) for point in PUBLISHED if point.network == network and point.error is not None]
    points += [(point.who, point.bytes_of(dense_bytes(network)), error) for point, error in known]
    series: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name, _, _ in points}
    for name, size, error in sorted(set(points)):
        series[name][0].append(size)
        series[name][1].append(1 - error)
    return series


def _logarithmic(axes: Any) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    near, far = (1, 1.2, 1.4, 1.6, 2, 2.5, 3, 4, 5, 6, 7, 8, 9), (1, 2, 5)
    axes.xaxis.set_major_locator(LogLocator(subs=near if high < 3 * low else far))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    recipes = {recipe.name: recipe for recipe in map(dc.recipes.load, options.recipe or dc.recipes.names())}
    kept = read_json(RECORDS / "measured.json") if options.kept is None else read_json(options.kept)
    dense = dict(measure_dense(said, recipes.values(), options.data) for said in options.dense)
    paths = [path for path in sorted(options.records.glob("*.dcz")) if _name_of(path)[0] in recipes]
    found = {path.name: measure(path, recipes[_name_of(path)[0]], options.data) for path in paths}
    same = [_as_kept(name, file, kept) for name, file in found.items()]
    kept = {"files": {**kept.get("files", {}), **{name: asdict(file) for name, file in found.items()}},
            "dense": {**kept.get("dense", {}), **dense}}  # fmt: skip
    if options.keep:
        write_json(options.kept or RECORDS / "measured.json", {part: dict(sorted(kept[part].items())) for part in kept})
    rows = _rows(options, recipes, kept, list(found.values()))
    _tell(rows, options)
    return 0 if all(same) or options.keep else 1


def _rows(options: argparse.Namespace, recipes: dict[str, Recipe], kept: dict[str, Any], found: list[Measured]) -> list[Row]:
    choices = read_json(options.records / "choices.json") or read_json(RECORDS / "choices.json")
    rows = []
    for name, recipe in recipes.items():
        there = [file for file in found if file.recipe == name]
        rows.append(row_of(name, recipe.network, recipe.goal, recipe.digest, kept, choices.get(name, {}), there))
    return rows


def _tell(rows: list[Row], options: argparse.Namespace) -> None:
    networks = {row.network for row in rows}
    console = Console(width=240, markup=False)
    for table in (table_of(rows), published_table(networks)):
        console.print(table)
    if options.plots is not None:
        for path in draw(rows, options.plots):
            print(f"wrote {path}")
    if options.json is not None:
        write_json(options.json, {"rows": [{**asdict(row), "ratio": row.ratio, "verdict": row.verdict} for row in rows],
                                  "published": [asdict(point) for point in PUBLISHED]})  # fmt: skip


def _as_kept(name: str, file: Measured, kept: dict[str, Any]) -> bool:
    """Whether the file is measured as it was before, as far as it was."""
    before = kept.get("files", {}).get(name)
    if before is None or (before["sha256"] == file.sha256 and abs(before["error"] - file.error) < _OTHER_MACHINE):
        return True
    print(f"{name}: {file.bytes:,} bytes, error {file.error}; measured.json says {before['bytes']:,} bytes, {before['error']}")
    return False


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--data", type=Path, metavar="DIR", help="where MNIST and CIFAR-10 lie")
    where.add_argument("--stand-in", action="store_true", help="scikit-learn's digits instead, to see that it runs")
    parser.add_argument("--records", type=Path, default=RECORDS, metavar="DIR", help="where the files lie (default: %(default)s)")
    parser.add_argument("--recipe", action="append", metavar="NAME", help="one of them, or a .yaml file (default: all)")
    parser.add_argument("--dense", action="append", default=[], metavar="NETWORK=FILE", help="measure a dense network, too")
    parser.add_argument("--keep", action="store_true", help="add what was measured to measured.json")
    parser.add_argument("--kept", type=Path, metavar="FILE", help="another measured.json")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw bytes against accuracy of each network")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except dc.DeepCompressError as error:
        sys.exit(f"records.py: error: {error}")
