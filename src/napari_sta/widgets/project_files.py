"""What a project holds, sorted by what a user or a form asks for; reads the disk, so call it in a worker."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from napari_sta.data.errors import InputError, StaError
from napari_sta.io.project.pipeline_file import PIPELINE_FILE
from napari_sta.jobs._job import Job, all_jobs, extra_of
from napari_sta.layers.outputs import is_mask, newest_iteration_only, viewable_outputs
from napari_sta.layers.star_files import star_kind

if TYPE_CHECKING:
    from napari_sta.io.project.listing import ProjectJob
    from napari_sta.io.project.project import Project

KINDS = (
    "map", "mask", "particles", "tomograms", "optimisation_set", "trajectories", "star", "postprocess",
    "optimiser", "refinement",
)  # fmt: skip
_OWN_STARS = ("job.star", "job_pipeline.star", "default_pipeline.star", "RELION_OUTPUT_NODES.star")


def no_files() -> dict[str, list[str]]:
    """Return an empty list for every kind."""
    return {kind: [] for kind in KINDS}


@dataclass(frozen=True)
class ProjectView:
    """A project as it was when last read.

    Attributes
    ----------
    project
        To change it.
    jobs
        Every job, by number.
    outputs
        Job name (no slash at the end) to its files that can be shown, the most telling first.
    files
        Kind to absolute paths, those of the newest job first.
    by_job
        Job name to kind to paths.
    labels
        Job name to what it is, where the folder does not say: External jobs that are ours.
    interrupted
        Names of refinements that can go on where they were interrupted.
    """

    project: Project
    jobs: list[ProjectJob]
    outputs: dict[str, list[Path]] = field(default_factory=dict)
    files: dict[str, list[str]] = field(default_factory=no_files)
    by_job: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    interrupted: set[str] = field(default_factory=set)

    @property
    def root(self) -> Path:
        """The project folder."""
        return self.project.root

    def folder(self, job_name: str) -> Path:
        """Return a job's folder."""
        return self.root / job_name

    def equals(self, other: ProjectView) -> bool:
        """Whether another look at the same project has found the same."""
        return all(
            getattr(self, each.name) == getattr(other, each.name)
            for each in fields(self)
            if each.name != "project"
        )


def trace_of(view: ProjectView) -> tuple[tuple[str, int], ...]:
    """Return what changes on the disk when a job begins or ends, whoever runs it; cheap enough for a clock.

    That is when the pipeline file, the folders of job types, and the folders of running jobs were changed
    last.
    """
    root = view.root
    running = {root / job.name for job in view.jobs if job.status == "Running"}
    types = {root / job.name.partition("/")[0] for job in view.jobs}
    times = []
    for path in [root, root / PIPELINE_FILE, *sorted(types), *sorted(running)]:
        try:
            times.append((str(path), path.stat().st_mtime_ns))
        except OSError:
            times.append((str(path), 0))
    return tuple(times)


def read_project(path: str | Path) -> ProjectView:
    """Read the project that a folder or file lies in.

    Raises
    ------
    InputError
        If there is none, or its pipeline file cannot be read.
    """
    from napari_sta.io.project.project import Project

    project = Project.find(path)
    if project is None:
        raise InputError(
            f"{path} is no RELION project: it has neither a default_pipeline.star nor job folders such as "
            "Extract/job024. Choose the folder that RELION was started in."
        )
    view = ProjectView(project, project.jobs())
    for job in sorted(view.jobs, key=lambda j: j.number, reverse=True):
        name = job.name.rstrip("/")
        folder = view.folder(name)
        if folder.is_dir():
            sets = [p for p in [folder / "optimisation_set.star"] if p.is_file()]
            view.outputs[name] = viewable_outputs(folder) + sets
            view.by_job[name] = _sorted(folder, view.outputs[name])
            _extend(view.files, view.by_job[name])
            if view.by_job[name]["refinement"] and can_resume(folder):
                view.interrupted.add(name)
            if name.startswith("External/"):
                view.labels[name] = _label_of(folder)
    for folder in [p for p in sorted(project.root.iterdir()) if p.is_dir() and "mask" in p.name.lower()]:
        _extend(view.files, _sorted(folder, viewable_outputs(folder)))
    _extend(view.files, _sorted(project.root, viewable_outputs(project.root)))
    return view


def can_resume(folder: Path) -> bool:
    """Whether a refinement of ours was interrupted and can go on in its folder."""
    from napari_sta.io.project.markers import status_of
    from napari_sta.io.project.status import was_killed

    stopped = status_of(folder) in ("Failed", "Aborted") or was_killed(folder)
    return stopped and (folder / "job.json").is_file() and any(folder.glob("run_it*_checkpoint.npz"))


def _label_of(folder: Path) -> str:
    """Return what an External job of ours is called; empty for other programs' jobs."""
    try:
        name = json.loads((folder / "job.json").read_text()).get("job", "")
    except (OSError, ValueError, AttributeError):
        return ""
    job_class = all_jobs().get(name)
    return job_class.label if job_class is not None else ""


def _extend(files: dict[str, list[str]], more: Mapping[str, list[str]]) -> None:
    for kind, paths in more.items():
        files[kind] += [p for p in paths if p not in files[kind]]


def _sorted(folder: Path, viewable: list[Path]) -> dict[str, list[str]]:
    files = no_files()
    for path in viewable:
        if path.suffix == ".mrc":
            files["mask" if is_mask(path) else "map"].append(str(path))
    if (folder / "run_it000_half1_model.star").is_file():
        files["refinement"].append(str(folder))
    for path in newest_iteration_only(sorted(folder.glob("*.star"))):
        kind = "" if path.name in _OWN_STARS else star_kind(path)
        if kind:
            files[kind].append(str(path))
            files["star"].append(str(path))
    return files


def next_values(
    job_class: type[Job], outputs: Mapping[str, list[str]], project: Mapping[str, list[str]]
) -> dict[str, str] | None:
    """Return what a job's form can take from another job's files, or None if it has no use for them.

    Parameters
    ----------
    outputs
        Kind to paths: what the other job wrote.
    project
        Kind to paths in the whole project; gives the mask, which is seldom made by the same job.
    """
    values: dict[str, str] = {}
    for name, info in job_class.model_fields.items():
        kind = str(extra_of(info).get("kind", ""))
        if not kind.startswith("file:"):
            continue
        # "star" says only that it is some table: none of a job's own tables is meant.
        best = _best(name, outputs.get(kind[5:], [])) if kind != "file:star" else ""
        if best and best not in values.values():  # the second half map is not the first
            values[name] = best
    if "in_optimisation_set" in values:  # it names the others
        for part in ("in_parts", "in_tomograms", "in_trajectories"):
            values.pop(part, None)
    if not values:
        return None
    if "in_mask" in job_class.model_fields and "in_mask" not in values and project.get("mask"):
        words = "fsc" if "half" in " ".join(values) else "align"
        masks = project["mask"]
        values["in_mask"] = next((m for m in masks if words in Path(m).stem), masks[0])
    return values


def _best(field_name: str, paths: list[str]) -> str:
    halves = [p for p in paths if "half1" in Path(p).name]
    whole = [p for p in paths if "half" not in Path(p).name]
    if "half" in field_name:
        return halves[0] if halves else ""
    return (whole or halves or [""])[0]


# -- how a job was made -------------------------------------------------------------------------------

_FLAGS = {
    "--i": "in_optimisation_set",
    "--p": "in_parts",
    "--t": "in_tomograms",
    "--mot": "in_trajectories",
    "--b": "box_size_px",
    "--crop": "crop_size_px",
    "--bin": "binning",
    "--sym": "symmetry",
    "--SNR": "wiener_snr",
}
_OPTIONS = {
    "in_optimisation": "in_optimisation_set",
    "in_particles": "in_parts",
    "in_tomograms": "in_tomograms",
    "in_trajectories": "in_trajectories",
    "box_size": "box_size_px",
    "crop_size": "crop_size_px",
    "binning": "binning",
    "sym_name": "symmetry",
    "snr": "wiener_snr",
}


def commands_of(folder: Path) -> list[str]:
    """Return the command lines noted in a job's ``note.txt``, newest run last."""
    try:
        text = (folder / "note.txt").read_text(errors="replace")
    except OSError:
        return []
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("++++")]


def settings_of(folder: Path) -> dict[str, str]:
    """Return how a Reconstruct job was made, in our field names: from job.star, else from note.txt.

    Paths are as written: relative to the project folder.
    """
    from napari_sta.io.project.job_star import read_job_star

    settings: dict[str, str] = {}
    try:
        options = read_job_star(folder / "job.star").options
    except (StaError, OSError):
        options = {}
    for relion, ours in _OPTIONS.items():
        if options.get(relion):
            settings[ours] = options[relion]
    for ours in _OPTIONS.values():
        if options.get(ours):
            settings[ours] = options[ours]
    if settings:
        return settings
    for command in commands_of(folder):
        words = command.split()
        for flag, value in pairwise(words):
            if flag in _FLAGS and not value.startswith("--"):
                settings[_FLAGS[flag]] = value
            elif flag.startswith("--") and flag[2:] in _OPTIONS.values() and not value.startswith("--"):
                settings[flag[2:]] = value
    return settings
