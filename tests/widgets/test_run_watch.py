"""The line, the bar and the messages of the job at work."""

from __future__ import annotations

import time

import pytest
from fake_jobs import Fine

from napari_sta.data.progress import Progress
from napari_sta.widgets.run_queue import Ticket
from napari_sta.widgets.run_watch import RunWatch


@pytest.fixture
def watch(qtbot):
    made = RunWatch()
    qtbot.addWidget(made)
    return made


def step(watch, ticket, progress: Progress) -> None:
    ticket.note(progress)
    ticket.progress = progress
    watch.note_progress()


def test_steps_move_the_bar_and_fill_the_log(watch):
    ticket = Ticket(Fine(), state="running", name="External/job004 <b>", began=time.monotonic())
    watch.start(ticket)
    assert watch.isVisible()
    assert watch.bar.maximum() == 0  # nobody knows how long
    step(watch, ticket, Progress(10, 40, "ten"))
    step(watch, ticket, Progress(20, 40, "twenty"))
    assert (watch.bar.value(), watch.bar.maximum()) == (500, 1000)
    assert watch.log.toPlainText() == "ten\ntwenty"
    assert "External/job004 &lt;b&gt;" in watch.doing.text()
    assert "twenty" in watch.doing.text()
    assert watch.bar.format().startswith("%p %")
    watch.end()
    assert not watch.isVisible()
    watch.start(Ticket(Fine(), state="running", began=time.monotonic()))
    assert watch.log.toPlainText() == ""


def test_an_iteration_says_where_it_is_and_not_the_name(watch):
    ticket = Ticket(Fine(), state="running", name="Refine3D/job009", began=time.monotonic())
    watch.start(ticket)
    data = {"iteration": 2, "phase": "expectation"}
    step(watch, ticket, Progress(4, 18, "iteration 2: expectation", data))
    assert watch.doing.text() == "Iteration 2, aligning particles: 4 of 18"


def test_a_job_that_is_asked_to_stop_says_nothing_new(watch):
    ticket = Ticket(Fine(), state="running", began=time.monotonic())
    watch.start(ticket)
    watch.doing.setText("Stopping …")
    ticket.stop.set()
    step(watch, ticket, Progress(1, 2, "one"))
    assert watch.doing.text() == "Stopping …"
