"""Projects, and the folders of jobs."""

from __future__ import annotations

import os
from pathlib import Path

from napari_sta.data.errors import InputError
from napari_sta.io.describe.description import Description, count, describe_tables
from napari_sta.io.files import project_root
from napari_sta.io.project.folders import JOB_NAME
from napari_sta.io.project.job_star import read_job_star
from napari_sta.io.project.markers import status_of
from napari_sta.io.project.project import Project
from napari_sta.io.star import Table


def describe_pipeline(found: Description, path: Path, tables: dict[str, Table]) -> None:
    """Tell the jobs of a project by its pipeline file."""
    found.lines.append(f"{path.name}: pipeline file of a RELION project")
    if path.name == "default_pipeline.star" and project_root(path) == path.absolute().parent:
        _tell_jobs(found, Project(path.parent))
    else:
        describe_tables(found, tables)


def describe_folder(path: Path) -> Description:
    """Tell of a project, or of a job by its folder."""
    found = Description()
    # A job's alias is a link to its folder.
    for folder in (path, path.resolve()):
        if JOB_NAME.search(str(folder.absolute())):
            _describe_job(found, folder)
            return found
    project = Project.find(path)
    if project is None or project.root != path.absolute():
        raise InputError(
            f"{path} is neither a RELION project nor a job folder: it has no default_pipeline.star and no "
            "<Type>/jobNNN folders"
        )
    found.lines.append(f"{path}: RELION project")
    if not (path / "default_pipeline.star").exists():
        found.lines.append("no default_pipeline.star: jobs are listed from their folders")
    _tell_jobs(found, project)
    return found


def _tell_jobs(found: Description, project: Project) -> None:
    try:
        jobs = project.jobs()
    except InputError as error:
        found.problems.append(str(error))
        return
    found.lines.append(f"{count(len(jobs), 'job')}, the next one gets number {project.next_job}")
    for job in jobs:
        alias = f" ({job.alias})" if job.alias else ""
        status = "" if job.status == "Unknown" else f", {job.status.lower()}"
        found.lines.append(f"  {job.name}{alias}: {job.type_label or 'unknown type'}{status}")
        if job.in_pipeline and not os.path.isdir(project.root / job.name):
            found.problems.append(f"{job.name} is in the pipeline file but its folder is missing")
        if job.status == "Failed":
            found.problems.append(f"{job.name} failed; see {job.name}run.err")
    found.problems += project.problems()
    if (project.root / ".relion_lock").exists():
        found.problems.append(
            "the project is locked (.relion_lock); if no RELION is running, remove that folder"
        )


def _describe_job(found: Description, path: Path) -> None:
    status = status_of(path)
    kind = ""
    if (path / "job.star").exists():
        try:
            kind = read_job_star(path / "job.star").type_label
        except InputError as error:
            found.problems.append(str(error))
    name = f"{path.absolute().parent.name}/{path.absolute().name}/"
    state = {"Unknown": "no exit marker"}.get(status, status.lower())
    found.lines.append(f"{name}: job folder{f' of type {kind}' if kind else ''}, {state}")
    if (path / "job.json").exists():
        found.lines.append(
            "made by napari-sta (job.json); napari-sta resume continues it if it was interrupted"
        )
    if (path / "note.txt").exists():
        # Of the last run, the first command: ours, or RELION's own.
        last = (path / "note.txt").read_text(errors="replace").rpartition("++++ with the following")[2]
        commands = [line for line in last.splitlines()[1:] if line.strip() and not line.startswith(" ++++")]
        found.lines += [f"  command: {commands[0].strip()[:400]}"] if commands else []
    files = sorted(one for one in path.iterdir() if one.suffix in (".mrc", ".star", ".pdf", ".png"))
    shown = [
        one.name
        for one in files
        if one.name not in ("job.star", "job_pipeline.star", "default_pipeline.star")
    ]
    for file in shown[:20]:
        found.lines.append(f"  {file}")
    if len(shown) > 20:
        found.lines.append(f"  … and {len(shown) - 20} more")
    if status == "Failed":
        found.problems.append(f"the job failed; see {path / 'run.err'}")
    leftovers = list(path.rglob(".*.sta-tmp"))
    if leftovers:
        found.problems.append(
            f"{count(len(leftovers), 'half-written file')} of a killed run; resume removes them"
        )
