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

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Complex, Float, Int
from numpy import ndarray
from torch import Tensor

from napari_sta.kernels import fourier, refinement_volumes
from napari_sta.kernels.refinement_volumes import VoxelList, VoxelPart

_MOST_ROWS = 192
"""Orientations whose slices are held at a time: their rows stay in the level-2 cache."""

_LEAST_MULTIPLICITY = 0.1
"""Voxels of a pseudo-subtomogram through which fewer slices went are not divided by their number."""

_TINY = 1e-300
"""Correlations with a blank image are 0, not 0 / 0."""

_DENSE_SHARE = 0.9
"""From this share of pairs on one matrix product of all is faster than products of pairs."""


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
    edge_ratio
        See :func:`make_pixel_list`.
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
    edge_ratio: float = 1.0

    n_dim: ClassVar[int] = 2

    def __len__(self) -> int:
        return len(self.v)

    @property
    def count(self) -> int:
        """Pixels listed."""
        return len(self.v)

    def part(self, _: int) -> PixelList:
        """Pixels of any tilt image: the same for all."""
        return self

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


def make_pixel_list(size: int, radius: int, edge_ratio: float = 1.0) -> PixelList:
    """List the pixels with abs(k) <= radius; rows run from -radius + 1 to radius, as in RELION's windows.

    Parameters
    ----------
    radius
        In Fourier pixels of the reference.
    edge_ratio
        Edge (Å) of the reference's box over that of the images: their pixel k is the reference's
        ``edge_ratio * k``, and ``shell`` counts the reference's.
    """
    reach = radius / edge_ratio
    radius = min(int(np.floor(reach + 1e-9)), size // 2)
    row_v: list[int] = []
    row_u: list[int] = []
    row_n: list[int] = []
    for row in range(-radius + 1, radius + 1):
        first = 1 if row < 0 else 0
        last = min(int(np.floor(np.sqrt(max(reach * reach - row * row, 0)) + 1e-9)), size // 2)
        if last >= first:
            row_v.append(row)
            row_u.append(first)
            row_n.append(last - first + 1)
    v = np.repeat(row_v, row_n)
    u = np.concatenate([np.arange(a, a + n) for a, n in zip(row_u, row_n, strict=True)])
    shell = np.floor(np.sqrt(v * v + u * u) * edge_ratio + 0.5).astype(np.int64)
    start = np.concatenate([[0], np.cumsum(row_n)[:-1]])
    return PixelList(
        size, radius, v.astype(np.int64), u.astype(np.int64), shell,
        np.array(row_v), np.array(row_u), np.array(row_n), start.astype(np.int64), edge_ratio,
    )  # fmt: skip


def place_in(whole: PixelList | VoxelList, part: PixelList | VoxelList) -> Int[ndarray, "*m"]:
    """Return where the pixels of a smaller list are in a larger one; voxels part by part, -1 for filling."""
    if isinstance(whole, VoxelList) or isinstance(part, VoxelList):
        assert isinstance(whole, VoxelList)
        assert isinstance(part, VoxelList)
        return refinement_volumes.place_in(whole, part)
    row = {int(v): (int(start), int(first)) for v, first, start in zip(
        whole.row_v, whole.row_u, whole.row_start, strict=True)}  # fmt: skip
    offset = np.array([row[int(v)][0] - row[int(v)][1] for v in part.v], dtype=np.int64)
    return offset + part.u


def pixel_ctf(
    coefficients: Float[ndarray, "t 5"],
    envelopes: Float[ndarray, "t shells"] | Float[ndarray, "t n"],
    pixels: PixelList,
    pixel_size_angst: float,
    *,
    first_peak: bool = False,
    extra_phase: Float[ndarray, "n"] | None = None,
) -> Float[ndarray, "t n"]:
    """CTF at listed pixels: -sin(gamma) times an envelope, float64, never nearer to zero than 1e-8.

    Parameters
    ----------
    first_peak
        Leave the CTF at 1 up to its first peak (abs(gamma) < pi / 2).
    extra_phase
        Added to gamma: symmetric aberrations beyond the spherical one.
    """
    v, u = (k / (pixels.size * pixel_size_angst) for k in (pixels.v, pixels.u))
    square = v * v + u * u
    c = coefficients[:, :, None]
    gamma = c[:, 0] * v * v + c[:, 1] * v * u + c[:, 2] * u * u + c[:, 3] * square * square + c[:, 4]
    if extra_phase is not None:
        gamma = gamma + extra_phase
    ctf = -np.sin(gamma)
    if first_peak:
        ctf = np.where(np.abs(gamma) < np.pi / 2, 1.0, ctf)
    ctf = ctf * envelopes
    return np.where(np.abs(ctf) < 1e-8, np.where(ctf < 0, -1e-8, 1e-8), ctf)


def half_plane_shells(
    size: int, radius: int | None = None, edge_ratio: float = 1.0, n_shells: int | None = None
) -> Int[Tensor, "s h"]:
    """Shell of every half-grid pixel that counts, ``n_shells`` for those that do not (FFTW order).

    Parameters
    ----------
    edge_ratio, n_shells
        As in :func:`make_pixel_list`, and the number of shells of the reference (size // 2 + 1).
    radius
        Of the current window: up to this shell, rows outside -radius < v <= radius do not count (RELION
        windows images before it sums); None counts the whole image.
    """
    none = size // 2 + 1 if n_shells is None else n_shells
    shells = fourier.shell_index((size, size))
    if edge_ratio != 1.0:
        shells = torch.floor(fourier.radius_px((size, size)).double() * edge_ratio + 0.5).long()
    index = torch.arange(size)
    v = torch.where(index <= size // 2, index, index - size)[:, None].expand_as(shells)
    u = torch.arange(size // 2 + 1)[None, :].expand_as(shells)
    out = shells.clone()
    out[(u == 0) & (v < 0)] = none
    if radius is not None:
        inner = (shells <= radius * edge_ratio) & ((v <= -radius) | (v > radius))
        out[inner] = none
    return out.clamp(max=none)


def shell_powers(
    spectra: Complex[Tensor, "t *grid"], shells: Int[Tensor, "*grid"], n_shells: int
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
    return filled_noise((power - average) / (2 * count))


def filled_noise(sigma2: Float[ndarray, "shells"]) -> Float[ndarray, "shells"]:
    """Give shells that are not positive the last positive value before them, or the next one; in place."""
    n_shells = len(sigma2)
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
    values
        Flat float32 of a (depth, depth, width, 2) half volume, (re, im) side by side, frequency 0 at
        (depth // 2, depth // 2, 0), one spare voxel around the largest radius.
    padding
        Factor by which the map was padded.
    radius
        Largest radius kept, in pixels of the unpadded box.
    on_device
        (depth, depth, width) complex64, the same volume on a torch device, which then does the work; None:
        the compiled loops of the CPU do.
    """

    values: Float[ndarray, "m"]
    depth: int
    width: int
    padding: float
    radius: int
    on_device: Tensor | None = None


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
    values = torch.view_as_real(cube.to(torch.complex64)).contiguous().flatten().numpy()
    return Projector(values, 2 * half + 1, width, padding, radius)


def slice_axes(
    matrices_zyx: Float[ndarray, "*o 3 3"], padding: float, n_dim: int = 2
) -> Float[ndarray, "*o a 3"]:
    """Where steps along v and u of an image (n_dim 3: w, v, u of a volume) go in a padded volume, float32.

    Matrices turn the volume into the image.
    """
    return np.ascontiguousarray(padding * matrices_zyx[..., 3 - n_dim :, :], dtype=np.float32)


def gather(
    projector: Projector,
    axes: Float[ndarray, "o a 3"],
    pixels: PixelList | VoxelPart,
    weight: Float[ndarray, "n"],
    out: Float[ndarray, "o m"],
    norm: Float[ndarray, "o"],
) -> None:
    """Sample slices into ``out`` [Re | Im] and add half their weighted squared norms to ``norm``."""
    if isinstance(pixels, VoxelPart):
        from napari_sta.kernels._numba_voxels import gather_voxels

        gather_voxels(
            projector.values, projector.depth, projector.width, axes, pixels.kw, pixels.kv, pixels.ku, weight,
            out, norm,
        )  # fmt: skip
        return
    from napari_sta.kernels._numba_refine import gather_rows

    gather_rows(
        projector.values,
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
    projector: Projector,
    axes: Float[ndarray, "o a 3"],
    pixels: PixelList | VoxelPart,
    weight: Float[ndarray, "n"],
) -> tuple[Float[Tensor, "o m"], Float[Tensor, "o"]]:
    """Plain torch twin of :func:`gather`, float64, any device."""
    shape = (projector.depth, projector.depth, projector.width)
    volume = torch.view_as_complex(torch.as_tensor(projector.values).double().reshape(*shape, 2))
    where = torch.einsum("oai,an->oin", torch.as_tensor(axes).double(), _frequencies(pixels))
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


def _frequencies(pixels: PixelList | VoxelPart) -> Float[Tensor, "a n"]:
    k = (pixels.v, pixels.u) if isinstance(pixels, PixelList) else (pixels.w, pixels.v, pixels.u)
    return torch.as_tensor(np.stack(k)).double()


def shift_images(
    image: Float[ndarray, "m"],
    shift_yx_px: Float[ndarray, "s a"],
    pixels: PixelList | VoxelPart,
    out: Float[ndarray, "s m"],
) -> None:
    """Multiply one planar image by exp(-2 pi i k·shift / size) for each shift: moves it by +shift.

    Part of a volume takes shifts zyx.
    """
    if isinstance(pixels, VoxelPart):
        from napari_sta.kernels._numba_voxels import shift_voxels

        shift_voxels(
            image, np.ascontiguousarray(shift_yx_px, dtype=np.float64), float(pixels.size), pixels.radius,
            pixels.row_w, pixels.row_v, pixels.row_u, pixels.row_n, pixels.row_start, out,
        )  # fmt: skip
        return
    from napari_sta.kernels._numba_refine import shift_rows

    shift_rows(
        image, np.ascontiguousarray(shift_yx_px, dtype=np.float64), float(pixels.size),
        pixels.row_v, pixels.row_u, pixels.row_n, pixels.row_start, out,
    )  # fmt: skip


def shift_images_reference(
    image: Float[ndarray, "m"], shift_yx_px: Float[ndarray, "s a"], pixels: PixelList | VoxelPart
) -> Float[Tensor, "s m"]:
    """Plain torch twin of :func:`shift_images`, float64."""
    n = len(pixels)
    z = torch.complex(torch.as_tensor(image[:n]).double(), torch.as_tensor(image[n:]).double())
    phase = torch.as_tensor(shift_yx_px).double() @ _frequencies(pixels)
    angle = -2 * torch.pi * phase / pixels.size
    moved = z[None] * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([moved.real, moved.imag], dim=1)


# ----------------------------------------------------------------------------------------------------
# Expectation


@dataclass(frozen=True)
class ParticleImages:
    """What one particle brings to the expectation step; ``t`` visible tilts, ``n`` listed pixels.

    Of a pseudo-subtomogram ``t`` are the parts of its voxel list
    (:class:`~napari_sta.kernels.refinement_volumes.VoxelList`); it counts as one premultiplied image.

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
        (t, shells) float64 shell sums of abs(X)² of the masked images (:func:`half_plane_shells`);
        (1, shells) of a volume.
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
    noise
        (t, shells) noise power of the *raw* tilt images (before premultiplication): with it each tilt and
        shell is weighed by what it knows. None: RELION's likelihood, in which ``sigma2`` is that of the
        images as they are, whatever the CTF does to their noise.
    multiplicity
        (t, n) of a pseudo-subtomogram: by how many slices its noise is larger, in RELION's likelihood.
    slices
        (shells,) sums of the multiplicity over the whole volume: what its residuals are divided by.
    """

    masked: Float[ndarray, "t m"]
    unmasked: Float[ndarray, "t m"]
    model: Float[ndarray, "t n"]
    ctf: Float[ndarray, "t n"] | None
    matrices_zyx: Float[ndarray, "t 3 3"]
    power: Float[ndarray, "i shells"]
    sigma2: Float[ndarray, "shells"]
    offset_zyx_px: Float[ndarray, "3"]
    offset_prior_zyx_px: Float[ndarray, "3"]
    scale: float
    window_power: Float[ndarray, "i"]
    noise: Float[ndarray, "t shells"] | None = None
    multiplicity: Float[ndarray, "t n"] | None = None
    slices: Float[ndarray, "shells"] | None = None

    @property
    def n_tilts(self) -> int:
        """How many tilt images show the particle; of a volume: parts."""
        return len(self.masked)

    @property
    def n_images(self) -> int:
        """How many images it brings: a volume is one."""
        return len(self.power)

    def at_pixels(self, place: Int[ndarray, "*m"]) -> ParticleImages:
        """Keep the pixels at the given places of the list (:func:`place_in`)."""
        if place.ndim == 2:
            return self._at_voxels(place)
        both = np.concatenate([place, place + self.model.shape[1]])
        return replace(
            self, masked=np.ascontiguousarray(self.masked[:, both]),
            unmasked=np.ascontiguousarray(self.unmasked[:, both]),
            model=np.ascontiguousarray(self.model[:, place]),
            ctf=None if self.ctf is None else np.ascontiguousarray(self.ctf[:, place]),
        )  # fmt: skip

    def _at_voxels(self, place: Int[ndarray, "t n"]) -> ParticleImages:
        def taken(values: ndarray) -> ndarray:
            return np.concatenate([values.ravel(), np.zeros(1, values.dtype)])[place]

        n = self.model.shape[1]
        masked, unmasked = (
            np.concatenate([taken(a[:, :n]), taken(a[:, n:])], axis=1) for a in (self.masked, self.unmasked)
        )
        t = len(place)
        return replace(
            self, masked=masked, unmasked=unmasked, model=taken(self.model),
            matrices_zyx=self.matrices_zyx[:t],
            noise=None if self.noise is None else self.noise[:t],
            multiplicity=None if self.multiplicity is None else taken(self.multiplicity),
        )  # fmt: skip

    def score_weights(
        self, tilt: int, pixels: PixelList | VoxelPart
    ) -> tuple[Float[ndarray, "n"], Float[ndarray, "n"]]:
        """Compute what image and abs(V)² are multiplied by in the score of a tilt; 0 at frequency 0."""
        model = self.model[tilt].astype(np.float64)
        inverse = self._inverse_noise(tilt, pixels)
        inverse[pixels.shell == 0] = 0
        if self.noise is None and self.multiplicity is not None:
            slices = self.multiplicity[tilt]
            inverse = inverse / np.where(slices > _LEAST_MULTIPLICITY, slices, 1)
        cross = self.scale * inverse
        if self.noise is None or self.ctf is not None:
            cross = cross * model
        return cross.astype(np.float32), (self.scale * model * cross).astype(np.float32)

    def sum_weights(
        self, tilt: int, pixels: PixelList | VoxelPart
    ) -> tuple[Float[ndarray, "n"], Float[ndarray, "n"]]:
        """Compute what the image is multiplied by when it is averaged, and its weight in the average."""
        model = self.model[tilt].astype(np.float64)
        inverse = self._inverse_noise(tilt, pixels)
        if self.ctf is not None:
            ctf = self.ctf[tilt].astype(np.float64)
            return self.scale * ctf * inverse, self.scale**2 * ctf * ctf * inverse
        if self.noise is not None:
            return self.scale * inverse, self.scale**2 * model * inverse
        return inverse, self.scale * model * inverse

    def _inverse_noise(self, tilt: int, pixels: PixelList | VoxelPart) -> Float[ndarray, "n"]:
        power = self.sigma2 if self.noise is None else self.noise[tilt]
        return 1 / power[pixels.shell]


def score_poses(
    projector: Projector,
    particle: ParticleImages,
    pixels: PixelList | VoxelList,
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
    if projector.on_device is not None:
        from napari_sta.kernels import refinement_torch

        return refinement_torch.score_poses(
            projector, particle, pixels, rotations_zyx, shifts_zyx_px, cross_correlation=cross_correlation
        )
    from napari_sta.kernels._numba_refine import add_products

    n = len(pixels)
    n_o, n_s = len(rotations_zyx), len(shifts_zyx_px)
    scores = np.zeros((n_o, n_s))
    ramps = np.empty((n_s, 2 * n), np.float32)
    slices = np.empty((min(n_o, _MOST_ROWS), 2 * n), np.float32)
    shifts = particle.offset_zyx_px + shifts_zyx_px
    powers = np.zeros(n_o)
    for t in range(particle.n_tilts):
        here = pixels.part(t)
        if cross_correlation:
            factor = particle.model[t] * here.multiplicity.astype(np.float32)
            weight = factor * particle.model[t]
        else:
            factor, weight = particle.score_weights(t, here)
        image = particle.masked[t] * np.concatenate([factor, factor])
        q = particle.matrices_zyx[t]
        shift_images(image, shifts @ q[3 - here.n_dim :].T, here, ramps)
        axes = slice_axes(q @ rotations_zyx, projector.padding, here.n_dim)
        for first in range(0, n_o, _MOST_ROWS):
            last = min(first + _MOST_ROWS, n_o)
            rows = slices[: last - first]
            norm = np.zeros(last - first)
            gather(projector, axes[first:last], here, weight, rows, norm)
            if cross_correlation:
                cross = np.zeros((last - first, n_s))
                add_products(rows, ramps, cross)
                if here.n_dim == 3:  # of the whole volume, not of its parts
                    scores[first:last] += cross
                    powers[first:last] += 2 * norm * particle.window_power[0]
                else:
                    power = np.maximum(2 * norm * particle.window_power[t], _TINY)
                    scores[first:last] += cross / np.sqrt(power)[:, None]
            else:
                add_products(rows, ramps, scores[first:last])
                scores[first:last] -= norm[:, None]
    if cross_correlation and pixels.n_dim == 3:
        scores /= np.sqrt(np.maximum(powers, _TINY))[:, None]
    return scores


def score_shared(
    projector: Projector,
    particles: Sequence[ParticleImages],
    tilts: Sequence[ndarray],
    frames_zyx: Float[ndarray, "p 3 3"],
    pixels: PixelList | VoxelList,
    rotations_zyx: Float[ndarray, "o 3 3"],
    shifts_zyx_px: Float[ndarray, "s 3"],
    *,
    cross_correlation: bool = False,
    go_on: Callable[[], bool] = lambda: True,
) -> list[Float[ndarray, "o s"]]:
    """:func:`score_poses` for particles that see the same slices: each tilt's slices are read once for all.

    Parameters
    ----------
    tilts
        Which image of the tilt series each image of each particle is; of volumes: the numbers of their parts.
    frames_zyx
        Particle p is tried at ``frames[p] @ rotations``; for one tilt, its matrix times its frame is the same
        for all particles.
    go_on
        Asked now and then; False: what is returned is worth nothing.

    Raises
    ------
    ValueError
        If the products differ.
    """
    from napari_sta.kernels._numba_refine import add_products

    n, n_o, n_s = len(pixels), len(rotations_zyx), len(shifts_zyx_px)
    images_of_tilt = []
    for tilt in np.unique(np.concatenate(list(tilts))):
        seen = [
            (p, int(np.flatnonzero(mine == tilt)[0])) for p, mine in enumerate(tilts) if (mine == tilt).any()
        ]
        matrices = np.stack([particles[p].matrices_zyx[t] @ frames_zyx[p] for p, t in seen])
        if np.abs(matrices - matrices[0]).max() > 1e-6:
            raise ValueError("the particles do not share their slices")
        images_of_tilt.append((matrices[0], seen))
    if projector.on_device is not None:
        from napari_sta.kernels import refinement_torch

        return refinement_torch.score_shared(
            projector, particles, images_of_tilt, pixels, rotations_zyx, shifts_zyx_px,
            cross_correlation=cross_correlation,
        )  # fmt: skip
    scores = [np.zeros((n_o, n_s)) for _ in particles]
    rows_at_once = min(n_o, _MOST_ROWS)
    slices = np.empty((rows_at_once, 2 * n), np.float32)
    ignored, no_weight = np.zeros(rows_at_once), np.zeros(n, np.float32)
    powers = np.zeros((len(particles), n_o))
    for matrix, seen in images_of_tilt:
        here = pixels.part(seen[0][1])
        ramps = np.empty((len(seen), n_s, 2 * n), np.float32)
        weights = np.empty((len(seen), n), np.float32)
        for k, (p, t) in enumerate(seen):
            one = particles[p]
            if cross_correlation:
                factor = one.model[t] * here.multiplicity.astype(np.float32)
                weights[k] = factor * one.model[t]
            else:
                factor, weights[k] = one.score_weights(t, here)
            moved = (one.offset_zyx_px + shifts_zyx_px) @ one.matrices_zyx[t, 3 - here.n_dim :].T
            shift_images(one.masked[t] * np.concatenate([factor, factor]), moved, here, ramps[k])
        axes = slice_axes(matrix @ rotations_zyx, projector.padding, here.n_dim)
        for first in range(0, n_o, rows_at_once):
            if not go_on():
                return scores
            last = min(first + rows_at_once, n_o)
            rows = slices[: last - first]
            gather(projector, axes[first:last], here, no_weight, rows, ignored[: last - first])
            norm = np.zeros((last - first, len(seen)))
            add_products(rows[:, :n] ** 2 + rows[:, n:] ** 2, weights, norm)
            for k, (p, t) in enumerate(seen):
                part = scores[p][first:last]
                if cross_correlation and here.n_dim == 3:
                    add_products(rows, ramps[k], part)
                    powers[p, first:last] += norm[:, k] * particles[p].window_power[0]
                elif cross_correlation:
                    cross = np.zeros(part.shape)
                    add_products(rows, ramps[k], cross)
                    power = np.maximum(norm[:, k] * particles[p].window_power[t], _TINY)
                    part += cross / np.sqrt(power)[:, None]
                else:
                    add_products(rows, ramps[k], part)
                    part -= 0.5 * norm[:, k, None]
    if cross_correlation and pixels.n_dim == 3:
        return [
            one / np.sqrt(np.maximum(power, _TINY))[:, None]
            for one, power in zip(scores, powers, strict=True)
        ]
    return scores


def score_pairs(
    projector: Projector,
    particle: ParticleImages,
    pixels: PixelList | VoxelList,
    rotations_zyx: Float[ndarray, "o 3 3"],
    shifts_zyx_px: Float[ndarray, "s 3"],
    pairs: Bool[ndarray, "p q"],
) -> Float[ndarray, "o s"]:
    """:func:`score_poses` of blocks only: children of parent pairs, -inf elsewhere.

    Parameters
    ----------
    rotations_zyx, shifts_zyx_px
        Children of p parents and q steps, those of one parent side by side, a multiple of 4 each.
    pairs
        Which parents and steps go together.
    """
    from napari_sta.kernels._numba_refine import add_pair_products

    n, n_o, n_s = len(pixels), len(rotations_zyx), len(shifts_zyx_px)
    n_c, n_d = n_o // pairs.shape[0], n_s // pairs.shape[1]
    scores = np.full((n_o, n_s), -np.inf)
    scores[np.repeat(np.repeat(pairs, n_c, axis=0), n_d, axis=1)] = 0
    shifts = particle.offset_zyx_px + shifts_zyx_px
    ramps = np.empty((n_s, 2 * n), np.float32)
    rows_at_once = max(1, _MOST_ROWS // n_c) * n_c
    slices = np.empty((min(n_o, rows_at_once), 2 * n), np.float32)
    for t in range(particle.n_tilts):
        here = pixels.part(t)
        factor, weight = particle.score_weights(t, here)
        q = particle.matrices_zyx[t]
        image = particle.masked[t] * np.concatenate([factor, factor])
        shift_images(image, shifts @ q[3 - here.n_dim :].T, here, ramps)
        axes = slice_axes(q @ rotations_zyx, projector.padding, here.n_dim)
        for first in range(0, n_o, rows_at_once):
            last = min(first + rows_at_once, n_o)
            norm = np.zeros(last - first)
            gather(projector, axes[first:last], here, weight, slices[: last - first], norm)
            parent, step = np.nonzero(pairs[first // n_c : last // n_c])
            add_pair_products(slices, ramps, parent, step, n_c, n_d, scores[first:last])
            scores[first:last] -= norm[:, None]
    return scores


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
        Gives the finer orientations (p, c, 3, 3) of chosen coarse ones (p,).
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
    children_zyx: Callable[[Int[ndarray, "p"]], Float[ndarray, "p c 3 3"]]
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
    pixels: PixelList | VoxelList,
    search: Search,
    coarse: tuple[Projector, ParticleImages, PixelList | VoxelList] | None = None,
    scores: Float[ndarray, "o s"] | None = None,
    *,
    cross_correlation: bool = False,
) -> Posterior:
    """Two-pass search: score the coarse grid, then only children of its significant pairs.

    Parameters
    ----------
    coarse
        Reference, images and pixels of the first pass if its radius is smaller; None: the same.
    scores
        Of the first pass, without priors, if they are known already; changed.
    cross_correlation
        First iteration without a noise model: the best coarse pair alone is refined, and the best fine pair
        gets all the weight.
    """
    shifts = (search.translations_zyx_angst + search.perturbation_angst) / search.pixel_size_angst
    if scores is None:
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
    if not len(parents):
        raise ValueError("the scores of a particle are not finite: its images or its noise are empty")
    children = search.children_zyx(parents)
    n_c, n_d = children.shape[1], len(search.translation_children_zyx_angst)
    rotations = children.reshape(-1, 3, 3)
    fine_shifts = shifts[steps][:, None] + search.translation_children_zyx_angst / search.pixel_size_angst
    fine_shifts = fine_shifts.reshape(-1, 3)
    pairs = chosen[np.ix_(parents, steps)]
    if (
        cross_correlation
        or pairs.mean() > _DENSE_SHARE
        or projector.on_device is not None
        or n_c % 4
        or n_d % 4
    ):
        fine = score_poses(
            projector, particle, pixels, rotations, fine_shifts, cross_correlation=cross_correlation
        )
    else:
        fine = score_pairs(projector, particle, pixels, rotations, fine_shifts, pairs)
    tried = np.repeat(np.repeat(pairs, n_c, axis=0), n_d, axis=1)
    if not cross_correlation:
        fine += np.repeat(search.log_prior[parents], n_c)[:, None] + np.repeat(log_shift[steps], n_d)
    fine = np.where(tried, fine, -np.inf)
    top = float(fine.max())
    if cross_correlation:
        weights = np.zeros(fine.shape)
        weights[np.unravel_index(int(fine.argmax()), fine.shape)] = 1.0
        evidence = top / particle.n_images
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


def resampled(posterior: Posterior, most: int, start: float) -> Posterior:
    """Stand in for a broad posterior with a few equally probable poses drawn from it.

    Parameters
    ----------
    most
        Poses to draw; a posterior with no more poses than that is returned as it is.
    start
        In [0, 1): where the systematic draw begins.

    Notes
    -----
    Systematic resampling: pose i is drawn floor or ceil of most · w_i times, so that averages over the
    posterior keep their expectation with little noise.
    """
    kept = np.flatnonzero(posterior.weights)
    if len(kept) <= most:
        return posterior
    w = posterior.weights.ravel()[kept]
    total = w.sum()
    edges = np.cumsum(w) / total * most
    drawn = np.minimum(np.searchsorted(edges, np.arange(most) + start, side="right"), len(w) - 1)
    count = np.bincount(drawn, minlength=len(w)) * (total / most)
    flat = np.zeros(posterior.weights.size)
    flat[kept] = count
    weights = flat.reshape(posterior.weights.shape)
    rows, columns = np.flatnonzero(weights.any(axis=1)), np.flatnonzero(weights.any(axis=0))
    weights = weights[np.ix_(rows, columns)]
    best = np.unravel_index(int(weights.argmax()), weights.shape)
    return posterior._replace(
        rotations_zyx=posterior.rotations_zyx[rows], shifts_zyx_px=posterior.shifts_zyx_px[columns],
        weights=weights, parents=posterior.parents[rows], best=(int(best[0]), int(best[1])),
    )  # fmt: skip


def mean_pose(
    posterior: Posterior, operators_zyx: Float[ndarray, "g 3 3"], reach_deg: float
) -> tuple[Float[ndarray, "3 3"], Float[ndarray, "3"]]:
    """Posterior mean of rotation and shift (px) around the best pose: the least expected squared error.

    Parameters
    ----------
    operators_zyx
        Of the point group: every orientation counts as its mate nearest to the best one.
    reach_deg
        Orientations further off than this belong to another peak and do not count.
    """
    from scipy.spatial.transform import Rotation

    best = posterior.rotations_zyx[posterior.best[0]]
    relative = np.einsum("ji,ojk,gkl->ogil", best, posterior.rotations_zyx, operators_zyx)
    nearest = np.trace(relative, axis1=2, axis2=3).argmax(axis=1)
    turn = Rotation.from_matrix(relative[np.arange(len(relative)), nearest]).as_rotvec()
    near = np.linalg.norm(turn, axis=1) <= np.deg2rad(reach_deg)
    weights = posterior.weights * near[:, None]
    total = weights.sum()
    mean = Rotation.from_rotvec(weights.sum(axis=1) @ turn / total).as_matrix()
    return best @ mean, weights.sum(axis=0) @ posterior.shifts_zyx_px / total


def resolution_of(references: list[Tensor] | None, edge_angst: float) -> float:
    """Resolution (Å) to which two start maps agree (FSC 0.5); for the same map twice: Nyquist."""
    from napari_sta.kernels import fsc

    if references is None:
        return edge_angst / 5
    curve = fsc.fourier_shell_correlation(references[0].double(), references[1].double())
    below = fsc.first_below(curve, 0.5, 1)
    shell = len(curve) - 1 if below is None else max(5, below - 1)
    return edge_angst / shell


def evidence_constant(particle: ParticleImages, pixels: PixelList | VoxelList) -> float:
    """Compute what :func:`score_poses` leaves out of the log-likelihood, the same for all poses.

    Notes
    -----
    RELION: -sum abs(X)² / 2 sigma² up to the radius of the window, -sum abs(X)² / 2 beyond it (not divided by
    the noise), and -ln(2 pi sigma²) for every pixel of the window and tilt. Only ``rlnLogLikeliContribution``
    needs it.
    """
    top = int(pixels.shell.max()) + 1
    inside = slice(1, top)
    if isinstance(pixels, VoxelList):
        shells = refinement_volumes.half_space_shells(pixels.size).flatten()
    else:
        n_shells = len(particle.sigma2)
        shells = half_plane_shells(pixels.size, pixels.radius, pixels.edge_ratio, n_shells).flatten()
    count = torch.bincount(shells, minlength=len(particle.sigma2) + 1)[inside].double().numpy()
    power = particle.power.sum(axis=0)
    sigma2 = particle.sigma2[inside]
    constant = -(power[inside] / (2 * sigma2)).sum() - 0.5 * power[top:].sum()
    return float(constant - particle.n_images * (count * np.log(2 * np.pi * sigma2)).sum())
