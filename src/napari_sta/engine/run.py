"""One refinement while it runs: what its steps work with, and none of them changes.

Start, expectation and maximisation are functions of a :class:`Run` and of a
:class:`~napari_sta.engine.state.State`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from napari_sta.engine.quirks import Quirk
from napari_sta.engine.ranks import Ranks
from napari_sta.engine.source import ParticleSource, Window
from napari_sta.engine.state import Array, Settings, State
from napari_sta.engine.workers import Workers
from napari_sta.kernels.fsc import RelionRandom
from napari_sta.kernels.refine import maps, sampling
from napari_sta.kernels.refine import noise as noise_of
from napari_sta.kernels.refine import sums as sums_of
from napari_sta.kernels.refine.control import Rules
from napari_sta.kernels.refine.particle import ParticleImages
from napari_sta.kernels.refine.projector import Projector, make_projector
from napari_sta.kernels.rotations import euler_to_matrix_zyx, symmetry_operators_zyx


@dataclass(eq=False)
class Run:
    """What the steps of a refinement work with.

    Attributes
    ----------
    source
        The particles.
    settings, rules
        What stays the same.
    mask
        (n, n, n) for solvent flattening and FSC.
    workers
        CPU threads.
    ranks
        Processes that share the particles.
    devices
        Torch devices that do the expectation, fed by all threads; none: the compiled loops of the CPU.
    operators
        (g, 3, 3) of the point group.
    subtomograms_zyx
        (n, 3, 3) subtomogram to tomogram.
    seconds
        (n,) that each particle took last time; by them processes share particles out.
    """

    source: ParticleSource
    settings: Settings
    rules: Rules
    mask: torch.Tensor
    workers: Workers = field(default_factory=Workers)
    ranks: Ranks = field(default_factory=Ranks)
    devices: Sequence[torch.device] = ()
    operators: Array = field(init=False)
    subtomograms_zyx: Array = field(init=False)
    seconds: Array = field(init=False)
    _offset_prior_px: Array = field(init=False)
    _model_shells: Array = field(init=False)
    _grid: tuple[int, sampling.OrientationGrid] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.operators = symmetry_operators_zyx(self.settings.symmetry)
        self.subtomograms_zyx = euler_to_matrix_zyx(self.source.particles.subtomogram_angles_deg)
        self.seconds = np.ones(len(self.source))
        # No prior on the origin is one on the centre of the box, as RELION has it.
        self._offset_prior_px = np.nan_to_num(self.source.origin_priors_zyx_angst) / self.pixel_size_angst
        self._model_shells = self.source.model_shells()

    @property
    def size_px(self) -> int:
        """Box of the reference."""
        return self.source.size_px

    @property
    def pixel_size_angst(self) -> float:
        """Of the reference."""
        return self.source.pixel_size_angst

    @property
    def n_shells(self) -> int:
        """Shells of the reference, from 0 to its Nyquist limit."""
        return self.source.n_shells

    def has(self, quirk: Quirk) -> bool:
        """Whether one of RELION's ways is taken."""
        return quirk in self.settings.quirks

    # ---- particles

    def rows_of(self, half_set: NDArray[np.int64], half: int) -> NDArray[np.int64]:
        """Rows of a half set, tilt series by tilt series, so that what belongs to a series is at hand."""
        rows = np.flatnonzero(half_set == half)
        return rows[np.lexsort((rows, self.source.series_index[rows], self.source.optics_index[rows]))]

    def particle(self, state: State, half: int, index: int, window: Window) -> ParticleImages:
        """Read a particle, and say what the state believes of it."""
        images = state.images[half - 1]
        optics, series = int(self.source.optics_index[index]), int(self.source.series_index[index])
        offset_px = state.offset_zyx_angst[index] / self.pixel_size_angst
        particle = self.source.load(index, window, images.sigma2[optics], offset_px)
        noise = None
        if not self.has(Quirk.SHELL_NOISE):
            noise = images.noise[series, particle.tilts] * images.temperature
        return self.at(
            particle,
            index,
            images.sigma2[optics] * images.temperature,
            noise,
            float(images.scale[series]),
            offset_px,
        )

    def at(
        self,
        particle: ParticleImages,
        index: int,
        sigma2: Array,
        noise: Array | None,
        scale: float,
        offset_zyx_px: Array,
    ) -> ParticleImages:
        """Say what is believed of a particle that was read, with the prior on its offset."""
        if self.has(Quirk.WHOLE_PIXELS):
            offset_zyx_px = np.floor(offset_zyx_px + 0.5)
        return particle.at(sigma2, noise, scale, offset_zyx_px, self._offset_prior_px[index])

    # ---- orientations

    def grid(self, order: int) -> sampling.OrientationGrid:
        """Orientations of an order."""
        if self._grid is None or self._grid[0] != order:
            self._grid = order, sampling.make_orientation_grid(order, self.settings.symmetry)
        return self._grid[1]

    def perturbation(self, before: float, iteration: int) -> float:
        """Perturbation of the grids; RELION's own for its seed, which makes runs comparable step by step."""
        draw = float(RelionRandom(self.settings.seed + iteration).uniform(1)[0])
        return sampling.next_perturbation(before, draw, self.settings.perturbation_factor)

    def turns_with_subtomograms(self) -> bool:
        """Whether the grid of global searches has the frame of each subtomogram, as RELION's has."""
        turned = np.abs(self.subtomograms_zyx - np.eye(3)).max() > 1e-9
        return self.source.n_dim == 3 or not turned or self.has(Quirk.SUBTOMOGRAM_GRID)

    # ---- maps and sums

    def lowpassed(self, volume: torch.Tensor) -> torch.Tensor:
        """Return the map with nothing finer than the initial low-pass, in RELION's way."""
        if self.settings.initial_lowpass_angst <= 0:
            return volume
        return maps.lowpass_to_shell(volume, self.rules.edge_angst / self.settings.initial_lowpass_angst)

    def projector(self, volume: torch.Tensor, radius: int) -> Projector:
        """Transform a map for projection up to a radius."""
        return make_projector(volume, radius, self.settings.padding, self.source.n_dim)

    def new_sums(self, radius: int, volume: torch.Tensor | None = None) -> sums_of.Sums:
        """Make empty sums for data up to a radius."""
        return sums_of.new_sums(
            radius, self.settings.padding, len(self.source.particles.optics), len(self.source.series_names),
            self.n_shells, self.source.n_tilts, volume,
        )  # fmt: skip

    def tilt_noise(self, residual: Array, weight: Array) -> Array:
        """Noise power (series, tilts, shells) of raw tilt images, from their residuals."""
        share = float(np.mean(self.source.mask_share)) if self.source.options.zero_mask else 1.0
        return noise_of.noise_by_tilt(residual, weight, self._model_shells, share, self.source.n_dim)

    def add_up_everywhere(self, sums: sums_of.Sums) -> None:
        """Add the statistics of all processes, in each of them; the volume is left alone."""
        for name in sums_of.STATISTICS:
            self.ranks.add_up_everywhere(getattr(sums, name))
        plain = np.array([sums.weight, sums.offset2_angst2, sums.p_max, float(sums.n_particles)])
        self.ranks.add_up_everywhere(plain)
        sums.weight, sums.offset2_angst2, sums.p_max = (float(value) for value in plain[:3])
        sums.n_particles = round(plain[3])
