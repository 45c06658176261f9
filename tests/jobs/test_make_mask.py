"""Make mask: closed forms on small maps, pixel sizes, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from napari_sta.data.errors import InputError
from napari_sta.data.volume import Volume
from napari_sta.io.mrc import read_volume, write_stack, write_volume
from napari_sta.jobs._job import job_named
from tiny_project import finish


def make(out, path, **values):
    return finish(job_named("make_mask").from_text({"in_3dref": str(path), **values}), out)


@pytest.fixture
def point(tmp_path):
    """One voxel of density 1 in a box of 24 at 2 Å, off the centre."""
    data = np.zeros((24, 24, 24), np.float32)
    data[12, 10, 13] = 1.0
    path = tmp_path / "point.mrc"
    write_volume(path, Volume(data, 2.0))
    return path


def test_growth_and_edge(point, tmp_path):
    """A voxel grown by 3 px (d² <= 8) with an edge of 5 px: printed value 0.345492 at 3 px from it."""
    record = make(tmp_path / "out", point, lowpass_angst=0, threshold=0.5, extend_px=3, soft_edge_px=5)
    mask = read_volume(tmp_path / "out/mask.mrc")
    assert mask.pixel_size_angst == pytest.approx(2.0)
    assert (mask.data == 1).sum() == 93  # lattice points with d² <= 8
    assert mask.data[12, 10, 13 + 2] == 1
    # Along x the grown ball ends at 2 px: 3 px beyond it.
    assert mask.data[12, 10, 13 + 5] == pytest.approx(0.345492, abs=1e-6)
    assert mask.data[12, 10, 13 + 7] == 0
    assert record["inside_fraction"] == pytest.approx((mask.data > 0.5).mean(), abs=1e-5)
    assert record["box_size_px"] == 24


def test_lowpass_comes_before_the_threshold(tmp_path):
    """A wave of shell 4 is halved by a low-pass at that shell (N = 40, 1.35 Å, 15 Å), one of shell 3 stays."""
    x = np.arange(40)
    for shell, kept, crests in ((3, 1.0, 1), (4, 0.5, 4)):
        wave = np.broadcast_to(np.cos(2 * np.pi * shell * x / 40), (40, 40, 40)).astype(np.float32)
        write_volume(tmp_path / "wave.mrc", Volume(wave, 1.35))
        options = {"lowpass_angst": 15, "extend_px": 0, "soft_edge_px": 0}
        make(tmp_path / "low", tmp_path / "wave.mrc", threshold=kept - 0.01, **options)
        assert (read_volume(tmp_path / "low/mask.mrc").data[0, 0] > 0).sum() == crests
        with pytest.raises(InputError, match="is above every voxel"):
            make(tmp_path / "none", tmp_path / "wave.mrc", threshold=kept + 0.01, **options)


def test_pixel_size_given_by_hand(tmp_path, point):
    make(tmp_path / "out", point, lowpass_angst=0, threshold=0.5, pixel_size_angst=3.1)
    assert read_volume(tmp_path / "out/mask.mrc").pixel_size_angst == pytest.approx(3.1)


def test_shrinking_and_inverting(tmp_path):
    data = np.zeros((20, 20, 20), np.float32)
    data[4:16, 4:16, 4:16] = 1
    write_volume(tmp_path / "cube.mrc", Volume(data, 2.0))
    options = {"lowpass_angst": -1, "threshold": 0.5, "soft_edge_px": 0}
    make(tmp_path / "a", tmp_path / "cube.mrc", extend_px=-2, **options)
    shrunk = read_volume(tmp_path / "a/mask.mrc").data
    # A voxel stays if nothing outside is nearer than 2 px: the outermost layer goes.
    assert shrunk[5:15, 5:15, 5:15].all()
    assert shrunk.sum() == 10**3
    make(tmp_path / "b", tmp_path / "cube.mrc", extend_px=-2, invert="Yes", **options)
    np.testing.assert_array_equal(read_volume(tmp_path / "b/mask.mrc").data, 1 - shrunk)


@pytest.mark.parametrize(
    ("values", "inside", "outside"),
    [
        pytest.param(
            {"shape": "sphere", "radius_angst": 10}, [(12, 12, 12), (12, 12, 17)], [(12, 12, 21)], id="sphere"
        ),
        pytest.param(
            {"shape": "sphere", "radius_angst": 6, "centre_z_px": 4, "centre_x_px": -3},
            [(16, 12, 9), (19, 12, 9)], [(12, 12, 16), (8, 12, 15)], id="sphere aside",
        ),
        pytest.param(
            {"shape": "shell", "radius_angst": 16, "inner_radius_angst": 12}, [(12, 12, 19), (5, 12, 12)],
            [(12, 12, 12), (12, 12, 14)], id="shell",
        ),
        pytest.param(
            {"shape": "cylinder", "radius_angst": 8, "height_angst": 30, "centre_y_px": 2},
            [(12 + 7, 14, 12), (12 - 7, 14, 15)], [(12, 14, 20), (12, 6, 12)], id="cylinder",
        ),
        pytest.param(
            {"shape": "cylinder", "radius_angst": 16, "inner_radius_angst": 10, "height_angst": 8},
            [(12, 12, 18)], [(12, 12, 12), (18, 12, 18)], id="tube",
        ),
    ],
)  # fmt: skip
def test_shapes(point, tmp_path, values, inside, outside):
    make(tmp_path / "out", point, soft_edge_px=2, **values)
    mask = read_volume(tmp_path / "out/mask.mrc").data
    assert mask.min() >= 0
    assert all(mask[at] == 1 for at in inside)
    assert all(mask[at] == pytest.approx(0, abs=1e-6) for at in outside)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        pytest.param({"shape": "sphere"}, "--radius_angst must be given for a sphere", id="no radius"),
        pytest.param(
            {"shape": "cylinder", "radius_angst": 5}, "--height_angst must be given", id="no height"
        ),
        pytest.param(
            {"shape": "shell", "radius_angst": 5}, "--inner_radius_angst must be given", id="no inner radius"
        ),
        pytest.param(
            {"shape": "shell", "radius_angst": 5, "inner_radius_angst": 6},
            "must be smaller than",
            id="radii swapped",
        ),
        pytest.param({"shape": "cone"}, "--shape cone", id="unknown shape"),
        pytest.param({"soft_edge_px": -1}, "--soft_edge_px -1", id="negative edge"),
        pytest.param(
            {"threshold": 2, "lowpass_angst": 0},
            "--threshold 2 is above every voxel of .*take a lower one",
            id="high",
        ),
        pytest.param(
            {"threshold": 0.5, "lowpass_angst": 0, "extend_px": -200},
            "--extend_px -200 shrinks it away",
            id="shrunk",
        ),
        pytest.param(
            {"threshold": -1, "lowpass_angst": 0}, "--threshold -1 puts the whole box inside", id="low"
        ),
    ],
)
def test_refused(point, tmp_path, values, words):
    with pytest.raises(InputError, match=words):
        make(tmp_path / "out", point, **values)
    assert not (tmp_path / "out/mask.mrc").exists()


def test_maps_that_cannot_be_used(tmp_path):
    flat = np.zeros((8, 10, 12), np.float32)
    flat[4, 5, 6] = 1
    write_volume(tmp_path / "flat.mrc", Volume(flat, 2.0))
    job = job_named("make_mask").from_text({"in_3dref": str(tmp_path / "flat.mrc"), "threshold": 0.5})
    with pytest.raises(
        InputError, match="is 12 x 10 x 8 voxels; --lowpass_angst needs a cubic map, set it to 0"
    ):
        job.check()
    make(tmp_path / "ok", tmp_path / "flat.mrc", threshold=0.5, lowpass_angst=0)
    with pytest.raises(InputError, match="not cubic"):
        make(tmp_path / "out", tmp_path / "flat.mrc", shape="sphere", radius_angst=5)
    write_stack(tmp_path / "stack.mrcs", flat, 2.0)
    with pytest.raises(InputError, match="stack of 2D images"):
        make(tmp_path / "out", tmp_path / "stack.mrcs", threshold=0.5, lowpass_angst=0)


def test_commands_of_relion(point):
    job = job_named("make_mask").from_text(
        {"in_3dref": str(point), "threshold": 0.04, "soft_edge_px": 6, "pixel_size_angst": 2.7}
    )
    assert job.relion_command("MaskCreate/job004/") == (
        f"relion_mask_create --o MaskCreate/job004/mask.mrc --width_soft_edge 6 --i {point} --ini_threshold 0.04 "
        "--extend_inimask 3 --lowpass 15 --angpix 2.7"
    )
    cylinder = {"in_3dref": str(point), "shape": "cylinder", "radius_angst": 5, "height_angst": 5}
    assert job_named("make_mask").from_text(cylinder).relion_command("x/") is None
