"""The pipeline file, ``default_pipeline.star``: read, checked and written under RELION's lock."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from napari_sta.data.errors import InputError
from napari_sta.io.files import check_is_file, remove_temporary_files
from napari_sta.io.lock import relion_lock
from napari_sta.io.project.folders import JOB_NAME, job_folders, touch
from napari_sta.io.project.tables import TABLES, filled, rows_of, slashed
from napari_sta.io.star import Table, read_star, write_star

PIPELINE_FILE = "default_pipeline.star"

_CURE = "restore the file, for instance from the copy in the newest job folder of RELION"


def read_pipeline(root: Path) -> dict[str, Table]:
    """Read the pipeline file as it is; nothing if there is none."""
    path = root / PIPELINE_FILE
    if not os.path.lexists(path):
        return {}
    if check_is_file(path).st_size == 0:
        raise InputError(
            f"{path} is empty, as full disks leave files; {_CURE}, or remove it: jobs are listed from "
            "their folders then"
        )
    return read_star(path)


def pipeline_tables(root: Path) -> dict[str, Table]:
    """Read the pipeline file for looking: what it lacks is empty."""
    return filled(read_pipeline(root))


def check_pipeline(root: Path, tables: Mapping[str, Table]) -> None:
    """Refuse a pipeline file that we could not write back as RELION needs it."""
    path = root / PIPELINE_FILE
    if not tables:
        return
    version = re.search(r"^# version (\d+)", path.read_text(errors="replace"), re.MULTILINE)
    if version is None or int(version.group(1)) < 50001:
        raise InputError(
            f"{path} was written by a RELION older than 5; open the project in RELION 5 once, it "
            "translates "
            "the file"
        )
    for name, labels in TABLES.items():
        table = tables.get(name)
        if table is None or not table.columns:
            continue
        lacking = [one for one in labels if one not in table and one != "rlnPipeLineNodeTypeLabelDepth"]
        if lacking:
            raise InputError(f"{path}, table data_{name} has no column {lacking[0]}; {_CURE}")
    job_counter(root, tables)


def job_counter(root: Path, tables: Mapping[str, Table]) -> int:
    """Return the number that the pipeline gives to the next job."""
    if "pipeline_general" not in tables:
        raise InputError(f"{root / PIPELINE_FILE} has no table data_pipeline_general; {_CURE}")
    columns = tables["pipeline_general"].columns
    values = [str(value) for value in columns.get("rlnPipeLineJobCounter", [])]
    if len(values) != 1 or not re.fullmatch("[0-9]{1,6}", values[0]) or int(values[0]) < 1:
        said = f"is {values[0][:20]!r}, no number of a job" if len(values) == 1 else "is missing"
        raise InputError(
            f"{root / PIPELINE_FILE}, table data_pipeline_general: rlnPipeLineJobCounter {said}; "
            "write the number that the next job should get"
        )
    return int(values[0])


def write_pipeline(root: Path, tables: Mapping[str, Table]) -> None:
    """Write the pipeline file, and tell RELION's GUI."""
    kept = [table for name, table in tables.items() if name == "pipeline_general" or len(table)]
    write_star(root / PIPELINE_FILE, kept)
    # RELION's GUI reads the file again when it sees this one.
    sign = root / ".pipeline_has_changed"
    with suppress(OSError):
        if sign.is_symlink():
            sign.unlink()
        touch(sign)
        os.utime(sign, follow_symlinks=False)


def is_listed(root: Path, name: str) -> bool:
    """Whether the pipeline file lists a job."""
    try:
        return any(slashed(one) == name for one, *_ in rows_of(pipeline_tables(root), "pipeline_processes"))
    except InputError:
        return False


def used_numbers(root: Path, tables: Mapping[str, Table]) -> set[int]:
    """Return the numbers that jobs or folders have."""
    names = [str(folder) for folder in job_folders(root)]
    names += [name for name, *_ in rows_of(tables, "pipeline_processes")]
    return {int(match.group(1)) for name in names if (match := JOB_NAME.search(name))}


def free_number(root: Path, tables: Mapping[str, Table], counter: int) -> int:
    """Return the first number, from the counter on, that no job has."""
    used = used_numbers(root, tables)
    if not os.path.lexists(root / PIPELINE_FILE):
        counter = max(counter, max(used, default=0) + 1)
    while counter in used:
        counter += 1
    return counter


@contextmanager
def pipeline_lock(root: Path, patience_s: float = 60.0) -> Iterator[None]:
    """Hold RELION's lock on the pipeline file.

    Raises
    ------
    JobError
        If another program does not release it within ``patience_s``, or the folder is read-only.
    """
    with relion_lock(root, patience_s):
        # Whoever holds the lock alone writes the pipeline: what lies there is of a killed process.
        remove_temporary_files(root, of=PIPELINE_FILE)
        yield
