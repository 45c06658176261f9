"""The particle of a phantom: a sum of Gaussian blobs, known in closed form at every frequency."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfftn, rfftfreq
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from napari_sta.data.volume import Volume

Array = NDArray[np.float64]


class Blobs(NamedTuple):
    """A density made of equal Gaussians.

    Attributes
    ----------
    centre_zyx_angst
        (b, 3) Å from the particle's centre.
    mass
        (b,) integral of each blob.
    sigma_angst
        Standard deviation, the same for all.
    """

    centre_zyx_angst: Array
    mass: Array
    sigma_angst: float


def hexamer(seed: int = 8) -> Blobs:
    """Return a C6 hexamer about z: two helical domains per subunit and a central bundle below.

    About 90 Å wide and high, with rods 9 Å apart, so that it has features from 40 to 8 Å and no
    mirror plane across z.
    """
    rng = np.random.default_rng(seed)
    sixfold = Rotation.from_euler("Z", 60.0 * np.arange(6)[:, None], degrees=True)
    rods: list[Array] = []  # (length, 3) xyz of one subunit
    taken = np.zeros((0, 3))

    def place(points_xyz: Array, clearance_angst: float) -> bool:
        nonlocal taken
        copies = np.concatenate([r.apply(points_xyz) for r in sixfold])
        others = copies[len(points_xyz) :]
        if np.min(cKDTree(others).query(points_xyz)[0]) < clearance_angst:
            return False
        if len(taken) and np.min(cKDTree(taken).query(points_xyz)[0]) < clearance_angst:
            return False
        rods.append(points_xyz)
        taken = np.concatenate([taken, copies])
        return True

    bundle = np.stack([np.full(9, 9.5), np.linspace(-3, 3, 9), np.linspace(-26.0, -50.0, 9)], axis=1)
    place(bundle, 6.0)
    for centre, radius, count in (((29.0, 0.0, 20.0), 17.0, 7), ((21.0, 9.0, -14.0), 15.0, 5)):
        kept = 0
        for _ in range(4000):
            direction = rng.normal(size=3)
            direction /= np.linalg.norm(direction)
            half = rng.uniform(7.0, 11.0)
            middle = np.array(centre) + rng.normal(size=3) * radius / 2.2
            points = middle + np.arange(-half, half + 1e-6, 3.0)[:, None] * direction
            inside = np.linalg.norm(points - np.array(centre), axis=1).max() < radius
            if inside and place(points, 7.5):
                kept += 1
                if kept == count:
                    break
    subunit = np.concatenate(rods)
    xyz = np.concatenate([r.apply(subunit) for r in sixfold])
    xyz[:, 2] -= xyz[:, 2].mean()
    return Blobs(np.ascontiguousarray(xyz[:, ::-1]), np.ones(len(xyz)), 2.0)


def density_map(blobs: Blobs, box_px: int, pixel_size_angst: float) -> Volume:
    """Evaluate blobs on a grid, band-limited to Nyquist; a voxel holds the mass that falls into it.

    Parameters
    ----------
    blobs
        The density; its zero comes to lie on voxel ``box_px // 2``.
    box_px, pixel_size_angst
        Of the map; an even box.
    """
    n = box_px
    at_px = blobs.centre_zyx_angst / pixel_size_angst + n // 2
    k = np.fft.fftfreq(n)
    z, y = (np.exp(-2j * np.pi * k[:, None] * at_px[:, axis]) for axis in (0, 1))
    x = np.exp(-2j * np.pi * rfftfreq(n)[:, None] * at_px[:, 2]).astype(np.complex64)
    z, y = (z * blobs.mass).astype(np.complex64), y.astype(np.complex64)
    ft = np.stack([(y * row) @ x.T for row in z])
    r2 = k[:, None, None] ** 2 + k[None, :, None] ** 2 + rfftfreq(n) ** 2
    ft *= np.exp(-2 * (np.pi * blobs.sigma_angst / pixel_size_angst) ** 2 * r2)
    data = irfftn(ft, s=(n, n, n)).astype(np.float32)
    return Volume(np.ascontiguousarray(data), pixel_size_angst)
