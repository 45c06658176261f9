"""The record of a job, ``job.json``: read, and turned into the job and its options again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from napari_sta.data.errors import InputError
from napari_sta.io.files import resolve
from napari_sta.jobs._job import Job, job_named
from napari_sta.jobs._run_options import RunOptions

_LARGEST_RECORD_BYTES = 64 * 2**20


def read_record(folder: str | Path) -> dict[str, Any]:
    """Read ``job.json``.

    Raises
    ------
    InputError
        If it is missing or damaged.
    """
    path = Path(folder) / "job.json"
    if not os.path.lexists(path):
        # Made and killed at once, a folder of ours is empty.
        cure = "start the job again" if os.path.isdir(folder) else "check the path"
        raise InputError(f"{folder} holds no job of napari-sta: it has no job.json; {cure}")
    try:
        if path.stat().st_size > _LARGEST_RECORD_BYTES:
            raise ValueError("it is too large")
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}); start the job anew in another folder") from None
    if (
        not isinstance(record, dict)
        or not isinstance(record.get("job"), str)
        or not isinstance(record.get("values"), dict)
    ):
        raise InputError(f"{path} is no record of a job; start the job anew in another folder")
    return record


def options_of(record: Mapping[str, Any]) -> RunOptions:
    """Return threads and device as a ``job.json`` says; what it does not say, or this computer has not, is free."""
    threads, device = record.get("threads"), record.get("device")
    known = type(threads) is int and 0 < threads <= RunOptions.most_threads()
    return RunOptions(threads=threads if known else 0, device=device if isinstance(device, str) else "auto")  # type: ignore[arg-type]


def job_from_record(record: Mapping[str, Any], folder: str | Path | None = None) -> Job:
    """Build the job that a ``job.json`` describes.

    Parameters
    ----------
    folder
        The job's folder; input files are looked for in its project too.
    """
    job_class = job_named(str(record["job"]))
    values = {key: value for key, value in record["values"].items() if value is not None}
    job = job_class.from_text(values)
    if folder is not None:
        started_in = [record["folder"]] if isinstance(record.get("folder"), str) else []
        hints = [folder, *(f"{one}/x" for one in started_in)]
        found = {}
        for field, value in job.input_files().items():
            try:
                found[field] = str(resolve(value, *hints))
            except InputError as error:
                raise InputError(f"--{field}: {error}") from None
        job = job.model_copy(update=found)
    return job
