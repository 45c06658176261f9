"""Which folders are jobs, and whether they lie in the project."""

from __future__ import annotations

import os

import pytest

from napari_sta.io.project.folders import alias_link, is_link_to, job_folders, own_folder, touch


def test_folders_of_jobs_by_type_and_number(tmp_path):
    for name in ("Extract/job012", "Extract/job9999", "Class3D/job003", "Trash/Extract/job001", ".Nodes/job001",
                 "Extract/job01", "Extract/job1x2", "Extract/mine"):  # fmt: skip
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "Extract/job013").write_text("a file")
    (tmp_path / "Linked").symlink_to("Extract")
    found = [str(folder.relative_to(tmp_path)) for folder in job_folders(tmp_path)]
    assert found == ["Class3D/job003", "Extract/job012", "Extract/job9999"]
    assert list(job_folders(tmp_path / "nowhere")) == []


def test_a_folder_is_the_projects_own_unless_a_link_leads_out(tmp_path):
    root = tmp_path / "project"
    (root / "Extract/job012").mkdir(parents=True)
    (tmp_path / "outside/job001").mkdir(parents=True)
    (root / "Extract/job013").symlink_to(tmp_path / "outside/job001")
    (root / "Extract/job014").symlink_to("job012")
    assert own_folder(root, "Extract/job012/") == root / "Extract/job012"
    assert own_folder(root, "Extract/job014/") == root / "Extract/job014"
    for name in ("Extract/job013/", "Extract/job099/", "../outside/job001/", str(tmp_path / "outside")):
        assert own_folder(root, name) is None


def test_the_alias_of_a_job_is_the_link_beside_it(tmp_path):
    job = tmp_path / "Extract/job012"
    job.mkdir(parents=True)
    assert alias_link(job) == ""
    (job.parent / "first_try").symlink_to("job012")
    assert alias_link(job) == "Extract/first_try/"
    assert is_link_to(job.parent / "first_try", job)
    assert not is_link_to(job, job)


def test_an_empty_file_is_made_once_and_not_through_a_link(tmp_path):
    touch(tmp_path / "a")
    (tmp_path / "a").write_text("kept")
    touch(tmp_path / "a")
    assert (tmp_path / "a").read_text() == "kept"
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        touch(tmp_path / "link")
    assert not os.path.exists(tmp_path / "elsewhere")
