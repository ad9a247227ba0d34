"""What the labs share: one command line, results that outlive an interruption, and our figures beside the authors'.

A lab is two functions. `measure(lab)` works through steps, each kept in results.json as soon as it is known, so that a second
run goes on where the first one stopped. `story(lab)` tells what is known so far: it yields the Markdown of summary.md, with its
pictures drawn on the way.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import platform
import re
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import torch
from _data import Split, load_data, stand_in
from torch import nn

import deepcompress as dc

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Figure:
    """One figure of the authors beside ours.

    Attributes:
        what: what was measured.
        theirs, ours: the figures; None where there is none (yet).
        unit: "%" for shares in [0, 1], else the unit to print behind the number, or "".
        spread: differences up to this mean nothing, in the figures' own scale. For an accuracy of one run this is at least the
            sampling error of the test set, see `two_errors`.
        why: the sentence to print where they differ by more.
    """

    what: str
    theirs: float | None
    ours: float | None
    unit: str = "%"
    spread: float = 0.0
    why: str = ""

    @property
    def differs(self) -> bool:
        return self.theirs is not None and self.ours is not None and abs(self.ours - self.theirs) > self.spread

    def row(self) -> tuple[str, str, str, str, str]:
        said = (self.why or "**not explained**") if self.differs else "within the spread"
        if self.theirs is None or self.ours is None:
            said = self.why or ("not measured in this run" if self.ours is None else "theirs has none")
        return (self.what, self._text(self.theirs), self._text(self.ours), self._text(self.spread), said)

    def _text(self, value: float | None) -> str:
        if value is None:
            return "-"
        return f"{100 * value:.2f} %" if self.unit == "%" else f"{value:,.4g} {self.unit}".strip()


def two_errors(accuracy: float, images: int) -> float:
    """Two standard errors of an accuracy measured on so many images: what one run's figure is known to."""
    return 2 * (max(accuracy * (1 - accuracy), 1e-6) / images) ** 0.5


# A cell of a table: 1,234, 0.5 s, 12x, 5 of 8, 2.0 (2.8), **91.5 %**; a dash or nothing where there is no number.
_NUMBER = re.compile(r"\**[-+]?[\d.,]*\d(e[-+]?\d+)?(x| of [\d,]+| \([\d.,]+\)| [%\w/]+)?\**")
_NUMBER_OR_NONE = re.compile(rf"-?|{_NUMBER.pattern}")


class Lab:
    """One run of a lab: its options, its results so far, its pictures.

    Attributes:
        options: of the command line: data, device, epochs, seed, out, quick, and the lab's own.
        authors: labs whose epochs were cut say from what to what; see `epochs`.
    """

    def __init__(self, name: str, title: str, options: argparse.Namespace, data: str | None) -> None:
        self.name, self.title, self.options, self._data_name = name, title, options, data
        self.out: Path = options.out
        self.device = torch.device(options.device)
        self._entries: dict[str, dict[str, Any]] = _read_results(self.out / "results.json")
        self._splits: tuple[Split, Split] | None = None

    @property
    def data_name(self) -> str:
        """What it was measured on, for people."""
        if self._data_name is None:
            return "no data set"
        return f"a stand-in for {self._data_name} (scikit-learn's digits)" if self.options.quick else self._data_name

    def data(self) -> tuple[Split, Split]:
        """The training and the test split; scikit-learn's digits in the data set's shape with --quick."""
        if self._splits is None:
            assert self._data_name is not None
            quick = self.options.quick
            self._splits = stand_in(self._data_name) if quick else load_data(self._data_name, self.options.data)
        return self._splits

    def epochs(self, authors: int, quick: int = 1) -> int:
        """How many epochs a training run of so many takes here: --epochs, or fewer with --quick."""
        if self.options.epochs is not None:
            return int(self.options.epochs)
        return quick if self.options.quick else authors

    def step(self, key: str, measure: Callable[[], Any], *, epochs: int | None = None, of: int | None = None, **made: Any) -> Any:
        """What `measure` gives, as JSON data: from an earlier run with the same settings, else measured and kept at once.

        Args:
            key: the step's name in results.json.
            epochs, of: how long it trains, and how long the authors did.
            made: what else it depends on besides data, seed and device.
        """
        settings = {"data": self.data_name, "seed": self.options.seed, "device": self.device.type, "epochs": epochs, "of": of}
        settings |= made
        known = self._entries.get(key)
        if known is not None and known["settings"] == json.loads(json.dumps(settings)) and not self.options.fresh:
            say(f"{key}: known from an earlier run")
            return known["value"]
        say(f"{key} ..." + (f" ({epochs} epochs)" if epochs else ""))
        start = time.perf_counter()
        value = measure()
        seconds = round(time.perf_counter() - start, 2)
        entry = {"settings": settings, "seconds": seconds, "value": value, "threads": torch.get_num_threads()}
        self._entries[key] = json.loads(json.dumps(entry))
        self._write()
        return self._entries[key]["value"]

    def get(self, key: str) -> Any:
        """What a step measured; None where it has not run."""
        entry = self._entries.get(key)
        return None if entry is None else entry["value"]

    def settings(self, key: str) -> dict[str, Any]:
        """What a step that has run depended on: data, seed, device, epochs, of, and its own."""
        found: dict[str, Any] = self._entries[key]["settings"]
        return found

    def starting(self, prefix: str) -> dict[str, Any]:
        """The values of all steps whose keys begin so, under the rest of their keys, in the order in which they first ran."""
        return {key[len(prefix) :]: entry["value"] for key, entry in self._entries.items() if key.startswith(prefix)}

    def model(self, name: str, make: Callable[[], nn.Module], train: Callable[[nn.Module], Any], **settings: Any) -> nn.Module:
        """A trained network, kept without loss as models/NAME.dcz, so that a later step or run need not train it again.

        `train(model)` trains in place and returns JSON data (a history, say), which is kept as the step NAME.
        """
        path = self.out / "models" / f"{name}.dcz"
        model = make()

        def measure() -> Any:
            found = train(model)
            path.parent.mkdir(parents=True, exist_ok=True)
            dc.Pipeline([("lossless", dc.Lossless())]).run(model).compressed.save(path)
            return found

        if not path.exists():
            self._entries.pop(name, None)
        self.step(name, measure, **settings)
        return dc.load(path).load_into(model)

    def picture(self, name: str, caption: str, draw: Callable[[Path], None]) -> str:
        """Draw OUT/NAME.png; the Markdown that shows it."""
        draw(self.out / f"{name}.png")
        return f"![{caption}]({name}.png)\n\n*{caption}*\n"

    def _write(self) -> None:
        content = {
            "lab": self.name,
            "title": self.title,
            "command": _command(sys.argv),
            "environment": environment(),
            "steps": self._entries,
        }
        self.out.mkdir(parents=True, exist_ok=True)
        whole = self.out / "results.json.new"
        whole.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        whole.replace(self.out / "results.json")

    def tell(self, story: Callable[[Lab], Iterator[str]]) -> None:
        """Write summary.md and the pictures from what is known so far."""
        self._write()
        note = "\n**With --quick: stand-in data, few epochs. No figure here is a result.**\n" if self.options.quick else ""
        parts = [f"# Lab {self.name.upper()}. {self.title}\n{note}", *story(self), self._footer()]
        (self.out / "summary.md").write_text("\n".join(parts), encoding="utf-8")
        say(f"{self.out / 'summary.md'}, results.json and {len(list(self.out.glob('*.png')))} plots")

    def _footer(self) -> str:
        """What each step was measured on; columns that would say one thing throughout are a sentence."""
        columns: dict[str, list[str]] = {"measured on": [], "device": [], "threads": []}
        rows = []
        for key, entry in self._entries.items():
            settings = entry["settings"]
            cut = f"{settings['epochs']} of {settings['of']}" if settings.get("of") else str(settings.get("epochs") or "")
            rows.append((key, cut, f"{entry['seconds']:,.0f} s"))
            for name, value in zip(columns, (settings["data"], settings["device"], str(entry["threads"])), strict=True):
                columns[name].append(value)
        same = {name: values[0] for name, values in columns.items() if len(set(values)) == 1}
        varied = [name for name in columns if name not in same]
        rows = [(*row, *(columns[name][place] for name in varied)) for place, row in enumerate(rows)]
        said = "".join(f"; {name}: {value}" for name, value in same.items())
        around = ", ".join(f"{name} {version}" for name, version in environment().items())
        once = f"One run of each step, seed {self.options.seed}, unless a table says otherwise{said}; {around}."
        return f"## How it was measured\n\n{once}\n\n{table(('step', 'epochs (of the authors)', 'time', *varied), rows)}"


def run_lab(
    name: str, title: str, doc: str | None, measure: Callable[[Lab], None], story: Callable[[Lab], Iterator[str]], *,
    data: str | None = "cifar10", parts: Sequence[str] = (), add: Callable[[argparse.ArgumentParser], None] | None = None,
) -> NoReturn:  # fmt: skip
    """A lab's whole command line; leaves the program.

    Args:
        name, title, doc: "a", what it is about, and the script's docstring, which --help shows.
        measure, story: see the module.
        data: "cifar10", "mnist", or None for a lab that needs none.
        parts: sub-commands, of which one or "all" is given; `lab.options.part` holds it.
        add: adds the lab's own options to the parser.

    Exit status: 0 done, 2 what was asked for cannot be done (one line says why), 130 interrupted; what was measured until then is
    kept and told.
    """
    parser = _parser(name, doc, data, parts)
    if add is not None:
        add(parser)
    options = parser.parse_args()
    if data is not None and options.data is None and not options.quick:
        parser.error(f"give --data DIR, the folder in which {data} lies, or --quick, which needs none")
    if data is not None and not options.quick and not options.data.is_dir():
        parser.error(f"there is no folder {options.data}")
    if (problem := _device_problem(options.device)) is not None:
        parser.error(problem)
    options.out = options.out or ROOT / "runs" / f"lab_{name}{'_quick' if options.quick else ''}"
    logging.basicConfig(format="%(message)s")
    logging.getLogger("deepcompress").setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(_run(name, title, options, data, measure, story))
    except (dc.DeepCompressError, OSError) as error:
        sys.exit(_complain(parser.prog, error))


def _run(name: str, title: str, options: argparse.Namespace, data: str | None, measure: Callable[[Lab], None],
         story: Callable[[Lab], Iterator[str]]) -> int:  # fmt: skip
    lab = Lab(name, title, options, data)
    say(f"lab {name.upper()}: {title}; measured on {lab.data_name}")
    try:
        torch.manual_seed(options.seed)
        measure(lab)
    except KeyboardInterrupt:
        lab.tell(story)
        kept = f"the steps that ended are kept in {lab.out}, and the same command goes on from there"
        print(f"interrupted; {kept}", file=sys.stderr)
        return 130
    except BaseException:
        with contextlib.suppress(Exception):
            lab.tell(story)
        raise
    lab.tell(story)
    return 0


def _parser(name: str, doc: str | None, data: str | None, parts: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if parts:
        parser.add_argument("part", nargs="?", default="all", choices=[*parts, "all"], help="which part (default: %(default)s)")
    if data is not None:
        parser.add_argument("--data", type=Path, metavar="DIR", help=f"where {data} lies")
    else:
        parser.add_argument("--data", type=Path, metavar="DIR", help="not needed by this lab")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    parser.add_argument("--epochs", type=at_least(0), metavar="N", help="epochs of each training run (default: the authors')")
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="N")
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"where the results go (default: runs/lab_{name})")
    parser.add_argument("--quick", action="store_true", help="under 40 s on two cores, without any data: a check, not a result")
    parser.add_argument("--fresh", action="store_true", help="measure again what an earlier run left in --out")
    return parser


def at_least(least: int) -> Callable[[str], int]:
    """An option's number, for argparse."""

    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is below {least}")
        return value

    return number


def _command(arguments: Sequence[str]) -> str:
    """The command line, without where things lie on this machine."""
    shown = [f"examples/{Path(arguments[0]).name}"]
    for before, word in pairwise(arguments):
        place = {"--data": "DIR", "--out": "DIR", "--checkpoint": Path(word).name}
        shown.append(place.get(before, word))
    return "python " + " ".join(shown)


def _device_problem(name: str) -> str | None:
    """Why this device cannot be used; None where it can."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.empty(1, device=torch.device(name))
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        return f"--device {name} cannot be used here ({reason}); --device cpu always can"
    return None


def _complain(program: str, error: Exception) -> int:
    print(f"{program}: {error}", file=sys.stderr)
    return 2


def _read_results(path: Path) -> dict[str, dict[str, Any]]:
    """The steps of an earlier run; none where there was none."""
    try:
        steps: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["steps"]
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError):
        raise dc.StorageError(f"{path} holds no results of a lab; give another --out, or move it away") from None
    return steps


def say(line: str) -> None:
    """A line of progress, at once."""
    print(line, flush=True)


def environment() -> dict[str, str]:
    """Versions and machine."""
    cpu = platform.processor() or platform.machine()
    found = {"deepcompress": dc.__version__, "torch": str(torch.__version__), "Python": platform.python_version()}
    return {**found, "CPU": f"{cpu}, {os.cpu_count()} cores"}


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; columns of numbers, with units or without, to the right."""
    columns = [[str(row[i]) for row in rows] for i in range(len(head))]
    right = [any(map(_NUMBER.fullmatch, cells)) and all(map(_NUMBER_OR_NONE.fullmatch, cells)) for cells in columns]
    rule = "|".join("---:" if to_right else "---" for to_right in right)
    first, *body = ("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in (head, *rows))
    return "\n".join([first, f"|{rule}|", *body, ""])


def beside(figures: Sequence[Figure]) -> str:
    """The authors' figures beside ours, as Markdown."""
    return table(("figure", "authors", "ours", "spread", "where they differ"), [figure.row() for figure in figures])


def percent(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f} %"


def as_data(history: dc.History) -> dict[str, Any]:
    """A history as `step` keeps it: without the loss of each step."""
    plain = history.as_dict()
    return {**plain, "epochs": [{**epoch, "step_losses": []} for epoch in plain["epochs"]]}


def history_lines(histories: Mapping[str, Mapping[str, Any]], what: str) -> dict[str, tuple[list[float], list[float]]]:
    """Epochs and one measure of several histories, as `lines` draws them; epochs without it are left out."""
    curves = {}
    for name, history in histories.items():
        points = [(epoch["epoch"], epoch[what]) for epoch in history["epochs"] if epoch.get(what) is not None]
        curves[name] = ([x for x, _ in points], [y for _, y in points])
    return curves
