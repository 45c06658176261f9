"""Everything that a subtomogram averaging job starts from, read and checked to fit together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from napari_sta.data.errors import InputError
from napari_sta.data.particles import Particles
from napari_sta.data.tilt_series import TiltSeries, Trajectories
from napari_sta.io.files import path_for, project_root, resolve
from napari_sta.io.relion.axes import CENTRED
from napari_sta.io.relion.optimisation_set import (
    PARTICLES_FILE,
    TOMOGRAMS_FILE,
    TRAJECTORIES_FILE,
    read_optimisation_set,
    write_optimisation_set,
)
from napari_sta.io.relion.particles import named_particles, particles_in, particles_table, repeated_names
from napari_sta.io.relion.tilt_series import read_tilt_series_set
from napari_sta.io.relion.tomogram_names import names_there_are
from napari_sta.io.relion.trajectories import read_trajectories
from napari_sta.io.star import Table, read_star


@dataclass(frozen=True)
class StaInputs:
    """Particles, the tilt series they are in, their motion, and where these came from.

    Attributes
    ----------
    tilt_series
        Of the tomograms that have particles; empty if not asked for.
    other_entries
        Of the optimisation set (reference maps, manifolds), to be written back.
    warnings
        What looks odd but does not stop a job, one sentence each.
    """

    particles: Particles
    tilt_series: dict[str, TiltSeries]
    trajectories: Trajectories | None
    particles_path: Path
    tomograms_path: Path | None
    trajectories_path: Path | None
    other_entries: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def write_set(
        self, path: str | Path, particles: str | Path, trajectories: str | Path | None = None
    ) -> None:
        """Write the optimisation set of a job that made a new particle set out of these inputs."""
        write_optimisation_set(
            path,
            particles=particles,
            tomograms=self.tomograms_path,
            trajectories=trajectories or self.trajectories_path,
            other_entries={
                label: self._named_for(value, path) for label, value in self.other_entries.items()
            },
        )

    def _named_for(self, value: str, writer: str | Path) -> str:
        try:
            return path_for(resolve(value, self.particles_path), writer)
        except InputError:  # does not exist, or is no path: leave it as it was
            return value


def load_sta_inputs(
    in_optimisation_set: str | Path | None = None,
    in_parts: str | Path | None = None,
    in_tomograms: str | Path | None = None,
    in_trajectories: str | Path | None = None,
    *,
    need_tomograms: bool = True,
) -> StaInputs:
    """Read and check what a job starts from.

    Parameters
    ----------
    in_optimisation_set, in_parts, in_tomograms, in_trajectories
        Direct entries override the members of the set.
    need_tomograms
        Whether the job reads tilt series. If not, they are read only where coordinates in pixels or
        missing optics need them, their images are not looked for, and particles of unknown tomograms
        stay.

    Raises
    ------
    InputError
        If a file is missing or wrong, all particles are of unknown tomograms, half sets are not 1 and 2,
        optics groups contradict the tomogram set, or trajectories do not fit or names repeat that they need.
    """
    members: dict[str, tuple[str, tuple[str | Path, ...]]] = {}
    entries: dict[str, str] = {}
    if in_optimisation_set:
        set_path = resolve(in_optimisation_set)
        entries = read_optimisation_set(set_path)
        members = {label: (value, (set_path,)) for label, value in entries.items()}
    for label, given in (
        (PARTICLES_FILE, in_parts),
        (TOMOGRAMS_FILE, in_tomograms),
        (TRAJECTORIES_FILE, in_trajectories),
    ):
        if given:
            beside = (in_optimisation_set,) if in_optimisation_set else ()
            members[label] = (str(given), beside)

    def member(label: str, option: str, what: str, needed: bool) -> Path | None:
        if label in members:
            value, hints = members[label]
            return resolve(value, *hints)
        if not needed:
            return None
        source = f"{in_optimisation_set} has no {label}" if in_optimisation_set else f"no {what} is given"
        raise InputError(f"{source}; give the {what} with --{option} or an optimisation set that names it")

    particles_path = member(PARTICLES_FILE, "in_parts", "particle set", needed=True)
    assert particles_path is not None
    as_written = read_star(particles_path)
    tables = named_particles(as_written)
    table = particles_table(particles_path, tables)
    bare = "optics" not in tables or not all(label in table for label in CENTRED)
    tomograms_path: Path | None
    try:
        tomograms_path = member(TOMOGRAMS_FILE, "in_tomograms", "tomogram set", needed=need_tomograms)
    except InputError:
        if need_tomograms or bare:
            raise
        # Not read by this job; the entry travels on as it is.
        value, hints = members[TOMOGRAMS_FILE]
        tomograms_path = next(filter(None, map(project_root, hints)), Path()) / value
    trajectories_path = member(TRAJECTORIES_FILE, "in_trajectories", "trajectory set", needed=False)

    found_warnings: list[str] = []
    if "particles" not in as_written:
        found_warnings.append(
            f"the particle table of {particles_path} has no name; it is taken for data_particles, which is "
            "what RELION looks for"
        )
    series: dict[str, TiltSeries] = {}
    wanted = list(dict.fromkeys(table["rlnTomoName"]))
    if tomograms_path is not None and (need_tomograms or bare):
        series = read_tilt_series_set(tomograms_path, set(wanted), check_images=need_tomograms)
        unknown = [name for name in wanted if name not in series]
        if unknown:
            known = read_star(tomograms_path)["global"]["rlnTomoName"].tolist()
            said = f"{', '.join(unknown[:5])}{'…' if len(unknown) > 5 else ''}"
            there = names_there_are(unknown, known)
            if len(unknown) == len(wanted):
                raise InputError(
                    f"none of the particles of {particles_path} belongs to a tomogram of {tomograms_path}: "
                    f"it does not have {said}; {there}"
                )
            gone = np.isin(table["rlnTomoName"].astype(str), unknown)
            found_warnings.append(
                f"{int(gone.sum())} of {len(table)} particles are left out: {tomograms_path} does not have "
                f"their tomograms {said}; {there}"
            )
            kept = Table(table.name, {label: column[~gone] for label, column in table.columns.items()})
            tables = {**tables, "particles": kept}
    particles = particles_in(particles_path, tables, series if series else None)
    check_half_sets(particles, particles_path)
    if series:
        _check_optics(particles, series, particles_path, tomograms_path)
    trajectories = None
    if trajectories_path is not None and need_tomograms:
        _check_names(particles, particles_path, trajectories_path)
        trajectories = read_trajectories(trajectories_path, particles.name.tolist())
        _check_trajectories(particles, series, trajectories, trajectories_path)
    repeated = repeated_names(particles)
    if repeated:
        found_warnings.append(
            f"{particles_path}: {len(repeated)} particle names occur more than once in a tomogram "
            f"(rlnTomoParticleName {repeated[0]}); particles are told apart by their rows, but extract will "
            "want names of their own"
        )
    known_labels = (PARTICLES_FILE, TOMOGRAMS_FILE, TRAJECTORIES_FILE)
    return StaInputs(
        particles=particles,
        tilt_series=series,
        trajectories=trajectories,
        particles_path=particles_path,
        tomograms_path=tomograms_path,
        trajectories_path=trajectories_path,
        other_entries={label: value for label, value in entries.items() if label not in known_labels},
        warnings=tuple(found_warnings),
    )


def _check_names(particles: Particles, path: Path, trajectories_path: Path) -> None:
    repeated = repeated_names(particles, over_all=True)
    if repeated:
        raise InputError(
            f"{path}: {len(repeated)} particle names occur more than once (rlnTomoParticleName "
            f"{repeated[0]}), so whose the trajectories of {trajectories_path} are is not known; leave the "
            "trajectory set out, or remove the duplicates (napari-sta remove_duplicates)"
        )


def check_half_sets(particles: Particles, path: Path) -> None:
    """Refuse half sets other than 1 and 2.

    Raises
    ------
    InputError
        If there are any.
    """
    if particles.half_set is not None:
        bad = np.flatnonzero(~np.isin(particles.half_set, (1, 2)))
        if len(bad):
            raise InputError(
                f"{path}, row {bad[0] + 1}: rlnRandomSubset is {particles.half_set[bad[0]]}; it must be 1 "
                "or 2, or the "
                "column must be absent"
            )


def _check_optics(
    particles: Particles, series: Mapping[str, TiltSeries], path: Path, tomograms_path: Path | None
) -> None:
    pairs = set(zip(particles.tomogram.tolist(), particles.optics_group.tolist(), strict=True))
    for tomogram, number in sorted(pairs):
        group, one = particles.optics_of(number), series[tomogram]
        for label, ours, theirs in (
            ("rlnTomoTiltSeriesPixelSize", group.pixel_size_angst, one.pixel_size_angst),
            ("rlnVoltage", group.voltage_kv, one.voltage_kv),
            ("rlnSphericalAberration", group.spherical_aberration_mm, one.spherical_aberration_mm),
            ("rlnAmplitudeContrast", group.amplitude_contrast, one.amplitude_contrast),
        ):
            if ours is not None and abs(ours - theirs) > 1e-3:
                raise InputError(
                    f"{label} is {ours:g} in optics group {number} of {path} but {theirs:g} for tomogram "
                    f"{tomogram} in "
                    f"{tomograms_path}; correct the wrong one"
                )


def _check_trajectories(
    particles: Particles, series: Mapping[str, TiltSeries], trajectories: Trajectories, path: Path
) -> None:
    for name, tomogram in zip(particles.name, particles.tomogram, strict=True):
        shift = trajectories.shift_zyx_angst.get(name)
        if shift is None:
            raise InputError(
                f"{path} has no trajectory of particle {name}; use the trajectory set of these particles"
            )
        if tomogram in series and len(shift) != series[tomogram].n_tilts:
            raise InputError(
                f"{path}: the trajectory of particle {name} has {len(shift)} rows, its tilt series "
                f"{series[tomogram].n_tilts} tilts"
            )
