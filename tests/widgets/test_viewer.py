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
from napari_sta.layers.read import read_layers
from napari_sta.widgets import get_reader
from napari_sta.widgets.shown import HAND
from napari_sta.widgets.workbench import DOCKS, Workbench

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
    for path in (Path(napari_sta.__file__).parent / "layers").glob("*.py"):
        source = path.read_text()
        assert "import napari\n" not in source
        assert "qtpy" not in source


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
        for data, meta, kind in read_layers(path):
            viewer._add_layer_from_data(data, meta, kind)
    elif way == "show":
        Workbench.of(viewer).shown.show([path])
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
    for data, meta, kind in read_layers(small_project.mask_path):
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
