"""What holds for every job, and what the command line answers to input it cannot use."""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import replace
from typing import Literal, get_args, get_origin

import numpy as np
import pytest

import napari_sta.cli
from napari_sta.cli import main
from napari_sta.data.errors import InputError
from napari_sta.data.volume import Volume
from napari_sta.io.mrc import write_volume
from napari_sta.io.project.job_star import read_job_star, write_job_star
from napari_sta.io.relion.particles import read_particles, write_particles
from napari_sta.io.star import read_star, table, write_star
from napari_sta.jobs._job import Job, all_jobs, extra_of
from napari_sta.jobs._job_star import job_from_star, job_star
from tiny_project import LOPSIDED, likeness

JOBS = all_jobs()
FIELDS = [
    pytest.param(job, name, id=f"{job.name()}-{name}") for job in JOBS.values() for name in job.model_fields
]
BOUNDS = {"gt": 0.37, "ge": 0.37, "lt": -0.37, "le": -0.37}

# Two values of every field for which one is not free to choose.
BY_HAND = {
    "symmetry": "D3", "box_size_px": 46, "crop_size_px": 30, "binning": 2.5, "randomise_at_fsc": 0.62, "shape": "shell",
    "radius_angst": 41.5, "inner_radius_angst": 11.25, "height_angst": 77.0, "axis": "y",
}  # fmt: skip


def unusual(job: type[Job]) -> Job:
    """A job with every field given and none at its default."""
    values = {}
    for name, info in job.model_fields.items():
        kinds = [a for a in (get_args(info.annotation) or (info.annotation,)) if a is not type(None)]
        if name in BY_HAND:
            values[name] = BY_HAND[name]
        elif extra_of(info)["kind"].startswith("file:") or kinds == [str]:
            values[name] = f"Extract/job024/{name} 1.star"
        elif kinds == [bool]:
            values[name] = not info.default
        elif kinds == [int]:
            values[name] = 12
        elif kinds == [float]:
            values[name] = 7.0625
        elif get_origin(info.annotation) is Literal:
            values[name] = [k for k in kinds if k != info.default][-1]
        else:  # pragma: no cover
            raise AssertionError(f"{job.name()}: give a value for {name}")
    return job(**values)


def test_the_jobs_of_this_release():
    assert {"reconstruct", "make_mask", "measure_offset", "recenter", "postprocess"} <= set(JOBS)
    orders = [job.order for job in JOBS.values()]
    assert orders == sorted(orders)


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_a_job_says_what_it_is(job):
    assert job.label
    assert re.fullmatch(r"[A-Z][A-Za-z0-9]+", job.folder)
    assert job.relion_type.startswith("relion.")
    assert job.outputs
    first, *_ = (job.__doc__ or "").strip().splitlines()
    assert first.endswith(".")
    assert all(
        node.label.count(".") >= 1 and node.depth in (1, 99) and node.title for node in job.outputs.values()
    )
    assert "run" in vars(job)


@pytest.mark.parametrize(("job", "name"), FIELDS)
def test_a_field_says_what_it_is(job, name):
    info = job.model_fields[name]
    extra = extra_of(info)
    assert info.title
    assert info.title[0].isupper()
    assert (info.description or "").endswith((".", ")"))
    assert not info.title.endswith(".")
    # A quantity carries its unit in its name, and the form shows it.
    suffix = name.rsplit("_", 1)[-1]
    words = {"angst": "Å", "px": "px", "deg": "deg", "angst2": "Å²"}
    if suffix in words:
        assert words[suffix] in extra["unit"], f"{name} has unit {extra['unit']!r}"
    if extra["choices"]:
        kinds = set(get_args(info.annotation)) - {type(None)}
        assert set(extra["choices"]) == kinds


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_every_face_gives_the_same_job_back(job, tmp_path):
    """Text, job.star, JSON and the command line, with no field at its default."""
    one = unusual(job)
    for name, info in job.model_fields.items():
        assert info.is_required() or getattr(one, name) != info.default, name
    assert job.from_text(one.as_text()) == one
    assert job.model_validate_json(one.model_dump_json()) == one
    write_job_star(tmp_path / "job.star", job_star(one))
    assert job_from_star(read_job_star(tmp_path / "job.star")) == one


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_the_command_line_takes_what_it_prints(job, monkeypatch):
    one = unusual(job)
    seen = {}

    def keep(job_class, words):
        seen["words"] = words
        return 0

    monkeypatch.setattr(napari_sta.cli, "_job", keep)
    words = shlex.split(one.command_line("out"))
    assert words[:2] == ["napari-sta", job.name()]
    assert main(words[1:]) == 0
    given = dict(zip(seen["words"][::2], seen["words"][1::2], strict=True))
    assert given.pop("--o") == "out"
    assert job.from_text({flag.removeprefix("--"): value for flag, value in given.items()}) == one


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_unknown_options_are_refused(job):
    with pytest.raises(InputError, match=f"--colour is no option of {job.name()}"):
        job.from_text({**unusual(job).as_text(), "colour": "red"})


# --- exit status 2 and one sentence -------------------------------------------------------------------


def run(capsys, *words: str) -> tuple[int, str]:
    code = main([str(word) for word in words])
    return code, capsys.readouterr().err


@pytest.fixture
def copy(tiny, tmp_path):
    return shutil.copytree(tiny.paths.root, tmp_path / "copy")


def spoil_nothing(root):
    pass


def rename_tomogram(root):
    path = root / "Select/job002/particles.star"
    particles = read_particles(path)
    write_particles(path, replace(particles, tomogram=np.array(["TS_99"] * len(particles), dtype=object)))


def drop_columns(*labels):
    def spoil(root):
        path = root / "Select/job002/particles.star"
        tables = read_star(path)
        rows = {k: v for k, v in tables["particles"].columns.items() if k not in labels}
        write_star(path, [tables["optics"], table("particles", rows)])

    return spoil


def no_particles(root):
    path = root / "Select/job002/particles.star"
    write_particles(path, read_particles(path)[np.arange(0)])


def no_set(root):
    (root / "Select/job002/optimisation_set.star").unlink()


def truncated(root):
    with open(root / "tilt_stacks/TS_01.mrc", "r+b") as file:
        file.truncate(3000)


SET = "Select/job002/optimisation_set.star"
RECONSTRUCT = ("reconstruct", "--in_optimisation_set", SET, "--box_size_px", "32")


@pytest.mark.parametrize(
    ("spoil", "words", "said"),
    [
        pytest.param(no_set, RECONSTRUCT, SET, id="missing file"),
        pytest.param(drop_columns("rlnRandomSubset"), RECONSTRUCT, "rlnRandomSubset", id="no half sets"),
        pytest.param(drop_columns("rlnTomoName"), RECONSTRUCT, "rlnTomoName", id="missing column"),
        pytest.param(rename_tomogram, RECONSTRUCT, "TS_99", id="unknown tomogram"),
        pytest.param(no_particles, RECONSTRUCT, "particles", id="empty set"),
        pytest.param(truncated, RECONSTRUCT, "TS_01.mrc is truncated", id="truncated stack"),
        pytest.param(spoil_nothing, (*RECONSTRUCT[:-1], "31"), "box_size_px 31 is odd", id="odd box"),
        pytest.param(spoil_nothing, (*RECONSTRUCT[:-1], "120"), "larger than the tilt images", id="box over image"),
        pytest.param(spoil_nothing, (*RECONSTRUCT, "--crop_size_px", "64"), "larger than box_size_px", id="crop over box"),
        pytest.param(spoil_nothing, (*RECONSTRUCT, "--symmetry", "Z3"), "unknown symmetry Z3", id="symmetry"),
        pytest.param(spoil_nothing, (*RECONSTRUCT, "--device", "cuda:97"), "cuda", id="device"),
        pytest.param(spoil_nothing, (*RECONSTRUCT, "--colour", "red"), "--colour", id="unknown option"),
        pytest.param(spoil_nothing, ("recenter", "--in_parts", "none.star"), "none.star", id="no particle set"),
        pytest.param(spoil_nothing, ("make_mask", "--in_3dref", "none.mrc"), "none.mrc", id="no map"),
        pytest.param(spoil_nothing, ("make_mask",), "--in_3dref", id="map not given"),
        pytest.param(
            spoil_nothing, ("make_mask", "--in_3dref", "truth/truth_map.mrc", "--threshold", "1e9"),
            "above every voxel", id="threshold",
        ),
        pytest.param(
            spoil_nothing, ("measure_offset", "--in_3dref", "truth/truth_map.mrc", "--in_mask", "masks/mask_fsc.mrc",
                            "--symmetry", "C6", "--axis", "x"), "only z is free", id="axis",
        ),
        pytest.param(
            spoil_nothing, ("postprocess", "--in_half_map", "truth/truth_map.mrc"), "half1 or half2", id="no half map"
        ),
        pytest.param(spoil_nothing, ("reconstrct",), "did you mean reconstruct", id="unknown job"),
    ],
)  # fmt: skip
def test_wrong_input_ends_with_2_and_one_sentence(copy, monkeypatch, capsys, spoil, words, said):
    spoil(copy)
    monkeypatch.chdir(copy)
    before = {p for p in copy.rglob("*") if p.is_file()}
    code, err = run(capsys, *words, "--o", "out/") if len(words) > 1 else run(capsys, *words)
    assert code == 2
    lines = [line for line in err.splitlines() if line.startswith("napari-sta: ")]
    assert len(lines) == 1, err
    assert said in lines[0]
    assert "Traceback" not in err
    left = [p for p in copy.rglob("*") if p.is_file() and p not in before and p.suffix in (".mrc", ".star")]
    assert not [p for p in left if p.name != "job.star" and not p.name.startswith("job_pipeline")], left


def test_the_whole_way_on_the_command_line(copy, monkeypatch, capsys):
    """Reconstruct in the project folder, then recentre and reconstruct again: numbers go up, maps move."""
    monkeypatch.chdir(copy)
    assert main([*RECONSTRUCT, "--j", "2", "--quiet"]) == 0
    assert main(["recenter", "--in_optimisation_set", SET, "--center_z_px", "3", "--quiet"]) == 0
    moved = "External/job004/optimisation_set.star"
    assert main(["reconstruct", "--in_optimisation_set", moved, "--box_size_px", "32", "--quiet"]) == 0
    capsys.readouterr()
    assert likeness(copy / "Reconstruct/job003/merged.mrc").correlation > 0.97
    shifted = LOPSIDED._replace(centre_zyx_angst=LOPSIDED.centre_zyx_angst - [12.0, 0, 0])
    assert likeness(copy / "Reconstruct/job005/merged.mrc", shifted).correlation > 0.95


def test_a_map_without_numbers(copy, monkeypatch, capsys):
    monkeypatch.chdir(copy)
    write_volume("nan.mrc", Volume(np.ones((8, 8, 8), np.float32), 4.0))
    raw = np.memmap("nan.mrc", np.float32, "r+", offset=1024, shape=(8, 8, 8))
    raw[1, 2, 3] = np.nan
    raw.flush()
    code, err = run(capsys, "make_mask", "--in_3dref", "nan.mrc", "--o", "out/")
    assert code == 2
    assert "nan.mrc holds 1 voxels that are not finite numbers" in err


@pytest.mark.parametrize(("job", "name"), FIELDS)
@pytest.mark.parametrize(
    "value", ["1e308", "-1e308", "1e-9", "9" * 30, "-" + "9" * 30, "9" * 5000, "nan", "C" + "9" * 20]
)
def test_absurd_values_are_refused_or_harmless(job, name, value):
    """A sentence that names the option, or a job that says no more than any other value of the kind."""
    values = unusual(job).as_text() | {name: value}
    made, said = None, f"--{name}"
    try:
        made = job.from_text(values)
    except InputError as error:
        said = str(error)
    assert name in said
    assert "\n" not in said
    if made is None:
        return
    kept = getattr(made, name)
    unit = extra_of(job.model_fields[name])["unit"]
    if (
        isinstance(kept, float | int)
        and not isinstance(kept, bool)
        and unit in ("Å", "px", "binned px", "Å²")
    ):
        assert abs(kept) <= 1e6


@pytest.mark.parametrize(
    ("job", "values"),
    [
        ("refine", {"mask_diameter_angst": "1e-9"}),
        ("refine", {"symmetry": "C99999999999999999999"}),
        ("refine", {"symmetry": "D361"}),
        ("refine", {"offset_range_px": "1e9"}),
        ("refine", {"seed": "99999999999999999999"}),
        ("refine", {"max_iterations": "1000000"}),
        ("process_map", {"rescale_pixel_size_angst": "1e-9"}),
        ("extract", {"binning": "1e308"}),
        ("reconstruct", {"binning": "1e308"}),
        ("extract", {"box_size_px": "9" * 25}),
        ("extract", {"min_frames": "9" * 25}),
        ("make_mask", {"pixel_size_angst": "1e-300"}),
        ("recenter", {"center_z_px": "1e300"}),
        ("remove_duplicates", {"min_distance_angst": "1e300"}),
    ],
)
def test_what_no_computer_could_work_on_is_refused_at_once(job, values):
    known = unusual(JOBS[job]).as_text()
    with pytest.raises(InputError, match=f"--{next(iter(values))}"):
        JOBS[job].from_text(known | values)
