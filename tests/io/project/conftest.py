"""A project, and a folder outside of it that nothing may touch."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from napari_sta.io.project.project import Project


@pytest.fixture
def project(data, tmp_path) -> Project:
    shutil.copytree(data / "project", tmp_path / "project")
    return Project(tmp_path / "project")


@pytest.fixture
def victim(project, tmp_path) -> Path:
    """A folder beside the project, in which nothing may change."""
    folder = tmp_path / "victim"
    for name in ("data/precious.txt", "secret.txt", "job024/particles.star", "Extract/job024/particles.star"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"" if name == "secret.txt" else b"of great value")
    (folder / "link").symlink_to(folder / "data")
    return folder
