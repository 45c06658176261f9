"""Some bad command lines; a thousand are ``python tests/stress/bad_commands.py``."""

from __future__ import annotations

import bad_commands
from _project import CASES, Report


def test_bad_lines_get_a_sentence_with_the_cure(project, tmp_path, pair):
    typed = bad_commands.lines(seed=5, count=150)
    report = Report("bad command lines")
    bad_commands.run(project, tmp_path, report, typed, pair, every=60)
    assert report.checks == len(typed)
    assert not report.failures


def test_every_option_of_every_job_is_typed_wrongly():
    typed = bad_commands.lines(seed=5, count=10**6)
    from napari_sta.jobs._job import all_jobs

    assert {case.job for case in CASES.values()} == set(all_jobs())
    for name, job in all_jobs().items():
        options = {word for line in typed if line.words[0] == name for word in line.words}
        assert {f"--{field}" for field in job.model_fields} <= options
