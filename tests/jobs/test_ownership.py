"""Folders: a job writes only where nobody else's files are, and leaves nothing of other values."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_sta.cli import main
from napari_sta.data.volume import Volume
from napari_sta.io.files import WRITTEN
from napari_sta.io.mrc import write_volume
from napari_sta.jobs._job import all_jobs
from tiny_project import make_project

Content = dict[str, tuple[bytes, str]]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Inputs for every job; read them, don't change them."""
    root = tmp_path_factory.mktemp("ownership") / "project"
    make_project(root, n_tomograms=2, particles_per_tomogram=3)
    rng = np.random.default_rng(4)
    index = np.indices((24,) * 3) - 12
    blob = np.exp(-(index**2).sum(axis=0) / 30).astype(np.float32)
    for half in (1, 2):
        write_volume(
            root / f"half{half}.mrc", Volume(blob + rng.normal(0, 0.01, blob.shape).astype("f4"), 4.0)
        )
    write_volume(root / "mask.mrc", Volume((blob > 0.3).astype(np.float32), 4.0))
    return root


SET = "Select/job002/optimisation_set.star"
JOBS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    # Values, and others that write other files or other numbers.
    "extract": ({"in_optimisation_set": SET, "box_size_px": "24"}, {"stack2d": "No"}),
    "reconstruct": ({"in_optimisation_set": SET, "box_size_px": "24", "crop_size_px": "16"}, {"crop_size_px": "24"}),
    "make_mask": ({"in_3dref": "half1.mrc", "threshold": "0.5"}, {"threshold": "0.4"}),
    "measure_offset": ({"in_3dref": "half1.mrc", "in_mask": "mask.mrc", "range_px": "5"}, {"range_px": "6"}),
    "recenter": ({"in_optimisation_set": SET, "center_z_px": "2"}, {"center_z_px": "3"}),
    "postprocess": ({"in_half_map": "half1.mrc", "in_mask": "mask.mrc"}, {"in_mask": ""}),
    "process_map": ({"in_3dref": "half1.mrc", "lowpass_angst": "20"}, {"lowpass_angst": "25"}),
    "remove_duplicates": ({"in_optimisation_set": SET}, {"min_distance_angst": "50"}),
    "reconstruct_tomograms": (
        {"in_tomograms": "Tomograms/job001/tomograms.star", "binned_pixel_size_angst": "12"},
        {"binned_pixel_size_angst": "16"},
    ),
}  # fmt: skip


def run(root: Path, name: str, out: Path, values: dict[str, str], monkeypatch: Any) -> int:
    monkeypatch.chdir(root)
    words = [word for key, value in values.items() if value for word in (f"--{key}", value)]
    return main([name, *words, "--o", str(out), "--j", "1", "--device", "cpu", "--quiet"])


def content(folder: Path) -> Content:
    """Everything below a folder that is no record."""
    return {
        str(path.relative_to(folder)): (
            path.read_bytes(),
            str(os.readlink(path) if path.is_symlink() else ""),
        )
        for path in folder.rglob("*")
        if path.is_file()
    }


RECORDS = ("job.json", "job.star", "job_pipeline.star", "note.txt", "run.out", "run.err", WRITTEN)


def results(folder: Path) -> set[str]:
    found = {name for name in content(folder) if name not in RECORDS}
    assert not [name for name in found if name.endswith(".sta-tmp")]
    return found


def test_every_job_is_here():
    assert set(JOBS) | {"refine"} == set(all_jobs()), "refine has tests of its own"


def notes(folder: Path) -> str:
    (folder / "notes.md").write_text("mine")
    return "notes.md"


def old_map(folder: Path) -> str:
    (folder / "a_map.mrc").write_text("theirs")
    return "a_map.mrc"


def note_without_a_job(folder: Path) -> str:
    (folder / "note.txt").write_text("mine")
    return "note.txt"


def relions_running_job(folder: Path) -> str:
    (folder / "job.star").write_text("data_job\n\n_rlnJobTypeLabel relion.class3d\n")
    (folder / "run.out").write_text("RELION at work")
    return "job.star"


def subfolder(folder: Path) -> str:
    (folder / "Subtomograms").mkdir()
    (folder / "Subtomograms/1_stack2d.mrcs").write_text("theirs")
    return "Subtomograms"


def record_of_another_job(folder: Path) -> str:
    (folder / "job.json").write_text(json.dumps({"job": "another", "values": {}}))
    return "is the folder of another job (another)"


def damaged_record(folder: Path) -> str:
    (folder / "job.json").write_text("[" * 100_000)
    return "cannot be read"


@pytest.mark.parametrize(
    "make",
    [
        notes,
        old_map,
        note_without_a_job,
        relions_running_job,
        subfolder,
        record_of_another_job,
        damaged_record,
    ],
)
@pytest.mark.parametrize("name", JOBS)
def test_nothing_is_written_among_files_of_others(root, tmp_path, monkeypatch, capsys, name, make):
    out = tmp_path / "out"
    out.mkdir()
    said = make(out)
    before = content(out)
    assert run(root, name, out, JOBS[name][0], monkeypatch) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert content(out) == before


@pytest.mark.parametrize("name", JOBS)
def test_own_folder_used_twice(root, tmp_path, monkeypatch, capsys, name):
    """The same values: made again. Others: refused if finished, else made anew, as in a fresh folder."""
    values, other = JOBS[name]
    out = tmp_path / "out"
    assert run(root, name, out, values, monkeypatch) == 0
    first = results(out)
    assert run(root, name, out, values, monkeypatch) == 0
    assert results(out) == first
    before = content(out)
    assert run(root, name, out, values | other, monkeypatch) == 2
    assert "choose another folder" in capsys.readouterr().err
    assert content(out) == before
    # As if it had been stopped before its end; what the user has put there stays.
    (out / "RELION_JOB_EXIT_SUCCESS").unlink()
    record = json.loads((out / "job.json").read_text())
    (out / "job.json").write_text(json.dumps(record | {"status": "Aborted"}))
    (out / "notes.md").write_text("mine")
    assert run(root, name, out, values | other, monkeypatch) == 0
    assert run(root, name, tmp_path / "fresh", values | other, monkeypatch) == 0
    assert results(out) - {"notes.md"} == results(tmp_path / "fresh")
    assert (out / "notes.md").read_text() == "mine"
    ours, fresh = content(out), content(tmp_path / "fresh")
    for one in results(tmp_path / "fresh"):
        if one.endswith((".mrc", ".mrcs")):
            assert ours[one] == fresh[one], one


@pytest.mark.parametrize("name", JOBS)
def test_links_are_not_written_through(root, tmp_path, monkeypatch, capsys, name):
    """Whatever a job writes: a link of that name is replaced or refused, what it leads to stays."""
    out, victim = tmp_path / "out", tmp_path / "victim"
    assert run(root, name, out, JOBS[name][0], monkeypatch) == 0
    victim.write_text("theirs")
    names = [one for one in content(out) if one not in ("job.json", WRITTEN)]
    for one in names:
        (out / one).unlink()
        (out / one).symlink_to(victim)
    run(root, name, out, JOBS[name][0], monkeypatch)
    assert victim.read_text() == "theirs"


@pytest.mark.parametrize("log", ["run.out", "run.err", "note.txt", WRITTEN])
def test_a_log_that_is_a_link_is_refused(root, tmp_path, monkeypatch, capsys, log):
    out, victim = tmp_path / "out", tmp_path / "victim"
    assert run(root, "make_mask", out, JOBS["make_mask"][0], monkeypatch) == 0
    victim.write_text("theirs")
    (out / log).unlink()
    (out / log).symlink_to(victim)
    assert run(root, "make_mask", out, JOBS["make_mask"][0], monkeypatch) == 1
    assert f"{log} could not be written: it is a link" in capsys.readouterr().err
    assert victim.read_text() == "theirs"


@pytest.mark.parametrize("name", JOBS)
def test_a_file_put_into_its_folder_is_not_replaced(root, tmp_path, monkeypatch, capsys, name):
    """The job failed before it wrote anything, and somebody left a result of another program there."""
    out = tmp_path / "out"
    assert run(root, name, out, JOBS[name][0], monkeypatch) == 0
    first = next(iter(all_jobs()[name].outputs))
    record = out / WRITTEN
    written = record.read_text().splitlines()
    record.write_text("\n".join(one for one in written if one != first) + "\n")
    before = content(out)
    capsys.readouterr()
    assert run(root, name, out, JOBS[name][0], monkeypatch) == 2
    assert f"holds {first}, which the {name} there did not write" in capsys.readouterr().err
    assert content(out) == before


def launched(folder: Path, program: str = "napari-sta practise", label: str = "relion.external") -> None:
    (folder / "job.star").write_text(
        f"# version 50001\n\ndata_job\n\n_rlnJobTypeLabel {label}\n\n# version 50001\n\ndata_joboptions_values\n\n"
        f'loop_\n_rlnJobOptionVariable #1\n_rlnJobOptionValue #2\nfn_exe "{program}"\n\n'
    )
    for name in (
        "job_pipeline.star",
        "default_pipeline.star",
        "note.txt",
        "run.out",
        "run.err",
        "run_submit.script",
    ):
        (folder / name).write_text("RELION's\n")


@pytest.mark.parametrize("control", [True, False])
def test_relion_may_have_made_the_folder_for_us(root, tmp_path, monkeypatch, control):
    shutil.copytree(root, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    out = Path("External/job010/")
    out.mkdir(parents=True)
    launched(out)
    (out / ".DS_Store").touch()
    (out / ".nfs000012").touch()
    (out / ".job.json.12.abcd.sta-tmp").touch()
    words = ["make_mask", "--in_3dref", "half1.mrc", "--threshold", "0.5", "--quiet", "--o", f"{out}/"]
    assert main([*words, *(["--pipeline_control", f"{out}/"] if control else [])]) == 0
    assert (out / "job_pipeline.star").read_text() == "RELION's\n"
    assert "fn_exe" in (out / "job.star").read_text()
    assert (out / "note.txt").read_text().startswith("RELION's\n")
    assert (out / "mask.mrc").exists()


@pytest.mark.parametrize(
    ("job", "option", "value"),
    [
        ("make_mask", "--in_3dref", "nowhere.mrc"),
        ("make_mask", "--treshold", "0.5"),
        ("make_mask", "--threshold", "high"),
        ("make_musk", "--threshold", "0.5"),
    ],
)
def test_relion_is_told_of_a_job_that_never_began(root, tmp_path, monkeypatch, job, option, value):
    """Its GUI shows a job without exit marker as running for ever."""
    monkeypatch.chdir(tmp_path)
    for name, program in (("job010", "napari-sta make_mask"), ("job011", "their_program.py")):
        out = Path("External", name)
        out.mkdir(parents=True)
        launched(out, program)
        names = {file.name for file in out.iterdir()}
        words = [job, "--in_3dref", str(root / "half1.mrc"), option, value, "--o", f"{out}/"]
        assert main([*words, "--pipeline_control", f"{out}/"]) == 2
        marker = {"RELION_JOB_EXIT_FAILURE"} if name == "job010" else set()
        assert {file.name for file in out.iterdir()} == {*names, *marker}
    assert main([*words, "--pipeline_control", "External/job012/"]) == 2
    assert not Path("External/job012").exists()


def test_a_job_of_another_program_may_have_begun(root, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    launched(out, program="their_program.py")
    before = content(out)
    assert run(root, "make_mask", out, JOBS["make_mask"][0], monkeypatch) == 2
    assert content(out) == before


def test_a_job_that_relion_has_scheduled_can_be_ours(root, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    launched(out, label="relion.maskcreate")
    assert run(root, "make_mask", out, JOBS["make_mask"][0], monkeypatch) == 2, "RELION runs it"
    for name in ("note.txt", "run.out", "run.err", "run_submit.script"):
        (out / name).unlink()
    assert run(root, "make_mask", out, JOBS["make_mask"][0], monkeypatch) == 0


def hostile_record(out: Path, name: str) -> None:
    with open(out / WRITTEN, "a") as file:
        file.write(f"\n{name}\n")


@pytest.mark.parametrize("name", ["../victim", "/victim", "a/../../victim", "link/victim"])
def test_a_record_deletes_nothing_outside_the_folder(root, tmp_path, monkeypatch, capsys, name):
    out, victim = tmp_path / "out", tmp_path / "victim"
    assert run(root, "make_mask", out, JOBS["make_mask"][0], monkeypatch) == 0
    victim.write_text("theirs")
    (out / "link").symlink_to(tmp_path)
    (out / "RELION_JOB_EXIT_SUCCESS").unlink()
    record = json.loads((out / "job.json").read_text())
    (out / "job.json").write_text(json.dumps(record | {"status": "Aborted"}))
    hostile_record(out, str(victim) if name == "/victim" else name)
    assert run(root, "make_mask", out, JOBS["make_mask"][0] | {"threshold": "0.4"}, monkeypatch) == 2
    assert "leads out of the folder" in capsys.readouterr().err
    assert victim.read_text() == "theirs"


def remove(out: Path) -> None:
    # As rm -rf: the job's threads may just be removing a folder that they made anew.
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(out, ignore_errors=True)


def rename(out: Path) -> None:
    out.rename(out.with_name("elsewhere"))


@pytest.mark.parametrize("how", [remove, rename])
def test_a_folder_removed_meanwhile_stops_the_job(root, tmp_path, monkeypatch, how: Callable[[Path], None]):
    from napari_sta.data.errors import JobError
    from napari_sta.jobs._job import job_named
    from napari_sta.jobs._run import JobRun
    from napari_sta.jobs._run_options import RunOptions

    monkeypatch.chdir(root)
    out = tmp_path / "out"
    job = job_named("extract").from_text(JOBS["extract"][0])
    steps = JobRun(job, RunOptions(out=out, threads=1, device="cpu")).steps()
    next(steps)
    how(out)
    with pytest.raises(JobError, match="was removed or renamed while the job was running"):
        for _ in steps:
            pass
    assert not out.exists()
