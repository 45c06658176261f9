"""3D pseudo-subtomograms: transform, weights and multiplicities of each particle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from napari_sta.data.errors import InputError
from napari_sta.engine.quirks import Quirk
from napari_sta.engine.source import Array, ParticleSource, Window, box_of
from napari_sta.io.mrc import MrcHeader, read_header, read_volume
from napari_sta.kernels.refine.images import fill_outside, shell_powers
from napari_sta.kernels.refine.on_cpu import shift_images
from napari_sta.kernels.refine.particle import ParticleImages
from napari_sta.kernels.refine.volumes import (
    Weights,
    initial_volume_noise,
    moved_by_voxels,
    shell_totals,
    spreading_falloff,
    volume_transform,
    volume_window_power,
    weights_of,
)
from napari_sta.kernels.refine.voxels import VoxelList, half_space_shells, make_voxel_list

if TYPE_CHECKING:
    from napari_sta.data.particles import OpticsGroup

_SAMPLED = 8
"""Particles of a tomogram whose weights say what those of the others are like."""

_LEAST_FALLOFF = 0.4
"""Of :func:`~napari_sta.kernels.refine.volumes.spreading_falloff` within the inscribed ball."""


class SubtomogramSource(ParticleSource):
    """Read pseudo-subtomograms one by one.

    Notes
    -----
    A volume X holds the sum of the CTF-multiplied images of all tilts, so that on average it is C2 · V, with
    the sum of CTF² C2 of its weights file. Were the noise of all tilts the same, sigma² a component, the
    log-likelihood of the images is sum (Re(conj(V) X) - C2 abs(V)² / 2) / sigma²: the likelihood of
    :class:`~napari_sta.kernels.refine.particle.ParticleImages` with a noise of its own, one a tomogram.
    The trilinear spreading that made X has multiplied it by sinc² along each axis; that is undone first.
    With ``Quirk.SHELL_NOISE`` the metric is RELION's, abs(X - C2 V)² / 2 sigma² divided by the number of
    slices; with ``Quirk.SPREAD_VOLUMES`` X is taken as it is.
    """

    n_dim: ClassVar[int] = 3
    _LABELS: ClassVar[tuple[str, ...]] = ("rlnImageName", "rlnCtfImage")

    def _read_tables(self) -> None:
        self.n_tilts = 1
        self.visible = [np.zeros(1, dtype=np.int64)] * len(self.particles)
        self._falloffs: dict[int, torch.Tensor] = {}
        if not self.options.zero_mask:
            raise InputError("3D subtomograms can only be masked with zeros; use --zero_mask Yes")
        if not self.options.apply_ctf:
            raise InputError(
                "3D subtomograms are multiplied by CTF² for good; use --ctf_correction Yes, or extract 2D "
                "stacks"
            )
        if self.options.first_peak:
            raise InputError(
                "the weights of 3D subtomograms hold the whole CTF; use --ignore_ctf_until_first_peak No, or "
                "extract 2D stacks"
            )

    def _premultiplied(self) -> bool:
        return True

    def check_files(self) -> None:
        """Find missing files before work starts.

        Raises
        ------
        InputError
            If data or weights are missing or of another size than the optics group says.
        """
        for index in range(len(self)):
            self._check_size(index)

    def _check_size(self, index: int) -> MrcHeader:
        size = box_of(self._group(index))[0]
        for label, expected in (
            ("rlnCtfImage", (2 * size, size, size // 2 + 1)),
            ("rlnImageName", (size, size, size)),
        ):
            path = self.path(index, label)
            header = read_header(path)
            self._check_shape(path, label, header.shape_zyx, expected)
        return header

    @staticmethod
    def _check_shape(path: Path, label: str, shape: tuple[int, ...], expected: tuple[int, int, int]) -> None:
        if tuple(shape) == expected:
            return
        found, wanted = (" x ".join(str(n) for n in reversed(s)) for s in (shape, expected))
        what = "CTF² and multiplicity" if label == "rlnCtfImage" else "a subtomogram"
        raise InputError(
            f"{path} has {found} voxels; {what} of this optics group would have {wanted}; extract again"
        )

    def _group(self, index: int) -> OpticsGroup:
        return self.particles.optics[self.optics_index[index]]

    # ---- reading

    def _pixels(self, group: OpticsGroup, radius: int) -> VoxelList:
        return make_voxel_list(box_of(group)[0], radius, self._ratio(group))

    def _shells(self, group: OpticsGroup, radius: int) -> torch.Tensor:
        return half_space_shells(box_of(group)[0], self._ratio(group), self.n_shells)

    def model_shells(self) -> Array:
        """Shell sums (series, 1, shells) of what multiplies noise, the CTF² weights, over a few particles."""
        n_shells = self.n_shells
        out = np.zeros((len(self.series_names), 1, n_shells))
        shells = [self._shells(group, 0) for group in self.particles.optics]
        for place in range(len(self.series_names)):
            rows = np.flatnonzero(self.series_index == place)
            chosen = rows[np.unique(np.linspace(0, len(rows) - 1, _SAMPLED).astype(np.int64))]
            for index in chosen:
                weights = self._weights(int(index))
                totals = shell_totals(weights.ctf2, shells[self.optics_index[index]], n_shells)
                out[place, 0] += totals / len(chosen)
        return out

    def _weights(self, index: int) -> Weights:
        path, size = self.path(index, "rlnCtfImage"), box_of(self._group(index))[0]
        stored = read_volume(path).data
        self._check_shape(path, "rlnCtfImage", stored.shape, (2 * size, size, size // 2 + 1))
        return weights_of(torch.from_numpy(stored))

    def _data(self, index: int) -> torch.Tensor:
        path, size = self.path(index), box_of(self._group(index))[0]
        volume = read_volume(path).data
        self._check_shape(path, "rlnImageName", volume.shape, (size, size, size))
        data = torch.from_numpy(volume)
        return data if Quirk.SPREAD_VOLUMES in self.options.quirks else data / self._falloff(size)

    def _falloff(self, size: int) -> torch.Tensor:
        if size not in self._falloffs:
            self._falloffs[size] = spreading_falloff(size).clamp(min=_LEAST_FALLOFF).float()
        return self._falloffs[size]

    def load(
        self, index: int, window: Window, sigma2: Array | None = None, offset_zyx_px: Array | None = None
    ) -> ParticleImages:
        """Read one particle's volumes and prepare them; see :meth:`ParticleSource.load`.

        Raises
        ------
        InputError
            If a file cannot be read, has another size, or holds values that are not finite.
        """
        optics = int(self.optics_index[index])
        pixels, disc = window.pixels, self._discs[optics]
        assert isinstance(pixels, VoxelList)
        ratio = self.ratio(optics)
        data, weights = self._data(index) / ratio**3, self._weights(index)
        back = None
        if Quirk.MOVED_VOLUMES in self.options.quirks and offset_zyx_px is not None:
            # The phases of the transform are moved back, so that poses mean the same.
            whole = np.floor(offset_zyx_px / ratio + 0.5).astype(np.int64)
            if whole.any():
                data = moved_by_voxels(data, [int(d) for d in whole])
                back = -whole
        unmasked = volume_transform(data)
        masked = volume_transform(fill_outside(data, disc, n_dim=3))
        if Quirk.SPREAD_VOLUMES in self.options.quirks:
            there = weights.multiplicity > 0
            unmasked, masked = unmasked * there, masked * there
        n_shells = self.n_shells
        listed = [pixels.take(masked), pixels.take(unmasked)]
        if back is not None:
            for values in listed:
                for k in range(len(pixels.parts)):
                    shift_images(
                        values[k].copy(), back[None].astype(np.float64), pixels.part(k), values[k : k + 1]
                    )
        n_parts = len(pixels.parts)
        return ParticleImages(
            masked=listed[0],
            unmasked=listed[1],
            model=pixels.pick(weights.ctf2),
            ctf=None,
            matrices_zyx=np.broadcast_to(np.eye(3) * ratio, (n_parts, 3, 3)),
            power=shell_powers(masked[None], window.shells, n_shells),
            window_power=np.array([volume_window_power(masked, pixels.radius)]),
            tilts=np.zeros(n_parts, dtype=np.int64),
            multiplicity=pixels.pick(weights.multiplicity),
            multiplicity_per_shell=shell_totals(weights.multiplicity, window.shells, n_shells),
            sigma2=np.ones(n_shells),
            offset_zyx_px=np.zeros(3),
            offset_prior_zyx_px=np.zeros(3),
            scale=1.0,
        )

    # ---- for the noise at the start

    def initial_noise(self, optics: int, n_images: int, rows: NDArray[np.int64]) -> Array:
        """Noise power of one slice, from up to ``n_images`` volumes of an optics group."""
        chosen = rows[self.optics_index[rows] == optics][: min(n_images, 100)]
        if not len(chosen):
            return np.ones(self.n_shells)
        spectra, multiplicities = [], []
        for index in chosen:
            data = fill_outside(self._data(int(index)), self._discs[optics], n_dim=3)
            spectra.append(volume_transform(data))
            multiplicities.append(self._weights(int(index)).multiplicity)
        return initial_volume_noise(spectra, multiplicities)
