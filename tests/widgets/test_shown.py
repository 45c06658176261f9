"""What is on the canvas: the true hand, contours on slices, particles in a cloud."""

from __future__ import annotations

import numpy as np
import pytest
from qt_loop import settle

from napari_sta.layers.read import read_layers
from napari_sta.widgets.shown import HAND
from napari_sta.widgets.workbench import Workbench


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
    bench.shown.add([cube(34, "red"), cube(10, "green")])
    assert tuple(str(o.value) for o in shown.scene.camera.orientation) == HAND
    shown.dims.ndisplay = 3
    shown.scene.camera.angles = (0, 0, 0) if before != HAND else shown.scene.camera.angles
    # Look along +z: x to the right, y down.
    shown.scene.camera.set_view_direction(view_direction=(1, 0, 0), up_direction=(0, -1, 0))
    shown.fit_to_view()
    settle(lambda: shown.screenshot(canvas_only=True, flash=False)[..., :3].max() > 50, 5.0)
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
    bench.shown.add([(data, meta, kind)])
    shown.dims.ndisplay = 3
    shown.scene.camera.set_view_direction(view_direction=(1, 0, 0), up_direction=(0, -1, 0))
    shown.fit_to_view()
    settle(lambda: shown.screenshot(canvas_only=True, flash=False)[..., :3].max() > 50, 5.0)
    blue = shown.screenshot(canvas_only=True, flash=False)[..., 2].astype(float)
    assert blue.max() > 50
    scene = np.argwhere(blue > 0.5 * blue.max()).mean(axis=0) / blue.shape
    corner = shown.layers[0].extent.world.mean(axis=0)
    np.testing.assert_allclose(corner, -0.5, atol=1)
    assert scene[0] < 0.5, "y does not point down"
    assert scene[1] > 0.5, "x does not point right"


def test_camera_is_given_back_with_the_last_layer(viewer):
    before = viewer.scene.camera.orientation
    bench = Workbench.of(viewer)
    viewer.add_image(np.zeros((4, 4, 4)), name="someone else's")
    assert viewer.scene.camera.orientation == before
    bench.shown.add([cube(10, "red")])
    assert tuple(str(o.value) for o in viewer.scene.camera.orientation) == HAND
    assert viewer.canvas.overlays.scale_bar.visible
    viewer.layers.remove("red")
    assert viewer.scene.camera.orientation == before
    assert not viewer.canvas.overlays.scale_bar.visible


def test_contours_are_for_slices_only(viewer):
    from napari_sta.data.volume import Volume
    from napari_sta.layers.volumes import mask_layers

    bench = Workbench.of(viewer)
    ball = np.zeros((16, 16, 16), np.float32)
    ball[4:12, 4:12, 4:12] = 1
    _, contour = bench.shown.add(mask_layers(Volume(ball, 2.0, "m.mrc")))
    assert contour.contour == 1
    viewer.dims.ndisplay = 3
    assert not contour.visible
    viewer.dims.ndisplay = 2
    assert contour.visible


def test_particles_are_seen_and_move_no_slider(make_napari_viewer, small_project, monkeypatch):
    from napari.utils import notifications

    told = []
    monkeypatch.setattr(notifications, "show_info", told.append)
    viewer = make_napari_viewer(show=False)
    bench = Workbench.of(viewer)
    bench.shown.add([cube(24, "red")])
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


def test_a_tomogram_comes_behind_its_particles(viewer, small_project):
    bench = Workbench.of(viewer)
    bench.shown.add(read_layers(small_project.particles_path))
    data, meta, kind = cube(24, "gray")
    ours = {"kind": "tomogram", "path": "rec_TS_01.mrc", "tomogram": "TS_01"}
    bench.shown.add([(data, meta | {"name": "tomogram", "metadata": {"napari_sta": ours}}, kind)])
    assert viewer.layers[0].name == "tomogram"
    assert len(viewer.layers) > 2


def test_error_without_a_dock_is_a_notification(viewer, tmp_path, monkeypatch):
    from napari.utils import notifications

    told = []
    monkeypatch.setattr(notifications, "show_error", told.append)
    bench = Workbench.of(viewer)
    bench.shown.show([tmp_path / "missing.mrc"])
    assert settle(lambda: bool(told))
    assert "missing.mrc" in told[0]
