"""What is told of projects and jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_sta.io.describe import describe
from napari_sta.io.project.job_star import JobStar, write_job_star


def test_job_folder(project):
    folder = Path("Reconstruct/job038")
    write_job_star(folder / "job.star", JobStar("relion.reconstructparticletomo", {"binning": "2"}))
    (folder / "RELION_JOB_EXIT_FAILURE").touch()
    (folder / ".map.mrc.123.sta-tmp").touch()
    description = describe(folder)
    assert (
        description.lines[0]
        == "Reconstruct/job038/: job folder of type relion.reconstructparticletomo, failed"
    )
    assert "1 half-written file" in description.problems[1]
    assert "binning = 2" in str(describe(folder / "job.star"))


@pytest.mark.parametrize("target", ["job024", "absolute"])
def test_a_jobs_alias_is_the_job(project, target):
    folder = project / "Extract/job024"
    (project / "Extract/good_ones").symlink_to(folder if target == "absolute" else target)
    assert str(describe("Extract/good_ones")) == str(describe(folder))
