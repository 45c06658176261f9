"""A few kills of the quick jobs; all of them are ``python tests/stress/kills.py``."""

from __future__ import annotations

import kills
import pytest
from _project import Report


@pytest.mark.parametrize(("case", "count"), [("recenter", 14), ("extract", 8), ("refine", 6)])
def test_a_killed_job_goes_on_to_the_same_result(project, tmp_path, pair, case, count):
    report = Report(case)
    kills.run(project, tmp_path, report, [case], count, pair)
    assert report.checks == count
    assert not report.failures


def test_ctrl_c_while_the_program_starts(project, tmp_path):
    report = Report("start")
    kills.signals_at_start(project, tmp_path, report, (0.15, 0.5))
    assert not report.failures
