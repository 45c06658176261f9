"""3D auto-refine from the docks: form, run, iterations as layers and curves, stop, resume, continue."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from napari_sta.cli import step_words
from napari_sta.data.volume import Volume
from napari_sta.io.mrc import read_volume, write_volume
from napari_sta.jobs._job import Progress, job_named
from napari_sta.layers import map_layer, mask_layers
from napari_sta.phantoms.spec import dose_symmetric
from napari_sta.widgets.form import Fold, JobForm
from napari_sta.widgets.inspect_dock import InspectDock
from napari_sta.widgets.job_dock import JobDock
from napari_sta.widgets.project_dock import ProjectDock
from napari_sta.widgets.refine_history import Iteration, read_refinement
from napari_sta.widgets.refine_monitor import draw_curves
from napari_sta.widgets.workbench import HAND
from tiny_project import finish, make_project

BOX_PX, PIXEL_ANGST = 24, 4.0
VALUES = {
    "in_optimisation_set": "Extract/job010/optimisation_set.star", "in_3dref": "Extract/job010/reference.mrc",
    "mask_diameter_angst": 76.0, "initial_lowpass_angst": 24.0, "initial_sampling_deg": "3.7",
    "local_searches_from_deg": "3.7", "offset_range_px": 2.0, "max_iterations": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def extracted(tmp_path_factory) -> Path:
    """A RELION project with extracted particles: read it, don't change it."""
    root = tmp_path_factory.mktemp("refine") / "project"
    project = make_project(
        root, n_tomograms=3, particles_per_tomogram=8, snr=0.6, tilts_deg=dose_symmetric(60, 20.0),
        angle_error_deg=4.0, position_error_angst=3.0, map_box_px=BOX_PX,
    )  # fmt: skip
    job = {
        "in_optimisation_set": str(project.paths.optimisation_set),
        "box_size_px": 32,
        "crop_size_px": BOX_PX,
    }
    finish(job_named("extract").from_text(job), root / "Extract/job010")
    truth = project.phantom.truth_map
    bright = truth.data * np.float32(truth.box_px**0.5)
    write_volume(root / "Extract/job010/reference.mrc", Volume(bright, truth.pixel_size_angst))
    return root


@pytest.fixture
def place(extracted, tmp_path) -> Path:
    return Path(shutil.copytree(extracted, tmp_path / "project"))


@pytest.fixture(scope="module")
def finished(extracted, tmp_path_factory) -> Path:
    """The folder of a refinement of two iterations, run without any viewer."""
    from napari_sta.jobs._run import JobRun, RunOptions

    root = Path(shutil.copytree(extracted, tmp_path_factory.mktemp("finished") / "project"))
    values = VALUES | {name: str(root / VALUES[name]) for name in ("in_optimisation_set", "in_3dref")}
    run = JobRun(job_named("refine").from_text(values), RunOptions(out=root / "Refine3D/job020", threads=2))
    for _ in run.steps():
        pass
    return root / "Refine3D/job020"


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


def test_form_has_relions_tabs_in_order_and_choices_in_words(qtbot):
    form = JobForm(job_named("refine"))
    qtbot.addWidget(form)
    folds = [fold._button for fold in form.findChildren(Fold)]
    assert [button.text() for button in folds] == [
        "I/O", "Reference", "CTF", "Optimisation", "Auto-sampling", "More options",
    ]  # fmt: skip
    assert [button.isChecked() for button in folds] == [True] * 5 + [False]
    box = form.rows["initial_sampling_deg"].widget.native
    assert [box.itemText(i) for i in range(box.count())][:3] == ["30 degrees", "15 degrees", "7.5 degrees"]
    assert box.currentText() == "7.5 degrees"
    assert form.rows["initial_sampling_deg"].label.text() == "Initial angular sampling"
    assert form.rows["absolute_greyscale"].widget.native.currentText() == "fit it to the images"
    assert "fit it to the images" in form.rows["absolute_greyscale"].dot.toolTip()
    assert form.rows["padding"].widget.native.currentText() == "twice the box"
    assert form.rows["tilt_prior_width_deg"].widget.native.lineEdit().placeholderText() == "no prior"


def test_what_equals_the_default_is_not_given(qtbot):
    """A continued refinement takes over everything that is not given: defaults must not override it."""
    form = JobForm(job_named("refine"))
    qtbot.addWidget(form)
    form.set_values(
        {"continue_from": "Refine3D/job016/run_it003_optimiser.star", "symmetry": "C6", "padding": 1}
    )
    job = form.value()
    assert job.model_fields_set == {"continue_from", "symmetry", "padding"}
    assert job.padding == 1


# -- running ---------------------------------------------------------------------------------------


def test_iterations_arrive_as_layers_and_curves(dock, bench, wait, viewer):
    ticket = start(dock, wait)
    wait(lambda: ticket.progress is not None and "iteration" in ticket.progress.data, 60)
    assert dock.pages.isVisible()
    assert dock.stack.currentWidget() is dock.monitor
    wait(lambda: "Iteration 1, aligning particles" in dock.doing.text(), 60)
    assert " of 18" in dock.doing.text()
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
    wait(lambda: len(bench.tickets) == 2, 10)
    again = bench.tickets[1]
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
    bench.resume(ticket.out)
    wait(lambda: len(bench.tickets) == 2 and bench.tickets[1].progress is not None, 60)
    again = bench.tickets[1]
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
    after = bench.run(job_named("recenter").from_text(recenter))
    dock.stop_button.click()
    wait(lambda: after.state == "done", 20)
    dock.pages.setCurrentIndex(1)
    wait(lambda: "was interrupted in iteration 2" in dock.monitor.banner.text)
    dock.monitor.banner.button("Resume").click()
    wait(lambda: bench.running is not None and bench.running.out == ticket.out, 10)
    assert not dock.monitor.banner.isVisible()
    dock.stop()


def test_half_maps_are_seen_while_they_are_shown(viewer, qtbot, bench, finished, wait):
    """What other docks have shown before is hidden, and comes back; what they show next ends it."""
    old = Volume(
        np.random.default_rng(0).normal(size=(BOX_PX,) * 3).astype(np.float32), PIXEL_ANGST, "old.mrc"
    )
    ball = np.zeros((BOX_PX,) * 3, np.float32)
    ball[8:16, 8:16, 8:16] = 1
    older = bench.add([map_layer(old), *mask_layers(Volume(ball, PIXEL_ANGST, "mask.mrc"))])
    dock = InspectDock(viewer)
    qtbot.addWidget(dock)
    dock.load(str(finished))
    monitor = dock.monitor
    wait(lambda: len(halves(viewer)) == 2)
    one, two = (halves(viewer)[half] for half in (1, 2))

    def seen() -> list:
        return [layer for layer in viewer.layers if layer.visible]

    def view(key: str) -> None:
        monitor.view.setCurrentIndex(monitor.view.findData(key))

    assert seen() == [one]
    view("both")
    assert set(seen()) == {one, two}
    view("half2")
    assert seen() == [two]
    before = np.array(two.data)
    monitor.slider.setValue(1)
    wait(lambda: two.metadata["napari_sta"]["iteration"] == 1)
    assert not np.array_equal(two.data, before)
    assert seen() == [two]
    view("none")
    assert seen() == older

    # Another map that somebody asks for is seen, and the choice says that the half maps are not.
    view("half1")
    [new] = bench.add([map_layer(Volume(old.data, PIXEL_ANGST, "new.mrc"))])
    assert set(seen()) == {*older, new}
    assert monitor.view.currentData() == "none"
    monitor.slider.setValue(2)
    view("half1")
    wait(lambda: one.metadata["napari_sta"]["iteration"] == 2)
    assert seen() == [one]
    # Whoever asks for the same refinement again wants to see it.
    bench.stage.leave()
    assert monitor.view.currentData() == "none"
    dock.load(str(finished))
    assert monitor.view.currentData() == "half1"
    assert seen() == [one]
    # Above everything, also what is not ours.
    foreign = viewer.add_image(np.zeros((BOX_PX,) * 3), name="someone else's")
    view("half2")
    assert list(viewer.layers).index(two) > list(viewer.layers).index(foreign)


def test_layers_do_not_pile_up(viewer, qtbot, bench, finished, tmp_path, wait):
    """Another refinement's half maps take the place of those before, also where two docks show them."""
    other = Path(shutil.copytree(finished, tmp_path / "Refine3D/job021"))
    first, second = InspectDock(viewer), InspectDock(viewer)
    for dock in (first, second):
        qtbot.addWidget(dock)
        dock.load(str(finished))
    wait(lambda: len(first.monitor.layers) == len(second.monitor.layers) == 2)
    assert len(viewer.layers) == 2
    first.load(str(other))
    wait(lambda: len(viewer.layers) == 4)  # the other dock still shows the first
    second.load(str(other))
    wait(lambda: len(viewer.layers) == 2 and len(second.monitor.layers) == 2)
    assert {layer.metadata["napari_sta"]["run"] for layer in viewer.layers} == {str(other)}
    assert first.monitor.view.currentData() == "none"  # the second has taken the canvas
    assert second.monitor.view.currentData() == "half1"
    first.load(str(finished))
    assert first.monitor.view.currentData() == "half1"  # a new choice is shown
    wait(lambda: len(first.monitor.layers) == 2)


def test_resume_of_a_folder_without_a_job_is_told(bench, tmp_path, wait):
    told = []
    bench.resume(tmp_path, failed=lambda error: told.append(str(error)))
    wait(lambda: bool(told))
    assert "no job.json" in told[0]
    assert bench.tickets == []


# -- looking at what is there ----------------------------------------------------------------------


@pytest.fixture
def relions(finished, tmp_path) -> Path:
    """The same refinement with nothing but the files that RELION writes."""
    folder = Path(shutil.copytree(finished.parent.parent, tmp_path / "relion")) / "Refine3D/job020"
    for path in folder.iterdir():
        if not path.name.startswith("run_it") or path.suffix == ".npz":
            path.unlink()
    return folder


def test_relions_files_say_what_our_history_says(finished, relions):
    ours, theirs = read_refinement(finished), read_refinement(relions)
    assert (ours.is_ours, theirs.is_ours) == (True, False)
    assert [one.number for one in theirs.iterations] == [1, 2]
    for a, b in zip(ours.iterations, theirs.iterations, strict=True):
        for name in ("resolution_angst", "sampling_deg", "offset_step_angst", "changes_deg"):
            assert getattr(b, name) == pytest.approx(getattr(a, name), rel=1e-3), name
        assert b.p_max == pytest.approx(a.p_max, abs=0.05)  # a model file has it of one half set only
        assert b.image_size_px == a.image_size_px
        assert b.edge_angst == pytest.approx(BOX_PX * PIXEL_ANGST)
        np.testing.assert_allclose(b.fsc, a.fsc, atol=2e-5)
        assert b.accuracy_deg == (None if a.accuracy_deg is None else pytest.approx(a.accuracy_deg, rel=1e-3))
    assert theirs.optimiser == relions / "run_it002_optimiser.star"
    assert not theirs.can_resume


def test_damaged_or_half_written_iterations_are_left_out(relions, finished):
    text = (relions / "run_it002_half1_model.star").read_text()
    (relions / "run_it002_half1_model.star").write_text(text[: len(text) // 8])
    assert [one.number for one in read_refinement(relions).iterations] == [1]
    (relions / "run_history.json").write_text("[{")
    assert [one.number for one in read_refinement(relions).iterations] == [1]


@pytest.mark.parametrize("through", ["inspect", "project", "optimiser"])
def test_old_refinement_opens(viewer, qtbot, bench, relions, wait, through):
    inspect, project = InspectDock(viewer), ProjectDock(viewer)
    for dock in (inspect, project):
        qtbot.addWidget(dock)
    inspect.show()
    bench.open_project(relions)
    wait(lambda: bench.view is not None)
    names = [inspect.chooser.itemText(i) for i in range(inspect.chooser.count())]
    assert "Refine3D/job020" in names
    if through == "inspect":
        inspect.chooser.setCurrentIndex(names.index("Refine3D/job020"))
    elif through == "optimiser":
        inspect.load(str(relions / "run_it002_optimiser.star"))
    else:
        asked = []
        bench.inspect.connect(asked.append)
        project.select("Refine3D/job020")
        project._show(project.tree.currentItem())
        assert [Path(one) for one in asked] == [relions]
        inspect.load(asked[0])
    monitor = inspect.monitor
    wait(lambda: len(halves(viewer)) == 2)
    assert inspect.pages.currentWidget() is monitor
    assert "ended before it had converged" in monitor.banner.text
    assert not inspect.compare.isVisible()


def test_slider_shows_an_earlier_iteration(viewer, qtbot, bench, finished, wait):
    dock = InspectDock(viewer)
    qtbot.addWidget(dock)
    dock.show()
    dock.load(str(finished))
    monitor = dock.monitor
    wait(lambda: len(halves(viewer)) == 2)
    layers = halves(viewer)
    assert layers[1].metadata["napari_sta"]["iteration"] == 2
    layers[1].contrast_limits = (0.0, 0.5)  # the user's own
    monitor.slider.setValue(1)
    wait(lambda: all(one.metadata["napari_sta"]["iteration"] == 1 for one in layers.values()))
    for half, layer in layers.items():
        found = read_volume(finished / f"run_it001_half{half}_class001.mrc").data
        np.testing.assert_array_equal(layer.data, found)
        assert layer.name.endswith("it 1")
    assert tuple(layers[1].contrast_limits) == (0.0, 0.5)
    assert monitor.about.text() == monitor.run.iterations[0].sentence()
    assert "iteration 2" in monitor.headline.text()
    monitor.refresh()  # a look at the folder does not pull the slider away
    wait(lambda: monitor._reading.idle)
    assert monitor.slider.value() == 1
    assert monitor._optimiser() == finished / "run_it001_optimiser.star"

    monitor.view.setCurrentIndex(monitor.view.findData("both"))
    assert [layers[half].colormap.name for half in (1, 2)] == ["green", "magenta"]
    assert all(one.visible and one.blending == "additive" for one in layers.values())
    monitor.view.setCurrentIndex(monitor.view.findData("half2"))
    assert [layers[half].visible for half in (1, 2)] == [False, True]

    # What the user has removed comes back only when asked for.
    viewer.layers.clear()
    monitor.slider.setValue(2)
    wait(lambda: monitor._mapping.idle and monitor._reading.idle)
    assert len(viewer.layers) == 0
    monitor.view.setCurrentIndex(monitor.view.findData("half1"))
    wait(lambda: len(halves(viewer)) == 2)


def test_other_docks_leave_the_half_maps_alone(viewer, qtbot, bench, finished, wait):
    """The Align dock takes up what a user drops into the viewer, not maps that come by themselves."""
    from napari_sta.widgets.align_dock import AlignDock

    align, inspect = AlignDock(viewer), InspectDock(viewer)
    for dock in (align, inspect):
        qtbot.addWidget(dock)
    inspect.load(str(finished))
    wait(lambda: len(halves(viewer)) == 2)
    wait(lambda: align._reading.idle)
    assert align.map_box.path() == ""
    assert len(viewer.layers) == 2


def test_curves_are_of_the_iterations():
    def one(number: int, resolution: float) -> Iteration:
        fsc = np.linspace(1, 0, 13) ** number
        return Iteration(
            number, resolution, 0.5 + 0.1 * number, 1.875, 2.0, 24, fsc, 96.0, accuracy_deg=1.0 * number or None,
            changes_deg=5.0 / number, is_last=False,
        )  # fmt: skip

    iterations = (one(1, 30.0), one(2, 20.0), one(3, 16.0))
    figure = Figure(figsize=(3.6, 2.9))
    draw_curves(figure, {"background": "#000000", "text": "#ffffff", "line": "#888888"}, iterations, 2)
    fsc, resolution, angles, p_max = figure.axes
    curves = {tuple(line.get_ydata()): line for line in fsc.lines[1:]}
    assert len(curves) == 3
    chosen = curves[tuple(iterations[1].fsc)]
    assert [line.get_color() == chosen.get_color() for line in curves.values()] == [False, True, False]
    np.testing.assert_allclose(chosen.get_xdata(), np.arange(13) / 96.0)
    np.testing.assert_array_equal(resolution.lines[0].get_xydata(), [[1, 30], [2, 20], [3, 16]])
    named = {line.get_label(): list(line.get_ydata()) for line in angles.lines}
    assert named["step"] == [1.875] * 3
    assert named["change"] == [5.0, 2.5, 5.0 / 3]
    assert named["accuracy"] == [1.0, 2.0, 3.0]
    np.testing.assert_allclose(p_max.lines[0].get_ydata(), [0.6, 0.7, 0.8])
    assert [list(axis.lines[-1].get_xdata()) for axis in (resolution, angles, p_max)] == [[2, 2]] * 3
    # Nothing is cut off at the top.
    assert angles.get_ylim()[1] > 5
    assert resolution.get_ylim()[1] > 30


def test_steps_are_said_in_plain_words():
    data = {"iteration": 3, "phase": "expectation", "last": False}
    assert step_words(Progress(4, 9, "iteration 3: expectation", data)) == "iteration 3, aligning particles"
    last = data | {"last": True, "phase": "maximisation"}
    assert step_words(Progress(9, 9, "x", last)) == "iteration 3 (the last), reconstructing"
    assert step_words(Progress(0, 0, "reading")) == "reading"


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


def test_history_of_a_finished_job_is_plain_json(finished):
    """What the docks and ``--json`` live on."""
    records = json.loads((finished / "run_history.json").read_text())
    assert [one["iteration"] for one in records] == [1, 2]
    assert {"resolution_angst", "fsc", "edge_angst", "p_max", "sampling_deg", "sentence"} <= set(records[0])
