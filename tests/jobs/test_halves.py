"""Half maps that belong together."""

from __future__ import annotations

import os

import pytest

from map_jobs import BOX, PIXEL, jobs_with, noise, refused, write
from napari_sta.data.errors import InputError
from napari_sta.jobs._halves import half_of, other_half
from napari_sta.jobs._job import job_named
from napari_sta.jobs._job_star import job_from_star, job_star


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
    assert (half_of(first), half_of(second)) == (1, 2)
    assert other_half(str(tmp_path / first)) == str(tmp_path / second)
    assert other_half(str(tmp_path / second)) == str(tmp_path / first)
    (tmp_path / second).unlink()
    with pytest.raises(InputError, match=f"{second} is missing"):
        other_half(str(tmp_path / first))


@pytest.mark.parametrize(
    "name", ["A_map.mrc", "merged.mrc", "half.mrc", "half_map.mrc", "half_Atom.mrc", "behalf_b2.mrc"]
)
def test_names_of_other_maps(name):
    assert half_of(name) is None
    with pytest.raises(InputError, match=r"must contain half1 or half2 .*; rename"):
        other_half(name)


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
