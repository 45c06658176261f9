"""Particles and their optics groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class OpticsGroup:
    """What the particles of one optics group have in common.

    Attributes
    ----------
    number, name
        ``rlnOpticsGroup`` (from 1) and ``rlnOpticsGroupName``.
    pixel_size_angst
        Of the tilt series (``rlnTomoTiltSeriesPixelSize``): the unit in which positions become pixels.
    image_pixel_size_angst, image_size_px
        Of the extracted subtomograms; None before extraction.
    text
        Every column of the group's row as it stood in the file.
    """

    number: int
    name: str
    pixel_size_angst: float
    image_pixel_size_angst: float | None = None
    image_size_px: int | None = None
    voltage_kv: float | None = None
    spherical_aberration_mm: float | None = None
    amplitude_contrast: float | None = None
    even_zernike: tuple[float, ...] = ()
    odd_zernike: tuple[float, ...] = ()
    text: Mapping[str, str] = field(default_factory=dict)

    @property
    def working_pixel_size_angst(self) -> float:
        """Pixel size in which RELION measures shifts: the image's if there is one, else the tilt series'."""
        return self.image_pixel_size_angst or self.pixel_size_angst


@dataclass(frozen=True)
class Particles:
    """A particle set: where each particle is, how it is turned, and everything else its file said.

    Attributes
    ----------
    tomogram, name
        ``rlnTomoName`` and ``rlnTomoParticleName``, arrays of str, shape (n,).
    coordinate_zyx_angst
        (n, 3) Å from the tomogram centre, origin *not* applied.
    origin_zyx_angst
        (n, 3) Å in the subtomogram frame, *subtracted*: position = coordinate - R_subtomogram · origin.
    angles_deg, subtomogram_angles_deg
        (n, 3) rot, tilt, psi of the particle in its subtomogram, and of the subtomogram in the tomogram.
    optics_group
        (n,) number of the optics group (from 1).
    half_set
        (n,) 1 or 2, or None if no half sets were assigned.
    optics
        The optics groups, in file order.
    text
        Every column of the file as text, in file order, each (n,) of str. Columns we have no field for
        live only here; columns we have a field for are rewritten from the field when its value changed.
    tables
        Other tables of the file (``general`` and any unknown one), written back untouched.
    source
        The file the set was read from, which the paths in ``text`` are found from; None if they already are
        as they shall be written.
    """

    tomogram: NDArray[np.object_]
    name: NDArray[np.object_]
    coordinate_zyx_angst: NDArray[np.float64]
    origin_zyx_angst: NDArray[np.float64]
    angles_deg: NDArray[np.float64]
    subtomogram_angles_deg: NDArray[np.float64]
    optics_group: NDArray[np.int64]
    half_set: NDArray[np.int64] | None
    optics: tuple[OpticsGroup, ...]
    text: Mapping[str, NDArray[np.object_]] = field(default_factory=dict)
    tables: Mapping[str, object] = field(default_factory=dict)
    source: Path | None = None

    def __len__(self) -> int:
        return len(self.tomogram)

    def __getitem__(self, rows: NDArray[np.bool_] | NDArray[np.int64] | slice) -> Particles:
        """Keep the given rows, of every column."""
        changed: dict[str, object] = {
            f.name: getattr(self, f.name)[rows]
            for f in fields(self)
            if isinstance(getattr(self, f.name), np.ndarray)
        }
        changed["text"] = {label: column[rows] for label, column in self.text.items()}
        return replace(self, **changed)  # type: ignore[arg-type]

    @property
    def tomograms(self) -> list[str]:
        """Names of the tomograms that have particles, in order of first appearance."""
        return list(dict.fromkeys(self.tomogram.tolist()))

    def by_tomogram(self) -> Iterator[Particles]:
        """Yield one particle set per tomogram, in order of first appearance."""
        for name in self.tomograms:
            yield self[self.tomogram == name]

    def optics_of(self, number: int) -> OpticsGroup:
        """Return the optics group with this number.

        Raises
        ------
        KeyError
            If no group has it.
        """
        for group in self.optics:
            if group.number == number:
                return group
        raise KeyError(number)

    def per_particle(self, attribute: str) -> NDArray[np.float64]:
        """Spread a number of the optics groups over the particles, shape (n,)."""
        value = {g.number: getattr(g, attribute) for g in self.optics}
        return np.array([value[int(n)] for n in self.optics_group], dtype=np.float64)


def concatenate(parts: Sequence[Particles]) -> Particles:
    """Join particle sets that came from one: same columns, same optics groups.

    Raises
    ------
    ValueError
        If there is nothing to join or the columns differ.
    """
    if not parts:
        raise ValueError("no particle sets to join")
    first = parts[0]
    if any(list(one.text) != list(first.text) for one in parts):
        raise ValueError("the particle sets have different columns")
    changed: dict[str, object] = {
        f.name: np.concatenate([getattr(one, f.name) for one in parts])
        for f in fields(first)
        if isinstance(getattr(first, f.name), np.ndarray)
    }
    changed["text"] = {label: np.concatenate([one.text[label] for one in parts]) for label in first.text}
    return replace(first, **changed)  # type: ignore[arg-type]
