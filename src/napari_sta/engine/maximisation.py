"""Maximisation: new maps, noise, scales and directions from what the particles add up to."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from napari_sta.engine.expectation import Alignment, HalfSums
from napari_sta.engine.plan import Plan
from napari_sta.engine.quirks import Quirk
from napari_sta.engine.run import Run
from napari_sta.engine.state import HALVES, Array, ImageModel, Maps, Model, State
from napari_sta.kernels.refine import control, maps
from napari_sta.kernels.refine import noise as noise_of
from napari_sta.kernels.refine.projector import padded_radius
from napari_sta.kernels.refine.sums import Sums
from napari_sta.kernels.rotations import euler_to_matrix_zyx, matrix_zyx_to_euler


class _Reconstruction(NamedTuple):
    """Maps and their statistics; lists hold one of each half set, or one of both in the last iteration."""

    fsc: Array
    volumes: list[torch.Tensor]
    unfiltered: list[torch.Tensor] | None
    priors: list[maps.Prior]
    map_noise: list[Array]
    completeness: list[Array]

    @property
    def ssnr(self) -> Array:
        """(shells,) as the FSC says; the same for both half sets."""
        return self.priors[0].ssnr


def maximise(run: Run, state: State, plan: Plan, halves: list[HalfSums]) -> tuple[State, Maps]:
    """Make the state after an iteration.

    Parameters
    ----------
    halves
        What the expectation step gave, in the order of half sets; their volumes are taken.
    """
    last = plan.control.is_last
    volumes = [
        maps.complete_sums(
            half.take_volume(),
            run.operators,
            padded_radius(plan.radius, run.settings.padding),
            run.workers.threads,
        )
        for half in halves
    ]
    made = _reconstruct(run, state, plan, volumes)
    poses = _with_poses(run, state, [alignment for half in halves for alignment in half.alignments])
    shell = maps.current_resolution_shell(made.ssnr)
    if plan.cross_correlation:
        shell = int(np.floor(run.rules.edge_angst * state.control.resolution_inv_angst + 0.5))
    first = halves[0].statistics
    p_max = first.p_max / max(first.n_particles, 1)
    steer = control.after_iteration(
        plan.control, run.rules, fsc=made.fsc, resolution_shell=shell, p_max=p_max,
        changes_deg=poses.changes_deg, changes_angst=poses.changes_angst, used_size=2 * plan.radius,
    )  # fmt: skip
    new = replace(
        poses,
        iteration=plan.number,
        control=steer,
        perturbation=plan.perturbation,
        models=tuple(
            _model(run, state, plan, made, half, sums.alignments)
            for half, sums in zip(HALVES, halves, strict=True)
        ),
        images=tuple(
            _image_model(run, state, plan, made.ssnr, half, sums.statistics, poses.log_likelihood)
            for half, sums in zip(HALVES, halves, strict=True)
        ),
        fsc=made.fsc,
        current_size_px=2 * plan.radius,
        converged=last,
    )
    return new, Maps(made.unfiltered, made.volumes[0] if last else None)


def _reconstruct(run: Run, state: State, plan: Plan, volumes: list[Array]) -> _Reconstruction:
    """Reconstruct half maps, in the last iteration the map of both, from completed sums, which it uses up."""
    settings, radius, padding = run.settings, plan.radius, run.settings.padding
    size, n_dim, last = run.size_px, run.source.n_dim, plan.control.is_last
    unfiltered: list[torch.Tensor] | None = None
    if last:
        unfiltered = [maps.reconstruct(v, size, radius, padding, n_dim=n_dim) for v in volumes]
    join = maps.joining_radius(
        size, run.pixel_size_angst, settings.join_angst, 1 / max(state.control.resolution_inv_angst, 1e-6)
    )
    joined = [v.copy() for v in volumes] if last else volumes
    maps.join_low_resolution(joined[0], joined[1], join, padding)
    if settings.solvent_fsc:
        plain = [maps.reconstruct(v, size, radius, padding, n_dim=n_dim) for v in joined]
        fsc = maps.solvent_corrected_fsc(
            plain[0], plain[1], run.mask, 2 * radius, seed=settings.seed + plan.number
        )
        if not last:
            unfiltered = plain
    else:
        fsc = maps.average_fsc(joined[0], joined[1], radius, padding, run.n_shells)
    whole = joined
    if last:
        whole = [volumes[0] + volumes[1]]
        volumes.clear()  # each is a gigabyte at box 192
        joined.clear()
    map_noise = [maps.map_noise(v, radius, padding, run.n_shells) for v in whole]
    priors = [maps.signal_prior(fsc, noise, whole=last) for noise in map_noise]
    return _Reconstruction(
        fsc=fsc,
        volumes=[
            maps.reconstruct(v, size, radius, padding, prior.tau2, n_dim=n_dim)
            for v, prior in zip(whole, priors, strict=True)
        ],
        unfiltered=unfiltered,
        priors=priors,
        map_noise=map_noise,
        completeness=[maps.fourier_completeness(v, radius, padding, run.n_shells) for v in whole],
    )


def _with_poses(run: Run, state: State, alignments: list[Alignment]) -> State:
    """Return the state with new poses, and how much they changed."""
    n = len(run.source)
    rotation, offset = np.zeros((n, 3, 3)), np.zeros((n, 3))
    p_max, likelihood, n_significant = np.zeros(n), np.zeros(n), np.zeros(n, dtype=np.int64)
    for alignment in alignments:
        row = alignment.row
        rotation[row] = alignment.rotation_zyx
        offset[row] = alignment.offset_zyx_px * run.pixel_size_angst
        p_max[row], likelihood[row] = alignment.p_max, alignment.log_likelihood
        n_significant[row] = alignment.n_significant
    before = euler_to_matrix_zyx(state.angles_deg)
    return replace(
        state,
        angles_deg=matrix_zyx_to_euler(rotation),
        offset_zyx_angst=offset,
        p_max=p_max,
        log_likelihood=likelihood,
        n_significant=n_significant,
        changes_deg=control.angle_change_deg(before, rotation, run.settings.symmetry),
        changes_angst=control.offset_change_angst(state.offset_zyx_angst, offset),
    )


def _model(
    run: Run, state: State, plan: Plan, made: _Reconstruction, half: int, alignments: list[Alignment]
) -> Model:
    """Map of a half set, ready to be projected, with its statistics."""
    before = state.model(half)
    reference, place = before.reference, 0
    if not plan.control.is_last:
        place = half - 1
        volume = made.volumes[place]
        if plan.cross_correlation:
            volume = run.lowpassed(volume)
        reference = (volume * run.mask).numpy().astype(np.float32)
    local = plan.control.local_prior.is_set
    return Model(
        half=half,
        class_number=before.class_number,
        reference=reference,
        pdf_direction=before.pdf_direction if local else _directions(run, plan, alignments),
        ssnr=made.ssnr,
        tau2=made.priors[place].tau2,
        sigma2_map=made.map_noise[place],
        completeness=made.completeness[place],
    )


def _directions(run: Run, plan: Plan, alignments: list[Alignment]) -> Array:
    """Distribution of the particles of a half set over directions."""
    n_directions = plan.grid.n_directions
    pdf = np.zeros(n_directions)
    for alignment in alignments:
        np.add.at(pdf, alignment.directions, alignment.direction_weights)
    pdf /= max(pdf.sum(), 1e-300)
    if not run.has(Quirk.DYING_DIRECTIONS):
        # A direction without a particle now may have one in the next iteration.
        pdf = (pdf + 1e-3 / n_directions) / (1 + 1e-3)
    return pdf


def _image_model(
    run: Run, state: State, plan: Plan, ssnr: Array, half: int, statistics: Sums, log_likelihood: Array
) -> ImageModel:
    """Noise, scale and offsets of a half set's images; a cross-correlation iteration tells offsets only."""
    before = state.images[half - 1]
    rows = run.rows_of(state.half_set, half)
    new = replace(
        before,
        sigma2_offset_angst2=float(noise_of.update_sigma2_offset(statistics)),
        log_likelihood=float(log_likelihood[rows].sum()),
    )
    if plan.cross_correlation:
        return new
    sigma2 = noise_of.update_noise(statistics, run.size_px, premultiplied=run.source.premultiplied)
    # A group without particles in a half set keeps what it had.
    empty = statistics.n_images == 0
    sigma2[empty] = before.sigma2[empty]
    new = replace(new, sigma2=sigma2)
    if not run.has(Quirk.SHELL_NOISE):
        new = replace(new, noise=run.tilt_noise(statistics.tilt_residual, statistics.tilt_weight))
    if len(run.source.series_names) > 1:
        new = replace(new, scale=_scale(run, state, ssnr, half, statistics))
    return new


def _scale(run: Run, state: State, ssnr: Array, half: int, statistics: Sums) -> Array:
    """Grey scale of each tilt series; the one that particles were weighed by is taken into account."""
    counts = np.bincount(
        run.source.series_index[run.rows_of(state.half_set, half)], minlength=len(run.source.series_names)
    )
    if run.has(Quirk.SHELL_NOISE):
        return noise_of.update_scales(statistics, state.model(half).ssnr, counts)
    inverse = 1 / state.images[half - 1].noise
    weighed = replace(statistics, cross=statistics.cross * inverse, norm=statistics.norm * inverse)
    return noise_of.update_scales(weighed, ssnr, counts)
