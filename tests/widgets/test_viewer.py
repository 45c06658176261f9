"""The whole plugin in a real viewer: manifest, hand, drops, docks; and how light its import is."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from npe2 import PluginManifest
from qt_loop import settle
from qtpy.QtCore import QMimeData, QPointF, Qt, QTimer, QUrl
from qtpy.QtGui import QDropEvent

import napari_sta
from napari_sta import layers
from napari_sta.widgets import add_docks, get_reader
from napari_sta.widgets.workbench import DOCKS, HAND, Workbench, preferences

MANIFEST = Path(napari_sta.__file__).parent / "napari.yaml"


def test_manifest_is_valid_and_every_command_exists():
    manifest = PluginManifest.from_file(MANIFEST)
    manifest.validate_imports()
    for command in manifest.contributions.commands:
        module, _, name = command.python_name.partition(":")
        assert callable(getattr(importlib.import_module(module), name)), command.id
    assert [w.display_name for w in manifest.contributions.widgets] == list(DOCKS.values())
    [reader] = manifest.contributions.readers
    assert reader.accepts_directories
    assert {"*.mrc", "*.map", "*.mrcs", "*.rec", "*.star"} <= set(reader.filename_patterns)


def test_importing_the_widgets_package_is_light():
    code = (
        "import sys, napari_sta.widgets, napari_sta.layers;"
        "print([m for m in ('torch', 'qtpy', 'napari', 'pandas', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_layer_module_knows_no_napari():
    source = (Path(napari_sta.__file__).parent / "layers.py").read_text()
    assert "import napari\n" not in source
    assert "qtpy" not in source


@pytest.fixture
def shown(make_napari_viewer):
    """A viewer on the screen: hidden ones draw nothing."""
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(900, 700)
    return viewer


def cube(centre_z: int, colour: str) -> tuple:
    data = np.zeros((48, 48, 48), np.float32)
    data[centre_z - 5 : centre_z + 5, 12:36, 12:36] = 1
    meta = {
        "name": colour, "scale": (1.0,) * 3, "translate": (-24.0,) * 3, "units": ("angstrom",) * 3,
        "colormap": colour, "rendering": "iso", "iso_threshold": 0.5, "contrast_limits": (0, 1),
        "metadata": {"napari_sta": {"kind": "map", "path": f"{colour}.mrc"}},
    }  # fmt: skip
    return data, meta, "image"


def test_3d_view_has_the_true_hand(shown):
    """Looking along +z with y down and x right, the cube at low z hides the one at high z."""
    bench = Workbench.of(shown)
    before = tuple(str(o.value) for o in shown.scene.camera.orientation)
    bench.add([cube(34, "red"), cube(10, "green")])
    assert tuple(str(o.value) for o in shown.scene.camera.orientation) == HAND
    shown.dims.ndisplay = 3
    shown.scene.camera.angles = (0, 0, 0) if before != HAND else shown.scene.camera.angles
    # Look along +z: x to the right, y down.
    shown.scene.camera.set_view_direction(view_direction=(1, 0, 0), up_direction=(0, -1, 0))
    shown.fit_to_view()
    settle(lambda: False, 1.0)
    picture = shown.screenshot(canvas_only=True, flash=False)[..., :3].astype(float)
    h, w = picture.shape[:2]
    middle = picture[h // 2 - 20 : h // 2 + 20, w // 2 - 20 : w // 2 + 20].reshape(-1, 3).mean(axis=0)
    assert middle[1] > 50, f"nothing of the low-z cube is seen: {middle}"
    assert middle[1] > 3 * middle[0], f"the high-z cube is in front: {middle}"

    # y is down and x to the right: a corner blob at low y, high x appears at the top right.
    shown.layers.clear()
    data, meta, kind = cube(24, "blue")
    data = np.zeros_like(data)
    data[20:28, 2:12, 36:46] = 1
    bench.add([(data, meta, kind)])
    shown.dims.ndisplay = 3
    shown.scene.camera.set_view_direction(view_direction=(1, 0, 0), up_direction=(0, -1, 0))
    shown.fit_to_view()
    settle(lambda: False, 1.0)
    blue = shown.screenshot(canvas_only=True, flash=False)[..., 2].astype(float)
    assert blue.max() > 50
    scene = np.argwhere(blue > 0.5 * blue.max()).mean(axis=0) / blue.shape
    corner = shown.layers[0].extent.world.mean(axis=0)
    np.testing.assert_allclose(corner, -0.5, atol=1)
    assert scene[0] < 0.5, "y does not point down"
    assert scene[1] > 0.5, "x does not point right"


def test_camera_is_given_back_with_the_last_layer(make_napari_viewer):
    viewer = make_napari_viewer(show=False)
    before = viewer.scene.camera.orientation
    bench = Workbench.of(viewer)
    viewer.add_image(np.zeros((4, 4, 4)), name="someone else's")
    assert viewer.scene.camera.orientation == before
    bench.add([cube(10, "red")])
    assert tuple(str(o.value) for o in viewer.scene.camera.orientation) == HAND
    assert viewer.canvas.overlays.scale_bar.visible
    viewer.layers.remove("red")
    assert viewer.scene.camera.orientation == before
    assert not viewer.canvas.overlays.scale_bar.visible


def test_contours_are_for_slices_only(make_napari_viewer):
    from napari_sta.data.volume import Volume
    from napari_sta.layers import mask_layers

    viewer = make_napari_viewer(show=False)
    bench = Workbench.of(viewer)
    ball = np.zeros((16, 16, 16), np.float32)
    ball[4:12, 4:12, 4:12] = 1
    _, contour = bench.add(mask_layers(Volume(ball, 2.0, "m.mrc")))
    assert contour.contour == 1
    viewer.dims.ndisplay = 3
    assert not contour.visible
    viewer.dims.ndisplay = 2
    assert contour.visible


def test_docks_open_tabbed_and_the_workbench_is_shared(make_napari_viewer, small_project):
    viewer = make_napari_viewer(show=False)
    bench = add_docks(viewer, [small_project.root])
    assert settle(lambda: bench.view is not None)
    assert Workbench.of(viewer) is bench
    for key in DOCKS:
        assert bench.open_dock(key).bench is bench
    other = make_napari_viewer(show=False)
    assert Workbench.of(other) is not bench


def test_reader_is_used_by_napari(make_napari_viewer, small_project, tmp_path):
    viewer = make_napari_viewer(show=False)
    [layer] = viewer.open(str(small_project.map_path), plugin="napari-sta")
    np.testing.assert_allclose(layer.data_to_world(np.array(layer.data.shape) // 2), 0, atol=1e-6)
    assert tuple(str(o.value) for o in viewer.scene.camera.orientation) == HAND
    viewer.layers.clear()
    viewer.open(str(small_project.root), plugin="napari-sta")  # opens the Project dock, adds no layer
    bench = Workbench.of(viewer)
    assert settle(lambda: bench.view is not None)
    assert bench.view.root == small_project.root
    assert get_reader(str(tmp_path / "x.png")) is None


@pytest.mark.parametrize("what", ["map", "job", "star", "project"])
def test_drop_on_the_canvas_is_read_in_a_worker(make_napari_viewer, small_project, what):
    viewer = make_napari_viewer(show=False)
    bench = Workbench.of(viewer)
    path = {
        "map": small_project.map_path,
        "job": small_project.map_path.parent,
        "star": small_project.particles_path,
        "project": small_project.root,
    }[what]
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(path))])
    left, none = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    event = QDropEvent(QPointF(5, 5), Qt.DropAction.CopyAction, mime, left, none)
    # Qt delivers a drop only in the course of a real drag: hand it to the filter, as Qt would.
    assert bench.eventFilter(viewer.window._qt_viewer, event)
    assert len(viewer.layers) == 0  # nothing was read while the event was handled
    assert settle(lambda: bench.view is not None and (what == "project" or len(viewer.layers) > 0))
    assert bench.view.root == small_project.root


def test_particles_are_seen_and_move_no_slider(make_napari_viewer, small_project, monkeypatch):
    from napari.utils import notifications

    told = []
    monkeypatch.setattr(notifications, "show_info", told.append)
    viewer = make_napari_viewer(show=False)
    bench = Workbench.of(viewer)
    bench.add([cube(24, "red")])
    viewer.dims.set_point(0, 3.0)
    point = viewer.dims.point
    bench.take(small_project.particles_path)
    assert settle(lambda: bool(told))
    assert viewer.dims.ndisplay == 3
    # napari snaps the sliders to its own steps, which the points change.
    steps = [axis.step for axis in viewer.dims.range]
    assert np.all(np.abs(np.subtract(viewer.dims.point, point)) <= np.array(steps) / 2 + 1e-9)
    assert max(steps) < 24  # so that a jump would be seen
    points = [layer for layer in viewer.layers if layer.metadata["napari_sta"]["kind"] == "particles"]
    assert [layer.visible for layer in points] == [True] + [False] * (len(points) - 1)
    assert f"tomogram {points[0].metadata['napari_sta']['tomogram']}" in told[0]
    assert f"{len(points[0].data)} of " in told[0]


def test_sample_data_opens_its_project_while_the_event_loop_turns(make_napari_viewer, wait, monkeypatch):
    import threading

    from napari_sta.phantoms import practice

    make, threads = practice.make_practice_project, []

    def noted(*given):
        threads.append(threading.current_thread())
        return make(*given)

    monkeypatch.setattr(practice, "make_practice_project", noted)
    beats = []
    timer = QTimer()
    timer.setInterval(10)
    timer.timeout.connect(lambda: beats.append(bool(threads)))
    timer.start()
    viewer = make_napari_viewer(show=False)
    viewer.open_sample("napari-sta", "practice_project")
    kinds = [layer.metadata["napari_sta"]["kind"] for layer in viewer.layers]
    assert kinds == ["map", "mask", "contour"]
    assert threads[0] is not threading.main_thread()
    assert sum(beats) > 5
    assert viewer.layers[2].contour == 1
    bench = Workbench.of(viewer)
    wait(lambda: bench.view is not None)
    assert str(bench.view.root) == viewer.layers[0].metadata["napari_sta"]["project"]
    assert {"Project", "Align & recentre"} >= {d.name.split(" (")[0] for d in docks_of(viewer)} != set()


def docks_of(viewer) -> list:
    return list(viewer.window._wrapped_dock_widgets.values())


@pytest.mark.parametrize("way", ["open", "drop", "dock", "show", "sample tuples", "into another viewer"])
def test_mask_arrives_as_a_contour_whichever_way(make_napari_viewer, small_project, way, wait):
    viewer = make_napari_viewer(show=False)
    path = str(small_project.mask_path)
    if way == "open":  # File > Open, and napari x.mrc
        viewer.open(path, plugin="napari-sta")
    elif way == "into another viewer":
        make_napari_viewer(show=False)  # the one that napari calls the current one
        viewer.open(path, plugin="napari-sta")
    elif way == "sample tuples":
        Workbench.of(viewer)
        for data, meta, kind in layers.read_layers(path):
            viewer._add_layer_from_data(data, meta, kind)
    elif way == "show":
        Workbench.of(viewer).show([path])
    else:
        bench = Workbench.of(viewer)
        mime = QMimeData()
        mime.setUrls([QUrl.fromLocalFile(path)])
        left, none = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
        event = QDropEvent(QPointF(5, 5), Qt.DropAction.CopyAction, mime, left, none)
        if way == "drop":
            assert bench.eventFilter(viewer.window._qt_viewer, event)
        else:
            bench.open_dock("project").dropEvent(event)
    wait(lambda: len(viewer.layers) == 2)
    _, contour = viewer.layers
    assert contour.contour == 1
    assert contour.visible
    assert not contour.editable
    np.testing.assert_allclose(contour.get_color(1), [1, 0x9B / 255, 0xE8 / 255, 1], atol=0.01)


def test_mask_without_the_plugins_docks_hides_nothing(small_project):
    """As another program makes layers of the tuples."""
    from napari.components import ViewerModel

    model = ViewerModel()
    for data, meta, kind in layers.read_layers(small_project.mask_path):
        model._add_layer_from_data(data, meta, kind)
    assert [layer.visible for layer in model.layers] == [True, False]


def test_map_and_labels_layers_are_saved_as_mrc(make_napari_viewer, tmp_path, small_project):
    from napari_sta.io.mrc import read_volume

    viewer = make_napari_viewer(show=False)
    [layer] = viewer.open(str(small_project.map_path), plugin="napari-sta")
    assert layer.save(str(tmp_path / "copy.mrc"), plugin="napari-sta") == [str(tmp_path / "copy.mrc")]
    copy = read_volume(tmp_path / "copy.mrc")
    np.testing.assert_array_equal(copy.data, layer.data)
    assert copy.pixel_size_angst == pytest.approx(4.0)


def test_preferences_have_defaults():
    assert preferences() == ("auto", 0)


def test_error_behind_a_tab_is_a_notification(make_napari_viewer, small_project, tmp_path, monkeypatch):
    """The Project dock would show it as a card, but another dock lies in front."""
    from napari.utils import notifications

    told = []
    monkeypatch.setattr(notifications, "show_error", told.append)
    bench = add_docks(make_napari_viewer(show=True), [small_project.root])
    assert settle(lambda: bench.view is not None)
    project = bench.open_dock("project")
    settle(project.isVisible)
    bench.take(tmp_path / "first.mrc")
    assert settle(lambda: "first.mrc" in project.card.text)
    assert not told
    bench.open_dock("align")
    settle(lambda: not project.isVisible())
    bench.take(tmp_path / "second.mrc")
    assert settle(lambda: bool(told))
    assert "second.mrc" in told[0]


def test_layers_can_be_warmed_up_in_a_thread(make_napari_viewer):
    """The thread must not fail, nor leave anything in the viewer."""
    import threading

    from napari_sta.widgets._warm_up import warm_up

    viewer = make_napari_viewer(show=False)
    failures = []
    thread = threading.Thread(target=lambda: _noting(warm_up, failures))
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert failures == []
    assert len(viewer.layers) == 0


def _noting(call, failures) -> None:
    try:
        call()
    except Exception as error:
        failures.append(error)


def test_error_without_a_dock_is_a_notification(make_napari_viewer, tmp_path, monkeypatch):
    from napari.utils import notifications

    told = []
    monkeypatch.setattr(notifications, "show_error", told.append)
    bench = Workbench.of(make_napari_viewer(show=False))
    bench.show([tmp_path / "missing.mrc"])
    assert settle(lambda: bool(told))
    assert "missing.mrc" in told[0]
