"""The search of particles' poses in one iteration: what is tried, and what comes of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_sta.engine.plan import Plan
from napari_sta.engine.quirks import Quirk
from napari_sta.engine.run import Run
from napari_sta.engine.state import Array, State
from napari_sta.engine.workers import Watch
from napari_sta.io.relion.axes import ANGLE_PRIORS
from napari_sta.kernels.refine import sampling
from napari_sta.kernels.refine.particle import ParticleImages
from napari_sta.kernels.refine.posterior import Posterior, Search, find_posterior
from napari_sta.kernels.refine.projector import Projector
from napari_sta.kernels.refine.scores import score_shared

_SCORE_BYTES = 200e6
_MOST_SHARING = 32
"""A thread scores so many particles of a tilt series at once, within so much memory."""


class _WholeGrid(NamedTuple):
    """All directions that have a probability: the same for all particles of a global search.

    Attributes
    ----------
    orientation, log_prior
        (o,) places in the grid, and the logarithms of their priors.
    rotations_zyx
        (o, 3, 3) perturbed.
    """

    orientation: NDArray[np.int64]
    log_prior: Array
    rotations_zyx: Array


class Searcher:
    """Search particles of one half set in one iteration."""

    def __init__(self, run: Run, half: int, state: State, plan: Plan) -> None:
        self.run, self.half, self.state, self.plan = run, half, state, plan
        step = plan.control.offset_step_angst
        self.translations = sampling.translation_grid_zyx(plan.control.offset_range_angst, step)
        self.children = sampling.translation_children_zyx(step, run.rules.oversampling)
        self.perturbation_angst = plan.perturbation * step
        self.coarse = [
            (coarse.pixels, window.pixels.places_of(coarse.pixels))
            for window, coarse in zip(
                plan.windows, run.source.coarse_windows(plan.coarse_radius), strict=True
            )
        ]
        # The units of T, O and I are not RELION's, so that RELION's poses lie outside them.
        self.bare_psi = run.has(Quirk.BARE_PSI) and run.settings.symmetry[0] in "CD"
        self.is_local = plan.control.local_prior.is_set
        self.width = (
            plan.control.local_prior
            if self.is_local
            else sampling.AngularPrior(tilt_deg=run.settings.tilt_prior_deg)
        )
        self.frames: Array | None = None
        self.whole: _WholeGrid | None = None
        if not self.width.is_set:
            self.whole, self.frames = self._whole_grid(), self._shared_frames()

    def _whole_grid(self) -> _WholeGrid:
        grid = self.plan.grid
        index = np.arange(len(grid))
        with np.errstate(divide="ignore"):
            pdf = self.state.model(self.half).pdf_direction
            prior = np.log(pdf)[index // grid.n_psi] - np.log(grid.n_psi)
        good = np.isfinite(prior)
        index, prior = index[good], prior[good]
        return _WholeGrid(index, prior, self._turned(grid.angles_deg(index)))

    def _shared_frames(self) -> Array | None:
        """(n, 3, 3) from the frame in which particles read the same slices to that of each; None: no such."""
        frames = np.swapaxes(self.run.subtomograms_zyx, 1, 2)
        if self.run.source.n_dim == 3:
            # Turned volumes are the same for all subtomograms.
            return np.broadcast_to(np.eye(3), frames.shape)
        if not self.run.has(Quirk.SUBTOMOGRAM_GRID) or np.abs(frames - np.eye(3)).max() < 1e-9:
            # The grid lies in the tomogram.
            return frames
        return None

    def _turned(self, angles_deg: Array) -> Array:
        return sampling.perturbed_rotations_zyx(angles_deg, self.plan.perturbation, self.plan.grid.step_deg)

    # ---- particle by particle

    def prepared(
        self, rows: NDArray[np.int64], projector: Projector, watch: Watch
    ) -> Iterator[tuple[int, ParticleImages, Array | None]]:
        """Read particles one by one, or so many of a tilt series at a time as share their coarse slices.

        Yields
        ------
        index, particle, scores
            Scores of the first pass, where they were shared; else None.
        """
        run = self.run
        shared = self.whole is not None and self.frames is not None
        for group in self._groups(rows):
            if not watch.go_on():
                return
            window = self.plan.windows[run.source.optics_index[group[0]]]
            particles = [run.particle(self.state, self.half, index, window) for index in group]
            scores: list[Array | None] = [None] * len(group)
            if shared and len(group) > 1:
                scores = self._shared_scores(group, particles, projector, watch)
                if not watch.go_on():
                    return
            yield from zip(group, particles, scores, strict=True)

    def _groups(self, rows: NDArray[np.int64]) -> Iterator[list[int]]:
        """Cut rows into stretches that are scored at once: of one optics group, and of one tilt series."""
        source, most = self.run.source, 1
        if self.whole is not None and self.frames is not None:
            cells = len(self.whole.orientation) * len(self.translations)
            most = int(np.clip(_SCORE_BYTES / (8 * cells), 1, _MOST_SHARING))

        def together(index: int, head: int) -> bool:
            if source.optics_index[index] != source.optics_index[head]:
                return False
            return source.n_dim == 3 or bool(source.series_index[index] == source.series_index[head])

        group: list[int] = []
        for index in map(int, rows):
            if group and (len(group) == most or not together(index, group[0])):
                yield group
                group = []
            group.append(index)
        if group:
            yield group

    def _shared_scores(
        self, group: list[int], particles: list[ParticleImages], projector: Projector, watch: Watch
    ) -> list[Array | None]:
        assert self.whole is not None
        assert self.frames is not None
        optics = self.run.source.optics_index[group[0]]
        pixels, place = self.coarse[optics]
        if pixels.count < self.plan.windows[optics].pixels.count:
            particles = [particle.at_pixels(place) for particle in particles]
        tilts = [np.asarray(particle.tilts) for particle in particles]
        if self.run.source.n_dim == 3:
            tilts = [np.arange(particle.n_tilts) for particle in particles]
        scores = score_shared(
            projector, particles, tilts, self.frames[group], pixels, self.whole.rotations_zyx,
            (self.translations + self.perturbation_angst) / self.run.pixel_size_angst,
            cross_correlation=self.plan.cross_correlation, go_on=watch.go_on,
        )  # fmt: skip
        return list(scores)

    def search(
        self, index: int, particle: ParticleImages, projector: Projector, scores: Array | None = None
    ) -> tuple[Posterior, NDArray[np.int64]]:
        """Find one particle's posterior; also return the grid orientations that were tried."""
        run, plan = self.run, self.plan
        frame = np.eye(3) if self.frames is None else self.frames[index]
        if self.whole is not None:
            orientation, log_prior, rotations = self.whole
        else:
            orientation, log_prior = self._near_prior(index)
            rotations = self._turned(plan.grid.angles_deg(orientation))

        def children(parents: NDArray[np.int64]) -> Array:
            finer = plan.grid.children_deg(orientation[parents], run.rules.oversampling)
            return frame @ self._turned(finer)

        search = Search(
            frame @ rotations, log_prior, children, self.translations, self.perturbation_angst, self.children,
            run.pixel_size_angst, self.state.images[self.half - 1].sigma2_offset_angst2,
            run.settings.adaptive_fraction, run.has(Quirk.OFFSET_UNITS),
        )  # fmt: skip
        optics = run.source.optics_index[index]
        all_pixels, (pixels, place) = plan.windows[optics].pixels, self.coarse[optics]
        coarse = None
        if pixels.count < all_pixels.count:
            coarse = (projector, particle.at_pixels(place), pixels)
        posterior = find_posterior(
            projector, particle, all_pixels, search, coarse, scores, cross_correlation=plan.cross_correlation
        )
        return posterior, orientation

    def _near_prior(self, index: int) -> tuple[NDArray[np.int64], Array]:
        """Orientations near the middle of a particle's prior, and the logarithms of their priors."""
        centre = self._prior_angles_deg(index)
        choice = sampling.choose_near_prior(self.plan.grid, centre[None], self.width, bare_psi=self.bare_psi)[
            0
        ]
        return choice.orientation, np.log(choice.prior)

    def _prior_angles_deg(self, index: int) -> Array:
        """Rot, tilt, psi in the middle of a particle's prior: the prior columns in global searches.

        NaN where a column has nothing for this particle.
        """
        angles: Array = self.state.angles_deg[index].copy()
        if not self.is_local:
            source = self.run.source
            there = [label in source.particles.text for label in ANGLE_PRIORS]
            angles[there] = source.angle_priors_deg[index, there]
        return angles
