"""The options of a 3D auto-refine: fields of :class:`~napari_sta.jobs.refine.Refine`, and what makes them one job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self, get_args

from pydantic import field_validator, model_validator

from napari_sta.jobs._job import param
from napari_sta.jobs._params import StaInputsJob, check_symmetry

Sampling = Literal["30", "15", "7.5", "3.7", "1.8", "0.9", "0.5", "0.2", "0.1"]
"""Angular steps of the fine grid as RELION's GUI names them; their places are HEALPix orders of the coarse grid."""

SAMPLINGS: tuple[str, ...] = get_args(Sampling)
_SAMPLING_CHOICES = {step: f"{step} degrees" for step in SAMPLINGS}
MOST_ITERATIONS = 999


def as_sampling(value: Any) -> Any:
    """Take 7.5, "7.5 degrees" and 1.875 as well."""
    text = str(value).strip().removesuffix("degrees").strip()
    try:
        number = float(text)
    except ValueError:
        return value
    near = min(SAMPLINGS, key=lambda one: abs(float(one) / number - 1) if number > 0 else 1e9)
    return near if number > 0 and abs(float(near) / number - 1) < 0.25 else value


def healpix_order(sampling_deg: str) -> int:
    """HEALPix order of the coarse grid whose fine grid has the named step: 30 degrees is 0."""
    return SAMPLINGS.index(sampling_deg)


class RefineOptions(StaInputsJob):
    """What a 3D auto-refine is told; the steps of the job are typed by it, and know nothing of the job."""

    in_3dref: str | None = param(
        None, title="Reference map", kind="file:map", relion="fn_ref", flag="--ref",
        help="Start map. If its name contains half1 or half2 (or half_A, half_map_1 and the like), each half set starts "
        "from its own half map. A map that states no pixel size, in the particles' box, gets theirs.",
    )  # fmt: skip
    in_mask: str | None = param(
        None, title="Reference mask", kind="file:mask", relion="fn_mask", flag="--solvent_mask",
        help="Soft mask that is applied to the maps after each iteration. Empty: a sphere of the mask "
        "diameter.",
    )  # fmt: skip
    continue_from: str | None = param(
        None, title="Continue from here", kind="file:optimiser", relion="fn_cont", flag="--continue",
        help="An _optimiser.star of an earlier refinement, ours or RELION's. Options left as they are by default "
        "are taken from that job.",
    )  # fmt: skip
    absolute_greyscale: Literal["Auto", "Yes", "No"] = param(
        "Auto", title="Ref. map is on absolute greyscale", tab="Reference",
        choices={"Auto": "fit it to the images", "Yes": "yes", "No": "no"},
        help="Auto: the grey scale is fitted to the images at their input poses, whatever program made the map. "
        "No: the first iteration uses cross-correlation, as in RELION.",
    )  # fmt: skip
    resize_reference: bool = param(
        True, title="Resize reference if needed", tab="Reference", relion="trust_ref_size", flag="--trust_ref_size",
        help="Bring reference to the box and pixel size of the particles.",
    )  # fmt: skip
    initial_lowpass_angst: float = param(
        60.0, title="Initial low-pass filter", unit="Å", tab="Reference", relion="ini_high", flag="--ini_high", ge=0,
        help="The start map is filtered to this resolution; 0: not at all. Take about the resolution that the "
        "particles have been aligned to.",
    )  # fmt: skip
    symmetry: str = param(
        "C1", title="Symmetry", tab="Reference", relion="sym_name", flag="--sym",
        help="Point group, its axes as in RELION: C1, C6, D2, T, O, I1 to I4.",
    )  # fmt: skip
    ctf_correction: bool = param(
        True, title="Do CTF correction", tab="CTF", relion="do_ctf_correction", flag="--ctf",
        help="No: projections are compared without CTF.",
    )  # fmt: skip
    ignore_ctf_until_first_peak: bool = param(
        False, title="Ignore CTFs until first peak", tab="CTF", relion="ctf_intact_first_peak",
        flag="--ctf_intact_first_peak", help="Take the CTF as 1 up to its first peak.",
    )  # fmt: skip
    mask_diameter_angst: float = param(
        200.0, title="Mask diameter", unit="Å", tab="Optimisation", relion="particle_diameter",
        flag="--particle_diameter", gt=0, help="Of the soft circle that cuts particles out of their images.",
    )  # fmt: skip
    zero_mask: bool = param(
        True, title="Mask individual particles with zeros", tab="Optimisation", relion="do_zero_mask",
        flag="--zero_mask", help="No: the outside is filled with noise.",
    )  # fmt: skip
    solvent_flattened_fsc: bool = param(
        False, title="Use solvent-flattened FSCs", tab="Optimisation", relion="do_solvent_fsc",
        flag="--solvent_correct_fsc",
        help="Measure the FSC within the mask, corrected for the mask by phase randomisation.",
    )  # fmt: skip
    initial_sampling_deg: Sampling = param(
        "7.5", title="Initial angular sampling", unit="deg", tab="Auto-sampling", flag="--healpix_order",
        choices=_SAMPLING_CHOICES, help="Step of the fine grid; the first pass takes twice that.",
    )  # fmt: skip
    offset_range_px: float = param(
        5.0, title="Initial offset range", unit="px", tab="Auto-sampling", relion="offset_range", flag="--offset_range",
        gt=0, help="Shifts up to this are tried.",
    )  # fmt: skip
    offset_step_px: float = param(
        1.0, title="Initial offset step", unit="px", tab="Auto-sampling", relion="offset_step", flag="--offset_step",
        gt=0, help="Step of the fine grid; the first pass takes twice that.",
    )  # fmt: skip
    local_searches_from_deg: Sampling = param(
        "1.8", title="Local searches from auto-sampling", unit="deg", tab="Auto-sampling",
        flag="--auto_local_healpix_order", choices=_SAMPLING_CHOICES,
        help="From this sampling on only orientations near the current one are tried.",
    )  # fmt: skip
    finer_sampling_faster: bool = param(
        False, title="Use finer angular sampling faster", tab="Auto-sampling", relion="auto_faster",
        flag="--auto_ignore_angles --auto_resol_angles",
        help="Refine the sampling as soon as the resolution allows, even while poses still change.",
    )  # fmt: skip
    tilt_prior_width_deg: float | None = param(
        None, title="Prior width on tilt angle", unit="deg", tab="Auto-sampling", relion="sigma_tilt", flag="--sigma_tilt",
        help="Standard deviation of the tilt angle about rlnAngleTiltPrior in global searches. Empty: no prior.",
    )  # fmt: skip
    padding: Literal[1, 2] = param(
        2, title="Padding", tab="Compute", flag="--pad", choices={1: "none (RELION: skip padding)", 2: "twice the box"},
        help="Maps are padded before their transform; 1 takes an eighth of the memory and is less accurate.",
        advanced=True,
    )  # fmt: skip
    seed: int = param(
        1, title="Random seed", tab="Compute", flag="--random_seed", ge=0, le=2**32 - 1,
        help="The same seed, threads and device give the same result.", advanced=True,
    )  # fmt: skip
    max_iterations: int | None = param(
        None, title="Stop after iteration", tab="Compute", flag="--auto_iter_max", gt=0, le=MOST_ITERATIONS,
        help="Empty: iterate until it has converged. A job stopped this way can be continued.", advanced=True,
    )  # fmt: skip
    relion_parity: bool = param(
        False, title="Do as RELION does", tab="Compute", advanced=True,
        help="Repeat RELION's likelihood, rounding and units step by step instead of the calibrated likelihood "
        "of napari-sta; for comparisons.",
    )  # fmt: skip

    # ---- values

    @field_validator("initial_sampling_deg", "local_searches_from_deg", mode="before")
    @classmethod
    def _known_sampling(cls, value: Any) -> Any:
        return as_sampling(value)

    @field_validator("padding", mode="before")
    @classmethod
    def _whole_padding(cls, value: Any) -> Any:
        text = str(value).strip()
        return int(text) if text in ("1", "2") else value

    @field_validator("tilt_prior_width_deg", mode="before")
    @classmethod
    def _negative_is_none(cls, value: Any) -> Any:
        # RELION writes "no prior" as -1.
        try:
            return None if float(value) <= 0 else value
        except (TypeError, ValueError, OverflowError):
            return value

    @field_validator("symmetry")
    @classmethod
    def _known_symmetry(cls, value: str) -> str:
        return check_symmetry(value)

    @classmethod
    def needs_inputs(cls, values: Mapping[str, Any]) -> bool:
        """Return whether inputs must be given: a continued job knows its own."""
        return not values.get("continue_from")

    @model_validator(mode="after")
    def _reference_is_given(self) -> Self:
        if self.in_3dref is None and self.continue_from is None:
            raise ValueError("--in_3dref (Reference map) must be given")
        return self
