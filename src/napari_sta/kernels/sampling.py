"""Grids of orientations and translations: HEALPix directions, symmetry, children, priors, local choice.

A grid orientation is a direction (rot, tilt) times an in-plane angle psi; with ``n_psi`` psis its index is
``direction * n_psi + psi``. The nominal step of order h is 360 / (6 · 2^h) degrees for all three angles.
Everything is float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from napari_sta.kernels.rotations import (
    euler_to_matrix_zyx,
    matrix_zyx_to_euler,
    parse_symmetry,
    symmetry_operators_zyx,
)

_SEAM_LIMIT = 4000
"""RELION looks for duplicates across the seam of the asymmetric unit only below this many directions."""

_CUT = 3.0
"""Priors reach this many standard deviations."""


def angular_step_deg(order: int) -> float:
    """Nominal step of a HEALPix order: 3.75 degrees at order 4."""
    return 360.0 / (6 * 2**order)


def psi_count(order: int) -> int:
    """Count the in-plane angles that go with each direction."""
    return int(6 * 2**order)


def direction_angles_deg(order: int, pixels: Int[ndarray, "n"]) -> Float[ndarray, "n 2"]:
    """Rot in (-180, 180] and tilt of HEALPix pixels in NEST order.

    References
    ----------
    Gorski et al. (2005), Astrophys. J. 622, 759.
    """
    import healpix

    tilt, rot = healpix.pix2ang(2**order, np.asarray(pixels, dtype=np.int64), nest=True)
    rot = np.rad2deg(rot) % 360.0
    rot = np.where(rot > 180.0 + 1e-9, rot - 360.0, rot)
    return np.stack([rot, np.rad2deg(tilt)], axis=-1)


def directions_zyx(angles_deg: Float[ndarray, "*n 2"]) -> Float[ndarray, "*n 3"]:
    """Compute unit vectors of (rot, tilt), zyx."""
    rot, tilt = np.deg2rad(angles_deg[..., 0]), np.deg2rad(angles_deg[..., 1])
    return np.stack([np.cos(tilt), np.sin(tilt) * np.sin(rot), np.sin(tilt) * np.cos(rot)], axis=-1)


def asymmetric_unit(angles_deg: Float[ndarray, "n 2"], symmetry: str) -> Bool[ndarray, "n"]:
    """Tell which directions lie in one asymmetric unit of a point group, its border included.

    Notes
    -----
    Cn: |rot| <= 180/n. Dn: 90 - 180/n <= rot <= 90 + 180/n and tilt <= 90. T, O and I: the directions that
    are at least as near to a fixed generic direction as to any of its symmetry copies (a Voronoi cell); it
    holds one copy of each direction whatever the setting of the axes.
    """
    family, order = parse_symmetry(symmetry)
    rot, tilt = angles_deg[:, 0], angles_deg[:, 1]
    slack = 1e-9
    if family == "C" or (family, order) == ("D", 1):
        if order == 1 and family == "C":
            return np.ones(len(rot), dtype=bool)
        if family == "C":
            return np.abs(rot) <= 180.0 / order + slack
        return tilt <= 90.0 + slack
    if family == "D":
        return (np.abs(rot - 90.0) <= 180.0 / order + slack) & (tilt <= 90.0 + slack)
    operators = symmetry_operators_zyx(symmetry)
    centre = np.array([0.94, 0.11, 0.32])
    copies = operators @ (centre / np.linalg.norm(centre))
    nearness = directions_zyx(angles_deg) @ copies.T
    return nearness[:, 0] >= nearness.max(axis=1) - slack


def _drop_seam_duplicates(
    vectors: Float[ndarray, "n 3"], symmetry: str, distance_deg: float
) -> Bool[ndarray, "n"]:
    """Greedily keep directions of which no symmetry copy is within a distance of one kept before."""
    operators = symmetry_operators_zyx(symmetry)[1:]
    keep = np.ones(len(vectors), dtype=bool)
    if not len(operators):
        return keep
    limit = np.cos(np.deg2rad(distance_deg))
    # near[i, j]: some copy of i lies within the distance of j
    near = np.zeros((len(vectors), len(vectors)), dtype=bool)
    for operator in operators:
        near |= (vectors @ operator.T) @ vectors.T >= limit
    for i in range(1, len(vectors)):
        keep[i] = not (near[i, :i] & keep[:i]).any()
    return keep


@dataclass(frozen=True)
class OrientationGrid:
    """Orientations of one HEALPix order within the asymmetric unit of a point group.

    Attributes
    ----------
    order, symmetry
        HEALPix order and point group.
    pixels
        (n,) NEST indices of the directions kept.
    directions_deg
        (n, 2) rot and tilt.
    """

    order: int
    symmetry: str
    pixels: Int[ndarray, "n"]
    directions_deg: Float[ndarray, "n 2"]

    @property
    def step_deg(self) -> float:
        """Nominal angular step."""
        return angular_step_deg(self.order)

    @property
    def n_psi(self) -> int:
        """In-plane angles a direction."""
        return psi_count(self.order)

    @property
    def n_directions(self) -> int:
        """Directions kept."""
        return len(self.pixels)

    def __len__(self) -> int:
        return self.n_directions * self.n_psi

    def angles_deg(self, index: Int[ndarray, "*n"]) -> Float[ndarray, "*n 3"]:
        """Rot, tilt and psi of grid orientations, unperturbed."""
        direction, psi = np.divmod(np.asarray(index), self.n_psi)
        angles = self.directions_deg[direction]
        return np.concatenate([angles, (psi * self.step_deg)[..., None]], axis=-1)

    def children_deg(self, index: Int[ndarray, "*n"], oversampling: int = 1) -> Float[ndarray, "*n c 3"]:
        """Rot, tilt and psi of the finer orientations of grid orientations.

        Returns
        -------
        angles
            4^v directions times 2^v psis each, v the oversampling; psi varies fastest.
        """
        if oversampling == 0:
            return self.angles_deg(index)[..., None, :]
        direction, psi = np.divmod(np.asarray(index), self.n_psi)
        n_dir, n_psi = 4**oversampling, 2**oversampling
        pixels = (self.pixels[direction][..., None] << (2 * oversampling)) + np.arange(n_dir)
        fine = direction_angles_deg(self.order + oversampling, pixels.ravel()).reshape(*pixels.shape, 2)
        step = self.step_deg
        psis = psi[..., None] * step - 0.5 * step + (np.arange(n_psi) + 0.5) * step / n_psi
        shape = (*direction.shape, n_dir, n_psi)
        angles = np.empty((*shape, 3))
        angles[..., :2] = fine[..., :, None, :]
        angles[..., 2] = psis[..., None, :]
        return angles.reshape(*direction.shape, n_dir * n_psi, 3)


def make_orientation_grid(order: int, symmetry: str = "C1") -> OrientationGrid:
    """Build the grid of a HEALPix order, restricted to one asymmetric unit.

    Notes
    -----
    RELION: if fewer than 4000 directions remain, those on the seam of the asymmetric unit that duplicate
    another under symmetry (within half the largest HEALPix pixel radius) are dropped. psi is not restricted.
    """
    import healpix

    pixels = np.arange(12 * 4**order, dtype=np.int64)
    angles = direction_angles_deg(order, pixels)
    inside = asymmetric_unit(angles, symmetry)
    pixels, angles = pixels[inside], angles[inside]
    if len(pixels) < _SEAM_LIMIT:
        radius = np.rad2deg(_largest_pixel_radius(healpix, 2**order))
        keep = _drop_seam_duplicates(directions_zyx(angles), symmetry, 0.5 * radius)
        pixels, angles = pixels[keep], angles[keep]
    return OrientationGrid(order, symmetry, pixels, angles)


def _largest_pixel_radius(healpix, nside: int) -> float:  # type: ignore[no-untyped-def]
    """Largest distance, in radians, between a HEALPix pixel's centre and its corners.

    Found on the pixels at the border of the polar cap, which are the most elongated: the distance between
    the direction (z = 2/3, phi = pi / 4 nside) and (z = 1 - (1 - 1/nside)² / 3, phi = 0).
    """
    shrunk = 1.0 - 1.0 / nside
    ends = []
    for z, phi in ((2.0 / 3.0, np.pi / (4 * nside)), (1.0 - shrunk * shrunk / 3.0, 0.0)):
        sine = np.sqrt(1 - z * z)
        ends.append(np.array([sine * np.cos(phi), sine * np.sin(phi), z]))
    return float(np.arccos(np.clip(ends[0] @ ends[1], -1, 1)))


def next_perturbation(perturbation: float, draw: float, factor: float = 0.5) -> float:
    """Advance the random perturbation of the grids by one iteration.

    Parameters
    ----------
    perturbation
        Of the iteration before, in [-factor, factor] (fractions of a step).
    draw
        Uniform in [0, 1).
    factor
        ``rlnSamplingPerturbFactor``.

    Notes
    -----
    RELION: add U(factor / 2, factor), then wrap into [-factor, factor].
    """
    moved = perturbation + (0.5 + 0.5 * draw) * factor
    period = 2 * factor
    return float(moved - period * np.floor((moved + factor) / period))


def perturbed_rotations_zyx(
    angles_deg: Float[ndarray, "*n 3"], perturbation: float, step_deg: float
) -> Float[ndarray, "*n 3 3"]:
    """Rotation matrices of grid orientations turned by the random perturbation.

    Notes
    -----
    ``E(angles) · E(a, a, a)`` with a = perturbation × *coarse* step.
    """
    rotation = euler_to_matrix_zyx(angles_deg)
    if perturbation == 0:
        return rotation
    alpha = perturbation * step_deg
    return rotation @ euler_to_matrix_zyx(np.full(3, alpha))


def translation_grid_zyx(range_angst: float, step_angst: float, n_dim: int = 3) -> Float[ndarray, "s 3"]:
    """Whole multiples of a step within a range: a ball (``n_dim`` 3) or a disc in y, x (2); x fastest."""
    most = int(np.floor(range_angst / step_angst))
    k = np.arange(-most, most + 1, dtype=np.float64)
    z = k if n_dim == 3 else np.zeros(1)
    grid = np.stack(np.meshgrid(z, k, k, indexing="ij"), axis=-1).reshape(-1, 3)
    inside = step_angst**2 * (grid * grid).sum(axis=1) <= range_angst**2
    return grid[inside] * step_angst


def translation_children_zyx(
    step_angst: float, oversampling: int = 1, n_dim: int = 3
) -> Float[ndarray, "c 3"]:
    """Offsets of the finer translations from their parent: 2^v an axis; x fastest."""
    n = 2**oversampling
    k = -0.5 * step_angst + (np.arange(n) + 0.5) * step_angst / n
    z = k if n_dim == 3 else np.zeros(1)
    return np.stack(np.meshgrid(z, k, k, indexing="ij"), axis=-1).reshape(-1, 3)


@dataclass(frozen=True)
class AngularPrior:
    """Widths (standard deviations, degrees) of Gaussian priors on the three angles; 0: no prior."""

    rot_deg: float = 0.0
    tilt_deg: float = 0.0
    psi_deg: float = 0.0

    @property
    def is_set(self) -> bool:
        """Whether any angle is restrained."""
        return max(self.rot_deg, self.tilt_deg, self.psi_deg) > 0


class LocalChoice(NamedTuple):
    """Grid orientations near one particle's prior angles.

    Attributes
    ----------
    orientation
        (n,) grid orientations, ascending.
    prior
        (n,) prior probability of each; direction and psi parts each sum to 1.
    """

    orientation: Int[ndarray, "n"]
    prior: Float[ndarray, "n"]


def choose_near_prior(
    grid: OrientationGrid, prior_deg: Float[ndarray, "p 3"], width: AngularPrior, *, bare_psi: bool = False
) -> list[LocalChoice]:
    """Select for each particle the orientations within three standard deviations of its prior angles.

    Parameters
    ----------
    prior_deg
        Rot, tilt, psi in the middle of the prior; any symmetry mate will do. NaN: no prior on that angle.
    bare_psi
        Compare psi as it stands, whatever mate of the prior a direction is near to, as RELION does: right for
        Cn only, whose mates have the same psi.

    Returns
    -------
    choices
        One per particle; never empty: where nothing lies within reach, the nearest grid point is taken.

    Notes
    -----
    RELION's rules. With priors on rot and tilt the distance is that of the directions, taken to the nearest
    symmetry copy, and the larger width counts; with one on tilt only (or rot only) the difference in that
    angle is minimised over symmetry copies. Priors are evaluated on the unperturbed grid.
    """
    prior = np.atleast_2d(np.asarray(prior_deg, dtype=np.float64))
    psis = np.arange(grid.n_psi) * grid.step_deg
    psi_distance = np.abs((psis[None, :] - prior[:, 2:3] + 180.0) % 360.0 - 180.0)
    copies = _copies(grid)
    choices = []
    widths = np.array([width.rot_deg, width.tilt_deg, width.psi_deg])
    for i in range(len(prior)):
        own = AngularPrior(*np.where(np.isnan(prior[i]), 0.0, widths).tolist())
        direction, weight = _near_direction(copies, prior[i], own)
        if not bare_psi and min(own.rot_deg, own.tilt_deg, own.psi_deg) > 0:
            choices.append(_with_mates(grid, prior[i], direction, weight, psis, own.psi_deg))
            continue
        psi, psi_weight = _gaussian_choice(psi_distance[i], own.psi_deg)
        index = (direction[:, None] * grid.n_psi + psi[None, :]).ravel()
        choices.append(LocalChoice(index, (weight[:, None] * psi_weight[None, :]).ravel()))
    return choices


def _with_mates(
    grid: OrientationGrid, prior: ndarray, direction: ndarray, weight: ndarray, psis: ndarray, psi_deg: float
) -> LocalChoice:
    """Combine directions with the psis near that of the mate of the prior that each direction is near to."""
    mates = euler_to_matrix_zyx(prior) @ symmetry_operators_zyx(grid.symmetry)
    angles = matrix_zyx_to_euler(mates)
    nearness = directions_zyx(grid.directions_deg[direction]) @ directions_zyx(angles[:, :2]).T
    nearest = nearness.argmax(axis=1)
    index, prior_of = [], []
    for mate in np.unique(nearest):
        mine = nearest == mate
        distance = np.abs((psis - angles[mate, 2] + 180.0) % 360.0 - 180.0)
        psi, psi_weight = _gaussian_choice(distance, psi_deg)
        index.append((direction[mine][:, None] * grid.n_psi + psi).ravel())
        prior_of.append((weight[mine][:, None] * psi_weight).ravel())
    chosen, prior_weight = np.concatenate(index), np.concatenate(prior_of)
    order = np.argsort(chosen, kind="stable")
    return LocalChoice(chosen[order], prior_weight[order] / prior_weight.sum())


def _copies(grid: OrientationGrid) -> ndarray:
    """Directions (n, o, 3) of all symmetry copies of all grid directions."""
    operators = symmetry_operators_zyx(grid.symmetry)
    return np.einsum("oji,nj->noi", operators, directions_zyx(grid.directions_deg))


def _near_direction(copies: ndarray, prior: ndarray, width: AngularPrior) -> tuple[ndarray, ndarray]:
    if width.rot_deg > 0 and width.tilt_deg > 0:
        cosine = (copies @ directions_zyx(prior[:2])).max(axis=1)
        distance = np.rad2deg(np.arccos(np.clip(cosine, -1, 1)))
        return _gaussian_choice(distance, max(width.rot_deg, width.tilt_deg))
    if width.tilt_deg > 0:
        tilt = np.rad2deg(np.arccos(np.clip(copies[..., 0], -1, 1)))
        return _gaussian_choice(np.abs(tilt - prior[1]).min(axis=1), width.tilt_deg)
    if width.rot_deg > 0:
        rot = np.rad2deg(np.arctan2(copies[..., 1], copies[..., 2]))
        difference = np.abs((rot - prior[0] + 180.0) % 360.0 - 180.0)
        return _gaussian_choice(difference.min(axis=1), width.rot_deg)
    return np.arange(len(copies)), np.full(len(copies), 1.0 / len(copies))


def _gaussian_choice(distance: ndarray, sigma: float) -> tuple[ndarray, ndarray]:
    """Return indices within reach and their weights, which sum to 1."""
    if sigma <= 0:
        return np.arange(len(distance)), np.full(len(distance), 1.0 / len(distance))
    near = np.flatnonzero(distance < _CUT * sigma)
    if not len(near):
        near = np.array([int(distance.argmin())])
        return near, np.ones(1)
    weight = np.exp(-0.5 * (distance[near] / sigma) ** 2)
    return near, weight / weight.sum()
