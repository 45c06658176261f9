"""What a particle set says of its subtomograms: their files, their tilts, 2D stacks or 3D."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_sta.data.errors import InputError
from napari_sta.data.particles import Particles
from napari_sta.io.star import Table, format_number, format_vector, parse_vector, text_column

_ARE_STACKS = "rlnTomoSubTomosAre2DStacks"


def with_images(
    particles: Particles,
    images: Sequence[str],
    visible: NDArray[np.bool_] | None,
    weights: Sequence[str] | None,
) -> Particles:
    """Name the subtomogram files of particles.

    Parameters
    ----------
    images
        ``rlnImageName``: 2D stack, or 3D data.
    visible
        (n, t) which tilts are in the 2D stack (``rlnTomoVisibleFrames``); None for 3D.
    weights
        ``rlnCtfImage`` of 3D subtomograms; None for 2D.

    Notes
    -----
    Priors on the origin are dropped: they refer to origins that are folded into the coordinates now.
    """
    stale = {f"rlnOrigin{axis}PriorAngst" for axis in "XYZ"}
    text = {label: column for label, column in particles.text.items() if label not in stale}
    for label, values in (
        (
            "rlnTomoVisibleFrames",
            None if visible is None else [format_vector(row.astype(int)) for row in visible],
        ),
        ("rlnImageName", images),
        ("rlnCtfImage", weights),
    ):
        if values is None:
            text.pop(label, None)
        else:
            text[label] = text_column(values)
    return replace(particles, text=text, source=None)


def visible_frames(particles: Particles, n_tilts: Mapping[str, int] | None = None) -> list[NDArray[np.bool_]]:
    """Return which tilts each particle's 2D stack holds, (t,) each, from ``rlnTomoVisibleFrames``.

    Parameters
    ----------
    n_tilts
        Of each tomogram; None if it is not known.

    Raises
    ------
    InputError
        If a value is no vector, or counts other tilts than the tilt series has.
    """
    label, path = "rlnTomoVisibleFrames", particles.source or "the particle set"
    known: dict[str, NDArray[np.bool_]] = {}
    frames = []
    for row, text in enumerate(particles.text[label]):
        if text not in known:
            try:
                known[text] = parse_vector(text) > 0
            except ValueError as error:
                raise InputError(
                    f"{path}, row {row + 1} (particle {particles.name[row]}): {error} in column {label}; "
                    "extract the particles again"
                ) from None
        frames.append(known[text])
        wanted = len(known[text]) if n_tilts is None else n_tilts[particles.tomogram[row]]
        if len(known[text]) != wanted:
            raise InputError(
                f"{path}: {label} of particle {particles.name[row]} counts {len(known[text])} tilts, its "
                f"tilt series {wanted}; the tilt series changed after extraction, so extract again"
            )
    return frames


def are_2d_stacks(particles: Particles) -> bool | None:
    """Whether the general table says that subtomograms are 2D stacks; None if it says nothing."""
    general = particles.tables.get("general")
    said = general.row().get(_ARE_STACKS, "") if isinstance(general, Table) else ""
    return said.strip() == "1" if said else None


def check_subtomogram_kind(particles: Particles, path: str | Path) -> None:
    """Refuse a general table that contradicts the images.

    Raises
    ------
    InputError
        If it says 2D stacks and images are 3D, or the other way round.
    """
    said = are_2d_stacks(particles)
    text = particles.text
    if said is None or "rlnImageName" not in text:
        return
    dimensions = {group.text.get("rlnImageDimensionality", "").strip() for group in particles.optics} - {""}
    has_frames = "rlnTomoVisibleFrames" in text
    if said and (dimensions == {"3"} or ("rlnCtfImage" in text and not has_frames)):
        raise InputError(
            f"{path}: the general table says that subtomograms are 2D stacks ({_ARE_STACKS} 1), but the "
            "images are 3D; set it to 0"
        )
    if not said and dimensions == {"2"} and has_frames:
        raise InputError(
            f"{path}: the general table says that subtomograms are 3D ({_ARE_STACKS} 0), but the images are "
            "2D stacks; set it to 1"
        )


def with_subtomogram_kind(
    particles: Particles, *, stack2d: bool, premultiplied: bool, binning: float
) -> Particles:
    """State in the general table and the optics groups what kind of subtomograms a set has."""
    old = particles.tables.get("general")
    general = dict(old.columns) if isinstance(old, Table) else {}
    general[_ARE_STACKS] = text_column([str(int(stack2d))])
    kind = {
        "rlnCtfDataAreCtfPremultiplied": str(int(premultiplied)),
        "rlnImageDimensionality": "2" if stack2d else "3",
        "rlnTomoSubtomogramBinning": format_number(float(binning))[0],
    }
    return replace(
        particles,
        optics=tuple(replace(group, text={**group.text, **kind}) for group in particles.optics),
        tables={**particles.tables, "general": Table("general", general, is_loop=False)},
    )
