"""A refinement on show: its half maps as layers, an iteration at a time."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from refinements import BOX_PX, PIXEL_ANGST

from napari_sta.data.volume import Volume
from napari_sta.io.mrc import read_volume
from napari_sta.layers.volumes import map_layer, mask_layers
from napari_sta.widgets.inspect_dock import InspectDock
from napari_sta.widgets.project_dock import ProjectDock


def halves(viewer) -> dict[int, object]:
    return {
        layer.metadata["napari_sta"]["half"]: layer
        for layer in viewer.layers
        if layer.metadata.get("napari_sta", {}).get("run")
    }


def test_half_maps_are_seen_while_they_are_shown(viewer, qtbot, bench, finished, wait):
    """What other docks have shown before is hidden, and comes back; what they show next ends it."""
    old = Volume(
        np.random.default_rng(0).normal(size=(BOX_PX,) * 3).astype(np.float32), PIXEL_ANGST, "old.mrc"
    )
    ball = np.zeros((BOX_PX,) * 3, np.float32)
    ball[8:16, 8:16, 8:16] = 1
    older = bench.shown.add([map_layer(old), *mask_layers(Volume(ball, PIXEL_ANGST, "mask.mrc"))])
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
    [new] = bench.shown.add([map_layer(Volume(old.data, PIXEL_ANGST, "new.mrc"))])
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
    bench.queue.resume(tmp_path, failed=lambda error: told.append(str(error)))
    wait(lambda: bool(told))
    assert "no job.json" in told[0]
    assert bench.queue.tickets == []


@pytest.mark.parametrize("through", ["inspect", "project", "optimiser"])
@pytest.mark.usefixtures("real_window")
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
    assert align.map_box.value() == ""
    assert len(viewer.layers) == 2
