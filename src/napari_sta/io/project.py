"""RELION project folders: the pipeline file, job folders, and the files a job leaves there.

Changes to the pipeline follow RELION's lock protocol, so that RELION's GUI may be open on the same
project.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from napari_sta.data.errors import InputError, JobError
from napari_sta.io.files import project_root, sentence_for, write_text
from napari_sta.io.star import Table, read_star, text_column, write_star

PIPELINE_FILE = "default_pipeline.star"
JOB_NAME = re.compile(r"[^/]+/job(\d{3,})/?$")

SUCCESS, FAILURE, ABORTED = "RELION_JOB_EXIT_SUCCESS", "RELION_JOB_EXIT_FAILURE", "RELION_JOB_EXIT_ABORTED"
ABORT_NOW = "RELION_JOB_ABORT_NOW"
OUTPUT_NODES = "RELION_OUTPUT_NODES.star"

# A record is some kilobytes; whatever is larger is none.
_LARGEST_RECORD_BYTES = 16 * 2**20

# In the order in which RELION looks at them.
_MARKERS = {SUCCESS: "Succeeded", FAILURE: "Failed", ABORTED: "Aborted"}
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
        the death of our process that ran the job.

        Raises
        ------
        InputError
            If the pipeline file cannot be read.
        """
        tables = self._tables()
        processes = tables["pipeline_processes"]
        inputs: dict[str, list[str]] = {}
        outputs: dict[str, list[str]] = {}
        for node, process in _rows(tables["pipeline_input_edges"], "pipeline_input_edges"):
            inputs.setdefault(process, []).append(node)
        for process, node in _rows(tables["pipeline_output_edges"], "pipeline_output_edges"):
            outputs.setdefault(process, []).append(node)
        found = []
        for name, alias, type_label, status in _rows(processes, "pipeline_processes"):
            marked = status_of(self.root / name) if status in ("Running", "Scheduled") else "Unknown"
            if status == "Running" and marked == "Unknown" and was_killed(self.root / name):
                marked = "Aborted"
            found.append(
                ProjectJob(
                    name=name,
                    alias="" if alias == "None" else alias,
                    type_label=type_label,
                    status=status if marked == "Unknown" else marked,
                    inputs=tuple(inputs.get(name, ())),
                    outputs=tuple(outputs.get(name, ())),
                )
            )
        listed = {job.name for job in found}
        for folder in _job_folders(self.root):
            name = f"{folder.parent.name}/{folder.name}/"
            if name not in listed:
                found.append(ProjectJob(name, "", _type_of(folder), status_of(folder), in_pipeline=False))
        return sorted(found, key=lambda job: (job.number, job.name))

    def job(self, name: str) -> ProjectJob:
        """Return the job with this name.

        Raises
        ------
        InputError
            If the project has no such job.
        """
        wanted = name.rstrip("/") + "/"
        for job in self.jobs():
            if wanted in (job.name, job.alias):
                return job
        raise InputError(f"the project {self.root} has no job {name}; see napari-sta info {self.root}")

    def nodes(self) -> list[PipelineNode]:
        """Return every file that the pipeline knows."""
        table = self._tables()["pipeline_nodes"]
        return [
            PipelineNode(path, label, int(depth) if depth.isdigit() else 1)
            for path, label, depth in _rows(table, "pipeline_nodes")
        ]

    @property
    def next_job(self) -> int:
        """The number that the next job gets."""
        tables = self._tables()
        return self._free_number(_counter(tables))

    def downstream(self, name: str) -> list[str]:
        """Return the names of jobs that read what this job wrote."""
        wanted = name.rstrip("/") + "/"
        tables = self._tables()
        written = {
            node for process, node in _rows(tables["pipeline_output_edges"], "pipeline_output_edges")
            if process == wanted
        }  # fmt: skip
        users = [
            process
            for node, process in _rows(tables["pipeline_input_edges"], "pipeline_input_edges")
            if process != wanted and (node in written or node.startswith(wanted))
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
        JobError
            If the project stays locked by another program, or cannot be written to.
        """
        with self.lock():
            tables = self._tables()
            number = self._free_number(_counter(tables))
            name = f"{folder}/job{number:03d}/"
            tables["pipeline_general"] = _general(number + 1)
            _append(tables, "pipeline_processes", (name, "None", type_label, "Running"))
            for node in inputs:
                self._add_node(tables, node)
                _append(tables, "pipeline_input_edges", (node.path, name))
            self._add_outputs(tables, name, outputs)
            made = self.root / name
            try:
                made.mkdir(parents=True)
                try:
                    if first is not None:
                        first(made)
                    self._write(tables)
                except BaseException:
                    shutil.rmtree(made, ignore_errors=True)
                    raise
            except OSError as error:
                raise JobError(sentence_for(error, made)) from error
        return name

    def finish_job(self, name: str, status: str, outputs: Sequence[PipelineNode] = ()) -> None:
        """Set a job's status, and enter the files it wrote (paths from the job folder).

        A job that the pipeline does not list is left alone.
        """
        if status not in STATUSES:
            raise ValueError(f"{status} is no job status of RELION")
        name = name.rstrip("/") + "/"
        with self.lock():
            tables = self._tables()
            table = tables["pipeline_processes"]
            here = table["rlnPipeLineProcessName"] == name
            if not here.any():
                return
            column = table["rlnPipeLineProcessStatusLabel"].copy()
            column[here] = status
            columns = {**table.columns, "rlnPipeLineProcessStatusLabel": column}
            tables["pipeline_processes"] = Table(table.name, columns)
            self._add_outputs(tables, name, outputs)
            self._write(tables)
        for node in outputs:
            self._touch_node(PipelineNode(name + node.path, node.label, node.depth))

    def trash_job(self, name: str) -> Path:
        """Move a job's folder to ``Trash/`` and take the job out of the pipeline.

        Returns
        -------
        folder
            Where it is now.

        Raises
        ------
        InputError
            If the job is running or other jobs use what it wrote.
        """
        job = self.job(name)
        name = job.name
        if job.status == "Running":
            raise InputError(f"{name} is running; stop it before discarding it")
        users = self.downstream(name)
        if users:
            raise InputError(
                f"{name} cannot be discarded: {', '.join(users)} use its output; discard them first"
            )
        with self.lock():
            tables = self._tables()
            written = {
                node for process, node in _rows(tables["pipeline_output_edges"], "pipeline_output_edges")
                if process == name
            }  # fmt: skip
            gone = [node for node in self.nodes() if node.path in written or node.path.startswith(name)]
            paths = {node.path for node in gone}
            _drop(tables, "pipeline_processes", "rlnPipeLineProcessName", {name})
            _drop(tables, "pipeline_nodes", "rlnPipeLineNodeName", paths)
            _drop(tables, "pipeline_input_edges", "rlnPipeLineEdgeProcess", {name})
            _drop(tables, "pipeline_output_edges", "rlnPipeLineEdgeProcess", {name})
            target = self.root / "Trash" / name
            copy = 2
            while target.exists():
                target = self.root / "Trash" / f"{name.rstrip('/')}.{copy}"
                copy += 1
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                if (self.root / name).exists():
                    if job.in_pipeline:
                        # What the pipeline knows of the job, so that it can be brought back.
                        known = {node.path: node for node in self.nodes()}
                        write_job_pipeline(
                            self.root / name,
                            name,
                            job.type_label,
                            job.status,
                            [known.get(path, PipelineNode(path, "")) for path in job.inputs],
                            [node._replace(path=node.path.removeprefix(name)) for node in gone],
                        )
                    shutil.move(self.root / name, target)
                for node in gone:
                    for entry in self._node_entries(node):
                        entry.unlink(missing_ok=True)
                if job.alias and (self.root / job.alias.rstrip("/")).is_symlink():
                    (self.root / job.alias.rstrip("/")).unlink()
            except OSError as error:
                raise JobError(sentence_for(error, target)) from error
            if job.in_pipeline:
                self._write(tables)
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
            If the folder is not there, or its old place is taken.
        """
        folder = Path(folder)
        name = f"{folder.parent.name}/{folder.name.partition('.')[0]}/"
        if not folder.is_dir():
            raise InputError(f"{folder} is not there any more; was the Trash emptied?")
        if (self.root / name).exists():
            raise InputError(f"{name} cannot be brought back: the project has a job of that name again")
        with self.lock():
            try:
                shutil.move(folder, self.root / name)
            except OSError as error:
                raise JobError(sentence_for(error, self.root / name)) from error
            own = self.root / name / "job_pipeline.star"
            kept = read_star(own) if own.is_file() else {}
            if "pipeline_processes" in kept:
                tables = self._tables()
                here = set(tables["pipeline_nodes"]["rlnPipeLineNodeName"])
                for table_name, labels in _TABLES.items():
                    for values in _rows(kept[table_name], table_name) if table_name in kept else []:
                        if table_name == "pipeline_nodes" and values[0] in here:
                            continue
                        if table_name == "pipeline_processes" and values[0] != name:
                            continue
                        _append(tables, table_name, values[: len(labels)])
                self._write(tables)
                for node in self.nodes():
                    if node.path.startswith(name):
                        self._touch_node(node)
        return name

    @contextmanager
    def lock(self, patience_s: float = 60.0) -> Iterator[None]:
        """Hold RELION's lock on the pipeline file.

        Raises
        ------
        JobError
            If another program does not release it within ``patience_s``, or the folder is read-only.
        """
        folder = self.root / ".relion_lock"
        file = folder / f"lock_{PIPELINE_FILE}"
        end = time.monotonic() + patience_s
        while True:
            try:
                folder.mkdir()
                break
            except FileExistsError:
                if _is_orphan(file):
                    # Ours, from a process that was killed: whoever renames it first may remove it.
                    aside = folder.with_name(f".relion_lock.{os.getpid()}")
                    try:
                        folder.rename(aside)
                        shutil.rmtree(aside)
                    except OSError:
                        pass
                    continue
                if time.monotonic() > end:
                    raise JobError(
                        f"the project {self.root} is locked by another program; wait for it to finish, or "
                        "remove "
                        f"the folder {folder} if no RELION is running"
                    ) from None
                time.sleep(0.05)
            except OSError as error:
                raise JobError(sentence_for(error, self.root / PIPELINE_FILE)) from error
        try:
            file.write_text(f"napari-sta {os.getpid()} {socket.gethostname()}\n")
            yield
        finally:
            file.unlink(missing_ok=True)
            folder.rmdir()

    # ---- inside

    def _tables(self) -> dict[str, Table]:
        path = self.root / PIPELINE_FILE
        tables: dict[str, Table] = {}
        if path.is_file():
            tables = read_star(path)
            version = re.search(r"^# version (\d+)", path.read_text(errors="replace"), re.MULTILINE)
            if version is None or int(version.group(1)) < 50001:
                raise InputError(
                    f"{path} was written by a RELION older than 5; open the project in RELION 5 once, it "
                    "translates "
                    "the file"
                )
            for name, labels in _TABLES.items():
                lacking = [label for label in labels[:2] if name in tables and label not in tables[name]]
                if lacking:
                    raise InputError(
                        f"{path}, table data_{name} has no column {lacking[0]}; restore the file"
                    )
        made = {"pipeline_general": tables.get("pipeline_general") or _general(1)}
        for name, labels in _TABLES.items():
            table = tables.get(name)
            if table is None or not table.columns:
                table = Table(name, {label: text_column([]) for label in labels})
            elif name == "pipeline_nodes" and "rlnPipeLineNodeTypeLabelDepth" not in table:
                ones = text_column(["1"] * len(table))
                table = Table(name, {**table.columns, "rlnPipeLineNodeTypeLabelDepth": ones})
            made[name] = table
        return made | {name: table for name, table in tables.items() if name not in made}

    def _write(self, tables: Mapping[str, Table]) -> None:
        kept = [table for name, table in tables.items() if name == "pipeline_general" or len(table)]
        write_star(self.root / PIPELINE_FILE, kept)
        # RELION's GUI reads the file again when it sees this one.
        (self.root / ".pipeline_has_changed").touch()

    def _free_number(self, counter: int) -> int:
        used = {
            int(match.group(1))
            for folder in _job_folders(self.root)
            if (match := JOB_NAME.search(str(folder)))
        }
        if not (self.root / PIPELINE_FILE).is_file() and used:
            counter = max(counter, max(used) + 1)
        while counter in used:
            counter += 1
        return counter

    def _add_node(self, tables: dict[str, Table], node: PipelineNode) -> None:
        if node.path not in set(tables["pipeline_nodes"]["rlnPipeLineNodeName"]):
            _append(tables, "pipeline_nodes", (node.path, node.label, str(node.depth)))

    def _add_outputs(self, tables: dict[str, Table], name: str, outputs: Sequence[PipelineNode]) -> None:
        edges = set(_rows(tables["pipeline_output_edges"], "pipeline_output_edges"))
        for node in outputs:
            path = name + node.path
            self._add_node(tables, PipelineNode(path, node.label, node.depth))
            if (name, path) not in edges:
                _append(tables, "pipeline_output_edges", (name, path))

    def _node_entries(self, node: PipelineNode) -> list[Path]:
        parts = node.label.split(".")
        folders = [parts[0]]
        if node.depth > 1:
            folders.append(".".join(parts[: node.depth]))
        return [self.root / ".Nodes" / folder / node.path for folder in folders]

    def _touch_node(self, node: PipelineNode) -> None:
        for entry in self._node_entries(node):
            entry.parent.mkdir(parents=True, exist_ok=True)
            entry.touch()


def _job_folders(root: Path) -> Iterator[Path]:
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        if (
            folder.name.startswith(".")
            or folder.name == "Trash"
            or folder.is_symlink()
            or not folder.is_dir()
        ):
            continue
        try:
            inside = sorted(folder.iterdir())
        except OSError:
            continue
        yield from (one for one in inside if re.fullmatch(r"job\d{3,}", one.name) and one.is_dir())


def _type_of(folder: Path) -> str:
    if (folder / "job.star").is_file():
        try:
            return read_job_star(folder / "job.star").type_label
        except InputError:
            pass
    return FOLDER_TYPES.get(folder.parent.name, "")


def _is_orphan(file: Path) -> bool:
    """Whether a lock is ours and its process is no more."""
    try:
        words = file.read_text().split()
    except OSError:
        return False
    if len(words) != 3 or words[0] != "napari-sta" or words[2] != socket.gethostname():
        return False
    return words[1].isdigit() and not _is_alive(int(words[1]))


def process_mark() -> dict[str, str | int]:
    """Return what a job's record says of the process that runs it, for :func:`was_killed`.

    Returns
    -------
    mark
        ``host``, ``process`` (its number) and ``process_started``, by which the process is told from a
        later one of the same number; empty where the system does not say.
    """
    process = os.getpid()
    return {"host": socket.gethostname(), "process": process, "process_started": _started(process)}


def _started(process: int) -> str:
    """Return when a process started, in the system's own words: the boot and the clock ticks since it."""
    try:
        words = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()
        ticks = words[19].decode("ascii")
    except (OSError, IndexError, UnicodeDecodeError):
        return ""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        boot = ""
    return f"{boot} {ticks}".strip()


def _is_alive(process: object, started: object = "") -> bool:
    """Whether a process of this computer still runs; True if that cannot be found out.

    Parameters
    ----------
    started
        What :func:`_started` said of it; a process of the same number that started at another time is
        another one.
    """
    if isinstance(process, bool) or not isinstance(process, int) or not 0 < process < 2**31:
        return False  # no process has such a number
    if os.name == "nt":  # there, signal 0 is no question but Ctrl-C
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    now = _started(process)
    return not (started and now and started != now)


def was_killed(folder: str | Path) -> bool:
    """Whether a job of ours was still running when its process died (seen from the same computer).

    Any ``job.json`` is borne, damaged or foreign: it says nothing then.
    """
    record = _record_of(Path(folder))
    if record.get("status") != "Running" or record.get("host") != socket.gethostname():
        return False
    return "process" in record and not _is_alive(record["process"], record.get("process_started", ""))


def _record_of(folder: Path) -> dict[str, Any]:
    path = folder / "job.json"
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST_RECORD_BYTES:
            return {}
        record = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _rows(table: Table, name: str) -> list[tuple[str, ...]]:
    columns = [table[label] if label in table else text_column([""] * len(table)) for label in _TABLES[name]]
    return list(zip(*columns, strict=True))


def _counter(tables: Mapping[str, Table]) -> int:
    text = tables["pipeline_general"].row().get("rlnPipeLineJobCounter", "1")
    return int(text) if text.isdigit() else 1


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
    keep = np.array([value not in values for value in table[label]], dtype=bool)
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
    if "job" not in tables or "joboptions_values" not in tables:
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
    number = JOB_NAME.search(name)
    counter = int(number.group(1)) + 1 if number else 1
    rows: dict[str, list[tuple[str, ...]]] = {
        "pipeline_processes": [(name, "None", type_label, status)],
        "pipeline_nodes": [(node.path, node.label, str(node.depth)) for node in [*inputs, *own]],
        "pipeline_input_edges": [(node.path, name) for node in inputs],
        "pipeline_output_edges": [(name, node.path) for node in own],
    }
    tables = [_general(counter)]
    for table_name, labels in _TABLES.items():
        if rows[table_name]:
            columns = zip(labels, zip(*rows[table_name], strict=True), strict=True)
            tables.append(Table(table_name, {label: text_column(values) for label, values in columns}))
    write_star(folder / "job_pipeline.star", tables)


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
    with open(folder / "note.txt", "a", encoding="utf-8") as file:
        file.write(entry)


def status_of(folder: str | Path) -> str:
    """Return a job's status as its exit markers tell it; ``Unknown`` without any."""
    for marker, status in _MARKERS.items():
        if (Path(folder) / marker).exists():
            return status
    return "Unknown"


def clear_markers(folder: str | Path) -> None:
    """Remove exit markers and a request to stop, as RELION's GUI does before a start."""
    for marker in (*_MARKERS, ABORT_NOW):
        (Path(folder) / marker).unlink(missing_ok=True)


def mark(folder: str | Path, status: str) -> None:
    """Leave the exit marker of a status (Succeeded, Failed, Aborted)."""
    marker = next(name for name, meaning in _MARKERS.items() if meaning == status)
    write_text(Path(folder) / marker, "")
