"""Stacks of 2D images, one a visible tilt: transforms, CTFs and geometry of each particle."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from napari_sta.data.errors import InputError
from napari_sta.engine.geometry import TiltGeometry, tilt_coefficients, tilt_geometry
from napari_sta.engine.quirks import Quirk
from napari_sta.engine.source import Array, ParticleSource, Window, box_of
from napari_sta.io.mrc import MrcHeader, image_size_yx_px, read_header, read_images
from napari_sta.io.relion.subtomograms import visible_frames
from napari_sta.kernels.optics import dose_weight, zernike_phase
from napari_sta.kernels.refine.images import (
    fill_outside,
    image_transforms,
    initial_noise,
    pixel_ctf,
    shell_powers,
    window_power,
)
from napari_sta.kernels.refine.particle import ParticleImages
from napari_sta.kernels.refine.pixels import PixelList, half_plane_shells, make_pixel_list, pixels_per_shell

if TYPE_CHECKING:
    from napari_sta.data.particles import OpticsGroup
    from napari_sta.data.tilt_series import TiltSeries


class _Series(NamedTuple):
    """One tilt series with the geometry of its particles (rows in ``position`` order)."""

    series: TiltSeries
    geometry: TiltGeometry


class StackSource(ParticleSource):
    """Read stacks one by one."""

    n_dim: ClassVar[int] = 2
    _LABELS: ClassVar[tuple[str, ...]] = ("rlnImageName", "rlnTomoVisibleFrames")

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
        self._envelopes: dict[tuple[int, int], tuple[PixelList, Array]] = {}

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

    def check_files(self) -> None:
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
        header = read_header(self.path(index))
        expected = box_of(self.particles.optics[self.optics_index[index]])[0]
        _, height, width = header.shape_zyx
        if (height, width) != (expected, expected):
            name = self.particles.text["rlnImageName"][index]
            raise InputError(
                f"{name} is {width} x {height} px, but rlnImageSize of its optics group is {expected}; "
                "extract again"
            )
        return header

    def _pixels(self, group: OpticsGroup, radius: int) -> PixelList:
        return make_pixel_list(box_of(group)[0], radius, self._ratio(group))

    def _shells(self, group: OpticsGroup, radius: int) -> torch.Tensor:
        return half_plane_shells(box_of(group)[0], radius, self._ratio(group), self.n_shells)

    # ---- the model

    def model_shells(self) -> Array:
        """Shell sums (series, tilts, shells) of what multiplies noise: CTF² of premultiplied images, else 1.

        Taken at the middle of each tomogram, for the first optics group.
        """
        n_shells = self.n_shells
        out = np.zeros((len(self._series), self.n_tilts, n_shells))
        counts = pixels_per_shell(self.size_px)
        if not (self.premultiplied and self.options.apply_ctf):
            out[:] = counts
            return out
        pixels = make_pixel_list(self.size_px, self.size_px // 2)
        beyond = counts / np.maximum(np.bincount(pixels.shell, minlength=n_shells)[:n_shells], 1)
        group = self.particles.optics[0]
        for place, series in enumerate(entry.series for entry in self._series):
            tilts = np.arange(series.n_tilts)
            envelopes = self._envelope(series, pixels, self.pixel_size_angst)
            model, _ = self._ctf(series, np.zeros(len(tilts)), tilts, pixels, group, envelopes)
            for t in tilts:
                sums = np.bincount(pixels.shell, model[t].astype(np.float64), n_shells)[:n_shells]
                out[place, t] = sums * beyond
        return out

    def _window_envelope(self, place: int, optics: int, pixels: PixelList) -> Array:
        """:meth:`_envelope` of the place-th tilt series at the pixels of a window, kept until they change."""
        kept = self._envelopes.get((place, optics))
        if kept is None or kept[0] is not pixels:
            pixel_size = box_of(self.particles.optics[optics])[1]
            kept = (pixels, self._envelope(self._series[place].series, pixels, pixel_size))
            self._envelopes[place, optics] = kept
        return kept[1]

    def _envelope(self, series: TiltSeries, pixels: PixelList, pixel_size_angst: float) -> Array:
        """Dose weights times scales (t, n) of all tilts."""
        frequency = np.hypot(pixels.v, pixels.u) / (pixels.size * pixel_size_angst)
        radii, back = np.unique(frequency, return_inverse=True)
        return np.stack(
            [
                scale * dose_weight(radii, dose, series.bfactor_per_dose)
                for scale, dose in zip(series.ctf_scale, series.dose_e_per_angst2, strict=True)
            ]
        )[:, back]

    # ---- reading

    def load(
        self, index: int, window: Window, sigma2: Array | None = None, offset_zyx_px: Array | None = None
    ) -> ParticleImages:
        """Read one particle's stack and prepare it; see :meth:`ParticleSource.load`.

        Raises
        ------
        InputError
            If the stack cannot be read or holds values that are not finite.
        """
        optics = int(self.optics_index[index])
        group = self.particles.optics[optics]
        series, geometry = self._series[self.series_index[index]]
        row, tilts = int(self._row[index]), self.visible[index]
        path = str(self.path(index))
        images = torch.from_numpy(read_images([(path, s) for s in range(len(tilts))]))
        ratio = self._ratio(group)
        if abs(ratio - 1) > 1e-9:
            # Transforms are divided by the number of pixels: a larger box dilutes them.
            images = images / ratio**2
        pixels, disc = window.pixels, self._discs[optics]
        assert isinstance(pixels, PixelList)
        unmasked = image_transforms(images)
        if self.options.zero_mask:
            masked = image_transforms(fill_outside(images, disc))
        else:
            masked = image_transforms(self._noise_filled(images, disc, index, sigma2))
        odd = self._odd_phase(group)
        if odd is not None:
            masked, unmasked = masked * odd, unmasked * odd
        n_shells = self.n_shells
        envelopes = self._window_envelope(int(self.series_index[index]), optics, pixels)
        model, ctf = self._ctf(series, geometry.depth_angst[row], tilts, pixels, group, envelopes)
        rotation = geometry.tilt_rotation_zyx[tilts] @ geometry.subtomogram_rotation_zyx[row]
        return ParticleImages(
            masked=pixels.take(masked),
            unmasked=pixels.take(unmasked),
            model=model,
            ctf=ctf,
            matrices_zyx=rotation * ratio,
            power=shell_powers(masked, window.shells, n_shells),
            window_power=window_power(masked, pixels.radius),
            tilts=tilts,
            sigma2=np.ones(n_shells),
            offset_zyx_px=np.zeros(3),
            offset_prior_zyx_px=np.zeros(3),
            scale=1.0,
        )

    def _noise_filled(
        self, images: torch.Tensor, disc: torch.Tensor, index: int, sigma2: Array | None
    ) -> torch.Tensor:
        """Fill what lies outside the disc with noise of a given power spectrum."""
        if sigma2 is None:
            return images
        generator = torch.Generator().manual_seed(self.options.seed * 1_000_003 + index)
        size = images.shape[-1]
        white = torch.fft.rfft2(torch.randn(images.shape, generator=generator))
        # Per component a transform of white noise of variance 1 has the power size² / 2.
        shells = half_plane_shells(size).clamp(max=len(sigma2) - 1)
        factor = torch.as_tensor(np.sqrt(2 * sigma2), dtype=torch.float32)[shells] * size
        noise = torch.fft.irfft2(white * factor, s=(size, size))
        return images * disc.float() + noise * (1 - disc).float()

    def _odd_phase(self, group: OpticsGroup) -> torch.Tensor | None:
        if Quirk.ODD_ABERRATIONS not in self.options.quirks or not any(group.odd_zernike):
            return None
        size, pixel = box_of(group)
        k = np.fft.fftfreq(size, pixel)
        phase = zernike_phase(group.odd_zernike, k, np.fft.rfftfreq(size, pixel), odd=True)
        return torch.polar(torch.ones(phase.shape, dtype=torch.float64), -torch.as_tensor(phase).double())

    def _ctf(
        self,
        series: TiltSeries,
        depth_angst: Array,
        tilts: NDArray[np.int64],
        pixels: PixelList,
        group: OpticsGroup,
        envelopes: Array,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        n = len(pixels)
        if not self.options.apply_ctf:
            ones = np.ones((len(tilts), n), np.float32)
            return ones, None if self.premultiplied else ones
        coefficients = tilt_coefficients(series, tilts, depth_angst[tilts])
        extra = self._even_phase(group, pixels)
        ctf = pixel_ctf(
            coefficients, envelopes[tilts], pixels, box_of(group)[1], first_peak=self.options.first_peak,
            extra_phase=extra,
        )  # fmt: skip
        model = (ctf * ctf if self.premultiplied else ctf).astype(np.float32)
        return model, None if self.premultiplied else ctf.astype(np.float32)

    def _even_phase(self, group: OpticsGroup, pixels: PixelList) -> Array | None:
        if not any(group.even_zernike):
            return None
        step = 1 / (pixels.size * box_of(group)[1])
        rows, columns = np.unique(pixels.v), np.unique(pixels.u)
        grid = zernike_phase(group.even_zernike, rows * step, columns * step, odd=False)
        return np.asarray(grid)[pixels.v - rows[0], pixels.u - columns[0]]

    # ---- for the noise at the start

    def initial_noise(self, optics: int, n_images: int, rows: NDArray[np.int64]) -> Array:
        """Noise power (shells of the reference) of at least ``n_images`` images of an optics group."""
        spectra = self._first_transforms(optics, n_images, rows)
        if not len(spectra):
            return np.ones(self.n_shells)
        values = initial_noise(spectra)
        own = np.arange(self.n_shells) / self.ratio(optics)
        return np.interp(own, np.arange(len(values)), values) / self.ratio(optics) ** 4

    def _first_transforms(self, optics: int, n_images: int, rows: NDArray[np.int64]) -> torch.Tensor:
        """Transform at least ``n_images`` images (m, s, h) of a group, masked if particles are."""
        transforms: list[torch.Tensor] = []
        for index in rows[self.optics_index[rows] == optics]:
            path = str(self.path(int(index)))
            images = torch.from_numpy(read_images([(path, s) for s in range(len(self.visible[index]))]))
            if self.options.zero_mask:
                images = fill_outside(images, self._discs[optics])
            transforms.append(image_transforms(images))
            if sum(map(len, transforms)) >= n_images:
                break
        if not transforms:
            return torch.zeros((0, self.size_px, self.n_shells), dtype=torch.complex64)
        return torch.cat(transforms)
