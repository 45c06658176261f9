"""The iterations of 3D auto-refine: expectation over particles, maximisation of both half maps, control.

Files are read through :mod:`napari_sta.jobs._refine_source` only, none are written here.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from napari_sta.data.progress import Progress
from napari_sta.io.relion import ANGLE_PRIORS
from napari_sta.jobs._ranks import Ranks
from napari_sta.jobs._refine_source import LoadedParticle, ParticleSource, Window
from napari_sta.kernels import fsc as fsc_of
from napari_sta.kernels.refine import accuracy, calibration, control, maps, sampling
from napari_sta.kernels.refine import noise as noise_of
from napari_sta.kernels.refine import sums as sums_of
from napari_sta.kernels.refine.backend import placed
from napari_sta.kernels.refine.particle import ParticleImages
from napari_sta.kernels.refine.pixels import pixels_per_shell
from napari_sta.kernels.refine.posterior import (
    Posterior,
    Search,
    at_pose,
    find_posterior,
    mean_pose,
    resampled,
)
from napari_sta.kernels.refine.projector import Projector, make_projector, padded_radius
from napari_sta.kernels.refine.scores import evidence_constant, score_shared
from napari_sta.kernels.rotations import euler_to_matrix_zyx, matrix_zyx_to_euler, symmetry_operators_zyx

Array = NDArray[np.float64]
Thing = TypeVar("Thing")

HALVES = (0, 1)
_ACCURACY_PARTICLES = 100
_ACCURACY_VOLUMES = 10
_CALIBRATION_PARTICLES = 100
_SCORE_BYTES = 200e6
_MOST_SHARING = 32
"""A thread scores so many particles of a tilt series at once, within so much memory."""

_FLUSH = 4000
"""Particles of a half set after which float32 sums are added to float64 ones."""


class Quirk(StrEnum):
    """What RELION does and we do not, unless told to; what each costs is in docs/refinement.md."""

    SHELL_NOISE = "shell_noise"
    """One noise spectrum per optics group, of the images as they are: premultiplied images weigh C² once more."""
    NO_CALIBRATION = "no_calibration"
    """The likelihood is believed, however much the scores of the tilts disagree."""
    BEST_POSE = "best_pose"
    """The best grid point is a particle's pose, not the posterior mean."""
    WHOLE_PIXELS = "whole_pixels"
    """Offsets of the iteration before are rounded to pixels."""
    OFFSET_UNITS = "offset_units"
    """The offset prior adds Å to pixels."""
    FEW_IMAGES = "few_images"
    """The first noise spectrum is that of ten images of half set 1."""
    FIRST_PARTICLES = "first_particles"
    """Accuracies are estimated on the first particles, all of the same tomogram or two."""
    BARE_PSI = "bare_psi"
    """Local searches compare psi as it stands, also with a symmetry mate that has another one (D, T, O, I)."""
    DYING_DIRECTIONS = "dying_directions"
    """A direction without a particle is never tried again at its order."""
    PARTICLE_NOISE = "particle_noise"
    """Noise is averaged over particles, whatever their number of tilts."""
    ROW_ENDS = "row_ends"
    """The last pixel of each row of an image is left out of averages."""
    SUBTOMOGRAM_GRID = "subtomogram_grid"
    """Global searches turn the grid with each subtomogram, so that no slice is shared."""
    ALL_SAMPLES = "all_samples"
    """Every pose that matters is averaged, not a few drawn from them."""


PARITY = frozenset(Quirk)
"""All of them: RELION step by step."""


@dataclass(frozen=True)
class Settings:
    """What a refinement is told once.

    Attributes
    ----------
    symmetry
        Point group.
    initial_lowpass_angst
        Resolution of the start map; 0: as it is.
    solvent_fsc
        FSC in the mask, corrected by phase randomisation.
    join_angst
        Half sets share what is coarser than this.
    first_cc
        First iteration by cross-correlation.
    seed
        Of everything random.
    tilt_prior_deg
        Width of the prior on the tilt angle in global searches; 0: none.
    adaptive_fraction
        Share of the probability that the first pass hands to the second.
    quirks
        What of RELION's to keep.
    samples
        Poses at most that a particle is averaged at.
    """

    symmetry: str
    initial_lowpass_angst: float
    solvent_fsc: bool
    first_cc: bool
    seed: int
    padding: float = 2.0
    tilt_prior_deg: float = 0.0
    join_angst: float = 40.0
    perturbation_factor: float = 0.5
    adaptive_fraction: float = 0.999
    quirks: frozenset[Quirk] = frozenset()
    samples: int = 32


@dataclass(frozen=True)
class State:
    """Where a refinement stands after an iteration; index 0 and 1 are the half sets.

    Attributes
    ----------
    iteration
        Number of the last iteration done.
    angles_deg, offset_zyx_angst, p_max, log_likelihood, n_significant
        Of every particle.
    references
        (2, n, n, n) float32 maps that the next iteration projects.
    sigma2
        (2, groups, shells) noise power of the images as they are.
    noise
        (2, series, tilts, shells) noise power of raw tilt images; empty in parity mode.
    temperature
        (2,) how much too sure the likelihood was found to be.
    scale
        (2, series).
    sigma2_offset_angst2
        (2,).
    pdf_direction
        (2, directions) of the grid.
    fsc, ssnr, tau2, sigma2_map, completeness
        (shells,) or (2, shells).
    converged
        This was the last iteration.
    first_cc
        Iteration 1 is, or was, one of cross-correlation.
    """

    iteration: int
    control: control.Control
    perturbation: float
    angles_deg: Array
    offset_zyx_angst: Array
    p_max: Array
    log_likelihood: Array
    n_significant: NDArray[np.int64]
    references: NDArray[np.float32]
    sigma2: Array
    noise: Array
    temperature: Array
    scale: Array
    sigma2_offset_angst2: Array
    pdf_direction: Array
    fsc: Array
    ssnr: Array
    tau2: Array
    sigma2_map: Array
    completeness: Array
    mean_log_likelihood: Array
    current_size: int
    changes_deg: float = 0.0
    changes_angst: float = 0.0
    converged: bool = False
    first_cc: bool = False


class Maps(NamedTuple):
    """Maps of one iteration: unregularised half maps if they were made, and the whole in the last."""

    unfiltered: list[torch.Tensor] | None
    merged: torch.Tensor | None


class _Found(NamedTuple):
    """What the expectation step says of one particle."""

    row: int
    rotation_zyx: Array
    offset_zyx_px: Array
    p_max: float
    log_likelihood: float
    n_significant: int
    directions: NDArray[np.int64]
    direction_weights: Array


class Refinement:
    """Run iterations.

    Parameters
    ----------
    source
        The particles.
    settings, rules
        What stays the same.
    mask
        (n, n, n) for solvent flattening and FSC.
    threads
        CPU threads.
    ranks
        Processes that share the particles; None: this one alone.
    devices
        Torch devices that do the expectation, fed by all threads; none: the compiled loops of the CPU.
    """

    def __init__(
        self,
        source: ParticleSource,
        settings: Settings,
        rules: control.Rules,
        mask: torch.Tensor,
        half_set: NDArray[np.int64],
        threads: int,
        log: logging.Logger,
        ranks: Ranks | None = None,
        devices: Sequence[torch.device] = (),
    ) -> None:
        self.ranks, self.devices = ranks or Ranks(), list(devices)
        self.source, self.settings, self.rules, self.mask = source, settings, rules, mask
        self.threads, self.log = max(1, threads), log
        self.size, self.pixel = source.size_px, source.pixel_size_angst
        self.n_shells = self.size // 2 + 1
        self.operators = symmetry_operators_zyx(settings.symmetry)
        self.set_half_sets(half_set)
        self._grids: dict[int, sampling.OrientationGrid] = {}
        self.subtomograms_zyx = euler_to_matrix_zyx(source.particles.subtomogram_angles_deg)
        # No prior on the origin is one on the centre of the box, as RELION has it.
        self._offset_prior = np.nan_to_num(source.origin_priors_zyx_angst) / self.pixel
        free = int(np.isnan(source.angle_priors_deg[:, 1]).sum())
        if settings.tilt_prior_deg and free:
            log.warning(
                "%d of %d particles have no rlnAngleTiltPrior: all tilt angles are searched for them",
                free, len(source),
            )  # fmt: skip
        self._stop = threading.Event()
        self._model_shells = source.model_shells()
        self._seconds = np.ones(len(source))

    def set_half_sets(self, half_set: NDArray[np.int64]) -> None:
        """Assign particles to half sets 1 and 2."""
        self.half_set = half_set
        self.rows = [self._order(half) for half in HALVES]

    def with_noise(self, state: State) -> State:
        """Measure the noise of raw tilt images at the poses of a state."""
        volumes = [torch.from_numpy(one).double() for one in state.references]
        _, noise = self._first_look(volumes, state.angles_deg, state.offset_zyx_angst, state.control)
        return replace(state, noise=noise)

    def turns_with_subtomograms(self) -> bool:
        """Whether the grid of global searches has the frame of each subtomogram, as RELION's has."""
        turned = np.abs(self.subtomograms_zyx - np.eye(3)).max() > 1e-9
        return self.source.n_dim == 3 or not turned or Quirk.SUBTOMOGRAM_GRID in self.settings.quirks

    def own_directions(self, pdf: Array) -> Array:
        """Distribution over directions of RELION's files; even, where our grid has another frame."""
        return pdf if self.turns_with_subtomograms() else np.full(len(pdf), 1 / max(len(pdf), 1))

    def _order(self, half: int) -> NDArray[np.int64]:
        rows = np.flatnonzero(self.half_set == half + 1)
        # Tilt series by tilt series, so that what belongs to a series is at hand.
        order = np.lexsort((rows, self.source.series_index[rows], self.source.optics_index[rows]))
        return np.asarray(rows[order])

    def prior_angles(self, index: int, state: State, local: bool) -> Array:
        """Rot, tilt, psi in the middle of a particle's prior: the prior columns in global searches.

        NaN where a column has nothing for this particle.
        """
        angles = state.angles_deg[index].copy()
        if not local:
            there = [label in self.source.particles.text for label in ANGLE_PRIORS]
            angles[there] = self.source.angle_priors_deg[index, there]
        return angles

    def grid(self, order: int) -> sampling.OrientationGrid:
        """Orientations of an order."""
        if order not in self._grids:
            self._grids = {order: sampling.make_orientation_grid(order, self.settings.symmetry)}
        return self._grids[order]

    # ---- the start

    def lowpassed(self, volume: torch.Tensor) -> torch.Tensor:
        """Return the map with nothing finer than the initial low-pass, in RELION's way."""
        if self.settings.initial_lowpass_angst <= 0:
            return volume
        return maps.lowpass_to_shell(volume, self.rules.edge_angst / self.settings.initial_lowpass_angst)

    def start(
        self,
        references: list[torch.Tensor],
        state: control.Control,
        fit_scale: bool,
    ) -> tuple[State, dict[str, float]]:
        """Prepare iteration 0: low-passed references, noise and grey scale.

        Parameters
        ----------
        references
            Two maps.
        fit_scale
            Fit the grey scale of the images to the references at the input poses.

        Returns
        -------
        state
            Ready for the first iteration.
        fit
            ``scale`` and ``significance`` of the fit.
        """
        settings, particles = self.settings, self.source.particles
        volumes = [self.lowpassed(one) for one in references]
        fits = [(1.0, np.inf)] * 2
        n_series, n_tilts = len(self.source.series_names), self.source.n_tilts
        noise = np.zeros((2, n_series, n_tilts, self.n_shells))
        angles, offset = particles.angles_deg.copy(), particles.origin_zyx_angst.copy()
        if fit_scale or Quirk.SHELL_NOISE not in settings.quirks:
            fits, noise = self._first_look(volumes, angles, offset, state)
            if fit_scale:
                volumes = [
                    one * scale if certainty > 0 else one
                    for one, (scale, certainty) in zip(volumes, fits, strict=True)
                ]
        fit = {"scale": float(np.mean([one for one, _ in fits])), "significance": min(s for _, s in fits)}
        sigma2 = self._initial_sigma2()
        grid = self.grid(state.order)
        n = len(particles)
        zeros = np.zeros((2, self.n_shells))
        made = State(
            iteration=0,
            control=state,
            perturbation=self._perturbation(0.0, 0),
            angles_deg=angles,
            offset_zyx_angst=offset,
            p_max=np.zeros(n),
            log_likelihood=np.zeros(n),
            n_significant=np.zeros(n, dtype=np.int64),
            references=np.stack([one.numpy().astype(np.float32) for one in volumes]),
            sigma2=sigma2,
            noise=noise,
            temperature=np.ones(2),
            scale=np.ones((2, n_series)),
            sigma2_offset_angst2=np.full(2, 100.0),
            pdf_direction=np.full((2, grid.n_directions), 1.0 / grid.n_directions),
            fsc=np.zeros(self.n_shells),
            ssnr=zeros.copy(),
            tau2=zeros.copy(),
            sigma2_map=zeros.copy(),
            completeness=zeros.copy(),
            mean_log_likelihood=np.zeros(2),
            current_size=0,
            first_cc=settings.first_cc,
        )
        return made, fit

    def _first_look(
        self,
        volumes: list[torch.Tensor],
        angles: Array,
        offset: Array,
        state: control.Control,
    ) -> tuple[list[tuple[float, float]], Array]:
        """Fit grey scale (with its significance) and noise of each half set at given poses."""
        shell = int(np.floor(self.rules.edge_angst * state.resolution_inv_angst + 0.5))
        shell = max(1, min(shell, self.size // 2))
        windows = self.source.windows(shell)
        fits, noise = [], []
        for half in HALVES:
            projector = self.projector(volumes[half], shell)

            def work(rows: NDArray[np.int64], projector: Projector = projector) -> sums_of.Sums:
                torch.set_num_threads(1)
                mine = self._new_sums(1)
                for i in rows:
                    if self._stop.is_set():
                        break
                    window = windows[self.source.optics_index[i]]
                    loaded = self.source.load(int(i), window)
                    particle = self._images(loaded, int(i), np.ones(self.n_shells), None, 1.0, offset)
                    posterior = at_pose(euler_to_matrix_zyx(angles[i]))
                    sums_of.add_particle(
                        mine, posterior, projector, particle, window.pixels, 0,
                        int(self.source.series_index[i]), self.pixel, tilts=loaded.tilts, average=False,
                    )  # fmt: skip
                return mine

            total = self._new_sums(1)
            rows = self.ranks.share(self.rows[half], np.ones(len(self.rows[half])))
            for part in self._in_threads(work, rows):
                total.add_statistics(part)
            self._add_up(total)
            # tilt_residual = power + norm - 2 cross at scale 1
            cross, norm, weight = total.cross, total.norm, total.tilt_weight
            power = total.tilt_residual - norm + 2 * cross
            count = weight[..., None] * pixels_per_shell(self.size)
            scale, certainty = noise_of.fitted_scale(cross, norm, power, count, shell)
            fits.append((scale, certainty))
            residual = power + scale**2 * norm - 2 * scale * cross if certainty > 0 else power
            noise.append(self._tilt_noise(residual, weight))
        return fits, np.stack(noise)

    def projector(self, volume: torch.Tensor, radius: int) -> Projector:
        """Transform a map for projection up to a radius."""
        return make_projector(volume, radius, self.settings.padding, self.source.n_dim)

    def _add_up(self, sums: sums_of.Sums) -> None:
        """Add the statistics of all processes."""
        for name in sums_of.STATISTICS:
            self.ranks.add_up_everywhere(getattr(sums, name))
        plain = np.array([sums.weight, sums.offset2_angst2, sums.p_max, float(sums.n_particles)])
        self.ranks.add_up_everywhere(plain)
        sums.weight, sums.offset2_angst2, sums.p_max = (float(one) for one in plain[:3])
        sums.n_particles = round(plain[3])

    def _tilt_noise(self, residual: Array, weight: Array) -> Array:
        share = float(np.mean(self.source.mask_share)) if self.source.zero_mask else 1.0
        return noise_of.noise_by_tilt(residual, weight, self._model_shells, share, self.source.n_dim)

    def _initial_sigma2(self) -> Array:
        """Measure the noise of the images as they are: RELION on 10 of half set 1, for both half sets."""
        few = Quirk.FEW_IMAGES in self.settings.quirks
        n_images = 10 if few else 20 * self.source.n_tilts
        first, second = (np.flatnonzero(self.half_set == h) for h in (1, 2))
        rows = [np.concatenate([first, second])] * 2 if few else [first, second]
        halves = []
        for mine in rows:
            groups = []
            for optics in range(len(self.source.particles.optics)):
                values = self.source.initial_noise(optics, n_images, mine)
                groups.append(np.interp(np.arange(self.n_shells), np.arange(len(values)), values))
            halves.append(np.stack(groups))
        return np.stack(halves)

    # ---- one iteration

    def iterate(self, state: State) -> Generator[Progress, None, tuple[State, Maps]]:
        """Do the next iteration.

        Yields
        ------
        progress
            Particles done; ``data`` holds what a monitor shows.
        """
        settings, rules = self.settings, self.rules
        number = state.iteration + 1
        cc = number == 1 and state.first_cc
        began = time.monotonic()
        steer = control.with_convergence(state.control, rules)
        current = control.current_size(steer, rules)
        radius = current // 2
        coarse_radius = min(radius, control.coarse_size(steer, rules) // 2)
        perturbation = self._perturbation(state.perturbation, number)
        windows = self.source.windows(radius)
        about = {"iteration": number, "phase": "", "image_size_px": current, "last": steer.converged}
        total = len(self.source)
        told = Progress(0, total, f"iteration {number}: accuracy", about | {"phase": "accuracy"})
        yield told
        projectors = yield from self.in_background(
            lambda: [self.projector(torch.from_numpy(one), radius) for one in state.references], told
        )
        if not cc:
            found = yield from self.in_background(
                lambda: self.ranks.from_first(self._accuracy(state, projectors[0], windows, number)), told
            )
            steer = replace(steer, accuracy_deg=found[0], accuracy_angst=found[1])
            if number > 1:
                steer = control.with_sampling(steer, rules)
        grid = self.grid(steer.order)
        if grid.n_directions != state.pdf_direction.shape[1] or steer.order != state.control.order:
            flat = np.full((2, grid.n_directions), 1.0 / grid.n_directions)
            state = replace(state, pdf_direction=flat)
        about |= {
            "sampling_deg": steer.fine_step_deg(rules),
            "offset_step_angst": steer.fine_offset_step_angst(rules),
            "offset_range_angst": steer.offset_range_angst,
            "accuracy_deg": steer.accuracy_deg,
            "accuracy_angst": steer.accuracy_angst,
            # of the iteration before
            "resolution_angst": round(1 / max(state.control.resolution_inv_angst, 1e-6), 4),
            "p_max": round(float(state.p_max.mean()), 5),
        }
        # expectation
        volumes: list[Any] = []
        statistics: list[sums_of.Sums] = []
        found_all: list[_Found] = []
        informations: list[list[calibration.Information]] = []
        done = 0
        for half in HALVES:
            step = self._expectation(
                half, state, steer, grid, perturbation, projectors[half], windows, coarse_radius, cc
            )
            while True:
                try:
                    finished = next(step)
                except StopIteration as end:
                    volume, sums, found_half, seen = end.value
                    break
                rate = (time.monotonic() - began) / max(done + finished, 1)
                yield Progress(
                    done + finished, total, f"iteration {number}: expectation",
                    about | {"phase": "expectation", "eta_s": round(rate * (total - done - finished), 1)},
                )  # fmt: skip
            done += len(self.rows[half])
            volumes.append(volume)
            statistics.append(sums)
            found_all += found_half
            informations.append(seen)
        told = Progress(total, total, f"iteration {number}: maximisation", about | {"phase": "maximisation"})
        yield told

        def finish() -> tuple[State, Maps]:
            torch.set_num_threads(self.threads)
            made = None
            if self.ranks.is_first:
                made = self._maximise(
                    state, steer, grid, perturbation, volumes, statistics, found_all, radius, cc
                )
            new, made_maps = self.ranks.from_first(made) or made  # type: ignore[misc]
            if Quirk.NO_CALIBRATION not in settings.quirks and not cc:
                seen_factor = np.array([calibration.overconfidence(one) for one in informations])
                new = replace(new, temperature=np.clip(state.temperature * seen_factor, 1.0, 100.0))
            return new, made_maps

        return (yield from self.in_background(finish, told))

    def in_background(self, work: Callable[[], Thing], told: Progress) -> Generator[Progress, None, Thing]:
        """Run something long in a thread and keep telling, so that the job can be stopped meanwhile."""
        box: queue.SimpleQueue[tuple[Thing | None, BaseException | None]] = queue.SimpleQueue()

        def run() -> None:
            try:
                box.put((work(), None))
            except BaseException as error:
                box.put((None, error))

        threading.Thread(target=run, daemon=True).start()
        try:
            while True:
                try:
                    result, error = box.get(timeout=0.25)
                except queue.Empty:
                    yield told
                    continue
                if error is not None:
                    raise error
                return result  # type: ignore[return-value]
        except GeneratorExit:
            self._stop.set()
            raise

    def _perturbation(self, before: float, iteration: int) -> float:
        """Perturbation of the grids; RELION's own for its seed, which makes runs comparable step by step."""
        draw = float(fsc_of.PhaseStream(self.settings.seed + iteration).uniform(1)[0])
        return sampling.next_perturbation(before, draw, self.settings.perturbation_factor)

    def _new_sums(self, radius: int, volume: torch.Tensor | None = None) -> sums_of.Sums:
        return sums_of.new_sums(
            radius, self.settings.padding, len(self.source.particles.optics), len(self.source.series_names),
            self.n_shells, self.source.n_tilts, volume,
        )  # fmt: skip

    def _images(
        self,
        loaded: LoadedParticle,
        index: int,
        sigma2: Array,
        noise: Array | None,
        scale: float,
        offset_zyx_angst: Array,
    ) -> ParticleImages:
        offset = offset_zyx_angst[index] / self.pixel
        if Quirk.WHOLE_PIXELS in self.settings.quirks:
            offset = np.floor(offset + 0.5)
        return ParticleImages(
            masked=loaded.masked, unmasked=loaded.unmasked, model=loaded.model, ctf=loaded.ctf,
            matrices_zyx=loaded.matrices_zyx, power=loaded.power, sigma2=sigma2, offset_zyx_px=offset,
            offset_prior_zyx_px=self._offset_prior[index], scale=scale, window_power=loaded.window_power,
            noise=noise, multiplicity=loaded.multiplicity, slices=loaded.slices,
        )  # fmt: skip

    def particle(
        self, state: State, half: int, index: int, window: Window
    ) -> tuple[ParticleImages, LoadedParticle]:
        optics, series = int(self.source.optics_index[index]), int(self.source.series_index[index])
        offset = state.offset_zyx_angst[index] / self.pixel
        loaded = self.source.load(index, window, state.sigma2[half, optics], offset)
        noise = None
        sigma2 = state.sigma2[half, optics] * state.temperature[half]
        if Quirk.SHELL_NOISE not in self.settings.quirks:
            noise = state.noise[half, series, loaded.tilts] * state.temperature[half]
        particle = self._images(
            loaded, index, sigma2, noise, float(state.scale[half, series]),
            state.offset_zyx_angst,
        )  # fmt: skip
        return particle, loaded

    def _in_threads(self, work: Callable[[NDArray[np.int64]], Thing], rows: NDArray[np.int64]) -> list[Thing]:
        """Share rows out among threads, always in the same way; return what each found, in order."""
        try:
            with ThreadPoolExecutor(self.threads) as pool:
                return list(pool.map(work, [rows[k :: self.threads] for k in range(self.threads)]))
        finally:
            torch.set_num_threads(self.threads)  # workers set theirs to 1, which is everybody's

    def _accuracy(
        self, state: State, projector: Projector, windows: list[Window], number: int
    ) -> tuple[float, float]:
        if not self.ranks.is_first:
            return 0.0, 0.0
        rng = np.random.default_rng([self.settings.seed, number])
        rows = self.rows[0]
        if Quirk.FIRST_PARTICLES in self.settings.quirks:
            rows = rows[: _ACCURACY_PARTICLES if self.source.n_dim == 2 else _ACCURACY_VOLUMES]
        elif len(rows) > _ACCURACY_PARTICLES:
            rows = np.sort(rng.choice(rows, _ACCURACY_PARTICLES, replace=False))
        seed = int(rng.integers(2**31))
        found: dict[int, accuracy.Accuracy] = {}

        def work(mine: NDArray[np.int64]) -> None:
            torch.set_num_threads(1)
            for i in mine:
                if self._stop.is_set():
                    break
                window = windows[self.source.optics_index[i]]
                particle, _ = self.particle(state, 0, int(i), window)
                if self.source.parity:  # RELION leaves the multiplicity of volumes out here
                    particle = replace(particle, multiplicity=None)
                found[int(i)] = accuracy.expected_accuracy(
                    projector, particle, window.pixels, state.angles_deg[i],
                    np.random.default_rng([seed, int(i)]),
                )  # fmt: skip

        self._in_threads(work, rows)
        if self._stop.is_set():
            return 0.0, 0.0
        values = np.array([found[int(i)] for i in rows])
        angle, offset = values.mean(axis=0)
        return float(angle), float(offset * self.pixel)

    def _expectation(
        self,
        half: int,
        state: State,
        steer: control.Control,
        grid: sampling.OrientationGrid,
        perturbation: float,
        projector: Projector,
        windows: list[Window],
        coarse_radius: int,
        cc: bool,
    ) -> Generator[int, None, tuple[Any, sums_of.Sums, list[_Found], list[calibration.Information]]]:
        """Search every particle of a half set; yields how many are done, returns what they add up to."""
        settings, rows = self.settings, self.rows[half]
        rng = np.random.default_rng([settings.seed, state.iteration + 1, half + 1])
        seed = int(rng.integers(2**31))
        calibrated: set[int] = set()
        if Quirk.NO_CALIBRATION not in settings.quirks and not cc:
            chosen = rows
            if len(rows) > _CALIBRATION_PARTICLES:
                chosen = rng.choice(rows, _CALIBRATION_PARTICLES, replace=False)
            calibrated = {int(i) for i in chosen}
        rows = self.ranks.share(rows, self._seconds[rows])
        searcher = _Searcher(self, half, state, steer, grid, perturbation, coarse_radius, windows)
        found: dict[int, _Found] = {}
        informations: dict[int, calibration.Information] = {}
        radius = windows[0].pixels.radius if abs(self.source.ratio(0) - 1) < 1e-9 else projector.radius
        shares, theirs, on_devices = self._shares(projector, radius)
        statistics = self._new_sums(1)
        volume = np.zeros(tuple(shares[0].volume.shape), np.float64)
        stop = threading.Event()
        finished: queue.SimpleQueue[int] = queue.SimpleQueue()

        def work(share: int, mine: NDArray[np.int64]) -> None:
            torch.set_num_threads(1)
            sums, projector = shares[share], theirs[share]
            clock = time.perf_counter()
            for index, loaded, particle, scores in searcher.prepared(mine, projector, cc, stop):
                if stop.is_set():
                    return
                window = windows[self.source.optics_index[index]]
                posterior, choice = searcher.search(index, particle, window, projector, cc, scores)
                rotation = posterior.rotations_zyx[posterior.best[0]]
                shift = posterior.shifts_zyx_px[posterior.best[1]]
                p_max, kept = posterior.p_max, posterior
                if Quirk.BEST_POSE not in settings.quirks and not cc:
                    rotation, shift = mean_pose(posterior, self.operators, 3 * grid.step_deg)
                if Quirk.ALL_SAMPLES not in settings.quirks and not cc:
                    start = float(np.random.default_rng([seed, index]).random())
                    kept = resampled(posterior, settings.samples, start)
                if index in calibrated:
                    informations[index] = calibration.pose_information(
                        projector, particle, window.pixels, rotation, shift
                    )
                sums_of.add_particle(
                    sums, kept, projector, particle, window.pixels,
                    int(self.source.optics_index[index]), int(self.source.series_index[index]), self.pixel,
                    tilts=loaded.tilts, statistics=not cc, per_image=Quirk.PARTICLE_NOISE not in settings.quirks,
                    drop_row_ends=Quirk.ROW_ENDS in settings.quirks,
                )  # fmt: skip
                sums.p_max += p_max - kept.p_max
                evidence = posterior.log_evidence
                if not cc and particle.noise is None:
                    evidence += evidence_constant(particle, window.pixels)
                found[index] = _Found(
                    index, rotation, particle.offset_zyx_px + shift, p_max, evidence,
                    posterior.n_significant, choice[posterior.parents] // grid.n_psi,
                    posterior.weights.sum(axis=1),
                )  # fmt: skip
                now = time.perf_counter()
                seconds[index] = now - clock
                clock = now
                finished.put(index)

        seconds = np.zeros(len(self.source))
        done = 0
        for first in range(0, len(rows), _FLUSH):
            block = rows[first : first + _FLUSH]
            with ThreadPoolExecutor(self.threads) as pool:
                parts = [block[k :: self.threads] for k in range(self.threads)]
                running = [pool.submit(work, k, part) for k, part in enumerate(parts)]
                try:
                    while not all(one.done() for one in running):
                        with_any = _drain(finished, 0.2)
                        if with_any:
                            done += with_any
                            yield done
                        if any(one.done() and one.exception() for one in running):
                            break
                    stop_on_error = [one.exception() for one in running if one.done() and one.exception()]
                    if stop_on_error:
                        stop.set()
                    for one in running:
                        one.result()
                finally:
                    stop.set()
            torch.set_num_threads(self.threads)
            stop.clear()
            done_volumes: list[Any] = [*on_devices] or [share.volume for share in shares]
            for part in done_volumes:
                volume += part.cpu().numpy() if isinstance(part, torch.Tensor) else part
                part[:] = 0
        for share in shares:
            statistics.add_statistics(share)
        self.ranks.add_up(volume)
        self._add_up(statistics)
        self.ranks.add_up_everywhere(seconds)
        self._seconds[seconds > 0] = seconds[seconds > 0]
        everything = self.ranks.collect((found, informations))
        found = {index: one for part, _ in everything for index, one in part.items()}
        informations = {index: one for _, part in everything for index, one in part.items()}
        ordered = [found[int(i)] for i in self.rows[half]]
        return volume, statistics, ordered, [informations[i] for i in sorted(informations)]

    def _shares(
        self, projector: Projector, radius: int
    ) -> tuple[list[sums_of.Sums], list[Projector], list[torch.Tensor]]:
        """Give every thread sums and projector; threads that feed one device share a volume on it."""
        if not self.devices:
            shares = [self._new_sums(radius) for _ in range(self.threads)]
            return shares, [projector] * self.threads, []

        there = [placed(projector, device) for device in self.devices]
        shape = self._new_sums(radius).volume.shape
        volumes = [torch.zeros(tuple(shape), device=device) for device in self.devices]
        place = [k % len(self.devices) for k in range(self.threads)]
        shares = [self._new_sums(radius, volumes[k]) for k in place]
        return shares, [there[k] for k in place], volumes

    def _maximise(
        self,
        state: State,
        steer: control.Control,
        grid: sampling.OrientationGrid,
        perturbation: float,
        volumes: list[Array],
        statistics: list[sums_of.Sums],
        found: list[_Found],
        radius: int,
        cc: bool,
    ) -> tuple[State, Maps]:
        settings, rules, padding = self.settings, self.rules, self.settings.padding
        size, n_shells, n_dim = self.size, self.n_shells, self.source.n_dim
        last = steer.converged
        reach = padded_radius(radius, padding)
        full = []
        while volumes:  # each is a gigabyte at box 192
            full.append(maps.complete_sums(volumes.pop(0), self.operators, reach, self.threads))
        unfiltered: list[torch.Tensor] | None = None
        if last:
            unfiltered = [maps.reconstruct(v, size, radius, padding, n_dim=n_dim) for v in full]
        join = maps.joining_radius(
            size, self.pixel, settings.join_angst, 1 / max(state.control.resolution_inv_angst, 1e-6)
        )
        joined = [v.copy() for v in full] if last else full
        maps.join_low_resolution(joined[0], joined[1], join, padding)
        if settings.solvent_fsc:
            plain = [maps.reconstruct(v, size, radius, padding, n_dim=n_dim) for v in joined]
            fsc = maps.solvent_corrected_fsc(
                plain[0], plain[1], self.mask, 2 * radius, seed=settings.seed + state.iteration + 1
            )
            if not last:
                unfiltered = plain
        else:
            fsc = maps.average_fsc(joined[0], joined[1], radius, padding, n_shells)
        full = [full[0] + full[1]] if last else joined
        noise_maps = [maps.map_noise(v, radius, padding, n_shells) for v in full]
        priors = [maps.signal_prior(fsc, n, whole=last) for n in noise_maps]
        made = [
            maps.reconstruct(v, size, radius, padding, p.tau2, n_dim=n_dim)
            for v, p in zip(full, priors, strict=True)
        ]
        completeness = [maps.fourier_completeness(v, radius, padding, n_shells) for v in full]
        merged = made[0] if last else None
        references = state.references
        if not last:
            if cc:
                made = [self.lowpassed(one) for one in made]
            references = np.stack([(one * self.mask).numpy().astype(np.float32) for one in made])

        n = len(self.source)
        rotation = np.zeros((n, 3, 3))
        offset = np.zeros((n, 3))
        p_max, likelihood = np.zeros(n), np.zeros(n)
        n_significant = np.zeros(n, dtype=np.int64)
        for one in found:
            rotation[one.row] = one.rotation_zyx
            offset[one.row] = one.offset_zyx_px * self.pixel
            p_max[one.row], likelihood[one.row] = one.p_max, one.log_likelihood
            n_significant[one.row] = one.n_significant
        angles = matrix_zyx_to_euler(rotation)
        before = euler_to_matrix_zyx(state.angles_deg)
        changes_deg = control.angle_change_deg(before, rotation, settings.symmetry)
        changes_angst = control.offset_change_angst(state.offset_zyx_angst, offset)

        half_p_max = [s.p_max / max(s.n_particles, 1) for s in statistics]
        ssnr = priors[0].ssnr
        if cc:
            shell = int(np.floor(rules.edge_angst * state.control.resolution_inv_angst + 0.5))
        else:
            shell = maps.current_resolution_shell(ssnr)
        steer = control.after_iteration(
            steer, rules, fsc=fsc, resolution_shell=shell, p_max=half_p_max[0], changes_deg=changes_deg,
            changes_angst=changes_angst, used_size=2 * radius,
        )  # fmt: skip
        sigma2, noise, scale = state.sigma2, state.noise, state.scale
        if not cc:
            sigma2 = np.stack(
                [noise_of.update_noise(s, size, premultiplied=self.source.premultiplied) for s in statistics]
            )
            # A group without particles in a half set keeps what it had.
            for half in HALVES:
                empty = statistics[half].n_images == 0
                sigma2[half, empty] = state.sigma2[half, empty]
            if Quirk.SHELL_NOISE not in settings.quirks:
                noise = np.stack([self._tilt_noise(s.tilt_residual, s.tilt_weight) for s in statistics])
            if len(self.source.series_names) > 1:
                scale = np.stack([self._scale(half, statistics[half], state, ssnr) for half in HALVES])
        sigma2_offset = np.array([noise_of.update_sigma2_offset(s) for s in statistics])
        pdf = self._directions(found, grid, state) if not steer.local_prior.is_set else state.pdf_direction
        new = State(
            iteration=state.iteration + 1,
            control=steer,
            perturbation=perturbation,
            angles_deg=angles,
            offset_zyx_angst=offset,
            p_max=p_max,
            log_likelihood=likelihood,
            n_significant=n_significant,
            references=references,
            sigma2=sigma2,
            noise=noise,
            temperature=state.temperature,
            scale=scale,
            sigma2_offset_angst2=sigma2_offset,
            pdf_direction=pdf,
            fsc=fsc,
            ssnr=np.stack([ssnr] * 2),
            tau2=np.stack([priors[min(h, len(priors) - 1)].tau2 for h in HALVES]),
            sigma2_map=np.stack([noise_maps[min(h, len(noise_maps) - 1)] for h in HALVES]),
            completeness=np.stack([completeness[min(h, len(completeness) - 1)] for h in HALVES]),
            mean_log_likelihood=np.array([likelihood[rows].sum() for rows in self.rows]),
            current_size=2 * radius,
            changes_deg=changes_deg,
            changes_angst=changes_angst,
            converged=last,
            first_cc=state.first_cc,
        )
        return new, Maps(unfiltered, merged)

    def _scale(self, half: int, sums: sums_of.Sums, state: State, ssnr: Array) -> Array:
        counts = np.bincount(
            self.source.series_index[self.rows[half]], minlength=len(self.source.series_names)
        )
        if Quirk.SHELL_NOISE in self.settings.quirks:
            return noise_of.update_scales(sums, state.ssnr[half], counts)
        inverse = 1 / state.noise[half]
        weighed = replace(sums, cross=sums.cross * inverse, norm=sums.norm * inverse)
        return noise_of.update_scales(weighed, ssnr, counts)

    def _directions(self, found: list[_Found], grid: sampling.OrientationGrid, state: State) -> Array:
        pdf = np.zeros((2, grid.n_directions))
        for one in found:
            np.add.at(pdf[self.half_set[one.row] - 1], one.directions, one.direction_weights)
        pdf /= np.maximum(pdf.sum(axis=1, keepdims=True), 1e-300)
        if Quirk.DYING_DIRECTIONS not in self.settings.quirks:
            # A direction without a particle now may have one in the next iteration.
            pdf = (pdf + 1e-3 / grid.n_directions) / (1 + 1e-3)
        return pdf


def _drain(finished: queue.SimpleQueue[int], patience_s: float) -> int:
    """Count what arrives, waiting for the first only."""
    count = 0
    try:
        finished.get(timeout=patience_s)
        count = 1
        while True:
            finished.get_nowait()
            count += 1
    except queue.Empty:
        return count


class _Searcher:
    """Search particles of one half set in one iteration."""

    def __init__(
        self,
        loop: Refinement,
        half: int,
        state: State,
        steer: control.Control,
        grid: sampling.OrientationGrid,
        perturbation: float,
        coarse_radius: int,
        windows: list[Window],
    ) -> None:
        self.loop, self.half, self.state, self.steer = loop, half, state, steer
        self.grid, self.perturbation = grid, perturbation
        step = steer.offset_step_angst
        self.translations = sampling.translation_grid_zyx(steer.offset_range_angst, step)
        self.kids = sampling.translation_children_zyx(step, loop.rules.oversampling)
        self.shift = perturbation * step
        self.coarse = [
            (pixels, window.pixels.places_of(pixels))
            for window, pixels in zip(
                windows, (w.pixels for w in loop.source.coarse_windows(coarse_radius)), strict=True
            )
        ]
        # The units of T, O and I are not RELION's, so that RELION's poses lie outside them.
        self.bare_psi = Quirk.BARE_PSI in loop.settings.quirks and loop.settings.symmetry[0] in "CD"
        self.windows = windows
        self.frames: Array | None = None
        self.whole: tuple[Any, Any, Any] | None = None
        if not self.is_restrained:
            index = np.arange(len(grid))
            with np.errstate(divide="ignore"):
                prior = np.log(state.pdf_direction[half])[index // grid.n_psi] - np.log(grid.n_psi)
            good = np.isfinite(prior)
            index, prior = index[good], prior[good]
            self.whole = (index, prior, self._turned(grid.angles_deg(index)))
            frames = np.swapaxes(loop.subtomograms_zyx, 1, 2)
            if loop.source.n_dim == 3:
                # Turned volumes are the same for all subtomograms.
                self.frames = np.broadcast_to(np.eye(3), frames.shape)
            elif Quirk.SUBTOMOGRAM_GRID not in loop.settings.quirks:
                # The grid lies in the tomogram, so that all its particles read the same slices.
                self.frames = frames
            elif np.abs(frames - np.eye(3)).max() < 1e-9:
                self.frames = frames

    @property
    def width(self) -> sampling.AngularPrior:
        """Prior widths of this iteration."""
        if self.steer.local_prior.is_set:
            return self.steer.local_prior
        return sampling.AngularPrior(tilt_deg=self.loop.settings.tilt_prior_deg)

    @property
    def is_restrained(self) -> bool:
        return self.width.is_set

    def _turned(self, angles: Array) -> Array:
        return sampling.perturbed_rotations_zyx(angles, self.perturbation, self.grid.step_deg)

    def prepared(
        self, rows: NDArray[np.int64], projector: Projector, cc: bool, stop: threading.Event
    ) -> Iterator[tuple[int, LoadedParticle, ParticleImages, Array | None]]:
        """Read particles one by one, or so many of a tilt series at a time as share their coarse slices."""
        loop = self.loop
        shared = self.whole is not None and self.frames is not None
        most = 1
        if self.whole is not None and self.frames is not None:
            cells = len(self.whole[0]) * len(self.translations)
            most = int(np.clip(_SCORE_BYTES / (8 * cells), 1, _MOST_SHARING))
        first = 0
        while first < len(rows) and not stop.is_set():
            last = first + 1
            head = int(rows[first])
            while (
                last < len(rows)
                and last - first < most
                and (
                    loop.source.n_dim == 3
                    or loop.source.series_index[rows[last]] == loop.source.series_index[head]
                )
                and loop.source.optics_index[rows[last]] == loop.source.optics_index[head]
            ):
                last += 1
            group = [int(i) for i in rows[first:last]]
            first = last
            window = self.windows[loop.source.optics_index[head]]
            images = [loop.particle(self.state, self.half, i, window) for i in group]
            scores: list[Array | None] = [None] * len(group)
            if shared and len(group) > 1:
                scores = self._shared_scores(group, images, projector, cc, stop)
                if stop.is_set():
                    return
            for i, (particle, loaded), one in zip(group, images, scores, strict=True):
                yield i, loaded, particle, one

    def _shared_scores(
        self,
        group: list[int],
        images: list[tuple[ParticleImages, LoadedParticle]],
        projector: Projector,
        cc: bool,
        stop: threading.Event,
    ) -> list[Array | None]:
        assert self.whole is not None
        assert self.frames is not None
        pixels, place = self.coarse[self.loop.source.optics_index[group[0]]]
        window = self.windows[self.loop.source.optics_index[group[0]]]
        fewer = pixels.count < window.pixels.count
        particles = [one.at_pixels(place) if fewer else one for one, _ in images]
        tilts = [loaded.tilts for _, loaded in images]
        if self.loop.source.n_dim == 3:
            tilts = [np.arange(one.n_tilts) for one in particles]
        found = score_shared(
            projector, particles, tilts, self.frames[group], pixels, self.whole[2],
            (self.translations + self.shift) / self.loop.pixel, cross_correlation=cc,
            go_on=lambda: not stop.is_set(),
        )  # fmt: skip
        return list(found)

    def search(
        self,
        index: int,
        particle: ParticleImages,
        window: Window,
        projector: Projector,
        cc: bool,
        scores: Array | None = None,
    ) -> tuple[Posterior, NDArray[np.int64]]:
        """Find one particle's posterior; also return the grid orientations that were tried."""
        loop = self.loop
        frame = np.eye(3) if self.frames is None else self.frames[index]
        if self.whole is not None:
            chosen, log_prior, rotations = self.whole
        else:
            centre = loop.prior_angles(index, self.state, local=self.steer.local_prior.is_set)
            choice = sampling.choose_near_prior(self.grid, centre[None], self.width, bare_psi=self.bare_psi)[
                0
            ]
            chosen, log_prior = choice.orientation, np.log(choice.prior)
            rotations = self._turned(self.grid.angles_deg(chosen))

        def children(parents: NDArray[np.int64]) -> Array:
            return frame @ self._turned(self.grid.children_deg(chosen[parents], loop.rules.oversampling))

        search = Search(
            frame @ rotations, log_prior, children, self.translations, self.shift, self.kids, loop.pixel,
            float(self.state.sigma2_offset_angst2[self.half]), loop.settings.adaptive_fraction,
            Quirk.OFFSET_UNITS in loop.settings.quirks,
        )  # fmt: skip
        pixels, place = self.coarse[loop.source.optics_index[index]]
        coarse = None
        if pixels.count < window.pixels.count:
            coarse = (projector, particle.at_pixels(place), pixels)
        posterior = find_posterior(
            projector, particle, window.pixels, search, coarse, scores, cross_correlation=cc
        )
        return posterior, chosen
