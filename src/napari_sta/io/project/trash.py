"""Jobs moved to ``Trash/`` and back."""

from __future__ import annotations

import errno
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from napari_sta.data.errors import InputError, JobError
from napari_sta.io.files import inside, relative_to, sentence_for
from napari_sta.io.project.folders import is_link_to, own_folder
from napari_sta.io.project.job_pipeline import JOB_PIPELINE, OwnPipeline, own_pipeline, write_own_pipeline
from napari_sta.io.project.listing import ProjectJob, downstream_of, job_of
from napari_sta.io.project.markers import MARKERS
from napari_sta.io.project.node_entries import node_entries, remove_empty_file, touch_nodes
from napari_sta.io.project.pipeline_file import PIPELINE_FILE, pipeline_lock, write_pipeline
from napari_sta.io.project.repair import tables_to_change
from napari_sta.io.project.tables import (
    PipelineNode,
    add_node,
    add_outputs,
    add_row,
    alias_of,
    drop_rows,
    nodes_of,
    rows_of,
    stays_inside,
    written_by,
)
from napari_sta.io.star import Table, read_star

# What can be moved as a job: its folder in that of its type, and nothing of the project's own.
_MOVABLE = re.compile(r"(?!\.|Trash/)[^/]+/job\d{3,}/")


def trash_job(root: Path, name: str) -> Path:
    """Move a job's folder to ``Trash/`` and take the job out of the pipeline."""
    with pipeline_lock(root):
        tables = tables_to_change(root)
        job = job_of(root, name)
        name = job.name
        _refuse_to_trash(root, job)
        source = inside(root, name, f"{PIPELINE_FILE}, rlnPipeLineProcessName")
        written = written_by(tables, name)
        alias = alias_of(tables, name)
        link = inside(root, alias, f"{PIPELINE_FILE}, rlnPipeLineProcessAlias") if alias else None
        gone, entries = [], []
        for node in nodes_of(tables):
            is_own = node.path.startswith(name)
            if is_own or node.path in written:
                found = node_entries(root, node, name, alias)
                gone += [node] if is_own else []
                entries += found if is_own else []
        if link is not None and not is_link_to(link, source):
            link = None
        target = _place_in_trash(root, name)
        known = {node.path: node for node in nodes_of(tables)}
        drop_rows(tables, "pipeline_processes", "rlnPipeLineProcessName", {name})
        drop_rows(tables, "pipeline_nodes", "rlnPipeLineNodeName", {node.path for node in gone})
        drop_rows(tables, "pipeline_input_edges", "rlnPipeLineEdgeProcess", {name})
        drop_rows(tables, "pipeline_output_edges", "rlnPipeLineEdgeProcess", {name})
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            is_there = os.path.lexists(source)
            if is_there and job.in_pipeline:
                # What the pipeline knows of the job, so that it can be brought back.
                write_own_pipeline(
                    source / JOB_PIPELINE if own_folder(root, name) else _beside(target),
                    name,
                    job.type_label,
                    job.status,
                    [known.get(path, PipelineNode(path, "")) for path in job.inputs],
                    gone,
                    alias,
                )
            if is_there:
                _move(source, target)
            try:
                if job.in_pipeline:
                    write_pipeline(root, tables)
            except BaseException:
                if is_there:
                    _move(target, source)
                raise
        except OSError as error:
            raise JobError(sentence_for(error, target)) from error
        for entry in entries:
            remove_empty_file(entry)
        if link is not None:
            with suppress(OSError):
                link.unlink()
    return target


def restore_job(root: Path, folder: str | Path) -> str:
    """Bring a job back from ``Trash/``, into the pipeline too if it was there."""
    place = relative_to(folder, root) or ""
    trash, _, last = place.partition("/")
    kind, _, number = last.partition("/")
    name = f"{kind}/{number.partition('.')[0]}/"
    if trash != "Trash" or not _MOVABLE.fullmatch(name):
        raise InputError(f"{folder} is no job in the Trash of the project {root}")
    source = inside(root, place, "the folder of the job")
    target = inside(root, name, "the folder of the job")
    if not os.path.lexists(source):
        raise InputError(f"{folder} is not there any more; was the Trash emptied?")
    with pipeline_lock(root):
        if os.path.lexists(target):
            raise InputError(f"{name} cannot be brought back: the project has a job of that name again")
        kept = _kept_of(root, source, place, name)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if kept is None:
                _move(source, target)
                return name
            tables = tables_to_change(root)
            alias, nodes = _enter_again(root, tables, kept, name)
            _move(source, target)
            try:
                write_pipeline(root, tables)
            except BaseException:
                _move(target, source)
                raise
        except OSError as error:
            raise JobError(sentence_for(error, target)) from error
        with suppress(OSError):
            _beside(source).unlink(missing_ok=True)
            if alias:
                (root / alias.rstrip("/")).symlink_to(f"../{name}")
        touch_nodes(root, nodes)
    return name


def _refuse_to_trash(root: Path, job: ProjectJob) -> None:
    if not _MOVABLE.fullmatch(job.name):
        raise InputError(f"{job.name} cannot be discarded: it is no job folder such as Extract/job024/")
    if job.status == "Running":
        raise InputError(f"{job.name} is running; stop it before discarding it")
    users = downstream_of(root, job.name)
    if users:
        raise InputError(
            f"{job.name} cannot be discarded: {', '.join(users)} use its output; discard them first"
        )


def _place_in_trash(root: Path, name: str) -> Path:
    place, copy = f"Trash/{name}", 2
    while True:
        target = inside(root, place, "the folder of the job in the Trash")
        if not os.path.lexists(target):
            return target
        place = f"Trash/{name.rstrip('/')}.{copy}"
        copy += 1


def _kept_of(root: Path, source: Path, place: str, name: str) -> OwnPipeline | None:
    """Return what was kept of a job in the Trash; None if the pipeline did not know it.

    Raises
    ------
    InputError
        If it leads out of the project.
    """
    own = source / JOB_PIPELINE if own_folder(root, place) is not None else _beside(source)
    if own.is_symlink() or not own.is_file():
        return None
    kept = own_pipeline(read_star(own), name)
    if kept.status is None:
        return None
    for node in kept.outputs:
        if not node.path.startswith(name):
            raise InputError(f"{own}: {node.path[:80]!r} is no file of {name}; remove it there")
        node_entries(root, node, name, kept.alias)
    if kept.alias:
        inside(root, kept.alias, f"{own}, rlnPipeLineProcessAlias")
    return kept


def _enter_again(
    root: Path, tables: dict[str, Table], kept: OwnPipeline, name: str
) -> tuple[str, list[PipelineNode]]:
    """Put a job that was in the Trash back into the pipeline; return its alias and what it wrote."""
    taken = {alias for _, alias, *_ in rows_of(tables, "pipeline_processes")}
    alias = kept.alias
    if alias in taken or os.path.lexists(root / alias.rstrip("/")):
        alias = ""
    # Nothing in the Trash runs.
    status = kept.status if kept.status in (*MARKERS.values(), "Scheduled") else "Aborted"
    drop_rows(tables, "pipeline_processes", "rlnPipeLineProcessName", {name})
    add_row(tables, "pipeline_processes", (name, alias or "None", kept.type_label, status))
    edges = set(rows_of(tables, "pipeline_input_edges"))
    for node in kept.inputs:
        if stays_inside(node.path):
            add_node(tables, node)
            if (node.path, name) not in edges:
                add_row(tables, "pipeline_input_edges", (node.path, name))
    inner = [node._replace(path=node.path.removeprefix(name)) for node in kept.outputs]
    return alias, add_outputs(tables, name, inner)


def _beside(folder: Path) -> Path:
    """Return where the pipeline of a job in the Trash is kept if its folder is a link out of the project."""
    return folder.with_name(f"{folder.name}.{JOB_PIPELINE}")


def _move(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.move(source, target)
