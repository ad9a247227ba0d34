"""A short run of the fuzzer, what it has ever found, and that it would notice what it looks for."""

from __future__ import annotations

import importlib.util
import json
import re
from collections import Counter
from pathlib import Path

import pytest

import deepcompress as dc
from deepcompress.errors import FormatError
from tests.attacks import coverage_guided, fuzz
from tests.attacks.agreement import agree
from tests.attacks.fuzz import CORPUS, BrokenError, Tally, campaign, check, mutant
from tests.attacks.mutants import survives
from tests.attacks.seeds import SEEDS

MUTANTS = 4_000
REPAIRED, RAW = 300, 401  # neither measured nor given to the commands


def test_thousands_of_mutants(tmp_path: Path) -> None:
    tally = Tally()
    for index in range(MUTANTS):
        check(7, index, tally, tmp_path)
    assert sum(tally.ends.values()) == MUTANTS
    assert tally.ends["well-formed"] > MUTANTS // 100
    assert tally.memory > 0


@pytest.mark.parametrize("path", sorted(CORPUS.iterdir()), ids=lambda path: path.stem)
def test_what_was_found_once(path: Path) -> None:
    survives(path.read_bytes())
    assert agree(path.read_bytes())


def test_coverage_guided_fuzzing_is_left_out_with_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert coverage_guided.main([]) == 0
    assert capsys.readouterr().out.startswith("coverage-guided fuzzing is left out: atheris is not installed (")


def test_what_is_compiled_stays_as_it_is() -> None:
    """Instrumented bytecode must not be compiled: it would be kept."""
    package = Path(dc.__file__).parent
    readers = [path for room in ("coding", "container", "tensors") for path in (package / room).glob("*.py")]
    uses = re.compile(r"^@(jit|inline|intrinsic|njit)|njit\(", re.MULTILINE)
    compiled = {f"{path.parent.name}.{path.stem}" for path in readers if uses.search(path.read_text(encoding="utf-8"))}
    assert compiled <= set(coverage_guided.COMPILED)


def test_workers_share_the_mutants() -> None:
    total = campaign(0, range(1_000, 1_060), 2)
    assert sum(total.ends.values()) == 60
    assert not total.failures


def test_a_mutant_depends_on_its_number_alone() -> None:
    assert mutant(3, 10) == mutant(3, 10)
    assert mutant(3, 10) != mutant(4, 10)
    assert {mutant(3, index)[0] for index in range(2 * len(SEEDS))} == set(SEEDS)


def test_another_model_behind_checksums_that_hold_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([{"a": ("", b"1")}, {"a": ("", b"2")}])
    monkeypatch.setattr(fuzz, "content", lambda data: next(answers))
    with pytest.raises(BrokenError, match="another model"):
        check(0, RAW, Tally(), tmp_path)


@pytest.mark.parametrize("error", [ValueError("x"), FormatError("no name in front")])
def test_another_exception_is_noticed(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*given: object, **named: object) -> None:
        raise error

    monkeypatch.setattr(dc, "load", fails)
    for index in (REPAIRED, RAW):
        with pytest.raises(type(error)):
            check(0, index, Tally(), tmp_path)


def test_a_second_and_memory_are_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(fuzz, "SECONDS", -1.0)
        with pytest.raises(BrokenError, match=r"[\d.]+ s$"):
            check(0, REPAIRED, Tally(), tmp_path)
    monkeypatch.setattr(fuzz, "MEMORY", -(1 << 30))
    with pytest.raises(BrokenError, match="bytes for"):
        fuzz.measured(SEEDS[0])


def test_slices_of_a_campaign_are_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[range] = []

    def campaign(seed: int, indices: range, workers: int) -> Tally:
        seen.append(indices)
        return Tally(Counter({"refused": len(indices)}))

    monkeypatch.setattr(fuzz, "campaign", campaign)
    for first in (0, 30):
        assert fuzz.main(["--first", str(first), "--mutants", "30", "--log", str(tmp_path / "log.json")]) == 0
    assert seen == [range(30), range(30, 60)]
    log = json.loads((tmp_path / "log.json").read_text())
    assert [(part["first"], part["mutants"], part["ends"]) for part in log] == [(at, 30, {"refused": 30}) for at in (0, 30)]


def test_a_command_that_ends_otherwise_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fuzz.by_command(SEEDS[0], tmp_path, "identical")
    fuzz.by_command(SEEDS[0][:-1], tmp_path, "refused")
    with pytest.raises(BrokenError, match="can be read"):
        fuzz.by_command(SEEDS[0][:-1], tmp_path, "identical")
    monkeypatch.setattr(fuzz, "command", lambda arguments: 2)
    with pytest.raises(BrokenError, match="status 2"):
        fuzz.by_command(SEEDS[0], tmp_path, "refused")
