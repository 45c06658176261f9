"""``job.star``, of External jobs and of RELION's own, there and back."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from napari_sta.data.errors import InputError
from napari_sta.data.volume import Volume
from napari_sta.io.mrc import write_volume
from napari_sta.io.project.job_star import JobStar, read_job_star
from napari_sta.io.project.project import Project
from napari_sta.jobs._job import Job, all_jobs, job_named
from napari_sta.jobs._job_star import job_from_star, job_star
from napari_sta.jobs._run import JobRun
from napari_sta.jobs._run_options import RunOptions
from practise_runs import practise, run_to_end

pytestmark = pytest.mark.usefixtures("extra_jobs")


@pytest.fixture
def project(data, tmp_path, monkeypatch) -> Project:
    shutil.copytree(data / "project", tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    write_volume("masks/mask.mrc", Volume(np.ones((2, 2, 2), np.float32), 1.0))
    return Project(tmp_path / "project")


def test_external_job_star(project):
    job = practise(in_mask="masks/mask.mrc", **{f"p{n}": str(n) for n in range(1, 7)})
    run_to_end(JobRun(job, RunOptions(threads=2)))
    star = read_job_star(project.root / "External/job038/job.star")
    options = star.options
    assert star.type_label == "relion.external"
    assert options["fn_exe"] == "napari-sta practise"
    assert (options["in_mask"], options["in_3dref"], options["nr_threads"]) == ("masks/mask.mrc", "", "2")
    assert (options["param1_label"], options["param1_value"]) == ("n_steps", "3")
    assert (options["param3_label"], options["param3_value"]) == ("careful", "Yes")
    assert (options["param10_label"], options["other_args"]) == ("p5", "--p6 6")
    assert job_from_star(star) == job


def test_relions_own_job_star(monkeypatch):
    job_class = job_named("reconstruct")
    job = job_class.from_text(
        {"in_optimisation_set": "Extract/job010/optimisation_set.star", "crop_size_px": 64, "symmetry": "C6"}
    )
    star = job_star(job)
    assert star.type_label == "relion.reconstructparticletomo"
    assert star.options["in_optimisation"] == "Extract/job010/optimisation_set.star"
    assert (star.options["sym_name"], star.options["crop_size"]) == ("C6", "64")
    assert star.options["use_direct_entries"] == "No"
    assert job_from_star(star) == job
    # As RELION writes it: further levels of the label, unknown options, old direct entries.
    relions = JobStar(
        "relion.reconstructparticletomo.more", {**star.options, "in_particles": "left.star", "nr_mpi": "1"}
    )
    assert job_from_star(relions) == job
    with pytest.raises(InputError, match=r"no job for RELION's relion\.import"):
        job_from_star(JobStar("relion.import", {}))
    with pytest.raises(InputError, match="no job of napari-sta"):
        job_from_star(JobStar("relion.external", {"fn_exe": "other.py"}))


def _filled(job_class: type[Job]) -> Job | None:
    for values in (
        {},
        {"in_optimisation_set": "set.star"},
        {"in_3dref": "a.mrc", "in_mask": "b.mrc"},
        {"in_3dref": "a.mrc"},
        {"in_3dref": "a.mrc", "lowpass_angst": "10"},
        {"in_half_map": "half1.mrc", "in_mask": "b.mrc"},
        {"in_optimisation_set": "set.star", "in_3dref": "a.mrc"},
        {"in_tomograms": "tomograms.star"},
        {"needed_angst": "1"},
    ):
        try:
            return job_class.from_text(values)
        except InputError:
            continue
    return None


def test_every_job_comes_back_from_its_job_star_and_its_record():
    for name, job_class in all_jobs().items():
        job = _filled(job_class)
        assert job is not None, f"add values for {name} to _filled"
        assert job_from_star(job_star(job)) == job
        assert job_class.from_text(json.loads(job.model_dump_json(exclude_none=True))) == job
        assert job_class.from_text(job.as_text()) == job
