"""Measure offset: hidden offsets found, told in RELION's words, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from napari_sta.data.errors import InputError
from napari_sta.data.volume import Volume
from napari_sta.io.mrc import read_volume, write_volume
from napari_sta.jobs._job import job_named
from tiny_project import finish


def job(map_path, mask_path, **values):
    return job_named("measure_offset").from_text(
        {"in_3dref": str(map_path), "in_mask": str(mask_path), **values}
    )


def test_hidden_offset_of_the_practice_project(small_project, tmp_path):
    record = finish(job(small_project.map_path, small_project.mask_path, symmetry="C6"), tmp_path)
    hidden = small_project.hidden_offset_px
    assert abs(hidden) > 1
    assert record["offset_px"] == pytest.approx(hidden, abs=0.25)
    assert record["offset_angst"] == pytest.approx(record["offset_px"] * 4.0, abs=0.03)
    assert record["confidence"] > 0.5
    assert record["candidates"][0]["offset_px"] == record["offset_px"]
    lines = record["summary"].splitlines()
    assert f"Offset Z = {record['offset_px']:+.2f} px" in lines[0]
    assert f"--center --center_Z {record['offset_px']:g}" in lines[1]
    assert f"recenter --center_z_px {record['offset_px']:g}" in lines[1]
    saved = json.loads((tmp_path / "offset.json").read_text())
    assert len(saved["curve"]["offset_px"]) == len(saved["curve"]["score"]) == 801
    assert saved["offset_px"] == record["offset_px"]


def box(path, size=32, pixel=4.0, height=(12, 20), value=1.0):
    data = np.zeros((size,) * 3, np.float32)
    data[height[0] : height[1], size // 2 - 6 : size // 2 + 6, size // 2 - 6 : size // 2 + 6] = value
    write_volume(path, Volume(data, pixel))
    return path


def test_both_signs_and_axes(tmp_path):
    """Slabs of the same thickness, moved whole pixels."""
    mask = box(tmp_path / "mask.mrc")
    up = box(tmp_path / "up.mrc", height=(15, 23))
    down = box(tmp_path / "down.mrc", height=(10, 18))
    for path, offset in ((up, 3), (down, -2)):
        found = finish(job(path, mask, range_px=8), tmp_path / "out")
        assert found["offset_px"] == pytest.approx(offset, abs=0.15)
    data = np.ascontiguousarray(np.moveaxis(read_volume(up).data, 0, 2))
    write_volume(tmp_path / "x.mrc", Volume(data, 4.0))
    turned = np.ascontiguousarray(np.moveaxis(read_volume(mask).data, 0, 2))
    write_volume(tmp_path / "x_mask.mrc", Volume(turned, 4.0))
    found = finish(job(tmp_path / "x.mrc", tmp_path / "x_mask.mrc", axis="x", range_px=8), tmp_path / "out")
    assert found["offset_px"] == pytest.approx(3, abs=0.15)
    assert "center_x_px" in found["summary"]


def test_a_mask_on_another_grid_is_resampled_and_said_so(small_project, tmp_path):
    from napari_sta.kernels.filters import resample_to_grid

    mask = read_volume(small_project.mask_path)
    write_volume(tmp_path / "coarse.mrc", Volume(resample_to_grid(mask.data, 4.0, 40, 6.0), 6.0))
    record = finish(job(small_project.map_path, tmp_path / "coarse.mrc"), tmp_path / "out")
    [said] = job(small_project.map_path, tmp_path / "coarse.mrc").warnings()
    assert "coarse.mrc (40 px at 6 Å) is resampled to the grid of the map (64 px at 4 Å)" in said
    assert record["offset_px"] == pytest.approx(small_project.hidden_offset_px, abs=0.35)


@pytest.mark.parametrize(
    ("symmetry", "axis", "words"),
    [
        pytest.param("C6", "x", "--axis x: C6 fixes the centre on it; only z is free", id="C6"),
        pytest.param("D2", "z", "--axis z: D2 fixes the centre on it; no axis is free", id="D2"),
        pytest.param("O", "y", "no axis is free", id="O"),
    ],
)
def test_symmetry_leaves_only_some_axes(tmp_path, symmetry, axis, words):
    path = box(tmp_path / "map.mrc")
    with pytest.raises(InputError, match=words):
        job(path, path, symmetry=symmetry, axis=axis, range_px=8).check()
    job(path, path, symmetry="C1", axis=axis, range_px=8).check()


def test_masks_beyond_one(tmp_path):
    """What rescaling leaves: refused with the cure, or cut off when told to."""
    reference = box(tmp_path / "map.mrc", height=(13, 21))
    mask = box(tmp_path / "mask.mrc", value=1.04)
    with pytest.raises(
        InputError, match=r"must lie between 0 and 1, these run from 0 to 1\.04.*--clamp_mask Yes"
    ):
        finish(job(reference, mask, range_px=8), tmp_path / "out")
    assert finish(job(reference, mask, range_px=8, clamp_mask="Yes"), tmp_path / "out")[
        "offset_px"
    ] == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        pytest.param(
            {"range_px": 16}, r"--range_px 16 must be below half the map's box \(16 px\)", id="range"
        ),
        pytest.param({"symmetry": "Q"}, "unknown symmetry Q", id="symmetry"),
        pytest.param({"axis": "w"}, "--axis w", id="axis"),
    ],
)
def test_wrong_values(tmp_path, values, words):
    path = box(tmp_path / "map.mrc")
    with pytest.raises(InputError, match=words):
        job(path, path, **values).check()


def test_maps_and_masks_that_cannot_be_used(tmp_path):
    good = box(tmp_path / "map.mrc")
    odd = box(tmp_path / "odd.mrc", size=31)
    empty = box(tmp_path / "empty.mrc", value=0.0)
    flat = tmp_path / "flat.mrc"
    write_volume(flat, Volume(np.ones((8, 10, 12), np.float32), 4.0))
    for reference, mask, words in (
        (odd, good, r"odd\.mrc has an odd box \(31 px\)"),
        (good, empty, r"empty\.mrc is empty: all voxels are 0"),
        (flat, good, r"flat\.mrc is 12 x 10 x 8 voxels; --in_3dref needs a cubic map"),
    ):
        with pytest.raises(InputError, match=words):
            finish(job(reference, mask, range_px=3), tmp_path / "out")
    assert not (tmp_path / "out/offset.json").exists()
