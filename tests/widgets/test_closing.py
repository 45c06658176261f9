"""The viewer is closed while jobs run or wait: nobody is left in the dark, nothing is left "Running"."""

from __future__ import annotations

import json
import os
import time

import pytest
from fake_jobs import Fine
from qt_loop import settle
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

from napari_sta.data.progress import Progress
from napari_sta.io.project.project import Project
from napari_sta.jobs._job import job_named
from napari_sta.widgets import closing
from napari_sta.widgets.closing import ClosingDialog
from napari_sta.widgets.workbench import Workbench


class Stuck(Fine):
    """Does not get to its next step for long."""

    label = "Stuck"

    def run(self, context):
        yield Progress(0, 2, "one")
        time.sleep(3.5)
        yield Progress(1, 2, "two")
        return {}


@pytest.fixture
def shown(make_napari_viewer, project, wait):
    """A viewer with a project, and a Fine job at work."""
    viewer = make_napari_viewer(show=False)
    bench = Workbench.of(viewer)
    bench.open_project(project)
    wait(lambda: bench.view is not None)
    yield viewer, bench
    bench.queue.stop_all()
    settle(lambda: bench.queue.running is None, 10)


def at_work(bench, wait, job=None):
    ticket = bench.queue.run(job or Fine(steps=10_000, pause_s=0.02))
    wait(lambda: ticket.progress is not None and bench.queue.running is ticket, 20)
    return ticket


def answer(button: str, told: list[str]) -> None:
    """Press a button of the dialog that comes up."""

    def look() -> None:
        dialog = QApplication.activeModalWidget()
        if not isinstance(dialog, ClosingDialog):
            QTimer.singleShot(20, look)
            return
        told.append(dialog.question.text())
        getattr(dialog, f"{button}_button").click()

    QTimer.singleShot(20, look)


def state_of(project, ticket) -> tuple[str, str, list[str]]:
    """Status in job.json and pipeline, and the markers."""
    folder = project / ticket.name
    record = json.loads((folder / "job.json").read_text())
    markers = sorted(p.name for p in folder.glob("RELION_JOB_EXIT_*"))
    return record["status"], Project(project).job(ticket.name).status, markers


STOPPED = ("Aborted", "Aborted", ["RELION_JOB_EXIT_ABORTED"])


def test_stop_leaves_the_right_state_within_five_seconds(shown, project, wait):
    viewer, bench = shown
    ticket = at_work(bench, wait)
    waiting = bench.queue.run(job_named("recenter").from_text({"in_parts": "a.star", "center_z_px": "1"}))
    told = []
    answer("stop", told)
    began = time.monotonic()
    assert viewer.window._qt_window.close()
    assert time.monotonic() - began < 5
    assert state_of(project, ticket) == STOPPED
    assert waiting.state == "stopped"
    [words] = told
    assert ticket.name in words
    assert waiting.label in words
    assert "forgotten" in words
    for of_programmers in ("guarded", "worker", "function", "0x", "Executing"):
        assert of_programmers not in words


def test_cancel_leaves_everything_as_it_is(shown, project, wait):
    viewer, bench = shown
    ticket = at_work(bench, wait)
    answer("cancel", [])
    window = viewer.window._qt_window
    window._quit_app = True  # as File > Quit does before
    assert not window.close()
    assert ticket.state == "running"
    assert not window._quit_app  # the next close must not quit
    assert state_of(project, ticket)[:2] == ("Running", "Running")
    done = ticket.progress.done
    wait(lambda: ticket.progress.done > done)


def test_keep_running_hands_the_job_and_the_queue_over(shown, project, wait, tmp_path):
    viewer, bench = shown
    values = {"in_optimisation_set": "Select/job002/optimisation_set.star", "box_size_px": "80"}
    first = bench.queue.run(job_named("reconstruct").from_text(values | {"crop_size_px": "64"}))
    second = bench.queue.run(
        job_named("recenter").from_text(
            {"in_optimisation_set": "Select/job002/optimisation_set.star", "center_z_px": "1"}
        )
    )
    wait(lambda: first.progress is not None or first.state == "done", 60)
    assert first.state == "running", "it was too quick for this test"
    answer("detach", [])
    assert viewer.window._qt_window.close()
    assert (first.state, second.state) == ("stopped", "stopped")

    def over() -> bool:
        jobs = {job.name: job.status for job in Project(project).jobs()}
        return jobs.get("Reconstruct/job004/") == jobs.get("External/job005/") == "Succeeded"

    wait(over, 90)
    assert state_of(project, first) == ("Succeeded", "Succeeded", ["RELION_JOB_EXIT_SUCCESS"])
    assert (project / "External/job005/particles.star").is_file()
    assert (project / "Reconstruct/job004/merged.mrc").is_file()
    assert json.loads((project / "Reconstruct/job004/job.json").read_text())["process"] != os.getpid()


def test_program_that_closes_the_viewer_is_not_asked(shown, project, wait):
    viewer, bench = shown
    ticket = at_work(bench, wait)
    began = time.monotonic()
    viewer.close()  # a modal dialog would hang here
    assert time.monotonic() - began < 5
    assert state_of(project, ticket) == STOPPED


def test_job_that_does_not_get_to_a_step_is_marked_all_the_same(shown, project, wait, monkeypatch):
    monkeypatch.setattr(closing, "LEAVE_WITHIN_S", 1.5)
    viewer, bench = shown
    ticket = at_work(bench, wait, Stuck())
    answer("stop", [])
    began = time.monotonic()
    assert viewer.window._qt_window.close()
    assert time.monotonic() - began < 3.0
    assert (project / ticket.name / "RELION_JOB_EXIT_ABORTED").exists()
    assert Project(project).job(ticket.name).status == "Aborted"
    settle(lambda: json.loads((project / ticket.name / "job.json").read_text())["status"] == "Aborted", 12)
    assert state_of(project, ticket) == STOPPED


def test_nothing_is_asked_where_nothing_runs(shown, monkeypatch):
    viewer, _ = shown
    monkeypatch.setattr(ClosingDialog, "decide", lambda self: pytest.fail("asked"))
    assert viewer.window._qt_window.close()


def test_napari_has_nothing_of_its_own_to_ask(shown, wait):
    """Its dialog lists running workers by the names of their functions."""
    viewer, bench = shown
    at_work(bench, wait)
    bench.refresh()
    assert viewer.window._task_status_manager.get_status() == []


def test_quit_asks_for_the_jobs_of_all_viewers(shown, make_napari_viewer, project, wait):
    _, bench = shown
    ticket = at_work(bench, wait)
    other = make_napari_viewer(show=False)
    Workbench.of(other)
    told = []
    answer("cancel", told)
    other.window._qt_window._quit_app = True
    assert not other.window._qt_window.close()
    assert ticket.name in told[0]
    assert ticket.state == "running"
