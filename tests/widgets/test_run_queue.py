"""Jobs one after the other; none is lost, whoever stops what."""

from __future__ import annotations

import pytest
from fake_jobs import Fails, Fine

from napari_sta.data.errors import InputError
from napari_sta.jobs._job import job_named
from napari_sta.widgets.run_queue import (
    RunQueue,
    Ticket,
    line_of,
    place_for,
    preferences,
    with_absolute_paths,
)


@pytest.fixture
def queue(viewer, project):
    made = RunQueue(viewer, lambda: project)
    yield made
    made.wind_up()


def test_preferences_have_defaults():
    assert preferences() == ("auto", 0)


def test_life_of_a_job_is_told_in_order(queue, project, wait):
    told = []
    for name in ("started", "placed", "ended"):
        getattr(queue, name).connect(lambda ticket, name=name: told.append((name, ticket.state)))
    ended = []
    ticket = queue.run(Fine(steps=2), done=ended.append)
    wait(lambda: bool(ended))
    assert told == [("started", "running"), ("placed", "running"), ("ended", "done")]
    assert ended == [ticket]
    assert ticket.record["answer"] == 42
    assert ticket.out == project / "External/job004"
    assert ticket.messages[-1] == "step 2"


def test_a_failure_lets_the_next_one_run(queue, wait):
    failed, fine = queue.run(Fails()), queue.run(Fine())
    wait(lambda: fine.state == "done")
    assert failed.state == "failed"
    assert "bang" in str(failed.error)
    assert queue.running is None


def test_waiting_jobs_are_put_forward_and_taken_out(queue, wait):
    queue.run(Fine(steps=10_000, pause_s=0.01))
    second, third = queue.run(Fine()), queue.run(Fine())
    queue.move_up(second)  # it is first already
    assert queue.queued == [second, third]
    queue.move_up(third)
    assert queue.queued == [third, second]
    queue.stop(second)
    assert second not in queue.tickets
    assert second.state == "stopped"
    queue.stop_all()
    wait(lambda: queue.running is None)
    assert third.state == "stopped"


def test_winding_up_leaves_the_marks_of_a_stopped_job(queue, wait):
    ticket = queue.run(Fine(steps=10_000, pause_s=0.01))
    wait(lambda: ticket.progress is not None)
    queue.wind_up()
    assert ticket.state == "stopped"
    assert (ticket.out / "RELION_JOB_EXIT_ABORTED").exists()


def test_after_the_viewer_nobody_is_told(queue, viewer, wait):
    ticket = queue.run(Fine(steps=10_000, pause_s=0.01))
    wait(lambda: ticket.progress is not None)
    told = []
    queue.ended.connect(told.append)
    viewer.close()
    queue.stop(ticket)
    wait(lambda: ticket.state == "stopped")
    assert told == []


def test_place_is_the_project_else_that_of_the_input_else_beside_it(project, tmp_path):
    inside = job_named("recenter").from_text({"in_parts": str(project / "Select/job002/particles.star")})
    assert place_for(inside, None, None) == (project, None)
    alone = job_named("recenter").from_text({"in_parts": str(tmp_path / "particles.star")})
    (tmp_path / "recenter_001").mkdir()
    assert place_for(alone, None, None) == (None, tmp_path / "recenter_002")
    assert place_for(alone, project, tmp_path) == (project, tmp_path)
    with pytest.raises(InputError, match="open a project"):
        place_for(Fine(), None, None)


def test_command_line_has_absolute_inputs_and_the_folder(project):
    job = job_named("recenter").from_text({"in_parts": "Select/job002/particles.star"})
    assert with_absolute_paths(job, None) is job
    whole = str(project / "Select/job002/particles.star")
    assert with_absolute_paths(job, project).in_parts == whole
    place, words = line_of(Ticket(job, project=project, threads=3, device="cpu"))
    assert place == project
    assert words[0] == "recenter"
    assert {f"--in_parts={whole}", "--j=3", "--device=cpu"} <= set(words)
