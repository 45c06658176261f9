"""3D auto-refine from the docks: form, run, iterations as layers and curves, stop, resume, continue."""

from __future__ import annotations

import time

import numpy as np
import pytest
from refinements import BOX_PX, PIXEL_ANGST, VALUES

from napari_sta.data.progress import Progress
from napari_sta.io.mrc import read_volume
from napari_sta.jobs._job import job_named
from napari_sta.widgets.inspect_dock import InspectDock
from napari_sta.widgets.job_dock import JobDock
from napari_sta.widgets.project_dock import ProjectDock
from napari_sta.widgets.shown import HAND


@pytest.fixture
def dock(viewer, qtbot, bench, place, wait):
    made = JobDock(viewer)
    qtbot.addWidget(made)
    made.resize(420, 800)
    made.show()
    bench.open_project(place)
    wait(lambda: bench.view is not None)
    return made


def start(dock: JobDock, wait, **values):
    dock.fill("refine", VALUES | values)
    wait(lambda: dock.run_button.isEnabled(), 60)
    ticket = dock.run()
    assert ticket is not None
    return ticket


def halves(viewer) -> dict[int, object]:
    return {
        layer.metadata["napari_sta"]["half"]: layer
        for layer in viewer.layers
        if layer.metadata.get("napari_sta", {}).get("run")
    }


# -- the form --------------------------------------------------------------------------------------


# -- running ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("real_window")
def test_iterations_arrive_as_layers_and_curves(dock, bench, wait, viewer):
    ticket = start(dock, wait)
    wait(lambda: ticket.progress is not None and "iteration" in ticket.progress.data, 60)
    assert dock.pages.isVisible()
    assert dock.stack.currentWidget() is dock.monitor
    wait(lambda: "Iteration 1, aligning particles" in dock.watch.doing.text(), 60)
    assert " of 18" in dock.watch.doing.text()
    assert not dock.run_button.isVisible()
    assert dock.stop_button.isVisible()
    monitor = dock.monitor
    wait(lambda: len(halves(viewer)) == 2, 60)
    first = halves(viewer)[1]
    assert first.metadata["napari_sta"]["iteration"] == 1
    before = monitor.plot.grab().toImage()
    wait(lambda: ticket.state == "done", 60)
    wait(lambda: first.metadata["napari_sta"]["iteration"] == 2 and monitor.plot.idle)
    assert ticket.name == "Refine3D/job003"

    # The same two layers, now with the maps of the second iteration, in Å about the box centre.
    assert halves(viewer)[1] is first
    assert len(viewer.layers) == 2
    for half, layer in halves(viewer).items():
        found = read_volume(ticket.out / f"run_it002_half{half}_class001.mrc")
        np.testing.assert_array_equal(layer.data, found.data)
        np.testing.assert_allclose(layer.scale, PIXEL_ANGST)
        np.testing.assert_allclose(layer.data_to_world((BOX_PX // 2,) * 3), 0, atol=1e-9)
        assert {str(u) for u in layer.units} == {"angstrom"}
        assert layer.name == f"Refine3D/job003 · half {half} · it 2"
    assert [layer.visible for layer in viewer.layers] == [True, False]
    assert tuple(str(o.value) for o in viewer.scene.camera.orientation) == HAND

    # The curves: what the job's own record says.
    told = ticket.record["history"]
    assert [one.number for one in monitor.run.iterations] == [1, 2]
    for one, record in zip(monitor.run.iterations, told, strict=True):
        assert one.resolution_angst == record["resolution_angst"]
        assert one.p_max == record["p_max"]
        np.testing.assert_array_equal(one.fsc, record["fsc"])
    assert monitor.plot.grab().toImage() != before
    assert f"{told[-1]['resolution_angst']:.2f} Å" in monitor.headline.text()
    assert f"{told[-1]['p_max']:.2f}" in monitor.about.text()
    assert monitor.command.text().startswith("napari-sta refine --in_optimisation_set Extract/job010/")
    assert "Refine3D/job003" in monitor.command.text()

    # It has not converged: the card says so, and how to go on.
    assert "before it had converged" in dock.card.text
    dock.card.button("Continue").click()
    wait(lambda: dock.form.rows["continue_from"].get() is not None, 20)
    assert dock.stack.currentWidget() is dock.form
    assert dock.form.rows["continue_from"].get() == "Refine3D/job003/run_it002_optimiser.star"
    job = dock.form.value()
    assert (job.mask_diameter_angst, job.initial_sampling_deg, job.max_iterations) == (76.0, "3.7", None)
    wait(lambda: dock.run_button.isEnabled(), 20)


def test_stop_is_quick_and_resume_goes_on(dock, bench, wait, viewer, qtbot):
    ticket = start(dock, wait)
    wait(lambda: ticket.progress is not None and ticket.progress.data.get("iteration") == 2, 60)
    began = time.monotonic()
    dock.stop_button.click()
    wait(lambda: ticket.state == "stopped", 2.0)
    print(f"stop took {time.monotonic() - began:.2f} s")
    assert "Resume goes on from the last finished iteration" in dock.card.text
    kept = ticket.out / "run_it001_half1_class001.mrc"
    written = kept.stat().st_mtime_ns
    assert not (ticket.out / "run_it002_half1_class001.mrc").exists()

    # The Project dock and the Inspect dock offer the same, also after napari was closed in between.
    project, inspect = ProjectDock(viewer), InspectDock(viewer)
    for other in (project, inspect):
        qtbot.addWidget(other)
    wait(lambda: ticket.name in bench.view.interrupted)
    project.select(ticket.name)
    assert "Resume" in project.details.text()
    project._fill_next()
    assert "Resume" in [action.text() for action in project.next_menu.actions()]
    inspect.load(str(ticket.out))
    wait(lambda: "was interrupted in iteration 2" in inspect.monitor.banner.text)

    inspect.monitor.banner.button("Resume").click()
    wait(lambda: len(bench.queue.tickets) == 2, 10)
    again = bench.queue.tickets[1]
    # The page of the refinement, which was open all the time, has its Stop button back.
    wait(lambda: again.state == "running" and dock.stop_button.isVisible(), 20)
    assert dock.stack.currentWidget() is dock.monitor
    assert dock.stop_button.isEnabled()
    assert not dock.run_button.isVisible()
    wait(lambda: again.state not in ("queued", "running"), 60)
    assert again.state == "done", again.error
    assert again.out == ticket.out
    assert again.record["iterations"] == 2
    assert kept.stat().st_mtime_ns == written  # it was not done anew
    wait(lambda: [one.number for one in dock.monitor.run.iterations] == [1, 2])
    wait(lambda: halves(viewer)[1].metadata["napari_sta"]["iteration"] == 2)
    wait(lambda: "before it had converged" in inspect.monitor.banner.text)
    assert ticket.name not in bench.view.interrupted or _soon(wait, lambda: not bench.view.interrupted)


def _soon(wait, ready) -> bool:
    wait(ready)
    return True


@pytest.mark.parametrize("page", ["refinement", "options", "another job"])
def test_stop_again_after_resume_keeps_the_history(dock, bench, wait, viewer, page):
    """Stopped again before the first resumed iteration has ended, from whichever page it was resumed."""
    ticket = start(dock, wait)
    wait(lambda: ticket.progress is not None and ticket.progress.data.get("iteration") == 2, 60)
    dock.stop_button.click()
    wait(lambda: ticket.state == "stopped", 10)
    assert not dock.stop_button.isVisible()
    history = (ticket.out / "run_history.json").read_text()
    if page == "options":
        dock.pages.setCurrentIndex(0)
    elif page == "another job":
        dock.fill("recenter", {})
    bench.queue.resume(ticket.out)
    wait(lambda: len(bench.queue.tickets) == 2 and bench.queue.tickets[1].progress is not None, 60)
    again = bench.queue.tickets[1]
    wait(lambda: again.progress.data.get("phase") == "expectation" or again.state != "running", 60)
    assert again.state == "running"
    assert dock.stop_button.isVisible()
    assert dock.stop_button.isEnabled()
    dock.stop_button.click()
    wait(lambda: again.state == "stopped", 10)
    assert (ticket.out / "run_history.json").read_text() == history


def test_resume_is_still_there_when_the_queue_has_gone_on(dock, bench, wait):
    """The card tells of the job that came after; the page of the refinement tells how that one ended."""
    ticket = start(dock, wait)
    wait(lambda: ticket.progress is not None and ticket.progress.data.get("iteration") == 2, 60)
    recenter = {"in_optimisation_set": VALUES["in_optimisation_set"], "center_z_px": "1"}
    after = bench.queue.run(job_named("recenter").from_text(recenter))
    dock.stop_button.click()
    wait(lambda: after.state == "done", 20)
    dock.pages.setCurrentIndex(1)
    wait(lambda: "was interrupted in iteration 2" in dock.monitor.banner.text)
    dock.monitor.banner.button("Resume").click()
    wait(lambda: bench.queue.running is not None and bench.queue.running.out == ticket.out, 10)
    assert not dock.monitor.banner.isVisible()
    dock.stop()


# -- looking at what is there ----------------------------------------------------------------------


def test_bar_of_the_command_line_starts_anew_with_each_iteration(capsys):
    from napari_sta.cli import _with_bar

    def steps():
        for number in (1, 2):
            for done in (0, 20, 40):
                data = {"iteration": number, "phase": "expectation"}
                yield Progress(done, 40, f"iteration {number}: expectation", data)
                time.sleep(0.12)
            yield Progress(40, 40, f"iteration {number}: 20 Å", {"iteration": number, "phase": "done"})
        return {"seconds": 0.0}

    assert _with_bar(steps(), "Refine3D/job003", quiet=False) == {"seconds": 0.0}
    lines = [line.strip() for line in capsys.readouterr().err.replace("\r", "\n").splitlines()]
    assert lines.count("iteration 1: 20 Å") == 1
    assert lines.count("iteration 2: 20 Å") == 1
    second = [line for line in lines if line.startswith("iteration 2, aligning particles")]
    assert any("20/40" in line for line in second)
    assert not any(line.startswith("iteration 2") and "60/" in line for line in lines)
    assert max(len(line) for line in lines) < 100
