"""STAR files as layers: what one holds is told by its head."""

from __future__ import annotations

import os
from pathlib import Path

from napari_sta.data.errors import InputError
from napari_sta.layers.keywords import LayerData
from napari_sta.layers.particles import MAX_TOMOGRAMS, particle_layers
from napari_sta.layers.volumes import tilt_layer


def star_kind(path: Path) -> str:
    """Return what a STAR file holds by reading its head only; empty if it is not for us.

    Returns
    -------
    kind
        ``optimisation_set``, ``tomograms``, ``postprocess``, ``optimiser``, ``particles``, ``trajectories``
        or ``""``.
    """
    words = _words_of(path)
    if "rlnTomoParticlesFile" in words:
        return "optimisation_set"
    if "rlnFinalResolution" in words and "data_fsc" in words:
        return "postprocess"
    if "data_optimiser_general" in words and "rlnModelStarFile2" in words:
        return "optimiser"
    if "data_global" in words and "rlnTomoName" in words:
        return "tomograms"
    # A set of a picker that has not named its table is one too.
    placed = not words.isdisjoint({"rlnCenteredCoordinateXAngst", "rlnCoordinateX"})
    if "rlnTomoName" in words and ("data_particles" in words or ("data_" in words and placed)):
        return "particles"
    if "rlnTomoParticleName" in words and "rlnCenteredCoordinateXAngst" in words:
        return "particles"
    return ""


def _words_of(path: Path) -> set[str]:
    """Return labels and table names in the head of a STAR file; none if it cannot be read."""
    from napari_sta.io.files import check_is_file

    try:
        check_is_file(path)
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            head = file.read(1 << 16)
    except (OSError, InputError):
        return set()
    return {word.lstrip("_") for word in head.split() if word.startswith(("_rln", "data_"))}


def particles_of(path: Path, optimisation_set: Path | None = None) -> list[LayerData]:
    """Return the particles of a set as layers.

    Parameters
    ----------
    path
        The set.
    optimisation_set
        That names it; tells its tomograms where coordinates are in pixels.
    """
    from napari_sta.io.relion.particles import read_particles
    from napari_sta.io.relion.tilt_series import read_tilt_series_set

    series = None
    words = _words_of(path)
    if "rlnCoordinateX" in words and "rlnCenteredCoordinateXAngst" not in words:
        tomograms = _tomograms_of(path, optimisation_set)
        series = read_tilt_series_set(tomograms, check_images=False)
    particles = read_particles(path, series)
    pixel = particles.optics[0].pixel_size_angst if particles.optics else 1.0
    return particle_layers(particles, str(path), pixel_size_angst=pixel)


def _tomograms_of(path: Path, optimisation_set: Path | None) -> Path:
    """Find the tomogram set of particles whose coordinates count from the tomogram's corner in pixels.

    The one that an optimisation set names, the given one or one beside the particles that names them; else a
    tomogram set beside them.
    """
    from napari_sta.io.files import resolve
    from napari_sta.io.relion.optimisation_set import PARTICLES_FILE, TOMOGRAMS_FILE, read_optimisation_set

    beside = {star: star_kind(star) for star in sorted(path.parent.glob("*.star")) if star != path}
    sets = [star for star, kind in beside.items() if kind == "optimisation_set"]
    for star in [optimisation_set] if optimisation_set else sets:
        try:
            members = read_optimisation_set(star)
            named = resolve(members.get(PARTICLES_FILE, ""), star)
            if TOMOGRAMS_FILE in members and os.path.realpath(named) == os.path.realpath(path):
                return resolve(members[TOMOGRAMS_FILE], star)
        except InputError:
            if optimisation_set:
                raise
    for star, kind in beside.items():
        if kind == "tomograms":
            return star
    raise InputError(
        f"{path} has coordinates in pixels (rlnCoordinateX/Y/Z), which only the sizes of its tomograms turn "
        "into Å: put the tomogram set (tomograms.star) beside it, or open an optimisation set of both."
    )


def tilt_series_of(path: Path) -> list[LayerData]:
    """Return the tilt series of a tomogram set as layers, the first one visible.

    Raises
    ------
    InputError
        If none is kept as a stack.
    """
    from napari_sta.io.mrc import open_stack
    from napari_sta.io.relion.tilt_series import read_tilt_series_set

    layers = []
    for i, series in enumerate(list(read_tilt_series_set(path).values())[:MAX_TOMOGRAMS]):
        files = {file for file, _ in series.images}
        if len(files) != 1:
            continue  # one file per tilt: nothing that can be mapped as a stack
        file = files.pop()
        name = f"tilts · {series.name}"
        data, meta, kind = tilt_layer(open_stack(file), series.pixel_size_angst, file, name)
        meta["visible"] = i == 0
        layers.append((data, meta, kind))
    if not layers:
        raise InputError(f"{path}: its tilt series are not kept as stacks, so they cannot be shown.")
    return layers
