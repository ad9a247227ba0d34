"""Gaps: both ways apart, and each known mistake is named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepcompress.exercises.gaps import _symbols, _walked
from tests.exercises.answering import differences, hints, mistaken, solution


@pytest.mark.parametrize(
    ("right", "wrong", "hint"),
    [
        ("        while gap >= escape:", "        while False:", "a gap that is too long for its bits needs escapes"),
        ("        while gap >= escape:", "        gap = min(gap, escape)\n        while False:", "it takes escapes and the rest"),
        ("        place = position + 1\n", "        place = position\n", "these are distances"),
        ("gap = position - place", "gap = position - place + 1", "these are distances"),
        ("        while gap >= escape:", "        while gap > escape:", "it is an escape, and then 0"),
        ("            gap -= escape\n", "            gap -= escape + 1\n", "it takes no place of its own"),
        ("    return symbols", "    return positions", "these are the positions themselves"),
        ("        if symbol != escape:", "        if True:", "an escape was read as a gap"),
        ("            place += 1\n", "", "a nonzero takes a place itself"),
        ("    return positions", "    return [p + 1 for p in positions]", "all of these are one too large"),
        ("    return positions", "    return [p - 1 for p in positions]", "all of these are one too small"),
        ("        place += symbol\n", "        place += symbol + (symbol == escape)\n", "it takes no place of its own"),
    ],
)
def test_known_mistakes_are_named(right: str, wrong: str, hint: str) -> None:
    found = hints("gaps", mistaken("gaps", right, wrong))
    assert any(hint in each for each in found), found


def test_two_mistakes_that_undo_each_other_are_both_found() -> None:
    both = solution("gaps").replace("gap -= escape\n", "gap -= escape + 1\n").replace("gap >= escape", "gap > escape")
    both = both.replace("        place += symbol\n", "        place += symbol + (symbol == escape)\n")
    found = {name.partition(":")[0] for name in differences("gaps", both)}
    assert found == {"encode", "decode"}


def test_right_answers_pass() -> None:
    assert differences("gaps", solution("gaps")) == {}
    arrays = mistaken("gaps", "    return symbols", "    import numpy as np\n    return np.array(symbols, np.uint8)")
    assert differences("gaps", arrays) == {}


@given(st.sets(st.integers(0, 2000)), st.integers(1, 9))
def test_the_rules_behind_the_hints_are_those_of_the_library(positions: set[int], gap_bits: int) -> None:
    symbols = _symbols(sorted(positions), gap_bits)
    assert _walked(symbols, gap_bits) == sorted(positions)
    functions: dict[str, object] = {}
    exec(solution("gaps"), functions)
    assert functions["encode_gaps"](sorted(positions), gap_bits) == symbols  # type: ignore[operator]
