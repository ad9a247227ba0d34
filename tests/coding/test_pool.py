"""Work is shared out, its results come in order, its errors come whole; within the pool, and in forked children, too."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcompress.coding import pool
from deepcompress.errors import ParameterError

ROOT = Path(__file__).parent.parent.parent

FORK = """
import os, sys
from deepcompress.coding import pool
with pool.limited(3):
    print(pool.run([lambda i=i: i * i for i in range(9)]), flush=True)
    child = os.fork()
    if child == 0:
        found = pool.run([lambda i=i: i + 1 for i in range(9)])
        os._exit(0 if found == list(range(1, 10)) else 1)
    print(os.waitpid(child, 0)[1], flush=True)
"""


@given(st.integers(0, 40), st.integers(1, 6), st.integers(1, 9))
@settings(deadline=None)
def test_shares_cover_the_range_in_order(count: int, threads: int, least: int) -> None:
    with pool.limited(threads):
        parts = pool.share(count, lambda start, stop: list(range(start, stop)), least)
    assert [place for part in parts for place in part] == list(range(count))
    assert all(len(part) >= min(least, count) for part in parts)
    assert len(parts) == 1 or threads > 1


def test_results_come_in_the_order_of_the_tasks() -> None:
    def slowly(place: int) -> int:
        time.sleep(0.001 * (7 - place))
        return place

    with pool.limited(4):
        assert pool.run([partial(slowly, place) for place in range(8)]) == list(range(8))
    assert pool.run([]) == []


def test_tasks_run_side_by_side() -> None:
    both = threading.Barrier(2, timeout=10)
    with pool.limited(2):
        assert sorted(pool.run([both.wait, both.wait])) == [0, 1]


def test_the_first_error_is_raised_once_no_task_runs_any_more() -> None:
    running = []

    def fail(place: int) -> None:
        running.append(place)
        time.sleep(0.001)
        running.remove(place)
        if place in (1, 2):
            raise ValueError(str(place))

    with pool.limited(3), pytest.raises(ValueError, match=r"^1$"):
        pool.run([partial(fail, place) for place in range(40)])
    assert running == []


def test_a_task_may_share_work_out_itself() -> None:
    def inner(start: int, stop: int) -> int:
        return pool.run([lambda: 1] * (stop - start)).count(1)

    with pool.limited(2):
        assert sum(pool.share(10, inner)) == 10
        assert pool.run([lambda: pool.run([threading.get_ident] * 3)] * 1)[0].count(threading.get_ident()) >= 1


def test_two_callers_at_once() -> None:
    found: list[list[int]] = []

    def call() -> None:
        found.append(pool.run([partial(pow, place, 2) for place in range(200)]))

    callers = [threading.Thread(target=call) for _ in range(4)]
    with pool.limited(3):
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    assert found == [[place**2 for place in range(200)]] * 4


@pytest.mark.parametrize("bad", ["0", "-1", "two", "1.5", "1025", "¹"])
def test_a_number_of_threads_that_cannot_be(bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPCOMPRESS_THREADS", bad)
    with pytest.raises(ParameterError, match="'DEEPCOMPRESS_THREADS' parameter of the environment must be an integer from 1"):
        pool.thread_count()


def test_where_the_number_of_threads_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPCOMPRESS_THREADS", "7")
    assert pool.thread_count() == 7
    with pool.limited(3):
        assert pool.thread_count() == 3
    monkeypatch.setenv("DEEPCOMPRESS_THREADS", "")
    assert 1 <= pool.thread_count() <= (os.cpu_count() or 1)
    with pytest.raises(ParameterError, match="'threads' parameter of limited"), pool.limited(0):
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_starts_threads_of_its_own() -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORK]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=60)
    assert done.stdout.split("\n")[:2] == ["[0, 1, 4, 9, 16, 25, 36, 49, 64]", "0"]
