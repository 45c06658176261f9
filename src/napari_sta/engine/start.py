"""Iteration 0: low-passed references, their grey scale, and the noise of the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from napari_sta.engine.quirks import Quirk
from napari_sta.engine.run import Run
from napari_sta.engine.state import HALVES, Array, ImageModel, Model, State
from napari_sta.kernels.refine import noise as noise_of
from napari_sta.kernels.refine import sums as sums_of
from napari_sta.kernels.refine.control import Control
from napari_sta.kernels.refine.pixels import pixels_per_shell
from napari_sta.kernels.refine.posterior import at_pose
from napari_sta.kernels.rotations import euler_to_matrix_zyx

_OFFSET_ANGST = 10.0
"""Standard deviation of offsets to start with."""

_FEW_IMAGES = 10
_NOISE_PARTICLES = 20
"""So many particles' images say what the noise is like at first."""


@dataclass(frozen=True)
class Fit:
    """How well images match the references at the input poses.

    Attributes
    ----------
    scale
        What the references are multiplied by; mean over half sets.
    significance
        Standard errors by which it differs from 0; the smaller one of the half sets.
    """

    scale: float = 1.0
    significance: float = np.inf


@dataclass(frozen=True)
class _FirstLook:
    """Grey scale of the images of a half set, its significance, and their noise."""

    scale: float
    significance: float
    noise: Array


def initial_state(
    run: Run,
    references: Sequence[torch.Tensor],
    control: Control,
    half_set: NDArray[np.int64],
    *,
    fit_scale: bool,
) -> tuple[State, Fit]:
    """Prepare iteration 0.

    Parameters
    ----------
    references
        A map for each half set.
    half_set
        (n,) 1 or 2.
    fit_scale
        Fit the grey scale of the images to the references at the input poses.

    Returns
    -------
    state
        Ready for the first iteration.
    fit
        Of the grey scale.
    """
    particles = run.source.particles
    volumes = [run.lowpassed(volume) for volume in references]
    angles, offset = particles.angles_deg.copy(), particles.origin_zyx_angst.copy()
    n_series = len(run.source.series_names)
    noise = [np.zeros((n_series, run.source.n_tilts, run.n_shells)) for _ in HALVES]
    fit = Fit()
    if fit_scale or not run.has(Quirk.SHELL_NOISE):
        looks = _first_look(run, volumes, half_set, angles, offset, control)
        noise = [look.noise for look in looks]
        fit = Fit(float(np.mean([look.scale for look in looks])), min(look.significance for look in looks))
        if fit_scale:
            volumes = [
                volume * look.scale if look.significance > 0 else volume
                for volume, look in zip(volumes, looks, strict=True)
            ]
    sigma2 = _initial_sigma2(run, half_set)
    n, n_directions = len(particles), run.grid(control.order).n_directions
    state = State(
        iteration=0,
        control=control,
        perturbation=run.perturbation(0.0, 0),
        half_set=half_set,
        angles_deg=angles,
        offset_zyx_angst=offset,
        p_max=np.zeros(n),
        log_likelihood=np.zeros(n),
        n_significant=np.zeros(n, dtype=np.int64),
        models=tuple(
            Model(
                half=half,
                class_number=1,
                reference=volume.numpy().astype(np.float32),
                pdf_direction=np.full(n_directions, 1.0 / n_directions),
                ssnr=np.zeros(run.n_shells),
                tau2=np.zeros(run.n_shells),
                sigma2_map=np.zeros(run.n_shells),
                completeness=np.zeros(run.n_shells),
            )
            for half, volume in zip(HALVES, volumes, strict=True)
        ),
        images=tuple(
            ImageModel(
                sigma2=sigma2[half - 1],
                noise=noise[half - 1],
                temperature=1.0,
                scale=np.ones(n_series),
                sigma2_offset_angst2=_OFFSET_ANGST**2,
                log_likelihood=0.0,
            )
            for half in HALVES
        ),
        fsc=np.zeros(run.n_shells),
        current_size_px=0,
        first_cc=run.settings.first_cc,
    )
    return state, fit


def with_noise(run: Run, state: State) -> State:
    """Measure the noise of raw tilt images at the poses of a state."""
    volumes = [torch.from_numpy(state.model(half).reference).double() for half in HALVES]
    looks = _first_look(run, volumes, state.half_set, state.angles_deg, state.offset_zyx_angst, state.control)
    images = tuple(
        replace(images, noise=look.noise) for images, look in zip(state.images, looks, strict=True)
    )
    return replace(state, images=images)


def _first_look(
    run: Run,
    volumes: Sequence[torch.Tensor],
    half_set: NDArray[np.int64],
    angles_deg: Array,
    offset_zyx_angst: Array,
    control: Control,
) -> list[_FirstLook]:
    """Fit grey scale and noise of each half set at given poses."""
    shell = int(np.floor(run.rules.edge_angst * control.resolution_inv_angst + 0.5))
    shell = max(1, min(shell, run.size_px // 2))
    looks = []
    for half in HALVES:
        rows = run.rows_of(half_set, half)
        statistics = _compared(run, volumes[half - 1], shell, rows, angles_deg, offset_zyx_angst)
        # tilt_residual = power + norm - 2 cross at scale 1
        cross, norm, weight = statistics.cross, statistics.norm, statistics.tilt_weight
        power = statistics.tilt_residual - norm + 2 * cross
        count = weight[..., None] * pixels_per_shell(run.size_px)
        scale, significance = noise_of.fitted_scale(cross, norm, power, count, shell)
        residual = power + scale**2 * norm - 2 * scale * cross if significance > 0 else power
        looks.append(_FirstLook(scale, significance, run.tilt_noise(residual, weight)))
    return looks


def _compared(
    run: Run,
    volume: torch.Tensor,
    shell: int,
    rows: NDArray[np.int64],
    angles_deg: Array,
    offset_zyx_angst: Array,
) -> sums_of.Sums:
    """Statistics of particles at their poses against a map, up to a shell, from all processes."""
    projector = run.projector(volume, shell)
    windows = run.source.windows(shell)
    flat = np.ones(run.n_shells)

    def work(mine: NDArray[np.int64]) -> sums_of.Sums:
        sums = run.new_sums(1)
        for index in map(int, mine):
            if run.workers.stop.is_set():
                break
            window = windows[run.source.optics_index[index]]
            offset_px = offset_zyx_angst[index] / run.pixel_size_angst
            particle = run.at(run.source.load(index, window), index, flat, None, 1.0, offset_px)
            posterior = at_pose(euler_to_matrix_zyx(angles_deg[index]))
            sums_of.add_particle(
                sums, posterior, projector, particle, window.pixels, 0,
                int(run.source.series_index[index]), run.pixel_size_angst, average=False,
            )  # fmt: skip
        return sums

    total = run.new_sums(1)
    for part in run.workers.map(work, run.ranks.share(rows, np.ones(len(rows)))):
        total.add_statistics(part)
    run.add_up_everywhere(total)
    return total


def _initial_sigma2(run: Run, half_set: NDArray[np.int64]) -> list[Array]:
    """Measure the noise (groups, shells) of each half set's images as they are."""
    source, shells = run.source, np.arange(run.n_shells)
    few = run.has(Quirk.FEW_IMAGES)
    n_images = _FEW_IMAGES if few else _NOISE_PARTICLES * source.n_tilts
    rows = [np.flatnonzero(half_set == half) for half in HALVES]
    if few:
        rows = [np.concatenate(rows)] * len(HALVES)
    halves = []
    for mine in rows:
        groups = []
        for optics in range(len(source.particles.optics)):
            values = source.initial_noise(optics, n_images, mine)
            groups.append(np.interp(shells, np.arange(len(values)), values))
        halves.append(np.stack(groups))
    return halves
