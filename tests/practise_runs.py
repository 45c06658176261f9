"""A job to practise on, and a run to its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from napari_sta.data.progress import Progress
from napari_sta.jobs._job import Job, job_named
from napari_sta.jobs._run import JobRun

EXTRA = Path(__file__).parent / "jobs/extra"


def practise(**values: Any) -> Job:
    return job_named("practise").from_text({"needed_angst": 4.5, **values})


def run_to_end(run: JobRun) -> tuple[list[Progress], dict[str, Any]]:
    steps = run.steps()
    seen = []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as end:
            return seen, end.value
