"""What is on the canvas, and what lies behind it meanwhile."""

from __future__ import annotations

import numpy as np
import pytest

from napari_sta.data.volume import Volume
from napari_sta.io.mrc import write_volume
from napari_sta.layers.read import read_layers
from napari_sta.layers.volumes import map_layer, mask_layers, tilt_layer


def ball(radius: float, name: str) -> Volume:
    z, y, x = np.indices((16, 16, 16)) - 8
    return Volume((z**2 + y**2 + x**2 < radius**2).astype(np.float32), 2.0, name)


@pytest.fixture
def older(bench):
    """A map, a mask and its contour, as another dock has shown them; and somebody else's image."""
    layers = bench.shown.add([map_layer(ball(6, "old.mrc")), *mask_layers(ball(5, "mask.mrc"))])
    layers.append(bench.viewer.add_image(np.zeros((16, 16, 16)), name="someone else's"))
    return layers


def half(bench, number: int):
    volume = ball(3 + number, f"half{number}.mrc")
    one = map_layer(volume, name=f"half {number}", kind="half", run="x", half=number, iteration=1)
    [layer] = bench.shown.add([one])
    return layer


def seen(bench) -> list[str]:
    return [layer.name for layer in bench.viewer.layers if layer.visible]


def test_who_takes_the_stage_is_seen_above_all_and_the_others_come_back(bench, older):
    before = seen(bench)
    one = half(bench, 1)
    bench.stage.take(test_who_takes_the_stage_is_seen_above_all_and_the_others_come_back, [one])
    assert seen(bench) == ["someone else's", "half 1"]
    bench.stage.leave("somebody who does not have it")
    assert seen(bench) == ["someone else's", "half 1"]
    bench.stage.leave()
    assert seen(bench) == before
    assert not one.visible


@pytest.mark.parametrize("what", ["another map", "removed", "moved", "new data", "shown again"])
def test_stage_is_left_when_something_else_is_to_be_seen(bench, older, what, tmp_path, wait):
    volume = Volume(3 * ball(6, "").data, 2.0, str(tmp_path / "again.mrc"))
    write_volume(volume.path, volume)
    older.append(bench.shown.add([map_layer(volume)])[0])
    before = seen(bench)
    one = half(bench, 1)
    bench.stage.take("me", [one])
    if what == "another map":
        bench.shown.add([map_layer(ball(7, "new.mrc"))])
        before = [*before, "new"]
    elif what == "removed":
        bench.viewer.layers.remove(one)
    elif what == "moved":
        older[1].translate = older[1].translate + 1.0
    elif what == "new data":
        older[0].data = older[0].data * 2
    else:  # by a double click in the tree
        bench.shown.show([volume.path])
        wait(lambda: bench.stage.owner is None)
    assert sorted(seen(bench)) == sorted(before)
    assert bench.stage.owner is None
    older[0].data = older[0].data * 2  # nobody listens any more
    assert sorted(seen(bench)) == sorted(before)


def test_reading_a_hidden_file_again_is_no_work_on_it(bench, older):
    """The Align dock reads what it finds in the viewer, and puts layers back where they were."""
    one = half(bench, 1)
    bench.stage.take("me", [one])
    bench.shown.add([map_layer(ball(6, "old.mrc")), *mask_layers(ball(5, "mask.mrc"))])
    older[1].translate = np.array(older[1].translate)
    assert seen(bench) == ["someone else's", "half 1"]


def test_map_that_comes_after_a_mask_does_not_cover_it(bench):
    bench.shown.add(mask_layers(ball(5, "mask.mrc")))
    bench.shown.add([map_layer(ball(6, "new.mrc"))])
    assert [layer.metadata["napari_sta"]["kind"] for layer in bench.viewer.layers] == [
        "map",
        "mask",
        "contour",
    ]


def test_what_the_user_had_hidden_stays_hidden(bench, older):
    older[0].visible = False
    bench.stage.take("me", [half(bench, 1)])
    bench.stage.leave("me")
    assert not older[0].visible
    assert older[1].visible


def test_one_owner_after_another_shares_what_lies_behind(bench, older):
    before = seen(bench)
    bench.stage.take("me", [half(bench, 1)])
    bench.stage.take("you", [half(bench, 2)])
    assert seen(bench) == ["someone else's", "half 2"]
    bench.stage.leave("me")
    assert seen(bench) == ["someone else's", "half 2"]
    bench.stage.leave("you")
    assert seen(bench) == before


@pytest.mark.parametrize("then", ["leave in 3D", "leave in 2D"])
def test_contours_behind_the_stage_keep_to_slices(bench, older, then):
    contour = older[2]
    bench.stage.take("me", [half(bench, 1)])
    bench.viewer.dims.ndisplay = 3
    if then == "leave in 2D":
        bench.viewer.dims.ndisplay = 2
        assert not contour.visible
    bench.stage.leave("me")
    assert contour.visible == (then == "leave in 2D")
    bench.viewer.dims.ndisplay = 2
    assert contour.visible


def test_contour_that_3d_had_hidden_does_not_come_up_over_the_stage(bench, older):
    bench.viewer.dims.ndisplay = 3
    bench.stage.take("me", [half(bench, 1)])
    bench.viewer.dims.ndisplay = 2
    assert not older[2].visible
    bench.stage.leave("me")
    assert older[2].visible


# -- tilt series -----------------------------------------------------------------------------------


def tilts():
    images = np.random.default_rng(0).normal(size=(7, 20, 24)).astype(np.float32)
    return tilt_layer(images, 2.5, "ts.mrc", "tilts · TS_01")


@pytest.fixture
def told(monkeypatch):
    from napari.utils import notifications

    words = []
    monkeypatch.setattr(notifications, "show_info", words.append)
    return words


def test_a_tilt_number_is_no_length(bench, small_project):
    bench.shown.add([map_layer(ball(6, "old.mrc"))])
    bench.shown.add([tilts()])
    dims = bench.viewer.dims
    # Tilts have a slider of their own, that of z knows nothing of them.
    assert dims.ndim == 4
    assert dims.range[0].step == 1
    assert (dims.range[0].start, dims.range[0].stop) == (0, 6)
    assert dims.range[1].stop - dims.range[1].start <= 2.0 * 16
    assert [str(unit) for unit in bench.viewer.layers.extent.units] == ["dimensionless", *["angstrom"] * 3]


def test_tilts_and_particles_are_not_seen_together(bench, small_project, told, wait):
    particles = bench.shown.add(read_layers(small_project.particles_path))
    before = seen(bench)
    dims = bench.viewer.dims
    dims.order = (1, 0, 2)
    dims.set_point(0, 500.0)
    dims.ndisplay = 3
    [stack] = bench.shown.add([tilts()])
    assert seen(bench) == [stack.name]
    wait(lambda: dims.ndisplay == 2)
    assert dims.displayed == (2, 3)  # y and x, and the only slice there is
    assert dims.point[1] == pytest.approx(0, abs=dims.range[1].step)
    assert "a tilt image lies in no tomogram" in told[-1]
    bench.viewer.layers.remove(stack)
    assert seen(bench) == before

    [stack] = bench.shown.add([tilts()])
    bench.viewer.layers.remove(particles[0])
    [back, *_] = bench.shown.add(read_layers(small_project.particles_path)[:1])
    assert back.visible
    assert not stack.visible
    assert "tilt series is hidden" in told[-1]
