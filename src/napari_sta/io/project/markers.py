"""What a job leaves in its folder for people and programs: exit markers, and its note."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from napari_sta.io.files import open_log, write_text

SUCCESS, FAILURE, ABORTED = "RELION_JOB_EXIT_SUCCESS", "RELION_JOB_EXIT_FAILURE", "RELION_JOB_EXIT_ABORTED"
ABORT_NOW = "RELION_JOB_ABORT_NOW"

# In the order in which RELION looks at them.
MARKERS = {SUCCESS: "Succeeded", FAILURE: "Failed", ABORTED: "Aborted"}

STATUSES = ("Running", "Scheduled", "Succeeded", "Failed", "Aborted")


def append_note(folder: Path, commands: Sequence[str], when: str) -> None:
    """Add a run to ``note.txt`` in RELION's form."""
    entry = f" ++++ Executing new job on {when}\n ++++ with the following command(s): \n"
    entry += "".join(f"{command}\n" for command in commands) + " ++++ \n"
    with open_log(folder / "note.txt") as file:
        file.write(entry)


def status_of(folder: str | Path) -> str:
    """Return a job's status as its exit markers tell it; ``Unknown`` without any."""
    for marker, status in MARKERS.items():
        if os.path.exists(Path(folder, marker)):
            return status
    return "Unknown"


def clear_markers(folder: str | Path) -> None:
    """Remove exit markers and a request to stop, as RELION's GUI does before a start."""
    for marker in (*MARKERS, ABORT_NOW):
        (Path(folder) / marker).unlink(missing_ok=True)


def mark(folder: str | Path, status: str) -> None:
    """Leave the exit marker of a status (Succeeded, Failed, Aborted)."""
    marker = next(name for name, meaning in MARKERS.items() if meaning == status)
    write_text(Path(folder) / marker, "")
