"""Maps that jobs take, over all of these jobs: what fits, and what is refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from map_jobs import BOX, PIXEL, ball, jobs_with, noise, refused, write
from napari_sta.io.mrc import read_volume
from napari_sta.jobs._job import job_named
from tiny_project import finish


@pytest.mark.parametrize(
    "values",
    [
        {"lowpass_angst": 15}, {"highpass_angst": 15}, {"bfactor_angst2": -50},
        {"rescale_pixel_size_angst": 5.4},
    ],
)  # fmt: skip
def test_a_map_without_pixel_size_is_not_measured_in_angstrom(files, tmp_path, values):
    """Every job refuses it with the option that mends it, and that option does."""
    silent = write(tmp_path / "silent.mrc", noise(1), None)
    jobs = {
        "process_map": {"in_3dref": silent, **values},
        "make_mask": {"in_3dref": silent, "threshold": 0.5},
        "measure_offset": {"in_3dref": silent, "in_mask": files["mask"], "range_px": 5},
    }
    for name, given in jobs.items():
        assert "silent.mrc states no pixel size" in refused(job_named(name).from_text(given))
        assert refused(job_named(name).from_text(given)).endswith("give --pixel_size_angst")
        mended = job_named(name).from_text({**given, "pixel_size_angst": PIXEL})
        mended.check()
        assert mended.warnings() == []
        assert finish(mended, tmp_path / name)["pixel_size_angst"] == pytest.approx(
            values.get("rescale_pixel_size_angst", PIXEL) if name == "process_map" else PIXEL
        )


def test_shapes_need_a_pixel_size_too(tmp_path):
    silent = write(tmp_path / "silent.mrc", noise(1), None)
    given = {"in_3dref": silent, "shape": "sphere", "radius_angst": 20}
    job = job_named("make_mask").from_text(given)
    assert "give --pixel_size_angst" in refused(job)
    assert job.relion_command("M/") is None


@pytest.mark.parametrize(
    ("name", "values", "file"),
    [
        ("process_map", {"shift_x_px": 1}, "map.mrc"),
        ("process_map", {"box_size_px": 16, "symmetry": "C2"}, "map.mrc"),
        ("make_mask", {"lowpass_angst": 0, "threshold": 5}, "mask.mrc"),
    ],
)
def test_what_is_done_in_pixels_leaves_it_unknown(tmp_path, name, values, file):
    job = job_named(name).from_text({"in_3dref": write(tmp_path / "silent.mrc", noise(1), None), **values})
    job.check()
    assert "silent.mrc states no pixel size" in job.warnings()[0]
    assert finish(job, tmp_path / "out")["pixel_size_angst"] is None
    assert read_volume(tmp_path / "out" / file).stated_pixel_size_angst is None


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (np.zeros((BOX,) * 3), "holds nothing: all voxels are 0"),
        (np.full((BOX,) * 3, 7.0), "holds nothing: all voxels are 7"),
        (3e38 * ball(), "which cannot be computed with"),
        (-1e30 * ball(), "which cannot be computed with"),
        (1e-40 * ball(), "which cannot be computed with"),
        (noise(1, 2), "is a map of 2 px a side"),
        (noise(1, 31), "has an odd box"),
    ],
)
def test_maps_that_cannot_be_computed_with(files, tmp_path, data, said):
    for half in ("half1", "half2"):
        write(tmp_path / f"{half}.mrc", data.astype(np.float32) * (1 if half == "half1" else 0.9))
    for job in jobs_with(files).values():
        assert said in refused(job)
    if "compute" in said or "nothing" in said:
        job = job_named("make_mask").from_text({"in_3dref": files["half1"], "threshold": 0.1})
        assert said in refused(job)


def test_a_map_in_another_order_of_axes_is_told_of(files, tmp_path):
    raw = bytearray(Path(files["half1"]).read_bytes())
    raw[64:76] = np.array([3, 2, 1], "<i4").tobytes()
    for name in ("half1.mrc", "half2.mrc", "mask.mrc"):
        data = Path(tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[:64] + bytes(raw[64:76]) + data[76:])
    for name, count in (("postprocess", 3), ("measure_offset", 2)):
        said = jobs_with(files)[name].warnings()
        assert len(said) == count
        assert all("keeps its axes in another order" in one for one in said)
    for name, values in (("make_mask", {}), ("process_map", {"box_size_px": 16})):
        [said] = job_named(name).from_text({"in_3dref": files["half1"], **values}).warnings()
        assert "keeps its axes in another order" in said
