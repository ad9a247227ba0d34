"""All benchmarks one after another, then one table of all their rows.

    python benchmarks [--tiny] [--repeats N] [--out FOLDER] [--data FOLDER] [--only NAME ...]

A row that is not met is told, not an error. The exit status is 1 where a benchmark could not run or found a wrong result.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from _harness import RESULTS, Row
from _show import table_of
from rich.console import Console

HERE = Path(__file__).resolve().parent
_DATA = ("lossless",)  # benchmarks that take --data


def names() -> list[str]:
    return sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))


def run(name: str, options: argparse.Namespace) -> bool:
    """Whether the benchmark came to its end."""
    command = [sys.executable, str(HERE / f"bench_{name}.py"), "--out", str(options.out)]
    command += ["--tiny"] if options.tiny else []
    command += ["--repeats", str(options.repeats)] if options.repeats else []
    command += ["--data", str(options.data)] if options.data and name in _DATA else []
    print(f"\n== {name} ==", flush=True)
    (options.out / f"{name}.json").unlink(missing_ok=True)
    return subprocess.run(command, check=False).returncode == 0


def rows_of(path: Path) -> list[Row]:
    """The rows that a benchmark wrote; none where it wrote nothing."""
    if not path.exists():
        return []
    kept: list[dict[str, Any]] = json.loads(path.read_text())["rows"]
    return [Row(**{key: value for key, value in row.items() if key != "met"}) for row in kept]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="sizes that only show that all run; the figures mean nothing")
    parser.add_argument("--repeats", type=int, help="runs of each")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for JSON and plots")
    parser.add_argument("--data", type=Path, help="folder of checkpoints for bench_lossless.py")
    parser.add_argument("--only", nargs="+", choices=names(), metavar="NAME", help=f"some of: {', '.join(names())}")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    chosen = options.only or names()
    failed = [name for name in chosen if not run(name, options)]
    rows = [row for name in chosen for row in rows_of(options.out / f"{name}.json")]
    title = "all benchmarks" + (" (tiny: figures mean nothing)" if options.tiny else "")
    Console(width=150).print("", table_of(rows, title))
    missed = [row for row in rows if row.met is False]
    print(f"{len(rows)} rows, {sum(row.met is True for row in rows)} met, {len(missed)} NOT MET, the others promise nothing")
    for name in failed:
        print(f"bench_{name}.py FAILED: see above")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
