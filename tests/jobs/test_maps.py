"""Maps and masks that belong together: one set of rules for all jobs that take them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from napari_sta.data.errors import InputError
from napari_sta.data.volume import Volume
from napari_sta.io.mrc import read_volume, write_volume
from napari_sta.jobs import _maps as maps
from napari_sta.jobs._job import job_named
from napari_sta.jobs._job_star import job_from_star, job_star
from napari_sta.jobs._maps import Grid
from tiny_project import finish

BOX, PIXEL = 32, 2.7


def ball(box: int = BOX, radius: float = 8.0, centre: float = 0.0) -> np.ndarray:
    index = np.arange(box) - box // 2
    r = np.sqrt((index - centre)[:, None, None] ** 2 + index[:, None] ** 2 + index**2)
    return np.clip((radius + 3 - r) / 3, 0, 1).astype(np.float32)


def noise(seed: int, box: int = BOX) -> np.ndarray:
    return (4 * ball(box) + np.random.default_rng(seed).normal(size=(box,) * 3)).astype(np.float32)


def write(path: Path, data: np.ndarray, pixel: float | None = PIXEL) -> str:
    write_volume(path, Volume(data, pixel))
    return str(path)


@pytest.fixture
def files(tmp_path) -> dict[str, str]:
    """Half maps and a mask on one grid."""
    names = {f"half{i}": write(tmp_path / f"half{i}.mrc", noise(i)) for i in (1, 2)}
    return names | {"mask": write(tmp_path / "mask.mrc", ball())}


def jobs_with(files: dict[str, str], **values: object) -> dict[str, object]:
    """Jobs that take a map and a mask, but for refinement, whose own tests say the same of it."""
    return {
        "postprocess": job_named("postprocess").from_text(
            {"in_half_map": files["half1"], "in_mask": files["mask"], **values}
        ),
        "measure_offset": job_named("measure_offset").from_text(
            {"in_3dref": files["half1"], "in_mask": files["mask"], "range_px": 5, **values}
        ),
    }


def refused(job) -> str:
    with pytest.raises(InputError) as error:
        job.check()
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- pixel sizes


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
    mask = maps.read_mask(files["mask"], grid)
    np.testing.assert_array_equal(mask.data, ball())
    assert mask.pixel_size_angst == 2.8
    fitting = write(tmp_path / "fitting.mrc", ball(), 2.8)
    assert maps.mask_warnings(fitting, grid) == []
    assert "is resampled" in maps.mask_warnings(write(tmp_path / "x.mrc", ball(), 3.0), grid)[0]


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({"pixel": 2.8}, "differ in pixel size (2.7 and 2.8 Å); take the two halves"),
        ({"box": 24}, "differ in box size (32 and 24 px)"),
    ],
)
def test_halves_must_agree(files, tmp_path, second, said):
    write(tmp_path / "half2.mrc", noise(2, second.get("box", BOX)), second.get("pixel", PIXEL))
    assert said in refused(jobs_with(files)["postprocess"])


def test_one_half_that_states_nothing_follows_the_other(files, tmp_path):
    for silent, other in ((1, 2), (2, 1)):
        write(tmp_path / f"half{silent}.mrc", noise(silent), None)
        job = jobs_with(files)["postprocess"]
        job.check()
        [said] = job.warnings()
        assert f"half{silent}.mrc states no pixel size" in said
        assert said.endswith(f"taken to be that of {tmp_path / f'half{other}.mrc'}, 2.7 Å")
        write(tmp_path / f"half{silent}.mrc", noise(silent))
    for half in (1, 2):
        write(tmp_path / f"half{half}.mrc", noise(half), None)
    assert refused(jobs_with(files)["postprocess"]).endswith("give --pixel_size_angst")
    jobs_with(files, pixel_size_angst=2.7)["postprocess"].check()


# ---- masks


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


# ---- values


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


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("process_map", {"rescale_pixel_size_angst": "1e-9"}),
        ("process_map", {"rescale_pixel_size_angst": "1e300"}),
        ("process_map", {"rescale_pixel_size_angst": "0.01"}),
        ("process_map", {"box_size_px": "100000"}),
        ("process_map", {"box_size_px": "10000"}),
        ("process_map", {"pixel_size_angst": "1e-9"}),
        ("process_map", {"shift_z_px": "1e300"}),
        ("process_map", {"bfactor_angst2": "-9e4", "pixel_size_angst": "1"}),
        ("process_map", {"bfactor_angst2": "1e300"}),
        ("process_map", {"lowpass_angst": "1e308"}),
        ("process_map", {"lowpass_angst": "90"}),
        ("process_map", {"clamp_low": "1e300"}),
        ("make_mask", {"pixel_size_angst": "1e300"}),
        ("make_mask", {"extend_px": "1e300"}),
        ("make_mask", {"soft_edge_px": "1e300"}),
        ("make_mask", {"threshold": "1e300"}),
        ("measure_offset", {"range_px": "1e300"}),
        ("measure_offset", {"pixel_size_angst": "0"}),
        ("postprocess", {"pixel_size_angst": "1e300"}),
        ("postprocess", {"adhoc_bfactor_angst2": "-1e300"}),
        ("postprocess", {"adhoc_bfactor_angst2": "-9e4", "pixel_size_angst": "1"}),
        ("postprocess", {"lowpass_angst": "90"}),
        ("postprocess", {"mtf_pixel_size_angst": "1e-300"}),
    ],
)
def test_numbers_that_cannot_be_meant(files, name, values):
    """They are refused with the option's name before anything is asked of the memory."""
    given = {"in_half_map": files["half1"]} if name == "postprocess" else {"in_3dref": files["half1"]}
    given |= {"in_mask": files["mask"]} if name == "measure_offset" else {}
    with pytest.raises(InputError, match=f"--{next(iter(values))}"):
        job_named(name).from_text({**given, **values}).check()


# ---- half maps


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("half1.mrc", "half2.mrc"),
        ("run_half1_class001_unfil.mrc", "run_half2_class001_unfil.mrc"),
        ("half1_of_half1.mrc", "half2_of_half2.mrc"),
        ("cryosparc_P3_J12_009_volume_map_half_A.mrc", "cryosparc_P3_J12_009_volume_map_half_B.mrc"),
        ("J12_map_half_a.mrc", "J12_map_half_b.mrc"),
        ("map_half_A_unfil.mrc", "map_half_B_unfil.mrc"),
        ("emd_1234_half_map_1.map", "emd_1234_half_map_2.map"),
        ("emd-1234-half-map-1.map", "emd-1234-half-map-2.map"),
        ("halfmap1.mrc", "halfmap2.mrc"),
        ("halfmap_A.mrc", "halfmap_B.mrc"),
        ("halfA.mrc", "halfB.mrc"),
        ("Half1.mrc", "Half2.mrc"),
    ],
)
def test_names_of_half_maps(tmp_path, first, second):
    for name in (first, second):
        (tmp_path / name).touch()
    assert (maps.half_of(first), maps.half_of(second)) == (1, 2)
    assert maps.other_half(str(tmp_path / first)) == str(tmp_path / second)
    assert maps.other_half(str(tmp_path / second)) == str(tmp_path / first)
    (tmp_path / second).unlink()
    with pytest.raises(InputError, match=f"{second} is missing"):
        maps.other_half(str(tmp_path / first))


@pytest.mark.parametrize(
    "name", ["A_map.mrc", "merged.mrc", "half.mrc", "half_map.mrc", "half_Atom.mrc", "behalf_b2.mrc"]
)
def test_names_of_other_maps(name):
    assert maps.half_of(name) is None
    with pytest.raises(InputError, match=r"must contain half1 or half2 .*; rename"):
        maps.other_half(name)


def test_a_second_half_map_by_option(files, tmp_path):
    """In the order given, RELION's own option and back, and never one file as both halves."""
    for old, new in (("half1", "B_map"), ("half2", "A_map")):
        os.rename(files[old], tmp_path / f"{new}.mrc")
    one, two = str(tmp_path / "B_map.mrc"), str(tmp_path / "A_map.mrc")
    alone = job_named("postprocess").from_text({"in_half_map": one})
    assert refused(alone).endswith("give the second one with --in_half_map2")
    job = job_named("postprocess").from_text(
        {"in_half_map": one, "in_half_map2": two, "in_mask": files["mask"]}
    )
    job.check()
    first, second, _ = job._read()
    assert (first.path, second.path) == (one, two)
    assert job.relion_command("P/").startswith(
        f"relion_postprocess --i {one} --o P/postprocess --i2 {two} --mask"
    )
    star = job_star(job, 1)
    assert job_from_star(star) == job
    relions = star.options | {"other_args": f"--i2 {two}"}
    assert job_from_star(type(star)(star.type_label, relions)).in_half_map2 == two
    os.link(one, tmp_path / "same.mrc")
    for same in (one, str(tmp_path / "." / "B_map.mrc"), str(tmp_path / "same.mrc")):
        job = job_named("postprocess").from_text({"in_half_map": one, "in_half_map2": same})
        assert "are the same file" in refused(job)


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
