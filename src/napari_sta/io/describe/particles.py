"""Particle sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from napari_sta.data.errors import InputError
from napari_sta.data.particles import Particles
from napari_sta.io import mrc
from napari_sta.io.describe.description import Description, count, describe_columns, exists, named
from napari_sta.io.files import resolve
from napari_sta.io.relion.axes import (
    ANGLE_PRIORS,
    ANGLES,
    CENTRED,
    ORIGIN,
    ORIGIN_PRIORS,
    PIXEL,
    SUBTOMOGRAM_ANGLES,
)
from napari_sta.io.relion.numbers import number_column, numbers_of
from napari_sta.io.relion.particles import particles_in, repeated_names
from napari_sta.io.relion.subtomograms import check_subtomogram_kind, visible_frames
from napari_sta.io.star import Table


def describe_particles(found: Description, path: Path, tables: dict[str, Table]) -> None:
    """Tell of a particle set: tomograms, optics, half sets, origins, angles, subtomograms."""
    table = tables["particles"]
    if "rlnTomoName" not in table:
        found.lines.append(f"{path.name}: single-particle set, {count(len(table), 'particle')}")
        found.problems.append("no column rlnTomoName: napari-sta works on tomography particles only")
        return
    per_tomogram = Counter(table["rlnTomoName"].tolist())
    found.lines.append(
        f"{path.name}: particle set, {count(len(table), 'particle')} in "
        f"{count(len(per_tomogram), 'tomogram')} "
        f"({named(per_tomogram)})"
    )
    if "optics" not in tables:
        picks = "rlnImageName" not in table
        found.lines.append(
            "no optics table: "
            + ("fresh picks; optics come from the tomogram set" if picks else "particles only")
        )
    in_px = not all(label in table for label in CENTRED)
    if in_px and all(label in table for label in PIXEL):
        found.lines.append(
            "coordinates in pixels from the tomogram corner (RELION 4): the tomogram set is needed"
        )
        # What else there is to say does not depend on where the corner is.
        as_if = {there: table[label] for there, label in zip(CENTRED, PIXEL, strict=True)}
        tables = {**tables, "particles": replace(table, columns={**table.columns, **as_if})}
    _number_problems(found, path, table)
    try:
        particles = particles_in(path, tables)
    except InputError as error:
        if not found.problems:
            found.problems.append(str(error))
        describe_columns(found, table)
        return
    for group in particles.optics:
        text = f"optics group {group.number} ({group.name}): tilt images {group.pixel_size_angst:g} Å/px"
        if group.voltage_kv:
            text += f", {group.voltage_kv:g} kV"
        if group.image_pixel_size_angst:
            dimensions = {"2": "2D stacks", "3": "3D pseudo-subtomograms"}
            kind = dimensions.get(group.text.get("rlnImageDimensionality", ""), "images")
            box = f"{group.image_size_px} px, " if group.image_size_px else ""
            text += f"; extracted as {kind}, {box}{group.image_pixel_size_angst:g} Å/px"
        else:
            text += "; not extracted yet"
        found.lines.append(text)
    if particles.half_set is None:
        found.lines.append("half sets: none assigned")
    else:
        halves = Counter(particles.half_set.tolist())
        found.lines.append("half sets: " + ", ".join(f"{halves[n]} in {n}" for n in sorted(halves)))
        if set(halves) != {1, 2}:
            found.problems.append(
                "rlnRandomSubset should hold 1 and 2, and holds " + ", ".join(map(str, sorted(halves)))
            )
    shift = np.linalg.norm(particles.origin_zyx_angst, axis=1)
    if shift.max() > 0:
        found.lines.append(f"origins: {np.median(shift):.3g} Å median, {shift.max():.3g} Å at most")
    else:
        found.lines.append("origins: all zero")
    turned = np.abs(particles.subtomogram_angles_deg).max() > 0
    found.lines.append("subtomogram angles: " + ("given" if turned else "none (identity)"))
    if "rlnMaxValueProbDistribution" in table:
        pmax = numbers_of(table["rlnMaxValueProbDistribution"])
        if pmax is not None and np.isfinite(pmax).all():
            found.lines.append(f"refined: Pmax {pmax.mean():.3f} on average")
    describe_columns(found, table)
    _particle_problems(found, path, table, particles)


PRIORS = (*ANGLE_PRIORS, *ORIGIN_PRIORS)
_PARTICLE_NUMBERS = (
    *(*CENTRED, *PIXEL, *ORIGIN, *ANGLES, *SUBTOMOGRAM_ANGLES, *PRIORS),
    "rlnMaxValueProbDistribution",
    "rlnLogLikeliContribution",
    "rlnNrOfSignificantSamples",
    "rlnNormCorrection",
)


def _number_problems(found: Description, path: Path, table: Table) -> None:
    """Look through the columns of numbers, one problem each at most."""
    for label in _PARTICLE_NUMBERS:
        if label not in table:
            continue
        try:
            values = number_column(table, label, path, may_lack=label in PRIORS)
        except InputError as error:
            found.problems.append(str(error))
            continue
        lacking = int(np.isnan(values).sum())
        if lacking:
            found.lines.append(f"{label}: {count(lacking, 'particle')} of {len(table)} without this prior")


def _particle_problems(found: Description, path: Path, table: Table, particles: Particles) -> None:
    repeated = repeated_names(particles)
    if repeated:
        found.problems.append(
            f"{count(len(repeated), 'particle name')} given more than once in a tomogram "
            f"(rlnTomoParticleName {repeated[0]}): extract wants names of their own, other jobs go by rows"
        )
    found.problems += stack_problems(path, particles)
    if "rlnMicrographName" in table and "rlnTomoVisibleFrames" in table:
        found.problems.append("rlnMicrographName in a 2D-stack particle set makes refine pair wrong images")
    positions = particles.coordinate_zyx_angst
    same = 0
    for name in particles.tomograms:
        rows = positions[particles.tomogram == name]
        same += len(rows) - len(np.unique(rows, axis=0))
    if same:
        found.problems.append(f"on exactly the same spot as another one: {count(same, 'particle')}")
    if "rlnImageName" in table:
        missing = [name for name in table["rlnImageName"] if not exists(name.rpartition("@")[2], path)]
        if missing:
            found.problems.append(
                f"{len(missing)} of {len(table)} subtomogram files (rlnImageName) are missing, such as "
                f"{missing[0]}; "
                "reconstruct does not need them, refine does"
            )
    if [g.number for g in particles.optics] != list(range(1, len(particles.optics) + 1)):
        found.problems.append(
            "optics groups are not numbered 1, 2, 3… in order; RELION's tomo programs mix them up"
        )


def stack_problems(path: Path, particles: Particles, n_tilts: Mapping[str, int] | None = None) -> list[str]:
    """Compare what the set says of its subtomograms with itself, its tilt series and the first images."""
    problems = []
    try:
        check_subtomogram_kind(particles, path)
        if "rlnTomoVisibleFrames" in particles.text:
            visible_frames(particles, n_tilts)
    except InputError as error:
        problems.append(str(error))
    for group in particles.optics:
        rows = np.flatnonzero(particles.optics_group == group.number)
        if "rlnImageName" not in particles.text or group.image_size_px is None or not len(rows):
            continue
        name = particles.text["rlnImageName"][rows[0]]
        try:
            image = resolve(name.rpartition("@")[2], path)
        except InputError:
            continue
        try:
            found = mrc.read_header(image).shape_zyx[2]
        except InputError as error:
            problems.append(str(error))
            continue
        if found != group.image_size_px:
            problems.append(
                f"{name} has a box of {found} px, but rlnImageSize of optics group {group.number} is "
                f"{group.image_size_px}"
            )
    return problems
