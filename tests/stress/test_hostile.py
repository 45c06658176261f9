"""Some hostile projects; all of them are ``python tests/stress/hostile.py``."""

from __future__ import annotations

import hostile
from _project import Report


def test_nothing_outside_is_touched(project, tmp_path, monkeypatch):
    monkeypatch.setattr(hostile, "NAMES", hostile.NAMES[:3])
    monkeypatch.setattr(hostile, "_LABELS", hostile._LABELS[:2])
    report = Report("hostile projects")
    hostile.run(project, tmp_path, report, ["names", "pipelines"])
    assert report.checks > 60
    assert not report.failures


def test_no_python_file_of_the_project_is_imported(project, tmp_path):
    report = Report("imports")
    hostile.run(project, tmp_path, report, ["imports"])
    assert report.checks >= 8
    assert not report.failures
