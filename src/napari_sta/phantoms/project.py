"""A phantom as a RELION-5 project on the disk, with masks and the truth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from napari_sta.data.errors import InputError
from napari_sta.data.tilt_series import TiltSeries
from napari_sta.io.files import write_text
from napari_sta.io.mrc import write_stack, write_volume
from napari_sta.io.relion.optimisation_set import write_optimisation_set
from napari_sta.io.relion.particles import write_particles
from napari_sta.io.star import Table, table, write_star
from napari_sta.phantoms.simulation import Phantom


class ProjectPaths(NamedTuple):
    """Where :func:`write_project` put things."""

    root: Path
    tomograms: Path
    particles: Path
    optimisation_set: Path
    mask_align: Path
    mask_fsc: Path
    truth_map: Path


_TILT_COLUMNS = (
    ("rlnTomoXTilt", "angles_xyz_deg", 0),
    ("rlnTomoYTilt", "angles_xyz_deg", 1),
    ("rlnTomoZRot", "angles_xyz_deg", 2),
    ("rlnTomoXShiftAngst", "shift_yx_angst", 1),
    ("rlnTomoYShiftAngst", "shift_yx_angst", 0),
    ("rlnDefocusU", "defocus_u_angst", None),
    ("rlnDefocusV", "defocus_v_angst", None),
    ("rlnDefocusAngle", "defocus_angle_deg", None),
    ("rlnPhaseShift", "phase_shift_deg", None),
    ("rlnCtfScalefactor", "ctf_scale", None),
    ("rlnMicrographPreExposure", "dose_e_per_angst2", None),
    ("rlnTomoNominalStageTiltAngle", "angles_xyz_deg", 1),
)


def write_project(phantom: Phantom, out: Path) -> ProjectPaths:
    """Write a phantom as a RELION-5 project, with masks and the truth.

    Parameters
    ----------
    out
        The project folder: made if it is not there.

    Returns
    -------
    paths
        Of the files a user starts from.

    Raises
    ------
    InputError
        If the folder already holds a project.
    JobError
        If the disk is full or the folder cannot be written to.
    """
    out = Path(out).absolute()
    if (out / "default_pipeline.star").exists():
        raise InputError(f"{out} already holds a RELION project; choose a new or empty folder with --o")
    spec = phantom.spec
    (out / "tilt_stacks").mkdir(parents=True, exist_ok=True)
    paths = ProjectPaths(
        root=out,
        tomograms=out / "Tomograms/job001/tomograms.star",
        particles=out / "Select/job002/particles.star",
        optimisation_set=out / "Select/job002/optimisation_set.star",
        mask_align=out / "masks/mask_align.mrc",
        mask_fsc=out / "masks/mask_fsc.mrc",
        truth_map=out / "truth/truth_map.mrc",
    )
    for series in phantom.series:
        write_stack(out / series.images[0][0], phantom.images[series.name], spec.pixel_size_angst, True)
        write_star(paths.tomograms.parent / f"tilt_series/{series.name}.star", [_tilt_table(series)])
    write_star(paths.tomograms, [_global_table(phantom)])
    # The pipeline file tells the writers below that this is a project, so that they write relative paths.
    write_star(out / "default_pipeline.star", pipeline_tables())
    write_particles(paths.particles, phantom.particles)
    write_optimisation_set(paths.optimisation_set, particles=paths.particles, tomograms=paths.tomograms)
    for path in (paths.tomograms, paths.particles):
        write_text(path.parent / "RELION_JOB_EXIT_SUCCESS", "")
    write_volume(paths.mask_align, phantom.mask_align)
    write_volume(paths.mask_fsc, phantom.mask_fsc)
    write_volume(paths.truth_map, phantom.truth_map)
    _write_truth(phantom, out / "truth")
    return paths


def _tilt_table(series: TiltSeries) -> Table:
    columns: dict[str, Sequence[object]] = {}
    for label, attribute, axis in _TILT_COLUMNS:
        values = getattr(series, attribute)
        columns[label] = [f"{v:.6f}" for v in (values if axis is None else values[:, axis])]
    columns["rlnMicrographName"] = [f"{index + 1:03d}@{file}" for file, index in series.images]
    return table(series.name, columns)


def _global_table(phantom: Phantom) -> Table:
    rows = []
    for series in phantom.series:
        depth, height, width = series.size_zyx_px
        rows.append(
            {
                "rlnTomoName": series.name,
                "rlnTomoTiltSeriesName": series.images[0][0],
                "rlnTomoFrameCount": series.n_tilts,
                "rlnTomoSizeX": width,
                "rlnTomoSizeY": height,
                "rlnTomoSizeZ": depth,
                "rlnTomoHand": f"{series.hand:g}",
                "rlnOpticsGroupName": series.optics_group_name,
                "rlnTomoTiltSeriesPixelSize": f"{series.pixel_size_angst:.6f}",
                "rlnVoltage": f"{series.voltage_kv:.6f}",
                "rlnSphericalAberration": f"{series.spherical_aberration_mm:.6f}",
                "rlnAmplitudeContrast": f"{series.amplitude_contrast:.6f}",
                "rlnMicrographOriginalPixelSize": f"{series.pixel_size_angst:.6f}",
                "rlnTomoImportFractionalDose": f"{phantom.spec.dose_e_per_angst2:.6f}",
                "rlnTomoTiltSeriesStarFile": f"Tomograms/job001/tilt_series/{series.name}.star",
            }
        )
    return table("global", {label: [row[label] for row in rows] for label in rows[0]})


_JOBS = (
    # folder, type, its outputs with their node labels
    (
        "Tomograms/job001/",
        "relion.reconstructtomograms",
        {"tomograms.star": "TomogramGroupMetadata.star.relion.tomo.reconstruct"},
    ),
    (
        "Select/job002/",
        "relion.select.onvalue",
        {
            "particles.star": "ParticleGroupMetadata.star.relion",
            "optimisation_set.star": "TomoOptimisationSet.star.relion.tomo",
        },
    ),
    (
        "Reconstruct/job003/",
        "relion.reconstructparticletomo",
        {
            "merged.mrc": "DensityMap.mrc.relion.tomo.map.reconstruct",
            "half1.mrc": "DensityMap.mrc.relion.tomo.halfmap.reconstruct",
        },
    ),
)


def pipeline_tables(n_jobs: int = 2) -> list[Table]:
    """RELION's pipeline of the first jobs, each fed by the one before."""
    jobs = _JOBS[:n_jobs]
    nodes = [(folder + file, label) for folder, _, outputs in jobs for file, label in outputs.items()]
    depth = [99 if ".halfmap." in label else 1 for _, label in nodes]
    produced = [(folder, folder + file) for folder, _, outputs in jobs for file in outputs]
    inputs = [(before[0] + list(before[2])[-1], job[0]) for before, job in pairwise(jobs)]
    return [
        table("pipeline_general", {"rlnPipeLineJobCounter": [n_jobs + 1]}, is_loop=False),
        table(
            "pipeline_processes",
            {
                "rlnPipeLineProcessName": [job[0] for job in jobs],
                "rlnPipeLineProcessAlias": ["None"] * n_jobs,
                "rlnPipeLineProcessTypeLabel": [job[1] for job in jobs],
                "rlnPipeLineProcessStatusLabel": ["Succeeded"] * n_jobs,
            },
        ),
        table(
            "pipeline_nodes",
            {
                "rlnPipeLineNodeName": [name for name, _ in nodes],
                "rlnPipeLineNodeTypeLabel": [label for _, label in nodes],
                "rlnPipeLineNodeTypeLabelDepth": depth,
            },
        ),
        table(
            "pipeline_input_edges",
            {
                "rlnPipeLineEdgeFromNode": [node for node, _ in inputs],
                "rlnPipeLineEdgeProcess": [process for _, process in inputs],
            },
        ),
        table(
            "pipeline_output_edges",
            {
                "rlnPipeLineEdgeProcess": [process for process, _ in produced],
                "rlnPipeLineEdgeToNode": [node for _, node in produced],
            },
        ),
    ]


def _write_truth(phantom: Phantom, folder: Path) -> None:
    lines = ["rlnTomoParticleName,x_angst,y_angst,z_angst,rot_deg,tilt_deg,psi_deg,particle"]
    for name, (z, y, x), (rot, tilt, psi), index in zip(
        phantom.particles.name,
        phantom.true_position_zyx_angst,
        phantom.true_angles_deg,
        phantom.true_index,
        strict=True,
    ):
        lines.append(f"{name},{x:.6f},{y:.6f},{z:.6f},{rot:.6f},{tilt:.6f},{psi:.6f},{index}")
    write_text(folder / "particles.csv", "\n".join(lines) + "\n")
    spec = {key: value for key, value in asdict(phantom.spec).items() if key != "density"}
    write_text(folder / "phantom.json", json.dumps(spec, indent=1) + "\n")
