"""Expectation: every particle of a half set is searched and averaged at the poses that matter."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from napari_sta.engine.plan import Plan
from napari_sta.engine.quirks import Quirk
from napari_sta.engine.run import Run
from napari_sta.engine.search import Searcher
from napari_sta.engine.state import Array, State
from napari_sta.engine.workers import Watch
from napari_sta.kernels.refine import sums as sums_of
from napari_sta.kernels.refine.calibration import Information, pose_information
from napari_sta.kernels.refine.particle import ParticleImages
from napari_sta.kernels.refine.posterior import Posterior, mean_pose, resampled
from napari_sta.kernels.refine.projector import Projector, placed
from napari_sta.kernels.refine.scores import evidence_constant

_CALIBRATION_PARTICLES = 100

_FLUSH = 4000
"""Particles of a half set after which float32 sums are added to float64 ones."""


class Alignment(NamedTuple):
    """What the search says of one particle.

    Attributes
    ----------
    row
        Which particle.
    rotation_zyx, offset_zyx_px
        Its pose: reference to subtomogram, and shift.
    p_max, log_likelihood, n_significant
        Largest posterior weight, evidence, and how many coarse poses mattered.
    directions, direction_weights
        (o,) directions of the grid that matter, and their posterior weights.
    """

    row: int
    rotation_zyx: Array
    offset_zyx_px: Array
    p_max: float
    log_likelihood: float
    n_significant: int
    directions: NDArray[np.int64]
    direction_weights: Array


@dataclass
class HalfSums:
    """What the particles of a half set add up to.

    Attributes
    ----------
    volume
        (d, d, w, 4) float64, in the first process; see :class:`~napari_sta.kernels.refine.sums.Sums`.
    statistics
        Everything else that is added up.
    alignments
        Of all its particles, in the order of ``Run.rows_of``.
    informations
        About the poses of those that the likelihood is calibrated on.
    """

    volume: Array
    statistics: sums_of.Sums
    alignments: list[Alignment]
    informations: list[Information]

    def take_volume(self) -> Array:
        """Hand the volume over: it is a gigabyte at box 192, and is not needed twice."""
        volume, self.volume = self.volume, np.zeros((0, 0, 0, 4))
        return volume


@dataclass
class _Share:
    """What one thread adds to."""

    sums: sums_of.Sums
    projector: Projector


@dataclass(frozen=True)
class _Task:
    """What is the same for all threads."""

    run: Run
    plan: Plan
    searcher: Searcher
    seed: int
    calibrated: frozenset[int]
    alignments: dict[int, Alignment] = field(default_factory=dict)
    informations: dict[int, Information] = field(default_factory=dict)


def expect(
    run: Run, state: State, plan: Plan, half: int, projector: Projector
) -> Generator[int, None, HalfSums]:
    """Search every particle of a half set, in all processes.

    Parameters
    ----------
    projector
        Of the map of that half set.

    Yields
    ------
    count
        How many particles are done since the last time.
    """
    all_rows = run.rows_of(state.half_set, half)
    rng = np.random.default_rng([run.settings.seed, plan.number, half])
    seed = int(rng.integers(2**31))
    task = _Task(run, plan, Searcher(run, half, state, plan), seed, _calibrated(run, plan, all_rows, rng))
    rows = run.ranks.share(all_rows, run.seconds[all_rows])
    ratio = run.source.ratio(0)
    radius = plan.windows[0].pixels.radius if abs(ratio - 1) < 1e-9 else projector.radius
    shares, on_devices = _shares(run, projector, radius)
    volume = np.zeros(tuple(shares[0].sums.volume.shape), np.float64)
    seconds = np.zeros(len(run.source))

    def work(thread: int, mine: NDArray[np.int64], watch: Watch) -> None:
        share = shares[thread]
        clock = time.perf_counter()
        for index, particle, scores in task.searcher.prepared(mine, share.projector, watch):
            if not watch.go_on():
                return
            _add_particle(task, share, index, particle, scores)
            now = time.perf_counter()
            seconds[index] = now - clock
            clock = now
            watch.count()

    for first in range(0, len(rows), _FLUSH):
        yield from run.workers.count(work, rows[first : first + _FLUSH])
        parts: list[Any] = [*on_devices] or [share.sums.volume for share in shares]
        for part in parts:
            volume += part.cpu().numpy() if isinstance(part, torch.Tensor) else part
            part[:] = 0
    statistics = run.new_sums(1)
    for share in shares:
        statistics.add_statistics(share.sums)
    run.ranks.add_up(volume)
    run.add_up_everywhere(statistics)
    run.ranks.add_up_everywhere(seconds)
    run.seconds[seconds > 0] = seconds[seconds > 0]
    alignments: dict[int, Alignment] = {}
    informations: dict[int, Information] = {}
    for their_alignments, their_informations in run.ranks.collect((task.alignments, task.informations)):
        alignments |= their_alignments
        informations |= their_informations
    return HalfSums(
        volume, statistics, [alignments[int(index)] for index in all_rows],
        [informations[index] for index in sorted(informations)],
    )  # fmt: skip


def _calibrated(run: Run, plan: Plan, rows: NDArray[np.int64], rng: np.random.Generator) -> frozenset[int]:
    """Draw the particles on which the likelihood is calibrated."""
    if run.has(Quirk.NO_CALIBRATION) or plan.cross_correlation:
        return frozenset()
    if len(rows) > _CALIBRATION_PARTICLES:
        rows = rng.choice(rows, _CALIBRATION_PARTICLES, replace=False)
    return frozenset(map(int, rows))


def _shares(run: Run, projector: Projector, radius: int) -> tuple[list[_Share], list[torch.Tensor]]:
    """Give every thread sums and projector; threads that feed one device share a volume on it."""
    n_threads = run.workers.threads
    if not run.devices:
        return [_Share(run.new_sums(radius), projector) for _ in range(n_threads)], []
    projectors = [placed(projector, device) for device in run.devices]
    shape = tuple(run.new_sums(radius).volume.shape)
    volumes = [torch.zeros(shape, device=device) for device in run.devices]
    place = [k % len(run.devices) for k in range(n_threads)]
    return [_Share(run.new_sums(radius, volumes[k]), projectors[k]) for k in place], volumes


def _add_particle(
    task: _Task, share: _Share, index: int, particle: ParticleImages, scores: Array | None
) -> None:
    """Search one particle, and add its images to the sums."""
    run, plan = task.run, task.plan
    optics, series = int(run.source.optics_index[index]), int(run.source.series_index[index])
    pixels = plan.windows[optics].pixels
    posterior, orientation = task.searcher.search(index, particle, share.projector, scores)
    rotation, shift = _pose(run, plan, posterior)
    kept = posterior
    if not (run.has(Quirk.ALL_SAMPLES) or plan.cross_correlation):
        start = float(np.random.default_rng([task.seed, index]).random())
        kept = resampled(posterior, run.settings.samples, start)
    if index in task.calibrated:
        task.informations[index] = pose_information(share.projector, particle, pixels, rotation, shift)
    sums_of.add_particle(
        share.sums, kept, share.projector, particle, pixels, optics, series, run.pixel_size_angst,
        statistics=not plan.cross_correlation, per_image=not run.has(Quirk.PARTICLE_NOISE),
        drop_row_ends=run.has(Quirk.ROW_ENDS),
    )  # fmt: skip
    share.sums.p_max += posterior.p_max - kept.p_max
    evidence = posterior.log_evidence
    if not plan.cross_correlation and particle.noise is None:
        evidence += evidence_constant(particle, pixels)
    task.alignments[index] = Alignment(
        index, rotation, particle.offset_zyx_px + shift, posterior.p_max, evidence, posterior.n_significant,
        orientation[posterior.parents] // plan.grid.n_psi, posterior.weights.sum(axis=1),
    )  # fmt: skip


def _pose(run: Run, plan: Plan, posterior: Posterior) -> tuple[Array, Array]:
    """Rotation and shift that a particle is given."""
    if run.has(Quirk.BEST_POSE) or plan.cross_correlation:
        best = posterior.best
        return posterior.rotations_zyx[best[0]], posterior.shifts_zyx_px[best[1]]
    return mean_pose(posterior, run.operators, 3 * plan.grid.step_deg)
