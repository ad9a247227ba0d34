"""Values as a person can take them in."""

from __future__ import annotations

import numpy as np
import pytest

from deepcompress.exercises.show import call_text, shown


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1 + 0.2, "0.3"),
        (np.float32(0.1), "0.1"),
        (np.int64(3), "3"),
        (float("nan"), "nan"),
        (None, "None"),
        (True, "True"),
        ("01\n1", r"'01\n1'"),
        ([1, 2.5, "0"], "[1, 2.5, '0']"),
        ((np.float64(0.5), [np.uint8(1)]), "(0.5, [1])"),
        (np.array([0.5, -1.0]), "array([0.5, -1], float64)"),
        (np.array([[1, 2]], np.uint8), "array([[1, 2]], uint8)"),
        (np.zeros((0, 3), np.float32), "array([], float32, shape (0, 3))"),
        (np.array(2.0), "array(2, float64)"),
        (np.array([True]), "array([True], bool)"),
        ({"a": np.array([1])}, "{'a': array([1], int64)}"),
    ],
)
def test_small_values_are_shown_whole(value: object, text: str) -> None:
    assert shown(value) == text


def test_large_values_are_cut_and_say_their_shape() -> None:
    assert shown(np.arange(100).reshape(10, 10)) == "array([0, 1, 2, 3, ..., 96, 97, 98, 99], int64, shape (10, 10))"
    assert shown(list(range(100))).endswith("13, 14, 15, ...]")
    assert len(shown("01" * 500)) < 100
    assert len(shown([[0.5] * 100] * 100)) < 3000


def test_a_value_whose_repr_fails_is_still_shown() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise ValueError("no")

    assert "Broken" in shown(Broken())


def test_a_call_has_its_arguments_names() -> None:
    assert call_text("f", {"weights": np.array([1.0]), "q": 0.5}) == "f(weights=array([1], float64), q=0.5)"
