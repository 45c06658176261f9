"""3D refinement, expectation: likelihood of poses as matrix products, weighted sums, accuracies.

Conventions: transforms are divided by the number of pixels and have their phase origin at the box centre;
noise and signal powers are per component, mean(abs(F)²) / 2; radii are in Fourier pixels of the unpadded box.
CTF, noise and shifts act on the *image* side, so that slices of the reference depend on rotations only and
the scores of all orientations and translations of a tilt image are one matrix product.

References
----------
Scheres (2012), J. Struct. Biol. 180, 519. Zivanov et al. (2022), eLife 11, e83724.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from numpy import ndarray
from torch import Tensor

from napari_sta.kernels import fourier

_MOST_ROWS = 192
"""Orientations whose slices are held at a time: their rows stay in the level-2 cache."""


# ----------------------------------------------------------------------------------------------------
# Images


def soft_disc(
    size: int, radius_px: float, edge_px: float, n_dim: int = 2, device: torch.device | str = "cpu"
) -> Float[Tensor, ...]:
    """Disc or ball about pixel size // 2: 1 inside the radius, raised cosine over the edge outside it."""
    index = torch.arange(size, dtype=torch.float64, device=device) - size // 2
    square = torch.zeros((), dtype=torch.float64, device=device)
    for axis in range(n_dim):
        square = square + (index * index).reshape([-1 if a == axis else 1 for a in range(n_dim)])
    t = ((square.sqrt() - radius_px) / edge_px).clamp(0, 1)
    return 0.5 + 0.5 * torch.cos(torch.pi * t)


def fill_outside(
    images: Float[Tensor, "*n h w"], disc: Float[Tensor, "*d h w"], n_dim: int = 2
) -> Float[Tensor, "*n h w"]:
    """Replace what lies outside a soft disc (or ball) by its own mean.

    Notes
    -----
    RELION's mask "with zeros": pixels of the edge count by how far outside they are.
    """
    axes = tuple(range(-n_dim, 0))
    outside = (1 - disc).to(torch.float64)
    mean = (images.to(torch.float64) * outside).sum(dim=axes, keepdim=True) / outside.sum().clamp(min=1e-300)
    return (images * disc + mean * outside).to(images.dtype)


def image_transforms(images: Float[Tensor, "n s s"]) -> Complex[Tensor, "n s h"]:
    """Half transforms divided by the number of pixels, phase origin at the box centre, FFTW order."""
    size = images.shape[-1]
    spectra = torch.fft.rfft2(images) / (size * size)
    return spectra * fourier.checkerboard((size, size), images.device)


@dataclass(frozen=True)
class PixelList:
    """Pixels of the half plane within a radius, each Friedel pair once, frequency 0 included.

    Attributes
    ----------
    size, radius
        Box of the images, and the largest radius listed.
    v, u
        (n,) frequencies; rows run upwards from v = -radius + 1, the columns of a row are contiguous.
    shell
        (n,) nearest shell.
    row_v, row_u, row_n, row_start
        Per row: frequency, first column, number of columns, position of the first in the list.
    """

    size: int
    radius: int
    v: Int[ndarray, "n"]
    u: Int[ndarray, "n"]
    shell: Int[ndarray, "n"]
    row_v: Int[ndarray, "r"]
    row_u: Int[ndarray, "r"]
    row_n: Int[ndarray, "r"]
    row_start: Int[ndarray, "r"]

    def __len__(self) -> int:
        return len(self.v)

    @property
    def kv(self) -> Float[ndarray, "n"]:
        """Frequencies v as float32."""
        return self.v.astype(np.float32)

    @property
    def ku(self) -> Float[ndarray, "n"]:
        """Frequencies u as float32."""
        return self.u.astype(np.float32)

    @property
    def multiplicity(self) -> Float[ndarray, "n"]:
        """How often a window of the half transform holds each pixel: its column u = 0 holds both mates."""
        return np.where((self.u == 0) & (self.v > 0) & (self.v < self.radius), 2.0, 1.0)

    def take(self, spectra: Complex[Tensor, "t s h"]) -> Float[ndarray, "t m"]:
        """Pixels of half transforms (FFTW order) as planar float32 [Re | Im]."""
        rows = torch.as_tensor(self.v % self.size)
        values = spectra[:, rows, torch.as_tensor(self.u)]
        return torch.cat([values.real, values.imag], dim=1).to(torch.float32).numpy()


def make_pixel_list(size: int, radius: int) -> PixelList:
    """List the pixels with abs(k) <= radius; rows run from -radius + 1 to radius, as in RELION's windows."""
    row_v: list[int] = []
    row_u: list[int] = []
    row_n: list[int] = []
    for row in range(-radius + 1, radius + 1):
        first = 1 if row < 0 else 0
        last = int(np.floor(np.sqrt(radius * radius - row * row)))
        if last >= first:
            row_v.append(row)
            row_u.append(first)
            row_n.append(last - first + 1)
    v = np.repeat(row_v, row_n)
    u = np.concatenate([np.arange(a, a + n) for a, n in zip(row_u, row_n, strict=True)])
    shell = np.floor(np.sqrt(v * v + u * u) + 0.5).astype(np.int64)
    start = np.concatenate([[0], np.cumsum(row_n)[:-1]])
    return PixelList(
        size, radius, v.astype(np.int64), u.astype(np.int64), shell,
        np.array(row_v), np.array(row_u), np.array(row_n), start.astype(np.int64),
    )  # fmt: skip


def pixel_ctf(
    coefficients: Float[ndarray, "t 5"],
    envelopes: Float[ndarray, "t shells"] | Float[ndarray, "t n"],
    pixels: PixelList,
    pixel_size_angst: float,
) -> Float[ndarray, "t n"]:
    """CTF at listed pixels: -sin(gamma) times an envelope, float64, never nearer to zero than 1e-8."""
    v, u = (k / (pixels.size * pixel_size_angst) for k in (pixels.v, pixels.u))
    square = v * v + u * u
    c = coefficients[:, :, None]
    gamma = c[:, 0] * v * v + c[:, 1] * v * u + c[:, 2] * u * u + c[:, 3] * square * square + c[:, 4]
    ctf = -np.sin(gamma) * envelopes
    return np.where(np.abs(ctf) < 1e-8, np.where(ctf < 0, -1e-8, 1e-8), ctf)


def half_plane_shells(size: int, radius: int | None = None) -> Int[Tensor, "s h"]:
    """Shell of every half-grid pixel that counts, size // 2 + 1 for those that do not (FFTW order).

    Parameters
    ----------
    radius
        Of the current window: up to this shell, rows outside -radius < v <= radius do not count (RELION
        windows images before it sums); None counts the whole image.
    """
    shells = fourier.shell_index((size, size))
    index = torch.arange(size)
    v = torch.where(index <= size // 2, index, index - size)[:, None].expand_as(shells)
    u = torch.arange(size // 2 + 1)[None, :].expand_as(shells)
    out = shells.clone()
    out[(u == 0) & (v < 0)] = size // 2 + 1
    if radius is not None:
        inner = (shells <= radius) & ((v <= -radius) | (v > radius))
        out[inner] = size // 2 + 1
    return out.clamp(max=size // 2 + 1)


def shell_powers(
    spectra: Complex[Tensor, "t s h"], shells: Int[Tensor, "s h"], n_shells: int
) -> Float[ndarray, "t shells"]:
    """Sum abs(F)² over shells, image by image, float64."""
    power = (spectra.real.double() ** 2 + spectra.imag.double() ** 2).flatten(1)
    out = torch.zeros((len(spectra), n_shells + 1), dtype=torch.float64)
    index = shells.flatten().clamp(max=n_shells).expand_as(power)
    out.scatter_add_(1, index, power)
    return out[:, :n_shells].numpy()


def pixels_per_shell(size: int) -> Float[ndarray, "shells"]:
    """Half-plane pixels in each shell of the full image."""
    shells = half_plane_shells(size).flatten()
    return torch.bincount(shells, minlength=size // 2 + 2)[: size // 2 + 1].double().numpy()


def initial_noise(spectra: Complex[Tensor, "n s h"]) -> Float[ndarray, "shells"]:
    """Noise power from the images themselves: their mean power, less that of their average.

    Parameters
    ----------
    spectra
        Of the (masked) images of one optics group.

    Notes
    -----
    The whole stored half transform counts, both mates of the column u = 0 included (RELION). A shell that
    comes out negative takes the last positive value before it, or the next one after it.
    """
    size = spectra.shape[1]
    shells, n_shells = fourier.shell_index((size, size)), size // 2 + 1
    count = torch.bincount(shells.flatten(), minlength=n_shells)[:n_shells].double().numpy()
    power = shell_powers(spectra, shells, n_shells).mean(axis=0)
    average = shell_powers(spectra.mean(dim=0, keepdim=True), shells, n_shells)[0]
    sigma2 = (power - average) / (2 * count)
    good = np.flatnonzero(sigma2 > 0)
    if not len(good):
        return np.full(n_shells, 1.0)
    for shell in np.flatnonzero(sigma2 <= 0):
        before = good[good < shell]
        sigma2[shell] = sigma2[before[-1] if len(before) else good[0]]
    return sigma2


def window_power(spectra: Complex[Tensor, "t s h"], radius: int) -> Float[ndarray, "t"]:
    """Sum abs(F)² over the window -radius < v <= radius, u <= radius of half transforms (FFTW order)."""
    rows = torch.arange(-radius + 1, radius + 1) % spectra.shape[1]
    window = spectra[:, rows, : radius + 1]
    return (window.real.double() ** 2 + window.imag.double() ** 2).sum(dim=(1, 2)).numpy()


# ----------------------------------------------------------------------------------------------------
# Reference


@dataclass(frozen=True)
class Projector:
    """Padded transform of a reference, from which slices are read.

    Attributes
    ----------
    re, im
        Flat float32 of a (depth, depth, width) half volume, frequency 0 at (depth // 2, depth // 2, 0), one
        spare voxel around the largest radius.
    padding
        Factor by which the map was padded.
    radius
        Largest radius kept, in pixels of the unpadded box.
    """

    re: Float[ndarray, "m"]
    im: Float[ndarray, "m"]
    depth: int
    width: int
    padding: float
    radius: int


def padded_radius(radius: int, padding: float) -> int:
    """Radius in voxels of the padded transform, rounded half up."""
    return int(np.floor(padding * radius + 0.5))


def radius_grid(half: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Squared radius on a (2 half + 1)² × width grid in centred order, float64."""
    k = torch.arange(-half, half + 1, dtype=torch.float64, device=device)
    x = torch.arange(width, dtype=torch.float64, device=device)
    return (k * k)[:, None, None] + (k * k)[None, :, None] + (x * x)[None, None, :]


def interpolation_falloff(size: int, padding: float) -> Float[Tensor, "n n n"]:
    """sinc²(r / (padding · size)): what trilinear interpolation of the transform does to the map."""
    index = torch.arange(size, dtype=torch.float64) - size // 2
    square = (index * index)[:, None, None] + (index * index)[None, :, None] + (index * index)[None, None, :]
    return torch.sinc(square.sqrt() / (padding * size)) ** 2


def make_projector(
    volume: Float[Tensor, "n n n"], radius: int, padding: float = 2.0, n_dim: int = 2
) -> Projector:
    """Transform a map for projection.

    Parameters
    ----------
    radius
        Slices are wanted up to here; beyond it the transform is zero.
    n_dim
        Of the images: 2 scales slices like transforms of 2D images, 3 like those of volumes.

    Notes
    -----
    The map is divided by sinc²(r / (padding · n)) first, against the interpolator's fall-off.
    """
    size = volume.shape[0]
    big = padded_radius(size, padding)
    big += big % 2
    corrected = volume.to(torch.float64) / interpolation_falloff(size, padding)
    padded = torch.zeros((big,) * 3, dtype=torch.float64)
    first = big // 2 - size // 2
    padded[first : first + size, first : first + size, first : first + size] = corrected
    spectrum = torch.fft.rfftn(torch.fft.ifftshift(padded))
    spectrum /= float(size) ** (2 if n_dim == 2 else 3)
    reach = padded_radius(radius, padding)
    half, width = reach + 1, reach + 2
    k = torch.arange(-half, half + 1)
    rows = k % big
    columns = torch.arange(width).clamp(max=big // 2)
    cube = spectrum[rows][:, rows][:, :, columns]
    cube = torch.where(radius_grid(half, width) <= reach * reach, cube, torch.zeros((), dtype=cube.dtype))
    flat = cube.to(torch.complex64).flatten()
    return Projector(
        flat.real.contiguous().numpy(), flat.imag.contiguous().numpy(), 2 * half + 1, width, padding, radius
    )


def slice_axes(matrices_zyx: Float[ndarray, "*o 3 3"], padding: float) -> Float[ndarray, "*o 2 3"]:
    """Where steps along v and u of an image go in a padded volume, float32; matrices volume to image."""
    return np.ascontiguousarray(padding * matrices_zyx[..., 1:, :], dtype=np.float32)


def gather(
    projector: Projector,
    axes: Float[ndarray, "o 2 3"],
    pixels: PixelList,
    weight: Float[ndarray, "n"],
    out: Float[ndarray, "o m"],
    norm: Float[ndarray, "o"],
) -> None:
    """Sample slices into ``out`` [Re | Im] and add half their weighted squared norms to ``norm``."""
    from napari_sta.kernels._numba_refine import gather_rows

    gather_rows(
        projector.re,
        projector.im,
        projector.depth,
        projector.width,
        axes,
        pixels.kv,
        pixels.ku,
        weight,
        out,
        norm,
    )


def gather_reference(
    projector: Projector, axes: Float[ndarray, "o 2 3"], pixels: PixelList, weight: Float[ndarray, "n"]
) -> tuple[Float[Tensor, "o m"], Float[Tensor, "o"]]:
    """Plain torch twin of :func:`gather`, float64, any device."""
    shape = (projector.depth, projector.depth, projector.width)
    volume = torch.complex(torch.as_tensor(projector.re).double(), torch.as_tensor(projector.im).double())
    volume = volume.reshape(shape)
    vu = torch.as_tensor(np.stack([pixels.v, pixels.u])).double()
    where = torch.einsum("oai,an->oin", torch.as_tensor(axes).double(), vu)
    flip = where[:, 2] < 0
    where = torch.where(flip[:, None], -where, where)
    low = where.floor()
    part = where - low
    index = low.long()
    index[:, :2] += projector.depth // 2
    total = torch.zeros_like(where[:, 0], dtype=torch.complex128)
    for corner in range(8):
        bits = [corner >> a & 1 for a in range(3)]
        w = torch.ones_like(where[:, 0])
        for a in range(3):
            w = w * (part[:, a] if bits[a] else 1 - part[:, a])
        total = total + w * volume[index[:, 0] + bits[0], index[:, 1] + bits[1], index[:, 2] + bits[2]]
    total = torch.where(flip, total.conj(), total)
    norm = 0.5 * (torch.as_tensor(weight).double() * total.abs() ** 2).sum(dim=1)
    return torch.cat([total.real, total.imag], dim=1), norm


def shift_images(
    image: Float[ndarray, "m"],
    shift_yx_px: Float[ndarray, "s 2"],
    pixels: PixelList,
    out: Float[ndarray, "s m"],
) -> None:
    """Multiply one planar image by exp(-2 pi i k·shift / size) for each shift: moves it by +shift."""
    from napari_sta.kernels._numba_refine import shift_rows

    shift_rows(
        image, np.ascontiguousarray(shift_yx_px, dtype=np.float64), float(pixels.size),
        pixels.row_v, pixels.row_u, pixels.row_n, pixels.row_start, out,
    )  # fmt: skip


def shift_images_reference(
    image: Float[ndarray, "m"], shift_yx_px: Float[ndarray, "s 2"], pixels: PixelList
) -> Float[Tensor, "s m"]:
    """Plain torch twin of :func:`shift_images`, float64."""
    n = len(pixels)
    z = torch.complex(torch.as_tensor(image[:n]).double(), torch.as_tensor(image[n:]).double())
    vu = torch.as_tensor(np.stack([pixels.v, pixels.u])).double()
    angle = -2 * torch.pi * (torch.as_tensor(shift_yx_px).double() @ vu) / pixels.size
    moved = z[None] * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([moved.real, moved.imag], dim=1)


# ----------------------------------------------------------------------------------------------------
# Expectation


@dataclass(frozen=True)
class ParticleImages:
    """What one particle brings to the expectation step; ``t`` visible tilts, ``n`` listed pixels.

    Attributes
    ----------
    masked, unmasked
        (t, 2n) planar transforms: the masked ones are scored, the others averaged.
    model
        (t, n) what multiplies a slice: CTF² of premultiplied images, else the CTF.
    ctf
        (t, n) what multiplies the image when it is averaged; None for premultiplied images (1).
    matrices_zyx
        (t, 3, 3) subtomogram to image.
    power
        (t, shells) float64 shell sums of abs(X)² of the masked images (:func:`half_plane_shells`).
    sigma2
        (shells,) noise power of its optics group.
    offset_zyx_px
        Current shift of the images, in pixels of the box.
    offset_prior_zyx_px
        Centre of the prior on the shift.
    scale
        Of its tomogram.
    window_power
        (t,) sum of abs(X)² over the whole current window, for the cross-correlation score.
    """

    masked: Float[ndarray, "t m"]
    unmasked: Float[ndarray, "t m"]
    model: Float[ndarray, "t n"]
    ctf: Float[ndarray, "t n"] | None
    matrices_zyx: Float[ndarray, "t 3 3"]
    power: Float[ndarray, "t shells"]
    sigma2: Float[ndarray, "shells"]
    offset_zyx_px: Float[ndarray, "3"]
    offset_prior_zyx_px: Float[ndarray, "3"]
    scale: float
    window_power: Float[ndarray, "t"]

    @property
    def n_tilts(self) -> int:
        """How many tilt images show the particle."""
        return len(self.masked)


def score_poses(
    projector: Projector,
    particle: ParticleImages,
    pixels: PixelList,
    rotations_zyx: Float[ndarray, "o 3 3"],
    shifts_zyx_px: Float[ndarray, "s 3"],
    *,
    cross_correlation: bool = False,
) -> Float[ndarray, "o s"]:
    """Log-likelihood of every orientation with every shift, up to a constant per particle.

    Parameters
    ----------
    rotations_zyx
        Reference to subtomogram.
    shifts_zyx_px
        Added to the particle's current offset.
    cross_correlation
        Score the sum over tilts of correlation coefficients instead; every tilt counts the same and noise is
        not used. As in RELION the whole window counts, with frequency 0 and both mates of column u = 0.

    Returns
    -------
    scores
        float64: sum of Re(conj(s M V) X) / sigma² - abs(s M V)² / 2 sigma².

    Notes
    -----
    Per tilt one product [o, 2n] x [2n, s] in float32; sums over tilts in float64.
    """
    n = len(pixels)
    n_o, n_s = len(rotations_zyx), len(shifts_zyx_px)
    scores = np.zeros((n_o, n_s))
    inverse = _inverse_noise(particle.sigma2, pixels)
    ramps = np.empty((n_s, 2 * n), np.float32)
    slices = np.empty((min(n_o, _MOST_ROWS), 2 * n), np.float32)
    part = torch.empty((min(n_o, _MOST_ROWS), n_s))
    shifts = particle.offset_zyx_px + shifts_zyx_px
    for t in range(particle.n_tilts):
        model = particle.model[t]
        if cross_correlation:
            factor = model * pixels.multiplicity
        else:
            factor = (particle.scale * model * inverse).astype(np.float32)
        weight = (factor * model * (1.0 if cross_correlation else particle.scale)).astype(np.float32)
        factor = factor.astype(np.float32)
        image = particle.masked[t] * np.concatenate([factor, factor])
        q = particle.matrices_zyx[t]
        shift_images(image, shifts @ q[1:].T, pixels, ramps)
        axes = slice_axes(q @ rotations_zyx, projector.padding)
        for first in range(0, n_o, _MOST_ROWS):
            last = min(first + _MOST_ROWS, n_o)
            rows = slices[: last - first]
            norm = np.zeros(last - first)
            gather(projector, axes[first:last], pixels, weight, rows, norm)
            cross = torch.mm(
                torch.from_numpy(rows), torch.from_numpy(ramps).T, out=part[: last - first]
            ).numpy()
            if cross_correlation:
                scores[first:last] += cross / np.sqrt(2 * norm * particle.window_power[t])[:, None]
            else:
                scores[first:last] += cross - norm[:, None]
    return scores


def _inverse_noise(sigma2: Float[ndarray, "shells"], pixels: PixelList) -> Float[ndarray, "n"]:
    """1 / sigma² at the listed pixels; frequency 0 takes no part in scores."""
    inverse = 1 / sigma2[pixels.shell]
    inverse[pixels.shell == 0] = 0
    return inverse


def offset_log_prior(
    particle: ParticleImages,
    translations_zyx_angst: Float[ndarray, "s 3"],
    pixel_size_angst: float,
    sigma2_offset_angst2: float,
    relion_units: bool = False,
) -> Float[ndarray, "s"]:
    """Gaussian prior on the total shift, at coarse unperturbed translations.

    Parameters
    ----------
    relion_units
        RELION adds the translation in Å to offsets in pixels and multiplies the sum by the pixel size: steps
        are penalised too much by the square of the pixel size.
    """
    start = particle.offset_zyx_px - particle.offset_prior_zyx_px
    if relion_units:
        distance = pixel_size_angst * (start + translations_zyx_angst)
    else:
        distance = pixel_size_angst * start + translations_zyx_angst
    return -0.5 * (distance * distance).sum(axis=1) / sigma2_offset_angst2


def significant(weights: Float[ndarray, "*n"], fraction: float) -> tuple[ndarray, float]:
    """Pick the largest weights that together make up a fraction of the sum.

    Returns
    -------
    chosen
        Same shape, bool: all weights no smaller than the last one needed to *exceed* the fraction.
    total
        Sum of all weights.
    """
    flat = np.sort(weights, axis=None)[::-1]
    total = float(flat.sum())
    count = int(np.searchsorted(np.cumsum(flat), fraction * total, side="right"))
    threshold = flat[min(count, len(flat) - 1)]
    return (weights >= threshold) & (weights > 0), total


@dataclass(frozen=True)
class Search:
    """What is tried for one particle.

    Attributes
    ----------
    rotations_zyx, log_prior
        (o, 3, 3) coarse orientations, perturbed, and the logarithms of their priors (o,).
    children_zyx
        (o, c, 3, 3) finer orientations of each.
    translations_zyx_angst
        (s, 3) coarse translations, unperturbed.
    perturbation_angst
        Added to each component of every translation.
    translation_children_zyx_angst
        (d, 3) finer translations relative to their parent.
    pixel_size_angst, adaptive_fraction
        Of the images; share of the probability that must be kept.
    sigma2_offset_angst2, relion_offset_prior
        See :func:`offset_log_prior`.
    """

    rotations_zyx: Float[ndarray, "o 3 3"]
    log_prior: Float[ndarray, "o"]
    children_zyx: Float[ndarray, "o c 3 3"]
    translations_zyx_angst: Float[ndarray, "s 3"]
    perturbation_angst: float
    translation_children_zyx_angst: Float[ndarray, "d 3"]
    pixel_size_angst: float
    sigma2_offset_angst2: float
    adaptive_fraction: float = 0.999
    relion_offset_prior: bool = False


class Posterior(NamedTuple):
    """Poses of one particle that matter.

    Attributes
    ----------
    rotations_zyx
        (o, 3, 3) fine orientations with at least one weight kept; their index is (parent, child).
    shifts_zyx_px
        (s, 3) fine translations with at least one weight kept, without the particle's offset.
    weights
        (o, s) kept weights; 0 elsewhere. They sum to between the adaptive fraction and 1.
    parents
        (o,) coarse orientation of each.
    best
        (orientation, shift) of the largest weight.
    n_significant
        Significant coarse pairs.
    log_evidence
        Logarithm of the sum of prior times likelihood over fine samples, up to the constant
        of :func:`score_poses`.
    """

    rotations_zyx: Float[ndarray, "o 3 3"]
    shifts_zyx_px: Float[ndarray, "s 3"]
    weights: Float[ndarray, "o s"]
    parents: Int[ndarray, "o"]
    best: tuple[int, int]
    n_significant: int
    log_evidence: float

    @property
    def p_max(self) -> float:
        """Largest weight: ``rlnMaxValueProbDistribution``."""
        return float(self.weights[self.best])


def find_posterior(
    projector: Projector,
    particle: ParticleImages,
    pixels: PixelList,
    search: Search,
    coarse: tuple[Projector, ParticleImages, PixelList] | None = None,
    *,
    cross_correlation: bool = False,
) -> Posterior:
    """Two-pass search: score the coarse grid, then only children of its significant pairs.

    Parameters
    ----------
    coarse
        Reference, images and pixels of the first pass if its radius is smaller; None: the same.
    cross_correlation
        First iteration without a noise model: the best coarse pair alone is refined, and the best fine pair
        gets all the weight.
    """
    shifts = (search.translations_zyx_angst + search.perturbation_angst) / search.pixel_size_angst
    first = coarse or (projector, particle, pixels)
    scores = score_poses(*first, search.rotations_zyx, shifts, cross_correlation=cross_correlation)
    if cross_correlation:
        log_shift = np.zeros(len(shifts))
        chosen = np.zeros(scores.shape, dtype=bool)
        chosen[np.unravel_index(int(scores.argmax()), scores.shape)] = True
    else:
        log_shift = offset_log_prior(
            particle, search.translations_zyx_angst, search.pixel_size_angst, search.sigma2_offset_angst2,
            search.relion_offset_prior,
        )  # fmt: skip
        scores += search.log_prior[:, None] + log_shift
        chosen, _ = significant(np.exp(scores - scores.max()), search.adaptive_fraction)
    parents, steps = np.flatnonzero(chosen.any(axis=1)), np.flatnonzero(chosen.any(axis=0))
    n_c, n_d = search.children_zyx.shape[1], len(search.translation_children_zyx_angst)
    rotations = search.children_zyx[parents].reshape(-1, 3, 3)
    fine_shifts = shifts[steps][:, None] + search.translation_children_zyx_angst / search.pixel_size_angst
    fine_shifts = fine_shifts.reshape(-1, 3)
    fine = score_poses(
        projector, particle, pixels, rotations, fine_shifts, cross_correlation=cross_correlation
    )
    tried = np.repeat(np.repeat(chosen[np.ix_(parents, steps)], n_c, axis=0), n_d, axis=1)
    if not cross_correlation:
        fine += np.repeat(search.log_prior[parents], n_c)[:, None] + np.repeat(log_shift[steps], n_d)
    fine = np.where(tried, fine, -np.inf)
    top = float(fine.max())
    if cross_correlation:
        weights = np.zeros(fine.shape)
        weights[np.unravel_index(int(fine.argmax()), fine.shape)] = 1.0
        evidence = top / particle.n_tilts
    else:
        weights = np.exp(fine - top)
        kept, total = significant(weights, search.adaptive_fraction)
        weights = np.where(kept, weights / total, 0.0)
        evidence = top + float(np.log(total))
    rows, columns = np.flatnonzero(weights.any(axis=1)), np.flatnonzero(weights.any(axis=0))
    weights = weights[np.ix_(rows, columns)]
    best = np.unravel_index(int(weights.argmax()), weights.shape)
    return Posterior(
        rotations[rows], fine_shifts[columns], weights, parents[rows // n_c], (int(best[0]), int(best[1])),
        int(chosen.sum()), evidence,
    )  # fmt: skip


def evidence_constant(particle: ParticleImages, pixels: PixelList) -> float:
    """Compute what :func:`score_poses` leaves out of the log-likelihood, the same for all poses.

    Notes
    -----
    RELION: -sum abs(X)² / 2 sigma² up to the radius of the window, -sum abs(X)² / 2 beyond it (not divided by
    the noise), and -ln(2 pi sigma²) for every pixel of the window and tilt. Only ``rlnLogLikeliContribution``
    needs it.
    """
    inside = slice(1, pixels.radius + 1)
    shells = half_plane_shells(pixels.size, pixels.radius).flatten()
    count = torch.bincount(shells, minlength=len(particle.sigma2) + 1)[inside].double().numpy()
    power = particle.power.sum(axis=0)
    sigma2 = particle.sigma2[inside]
    constant = -(power[inside] / (2 * sigma2)).sum() - 0.5 * power[pixels.radius + 1 :].sum()
    return float(constant - particle.n_tilts * (count * np.log(2 * np.pi * sigma2)).sum())


# ----------------------------------------------------------------------------------------------------
# Weighted sums


@dataclass
class Sums:
    """Weighted sums of one half set (or of one thread's share of it).

    Attributes
    ----------
    volume
        (d, d, w, 4) float32 on the padded grid: data (re, im), weight, 0; see :func:`new_sums`.
    residual, norm, cross
        (groups, shells) float64; ``norm`` and ``cross`` (tomograms, shells) are those of the scale.
    n_images
        (optics groups,) what the residual is divided by.
    weight, offset2_angst2, p_max, log_likelihood, n_particles
        Sums over particles.
    """

    volume: Float[ndarray, "d d w 4"]
    residual: Float[ndarray, "g shells"]
    n_images: Float[ndarray, "g"]
    norm: Float[ndarray, "s shells"]
    cross: Float[ndarray, "s shells"]
    weight: float = 0.0
    offset2_angst2: float = 0.0
    p_max: float = 0.0
    n_particles: int = 0

    def add(self, other: Sums) -> None:
        """Add another thread's share."""
        self.volume += other.volume
        self.residual += other.residual
        self.n_images += other.n_images
        self.norm += other.norm
        self.cross += other.cross
        self.weight += other.weight
        self.offset2_angst2 += other.offset2_angst2
        self.p_max += other.p_max
        self.n_particles += other.n_particles


def new_sums(radius: int, padding: float, n_optics: int, n_series: int, n_shells: int) -> Sums:
    """Make empty sums for data up to a radius."""
    half = padded_radius(radius, padding) + 1
    return Sums(
        np.zeros((2 * half + 1, 2 * half + 1, half + 1, 4), np.float32),
        np.zeros((n_optics, n_shells)), np.zeros(n_optics),
        np.zeros((n_series, n_shells)), np.zeros((n_series, n_shells)),
    )  # fmt: skip


def add_particle(
    sums: Sums,
    posterior: Posterior,
    projector: Projector,
    particle: ParticleImages,
    pixels: PixelList,
    optics: int,
    series: int,
    pixel_size_angst: float,
    *,
    statistics: bool = True,
    per_image: bool = True,
    drop_row_ends: bool = False,
) -> None:
    """Add one particle's images, at all poses that matter, to the sums.

    Parameters
    ----------
    optics, series
        Index of its optics group and of its tomogram.
    statistics
        False leaves noise and scale sums alone (cross-correlation iteration).
    per_image
        Noise is averaged over images; False: over particles, whatever their number of tilts (RELION's
        accelerated path).
    drop_row_ends
        Leave the outermost pixel of each row of an image out of the average, as RELION's accelerated path on
        CPUs does: its last two shells hold fewer data.
    """
    from napari_sta.kernels._numba_refine import add_statistics, scatter_rows

    n, n_shells = len(pixels), len(particle.sigma2)
    weights = posterior.weights.astype(np.float32)
    of_orientation = posterior.weights.sum(axis=1)
    total = float(of_orientation.sum())
    shifts = particle.offset_zyx_px + posterior.shifts_zyx_px
    inserted = 1 / particle.sigma2[pixels.shell]
    if drop_row_ends:
        inserted[pixels.row_start + pixels.row_n - 1] = 0
    ramps = np.empty((len(shifts), 2 * n), np.float32)
    slices = np.empty((len(weights), 2 * n), np.float32)
    residual, cross, norm = np.zeros(n_shells), np.zeros(n_shells), np.zeros(n_shells)
    ignored = np.zeros(len(weights))
    scale = particle.scale
    w = torch.from_numpy(weights)
    no_weight = np.zeros(n, np.float32)
    for t in range(particle.n_tilts):
        q = particle.matrices_zyx[t]
        axes = slice_axes(q @ posterior.rotations_zyx, projector.padding)
        moved = shifts @ q[1:].T
        if statistics:
            shift_images(particle.masked[t], moved, pixels, ramps)
            mean = torch.mm(w, torch.from_numpy(ramps)).numpy()
            gather(projector, axes, pixels, no_weight, slices, ignored)
            add_statistics(
                slices, mean, of_orientation.astype(np.float32), particle.model[t], pixels.shell,
                residual, cross, norm,
            )  # fmt: skip
        shift_images(particle.unmasked[t], moved, pixels, ramps)
        mean = torch.mm(w, torch.from_numpy(ramps)).numpy()
        if particle.ctf is None:
            factor, weight = inserted, scale * particle.model[t] * inserted
        else:
            factor = scale * particle.ctf[t] * inserted
            weight = scale * scale * particle.ctf[t] ** 2 * inserted
        factor = factor.astype(np.float32)
        mean *= np.concatenate([factor, factor])
        scatter_rows(
            mean, weight.astype(np.float32), of_orientation.astype(np.float32), axes, pixels.kv, pixels.ku,
            sums.volume,
        )  # fmt: skip
    if statistics:
        share = scale * scale * norm - 2 * scale * cross
        top = pixels.radius + 1
        share[:top] += total * particle.power[:, :top].sum(axis=0)
        share[top:] = particle.power[:, top:].sum(axis=0)
        divisor = 1.0 if per_image else float(particle.n_tilts)
        sums.residual[optics] += share / divisor
        sums.n_images[optics] += total * particle.n_tilts / divisor
        sums.norm[series] += norm
        sums.cross[series] += cross
    distance = pixel_size_angst * (particle.offset_prior_zyx_px - shifts)
    sums.offset2_angst2 += float((posterior.weights.sum(axis=0) * (distance * distance).sum(axis=1)).sum())
    sums.weight += total
    sums.p_max += posterior.p_max
    sums.n_particles += 1


# ----------------------------------------------------------------------------------------------------
# Noise of each tilt image


def residuals_by_tilt(
    posterior: Posterior, projector: Projector, particle: ParticleImages, pixels: PixelList
) -> tuple[Float[ndarray, "t shells"], Float[ndarray, "t shells"]]:
    """Sum what the reference leaves unexplained, tilt by tilt and shell by shell.

    Parameters
    ----------
    particle
        With premultiplied images: their noise is the CTF times that of the raw images.

    Returns
    -------
    residual, expected
        Weighted sums of abs(s M V - X)², and twice the sums of CTF²; their quotient (over particles) is
        the noise power per component of *raw* tilt images. 0 where no pixel is listed.
    """
    from napari_sta.kernels._numba_refine import add_statistics

    n, n_shells = len(pixels), len(particle.sigma2)
    of_orientation = posterior.weights.sum(axis=1)
    total = float(of_orientation.sum())
    w = torch.from_numpy(posterior.weights.astype(np.float32))
    shifts = particle.offset_zyx_px + posterior.shifts_zyx_px
    ramps = np.empty((len(shifts), 2 * n), np.float32)
    slices = np.empty((len(of_orientation), 2 * n), np.float32)
    residual, expected = np.zeros((particle.n_tilts, n_shells)), np.zeros((particle.n_tilts, n_shells))
    ignored, no_weight = np.zeros(len(of_orientation)), np.zeros(n, np.float32)
    for t in range(particle.n_tilts):
        q = particle.matrices_zyx[t]
        shift_images(particle.masked[t], shifts @ q[1:].T, pixels, ramps)
        mean = torch.mm(w, torch.from_numpy(ramps)).numpy()
        gather(
            projector,
            slice_axes(q @ posterior.rotations_zyx, projector.padding),
            pixels,
            no_weight,
            slices,
            ignored,
        )
        both, cross, norm = np.zeros(n_shells), np.zeros(n_shells), np.zeros(n_shells)
        add_statistics(
            slices,
            mean,
            of_orientation.astype(np.float32),
            particle.model[t],
            pixels.shell,
            both,
            cross,
            norm,
        )
        image = particle.masked[t].astype(np.float64)
        power = np.bincount(pixels.shell, image[:n] ** 2 + image[n:] ** 2, n_shells)
        residual[t] = total * power + particle.scale**2 * norm - 2 * particle.scale * cross
        expected[t] = 2 * total * np.bincount(pixels.shell, particle.model[t].astype(np.float64), n_shells)
    return residual, expected


def whitened(
    particle: ParticleImages, noise: Float[ndarray, "t shells"], pixels: PixelList, temperature: float = 1.0
) -> ParticleImages:
    """Undo the CTF premultiplication and divide by the noise of each tilt and shell.

    Parameters
    ----------
    noise
        Power per component of the raw tilt images, positive (:func:`residuals_by_tilt`).
    temperature
        Divides all log-likelihoods: residuals of neighbouring pixels and tilts are not independent, as the
        Gaussian model takes them to be.

    Returns
    -------
    particle
        X Shell powers are dropped (nan).
    """
    ctf = np.sqrt(particle.model.astype(np.float64))
    factor = 1 / np.sqrt(temperature * noise[:, pixels.shell])
    model = (ctf * factor).astype(np.float32)
    # The scores multiply by the CTF again, so a pixel near a zero of the CTF counts as little as it should.
    by = np.tile(factor / np.maximum(ctf, 1e-6), 2)
    return replace(
        particle, masked=(particle.masked * by).astype(np.float32),
        unmasked=(particle.unmasked * by).astype(np.float32), model=model, ctf=model,
        sigma2=np.ones_like(particle.sigma2), power=np.full_like(particle.power, np.nan),
        window_power=np.full_like(particle.window_power, np.nan),
    )  # fmt: skip


# ----------------------------------------------------------------------------------------------------
# Accuracy

_EVIDENCE = -np.log(0.01)
"""Two poses can be told apart when their images differ by this much (log-likelihood)."""


class Accuracy(NamedTuple):
    """Smallest errors of pose that the noise would let one notice: degrees, and pixels of the box."""

    angle_deg: float
    offset_px: float


def expected_accuracy(
    projector: Projector,
    particle: ParticleImages,
    pixels: PixelList,
    angles_deg: Float[ndarray, "3"],
    generator: np.random.Generator,
) -> Accuracy:
    """Estimate how accurately one particle's pose can be known.

    Parameters
    ----------
    angles_deg
        Rot, tilt, psi of the particle.
    generator
        Draws, per tilt image, which angle and which axis is disturbed.

    Notes
    -----
    RELION: an angle (or axis) is disturbed more and more until
    sum abs(M (V1 - V2))² / 2 sigma² exceeds -ln 0.01; at most 30 degrees and 10 pixels. No scale correction.
    """
    from napari_sta.kernels.rotations import euler_to_matrix_zyx

    n, n_tilts = len(pixels), particle.n_tilts
    inverse = _inverse_noise(particle.sigma2, pixels)
    angle_axis = generator.integers(0, 3, n_tilts)
    offset_axis = generator.integers(0, 3, n_tilts)
    angle_steps = _error_steps(
        (0.2, 0.05), (1.0, 0.1), (2.0, 0.2), (5.0, 0.5), (10.0, 1.0), (20.0, 2.0), (30.0, 5.0)
    )
    offset_steps = _error_steps((1.0, 0.1), (2.0, 0.2), (5.0, 0.5), (10.0, 1.0))
    none = np.zeros(n, np.float32)
    reference = euler_to_matrix_zyx(angles_deg)
    first = np.empty((n_tilts, 2 * n), np.float32)
    weights = []
    for t in range(n_tilts):
        axes = slice_axes((particle.matrices_zyx[t] @ reference)[None], projector.padding)
        gather(projector, axes, pixels, none, first[t : t + 1], np.zeros(1))
        w = particle.model[t].astype(np.float64) ** 2 * inverse / 2
        weights.append(np.concatenate([w, w]))

    def angle_evidence(errors: ndarray) -> ndarray:
        total = np.zeros(len(errors))
        rows = np.empty((len(errors), 2 * n), np.float32)
        for t in range(n_tilts):
            turned = np.repeat(angles_deg[None], len(errors), axis=0)
            turned[:, angle_axis[t]] += errors
            axes = slice_axes(particle.matrices_zyx[t] @ euler_to_matrix_zyx(turned), projector.padding)
            gather(projector, axes, pixels, none, rows, np.zeros(len(errors)))
            total += ((rows - first[t]).astype(np.float64) ** 2) @ weights[t]
        return total

    def offset_evidence(errors: ndarray) -> ndarray:
        total = np.zeros(len(errors))
        rows = np.empty((len(errors), 2 * n), np.float32)
        for t in range(n_tilts):
            direction = particle.matrices_zyx[t][1:, 2 - offset_axis[t]]
            shift_images(first[t], errors[:, None] * direction, pixels, rows)
            total += ((rows - first[t]).astype(np.float64) ** 2) @ weights[t]
        return total

    return Accuracy(_first_above(angle_evidence, angle_steps), _first_above(offset_evidence, offset_steps))


def _error_steps(*parts: tuple[float, float]) -> ndarray:
    """Errors to try: up to each limit in its own step, and one beyond the last."""
    values = [0.0]
    for limit, step in parts:
        while values[-1] < limit - 1e-9:
            values.append(values[-1] + step)
    return np.array(values[1:])


def _first_above(evidence, errors: ndarray, block: int = 8) -> float:  # type: ignore[no-untyped-def]
    for begin in range(0, len(errors), block):
        part = errors[begin : begin + block]
        above = np.flatnonzero(evidence(part) > _EVIDENCE)
        if len(above):
            return float(part[above[0]])
    return float(errors[-1])
