"""A tiny project that the job tests share."""

from __future__ import annotations

import pytest

from tiny_project import Project, make_project


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The plain tiny project, shared: read it, don't change it."""
    return make_project(tmp_path_factory.mktemp("tiny") / "project")
