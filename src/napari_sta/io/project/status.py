"""How a job stands: what its folder knows more than the pipeline."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from napari_sta.io.lock import is_dead
from napari_sta.io.project.folders import own_folder
from napari_sta.io.project.markers import status_of
from napari_sta.io.project.pipeline_file import PIPELINE_FILE

# RELION and we fill a new folder at once; whatever is still empty after this was given up.
_EMPTY_IS_DESERTED_S = 300.0

# A record is some kilobytes; whatever is larger is none.
_LARGEST_RECORD_BYTES = 16 * 2**20


def status_now(root: Path, name: str, status: str) -> str:
    """Return a status: what the pipeline says (it may be empty), or the folder if that knows more."""
    if status in ("Succeeded", "Failed", "Aborted"):
        return status
    folder = own_folder(root, name)
    marked = status_of(folder) if folder is not None else "Unknown"
    if marked != "Unknown" or status == "Scheduled":
        return status if marked == "Unknown" else marked
    if folder is not None and was_killed(folder):
        return "Aborted"
    if status == "Running":
        return "Aborted" if is_deserted(root, name) else status
    return "Running" if folder is not None and _is_at_work(folder) else "Unknown"


def is_deserted(root: Path, name: str) -> bool:
    """Whether a job has no folder, or an empty one, long after it began: it was killed right then."""
    folder = root / name
    try:
        if os.path.lexists(folder) and (own_folder(root, name) is None or os.listdir(folder)):
            return False
        seen = folder if os.path.lexists(folder) else root / PIPELINE_FILE
        return time.time() - seen.stat().st_mtime > _EMPTY_IS_DESERTED_S
    except OSError:
        return False


def was_killed(folder: str | Path) -> bool:
    """Whether a job of ours was still running when its process died (seen from the same computer).

    Any ``job.json`` is borne, damaged or foreign: it says nothing then.
    """
    record = record_of(Path(folder))
    if record.get("status") != "Running" or "process" not in record:
        return False
    return is_dead(record.get("host"), record["process"], record.get("process_started", ""))


def _is_at_work(folder: Path) -> bool:
    """Whether a job of ours is running on this computer."""
    record = record_of(folder)
    if record.get("status") != "Running" or record.get("host") != socket.gethostname():
        return False
    return "process" in record and not was_killed(folder)


def record_of(folder: Path) -> dict[str, Any]:
    """Return the ``job.json`` of a folder; empty for none, a damaged or a foreign one."""
    path = folder / "job.json"
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST_RECORD_BYTES:
            return {}
        record = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}
