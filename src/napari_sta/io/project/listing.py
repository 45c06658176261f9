"""The jobs of a project, by its pipeline and by its folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from napari_sta.data.errors import InputError
from napari_sta.io.files import inside
from napari_sta.io.project.folders import JOB_NAME, job_folders
from napari_sta.io.project.job_star import type_of
from napari_sta.io.project.pipeline_file import PIPELINE_FILE, check_pipeline, pipeline_tables, read_pipeline
from napari_sta.io.project.status import status_now
from napari_sta.io.project.tables import filled, rows_of, slashed, stays_inside, written_by


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


def jobs_of(root: Path) -> list[ProjectJob]:
    """Return every job, by number: those in the pipeline file, and folders it does not list."""
    tables = pipeline_tables(root)
    inputs: dict[str, list[str]] = {}
    outputs: dict[str, list[str]] = {}
    for node, process in rows_of(tables, "pipeline_input_edges"):
        inputs.setdefault(slashed(process), []).append(node)
    for process, node in rows_of(tables, "pipeline_output_edges"):
        outputs.setdefault(slashed(process), []).append(node)
    found = []
    for row_name, alias, type_label, status in rows_of(tables, "pipeline_processes"):
        if not stays_inside(row_name):
            continue
        name = slashed(row_name)
        found.append(
            ProjectJob(
                name=name,
                alias="" if alias == "None" or not stays_inside(alias) else alias,
                type_label=type_label,
                status=status_now(root, name, status),
                inputs=tuple(inputs.get(name, ())),
                outputs=tuple(outputs.get(name, ())),
            )
        )
    listed = {job.name for job in found}
    for folder in job_folders(root):
        name = f"{folder.parent.name}/{folder.name}/"
        if name not in listed:
            status = status_now(root, name, "")
            found.append(ProjectJob(name, "", type_of(root, name), status, in_pipeline=False))
    return sorted(found, key=lambda job: (job.number, job.name))


def job_of(root: Path, name: str) -> ProjectJob:
    """Return the job with this name."""
    wanted = slashed(name)
    for job in jobs_of(root):
        if wanted and wanted in (job.name, slashed(job.alias)):
            return job
    if not stays_inside(name):
        inside(root, name, f"{PIPELINE_FILE}, rlnPipeLineProcessName")
    raise InputError(f"the project {root} has no job {name}; see napari-sta info {root}")


def problems_of(root: Path) -> list[str]:
    """Return a sentence for each thing in the pipeline file that keeps it from being changed."""
    try:
        tables = read_pipeline(root)
    except InputError as error:
        return [str(error)]
    found = []
    try:
        check_pipeline(root, tables)
    except InputError as error:
        found.append(str(error))
    for name, alias, *_ in rows_of(filled(tables), "pipeline_processes"):
        for label, value in (("rlnPipeLineProcessName", name), ("rlnPipeLineProcessAlias", alias)):
            try:
                if value not in ("", "None") or label == "rlnPipeLineProcessName":
                    inside(root, value, f"{PIPELINE_FILE}, {label}")
            except InputError as error:
                found.append(str(error))
    return found


def downstream_of(root: Path, name: str) -> list[str]:
    """Return the names of jobs that read what this job wrote."""
    wanted = slashed(name)
    if not wanted:
        return []
    tables = pipeline_tables(root)
    written = written_by(tables, wanted)
    users = [
        slashed(process)
        for node, process in rows_of(tables, "pipeline_input_edges")
        if slashed(process) != wanted and (node in written or node.startswith(wanted))
    ]
    return list(dict.fromkeys(users))
