"""Particle sets as layers, and particles back from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sta.data.errors import InputError
from napari_sta.data.particles import Particles
from napari_sta.layers.keywords import LayerData, common, layer_name

MAX_TOMOGRAMS = 16
"""Particle layers are made for at most this many tomograms at once."""
ARROW_ANGST = 60.0
POINT_ANGST = 30.0


def particle_layers(
    particles: Particles, path: str = "", *, pixel_size_angst: float = 1.0
) -> list[LayerData]:
    """Show particles as Points with an arrow along each particle's Z axis, a pair per tomogram.

    Parameters
    ----------
    particles
        The set; positions have the origin applied (position = coordinate - R_subtomogram · origin).
    path
        File it came from.
    pixel_size_angst
        Noted in the metadata; coordinates are in Å, so the layers' scale is 1.

    Returns
    -------
    layers
        Points and Vectors of each tomogram, those of the first one visible.
    """
    from napari_sta.io.star import printable

    pairs: list[list[LayerData]] = []
    names = particles.tomograms[:MAX_TOMOGRAMS]
    stem = layer_name(path) if path else "particles"
    for i, tomogram in enumerate(names):
        rows = np.flatnonzero(particles.tomogram == tomogram)
        part = particles[rows]
        position, axis = positions_and_axes(part)
        more = {"tomogram": tomogram, "n_particles": len(particles), "n_tomograms": len(particles.tomograms)}
        shown = printable(tomogram)
        points = common(f"{stem} · {shown}", "particles", path, pixel_size_angst, **more)
        points["metadata"]["napari_sta"]["star_rows"] = rows
        points["metadata"]["napari_sta"]["particles"] = part
        points |= {
            "features": features(part),
            "size": POINT_ANGST,
            "face_color": "#f0b429",
            "border_width": 0.0,
            "opacity": 0.9,
            "visible": i == 0,
        }
        arrows = common(f"{stem} · {shown} · Z", "vectors", path, pixel_size_angst, **more)
        arrows |= {
            "edge_color": "#7ad1ff",
            "edge_width": 5.0,
            "length": ARROW_ANGST,
            "vector_style": "line",
            "visible": i == 0,
        }
        pairs.append([(position, points, "points"), (np.stack([position, axis], axis=1), arrows, "vectors")])
    return [layer for pair in pairs for layer in pair]


def positions_and_axes(particles: Particles) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return positions (n, 3) in Å from the tomogram's centre and unit vectors (n, 3) of the particles' Z."""
    from napari_sta.kernels.rotations import euler_to_matrix_zyx

    subtomogram = euler_to_matrix_zyx(particles.subtomogram_angles_deg)
    position = particles.coordinate_zyx_angst - np.einsum(
        "nij,nj->ni", subtomogram, particles.origin_zyx_angst
    )
    rotation = subtomogram @ euler_to_matrix_zyx(particles.angles_deg)
    return position, rotation[:, :, 0]  # first column: where the reference's z goes


def features(particles: Particles) -> Any:
    """Return every column of the set as a table: numbers as numbers, words and classes as categories."""
    import pandas as pd

    from napari_sta.io.relion.numbers import numbers_of
    from napari_sta.io.star import printable, text_column

    table: dict[str, Any] = {}
    for label, column in particles.text.items():
        column = column if "".join(column).isprintable() else text_column(map(printable, column))
        label = printable(label)  # of the file, too
        if label in ("rlnTomoName", "rlnOpticsGroup", "rlnRandomSubset", "rlnClassNumber"):
            table[label] = pd.Categorical(column)
            continue
        numbers = numbers_of(column)
        table[label] = np.asarray(column, dtype=object) if numbers is None else numbers
    if "rlnTomoName" not in table:
        table["rlnTomoName"] = pd.Categorical(list(map(printable, particles.tomogram)))
    return pd.DataFrame(table)


def particles_from_layer(data: NDArray[np.float64], meta: Mapping[str, Any]) -> Particles:
    """Return the particles a Points layer stands for, moved to where its points are now.

    A moved point changes the coordinate; origin, angles and every other column stay as in the file.

    Raises
    ------
    InputError
        If the layer is not one of ours, or rows were added that no particle belongs to.
    """
    ours = meta.get("metadata", {}).get("napari_sta", {})
    particles = ours.get("particles")
    if not isinstance(particles, Particles):
        raise InputError(f"layer {meta.get('name', '')} was not read from a particle set.")
    if len(data) != len(particles):
        raise InputError(
            f"layer {meta.get('name', '')} has {len(data)} points but its particle set has {len(particles)}; "
            "undo the points that were added or removed."
        )
    position, _ = positions_and_axes(particles)
    return replace(particles, coordinate_zyx_angst=particles.coordinate_zyx_angst + (data - position))
