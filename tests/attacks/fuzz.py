"""Millions of mutants: each is refused, or is the file it came from, or is well-formed; in a second and in bounded memory.

    python -m tests.attacks.fuzz                          # a million, on all cores
    python -m tests.attacks.fuzz --only 12345             # one of them again
    python -m tests.attacks.fuzz --first 3000000 --mutants 1000000 --log tests/attacks/campaign.json      # a slice of ten million

Mutant i depends on the seed and on i alone. Every second one has its checksums repaired, so that what is behind them is met: it
must be an error of ours or a well-formed model. The others must be an error of ours or the identical model. Of every twentieth
the reference decoder must say the same; of every hundredth the memory is measured, in what Python and numpy allocate and in
pages; every two hundredth goes through `inspect`, `verify` and `expand`. With DEEPCOMPRESS_CHECKED=1 the kernels are the twins
that check each access against the bounds of its array. A mutant that fails is written to tests/attacks/corpus/, which the tests
read for ever, beside one of each kind of refusal.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import platform
import random
import re
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numba
import numpy as np

import deepcompress as dc
from deepcompress.cli.main import main as command
from deepcompress.coding.jit import CHECKED
from deepcompress.errors import FormatError
from tests.attacks import memory
from tests.attacks.agreement import agree
from tests.attacks.mutants import LIMIT, content, mutate, survives
from tests.attacks.seeds import SEEDS

CORPUS = Path(__file__).with_name("corpus")
SECONDS, MEMORY, FACTOR = 1.0, 64 << 20, 3
COMPARED, MEASURED, BY_COMMAND = 20, 100, 200
_GUARD = 1 << 30  # bytes of address space above what a worker has when it begins
_SILENCE = 60.0  # seconds after which a worker that says nothing hangs


class BrokenError(Exception):
    """A promise that a mutant broke."""


@dataclass
class Tally:
    """What came of the mutants of one worker, or of all."""

    ends: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    memory: int = 0
    failures: list[tuple[int, str]] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.ends += other.ends
        self.slowest, self.memory = max(self.slowest, other.slowest), max(self.memory, other.memory)
        self.failures += other.failures


def mutant(seed: int, index: int) -> tuple[bytes, bytes]:
    """The file that mutant `index` comes from, and the mutant."""
    place = index // 2 % len(SEEDS)
    return SEEDS[place], mutate(place, random.Random(f"{seed} {index}"), repair=index % 2 == 0)


def check(seed: int, index: int, tally: Tally, folder: Path) -> None:
    """Read one mutant. Raises BrokenError, or whatever reading it raised that is no error of ours."""
    original, data = mutant(seed, index)
    if index % MEASURED == index // MEASURED % 2:
        tally.memory = max(tally.memory, measured(data))
    begin = time.process_time()
    end = _read(original, data, index)
    seconds = time.process_time() - begin
    if seconds > SECONDS / 2:  # kernels may have been compiled for it, once
        begin = time.process_time()
        _read(original, data, index)
        seconds = time.process_time() - begin
        if seconds > SECONDS:
            raise BrokenError(f"{seconds:.1f} s")
    if index % COMPARED == 0 and not agree(data):
        raise BrokenError("the reference decoder says otherwise")
    tally.ends[end] += 1
    tally.slowest = max(tally.slowest, seconds)
    if index % BY_COMMAND == index // BY_COMMAND % 2:
        by_command(data, folder, end)


def _read(original: bytes, data: bytes, index: int) -> str:
    if index % 2 == 0:
        return "well-formed" if survives(data) else "refused, checksums right"
    try:
        found = content(data)
    except FormatError as error:
        if not str(error).startswith("<bytes>: "):
            raise
        return "refused"
    if found != content(original):
        raise BrokenError("another model, and its checksums hold")
    return "identical"


def measured(data: bytes) -> int:
    """The most bytes that reading the whole file takes. Raises BrokenError above what its declared size allows."""
    declared = 0
    with contextlib.suppress(FormatError):
        declared = min(dc.open(data, framework="numpy").dense_bytes, LIMIT)
    peak = max(memory.allocated(lambda: _decode(data)), memory.resident(lambda: _decode(data)))
    if peak > FACTOR * declared + MEMORY:
        raise BrokenError(f"{peak:,} bytes for {declared:,} declared")
    return peak


def _decode(data: bytes) -> None:
    with contextlib.suppress(FormatError):
        dc.load(data, framework="numpy", max_bytes=LIMIT).numpy()


def by_command(data: bytes, folder: Path, end: str) -> None:
    """What the command line says of the file: done, or one line and status 1; the same as reading it came to."""
    path, out = folder / "mutant.dcz", folder / "mutant.safetensors"
    path.write_bytes(data)
    statuses = []
    for arguments in (["inspect", str(path)], ["verify", str(path)], ["expand", str(path), "-o", str(out)]):
        said = io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            statuses.append(command(arguments))
        lines = said.getvalue().count("\n")
        if statuses[-1] not in (0, 1) or lines != statuses[-1]:
            raise BrokenError(f"{arguments[0]}: status {statuses[-1]}, {lines} lines")
    if end in ("well-formed", "identical") and any(statuses[:2]):
        raise BrokenError(f"a file that can be read: statuses {statuses}")


def collect(seed: int, mutants: int, folder: Path) -> int:
    """Keep the shortest mutant of each kind of refusal, and of each file one that is well-formed. Returns how many."""
    kept: dict[str, bytes] = {}
    for index in range(0, mutants, 2):
        original, data = mutant(seed, index)
        try:
            dc.load(data, framework="numpy", max_bytes=LIMIT)
            kind = f"well-formed {SEEDS.index(original)}"
        except FormatError as error:
            kind = re.sub(r"'[^']*'|\"[^\"]*\"|-?[\d,]+", "*", str(error))
        if data not in SEEDS and len(data) < len(kept.get(kind, data + b"+")):
            kept[kind] = data
    for data in kept.values():
        _keep(data, folder)
    return len(kept)


def _keep(data: bytes, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{hashlib.sha256(data).hexdigest()[:16]}.dcz").write_bytes(data)


# Many of them


def work(seed: int, indices: range, pipe: Connection) -> None:
    """Check the mutants of one worker; tells its progress once a second, and its tally at the end."""
    tally, told = Tally(), time.monotonic()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + _GUARD, hard))
    with tempfile.TemporaryDirectory() as folder:
        for index in indices:
            if time.monotonic() > told + 1:
                told = time.monotonic()
                pipe.send(index)
            try:
                check(seed, index, tally, Path(folder))
            except Exception as error:
                tally.failures.append((index, f"{type(error).__name__}: {error}"))
    pipe.send(tally)


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def campaign(seed: int, indices: range, workers: int) -> Tally:
    """Check mutants of these numbers; a worker that dies or falls silent is a failure of the mutant that it was at."""
    for data in SEEDS:  # kernels are compiled here, once for all workers
        survives(data)
    context = multiprocessing.get_context("spawn")
    running = []
    for worker in range(workers):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(seed, indices[worker::workers], theirs), daemon=True)
        process.start()
        theirs.close()
        running.append((process, ours))
    total = Tally()
    for process, pipe in running:
        last = -1
        try:
            while not isinstance(last, Tally):
                last = _next(pipe, last)
            total.add(last)
        except (EOFError, TimeoutError) as error:
            process.kill()
            process.join()
            total.failures.append((int(last), f"near it, {error or f'the process died with status {process.exitcode}'}"))
        process.join()
    return total


def _next(pipe: Connection, last: Any) -> Any:
    if not pipe.poll(_SILENCE):
        raise TimeoutError(f"nothing said for {_SILENCE:.0f} s")
    return pipe.recv()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=1_000_000, metavar="N", help="default: %(default)s")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="the number of the first one; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="default: one per core")
    parser.add_argument("--only", type=int, metavar="INDEX", help="this mutant alone, in this process")
    parser.add_argument("--collect", action="store_true", help="keep one mutant for each text of an error in the corpus")
    parser.add_argument("--log", type=Path, metavar="FILE", help="a JSON list to which the result is added")
    options = parser.parse_args(arguments)
    if options.only is not None:
        tally = Tally()
        with tempfile.TemporaryDirectory() as folder:
            check(options.seed, options.only, tally, Path(folder))
        print(*tally.ends)
        return 0
    if options.collect:
        print(collect(options.seed, options.mutants, CORPUS))
        return 0
    begin = time.monotonic()
    total = campaign(options.seed, range(options.first, options.first + options.mutants), options.workers)
    facts = {
        "date": datetime.now(UTC).date().isoformat(),
        "seed": options.seed,
        "first": options.first,
        "mutants": options.mutants,
        "ends": dict(sorted(total.ends.items())),
        "failures": len(total.failures),
        "slowest_seconds": round(total.slowest, 3),
        "most_memory_bytes": total.memory,
        "bounds_checked": CHECKED,
        "seconds": round(time.monotonic() - begin),
        "workers": options.workers,
        "versions": {
            "deepcompress": dc.__version__, "python": platform.python_version(), "numpy": np.__version__,
            "numba": numba.__version__, "machine": platform.machine(),
        },
    }  # fmt: skip
    print(json.dumps(facts, indent=2))
    for index, text in sorted(total.failures)[:20]:
        _keep(mutant(options.seed, index)[1], CORPUS)
        print(f"mutant {index}: {text}", file=sys.stderr)
    if options.log is not None:
        _add_to_log(options.log, facts)
    return 1 if total.failures else 0


def _add_to_log(path: Path, facts: dict[str, Any]) -> None:
    """One more slice of a campaign."""
    slices = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    path.write_text(json.dumps([*slices, facts], indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
