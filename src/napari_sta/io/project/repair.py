"""A pipeline brought in line with the folders of its jobs before it is changed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from napari_sta.io.files import TEMPORARY_SUFFIX
from napari_sta.io.project.folders import alias_link, job_folders, own_folder
from napari_sta.io.project.job_pipeline import JOB_PIPELINE, outputs_told, told_by
from napari_sta.io.project.listing import jobs_of
from napari_sta.io.project.node_entries import touch_nodes
from napari_sta.io.project.pipeline_file import PIPELINE_FILE, check_pipeline, job_counter, read_pipeline
from napari_sta.io.project.status import is_deserted, record_of, status_now
from napari_sta.io.project.tables import (
    add_node,
    add_outputs,
    add_row,
    filled,
    general_table,
    rows_of,
    set_status,
    slashed,
)
from napari_sta.io.star import Table

_LOGS = ("note.txt", "run.out", "run.err", JOB_PIPELINE)


def tables_to_change(root: Path, apart_from: str = "") -> dict[str, Table]:
    """Read the pipeline file for writing it back, which takes the lock.

    Rows of our jobs that ended while they could not be entered are brought in line; a project without
    the file gets one that lists what there is.
    """
    for leftover in root.glob(f".{PIPELINE_FILE}.*{TEMPORARY_SUFFIX}"):
        with suppress(OSError):  # of a killed process: nobody else writes it now
            leftover.unlink()
    tables = read_pipeline(root)
    if not tables:
        return _rebuilt(root)
    check_pipeline(root, tables)
    tables = filled(tables)
    for name, _, _, status in rows_of(tables, "pipeline_processes"):
        if status != "Running" or slashed(name) == apart_from:
            continue
        folder = own_folder(root, name)
        if folder is None or "job" not in record_of(folder):
            continue
        now = status_now(root, name, status)
        if now != status:
            set_status(tables, name, now)
            if now == "Succeeded":
                touch_nodes(root, add_outputs(tables, name, outputs_told(root, name)))
    return tables


def _rebuilt(root: Path) -> dict[str, Table]:
    """Make a pipeline of what the job folders say of themselves."""
    tables = filled({})
    numbers = [0]
    for job in jobs_of(root):
        folder = own_folder(root, job.name)
        if folder is None or not any(folder.iterdir()):
            continue
        kept = told_by(folder / JOB_PIPELINE, job.name)
        told = outputs_told(root, job.name)
        told += [
            node._replace(path=node.path.removeprefix(job.name))
            for node in kept.outputs
            if node.path.removeprefix(job.name) not in {one.path for one in told}
        ]
        there = [node for node in told if os.path.exists(folder / node.path)]
        status = job.status
        if status == "Unknown":
            # Without a marker: it has ended well if all that it was to write is there. A program that
            # was run by hand tells of nothing, and leaves neither job.star nor marker.
            by_hand = not told and not (folder / "job.star").is_file() and _holds_results(folder)
            is_whole = bool(told) and len(there) == len(told)
            status = "Succeeded" if is_whole or by_hand else "Aborted"
        type_label = job.type_label or kept.type_label or "relion.external"
        alias = alias_link(folder) or "None"
        add_row(tables, "pipeline_processes", (job.name, alias, type_label, status))
        for node in kept.inputs:
            add_node(tables, node)
            add_row(tables, "pipeline_input_edges", (node.path, job.name))
        touch_nodes(root, add_outputs(tables, job.name, there))
        numbers.append(job.number)
    tables["pipeline_general"] = general_table(max(numbers) + 1)
    return tables


def remove_deserted(root: Path, tables: Mapping[str, Table]) -> None:
    """Remove empty folders of jobs that were killed before they were entered: they keep numbers taken."""
    listed = {slashed(name) for name, *_ in rows_of(tables, "pipeline_processes")}
    counter = job_counter(root, tables)
    for folder in job_folders(root):
        name = f"{folder.parent.name}/{folder.name}/"
        if name not in listed and int(folder.name[3:]) >= counter and is_deserted(root, name):
            with suppress(OSError):
                folder.rmdir()


def _holds_results(folder: Path) -> bool:
    """Whether there is more in a job's folder than what is logged of it."""
    return any(one.name not in _LOGS and not one.name.startswith(".") for one in folder.iterdir())
