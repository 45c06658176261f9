"""Extracted particles as refinement wants them: transforms, CTFs and geometry, read when they are needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from napari_sta.data.errors import InputError
from napari_sta.io.files import resolve
from napari_sta.io.mrc import MrcHeader, image_size_yx_px, read_header, read_images
from napari_sta.io.relion import (
    ANGLE_PRIORS,
    ORIGIN_PRIORS,
    are_2d_stacks,
    check_subtomogram_kind,
    particle_numbers,
    visible_frames,
)
from napari_sta.jobs._geometry import TiltGeometry, tilt_coefficients, tilt_geometry
from napari_sta.kernels import refinement as rf
from napari_sta.kernels.ctf import dose_weight, zernike_phase
from napari_sta.kernels.refinement_volumes import VoxelList

if TYPE_CHECKING:
    from napari_sta.data.particles import OpticsGroup, Particles
    from napari_sta.data.tilt_series import TiltSeries
    from napari_sta.io.relion import StaInputs

Array = NDArray[np.float64]


class Window(NamedTuple):
    """Pixels of one optics group that an iteration looks at.

    Attributes
    ----------
    pixels
        Half plane (half space of volumes) up to the current radius; shells are those of the reference.
    shells
        Shell of every half-grid pixel of the full image, for power spectra.
    """

    pixels: rf.PixelList | VoxelList
    shells: torch.Tensor


class LoadedParticle(NamedTuple):
    """One particle's images before noise, scale and offset are known; ``t`` visible tilts, ``n`` pixels.

    Attributes
    ----------
    masked, unmasked
        (t, 2n) planar transforms.
    model
        (t, n) what multiplies a slice.
    ctf
        (t, n), or None for premultiplied images.
    matrices_zyx
        (t, 3, 3) subtomogram to image, times the ratio of box edges.
    power
        (t, shells) shell sums of abs(X)² of the masked images.
    window_power
        (t,) sum over the current window.
    tilts
        (t,) positions in the tilt series.
    multiplicity, slices
        Of pseudo-subtomograms, as in :class:`~napari_sta.kernels.refinement.ParticleImages`.
    """

    masked: NDArray[np.float32]
    unmasked: NDArray[np.float32]
    model: NDArray[np.float32]
    ctf: NDArray[np.float32] | None
    matrices_zyx: Array
    power: Array
    window_power: Array
    tilts: NDArray[np.int64]
    multiplicity: NDArray[np.float32] | None = None
    slices: Array | None = None


@dataclass(frozen=True)
class _Series:
    """One tilt series with the geometry of its particles (rows in ``position`` order)."""

    series: TiltSeries
    geometry: TiltGeometry


class ParticleSource:
    """Read particles one by one; keeps tables, never images.

    Attributes
    ----------
    particles
        As read.
    size_px, pixel_size_angst
        Box and pixel of the reference: those of the first optics group.
    series_names, series_index
        Tomograms, and (n,) which of them each particle is in.
    optics_index
        (n,) position of its optics group.
    n_tilts
        Of the longest tilt series.
    premultiplied
        Images hold one factor CTF already.
    n_dim
        Of the images.
    angle_priors_deg, origin_priors_zyx_angst
        (n, 3) rot, tilt, psi and origin of the prior columns: NaN where a particle has none, 0 without the
        column.
    """

    n_dim: ClassVar[int] = 2
    _LABELS: ClassVar[tuple[str, ...]] = ("rlnImageName", "rlnTomoVisibleFrames")

    def __init__(
        self,
        inputs: StaInputs,
        *,
        diameter_angst: float,
        edge_px: float,
        zero_mask: bool,
        apply_ctf: bool,
        first_peak: bool,
        parity: bool,
        seed: int = 0,
    ) -> None:
        particles = inputs.particles
        self.particles: Particles = particles
        self._inputs = inputs
        self._check_columns()
        self.angle_priors_deg = particle_numbers(particles, ANGLE_PRIORS, may_lack=True)
        self.origin_priors_zyx_angst = particle_numbers(particles, ORIGIN_PRIORS, may_lack=True)
        groups = particles.optics
        first = groups[0]
        assert first.image_size_px is not None
        assert first.image_pixel_size_angst is not None
        self.size_px: int = first.image_size_px
        self.pixel_size_angst: float = first.image_pixel_size_angst
        self.premultiplied = self._premultiplied()
        self.apply_ctf, self.first_peak, self.parity = apply_ctf, first_peak, parity
        self.zero_mask, self.seed = zero_mask, seed
        self.diameter_angst, self.edge_px = diameter_angst, edge_px
        number = {group.number: position for position, group in enumerate(groups)}
        self.optics_index = np.array([number[int(g)] for g in particles.optics_group])
        self.series_names = particles.tomograms
        place = {name: position for position, name in enumerate(self.series_names)}
        self.series_index = np.array([place[name] for name in particles.tomogram])
        self._stacks: dict[str, Path] = {}
        for index in np.unique(self.optics_index, return_index=True)[1]:
            self._check_size(int(index))
        self._discs = [self._disc(group) for group in groups]
        self.mask_share = [float((disc * disc).mean()) for disc in self._discs]
        self._windows: dict[int, list[Window]] = {}
        self._envelopes: dict[tuple[int, int], Array] = {}
        self._read_tables()

    def _read_tables(self) -> None:
        """Work out what is known of images before they are read."""
        inputs, particles = self._inputs, self.particles
        n_tilts = {name: inputs.tilt_series[name].n_tilts for name in self.series_names}
        self.visible = [np.flatnonzero(frames) for frames in visible_frames(particles, n_tilts)]
        self.n_tilts = max(n_tilts.values())
        self._series: list[_Series] = []
        self._row = np.zeros(len(particles), dtype=np.int64)
        for name in self.series_names:
            rows = np.flatnonzero(particles.tomogram == name)
            series = inputs.tilt_series[name]
            geometry = tilt_geometry(
                particles[rows], series, inputs.trajectories, image_size_yx_px(series.images[0][0])
            )
            self._row[rows] = np.arange(len(rows))
            self._series.append(_Series(series, geometry))

    @property
    def tilt_series(self) -> dict[str, TiltSeries]:
        """Tilt series of the particles by name."""
        return self._inputs.tilt_series

    def __len__(self) -> int:
        return len(self.particles)

    # ---- what the files must hold

    def _check_columns(self) -> None:
        check_subtomogram_kind(self.particles, self._inputs.particles_path)
        self._check_labels(*self._LABELS)
        particles, path = self.particles, self._inputs.particles_path
        for group in particles.optics:
            if group.image_size_px is None or group.image_pixel_size_angst is None:
                raise InputError(
                    f"{path}: optics group {group.number} has no rlnImageSize or rlnImagePixelSize; extract the "
                    "particles first (napari-sta extract)"
                )
            if group.image_size_px % 2:
                raise InputError(
                    f"{path}: optics group {group.number} has an odd box (rlnImageSize "
                    f"{group.image_size_px}); extract again with an even box"
                )

    def _check_labels(self, *labels: str) -> None:
        for label in labels:
            if label not in self.particles.text:
                raise InputError(
                    f"{self._inputs.particles_path} has no {label}; extract the particles first (napari-sta "
                    "extract)"
                )

    def _premultiplied(self) -> bool:
        kinds = {
            group.text.get("rlnCtfDataAreCtfPremultiplied", "0").strip() not in ("", "0")
            for group in self.particles.optics
        }
        if len(kinds) > 1:
            raise InputError(
                f"{self._inputs.particles_path}: some optics groups are premultiplied by the CTF "
                "(rlnCtfDataAreCtfPremultiplied), others are not; extract all particles in the same way"
            )
        return kinds.pop()

    def check_stacks(self) -> None:
        """Find missing stacks before work starts.

        Raises
        ------
        InputError
            If one is missing or holds another number of images than tilts are visible.
        """
        for index, name in enumerate(self.particles.text["rlnImageName"]):
            header = self._check_size(index)
            n_images = header.shape_zyx[0] if header.is_stack or header.shape_zyx[0] > 1 else 1
            if n_images != len(self.visible[index]):
                raise InputError(
                    f"{name} holds {n_images} images, but rlnTomoVisibleFrames of particle "
                    f"{self.particles.name[index]} counts {len(self.visible[index])}; extract again"
                )

    def _check_size(self, index: int) -> MrcHeader:
        """Refuse a file whose images have another box than its optics group says; return its header."""
        header = read_header(self._stack(index))
        group = self.particles.optics[self.optics_index[index]]
        if header.shape_zyx[1:] != (group.image_size_px,) * 2:
            raise InputError(
                f"{self.particles.text['rlnImageName'][index]} is {header.shape_zyx[2]} x {header.shape_zyx[1]} px, "
                f"but rlnImageSize of its optics group is {group.image_size_px}; extract again"
            )
        return header

    def _stack(self, index: int, label: str = "rlnImageName") -> Path:
        name = str(self.particles.text[label][index])
        name = name.rpartition("@")[2]
        found = self._stacks.get(name)
        if found is None:
            found = resolve(name, self._inputs.particles_path)
            self._stacks[name] = found
        return found

    # ---- reading

    def _ratio(self, group: OpticsGroup) -> float:
        """Edge of the reference box over that of the group's images."""
        assert group.image_size_px is not None
        assert group.image_pixel_size_angst is not None
        edge = group.image_size_px * group.image_pixel_size_angst
        return self.size_px * self.pixel_size_angst / edge

    def _disc(self, group: OpticsGroup) -> torch.Tensor:
        assert group.image_size_px is not None
        assert group.image_pixel_size_angst is not None
        radius = self.diameter_angst / (2 * group.image_pixel_size_angst)
        return rf.soft_disc(group.image_size_px, radius, self.edge_px, self.n_dim)

    def windows(self, radius: int) -> list[Window]:
        """Per optics group, the pixels up to a radius (in Fourier pixels of the reference)."""
        if radius not in self._windows:
            made = []
            for group in self.particles.optics:
                pixels = self._pixels(group, radius)
                made.append(Window(pixels, self._shells(group, pixels.radius)))
            self._windows = {radius: made}
            self._envelopes = {}
        return self._windows[radius]

    def coarse_windows(self, radius: int) -> list[Window]:
        """As :meth:`windows`, for a first pass with fewer pixels."""
        made = []
        for group in self.particles.optics:
            made.append(Window(self._pixels(group, radius), torch.zeros(0, dtype=torch.int64)))
        return made

    def _pixels(self, group: OpticsGroup, radius: int) -> rf.PixelList | VoxelList:
        assert group.image_size_px is not None
        return rf.make_pixel_list(group.image_size_px, radius, self._ratio(group))

    def _shells(self, group: OpticsGroup, radius: int) -> torch.Tensor:
        assert group.image_size_px is not None
        return rf.half_plane_shells(group.image_size_px, radius, self._ratio(group), self.size_px // 2 + 1)

    def pixels_per_shell(self) -> Array:
        """Pixels (voxels) of a whole image of the reference's box that count, shell by shell."""
        return rf.pixels_per_shell(self.size_px)

    def ratio(self, optics: int) -> float:
        """Edge of the reference box over that of an optics group's images."""
        return self._ratio(self.particles.optics[optics])

    def model_shells(self) -> Array:
        """Shell sums (series, tilts, shells) of what multiplies noise: CTF² of premultiplied images, else 1.

        Taken at the middle of each tomogram, for the first optics group.
        """
        n_shells = self.size_px // 2 + 1
        out = np.zeros((len(self._series), self.n_tilts, n_shells))
        counts = rf.pixels_per_shell(self.size_px)
        if not (self.premultiplied and self.apply_ctf):
            out[:] = counts
            return out
        pixels = rf.make_pixel_list(self.size_px, self.size_px // 2)
        beyond = counts / np.maximum(np.bincount(pixels.shell, minlength=n_shells)[:n_shells], 1)
        group = self.particles.optics[0]
        for place, one in enumerate(self._series):
            tilts = np.arange(one.series.n_tilts)
            envelopes = self._envelope(one.series, pixels, self.pixel_size_angst)
            model, _ = self._ctf(one.series, np.zeros(len(tilts)), tilts, pixels, group, envelopes)
            for t in tilts:
                sums = np.bincount(pixels.shell, model[t].astype(np.float64), n_shells)[:n_shells]
                out[place, t] = sums * beyond
        return out

    def _envelope(self, series: TiltSeries, pixels: rf.PixelList, pixel_size_angst: float) -> Array:
        """Dose weights times scales (t, n) of all tilts."""
        frequency = np.hypot(pixels.v, pixels.u) / (pixels.size * pixel_size_angst)
        radii, back = np.unique(frequency, return_inverse=True)
        return np.stack(
            [
                scale * dose_weight(radii, dose, series.bfactor_per_dose)
                for scale, dose in zip(series.ctf_scale, series.dose_e_per_angst2, strict=True)
            ]
        )[:, back]

    def load(
        self, index: int, window: Window, sigma2: Array | None = None, offset_zyx_px: Array | None = None
    ) -> LoadedParticle:
        """Read one particle's stack and prepare it.

        Parameters
        ----------
        sigma2
            (shells,) noise power, for images whose outside is filled with noise.
        offset_zyx_px
            Current shift: where the mask lies on volumes in parity mode; stacks do not look at it.

        Raises
        ------
        InputError
            If the stack cannot be read or holds values that are not finite.
        """
        optics = int(self.optics_index[index])
        group = self.particles.optics[optics]
        size, pixel_size = group.image_size_px, group.image_pixel_size_angst
        assert size is not None
        assert pixel_size is not None
        one = self._series[self.series_index[index]]
        row, tilts = int(self._row[index]), self.visible[index]
        path = str(self._stack(index))
        images = torch.from_numpy(read_images([(path, s) for s in range(len(tilts))]))
        ratio = self._ratio(group)
        if abs(ratio - 1) > 1e-9:
            images = (
                images / ratio**2
            )  # transforms divided by the number of pixels: a larger box dilutes them
        pixels, disc = window.pixels, self._discs[optics]
        assert isinstance(pixels, rf.PixelList)
        unmasked = rf.image_transforms(images)
        if self.zero_mask:
            masked = rf.image_transforms(rf.fill_outside(images, disc))
        else:
            masked = rf.image_transforms(self._noise_filled(images, disc, index, sigma2))
        odd = self._odd_phase(group)
        if odd is not None:
            masked, unmasked = masked * odd, unmasked * odd
        n_shells = self.size_px // 2 + 1
        key = (int(self.series_index[index]), optics)
        envelopes = self._envelopes.get(key)
        if envelopes is None:
            envelopes = self._envelope(one.series, pixels, pixel_size)
            self._envelopes[key] = envelopes
        model, ctf = self._ctf(one.series, one.geometry.depth_angst[row], tilts, pixels, group, envelopes)
        rotation = one.geometry.tilt_rotation_zyx[tilts] @ one.geometry.subtomogram_rotation_zyx[row]
        return LoadedParticle(
            masked=pixels.take(masked),
            unmasked=pixels.take(unmasked),
            model=model,
            ctf=ctf,
            matrices_zyx=rotation * ratio,
            power=rf.shell_powers(masked, window.shells, n_shells),
            window_power=rf.window_power(masked, pixels.radius),
            tilts=tilts,
        )

    def _noise_filled(
        self, images: torch.Tensor, disc: torch.Tensor, index: int, sigma2: Array | None
    ) -> torch.Tensor:
        """Fill what lies outside the disc with noise of a given power spectrum."""
        if sigma2 is None:
            return images
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        size = images.shape[-1]
        white = torch.fft.rfft2(torch.randn(images.shape, generator=generator))
        # Per component a transform of white noise of variance 1 has the power size² / 2.
        shells = rf.half_plane_shells(size).clamp(max=len(sigma2) - 1)
        factor = torch.as_tensor(np.sqrt(2 * sigma2), dtype=torch.float32)[shells] * size
        noise = torch.fft.irfft2(white * factor, s=(size, size))
        return images * disc.float() + noise * (1 - disc).float()

    def _odd_phase(self, group: OpticsGroup) -> torch.Tensor | None:
        # Extraction has taken odd aberrations out of the images; RELION's refinement does so once more.
        if not self.parity or not any(group.odd_zernike):
            return None
        size, pixel = group.image_size_px, group.image_pixel_size_angst
        assert size is not None
        assert pixel is not None
        k = np.fft.fftfreq(size, pixel)
        phase = zernike_phase(group.odd_zernike, k, np.fft.rfftfreq(size, pixel), odd=True)
        return torch.polar(torch.ones(phase.shape, dtype=torch.float64), -torch.as_tensor(phase).double())

    def _ctf(
        self,
        series: TiltSeries,
        depth_angst: Array,
        tilts: NDArray[np.int64],
        pixels: rf.PixelList,
        group: OpticsGroup,
        envelopes: Array,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        n = len(pixels)
        if not self.apply_ctf:
            ones = np.ones((len(tilts), n), np.float32)
            return ones, None if self.premultiplied else ones
        pixel = group.image_pixel_size_angst
        assert pixel is not None
        coefficients = tilt_coefficients(series, tilts, depth_angst[tilts])
        extra = self._even_phase(group, pixels)
        ctf = rf.pixel_ctf(
            coefficients, envelopes[tilts], pixels, pixel, first_peak=self.first_peak, extra_phase=extra
        )
        model = (ctf * ctf if self.premultiplied else ctf).astype(np.float32)
        return model, None if self.premultiplied else ctf.astype(np.float32)

    def _even_phase(self, group: OpticsGroup, pixels: rf.PixelList) -> Array | None:
        if not any(group.even_zernike):
            return None
        pixel = group.image_pixel_size_angst
        assert pixel is not None
        step = 1 / (pixels.size * pixel)
        rows, columns = np.unique(pixels.v), np.unique(pixels.u)
        grid = zernike_phase(group.even_zernike, rows * step, columns * step, odd=False)
        return np.asarray(grid)[pixels.v - rows[0], pixels.u - columns[0]]

    # ---- for the noise at the start

    def initial_noise(self, optics: int, n_images: int, rows: NDArray[np.int64]) -> Array:
        """Noise power (shells of the reference) of at least ``n_images`` images of an optics group."""
        spectra = self.first_transforms(optics, n_images, rows)
        if not len(spectra):
            return np.ones(self.size_px // 2 + 1)
        values = rf.initial_noise(spectra)
        own = np.arange(self.size_px // 2 + 1) / self.ratio(optics)
        return np.interp(own, np.arange(len(values)), values) / self.ratio(optics) ** 4

    def first_transforms(self, optics: int, n_images: int, rows: NDArray[np.int64]) -> torch.Tensor:
        """Transform at least ``n_images`` images (m, s, h) of a group, masked if particles are."""
        found: list[torch.Tensor] = []
        for index in rows[self.optics_index[rows] == optics]:
            path = str(self._stack(int(index)))
            images = torch.from_numpy(read_images([(path, s) for s in range(len(self.visible[index]))]))
            if self.zero_mask:
                images = rf.fill_outside(images, self._discs[optics])
            found.append(rf.image_transforms(images))
            if sum(len(one) for one in found) >= n_images:
                break
        if not found:
            return torch.zeros((0, self.size_px, self.size_px // 2 + 1), dtype=torch.complex64)
        return torch.cat(found)


def are_volumes(particles: Particles) -> bool:
    """Tell whether a particle set holds 3D pseudo-subtomograms rather than 2D stacks."""
    said = are_2d_stacks(particles)
    if said is not None:
        return not said
    return "rlnCtfImage" in particles.text and "rlnTomoVisibleFrames" not in particles.text
