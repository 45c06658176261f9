"""Some hostile projects; all of them are ``python tests/stress/hostile.py``."""

from __future__ import annotations

import hostile
import pytest
from _project import Report


@pytest.mark.slow
def test_nothing_outside_is_touched(project, tmp_path, forks, monkeypatch):
    for name in ("NAMES", "_JOBS", "_FILES", "_LABELS", "_ALIASES"):
        monkeypatch.setattr(hostile, name, getattr(hostile, name)[:2])
    report = Report("hostile projects")
    hostile.run(project, tmp_path, report, ["names", "pipelines"], forks)
    assert report.checks > 50
    assert not report.failures


@pytest.mark.slow
def test_no_python_file_of_the_project_is_imported(project, tmp_path, forks):
    report = Report("imports")
    hostile.run(project, tmp_path, report, ["imports"], forks)
    assert report.checks >= 8
    assert not report.failures
