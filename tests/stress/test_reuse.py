"""Used folders of the quick jobs; all of them are ``python tests/stress/reuse.py``."""

from __future__ import annotations

import pytest
import reuse
from _project import CASES, Report


@pytest.mark.slow
@pytest.mark.parametrize("case", ["extract", "recenter"])
def test_a_used_folder_keeps_nothing_stale_and_loses_nothing(project, tmp_path, forks, case):
    report = Report(case)
    reuse.run(project, tmp_path, report, [case], forks, quick=True)
    assert report.checks >= 10
    assert not report.failures


def test_every_job_is_changed():
    assert set(reuse.CHANGES) == set(CASES)
