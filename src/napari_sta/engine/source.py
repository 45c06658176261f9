"""Extracted particles, read when they are needed: what stacks and pseudo-subtomograms have in common.

A source needs no refinement. Whoever wants to compare particles with a reference opens one
(:func:`napari_sta.engine.particles.open_particles`), takes the :meth:`~ParticleSource.windows` of a radius,
and asks for particle after particle with :meth:`~ParticleSource.load`; ``.at(...)`` of that says what is
believed of its noise, scale and offset. Tables are kept, images never.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from napari_sta.data.errors import InputError
from napari_sta.engine.quirks import Quirk
from napari_sta.io.files import resolve
from napari_sta.io.relion.axes import ANGLE_PRIORS, ORIGIN_PRIORS
from napari_sta.io.relion.numbers import particle_numbers
from napari_sta.io.relion.subtomograms import check_subtomogram_kind
from napari_sta.kernels.refine.images import soft_disc
from napari_sta.kernels.refine.particle import ParticleImages
from napari_sta.kernels.refine.pixels import PixelList
from napari_sta.kernels.refine.voxels import VoxelList

if TYPE_CHECKING:
    from napari_sta.data.particles import OpticsGroup, Particles
    from napari_sta.data.tilt_series import TiltSeries
    from napari_sta.io.mrc import MrcHeader
    from napari_sta.io.relion.inputs import StaInputs

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ImageOptions:
    """How images are masked and modelled.

    Attributes
    ----------
    diameter_angst, edge_px
        Of the soft disc (ball) that cuts a particle out, and the width of its edge.
    zero_mask
        Outside is 0; else noise.
    apply_ctf
        The CTF is part of the model; else it is taken for 1.
    first_peak
        The CTF counts from its first peak on only.
    seed
        Of the noise outside the mask.
    quirks
        What of RELION's to keep.
    """

    diameter_angst: float
    edge_px: float = 5.0
    zero_mask: bool = True
    apply_ctf: bool = True
    first_peak: bool = False
    seed: int = 0
    quirks: frozenset[Quirk] = frozenset()


class Window(NamedTuple):
    """Pixels of one optics group that an iteration looks at.

    Attributes
    ----------
    pixels
        Half plane (half space of volumes) up to the current radius; shells are those of the reference.
    shells
        Shell of every half-grid pixel of the full image, for power spectra.
    """

    pixels: PixelList | VoxelList
    shells: torch.Tensor


class ParticleSource(ABC):
    """Read particles one by one; keeps tables, never images.

    Attributes
    ----------
    particles
        As read.
    options
        How their images are masked and modelled.
    size_px, pixel_size_angst
        Box and pixel of the reference: those of the first optics group.
    series_names, series_index
        Tomograms, and (n,) which of them each particle is in.
    optics_index
        (n,) position of its optics group.
    n_tilts
        Of the longest tilt series.
    visible
        Per particle the tilts that show it.
    premultiplied
        Images hold one factor CTF already.
    n_dim
        Of the images.
    mask_share
        Per optics group, the mean square of the disc.
    angle_priors_deg, origin_priors_zyx_angst
        (n, 3) rot, tilt, psi and origin of the prior columns: NaN where a particle has none, 0 without the
        column.
    """

    n_dim: ClassVar[int]
    _LABELS: ClassVar[tuple[str, ...]]

    n_tilts: int
    visible: list[NDArray[np.int64]]

    def __init__(self, inputs: StaInputs, options: ImageOptions) -> None:
        particles = inputs.particles
        self.particles: Particles = particles
        self.options = options
        self._inputs = inputs
        self._check_columns()
        self.angle_priors_deg = particle_numbers(particles, ANGLE_PRIORS, may_lack=True)
        self.origin_priors_zyx_angst = particle_numbers(particles, ORIGIN_PRIORS, may_lack=True)
        groups = particles.optics
        self.size_px, self.pixel_size_angst = box_of(groups[0])
        self.premultiplied = self._premultiplied()
        number = {group.number: position for position, group in enumerate(groups)}
        self.optics_index = np.array([number[int(g)] for g in particles.optics_group])
        self.series_names = particles.tomograms
        place = {name: position for position, name in enumerate(self.series_names)}
        self.series_index = np.array([place[name] for name in particles.tomogram])
        self._paths: dict[str, Path] = {}
        for index in np.unique(self.optics_index, return_index=True)[1]:
            self._check_size(int(index))
        self._discs = [self._disc(group) for group in groups]
        self.mask_share = [float((disc * disc).mean()) for disc in self._discs]
        self._windows: dict[int, list[Window]] = {}
        self._read_tables()

    @property
    def tilt_series(self) -> dict[str, TiltSeries]:
        """Tilt series of the particles by name."""
        return self._inputs.tilt_series

    @property
    def n_shells(self) -> int:
        """Shells of the reference, from 0 to its Nyquist limit."""
        return self.size_px // 2 + 1

    def __len__(self) -> int:
        return len(self.particles)

    # ---- what stacks and volumes do in their own way

    @abstractmethod
    def check_files(self) -> None:
        """Find missing files before work starts.

        Raises
        ------
        InputError
            If one is missing or holds something else than the tables say.
        """

    @abstractmethod
    def load(
        self, index: int, window: Window, sigma2: Array | None = None, offset_zyx_px: Array | None = None
    ) -> ParticleImages:
        """Read one particle and prepare it; noise is 1, scale 1 and offset 0 until it is told better.

        Parameters
        ----------
        sigma2
            (shells,) noise power, for images whose outside is filled with noise.
        offset_zyx_px
            Current shift, for volumes that are moved under their mask (``Quirk.MOVED_VOLUMES``).

        Raises
        ------
        InputError
            If a file cannot be read, has another size, or holds values that are not finite.
        """

    @abstractmethod
    def model_shells(self) -> Array:
        """Shell sums (series, tilts, shells) of what multiplies noise: CTF² if premultiplied, else 1."""

    @abstractmethod
    def initial_noise(self, optics: int, n_images: int, rows: NDArray[np.int64]) -> Array:
        """Noise power (shells of the reference) of about ``n_images`` images of an optics group."""

    @abstractmethod
    def _read_tables(self) -> None:
        """Work out what is known of images before they are read."""

    @abstractmethod
    def _premultiplied(self) -> bool:
        """Whether images hold one factor CTF already."""

    @abstractmethod
    def _check_size(self, index: int) -> MrcHeader:
        """Refuse a file of another box than its optics group says; return its header."""

    @abstractmethod
    def _pixels(self, group: OpticsGroup, radius: int) -> PixelList | VoxelList:
        """List the pixels up to a radius."""

    @abstractmethod
    def _shells(self, group: OpticsGroup, radius: int) -> torch.Tensor:
        """Shell of every half-grid pixel."""

    # ---- what the files must hold

    def _check_columns(self) -> None:
        check_subtomogram_kind(self.particles, self._inputs.particles_path)
        self._check_labels(*self._LABELS)
        particles, path = self.particles, self._inputs.particles_path
        for group in particles.optics:
            if group.image_size_px is None or group.image_pixel_size_angst is None:
                raise InputError(
                    f"{path}: optics group {group.number} has no rlnImageSize or rlnImagePixelSize; extract "
                    "the particles first (napari-sta extract)"
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

    # ---- geometry

    def path(self, index: int, label: str = "rlnImageName") -> Path:
        """Where the images (or weights) of a particle are."""
        name = str(self.particles.text[label][index])
        name = name.rpartition("@")[2]
        path = self._paths.get(name)
        if path is None:
            path = resolve(name, self._inputs.particles_path)
            self._paths[name] = path
        return path

    def ratio(self, optics: int) -> float:
        """Edge of the reference box over that of an optics group's images."""
        return self._ratio(self.particles.optics[optics])

    def _ratio(self, group: OpticsGroup) -> float:
        size, pixel_size = box_of(group)
        return self.size_px * self.pixel_size_angst / (size * pixel_size)

    def _disc(self, group: OpticsGroup) -> torch.Tensor:
        size, pixel_size = box_of(group)
        return soft_disc(
            size, self.options.diameter_angst / (2 * pixel_size), self.options.edge_px, self.n_dim
        )

    def windows(self, radius: int) -> list[Window]:
        """Per optics group, the pixels up to a radius (in Fourier pixels of the reference)."""
        if radius not in self._windows:
            windows = []
            for group in self.particles.optics:
                pixels = self._pixels(group, radius)
                windows.append(Window(pixels, self._shells(group, pixels.radius)))
            self._windows = {radius: windows}
        return self._windows[radius]

    def coarse_windows(self, radius: int) -> list[Window]:
        """As :meth:`windows`, for a first pass with fewer pixels."""
        nothing = torch.zeros(0, dtype=torch.int64)
        return [Window(self._pixels(group, radius), nothing) for group in self.particles.optics]


def box_of(group: OpticsGroup) -> tuple[int, float]:
    """Box (px) and pixel size (Å) of an optics group's images, which a source has made sure of."""
    assert group.image_size_px is not None
    assert group.image_pixel_size_angst is not None
    return group.image_size_px, group.image_pixel_size_angst
