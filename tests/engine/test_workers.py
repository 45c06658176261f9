"""Workers: rows are dealt in the same way always; errors and stops end the work soon."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

from engine_steps import finished
from napari_sta.data.progress import Progress
from napari_sta.engine.workers import Workers

ROWS = np.arange(11)


def test_rows_are_dealt_in_turn_and_come_back_in_order():
    assert [list(mine) for mine in Workers(3).map(lambda rows: rows, ROWS)] == [
        [0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8],
    ]  # fmt: skip
    assert Workers(0).threads == 1


def test_workers_compute_on_one_thread_each_and_torch_gets_its_own_back():
    before = torch.get_num_threads()
    try:
        workers = Workers(2)
        assert workers.map(lambda rows: torch.get_num_threads(), ROWS) == [1, 1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_all_that_is_done_is_counted():
    done: set[int] = set()

    def work(thread, rows, watch):
        for row in rows:
            assert row % 2 == thread
            done.add(int(row))
            watch.count()

    counts = list(Workers(2).count(work, ROWS))
    # What came between the last look and the end is not told: the caller knows the total.
    assert sum(counts) <= len(ROWS)
    assert done == set(range(11))


def test_counts_come_while_work_goes_on():
    go = threading.Event()

    def work(thread, rows, watch):
        watch.count()
        assert go.wait(10)

    counts = Workers(1).count(work, ROWS)
    assert next(counts) == 1
    go.set()
    assert list(counts) == []


def test_an_error_in_one_thread_ends_the_others():
    begun = time.monotonic()
    left: list[int] = []

    def work(thread, rows, watch):
        if thread == 1:
            raise ValueError("a bad particle")
        while watch.go_on():
            time.sleep(0.01)
        left.append(thread)

    with pytest.raises(ValueError, match="a bad particle"):
        finished(Workers(2).count(work, ROWS))
    assert left == [0]
    assert time.monotonic() - begun < 5


def test_closing_lets_the_threads_end():
    left: list[int] = []

    def work(thread, rows, watch):
        watch.count()
        while watch.go_on():
            time.sleep(0.01)
        left.append(thread)

    counts = Workers(2).count(work, ROWS)
    next(counts)
    counts.close()
    assert sorted(left) == [0, 1]


def test_background_work_tells_that_it_goes_on_and_returns():
    progress = Progress(1, 2, "slow")

    def slow() -> str:
        time.sleep(0.6)
        return "made"

    seen: list[str] = []

    def told():
        result = yield from Workers().in_background(slow, progress)
        seen.append(result)

    steps = list(told())
    assert seen == ["made"]
    assert steps
    assert set(map(id, steps)) == {id(progress)}


def test_background_work_fails_aloud():
    def fail() -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        finished(Workers().in_background(fail, Progress(0, 0)))


def test_stopping_reaches_what_works_in_the_background():
    workers = Workers()
    ended = threading.Event()

    def work() -> None:
        workers.stop.wait(10)
        ended.set()

    steps = workers.in_background(work, Progress(0, 0))
    next(steps)
    assert not workers.stop.is_set()
    steps.close()
    assert ended.wait(5)
