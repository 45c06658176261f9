"""The offset is found, moved, dragged, previewed, applied and undone; the numbers are checked."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtGui import QTextDocument

from napari_sta.data.volume import Volume
from napari_sta.io.mrc import read_volume, write_volume
from napari_sta.io.project.project import Project
from napari_sta.io.relion.particles import read_particles
from napari_sta.layers.read import read_layers
from napari_sta.widgets.align_dock import AlignDock


@pytest.fixture
def dock(viewer, qtbot, bench, project, wait):
    made = AlignDock(viewer)
    qtbot.addWidget(made)
    made.show()
    bench.open_project(project)
    wait(lambda: bench.view is not None)
    return made


@pytest.fixture
def loaded(dock, project, wait):
    dock.load(str(project / "Reconstruct/job003/merged.mrc"))
    wait(lambda: dock.pair is not None, 30)
    return dock


def layer_of(viewer, kind: str):
    return next(layer for layer in viewer.layers if layer.metadata["napari_sta"]["kind"] == kind)


def test_hidden_offset_is_suggested(loaded, small_project):
    assert "mask_align" in loaded.mask_box.value()
    assert loaded.offset_px == 0.0
    loaded.suggest()
    assert loaded.offset_px == pytest.approx(small_project.hidden_offset_px, abs=0.1)
    pixel = loaded.pair.map.pixel_size_angst
    assert f"{loaded.offset_px:+.2f} px ({loaded.offset_px * pixel:+.2f} Å)" in loaded.sentence.text()
    assert f"--center_Z {loaded.offset_px:g}" in loaded.sentence.text()
    assert loaded.pair.score_at(loaded.offset_px) == pytest.approx(loaded.pair.curve.score.max(), abs=1e-3)


def test_layers_move_by_the_offset_in_angstrom(loaded, viewer, wait):
    mask, contour, density = (layer_of(viewer, kind) for kind in ("mask", "contour", "map"))
    before = {layer: np.array(layer.translate) for layer in (mask, contour, density)}
    pixel = loaded.pair.map.pixel_size_angst
    loaded.set_offset(2.75)
    for layer in (mask, contour):
        np.testing.assert_allclose(layer.translate - before[layer], [2.75 * pixel, 0, 0], atol=1e-9)
    np.testing.assert_array_equal(density.translate, before[density])
    loaded.map_moves.setChecked(True)
    np.testing.assert_allclose(density.translate - before[density], [-2.75 * pixel, 0, 0], atol=1e-9)
    np.testing.assert_array_equal(mask.translate, before[mask])
    loaded.mask_moves.setChecked(True)
    np.testing.assert_array_equal(density.translate, before[density])
    wait(lambda: loaded.offset.is_settled)
    # The viewer's extent follows once the drag has settled.
    assert viewer.layers.extent.world[1][0] >= contour.extent.world[1][0] - 1e-6


@pytest.mark.parametrize(("order", "ndisplay"), [((1, 0, 2), 2), ((0, 1, 2), 3), ((0, 1, 2), 2)])
@pytest.mark.usefixtures("real_window")
def test_a_drag_slices_only_where_the_slice_changes(loaded, viewer, wait, order, ndisplay):
    viewer.dims.order, viewer.dims.ndisplay = order, ndisplay
    mask, density = layer_of(viewer, "mask"), layer_of(viewer, "map")
    node = viewer.window._qt_viewer.canvas.layer_to_visual[mask].node
    shown, sliced = [], {"mask": 0, "map": 0}
    mask.events.set_data.connect(lambda: sliced.update(mask=sliced["mask"] + 1))
    density.events.set_data.connect(lambda: sliced.update(map=sliced["map"] + 1))
    for i in range(1, 5):
        loaded.set_offset(i)
        shown.append(node.transform.matrix[3, 2 if ndisplay == 3 else 1])
    z_is_displayed = 0 in viewer.dims.displayed
    assert sliced == {"mask": 0 if z_is_displayed else 4, "map": 0}
    if z_is_displayed:  # vispy's y, or z in 3D, is napari's z
        np.testing.assert_allclose(np.diff(shown), loaded.pixel_size_angst, rtol=1e-5)
    wait(lambda: loaded.offset.is_settled)
    assert sliced == {"mask": 1 if z_is_displayed else 5, "map": 0}
    assert viewer.layers.extent.world[1][0] >= mask.extent.world[1][0] - 1e-6


@pytest.mark.usefixtures("real_window")
def test_a_tick_of_the_drag_takes_less_than_16_ms(loaded, qtbot):
    from qtpy.QtWidgets import QApplication

    for i in range(10):
        loaded.set_offset(0.1 * i)
        QApplication.processEvents()
    wall, cpu = [], []
    for i in range(60):
        began, cpu_began = time.perf_counter(), time.thread_time()
        loaded.set_offset(1 + 0.05 * i)
        wall.append(1e3 * (time.perf_counter() - began))
        cpu.append(1e3 * (time.thread_time() - cpu_began))
        QApplication.processEvents()
    print(f"drag tick: median {np.median(wall):.1f} ms, p95 {np.percentile(wall, 95):.1f} ms")
    # Processor time, of which other programs do not take a share.
    assert np.median(cpu) <= 16


def test_keys_step_the_number(loaded, qtbot):
    box = loaded.offset_box
    for modifier, step in (
        (Qt.KeyboardModifier.NoModifier, 0.25),
        (Qt.KeyboardModifier.ShiftModifier, 1.0),
        (Qt.KeyboardModifier.AltModifier, 0.05),
    ):
        before = loaded.offset_px
        qtbot.keyPress(box, Qt.Key.Key_Up, modifier)
        qtbot.keyRelease(box, Qt.Key.Key_Up, modifier)
        assert loaded.offset_px == pytest.approx(before + step, abs=1e-9)
        qtbot.keyPress(box, Qt.Key.Key_Down, modifier)
        assert loaded.offset_px == pytest.approx(before, abs=1e-9)


def test_arrow_keys_on_the_canvas_are_bound_to_the_layers_only(loaded, viewer):
    mask = layer_of(viewer, "mask")
    keys = {str(k): call for k, call in mask.keymap.items()}
    keys["Down"](mask)
    assert loaded.offset_px == 0.25
    keys["Shift+Down"](mask)
    assert loaded.offset_px == 1.25
    keys["Alt+Up"](mask)
    assert loaded.offset_px == pytest.approx(1.2)
    assert [str(key) for key in viewer.keymap] == ["Ctrl+Z"]  # arrows are the sliders' own


def test_undo_steps_back_through_offsets(loaded, wait):
    for offset in (1.0, 2.5):
        loaded.set_offset(offset)
        wait(lambda: loaded.offset.is_settled)
    loaded.offset.step_back()
    assert loaded.offset_px == 1.0
    loaded.offset.step_back()
    assert loaded.offset_px == 0.0


class Event:
    """What napari hands to a mouse callback."""

    def __init__(self, z: float) -> None:
        self.type = "mouse_press"
        self.position = (z, 0.0, 0.0)
        self.handled = False


def test_mask_is_dragged_along_z_in_the_xz_view(loaded, viewer):
    loaded.drag_button.setChecked(True)
    assert tuple(viewer.dims.displayed) == (0, 2)
    assert viewer.scene.camera.mouse_pan is False
    callback = viewer.mouse_drag_callbacks[-1]
    pixel = loaded.pair.map.pixel_size_angst
    event = Event(10.0)
    drag = callback(viewer, event)
    next(drag)
    event.type = "mouse_move"
    event.position = (10.0 + 3 * pixel, 99.0, 55.0)
    next(drag)
    assert loaded.offset_px == pytest.approx(3.0, abs=0.01)
    assert event.handled
    np.testing.assert_allclose(layer_of(viewer, "mask").translate[1:], layer_of(viewer, "map").translate[1:])
    event.type = "mouse_release"
    with pytest.raises(StopIteration):
        next(drag)
    loaded.drag_button.setChecked(False)
    assert callback not in viewer.mouse_drag_callbacks
    assert viewer.scene.camera.mouse_pan is True


def test_symmetry_decides_what_may_move(loaded):
    assert loaded.symmetry.text() == "C6"  # read from the job that made the map
    assert not loaded.x_box.isEnabled()
    loaded.symmetry.setText("C1")
    assert loaded.x_box.isEnabled()
    loaded.x_box.setValue(1.5)
    assert "--center_X 1.5" in loaded.sentence.text()
    loaded.symmetry.setText("C6")
    assert loaded.x_box.value() == 0
    loaded.set_offset(2.0)
    loaded.symmetry.setText("D2")
    assert loaded.offset_px == 0
    assert not loaded.offset_box.isEnabled()


def test_mask_of_other_box_and_pixel_size_registers(dock, viewer, tmp_path, wait):
    """A slab on a finer, larger grid: the offset is found in the map's pixels."""
    z = np.arange(48) - 24
    density = np.zeros((48, 48, 48), np.float32)
    density[np.abs(z - 3) <= 4] = 1
    density[:, np.hypot(*np.meshgrid(z, z)) > 14] = 0
    fine = np.arange(128) - 64
    mask = np.zeros((128, 128, 128), np.float32)
    mask[np.abs(fine) <= 10] = 1
    mask[:, np.hypot(*np.meshgrid(fine, fine)) > 30] = 0
    write_volume(tmp_path / "map.mrc", Volume(density, 4.0))
    write_volume(tmp_path / "slab_mask.mrc", Volume(mask, 2.0))
    dock.load(str(tmp_path / "map.mrc"), str(tmp_path / "slab_mask.mrc"))
    wait(lambda: dock.pair is not None, 30)
    dock.suggest()
    assert dock.offset_px == pytest.approx(3.0, abs=0.25)
    assert "128 px at 2 Å" in dock.card.text
    for kind, pixel in (("map", 4.0), ("mask", 2.0)):
        layer = layer_of(viewer, kind)
        centre = np.array(layer.data.shape) // 2
        moved = dock.offset_px * 4.0 if kind == "mask" else 0.0
        np.testing.assert_allclose(layer.data_to_world(centre), [moved, 0, 0], atol=0.01 * pixel)


def test_empty_mask_is_a_card(dock, tmp_path, wait):
    write_volume(tmp_path / "map.mrc", Volume(np.random.default_rng(0).random((16,) * 3, "f4"), 4.0))
    write_volume(tmp_path / "empty_mask.mrc", Volume(np.zeros((16,) * 3, np.float32), 4.0))
    dock.load(str(tmp_path / "map.mrc"), str(tmp_path / "empty_mask.mrc"))
    wait(dock.card.isVisible)
    assert "empty" in dock.card.text
    assert not dock.recentre.apply_button.isEnabled()
    dock.load(str(tmp_path / "map.mrc"), str(tmp_path / "missing_mask.mrc"))
    wait(lambda: "missing_mask.mrc" in dock.card.text)


@pytest.mark.usefixtures("real_window")
def test_apply_recentres_reconstructs_and_undo_takes_it_back(loaded, viewer, bench, project, wait):
    before = read_particles(project / "Select/job002/particles.star")
    loaded.suggest()
    d = loaded.offset_px
    wait(lambda: loaded.recentre.apply_button.isEnabled())
    assert "recenter" in loaded.recentre.command.text()
    set_before, map_before = loaded.recentre.particles.currentData(), loaded.map_box.value()
    command = loaded.recentre.command.text()
    enabled = []
    bench.queue.progressed.connect(
        lambda _: (loaded.recentre.replan(), enabled.append(loaded.recentre.apply_button.isEnabled()))
    )
    loaded.recentre.apply()
    wait(lambda: len(bench.queue.tickets) == 2 and bench.queue.tickets[1].state == "done", 60)
    assert enabled
    assert not any(enabled)  # its own run is not finished yet
    recentred, again = bench.queue.tickets
    assert recentred.state == "done", recentred.error
    after = read_particles(recentred.out / "particles.star")
    # origin += -(R_particle · d z) in the subtomogram frame, all else as it was
    from napari_sta.kernels.rotations import euler_to_matrix_zyx

    axis = euler_to_matrix_zyx(before.angles_deg)[:, :, 0]
    pixel = loaded.pair.map.pixel_size_angst
    np.testing.assert_allclose(after.origin_zyx_angst, before.origin_zyx_angst - d * pixel * axis, atol=1e-3)
    np.testing.assert_array_equal(after.coordinate_zyx_angst, before.coordinate_zyx_angst)
    wait(lambda: loaded._reading.idle and again.name in loaded.map_box.value(), 20)
    wait(lambda: loaded.pair.map.path.endswith(f"{again.name}/merged.mrc"), 20)
    loaded.suggest()
    assert loaded.offset_px == pytest.approx(0, abs=0.25)  # map and mask agree now
    assert read_volume(again.out / "merged.mrc").box_px == 64
    assert loaded.recentre.particles.currentText() == f"{recentred.name}/optimisation_set.star"

    loaded.recentre.undo()
    wait(lambda: "undone" in loaded.card.text)
    wait(lambda: loaded._reading.idle and loaded.pair.map.path == map_before, 20)
    wait(lambda: again.name not in [j.name.rstrip("/") for j in bench.view.jobs])
    assert loaded.map_box.value() == map_before
    maps = [layer for layer in viewer.layers if layer.metadata["napari_sta"]["kind"] == "map"]
    assert [layer.metadata["napari_sta"]["path"] for layer in maps] == [map_before]
    assert maps[0].visible
    assert loaded.recentre.particles.currentData() == set_before
    assert loaded.offset_px == d
    wait(loaded.recentre.apply_button.isEnabled)
    assert loaded.recentre.command.text() == command
    assert loaded.recentre.command._copy_relion.isEnabled()
    assert not loaded.recentre.undo_button.isEnabled()
    assert not any(
        again.name in loaded.map_box.combo.itemText(i) for i in range(loaded.map_box.combo.count())
    )
    assert "undone" in loaded.card.text
    assert not (project / recentred.name).exists()
    assert (project / "Trash" / recentred.name).is_dir()
    names = [job.name for job in Project(project).jobs()]
    assert f"{recentred.name}/" not in names
    assert f"{again.name}/" not in names


# -- what is on the canvas is what is applied -------------------------------------------------------


def delete(viewer, *kinds):
    for layer in list(viewer.layers):
        if layer.metadata["napari_sta"]["kind"] in kinds:
            viewer.layers.remove(layer)


def displacement(dock, viewer) -> float:
    """Return how far the mask lies from the map along Z on the canvas, in the map's pixels."""
    by_path = {one.metadata["napari_sta"]["path"]: one for one in dock.bench.ours("map", "half", "mask")}
    mask, density = by_path[dock.mask_box.value()], by_path[dock.map_box.value()]
    centres = [one.data_to_world(np.array(one.data.shape) // 2)[0] for one in (mask, density)]
    return (centres[0] - centres[1]) / dock.pixel_size_angst


def refused(dock) -> str:
    """Assert that nothing can be applied, neither by the button nor by a call; return the reason given."""
    assert not dock.recentre.apply_button.isEnabled()
    before = len(dock.bench.queue.tickets)
    dock.recentre.apply()
    assert len(dock.bench.queue.tickets) == before
    assert dock.recentre.apply_button.toolTip()
    return dock.recentre.apply_button.toolTip()


@pytest.fixture
def at_275(loaded, wait):
    loaded.set_offset(2.75)
    wait(loaded.recentre.apply_button.isEnabled)
    return loaded


def unreadable(tmp_path, kind):
    path = tmp_path / f"{kind}_mask.mrc"
    if kind == "star":
        path.write_text("data_\n\nloop_\n_rlnA #1\n1\n" * 100)
    elif kind == "empty":
        write_volume(path, Volume(np.zeros((64,) * 3, np.float32), 4.0))
    elif kind == "truncated":
        write_volume(path, Volume(np.ones((64,) * 3, np.float32), 4.0))
        path.write_bytes(path.read_bytes()[:5000])
    return path


@pytest.mark.parametrize(("what", "kinds"), [("map", ["missing"]), ("mask", ["star", "empty", "truncated"])])
def test_what_cannot_be_compared_cannot_be_applied(at_275, tmp_path, wait, what, kinds):
    box = at_275.map_box if what == "map" else at_275.mask_box
    good = box.value()
    for kind in kinds:
        box.set_value(str(unreadable(tmp_path, kind)))
        assert "being read" in refused(at_275)
        wait(lambda: "cannot be compared" in at_275.card.text)
        refused(at_275)
        assert at_275.pixel_size_angst is None
        assert at_275.angstrom.text() == ""
        assert "Nothing can be applied" in at_275.sentence.text()
    box.set_value(good)
    wait(lambda: at_275.pair is not None and not at_275._loading, 30)
    wait(at_275.recentre.apply_button.isEnabled)  # the same two: the number has stayed
    assert at_275.offset_px == 2.75


def test_nothing_is_applied_while_another_map_is_read_or_none_is_chosen(at_275, project, wait):
    at_275.map_box.set_value(str(project / "Reconstruct/job003/half1.mrc"))
    assert "being read" in refused(at_275)
    wait(lambda: at_275.pair is not None and not at_275._loading, 30)
    assert at_275.offset_px == 0  # another map: from the start
    at_275.set_offset(1.0)
    wait(at_275.recentre.apply_button.isEnabled)
    at_275.map_box.combo.setCurrentIndex(0)
    refused(at_275)
    assert "Choose a map" in at_275.sentence.text()


@pytest.mark.parametrize(
    ("stated", "unknown"), [(0.0, {"map"}), (None, {"mask"}), (float("nan"), {"map", "mask"})]
)
def test_a_pixel_size_that_no_header_states_is_asked_for(
    at_275, monkeypatch, viewer, wait, stated, unknown, project
):
    """2.75 px on a map without a pixel size was 2.75 Å."""
    import napari_sta.io.mrc as mrc

    def without(path):
        volume = read_volume(path)
        kind = "mask" if "mask" in Path(path).name else "map"
        return Volume(volume.data, stated, volume.path) if kind in unknown else volume

    monkeypatch.setattr(mrc, "read_volume", without)
    at_275.load(at_275.map_box.value(), str(project / "masks/mask_fsc.mrc"))
    wait(lambda: "cannot be compared" in at_275.card.text)
    assert "no pixel size" in at_275.card.text
    assert "no pixel size" in refused(at_275)
    for what, box in (("map", at_275.map_box), ("mask", at_275.mask_box)):
        assert box.ask.isVisible() == (what in unknown)
        if what in unknown:
            box.pixel_size.set_value(5.0)
            box.pixel_size.editingFinished.emit()
    wait(lambda: at_275.pair is not None and not at_275._loading, 30)
    assert {one for one in ("map", "mask") if getattr(at_275.pair, one).pixel_size_angst == 5.0} == unknown
    at_275.set_offset(2.0)
    wait(at_275.recentre.apply_button.isEnabled)
    job, _ = at_275.recentre.jobs_to_run()
    pixel = 5.0 if "map" in unknown else 4.0
    assert job.pixel_size_angst == pixel
    assert displacement(at_275, viewer) == pytest.approx(2.0, abs=1e-6)
    assert f"({2 * pixel:+.2f} Å)" in at_275.sentence.text()


@pytest.mark.usefixtures("real_window")
def test_removed_layers_release_the_pair_until_they_are_back(at_275, viewer, bench, wait):
    paths = [at_275.map_box.value(), at_275.mask_box.value()]
    for kinds in (("mask", "contour"), ("mask",), ("map",), ("map", "mask", "contour")):
        delete(viewer, *kinds)
        wait(lambda: at_275.pair is None)
        assert "no longer in the viewer" in refused(at_275)
        assert "no longer in the viewer" in at_275.sentence.text()
        assert at_275.offset_px == 2.75
        assert [at_275.map_box.value(), at_275.mask_box.value()] == paths
        bench.shown.show(paths)  # what a drop on the canvas does
        wait(lambda: at_275.pair is not None and not at_275._loading, 30)
        wait(at_275.recentre.apply_button.isEnabled)
        assert at_275.offset_px == 2.75
        assert displacement(at_275, viewer) == pytest.approx(2.75, abs=1e-6)
    at_275.set_offset(-1.0)
    assert displacement(at_275, viewer) == pytest.approx(-1.0, abs=1e-6)
    assert 0 in viewer.dims.displayed  # napari turns to XY when all layers have gone


def test_only_one_back_is_not_enough_and_a_button_brings_both(at_275, viewer, bench, wait):
    delete(viewer, "map", "mask", "contour")
    wait(lambda: at_275.pair is None)
    bench.shown.show([at_275.map_box.value()])
    wait(lambda: any(layer.metadata["napari_sta"]["kind"] == "map" for layer in viewer.layers))
    wait(lambda: not at_275._canvas_look.isActive())
    assert "mask is no longer" in refused(at_275)
    assert at_275.mend_button.isVisible()
    at_275.mend_button.click()
    wait(lambda: at_275.pair is not None and not at_275._loading, 30)
    wait(at_275.recentre.apply_button.isEnabled)
    assert displacement(at_275, viewer) == pytest.approx(2.75, abs=1e-6)


def test_another_map_dropped_for_a_removed_one_is_compared(at_275, viewer, bench, project, wait):
    other = str(project / "Reconstruct/job003/half1.mrc")
    delete(viewer, "map")
    wait(lambda: at_275.pair is None)
    bench.shown.show([other])
    wait(lambda: at_275.pair is not None and not at_275._loading, 30)
    assert at_275.map_box.value() == at_275.pair.map.path == other
    assert at_275.offset_px == 0


def test_several_maps_do_not_disturb_the_two_that_are_compared(at_275, viewer, bench, project, wait):
    bench.shown.show([project / "Reconstruct/job003/half1.mrc", project / "masks/mask_fsc.mrc"])
    wait(lambda: len(viewer.layers) == 6)
    pair = at_275.pair
    at_275.set_offset(3.5)
    wait(at_275.recentre.apply_button.isEnabled)
    assert at_275.pair is pair
    by_path = {layer.metadata["napari_sta"]["path"]: layer for layer in bench.ours("map", "half", "mask")}
    pixel = at_275.pixel_size_angst
    for path, layer in by_path.items():
        moved = layer.data_to_world(np.array(layer.data.shape) // 2)[0]
        assert moved == pytest.approx(3.5 * pixel if path == at_275.mask_box.value() else 0, abs=1e-6)


def test_mask_dropped_while_the_map_is_read_is_compared_too(dock, viewer, bench, project, wait):
    """Two files dropped at once, or one soon after the other."""
    dock.mask_box.set_value("", quiet=True)
    paths = [str(project / "Reconstruct/job003/merged.mrc"), str(project / "masks/mask_align.mrc")]
    for path in paths:
        bench.shown.add(read_layers(path))
    assert [dock.map_box.value(), dock.mask_box.value()] == paths
    wait(lambda: dock.pair is not None and not dock._loading, 30)
    assert [dock.pair.map.path, dock.pair.mask.path] == paths
    assert len(viewer.layers) == 3


def test_another_choice_is_what_is_seen(at_275, viewer, bench, project, wait):
    """What was compared before does not cover it; nor does what others show."""
    bench.shown.show([project / "Reconstruct/job003/half2.mrc"])
    wait(lambda: len(viewer.layers) == 4)
    first = at_275.map_box.value(), at_275.mask_box.value()
    second = str(project / "Reconstruct/job003/half1.mrc"), str(project / "masks/mask_fsc.mrc")
    for map_path, mask_path in (second, first):
        at_275.map_box.set_value(map_path)
        at_275.mask_box.set_value(mask_path)
        wait(lambda: at_275.pair is not None and not at_275._loading, 30)
        seen = [layer.metadata["napari_sta"] for layer in viewer.layers if layer.visible]
        assert [one["path"] for one in seen if one["kind"] == "mask"] == [mask_path]
        assert [one["path"] for one in seen if one["kind"] == "contour"] == [mask_path]
        below = seen[: next(i for i, one in enumerate(seen) if one["kind"] == "mask")]
        assert below[-1]["path"] == map_path
        assert all(one["kind"] not in ("map", "half") for one in seen[len(below) :])


def test_the_reason_is_shown_as_it_is_written(loaded):
    loaded._refusal = "it begins with 'a < b' & more"
    loaded._show_numbers()
    shown = QTextDocument()
    shown.setHtml(loaded.sentence.text())
    assert loaded.sentence.textFormat() == Qt.TextFormat.RichText
    assert "'a < b' & more" in shown.toPlainText()


def test_project_that_comes_after_its_map_tells_how_it_was_made(viewer, qtbot, bench, project, wait):
    dock = AlignDock(viewer)
    qtbot.addWidget(dock)
    dock.load(str(project / "Reconstruct/job003/merged.mrc"), str(project / "masks/mask_align.mrc"))
    wait(lambda: dock.pair is not None, 30)
    assert dock.symmetry.text() == "C1"
    dock.set_offset(2.5)
    bench.open_project(project)
    wait(dock.recentre.apply_button.isEnabled)
    job, after = dock.recentre.jobs_to_run()
    assert job.in_optimisation_set == str(project / "Select/job002/optimisation_set.star")
    assert dock.symmetry.text() == after["symmetry"] == "C6"
    assert dock.offset_px == 2.5


def _move(layer):
    layer.translate = np.add(layer.translate, [10.0, 0.0, 0.0])


def _scale(layer):
    layer.scale = np.array(layer.scale) * 1.1


def _turn(layer):
    layer.rotate = np.array([[0.8, 0, 0.6], [0, 1, 0], [-0.6, 0, 0.8]])


def _deform(layer):
    layer.affine = np.diag([2.0, 1, 1, 1])


def _exchange(layer):
    layer.data = layer.data[::-1].copy()


@pytest.mark.parametrize("kind", ["map", "mask"])
@pytest.mark.parametrize("moving", ["mask_moves", "map_moves"])
def test_a_layer_changed_by_hand_is_not_applied(at_275, viewer, wait, kind, moving):
    getattr(at_275, moving).setChecked(True)
    for change in (_move, _scale, _turn, _deform, _exchange):
        change(layer_of(viewer, kind))
        wait(lambda: not at_275.recentre.apply_button.isEnabled())
        assert kind in refused(at_275)
        assert kind in at_275.sentence.text()
        at_275.mend_button.click()
        wait(lambda: at_275.pair is not None and not at_275._loading, 30)
        wait(at_275.recentre.apply_button.isEnabled)
        assert displacement(at_275, viewer) == pytest.approx(2.75, abs=1e-6)
        assert at_275.offset_px == 2.75


def test_what_changes_nothing_keeps_apply(at_275, viewer, bench, wait):
    mask, density = layer_of(viewer, "mask"), layer_of(viewer, "map")
    mask.name, density.name = "what", "ever"
    viewer.layers.reverse()
    density.visible = False
    delete(viewer, "contour")
    density.data = density.data.copy()
    bench.shown.show([at_275.map_box.value()])  # the same file, read again by another dock
    wait(lambda: not at_275._canvas_look.isActive())
    at_275.set_offset(2.5)
    wait(lambda: at_275.offset.is_settled)
    assert at_275.recentre.apply_button.isEnabled()
    assert displacement(at_275, viewer) == pytest.approx(2.5, abs=1e-6)


def test_wrong_symmetry_cannot_be_applied(at_275, wait):
    at_275.symmetry.setText("Q7")
    assert "Q7 is no point group" in refused(at_275)
    at_275.symmetry.setText("C6")
    assert at_275.recentre.apply_button.isEnabled()


# -- undo --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["offset_box", "canvas", "canvas, no layer selected", "apply_button"])
@pytest.mark.usefixtures("real_window")
def test_ctrl_z_works_where_the_keys_have_just_been_used(loaded, viewer, qtbot, wait, where):
    loaded.set_offset(1.0)
    wait(lambda: loaded.offset.is_settled)
    loaded.set_offset(2.5)
    wait(lambda: loaded.offset.is_settled)
    if where.startswith("canvas"):
        assert viewer.layers.selection.active is layer_of(viewer, "map")
        if where != "canvas":
            viewer.layers.selection.clear()
        canvas = viewer.window._qt_viewer.canvas.native
        qtbot.keyClick(canvas, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    elif where == "offset_box":
        qtbot.keyClick(loaded.offset_box, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    else:
        loaded.offset.step_back()
    assert loaded.offset_px == 1.0
    assert loaded.offset_box.value() == 1.0


def test_ctrl_z_takes_back_digits_being_typed_first(loaded, qtbot, wait):
    loaded.set_offset(1.0)
    wait(lambda: loaded.offset.is_settled)
    box = loaded.offset_box
    box.selectAll()
    qtbot.keyClicks(box, "7")
    qtbot.keyClick(box, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert box.text() == "+1.00"
    assert loaded.offset_px == 1.0


def slow_ticks(dock, wait):
    """Let as much time pass as a slow machine needs for a tick."""
    wait(lambda: dock.offset.is_settled)


def test_a_drag_is_one_step_however_slow(loaded, viewer, wait):
    loaded.set_offset(1.0)
    slow_ticks(loaded, wait)
    loaded.drag_button.setChecked(True)
    pixel = loaded.pixel_size_angst
    for _ in range(2):
        event = Event(0.0)
        drag = viewer.mouse_drag_callbacks[-1](viewer, event)
        next(drag)
        event.type = "mouse_move"
        for i in range(1, 4):
            event.position = (i * pixel, 0.0, 0.0)
            next(drag)
            slow_ticks(loaded, wait)
        event.type = "mouse_release"
        with pytest.raises(StopIteration):
            next(drag)
    assert loaded.offset_px == 7.0
    loaded.offset.step_back()
    assert loaded.offset_px == 4.0
    loaded.offset.step_back()
    assert loaded.offset_px == 1.0


@pytest.mark.parametrize("pane", [0, 1])
def test_a_drag_of_the_curve_is_one_step_however_slow(loaded, wait, pane):
    class Mouse:
        inaxes = loaded.plot.panes[pane]
        xdata = 2.0

    loaded.set_offset(2.0)
    slow_ticks(loaded, wait)
    loaded.plot._press(Mouse)
    for x in (3.0, 4.0, 5.0):
        Mouse.xdata = x
        loaded.plot._drag(Mouse)
        slow_ticks(loaded, wait)
    loaded.plot._release(Mouse)
    assert loaded.offset_px == 5.0
    loaded.offset.step_back()
    assert loaded.offset_px == 2.0


@pytest.mark.parametrize("where", ["offset_box", "canvas"])
@pytest.mark.usefixtures("real_window")
def test_a_held_arrow_is_one_step_however_slow(loaded, viewer, qtbot, wait, where):
    from qtpy.QtCore import QEvent
    from qtpy.QtGui import QKeyEvent
    from qtpy.QtWidgets import QApplication

    loaded.set_offset(1.0)
    slow_ticks(loaded, wait)
    time.sleep(0.45)
    target = loaded.offset_box if where == "offset_box" else viewer.window._qt_viewer.canvas.native
    key, plain = Qt.Key.Key_Down, Qt.KeyboardModifier.NoModifier
    for i in range(4):
        QApplication.sendEvent(target, QKeyEvent(QEvent.Type.KeyPress, key, plain, "", i > 0))
        slow_ticks(loaded, wait)
    QApplication.sendEvent(target, QKeyEvent(QEvent.Type.KeyRelease, key, plain))
    QApplication.processEvents()
    moved = -1.0 if where == "offset_box" else 1.0
    assert loaded.offset_px == 1.0 + moved
    loaded.offset.step_back()
    assert loaded.offset_px == 1.0
    time.sleep(0.45)
    loaded.offset.step(1)
    loaded.offset.step_back()
    assert loaded.offset_px == 1.0


def test_sideways_moves_are_undone_too(loaded, wait):
    loaded.symmetry.setText("C1")
    loaded.x_box.setValue(1.5)
    slow_ticks(loaded, wait)
    loaded.offset.step_back()
    assert loaded.x_box.value() == 0
    assert not loaded.offset.zyx_px.any()
