"""``job.star``, there and back."""

from __future__ import annotations

import pytest

from napari_sta.data.errors import InputError
from napari_sta.io.project.job_star import JobStar, read_job_star, write_job_star
from napari_sta.io.star import read_star


def test_job_star(tmp_path):
    path = tmp_path / "job.star"
    write_job_star(
        path, JobStar("relion.pseudosubtomo", {"in_particles": "", "binning": "4", "do_stack2d": "Yes"})
    )
    assert read_job_star(path).options == {"binning": "4", "do_stack2d": "Yes", "in_particles": ""}
    tables = read_star(path)
    assert tables["job"].row() == {
        "rlnJobTypeLabel": "relion.pseudosubtomo",
        "rlnJobIsContinue": "0",
        "rlnJobIsTomo": "1",
    }
    assert tables["joboptions_values"]["rlnJobOptionVariable"].tolist() == [
        "binning",
        "do_stack2d",
        "in_particles",
    ]
    path.write_text("data_x\n\n_rlnA 1\n")
    with pytest.raises(InputError, match=r"no job\.star"):
        read_job_star(path)
