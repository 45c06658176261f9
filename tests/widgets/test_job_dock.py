"""Run, watch, stop, fail: whatever happens, the dock stays usable and the event loop turns."""

from __future__ import annotations

import time

import numpy as np
import pytest
from fake_jobs import FAKES, Fine
from qtpy.QtCore import QTimer
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import QLabel, QPushButton, QWidget

from napari_sta.io.project.project import Project
from napari_sta.widgets.job_dock import CHECK_AFTER_MS, JobDock


@pytest.fixture
def dock(viewer, qtbot, bench, project, wait):
    made = JobDock(viewer, jobs=FAKES)
    qtbot.addWidget(made)
    made.show()
    bench.open_project(project)
    wait(lambda: bench.view is not None)
    return made


def choose(dock: JobDock, name: str, **values) -> None:
    dock.fill(name, values)


def run(dock: JobDock, wait, name: str, **values):
    choose(dock, name, **values)
    wait(lambda: dock.run_button.isEnabled())
    ticket = dock.run()
    assert ticket is not None
    return ticket


def test_job_runs_into_the_project_and_tells(dock, bench, wait, project):
    ticket = run(dock, wait, "fine", steps=3)
    wait(lambda: ticket.state == "done")
    assert ticket.record["answer"] == 42
    assert ticket.name == "External/job004"
    assert (project / "External/job004/RELION_JOB_EXIT_SUCCESS").exists()
    assert "External/job004 finished" in dock.card.text
    assert "answer 42" in dock.card.text
    assert not dock.watch.isVisible()
    assert not dock.stop_button.isEnabled()
    wait(lambda: any(j.name == "External/job004/" for j in bench.view.jobs))


def test_output_map_becomes_a_layer(dock, bench, wait, viewer):
    ticket = run(dock, wait, "writesmap")
    wait(lambda: ticket.state == "done")
    wait(lambda: len(viewer.layers) == 1)
    layer = viewer.layers[0]
    assert layer.name == "External/job004 · merged"
    np.testing.assert_allclose(layer.translate, [-16.0] * 3)
    assert {str(u) for u in layer.units} == {"angstrom"}


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("RuntimeError", "bang"),
        ("oom", "out of memory"),
        ("MemoryError", "out of memory"),
        ("KeyError", "bang"),
        ("disk", "disk is full"),
    ],
)
def test_failure_is_a_card_and_the_dock_stays_usable(dock, wait, project, how, words):
    ticket = run(dock, wait, "fails", how=how)
    wait(lambda: ticket.state == "failed")
    began = time.monotonic()
    assert dock.card.isVisible()
    assert dock.card.kind == "error"
    assert words in dock.card.text
    assert not dock.watch.isVisible()
    assert not dock.stop_button.isEnabled()
    assert dock.run_button.isEnabled()
    assert time.monotonic() - began < 1
    assert (project / ticket.name / "RELION_JOB_EXIT_FAILURE").exists()
    if how == "oom":
        assert dock.card.button("Retry on the CPU")
    again = run(dock, wait, "fine")
    wait(lambda: again.state == "done")


def test_card_goes_when_another_job_is_chosen(dock, wait):
    ticket = run(dock, wait, "fails")
    wait(lambda: ticket.state == "failed")
    assert dock.card.isVisible()
    choose(dock, "fine")
    assert not dock.card.isVisible()


def test_a_sentence_with_a_semicolon_is_one_error(dock):
    dock._show_checks("a.star has no rlnX; write it again", [])
    assert dock.checks.text().count("✖") == 1
    assert "a.star has no rlnX; write it again" in dock.checks.text()


def test_retry_runs_the_same_job_again(dock, bench, wait):
    ticket = run(dock, wait, "fails")
    wait(lambda: ticket.state == "failed")
    dock.card.button("Retry").click()
    wait(lambda: len(bench.queue.tickets) == 2 and bench.queue.tickets[1].state == "failed")
    assert bench.queue.tickets[1].job == ticket.job


def test_stop_works_within_two_seconds(dock, wait, project):
    ticket = run(dock, wait, "fine", steps=10_000, pause_s=0.02)
    wait(lambda: ticket.progress is not None)
    began = time.monotonic()
    dock.stop()
    wait(lambda: ticket.state == "stopped", 2.0)
    assert time.monotonic() - began < 2
    assert "stopped" in dock.card.text
    assert dock.run_button.isEnabled()
    assert (project / ticket.name / "RELION_JOB_EXIT_ABORTED").exists()


def test_second_run_waits_for_the_first(dock, bench, wait):
    first = run(dock, wait, "fine", steps=10, pause_s=0.05)
    wait(lambda: first.state == "running")
    assert dock.run_button.text() == "Queue"
    second = run(dock, wait, "fine", steps=10, pause_s=0.05)
    assert second.state == "queued"
    assert waiting(dock) == ["Waiting: Fine"]
    wait(lambda: second.state == "running")
    assert not dock.queue.isVisible()  # it waits no longer
    wait(lambda: second.state == "done")
    assert first.state == "done"
    assert second.began >= first.began + first.seconds - 0.01
    assert not dock.queue.isVisible()
    assert dock.run_button.text() == "Run"


def waiting(dock) -> list[str]:
    return [row.findChild(QLabel).text() for row in dock.queue.rows]


def queue_button(dock, row: int, text: str) -> QPushButton:
    return next(b for b in dock.queue.rows[row].findChildren(QPushButton) if b.text() == text)


def test_queued_job_is_taken_out_without_a_trace(dock, bench, wait, project):
    first = run(dock, wait, "fine", steps=300, pause_s=0.03)
    second = run(dock, wait, "writesmap")
    third = run(dock, wait, "fine", steps=1)
    assert waiting(dock) == [f"Waiting: {second.label}", "then: Fine"]
    queue_button(dock, 0, "×").click()
    assert second not in bench.queue.tickets
    assert waiting(dock) == ["Waiting: Fine"]
    assert second.state == "stopped"
    dock.stop()
    wait(lambda: third.state == "done", 10)
    assert [job.name for job in Project(project).jobs()][-2:] == [f"{first.name}/", f"{third.name}/"]
    assert not dock.queue.isVisible()


def test_queued_job_can_be_put_forward(dock, bench, wait):
    first = run(dock, wait, "fine", steps=300, pause_s=0.03)
    second = run(dock, wait, "fine", steps=2)
    third = run(dock, wait, "fine", steps=3)
    assert not queue_button(dock, 0, "↑").isEnabled()
    queue_button(dock, 1, "↑").click()
    assert bench.queue.queued == [third, second]
    bench.queue.move_up(third)  # it is the first already
    assert bench.queue.queued == [third, second]
    dock.stop()
    wait(lambda: second.state == "done", 10)
    assert third.began < second.began
    assert first.state == "stopped"


def test_a_long_queue_and_a_hidden_page_do_not_make_the_window_grow(dock, bench, wait):
    run(dock, wait, "fine", steps=300, pause_s=0.03)
    for _ in range(3):
        bench.queue.run(Fine(steps=1))
    wait(lambda: len(dock.queue.rows) == 3)
    height = dock.minimumSizeHint().height()
    for _ in range(6):
        bench.queue.run(Fine(steps=1))
    wait(lambda: len(dock.queue.rows) == 9)
    assert dock.minimumSizeHint().height() == height
    tall = QWidget()
    tall.setMinimumHeight(2000)
    dock.stack.addWidget(tall)
    assert dock.minimumSizeHint().height() == height


def test_progress_is_shown(dock, wait):
    ticket = run(dock, wait, "fine", steps=40, pause_s=0.03)
    wait(lambda: ticket.progress is not None and ticket.progress.done > 10)
    assert dock.watch.bar.maximum() == 1000
    assert dock.watch.bar.value() >= 250
    assert "step" in dock.watch.doing.text()
    assert "step 2" in dock.watch.log.toPlainText()
    dock.stop()
    wait(lambda: ticket.state == "stopped", 2)


def test_preflight_names_the_cause_and_blocks(dock, wait):
    choose(dock, "refuses")
    wait(lambda: "rlnTomoName" in dock.checks.text())
    assert not dock.run_button.isEnabled()
    assert "rlnTomoName" in dock.run_button.toolTip()
    assert dock.run() is None
    choose(dock, "fine")
    wait(lambda: dock.run_button.isEnabled())
    assert "Ready to run" in dock.checks.text()


def test_preflight_waits_for_the_last_edit(dock, wait):
    choose(dock, "fine")
    wait(lambda: dock.run_button.isEnabled())
    dock.form.rows["steps"].widget.native.set_value(9)
    assert not dock.run_button.isEnabled()
    began = time.monotonic()
    wait(lambda: dock.run_button.isEnabled())
    assert time.monotonic() - began >= 0.9 * CHECK_AFTER_MS / 1000


def test_illegal_value_is_told_by_its_label(dock, wait):
    choose(dock, "fine", steps=0)
    wait(lambda: "“Steps”" in dock.checks.text())
    assert not dock.run_button.isEnabled()


def test_command_line_is_shown_whole_to_the_clipboard(dock, wait):
    choose(dock, "fine", steps=7)
    assert dock.command.text() == "napari-sta fine --steps 7"
    dock.command.copy()
    assert QGuiApplication.clipboard().text() == "napari-sta fine --steps 7"


def test_no_project_no_input_says_what_to_do(viewer, qtbot, wait):
    dock = JobDock(viewer, jobs=FAKES)
    qtbot.addWidget(dock)
    ticket = run(dock, wait, "fine")
    wait(lambda: ticket.state == "failed")
    assert "open a project in the Project dock" in str(ticket.error)


def test_run_detached_hands_the_job_to_the_command_line(viewer, qtbot, bench, project, wait):
    dock = JobDock(viewer)
    qtbot.addWidget(dock)
    dock.show()
    bench.open_project(project)
    wait(lambda: bench.view is not None)
    dock.fill("recenter", {"in_optimisation_set": "Select/job002/optimisation_set.star", "center_z_px": 1.5})
    wait(lambda: dock.detach_button.isEnabled())
    dock.run_detached()
    assert "runs on its own" in dock.card.text
    wait(lambda: (project / "External/job004/RELION_JOB_EXIT_SUCCESS").exists(), 60)
    assert (project / "External/job004/particles.star").is_file()
    bench.refresh()
    wait(lambda: any(j.name == "External/job004/" for j in bench.view.jobs))


def test_relative_paths_count_from_the_project_folder(viewer, qtbot, bench, project, wait):
    """The form shows them as RELION does; napari runs somewhere else."""
    dock = JobDock(viewer)
    qtbot.addWidget(dock)
    bench.open_project(project)
    wait(lambda: bench.view is not None)
    dock.fill("recenter", {"in_optimisation_set": "Select/job002/optimisation_set.star", "center_z_px": 1.5})
    wait(lambda: dock.run_button.isEnabled())
    ticket = dock.run()
    wait(lambda: ticket.state == "done", 30)
    note = (ticket.out / "note.txt").read_text()
    assert "--in_optimisation_set Select/job002/optimisation_set.star" in note
    dock.fill("recenter", {"in_optimisation_set": "Select/job999/optimisation_set.star", "center_z_px": 1})
    wait(lambda: "job999" in dock.checks.text())
    assert not dock.run_button.isEnabled()


def heartbeat(wait, busy) -> np.ndarray:
    """Return the gaps, in ms, between ticks of a 10 ms timer while something is busy."""
    beats: list[float] = []
    timer = QTimer()
    timer.setInterval(10)
    timer.timeout.connect(lambda: beats.append(time.perf_counter()))
    timer.start()
    wait(busy, 120)
    timer.stop()
    return np.diff(beats) * 1e3


def test_event_loop_turns_while_a_job_works(dock, wait):
    warm = run(dock, wait, "heavy", seconds=0.2)
    wait(lambda: warm.state == "done", 60)
    ticket = run(dock, wait, "heavy", seconds=4)
    gaps = heartbeat(wait, lambda: ticket.state != "running")
    assert ticket.state == "done"
    assert len(gaps) > 40
    print(f"heartbeat: p99 {np.percentile(gaps, 99):.0f} ms, longest {gaps.max():.0f} ms")
    assert gaps.max() <= 250
    assert np.percentile(gaps, 99) <= 50


def test_event_loop_turns_while_a_real_job_works(viewer, qtbot, bench, project, wait):
    """Reconstruct holds numba kernels, FFTs and file writing; all of it must let the viewer breathe."""
    dock = JobDock(viewer)
    qtbot.addWidget(dock)
    dock.show()
    bench.open_project(project)
    wait(lambda: bench.view is not None)
    dock.fill(
        "reconstruct",
        {
            "in_optimisation_set": "Select/job002/optimisation_set.star",
            "box_size_px": 80, "crop_size_px": 64, "symmetry": "C6",
        },
    )  # fmt: skip
    wait(lambda: dock.run_button.isEnabled())
    ticket = dock.run()
    gaps = heartbeat(wait, lambda: ticket.state != "running")
    assert ticket.state == "done", ticket.error
    print(f"heartbeat in reconstruct: p99 {np.percentile(gaps, 99):.0f} ms, longest {gaps.max():.0f} ms")
    assert gaps.max() <= 250
    assert np.percentile(gaps, 99) <= 50
