"""STAR files: which kind a file is, and who tells it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from napari_sta.data.errors import InputError
from napari_sta.io.describe.description import Description, describe_tables
from napari_sta.io.describe.job_files import describe_job_star, describe_output_nodes
from napari_sta.io.describe.particles import describe_particles
from napari_sta.io.describe.results import (
    describe_model,
    describe_optimiser,
    describe_postprocess,
    describe_sampling,
)
from napari_sta.io.describe.sets import describe_optimisation_set, describe_trajectories
from napari_sta.io.describe.tilt_series import describe_tilt_series, describe_tomograms
from napari_sta.io.relion.optimisation_set import PARTICLES_FILE, TOMOGRAMS_FILE
from napari_sta.io.relion.particles import has_particles, named_particles, particles_in
from napari_sta.io.star import Table, first_table, read_star


def describe_star(path: Path) -> Description:
    """Tell of a STAR file by the tables that it holds."""
    as_written = read_star(path)
    tables = named_particles(as_written)
    found = Description()
    with open(path, "rb") as file:
        head = file.read(65536)
    if b"\r\n" in head:
        found.problems.append(
            "lines end in CR+LF (Windows), which RELION does not read; convert the line ends"
        )
    if "particles" in tables and "particles" not in as_written:
        found.problems.append(
            "the particle table has no name, so that RELION does not find it; rename data_ to data_particles"
        )
    kinds: list[
        tuple[Callable[[Mapping[str, Table]], bool], Callable[[Description, Path, dict[str, Table]], None]]
    ]
    kinds = [
        (lambda t: "particles" in t, describe_particles),
        (lambda t: "global" in t and "rlnTomoName" in t["global"], describe_tomograms),
        (lambda t: "job" in t and "joboptions_values" in t, describe_job_star),
        (lambda t: "pipeline_general" in t, _describe_pipeline),
        (lambda t: "rlnParticleNumber" in t.get("general", ()), describe_trajectories),
        (lambda t: "general" in t and "fsc" in t, describe_postprocess),
        (lambda t: "model_general" in t, describe_model),
        (lambda t: "optimiser_general" in t, describe_optimiser),
        (lambda t: "sampling_general" in t, describe_sampling),
        (lambda t: "output_nodes" in t, describe_output_nodes),
        (_is_optimisation_set, describe_optimisation_set),
        (_is_tilt_series, describe_tilt_series),
    ]
    for matches, tell in kinds:
        if matches(tables):
            tell(found, path, tables)
            break
    else:
        found.lines.append(f"{path.name}: STAR file of a kind that napari-sta does not use")
        describe_tables(found, tables)
        if any(map(has_particles, tables.values())):
            try:
                particles_in(path, tables)
            except InputError as error:
                found.problems.append(str(error))
    return found


def _describe_pipeline(found: Description, path: Path, tables: dict[str, Table]) -> None:
    from napari_sta.io.describe.projects import describe_pipeline  # most that is told of is no project

    describe_pipeline(found, path, tables)


def _is_optimisation_set(tables: Mapping[str, Table]) -> bool:
    return any(label in first_table(tables) for label in (PARTICLES_FILE, TOMOGRAMS_FILE))


def _is_tilt_series(tables: Mapping[str, Table]) -> bool:
    table = first_table(tables)
    return table.is_loop and ("rlnMicrographPreExposure" in table or "rlnTomoNominalStageTiltAngle" in table)
