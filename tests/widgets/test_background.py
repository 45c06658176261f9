"""Errors of every kind come back from a worker; only the newest request counts; Stop is obeyed."""

from __future__ import annotations

import threading
import time

import pytest
from qtpy.QtCore import QObject

from napari_sta.data.errors import InputError, JobError, StaError, Stopped
from napari_sta.data.progress import Progress
from napari_sta.widgets._background import Latest, Outcome, guarded, in_background


@pytest.mark.parametrize(
    ("error", "words"),
    [
        pytest.param(RuntimeError("bang"), "stopped unexpectedly: bang", id="runtime"),
        pytest.param(MemoryError(), "computer ran out of memory", id="memory"),
        pytest.param(RuntimeError("CUDA out of memory. Tried"), "GPU ran out of memory", id="gpu"),
        pytest.param(OSError(28, "No space"), "disk is full", id="disk"),
        pytest.param(FileNotFoundError(2, "No", "x.mrc"), "x.mrc is not there", id="file"),
        pytest.param(InputError("a.star has no rlnTomoName."), "a.star has no rlnTomoName.", id="ours"),
    ],
)
def test_errors_arrive_in_words(qtbot, wait, error, words):
    owner = QObject()
    got: list[StaError] = []

    def fail() -> None:
        raise error

    in_background(owner, fail, failed=got.append)
    wait(lambda: bool(got))
    assert words in str(got[0])
    assert isinstance(got[0], StaError)


def test_only_the_newest_request_is_answered(qtbot, wait):
    owner = QObject()
    latest = Latest(owner, 0)
    ran, answers = [], []
    release = threading.Event()

    def work(n: int) -> int:
        ran.append(n)
        if n == 0:
            release.wait(5)
        return n

    latest.request(work, 0, done=answers.append)
    wait(lambda: ran == [0])
    for n in range(1, 10):
        latest.request(work, n, done=answers.append)
    release.set()
    wait(lambda: bool(answers))
    wait(lambda: latest.idle)
    assert answers == [9]
    assert ran == [0, 9]


def outcome_of(body) -> Outcome:
    try:
        while True:
            next(body)
    except StopIteration as end:
        return end.value


def test_progress_is_thinned_but_the_last_step_arrives():
    def steps():
        for i in range(20_000):
            yield Progress(i + 1, 20_000)
        return {"done": True}

    body = guarded(steps, threading.Event())
    seen = []
    try:
        while True:
            seen.append(next(body))
    except StopIteration as end:
        record = end.value
    assert record == Outcome(record={"done": True})
    assert seen[-1].done == 20_000
    assert len(seen) < 100


def test_stop_reaches_the_job_so_that_it_can_leave_its_marks():
    stop = threading.Event()
    marks = []

    def steps():
        try:
            for i in range(10_000):
                time.sleep(0.001)
                yield Progress(i, 0)
        except Stopped:
            marks.append("aborted")
            raise

    body = guarded(steps, stop)
    next(body)
    stop.set()
    assert isinstance(outcome_of(body).error, Stopped)
    assert marks == ["aborted"]


def test_generator_worker_never_sees_a_runtime_error():
    def steps():
        yield Progress(0, 0)
        raise RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")

    body = guarded(steps, threading.Event())
    next(body)
    outcome = outcome_of(body)
    assert isinstance(outcome.error, JobError)
    assert "CUBLAS" in str(outcome.error)
