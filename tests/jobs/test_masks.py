"""Masks that jobs take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from map_jobs import BOX, PIXEL, ball, jobs_with, noise, refused, write
from napari_sta.jobs._maps import Grid
from napari_sta.jobs._masks import mask_warnings, read_mask


def test_a_mask_without_pixel_size_in_the_maps_box_is_the_maps(files, tmp_path):
    files["mask"] = write(tmp_path / "silent.mrc", ball(), None)
    for job in jobs_with(files).values():
        job.check()
        [said] = job.warnings()
        assert "silent.mrc states no pixel size" in said
        assert said.endswith("taken to be that of the map (32 px at 2.7 Å), whose box it has")
    files["mask"] = write(tmp_path / "other.mrc", ball(24), None)
    for job in jobs_with(files).values():
        assert "its box is 24 px, not that of the map (32 px at 2.7 Å); state it with" in refused(job)


def test_a_mask_follows_the_calibrated_pixel_size_of_its_map(files, tmp_path):
    """It lies on the map's own grid, whatever that is called later; another grid is another grid."""
    for job in jobs_with(files, pixel_size_angst=2.8).values():
        job.check()
        assert job.warnings() == []
    grid = Grid(BOX, 2.8, header_angst=PIXEL)
    mask = read_mask(files["mask"], grid)
    np.testing.assert_array_equal(mask.data, ball())
    assert mask.pixel_size_angst == 2.8
    fitting = write(tmp_path / "fitting.mrc", ball(), 2.8)
    assert mask_warnings(fitting, grid) == []
    assert "is resampled" in mask_warnings(write(tmp_path / "x.mrc", ball(), 3.0), grid)[0]


@pytest.mark.parametrize(
    ("box", "pixel", "radius", "centre", "said"),
    [
        (64, 1.35, 16, 0, ["is resampled to the grid of the map (32 px at 2.7 Å)"]),
        (16, 5.4, 4, 0, ["is resampled"]),
        (24, 2.7, 6, 0, ["is resampled"]),  # a smaller box, but empty at its edge
        (64, 2.7, 8, 12, ["is resampled", "lies outside the box of the map and is cut off"]),
        (64, 2.7, 8, 20, "% of it lies outside that box"),
        (
            24,
            2.7,
            12,
            0,
            "reaches the edge of its own box (64.8 Å), which is smaller than that of the map (86.4 Å)",
        ),
        (32, 1.35, 14, 0, "reaches the edge of its own box"),
    ],
)
def test_a_mask_of_another_grid(files, tmp_path, box, pixel, radius, centre, said):
    """One rule: it is resampled and that is said, or it cannot fit and is refused."""
    files["mask"] = write(tmp_path / "other.mrc", ball(box, radius, centre), pixel)
    for job in jobs_with(files).values():
        if isinstance(said, str):
            assert said in refused(job)
            continue
        job.check()
        found = job.warnings()
        assert len(found) == len(said)
        for words, part in zip(found, said, strict=True):
            assert part in words
            assert "other.mrc" in words


def test_what_is_no_mask(files, tmp_path):
    shapes = {
        "stack.mrc": np.ones((21, 32, 32)),
        "slab.mrc": np.ones((16, 32, 32)),
        "empty.mrc": np.zeros((BOX,) * 3),
    }
    for name, data in shapes.items():
        files["mask"] = write(tmp_path / name, data.astype(np.float32))
        for job in jobs_with(files).values():
            assert ("a mask is a cube" if name != "empty.mrc" else "is empty") in refused(job)


def test_mask_values_are_cut_off_only_if_asked_for_and_said(files, tmp_path):
    files["mask"] = write(tmp_path / "ringing.mrc", 1.1 * ball() - 0.05)
    for job in jobs_with(files).values():
        assert "must lie between 0 and 1, these run from -0.05 to 1.05" in refused(job)
    for job in jobs_with(files, clamp_mask="Yes").values():
        job.check()
        [said] = job.warnings()
        assert "ringing.mrc: values from -0.05 to 1.05 are cut off to 0…1" in said


def test_a_mask_that_is_1_nowhere(files):
    write(Path(files["mask"]), 0.4 * ball())
    assert "is nowhere above 0.4" in refused(jobs_with(files)["postprocess"])


def test_a_half_that_is_empty_within_the_mask(files, tmp_path):
    """Its FSC would be 0 / 0."""
    outside = noise(2)
    outside[ball() > 0] = 0
    write(tmp_path / "half2.mrc", outside)
    assert "half2.mrc holds nothing within" in refused(jobs_with(files)["postprocess"])
