"""Windows of tilt images around projected particles, and what is made of them. numpy only.

What needs a GPU or a choice of processor is in :mod:`napari_sta.kernels.crop` and
:mod:`napari_sta.kernels.extraction`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int
from numpy import ndarray

from napari_sta.kernels.devices import run_each
from napari_sta.kernels.grids import squared_radius

CIRCLE_FALLOFF_PX = 5.0
"""Width of the soft edge of RELION's circle crop."""

_BRICK_PX = 24  # planes and rows of the volume that one thread fills, about what its cache holds
_LEAST_BRICK_PX = 8


def round_half_away(x: Float[ndarray, "*n"]) -> Int[ndarray, "*n"]:
    """Round as C does: halves away from zero."""
    return (np.sign(x) * np.floor(np.abs(x) + 0.5)).astype(np.int64)


def window_corners(
    position_yx_px: Float[ndarray, "n 2"], window_px: int
) -> tuple[Int[ndarray, "n 2"], Float[ndarray, "n 2"]]:
    """Top-left pixels of windows about projected particles, and what rounding left over.

    Returns
    -------
    corner_yx_px
        round(position) - window / 2.
    offset_yx_px
        Position of the particle relative to the window's centre pixel, in [-0.5, 0.5].
    """
    corner = round_half_away(position_yx_px) - window_px // 2
    return corner, position_yx_px - corner - window_px // 2


@lru_cache(maxsize=8)
def circle_factor_2d(
    size: int, radius_px: float, falloff_px: float = CIRCLE_FALLOFF_PX
) -> tuple[Float32[ndarray, "s s"], Float32[ndarray, "s s"]]:
    """Fading factor of RELION's circle crop about pixel size // 2, and 1 outside the circle."""
    index = np.arange(size, dtype=np.float64) - size // 2
    r = np.sqrt(squared_radius(index, index))
    edge = 0.5 - 0.5 * np.cos(np.pi * (radius_px - r) / falloff_px)
    factor = np.where(r < radius_px - falloff_px, 1.0, edge)
    factor = np.where(r < radius_px, factor, 0.0)
    return factor.astype(np.float32), (r > radius_px).astype(np.float32)


class Contrast(NamedTuple):
    """What a transform is multiplied by: -CTF · envelope, on the half grid of the box in FFTW order.

    Attributes
    ----------
    coefficients
        CTF phase of each image (:func:`napari_sta.kernels.ctf.phase_coefficients`); None: the factor is -1.
    envelope
        Dose and amplitude factor.
    even_phase, odd_phase
        Aberration phases in radians, or None.
    sign
        +1 inverts contrast (dark protein becomes bright), as RELION does by default; -1 keeps it.
    """

    coefficients: Float[ndarray, "n 5"] | None
    envelope: Float[ndarray, "s h"]
    even_phase: Float[ndarray, "s h"] | None = None
    odd_phase: Float[ndarray, "s h"] | None = None
    sign: int = 1


def in_half_turns(coefficients: ndarray | None) -> ndarray:
    """CTF phase coefficients as the compiled kernels take them; (0, 5) for no CTF."""
    if coefficients is None:
        return np.zeros((0, 5))
    return np.ascontiguousarray(coefficients / np.pi)


def subtomogram_images(
    image_xy: Float32[ndarray, "w h"],
    position_yx_px: Float[ndarray, "n 2"],
    window_px: int,
    size: int,
    contrast: Contrast,
    pixel_size_angst: float,
    out: Float32[ndarray, "m c c"],
    slots: Int[ndarray, "n"],
    *,
    circle: bool = True,
    radius_px: float | None = None,
    scale: float = 1.0,
) -> None:
    """Cut particles out of one tilt image, bin, centre, CTF-multiply, crop and fade them.

    Parameters
    ----------
    image_xy
        The tilt image with its axes swapped, C-contiguous: axis 0 is x.
    position_yx_px
        Projected particles, unbinned pixels.
    window_px
        Edge of the windows that are transformed; even.
    size
        Edge after binning, even; binning is window_px / size.
    pixel_size_angst
        Of the output.
    out, slots
        Image i is written to ``out[slots[i]]``; its edge c is even and at most ``size``.
    circle
        Subtract the mean outside the circle (over the whole binned image) and fade over its last 5 px.
    radius_px
        Of the circle, if it is not the one inscribed in ``out``; then ``out`` must be of the whole size.
    scale
        Of the result, after mean-preserving binning.

    Notes
    -----
    Does in one pass what :func:`napari_sta.kernels.crop.cut_windows`,
    :func:`napari_sta.kernels.extraction.contrast_spectra` and
    :func:`napari_sta.kernels.extraction.middle_images` do in turn. Serial, and it releases the GIL: give each
    thread its own tilt image.
    """
    from napari_sta.kernels.compiled.windows import subtomogram_images as fast

    crop, binning = out.shape[1], window_px / size
    corner, offset = window_corners(position_yx_px, window_px)
    factor, outside = circle_factor_2d(size, crop / 2 if radius_px is None else radius_px)
    middle = slice((size - crop) // 2, (size - crop) // 2 + crop)
    fast(
        image_xy,
        corner,
        offset / binning,
        window_px,
        # Neither transform is normalised: unitary both ways, and the binning keeps the mean.
        contrast.sign * scale / (binning * window_px * size),
        in_half_turns(contrast.coefficients),
        np.fft.fftfreq(size, pixel_size_angst),
        np.arange(size // 2 + 1) / (size * pixel_size_angst),
        *_tables(contrast),
        np.ascontiguousarray(factor[middle, middle]),
        np.ascontiguousarray(1 - outside[middle, middle]) if circle else np.zeros((0, 0), np.float32),
        np.ascontiguousarray(slots, dtype=np.int64),
        out,
    )


def weighed_slices(
    image_xy: Float32[ndarray, "w h"],
    position_yx_px: Float[ndarray, "n 2"],
    window_px: int,
    size: int,
    contrast: Contrast,
    pixel_size_angst: float,
    x_end: Int[ndarray, "s"],
    out: Float32[ndarray, "n s1 h2 3"],
) -> None:
    """Cut particles out of one tilt image, fade, transform, bin, centre and CTF-weigh them, for insertion.

    Parameters
    ----------
    image_xy, position_yx_px, window_px, size, pixel_size_angst
        As in :func:`subtomogram_images`.
    contrast
        Its arrays in centred order, rows from -size / 2 upwards.
    x_end
        First column of each row that is left out.
    out
        Changed: (n, size + 1, size / 2 + 3, 3) as from :func:`napari_sta.kernels.slices.weigh_transforms`.

    Notes
    -----
    Does in one pass what :func:`napari_sta.kernels.crop.cut_windows` and
    :func:`napari_sta.kernels.slices.weigh_transforms` do in turn. The circle crop comes before the transform
    and has the window's radius: what RELION does when it reconstructs.
    """
    from napari_sta.kernels.compiled.windows import weighed_slices as fast

    binning = window_px / size
    corner, offset = window_corners(position_yx_px, window_px)
    fast(
        image_xy,
        corner,
        offset / binning,
        window_px,
        contrast.sign / (binning * window_px),
        in_half_turns(contrast.coefficients),
        (np.arange(size) - size // 2) / (size * pixel_size_angst),
        np.arange(size // 2 + 1) / (size * pixel_size_angst),
        *_tables(contrast),
        np.ascontiguousarray(x_end, dtype=np.int64),
        *_circle(window_px),
        out,
    )


@lru_cache(maxsize=8)
def _circle(size: int) -> tuple[Float32[ndarray, "s s"], Int[ndarray, "s 4"]]:
    """Factor of the inscribed circle's crop; per row, where inside begins and ends, and where it is 1."""
    factor, outside = circle_factor_2d(size, size / 2)
    ends = np.empty((size, 4), np.int64)
    for column, flags in ((0, outside == 0), (2, factor == 1)):
        some = flags.any(axis=1)
        ends[:, column] = np.where(some, flags.argmax(axis=1), size // 2)
        ends[:, column + 1] = np.where(some, size - flags[:, ::-1].argmax(axis=1), size // 2)
    return factor, ends


def load_kernels() -> None:
    """Import the compiled kernels and call one, which loads the compiler; otherwise the first use does it."""
    from napari_sta.kernels.compiled import float16

    float16.sum_up(np.zeros(1, np.float32))


def _tables(contrast: Contrast) -> tuple[ndarray, ndarray, ndarray]:
    """Envelope, even phase in half turns and factor of the odd phase as the compiled kernels take them."""
    even, odd = np.zeros((0, 0), np.float32), np.zeros((0, 0, 0), np.float32)
    if contrast.even_phase is not None:
        even = np.ascontiguousarray(contrast.even_phase / np.pi, dtype=np.float32)
    if contrast.odd_phase is not None:
        odd = np.stack([np.cos(contrast.odd_phase), -np.sin(contrast.odd_phase)], axis=-1).astype(np.float32)
    return np.ascontiguousarray(contrast.envelope, dtype=np.float32), even, odd


def add_slices(
    slices: Float32[ndarray, "n s1 h2 3"],
    matrices_zyx: Float[ndarray, "n 3 3"],
    radius_px: Float[ndarray, "n"],
    volume: Float32[ndarray, "s s h 4"],
    threads: int = 1,
) -> None:
    """Add weighted central slices to a volume, each voxel interpolating in the slice (RELION's rule).

    Parameters
    ----------
    slices
        From :func:`weighed_slices`.
    matrices_zyx
        Voxel frequency to image frequency (depth, v, u).
    radius_px
        Of each slice: voxels at larger radii receive nothing.
    volume
        Changed in place: re, im, weight and one that is not used.

    Raises
    ------
    ValueError
        If slices and volume are not of one size.

    Notes
    -----
    A voxel takes (1 - |depth|) times the bilinear value of the slice if |depth| < 1. float32 sums: the
    rounding error grows as the square root of the number of slices, 1e-6 for ten thousand. Give many slices
    at once: the volume passes through the processor once a call. A voxel's sum is made in the order of the
    slices, whatever the number of threads.
    """
    from napari_sta.kernels.compiled.bricks import add_to_brick

    size = len(volume)
    if volume.shape != (size, size, size // 2 + 1, 4) or slices.shape[1:] != (size + 1, size // 2 + 3, 3):
        raise ValueError(f"slices {slices.shape} do not fit into a volume {volume.shape}")
    matrices = np.ascontiguousarray(matrices_zyx, dtype=np.float64)
    radii = np.ascontiguousarray(radius_px, dtype=np.float64)
    # Eight bricks a thread at least, because some receive much more than others.
    edge = min(_BRICK_PX, max(_LEAST_BRICK_PX, int(size / np.sqrt(8 * threads))))
    bricks = [
        (z, min(size, z + edge), y, min(size, y + edge))
        for z in range(0, size, edge)
        for y in range(0, size, edge)
    ]
    run_each(lambda brick: add_to_brick(*brick, slices, matrices, radii, volume), bricks, threads)
