"""Full disks under one job; all of them are ``python tests/stress/full_disks.py``, as root."""

from __future__ import annotations

import full_disks
import pytest
from _project import Report


def test_a_full_disk_is_told_and_left_behind(project, tmp_path, forks):
    if not full_disks.can_mount(tmp_path):
        pytest.skip("this user may not mount a small disk")
    report = Report("full disks")
    full_disks.run(project, tmp_path, report, ["recenter"], (0.05, 0.5), forks)
    assert report.checks == 4
    assert not report.failures
