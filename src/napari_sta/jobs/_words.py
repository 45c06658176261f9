"""A job in words: the command line that runs it, and what it is at."""

from __future__ import annotations

from napari_sta.data.progress import Progress
from napari_sta.jobs._job import Job

_PHASES = {
    "accuracy": "estimating accuracy",
    "expectation": "aligning particles",
    "maximisation": "reconstructing",
}


def words_of(job: Job, out: str = "", threads: int = 0, device: str = "auto") -> list[str]:
    """Return the words after ``napari-sta`` that run a job.

    Parameters
    ----------
    out
        Output folder; empty: the next job folder of the project.
    threads, device
        As for any job; 0 threads: all there are.
    """
    # A value is one word with its option, because it may begin with a dash.
    words = [job.name(), *(f"--{key}={value}" for key, value in job.as_text(only_given=True).items())]
    words += [f"--o={out}"] if out else []
    words += [f"--j={threads}"] if threads else []
    return words + ([f"--device={device}"] if device != "auto" else [])


def step_words(progress: Progress) -> str:
    """Say in a few plain words what a job is at: ``iteration 3, aligning particles``."""
    data = progress.data
    phase = _PHASES.get(str(data.get("phase", "")))
    if phase is None or "iteration" not in data:
        return progress.message
    last = " (the last)" if data.get("last") else ""
    return f"iteration {data['iteration']}{last}, {phase}"
