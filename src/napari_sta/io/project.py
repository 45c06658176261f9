"""RELION project folders: the pipeline file, job folders, and the files a job leaves there.

Changes to the pipeline follow RELION's lock protocol, so that RELION's GUI may be open on the same
project. Whatever the pipeline says and whatever links a project holds, nothing outside of it is read as a
record, made, moved or deleted.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from napari_sta.data.errors import InputError, JobError, StaError
from napari_sta.io.files import (
    TEMPORARY_SUFFIX,
    check_is_file,
    inside,
    open_log,
    project_root,
    relative_to,
    sentence_for,
    write_text,
)
from napari_sta.io.lock import is_dead, process_mark, relion_lock
from napari_sta.io.star import Table, read_star, text_column, write_star

__all__ = [
    "ABORT_NOW",
    "FOLDER_TYPES",
    "JOB_NAME",
    "OUTPUT_NODES",
    "PIPELINE_FILE",
    "STATUSES",
    "JobStar",
    "PipelineNode",
    "Project",
    "ProjectJob",
    "append_note",
    "clear_markers",
    "mark",
    "process_mark",
    "read_job_star",
    "status_of",
    "was_killed",
    "write_job_pipeline",
    "write_job_star",
    "write_output_nodes",
]

PIPELINE_FILE = "default_pipeline.star"
JOB_NAME = re.compile(r"[^/]+/job(\d{3,})/?$")
# What can be moved as a job: its folder in that of its type, and nothing of the project's own.
_MOVABLE = re.compile(r"(?!\.|Trash/)[^/]+/job\d{3,}/")
# The first parts of a label name folders below .Nodes.
_LABEL = re.compile(r"[\w+-][\w.+-]*")
_NODES = ".Nodes"
JOB_PIPELINE = "job_pipeline.star"

SUCCESS, FAILURE, ABORTED = "RELION_JOB_EXIT_SUCCESS", "RELION_JOB_EXIT_FAILURE", "RELION_JOB_EXIT_ABORTED"
ABORT_NOW = "RELION_JOB_ABORT_NOW"
OUTPUT_NODES = "RELION_OUTPUT_NODES.star"

_CURE = "restore the file, for instance from the copy in the newest job folder of RELION"

# RELION and we fill a new folder at once; whatever is still empty after this was given up.
_EMPTY_IS_DESERTED_S = 300.0

# A record is some kilobytes; whatever is larger is none.
_LARGEST_RECORD_BYTES = 16 * 2**20

# In the order in which RELION looks at them.
_MARKERS = {SUCCESS: "Succeeded", FAILURE: "Failed", ABORTED: "Aborted"}
_LOGS = ("note.txt", "run.out", "run.err", JOB_PIPELINE)
STATUSES = ("Running", "Scheduled", "Succeeded", "Failed", "Aborted")

FOLDER_TYPES = {
    "Import": "relion.importtomo",
    "MotionCorr": "relion.motioncorr",
    "CtfFind": "relion.ctffind",
    "ExcludeTiltImages": "relion.excludetilts",
    "AlignTiltSeries": "relion.aligntiltseries",
    "Tomograms": "relion.reconstructtomograms",
    "Denoise": "relion.denoisetomo",
    "Picks": "relion.picktomo",
    "Extract": "relion.pseudosubtomo",
    "InitialModel": "relion.initialmodel",
    "Class3D": "relion.class3d",
    "Refine3D": "relion.refine3d",
    "Reconstruct": "relion.reconstructparticletomo",
    "CtfRefine": "relion.ctfrefinetomo",
    "Polish": "relion.framealigntomo",
    "Select": "relion.select",
    "JoinStar": "relion.joinstar",
    "Subtract": "relion.subtract",
    "MaskCreate": "relion.maskcreate",
    "PostProcess": "relion.postprocess",
    "LocalRes": "relion.localres",
    "External": "relion.external",
}
"""RELION's job folders and the type labels of the jobs in them."""

_TABLES: dict[str, tuple[str, ...]] = {
    "pipeline_processes": (
        "rlnPipeLineProcessName",
        "rlnPipeLineProcessAlias",
        "rlnPipeLineProcessTypeLabel",
        "rlnPipeLineProcessStatusLabel",
    ),
    "pipeline_nodes": (
        "rlnPipeLineNodeName",
        "rlnPipeLineNodeTypeLabel",
        "rlnPipeLineNodeTypeLabelDepth",
    ),
    "pipeline_input_edges": ("rlnPipeLineEdgeFromNode", "rlnPipeLineEdgeProcess"),
    "pipeline_output_edges": ("rlnPipeLineEdgeProcess", "rlnPipeLineEdgeToNode"),
}


class PipelineNode(NamedTuple):
    """A file that RELION's pipeline knows: path from the project folder, type label, depth of the label."""

    path: str
    label: str
    depth: int = 1


@dataclass(frozen=True)
class ProjectJob:
    """A job of a project.

    Attributes
    ----------
    name
        ``Extract/job010/``.
    alias
        ``Extract/alias/``, or empty.
    type_label
        ``relion.pseudosubtomo``.
    status
        Running, Scheduled, Succeeded, Failed, Aborted; Unknown if nothing says.
    inputs, outputs
        Files that the pipeline says it reads and wrote.
    in_pipeline
        False for a folder that the pipeline file does not list.
    """

    name: str
    alias: str
    type_label: str
    status: str
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    in_pipeline: bool = True

    @property
    def number(self) -> int:
        """The job's number; 0 if its name has none."""
        match = JOB_NAME.search(self.name)
        return int(match.group(1)) if match else 0


class Project:
    """A RELION project folder.

    Parameters
    ----------
    root
        The folder that RELION runs in; all paths in RELION's files count from it.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()

    def __repr__(self) -> str:
        return f"Project({str(self.root)!r})"

    @classmethod
    def find(cls, path: str | Path = ".") -> Project | None:
        """Return the project that a file or folder belongs to, or None."""
        root = project_root(path)
        if root is not None:
            return cls(root)
        folder = Path(path).absolute()
        if folder.is_dir() and next(_job_folders(folder), None) is not None:
            return cls(folder)
        return None

    # ---- reading

    def jobs(self) -> list[ProjectJob]:
        """Return every job, by number: those in the pipeline file, and folders it does not list.

        An exit marker in the folder counts more than a ``Running`` in the pipeline file, and so does
        the death of our process that ran the job. Rows whose name leads out of the project are left out;
        :meth:`problems` tells them.

        Raises
        ------
        InputError
            If the pipeline file cannot be read.
        """
        tables = self._tables()
        inputs: dict[str, list[str]] = {}
        outputs: dict[str, list[str]] = {}
        for node, process in _rows(tables, "pipeline_input_edges"):
            inputs.setdefault(_slashed(process), []).append(node)
        for process, node in _rows(tables, "pipeline_output_edges"):
            outputs.setdefault(_slashed(process), []).append(node)
        found = []
        for row_name, alias, type_label, status in _rows(tables, "pipeline_processes"):
            if not _stays_inside(row_name):
                continue
            name = _slashed(row_name)
            found.append(
                ProjectJob(
                    name=name,
                    alias="" if alias == "None" or not _stays_inside(alias) else alias,
                    type_label=type_label,
                    status=self._status_now(name, status),
                    inputs=tuple(inputs.get(name, ())),
                    outputs=tuple(outputs.get(name, ())),
                )
            )
        listed = {job.name for job in found}
        for folder in _job_folders(self.root):
            name = f"{folder.parent.name}/{folder.name}/"
            if name not in listed:
                status = self._status_now(name, "")
                found.append(ProjectJob(name, "", self._type_of(name), status, in_pipeline=False))
        return sorted(found, key=lambda job: (job.number, job.name))

    def problems(self) -> list[str]:
        """Return a sentence for each thing in the pipeline file that keeps it from being changed."""
        try:
            tables = self._read()
        except InputError as error:
            return [str(error)]
        found = []
        try:
            self._check(tables)
        except InputError as error:
            found.append(str(error))
        for name, alias, *_ in _rows(self._filled(tables), "pipeline_processes"):
            for label, value in (("rlnPipeLineProcessName", name), ("rlnPipeLineProcessAlias", alias)):
                try:
                    if value not in ("", "None") or label == "rlnPipeLineProcessName":
                        inside(self.root, value, f"{PIPELINE_FILE}, {label}")
                except InputError as error:
                    found.append(str(error))
        return found

    def job(self, name: str) -> ProjectJob:
        """Return the job with this name.

        Raises
        ------
        InputError
            If the project has no such job, or the name leads out of the project.
        """
        wanted = _slashed(name)
        for job in self.jobs():
            if wanted and wanted in (job.name, _slashed(job.alias)):
                return job
        if not _stays_inside(name):
            inside(self.root, name, f"{PIPELINE_FILE}, rlnPipeLineProcessName")
        raise InputError(f"the project {self.root} has no job {name}; see napari-sta info {self.root}")

    def nodes(self) -> list[PipelineNode]:
        """Return every file that the pipeline knows."""
        return _nodes_of(self._tables())

    @property
    def next_job(self) -> int:
        """The number that the next job gets."""
        raw = self._read()
        tables = self._filled(raw)
        try:
            return self._free_number(tables, self._counter(raw) if raw else 1)
        except InputError:
            return max(self._used_numbers(tables), default=0) + 1

    def downstream(self, name: str) -> list[str]:
        """Return the names of jobs that read what this job wrote."""
        wanted = _slashed(name)
        if not wanted:
            return []
        tables = self._tables()
        written = _written_by(tables, wanted)
        users = [
            _slashed(process)
            for node, process in _rows(tables, "pipeline_input_edges")
            if _slashed(process) != wanted and (node in written or node.startswith(wanted))
        ]
        return list(dict.fromkeys(users))

    # ---- changing

    def add_job(
        self,
        folder: str,
        type_label: str,
        inputs: Sequence[PipelineNode] = (),
        outputs: Sequence[PipelineNode] = (),
        first: Callable[[Path], None] | None = None,
    ) -> str:
        """Give a new job the next number, make its folder, and enter it as running.

        Parameters
        ----------
        folder
            ``Reconstruct``.
        inputs
            Files it reads, paths from the project folder.
        outputs
            Files it will write, paths from the *job* folder.
        first
            Called with the new, empty folder while the project is locked and the pipeline does not know
            the job yet: what it writes (the job's record) is there whenever the job is. If it fails, the
            folder is removed and nothing has changed.

        Returns
        -------
        name
            ``Reconstruct/job038/``.

        Raises
        ------
        InputError
            If the pipeline file cannot be changed, or the folder of the type is a link out of the project.
        JobError
            If the project stays locked by another program, or cannot be written to.
        """
        with self.lock():
            tables = self._tables_to_change()
            self._remove_deserted(tables)
            number = self._free_number(tables, self._counter(tables))
            name = f"{folder}/job{number:03d}/"
            made = inside(self.root, name, "the folder of the new job")
            tables["pipeline_general"] = _general(number + 1)
            _append(tables, "pipeline_processes", (name, "None", type_label, "Running"))
            for node in inputs:
                if _stays_inside(node.path):
                    self._add_node(tables, node)
                    _append(tables, "pipeline_input_edges", (node.path, name))
            self._add_outputs(tables, name, outputs)
            try:
                made.mkdir(parents=True)
                try:
                    if first is not None:
                        first(made)
                    self._write(tables)
                except BaseException:
                    if not self._is_listed(name):
                        shutil.rmtree(made, ignore_errors=True)
                    raise
            except OSError as error:
                raise JobError(sentence_for(error, made)) from error
        return name

    def finish_job(self, name: str, status: str, outputs: Sequence[PipelineNode] = ()) -> str:
        """Set a job's status, and enter the files it wrote (paths from the job folder).

        A job that the pipeline does not list is left alone.

        Returns
        -------
        warning
            Empty; or, where a job that has ended could not be entered (the project stays locked, the
            pipeline file is damaged, the disk full), a sentence saying so. Its exit marker counts until the
            row is brought in line, by RELION or by us, once either holds the lock.

        Raises
        ------
        InputError, JobError
            As :meth:`add_job`, for ``Running`` and ``Scheduled``.
        """
        if status not in STATUSES:
            raise ValueError(f"{status} is no job status of RELION")
        name = _slashed(name)
        try:
            with self.lock():
                tables = self._tables_to_change(apart_from=name)
                if not self._set_status(tables, name, status):
                    return ""
                nodes = self._add_outputs(tables, name, outputs)
                self._write(tables)
        except StaError as error:
            if status not in _MARKERS.values():
                raise
            return (
                f"{name} has ended ({status.lower()}), but {PIPELINE_FILE} does not say so yet: {error}; "
                "its files are complete, and the pipeline is corrected when the next job starts"
            )
        self._touch_nodes(nodes)
        return ""

    def trash_job(self, name: str) -> Path:
        """Move a job's folder to ``Trash/`` and take the job out of the pipeline.

        A folder that is a link is moved as a link.

        Returns
        -------
        folder
            Where it is now.

        Raises
        ------
        InputError
            If the job is running, other jobs use what it wrote, or anything that the pipeline says of it
            leads out of the project; nothing has changed then.
        JobError
            If the project stays locked by another program, or cannot be written to.
        """
        with self.lock():
            tables = self._tables_to_change()
            job = self.job(name)
            name = job.name
            self._refuse_to_trash(job)
            source = inside(self.root, name, f"{PIPELINE_FILE}, rlnPipeLineProcessName")
            written = _written_by(tables, name)
            alias = self._alias_of(tables, name)
            link = inside(self.root, alias, f"{PIPELINE_FILE}, rlnPipeLineProcessAlias") if alias else None
            gone, entries = [], []
            for node in _nodes_of(tables):
                is_own = node.path.startswith(name)
                if is_own or node.path in written:
                    found = self._node_entries(node, name, alias)
                    gone += [node] if is_own else []
                    entries += found if is_own else []
            if link is not None and not _is_link_to(link, source):
                link = None
            target = self._place_in_trash(name)
            known = {node.path: node for node in _nodes_of(tables)}
            _drop(tables, "pipeline_processes", "rlnPipeLineProcessName", {name})
            _drop(tables, "pipeline_nodes", "rlnPipeLineNodeName", {node.path for node in gone})
            _drop(tables, "pipeline_input_edges", "rlnPipeLineEdgeProcess", {name})
            _drop(tables, "pipeline_output_edges", "rlnPipeLineEdgeProcess", {name})
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                is_there = os.path.lexists(source)
                if is_there and job.in_pipeline:
                    # What the pipeline knows of the job, so that it can be brought back.
                    _write_own_pipeline(
                        source / JOB_PIPELINE if self._own_folder(name) else _beside(target),
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
                        self._write(tables)
                except BaseException:
                    if is_there:
                        _move(target, source)
                    raise
            except OSError as error:
                raise JobError(sentence_for(error, target)) from error
            for entry in entries:
                _remove_empty_file(entry)
            if link is not None:
                with suppress(OSError):
                    link.unlink()
        return target

    def restore_job(self, folder: str | Path) -> str:
        """Bring a job back from ``Trash/``, into the pipeline too if it was there.

        Parameters
        ----------
        folder
            Where :meth:`trash_job` put it.

        Returns
        -------
        name
            The job's name.

        Raises
        ------
        InputError
            If the folder is not there, its old place is taken, or anything that its ``job_pipeline.star``
            says leads out of the project; nothing has changed then.
        JobError
            If the project stays locked by another program, or cannot be written to.
        """
        place = relative_to(folder, self.root) or ""
        trash, _, last = place.partition("/")
        kind, _, number = last.partition("/")
        name = f"{kind}/{number.partition('.')[0]}/"
        if trash != "Trash" or not _MOVABLE.fullmatch(name):
            raise InputError(f"{folder} is no job in the Trash of the project {self.root}")
        source = inside(self.root, place, "the folder of the job")
        target = inside(self.root, name, "the folder of the job")
        if not os.path.lexists(source):
            raise InputError(f"{folder} is not there any more; was the Trash emptied?")
        with self.lock():
            if os.path.lexists(target):
                raise InputError(f"{name} cannot be brought back: the project has a job of that name again")
            kept = self._kept_of(source, place, name)
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                if kept is None:
                    _move(source, target)
                    return name
                tables = self._tables_to_change()
                alias, nodes = self._enter_again(tables, kept, name)
                _move(source, target)
                try:
                    self._write(tables)
                except BaseException:
                    _move(target, source)
                    raise
            except OSError as error:
                raise JobError(sentence_for(error, target)) from error
            with suppress(OSError):
                _beside(source).unlink(missing_ok=True)
                if alias:
                    (self.root / alias.rstrip("/")).symlink_to(f"../{name}")
            self._touch_nodes(nodes)
        return name

    @contextmanager
    def lock(self, patience_s: float = 60.0) -> Iterator[None]:
        """Hold RELION's lock on the pipeline file.

        Raises
        ------
        JobError
            If another program does not release it within ``patience_s``, or the folder is read-only.
        """
        with relion_lock(self.root, patience_s):
            yield

    # ---- inside

    def _read(self) -> dict[str, Table]:
        """Read the pipeline file as it is; nothing if there is none."""
        path = self.root / PIPELINE_FILE
        if not os.path.lexists(path):
            return {}
        check_is_file(path)
        return read_star(path)

    def _tables(self) -> dict[str, Table]:
        """Read the pipeline file for looking: what it lacks is empty."""
        return self._filled(self._read())

    @staticmethod
    def _filled(tables: Mapping[str, Table]) -> dict[str, Table]:
        general = tables.get("pipeline_general")
        made = {"pipeline_general": general if general else _general(1)}
        for name, labels in _TABLES.items():
            table = tables.get(name)
            if table is None or not table.columns:
                table = Table(name, {label: text_column([]) for label in labels})
            elif name == "pipeline_nodes" and "rlnPipeLineNodeTypeLabelDepth" not in table:
                ones = text_column(["1"] * len(table))
                table = Table(name, {**table.columns, "rlnPipeLineNodeTypeLabelDepth": ones})
            made[name] = table
        return made | {name: table for name, table in tables.items() if name not in made}

    def _check(self, tables: Mapping[str, Table]) -> None:
        """Refuse a pipeline file that we could not write back as RELION needs it."""
        path = self.root / PIPELINE_FILE
        if not tables:
            return
        version = re.search(r"^# version (\d+)", path.read_text(errors="replace"), re.MULTILINE)
        if version is None or int(version.group(1)) < 50001:
            raise InputError(
                f"{path} was written by a RELION older than 5; open the project in RELION 5 once, it "
                "translates "
                "the file"
            )
        for name, labels in _TABLES.items():
            table = tables.get(name)
            if table is None or not table.columns:
                continue
            lacking = [one for one in labels if one not in table and one != "rlnPipeLineNodeTypeLabelDepth"]
            if lacking:
                raise InputError(f"{path}, table data_{name} has no column {lacking[0]}; {_CURE}")
        self._counter(tables)

    def _counter(self, tables: Mapping[str, Table]) -> int:
        if "pipeline_general" not in tables:
            raise InputError(f"{self.root / PIPELINE_FILE} has no table data_pipeline_general; {_CURE}")
        columns = tables["pipeline_general"].columns
        values = [str(value) for value in columns.get("rlnPipeLineJobCounter", [])]
        if len(values) != 1 or not re.fullmatch("[0-9]{1,6}", values[0]) or int(values[0]) < 1:
            said = f"is {values[0][:20]!r}, no number of a job" if len(values) == 1 else "is missing"
            raise InputError(
                f"{self.root / PIPELINE_FILE}, table data_pipeline_general: rlnPipeLineJobCounter {said}; "
                "write the number that the next job should get"
            )
        return int(values[0])

    def _tables_to_change(self, apart_from: str = "") -> dict[str, Table]:
        """Read the pipeline file for writing it back, which takes the lock.

        Rows of our jobs that ended while they could not be entered are brought in line; a project without
        the file gets one that lists what there is.
        """
        for leftover in self.root.glob(f".{PIPELINE_FILE}.*{TEMPORARY_SUFFIX}"):
            with suppress(OSError):  # of a killed process: nobody else writes it now
                leftover.unlink()
        tables = self._read()
        if not tables:
            return self._rebuilt()
        self._check(tables)
        tables = self._filled(tables)
        for name, _, _, status in _rows(tables, "pipeline_processes"):
            if status != "Running" or _slashed(name) == apart_from:
                continue
            folder = self._own_folder(name)
            if folder is None or "job" not in _record_of(folder):
                continue
            now = self._status_now(name, status)
            if now != status:
                self._set_status(tables, name, now)
                if now == "Succeeded":
                    self._touch_nodes(self._add_outputs(tables, name, self._outputs_told(name)))
        return tables

    def _rebuilt(self) -> dict[str, Table]:
        """Make a pipeline of what the job folders say of themselves."""
        tables = self._filled({})
        numbers = [0]
        for job in self.jobs():
            folder = self._own_folder(job.name)
            if folder is None or not any(folder.iterdir()):
                continue
            kept = self._told_by(folder / JOB_PIPELINE, job.name)
            told = self._outputs_told(job.name)
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
            alias = _alias_link(folder) or "None"
            _append(tables, "pipeline_processes", (job.name, alias, type_label, status))
            for node in kept.inputs:
                self._add_node(tables, node)
                _append(tables, "pipeline_input_edges", (node.path, job.name))
            self._touch_nodes(self._add_outputs(tables, job.name, there))
            numbers.append(job.number)
        tables["pipeline_general"] = _general(max(numbers) + 1)
        return tables

    def _write(self, tables: Mapping[str, Table]) -> None:
        kept = [table for name, table in tables.items() if name == "pipeline_general" or len(table)]
        write_star(self.root / PIPELINE_FILE, kept)
        # RELION's GUI reads the file again when it sees this one.
        sign = self.root / ".pipeline_has_changed"
        with suppress(OSError):
            if sign.is_symlink():
                sign.unlink()
            _touch(sign)
            os.utime(sign, follow_symlinks=False)

    def _is_listed(self, name: str) -> bool:
        try:
            return any(_slashed(one) == name for one, *_ in _rows(self._tables(), "pipeline_processes"))
        except InputError:
            return False

    def _used_numbers(self, tables: Mapping[str, Table]) -> set[int]:
        names = [str(folder) for folder in _job_folders(self.root)]
        names += [name for name, *_ in _rows(tables, "pipeline_processes")]
        return {int(match.group(1)) for name in names if (match := JOB_NAME.search(name))}

    def _free_number(self, tables: Mapping[str, Table], counter: int) -> int:
        used = self._used_numbers(tables)
        if not os.path.lexists(self.root / PIPELINE_FILE):
            counter = max(counter, max(used, default=0) + 1)
        while counter in used:
            counter += 1
        return counter

    def _own_folder(self, name: str) -> Path | None:
        """Return a job's folder; None if it is not there, or a link leads out of the project."""
        try:
            folder = inside(self.root, name, "")
        except InputError:
            return None
        root = os.path.realpath(self.root)
        is_own = os.path.isdir(folder) and Path(os.path.realpath(folder)).is_relative_to(root)
        return folder if is_own else None

    def _status_now(self, name: str, status: str) -> str:
        """Return a status: what the pipeline says (it may be empty), or the folder if that knows more."""
        if status in ("Succeeded", "Failed", "Aborted"):
            return status
        folder = self._own_folder(name)
        marked = status_of(folder) if folder is not None else "Unknown"
        if marked != "Unknown" or status == "Scheduled":
            return status if marked == "Unknown" else marked
        if folder is not None and was_killed(folder):
            return "Aborted"
        if status == "Running":
            return "Aborted" if self._is_deserted(name) else status
        return "Running" if folder is not None and _is_at_work(folder) else "Unknown"

    def _is_deserted(self, name: str) -> bool:
        """Whether a job has no folder, or an empty one, long after it began: it was killed right then."""
        folder = self.root / name
        try:
            if os.path.lexists(folder) and (self._own_folder(name) is None or os.listdir(folder)):
                return False
            seen = folder if os.path.lexists(folder) else self.root / PIPELINE_FILE
            return time.time() - seen.stat().st_mtime > _EMPTY_IS_DESERTED_S
        except OSError:
            return False

    def _remove_deserted(self, tables: Mapping[str, Table]) -> None:
        """Remove empty folders of jobs that were killed before they were entered: they keep numbers taken."""
        listed = {_slashed(name) for name, *_ in _rows(tables, "pipeline_processes")}
        counter = self._counter(tables)
        for folder in _job_folders(self.root):
            name = f"{folder.parent.name}/{folder.name}/"
            if name not in listed and int(folder.name[3:]) >= counter and self._is_deserted(name):
                with suppress(OSError):
                    folder.rmdir()

    def _type_of(self, name: str) -> str:
        folder = self._own_folder(name)
        if folder is not None and (folder / "job.star").is_file():
            with suppress(InputError):
                return read_job_star(folder / "job.star").type_label
        return FOLDER_TYPES.get(name.partition("/")[0], "")

    def _refuse_to_trash(self, job: ProjectJob) -> None:
        if not _MOVABLE.fullmatch(job.name):
            raise InputError(f"{job.name} cannot be discarded: it is no job folder such as Extract/job024/")
        if job.status == "Running":
            raise InputError(f"{job.name} is running; stop it before discarding it")
        users = self.downstream(job.name)
        if users:
            raise InputError(
                f"{job.name} cannot be discarded: {', '.join(users)} use its output; discard them first"
            )

    def _place_in_trash(self, name: str) -> Path:
        place, copy = f"Trash/{name}", 2
        while True:
            target = inside(self.root, place, "the folder of the job in the Trash")
            if not os.path.lexists(target):
                return target
            place = f"Trash/{name.rstrip('/')}.{copy}"
            copy += 1

    @staticmethod
    def _alias_of(tables: Mapping[str, Table], name: str) -> str:
        for one, alias, *_ in _rows(tables, "pipeline_processes"):
            if _slashed(one) == name and alias not in ("", "None"):
                return alias
        return ""

    def _add_node(self, tables: dict[str, Table], node: PipelineNode) -> None:
        if node.path not in set(tables["pipeline_nodes"]["rlnPipeLineNodeName"]):
            _append(tables, "pipeline_nodes", (node.path, node.label, str(node.depth)))

    def _add_outputs(
        self, tables: dict[str, Table], name: str, outputs: Sequence[PipelineNode]
    ) -> list[PipelineNode]:
        """Enter what a job wrote (paths from its folder); return the nodes as the pipeline knows them."""
        edges = set(_rows(tables, "pipeline_output_edges"))
        nodes = [PipelineNode(name + node.path, node.label, node.depth) for node in outputs]
        for node in nodes:
            self._add_node(tables, node)
            if (name, node.path) not in edges:
                _append(tables, "pipeline_output_edges", (name, node.path))
        return nodes

    @staticmethod
    def _set_status(tables: dict[str, Table], name: str, status: str) -> bool:
        """Set the status of a job; return whether the pipeline lists it."""
        table = tables["pipeline_processes"]
        here = np.array([_slashed(one) == name for one in table["rlnPipeLineProcessName"]], dtype=bool)
        if not here.any():
            return False
        column = table["rlnPipeLineProcessStatusLabel"].copy()
        column[here] = status
        columns = {**table.columns, "rlnPipeLineProcessStatusLabel": column}
        tables["pipeline_processes"] = Table(table.name, columns)
        return True

    def _outputs_told(self, name: str) -> list[PipelineNode]:
        """Return what a job says it wrote in ``RELION_OUTPUT_NODES.star``, paths from its folder."""
        folder = self._own_folder(name)
        path = folder / OUTPUT_NODES if folder is not None else None
        if path is None or path.is_symlink() or not path.is_file():
            return []
        try:
            table = read_star(path).get("output_nodes")
        except InputError:
            return []
        nodes = _nodes_of({"pipeline_nodes": table}) if table is not None else []
        return [
            node._replace(path=node.path.removeprefix(name))
            for node in nodes
            if node.path.startswith(name) and _is_sound(node)
        ]

    def _told_by(self, path: Path, name: str) -> _OwnPipeline:
        """Return what a job's own pipeline file says of it that can be used."""
        if path.is_symlink() or not path.is_file():
            return _OwnPipeline()
        try:
            told = _own_pipeline(read_star(path), name)
        except InputError:
            return _OwnPipeline()
        return told._replace(
            inputs=[node for node in told.inputs if _is_sound(node)],
            outputs=[node for node in told.outputs if node.path.startswith(name) and _is_sound(node)],
        )

    def _kept_of(self, source: Path, place: str, name: str) -> _OwnPipeline | None:
        """Return what was kept of a job in the Trash; None if the pipeline did not know it.

        Raises
        ------
        InputError
            If it leads out of the project.
        """
        own = source / JOB_PIPELINE if self._own_folder(place) is not None else _beside(source)
        if own.is_symlink() or not own.is_file():
            return None
        kept = _own_pipeline(read_star(own), name)
        if kept.status is None:
            return None
        for node in kept.outputs:
            if not node.path.startswith(name):
                raise InputError(f"{own}: {node.path[:80]!r} is no file of {name}; remove it there")
            self._node_entries(node, name, kept.alias)
        if kept.alias:
            inside(self.root, kept.alias, f"{own}, rlnPipeLineProcessAlias")
        return kept

    def _enter_again(
        self, tables: dict[str, Table], kept: _OwnPipeline, name: str
    ) -> tuple[str, list[PipelineNode]]:
        """Put a job that was in the Trash back into the pipeline; return its alias and what it wrote."""
        taken = {alias for _, alias, *_ in _rows(tables, "pipeline_processes")}
        alias = kept.alias
        if alias in taken or os.path.lexists(self.root / alias.rstrip("/")):
            alias = ""
        # Nothing in the Trash runs.
        status = kept.status if kept.status in (*_MARKERS.values(), "Scheduled") else "Aborted"
        _drop(tables, "pipeline_processes", "rlnPipeLineProcessName", {name})
        _append(tables, "pipeline_processes", (name, alias or "None", kept.type_label, status))
        edges = set(_rows(tables, "pipeline_input_edges"))
        for node in kept.inputs:
            if _stays_inside(node.path):
                self._add_node(tables, node)
                if (node.path, name) not in edges:
                    _append(tables, "pipeline_input_edges", (node.path, name))
        inner = [node._replace(path=node.path.removeprefix(name)) for node in kept.outputs]
        return alias, self._add_outputs(tables, name, inner)

    def _node_entries(self, node: PipelineNode, name: str = "", alias: str = "") -> list[Path]:
        """Return the empty files by which RELION's file choosers find a node.

        Raises
        ------
        InputError
            If its label or path leads out of ``.Nodes``.
        """
        if not node.label:
            return []
        if not _LABEL.fullmatch(node.label):
            raise InputError(
                f"{PIPELINE_FILE}, rlnPipeLineNodeTypeLabel: {node.label[:80]!r} of {node.path[:80]!r} is no "
                "type of a file; correct it"
            )
        root = self.root / _NODES
        if root.is_symlink():
            raise InputError(f"{root} is a link, which is not followed; remove it, RELION makes it anew")
        parts = node.label.split(".")
        folders = [parts[0]]
        if node.depth > 1:
            folders.append(".".join(parts[: node.depth]))
        paths = [node.path]
        if alias and name and node.path.startswith(name):
            paths.append(_slashed(alias) + node.path.removeprefix(name))
        what = f"{PIPELINE_FILE}, rlnPipeLineNodeName"
        return [inside(root, f"{folder}/{path}", what) for folder in folders for path in paths]

    def _touch_nodes(self, nodes: Sequence[PipelineNode]) -> None:
        # RELION's GUI can make them again: none is worth a failed job.
        for node in nodes:
            with suppress(InputError, OSError):
                for entry in self._node_entries(node):
                    entry.parent.mkdir(parents=True, exist_ok=True)
                    _touch(entry)


class _OwnPipeline(NamedTuple):
    """What a ``job_pipeline.star`` says of its job; no status if it does not say anything."""

    alias: str = ""
    type_label: str = ""
    status: str | None = None
    inputs: list[PipelineNode] = []  # noqa: RUF012
    outputs: list[PipelineNode] = []  # noqa: RUF012


def _own_pipeline(tables: Mapping[str, Table], name: str) -> _OwnPipeline:
    row = next((row for row in _rows(tables, "pipeline_processes") if _slashed(row[0]) == name), None)
    if row is None:
        return _OwnPipeline()
    nodes = {node.path: node for node in _nodes_of(tables)}
    read = [node for node, one in _rows(tables, "pipeline_input_edges") if _slashed(one) == name]
    written = [node for one, node in _rows(tables, "pipeline_output_edges") if _slashed(one) == name]
    return _OwnPipeline(
        alias="" if row[1] == "None" else row[1],
        type_label=row[2],
        status=row[3],
        inputs=[nodes.get(path, PipelineNode(path, "")) for path in dict.fromkeys(read)],
        outputs=[nodes.get(path, PipelineNode(path, "")) for path in dict.fromkeys(written)],
    )


def _slashed(name: str) -> str:
    """Return a job's name as RELION writes it, with one slash at its end; an empty name stays empty."""
    return name.rstrip("/") + "/" if name.rstrip("/") else ""


def _stays_inside(name: str) -> bool:
    """Whether a name by itself, links aside, stays in the folder that it counts from."""
    try:
        inside("/", name, "")
    except InputError:
        return False
    return True


def _is_sound(node: PipelineNode) -> bool:
    return _stays_inside(node.path) and bool(_LABEL.fullmatch(node.label))


def _job_folders(root: Path) -> Iterator[Path]:
    for folder in _listed(root):
        if not (folder.name.startswith(".") or folder.name == "Trash" or folder.is_symlink()):
            jobs = [one for one in _listed(folder) if re.fullmatch("job[0-9]{3,}", one.name)]
            yield from (one for one in jobs if os.path.isdir(one))


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _alias_link(folder: Path) -> str:
    """Return the alias that a link beside a job folder gives it; empty without one."""
    for one in _listed(folder.parent):
        if one.is_symlink() and not re.fullmatch("job[0-9]{3,}", one.name) and _is_link_to(one, folder):
            return f"{folder.parent.name}/{one.name}/"
    return ""


def _is_link_to(link: Path, folder: Path) -> bool:
    return link.is_symlink() and os.path.realpath(link) == os.path.realpath(folder)


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


def _touch(path: Path) -> None:
    """Make an empty file if there is none, without following a link."""
    flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    os.close(os.open(path, flags, 0o666))


def _remove_empty_file(path: Path) -> None:
    with suppress(OSError):
        found = path.lstat()
        if stat.S_ISREG(found.st_mode) and found.st_size == 0:
            path.unlink()


def was_killed(folder: str | Path) -> bool:
    """Whether a job of ours was still running when its process died (seen from the same computer).

    Any ``job.json`` is borne, damaged or foreign: it says nothing then.
    """
    record = _record_of(Path(folder))
    if record.get("status") != "Running" or "process" not in record:
        return False
    return is_dead(record.get("host"), record["process"], record.get("process_started", ""))


def _is_at_work(folder: Path) -> bool:
    """Whether a job of ours is running on this computer."""
    record = _record_of(folder)
    if record.get("status") != "Running" or record.get("host") != socket.gethostname():
        return False
    return "process" in record and not was_killed(folder)


def _record_of(folder: Path) -> dict[str, Any]:
    path = folder / "job.json"
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST_RECORD_BYTES:
            return {}
        record = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _rows(tables: Mapping[str, Table], name: str) -> list[tuple[str, ...]]:
    """Return the rows of one of the pipeline's tables, with "" for columns that it lacks."""
    table = tables.get(name)
    if table is None:
        return []
    columns = [table[label] if label in table else text_column([""] * len(table)) for label in _TABLES[name]]
    return list(zip(*columns, strict=True))


def _nodes_of(tables: Mapping[str, Table]) -> list[PipelineNode]:
    return [
        PipelineNode(path, label, int(depth) if re.fullmatch("[0-9]{1,4}", depth) else 1)
        for path, label, depth in _rows(tables, "pipeline_nodes")
    ]


def _written_by(tables: Mapping[str, Table], name: str) -> set[str]:
    return {node for one, node in _rows(tables, "pipeline_output_edges") if _slashed(one) == name}


def _general(counter: int) -> Table:
    return Table("pipeline_general", {"rlnPipeLineJobCounter": text_column([str(counter)])}, is_loop=False)


def _append(tables: dict[str, Table], name: str, values: Sequence[str]) -> None:
    table = tables[name]
    given = dict(zip(_TABLES[name], values, strict=True))
    tables[name] = Table(
        name, {label: text_column([*column, given.get(label, "")]) for label, column in table.columns.items()}
    )


def _drop(tables: dict[str, Table], name: str, label: str, values: set[str]) -> None:
    table = tables[name]
    keep = np.array([values.isdisjoint((value, _slashed(value))) for value in table[label]], dtype=bool)
    tables[name] = Table(name, {one: column[keep] for one, column in table.columns.items()})


# ----------------------------------------------------------------------------------------------------
# Files of a job folder


@dataclass(frozen=True)
class JobStar:
    """What a ``job.star`` says: the job's type and its options as text."""

    type_label: str
    options: Mapping[str, str]
    is_continue: bool = False
    is_tomo: bool = True


def read_job_star(path: str | Path) -> JobStar:
    """Read a ``job.star``.

    Raises
    ------
    InputError
        If it is none.
    """
    tables = read_star(path)
    if not tables.get("job") or "joboptions_values" not in tables:
        raise InputError(f"{path} is no job.star: it lacks the table data_job or data_joboptions_values")
    head = tables["job"].row()
    values = tables["joboptions_values"]
    options = {}
    if "rlnJobOptionVariable" in values and "rlnJobOptionValue" in values:
        options = dict(zip(values["rlnJobOptionVariable"], values["rlnJobOptionValue"], strict=True))
    return JobStar(
        type_label=head.get("rlnJobTypeLabel", ""),
        options=options,
        is_continue=head.get("rlnJobIsContinue", "0") == "1",
        is_tomo=head.get("rlnJobIsTomo", "0") == "1",
    )


def write_job_star(path: str | Path, job: JobStar) -> None:
    """Write a ``job.star`` as RELION's GUI does, options in alphabetical order."""
    names = sorted(job.options)
    head = {
        "rlnJobTypeLabel": text_column([job.type_label]),
        "rlnJobIsContinue": text_column(["1" if job.is_continue else "0"]),
        "rlnJobIsTomo": text_column(["1" if job.is_tomo else "0"]),
    }
    values = {
        "rlnJobOptionVariable": text_column(names),
        "rlnJobOptionValue": text_column([job.options[name] for name in names]),
    }
    write_star(path, [Table("job", head, is_loop=False), Table("joboptions_values", values)])


def write_job_pipeline(
    folder: Path,
    name: str,
    type_label: str,
    status: str,
    inputs: Sequence[PipelineNode],
    outputs: Sequence[PipelineNode],
) -> None:
    """Write ``job_pipeline.star``, the pipeline of this one job; paths of outputs count from its folder."""
    own = [PipelineNode(name + node.path, node.label, node.depth) for node in outputs]
    _write_own_pipeline(folder / JOB_PIPELINE, name, type_label, status, inputs, own)


def _write_own_pipeline(
    path: Path,
    name: str,
    type_label: str,
    status: str,
    inputs: Sequence[PipelineNode],
    outputs: Sequence[PipelineNode],
    alias: str = "",
) -> None:
    number = JOB_NAME.search(name)
    counter = int(number.group(1)) + 1 if number else 1
    rows: dict[str, list[tuple[str, ...]]] = {
        "pipeline_processes": [(name, alias or "None", type_label, status)],
        "pipeline_nodes": [(node.path, node.label, str(node.depth)) for node in [*inputs, *outputs]],
        "pipeline_input_edges": [(node.path, name) for node in inputs],
        "pipeline_output_edges": [(name, node.path) for node in outputs],
    }
    tables = [_general(counter)]
    for table_name, labels in _TABLES.items():
        if rows[table_name]:
            columns = zip(labels, zip(*rows[table_name], strict=True), strict=True)
            tables.append(Table(table_name, {label: text_column(values) for label, values in columns}))
    write_star(path, tables)


def write_output_nodes(folder: Path, name: str, outputs: Sequence[PipelineNode]) -> None:
    """Write ``RELION_OUTPUT_NODES.star``, from which RELION learns what the job made."""
    columns = {
        "rlnPipeLineNodeName": text_column([name + node.path for node in outputs]),
        "rlnPipeLineNodeTypeLabel": text_column([node.label for node in outputs]),
        "rlnPipeLineNodeTypeLabelDepth": text_column([str(node.depth) for node in outputs]),
    }
    write_star(folder / OUTPUT_NODES, [Table("output_nodes", columns)])


def append_note(folder: Path, commands: Sequence[str], when: str) -> None:
    """Add a run to ``note.txt`` in RELION's form."""
    entry = f" ++++ Executing new job on {when}\n ++++ with the following command(s): \n"
    entry += "".join(f"{command}\n" for command in commands) + " ++++ \n"
    with open_log(folder / "note.txt") as file:
        file.write(entry)


def status_of(folder: str | Path) -> str:
    """Return a job's status as its exit markers tell it; ``Unknown`` without any."""
    for marker, status in _MARKERS.items():
        if os.path.exists(Path(folder, marker)):
            return status
    return "Unknown"


def _holds_results(folder: Path) -> bool:
    """Whether there is more in a job's folder than what is logged of it."""
    return any(one.name not in _LOGS and not one.name.startswith(".") for one in folder.iterdir())


def clear_markers(folder: str | Path) -> None:
    """Remove exit markers and a request to stop, as RELION's GUI does before a start."""
    for marker in (*_MARKERS, ABORT_NOW):
        (Path(folder) / marker).unlink(missing_ok=True)


def mark(folder: str | Path, status: str) -> None:
    """Leave the exit marker of a status (Succeeded, Failed, Aborted)."""
    marker = next(name for name, meaning in _MARKERS.items() if meaning == status)
    write_text(Path(folder) / marker, "")
