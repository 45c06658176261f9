"""Changing a map's place, grid and hand, with voxel n // 2 as the centre throughout."""

from __future__ import annotations

from collections.abc import Generator
from functools import partial

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from napari_sta.kernels.devices import run_each

_SLAB_PX = 16
"""Planes that a thread turns at a time; fixed, so that results do not depend on the number of threads."""
_INSIDE_PX = 1e-6
"""A rotated voxel this far outside the box still counts as inside: only rounding put it there."""


def shift_volume(
    volume: Float[ndarray, "d h w"], shift_zyx_px: tuple[float, float, float]
) -> Float[ndarray, "d h w"]:
    """Move the content of a map: density at voxel p goes to p + shift.

    Notes
    -----
    The whole part moves voxels, and zeros come in from outside; the rest, at most half a voxel, is a phase
    ramp in Fourier space, which invents and blurs nothing. (RELION interpolates trilinearly.)
    """
    whole = [int(np.floor(s + 0.5)) for s in shift_zyx_px]
    rest = [s - w for s, w in zip(shift_zyx_px, whole, strict=True)]
    moved = np.asarray(volume, dtype=np.float64)
    if any(rest):
        spectrum = np.fft.rfftn(moved)
        for axis, (n, part) in enumerate(zip(volume.shape, rest, strict=True)):
            k = np.fft.rfftfreq(n) if axis == 2 else np.fft.fftfreq(n)
            ramp = np.exp(-2j * np.pi * k * part)
            if n % 2 == 0:
                # The frequency n / 2 has no partner of the other sign: the mean of both keeps it real.
                ramp[n // 2] = np.cos(np.pi * part)
            spectrum *= ramp.reshape([-1 if a == axis else 1 for a in range(3)])
        moved = np.fft.irfftn(spectrum, s=volume.shape, axes=(0, 1, 2))
    if any(whole):
        still, moved = moved, np.zeros_like(moved)
        to = tuple(slice(max(0, s), n + min(0, s)) for s, n in zip(whole, volume.shape, strict=True))
        source = tuple(slice(max(0, -s), n + min(0, -s)) for s, n in zip(whole, volume.shape, strict=True))
        if all(abs(s) < n for s, n in zip(whole, volume.shape, strict=True)):
            moved[to] = still[source]
    return moved.astype(np.float32)


def rebox(volume: Float[ndarray, "d h w"], size: int) -> Float[ndarray, "s s s"]:
    """Cut or zero-pad to a cube; voxel n // 2 becomes voxel size // 2."""
    out = np.zeros((size,) * 3, dtype=np.float32)
    to, source = [], []
    for n in volume.shape:
        offset = size // 2 - n // 2
        to.append(slice(max(0, offset), min(size, n + offset)))
        source.append(slice(max(0, -offset), min(n, size - offset)))
    out[tuple(to)] = volume[tuple(source)]
    return out


def rescaled_size(size: int, pixel_size_angst: float, target_pixel_size_angst: float) -> int:
    """Even box whose pixels come nearest to, or just above, a wanted size; see :func:`rescale`.

    Notes
    -----
    RELION: round(size · pixel size / wanted), made even by taking one off.
    """
    wanted = int(np.floor(size * pixel_size_angst / target_pixel_size_angst + 0.5))
    return wanted - wanted % 2


def rescale(volume: Float[ndarray, "n n n"], size: int) -> Float[ndarray, "s s s"]:
    """Bring a cubic map to a finer or coarser grid over the same field, by its Fourier transform.

    The pixel size becomes n / ``size`` times the old one, exactly.

    Notes
    -----
    Grey values are preserved, and the centre stays the centre for odd boxes too (in RELION it is the corner
    voxel that stays, which is the same for even boxes).
    """
    from scipy.signal import resample

    # The centre goes to index 0, which resampling keeps in place.
    moved = np.fft.ifftshift(np.asarray(volume, dtype=np.float64))
    for axis in range(3):
        moved = resample(moved, size, axis=axis)
    return np.fft.fftshift(moved).astype(np.float32)


def invert_hand(volume: Float[ndarray, "d h w"]) -> Float[ndarray, "d h w"]:
    """Mirror along x, leaving voxel n // 2 where it is.

    Notes
    -----
    In an even box the plane x = 0 has no partner and stays, as in RELION.
    """
    n = volume.shape[2]
    source = (2 * (n // 2) - np.arange(n)) % n
    return np.ascontiguousarray(volume[:, :, source])


def symmetrise_in_steps(
    volume: Float[ndarray, "n n n"], operators_zyx: Float[ndarray, "m 3 3"], threads: int = 1
) -> Generator[int, None, ndarray]:
    """Average a map over rotations about voxel n // 2, yielding how many are done; returns (n, n, n) float32.

    Parameters
    ----------
    operators_zyx
        A point group (:func:`napari_sta.kernels.rotations.symmetry_operators_zyx`).

    Notes
    -----
    Cubic splines: turns that take voxels to voxels are exact. Each voxel is averaged over those copies that
    lie in the box there, so that corners do not darken (RELION divides by the order of the group everywhere).
    """
    from scipy.ndimage import affine_transform, spline_filter

    n = volume.shape[0]
    centre = n // 2
    index = np.arange(n, dtype=np.float64) - centre
    coefficients = spline_filter(np.asarray(volume, dtype=np.float64), order=3, mode="mirror")
    total = np.asarray(volume, dtype=np.float64).copy()
    count = np.ones((n, n, n), dtype=np.int32)

    def add(rotation: ndarray, slab: int) -> None:
        planes = slice(slab * _SLAB_PX, (slab + 1) * _SLAB_PX)
        z = index[planes]
        inside = np.ones((len(z), n, n), dtype=bool)
        for row in rotation:
            at = row[0] * z[:, None, None] + row[1] * index[:, None] + row[2] * index + centre
            inside &= (at >= -_INSIDE_PX) & (at <= n - 1 + _INSIDE_PX)
        corner = rotation @ np.array([z[0], -centre, -centre]) + centre
        turned = affine_transform(
            coefficients, rotation, corner, inside.shape, order=3, mode="mirror", prefilter=False
        )
        total[planes][inside] += turned[inside]
        count[planes] += inside

    identity = np.abs(operators_zyx - np.eye(3)).max(axis=(1, 2)) < 1e-6
    done = 1
    yield done
    for rotation in operators_zyx[~identity]:
        run_each(partial(add, rotation), range(-(-n // _SLAB_PX)), threads)
        done += 1
        yield done
    return (total / count).astype(np.float32)


def symmetrise_volume(
    volume: Float[ndarray, "n n n"], operators_zyx: Float[ndarray, "m 3 3"]
) -> Float[ndarray, "n n n"]:
    """Average a map over a point group about voxel n // 2; see :func:`symmetrise_in_steps`."""
    steps = symmetrise_in_steps(volume, operators_zyx)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: ndarray = end.value
            return result
