"""Where a job runs, and with what."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunOptions:
    """Where and with what to run.

    Attributes
    ----------
    out
        Output folder; None: the next job folder of the project.
    threads
        CPU threads; 0: all that this process may use.
    device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:0,1``.
    project
        Project folder; None: the one the current folder belongs to.
    by_relion
        RELION has made the output folder for this job (``--pipeline_control``).
    """

    out: Path | None = None
    threads: int = 0
    device: str = "auto"
    project: Path | None = None
    by_relion: bool = False

    @property
    def n_threads(self) -> int:
        """How many CPU threads to use."""
        if self.threads > 0:
            return self.threads
        if hasattr(os, "sched_getaffinity"):
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1

    @staticmethod
    def most_threads() -> int:
        """Return how many CPU threads may be asked for: more only take memory and turns from each other."""
        return 4 * (os.cpu_count() or 1)
