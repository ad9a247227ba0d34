"""What the tasks' texts say in their examples is what the solutions give and the checks want."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deepcompress.exercises.catalogue import EXERCISES, load
from tests.exercises.answering import solution

EXAMPLES = [
    ("percentile", "threshold(np.array([[-4.0, 1.0], [2.0, -3.0]]), 0.5)", "2.5"),
    ("kmeans", "kmeans(np.array([0.0, 1.0, 9.0, 11.0]), np.array([0.0, 5.0]))", "([0, 0, 1, 1], [0.5, 10.0])"),
    ("huffman", "count_indices(np.array([0.0, 0.5, 0.0, -1.0, 0.5]), np.array([-1.0, 0.5]))", "[1, 2]"),
    ("gaps", "encode_gaps([2, 7, 8], 2)", "[2, 3, 1, 0]"),
    ("gaps", "decode_gaps([2, 3, 1, 0], 2)", "[2, 7, 8]"),
    ("affine", "quantize(np.array([-1.0, 0.0, 1.55]))", "([0, 100, 255], 0.01, 100)"),
    ("affine", "dequantize(np.array([0, 100, 255], np.uint8), 0.01, 100)", "[-1.0, 0.0, 1.55]"),
]


def flat(value: Any) -> list[float]:
    parts = value if isinstance(value, tuple) else (value,)
    return [float(number) for part in parts for number in np.ravel(part)]


@pytest.mark.parametrize(("name", "call", "answer"), EXAMPLES)
def test_examples_are_right(name: str, call: str, answer: str) -> None:
    lines = [" ".join(line.split()) for line in (load(name).__doc__ or "").splitlines()]
    assert any(line.startswith(f"{call} gives {answer}") for line in lines)
    functions: dict[str, Any] = {"np": np}
    exec(solution(name), functions)
    assert flat(eval(call, functions)) == pytest.approx(flat(eval(answer)))


def test_the_codewords_of_the_example_are_as_good_as_the_solutions() -> None:
    functions: dict[str, Any] = {}
    exec(solution("huffman"), functions)
    lengths = [len(word) for word in functions["codewords"]([5, 1, 0, 2])]
    assert lengths == [len(word) for word in ["0", "10", "", "11"]]


def test_the_masked_step_of_the_example() -> None:
    functions: dict[str, Any] = {}
    exec(solution("mask-step"), functions)
    weights, velocity = functions["masked_step"](
        np.array([1.0, 2.0]), np.array([0.5, 0.5]), np.array([0.0, 1.0]), np.array([True, False]), 0.1, 0.9, 0.0
    )
    assert weights.tolist() == [0.95, 0.0]
    assert velocity[0] == 0.5


@pytest.mark.parametrize("name", EXERCISES)
def test_every_task_names_its_functions_and_sources(name: str) -> None:
    text = load(name).__doc__ or ""
    assert all(f"`{case.function}(" in text for case in load(name).cases())
    assert "\nSource: " in text
