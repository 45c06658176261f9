"""When a refinement looks at more data, samples more finely, and stops: RELION's auto-refine rules.

Pure functions on a frozen state; resolutions are in 1/Å, so that larger is better.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from napari_sta.kernels.refine.sampling import AngularPrior, angular_step_deg
from napari_sta.kernels.rotations import symmetry_operators_zyx


@dataclass(frozen=True)
class Rules:
    """What stays the same for a whole run.

    Attributes
    ----------
    size_px, pixel_size_angst, diameter_angst
        Box, pixel, and diameter of the particle mask.
    local_order
        HEALPix order from which on searches are local.
    oversampling
        Levels by which the fine pass is finer.
    volumes
        Data are 3D pseudo-subtomograms.
    freeze_last
        Do not refine the grid in the last iteration (RELION does).
    """

    size_px: int
    pixel_size_angst: float
    diameter_angst: float
    local_order: int = 4
    oversampling: int = 1
    volumes: bool = False
    freeze_last: bool = True
    ignore_angles: bool = False
    resolution_angles: bool = False

    @property
    def edge_angst(self) -> float:
        """Edge of the box: shell k is at k / edge."""
        return self.size_px * self.pixel_size_angst


@dataclass(frozen=True)
class Control:
    """Where an auto-refinement stands after an iteration.

    Attributes
    ----------
    order
        HEALPix order of the coarse grid.
    offset_range_angst, offset_step_angst
        Of the coarse translations.
    resolution_inv_angst
        Current resolution; shells are ``resolution_inv_angst`` times the edge of the box.
    increment
        Shells added to the image size while FSC and posterior do not yet allow a quarter (never shrinks).
    high_fsc
        FSC was above 0.2 at the limit of the data once.
    p_max
        Mean of the largest posterior weight, half 1.
    n_without_gain, n_without_changes
        Iterations without better resolution; without larger changes of poses.
    smallest_angles_deg, smallest_offsets_angst
        Smallest changes of poses so far at this sampling.
    fine_enough, is_last
        The grid is finer than the poses are accurate; the iteration that this leads to is the last.
    local_prior
        Widths of the priors in local searches, zero before.
    accuracy_deg, accuracy_angst
        Expected accuracies; 999 before they are known.
    """

    order: int
    offset_range_angst: float
    offset_step_angst: float
    resolution_inv_angst: float
    increment: int = 10
    high_fsc: bool = False
    p_max: float = 0.0
    n_without_gain: int = 0
    n_without_changes: int = 0
    smallest_angles_deg: float = 999.0
    smallest_offsets_angst: float = 999.0
    changes_offsets_angst: float = 999.0
    fine_enough: bool = False
    is_last: bool = False
    local_prior: AngularPrior = AngularPrior()  # noqa: RUF009
    accuracy_deg: float = 999.0
    accuracy_angst: float = 999.0

    def fine_step_deg(self, rules: Rules) -> float:
        """Return the angular step of the fine pass."""
        return angular_step_deg(self.order) / 2**rules.oversampling

    def fine_offset_step_angst(self, rules: Rules) -> float:
        """Return the translation step of the fine pass."""
        return self.offset_step_angst / 2**rules.oversampling


def start(
    rules: Rules, order: int, offset_range_angst: float, offset_step_angst: float, resolution_angst: float
) -> Control:
    """State before the first iteration; the resolution is that of the low-passed start map."""
    shell = int(np.floor(rules.edge_angst / resolution_angst + 0.5))
    state = Control(order, offset_range_angst, offset_step_angst, shell / rules.edge_angst)
    return replace(state, local_prior=_local_prior(state, rules))


def _local_prior(state: Control, rules: Rules) -> AngularPrior:
    if state.order < rules.local_order:
        return AngularPrior()
    width = 2 * state.fine_step_deg(rules)
    return AngularPrior(width, width, width)


def current_size(state: Control, rules: Rules) -> int:
    """Box of the Fourier window used in the next iteration."""
    if state.is_last:
        return rules.size_px
    shells = int(np.floor(rules.edge_angst * state.resolution_inv_angst + 0.5))
    if state.p_max > 0.1 and state.high_fsc:
        shells += int(np.floor(0.25 * rules.size_px / 2 + 0.5))
    else:
        shells += state.increment
    return min(rules.size_px, 2 * shells)


def coarse_size(state: Control, rules: Rules) -> int:
    """Box of the Fourier window of the first pass: no more than its angular step can use."""
    arc = angular_step_deg(state.order) / 360 * np.pi * rules.diameter_angst
    return min(current_size(state, rules), 2 * int(np.ceil(rules.edge_angst * 1.2 / arc)))


def with_convergence(state: Control, rules: Rules) -> Control:
    """Decide, before an iteration, whether it is the last one."""
    done = (
        state.fine_enough
        and state.n_without_gain >= 1
        and (state.n_without_changes >= 1 or rules.ignore_angles)
    )
    return replace(state, is_last=state.is_last or done)


def with_sampling(state: Control, rules: Rules) -> Control:
    """Refine the sampling if neither resolution nor poses got better, unless it is fine enough already.

    Notes
    -----
    Called with fresh accuracies, before the expectation step, from the second iteration on.
    """
    if state.is_last and rules.freeze_last:
        return state
    fine = state.fine_step_deg(rules)
    stalled = state.n_without_gain >= 1
    if rules.resolution_angles and state.order + 1 != rules.local_order:
        needed = 360 / np.ceil(np.pi * rules.diameter_angst * state.resolution_inv_angst)
        stalled = stalled or needed < fine
    if not (stalled and (state.n_without_changes >= 1 or rules.ignore_angles)):
        return state
    if fine < 0.75 * state.accuracy_deg:
        return replace(state, fine_enough=True)
    step = min(1.5, 0.75 * state.accuracy_angst) * 2**rules.oversampling
    step = max(state.offset_step_angst / 2, step)
    reach = (3 if rules.volumes else 5) * state.changes_offsets_angst
    reach = max(min(reach, 1.3 * state.offset_range_angst), 1.5 * step)
    if reach > 4 * step:
        reach /= 2
        if reach > 4 * step:
            step = reach / 4
    if step > state.offset_step_angst:
        step, reach = state.offset_step_angst, state.offset_range_angst
    finer = replace(
        state, order=state.order + 1, offset_step_angst=step, offset_range_angst=reach, fine_enough=False,
        n_without_gain=0, n_without_changes=0, smallest_angles_deg=999.0, smallest_offsets_angst=999.0,
    )  # fmt: skip
    return replace(finer, local_prior=_local_prior(finer, rules))


def after_iteration(
    state: Control,
    rules: Rules,
    *,
    fsc: Float[ndarray, "shells"],
    resolution_shell: int,
    p_max: float,
    changes_deg: float,
    changes_angst: float,
    used_size: int,
) -> Control:
    """Update counters and sizes with what an iteration found.

    Parameters
    ----------
    resolution_shell
        New current resolution; after a cross-correlation iteration that of the start map.
    p_max
        Of half 1.
    changes_deg, changes_angst
        Of poses against the iteration before (:func:`angle_change_deg`, :func:`offset_change_angst`).
    used_size
        Window this iteration used.
    """
    half, first_bad = (_first_below(fsc, limit) for limit in (0.5, 0.143))
    high = state.high_fsc or bool(fsc[max(0, used_size // 2 - 1)] > 0.2)
    resolution = resolution_shell / rules.edge_angst
    gained = resolution > state.resolution_inv_angst + 1e-4
    steady_angles = (
        1.03 * changes_deg >= state.smallest_angles_deg or changes_deg < 0.4 * state.fine_step_deg(rules)
    )
    steady_offsets = (
        1.03 * changes_angst >= state.smallest_offsets_angst
        or changes_angst < 0.4 * state.fine_offset_step_angst(rules)
    )
    return replace(
        state, resolution_inv_angst=resolution, p_max=p_max, high_fsc=high,
        increment=max(state.increment, first_bad - half + 5),
        n_without_gain=0 if gained else state.n_without_gain + 1,
        n_without_changes=state.n_without_changes + 1 if steady_angles and steady_offsets else 0,
        smallest_angles_deg=min(state.smallest_angles_deg, changes_deg),
        smallest_offsets_angst=min(state.smallest_offsets_angst, changes_angst),
        changes_offsets_angst=changes_angst,
    )  # fmt: skip


def _first_below(fsc: ndarray, limit: float) -> int:
    below = np.flatnonzero(fsc[1:] < limit)
    return int(below[0]) + 1 if len(below) else len(fsc) - 1


def angle_change_deg(
    before_zyx: Float[ndarray, "n 3 3"], after_zyx: Float[ndarray, "n 3 3"], symmetry: str
) -> float:
    """Mean change of orientation: the mean angle between the axes, to the nearest symmetry mate."""
    operators = symmetry_operators_zyx(symmetry)
    mates = np.einsum("nij,ojk->noik", before_zyx, operators)
    cosine = np.einsum("noik,nik->noi", mates, after_zyx)
    angle = np.rad2deg(np.arccos(np.clip(cosine, -1, 1))).mean(axis=-1)
    return float(angle.min(axis=1).mean())


def offset_change_angst(
    before_zyx_angst: Float[ndarray, "n 3"], after_zyx_angst: Float[ndarray, "n 3"]
) -> float:
    """Root mean square change of offset over *two* axes: RELION divides by 2 in three dimensions too."""
    difference = after_zyx_angst - before_zyx_angst
    return float(np.sqrt((difference * difference).sum() / (2 * len(difference))))
