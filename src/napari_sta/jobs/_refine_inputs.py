"""What a 3D auto-refine starts from: particles, references, mask and half sets, checked against each other."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from napari_sta.data.errors import InputError
from napari_sta.engine.particles import open_particles
from napari_sta.engine.quirks import PARITY, Quirk
from napari_sta.engine.ranks import Ranks
from napari_sta.engine.run import Run
from napari_sta.engine.source import ImageOptions
from napari_sta.engine.state import Settings
from napari_sta.engine.workers import Workers
from napari_sta.jobs._halves import agreed_pixel_size, half_of, other_half
from napari_sta.jobs._maps import Grid, on_grid, read_reference
from napari_sta.jobs._masks import CLAMP_RINGING, mask_warnings, read_mask
from napari_sta.jobs._refine_options import RefineOptions, healpix_order
from napari_sta.kernels.refine import control
from napari_sta.kernels.refine.images import soft_disc
from napari_sta.kernels.refine.maps import resolution_of

if TYPE_CHECKING:
    from napari_sta.data.volume import Volume
    from napari_sta.io.relion.inputs import StaInputs

_EDGE_PX = 5.0
_MOST_STEPS = 100  # of offsets in one direction; each is tried with each orientation


class Prepared(NamedTuple):
    """A refinement that can start.

    Attributes
    ----------
    inputs
        What the particles came from.
    run
        What its steps work with.
    half_set
        (n,) 1 or 2.
    references
        The start map of each half set; None: the job goes on from an iteration.
    start
        Sampling and resolution of the beginning.
    """

    inputs: StaInputs
    run: Run
    half_set: NDArray[np.int64]
    references: list[torch.Tensor] | None
    start: control.Control


def prepare(
    job: RefineOptions,
    log: logging.Logger,
    threads: int,
    ranks: Ranks | None = None,
    devices: Sequence[torch.device] = (),
    *,
    check_files: bool = False,
    quirks: frozenset[Quirk] | None = None,
) -> Prepared:
    """Read inputs and set the refinement up.

    Parameters
    ----------
    job
        With what it takes over from the one it continues.
    check_files
        Look at every particle's file.
    quirks
        What of RELION's to keep; None: all or nothing, as the job says.

    Raises
    ------
    InputError
        If something is missing, or does not fit.
    """
    inputs = job.load()
    if quirks is None:
        quirks = PARITY if job.relion_parity else frozenset()
    source = open_particles(
        inputs,
        ImageOptions(
            diameter_angst=job.mask_diameter_angst, edge_px=_EDGE_PX, zero_mask=job.zero_mask,
            apply_ctf=job.ctf_correction, first_peak=job.ignore_ctf_until_first_peak, seed=job.seed, quirks=quirks,
        ),
    )  # fmt: skip
    if check_files:
        source.check_files()
    size, pixel = source.size_px, source.pixel_size_angst
    _check_values(job, size, pixel)
    references = None
    grid = Grid(size, pixel, "the particles")
    if job.in_3dref:
        references = [
            torch.from_numpy(on_grid(volume, grid).data.astype(np.float64))
            for volume in read_references(job, grid, [])
        ]
    mask = _mask(job, grid)
    rules = control.Rules(
        size, pixel, job.mask_diameter_angst, local_order=healpix_order(job.local_searches_from_deg),
        freeze_last=Quirk.FINER_LAST not in quirks, ignore_angles=job.finer_sampling_faster,
        resolution_angles=job.finer_sampling_faster, volumes=source.n_dim == 3,
    )  # fmt: skip
    settings = Settings(
        symmetry=job.symmetry, initial_lowpass_angst=job.initial_lowpass_angst,
        solvent_fsc=job.solvent_flattened_fsc, first_cc=job.absolute_greyscale == "No", seed=job.seed,
        padding=float(job.padding), tilt_prior_deg=job.tilt_prior_width_deg or 0.0, quirks=quirks,
    )  # fmt: skip
    half_set = _half_sets(job, inputs)
    free = int(np.isnan(source.angle_priors_deg[:, 1]).sum())
    if settings.tilt_prior_deg and free:
        log.warning(
            "%d of %d particles have no rlnAngleTiltPrior: all tilt angles are searched for them",
            free, len(source),
        )  # fmt: skip
    run = Run(source, settings, rules, mask, Workers(threads), ranks or Ranks(), list(devices))
    start = control.start(
        rules, healpix_order(job.initial_sampling_deg), job.offset_range_px * pixel, 2 * job.offset_step_px * pixel,
        job.initial_lowpass_angst or resolution_of(references, size * pixel),
    )  # fmt: skip
    return Prepared(inputs, run, half_set, references, start)


def _check_values(job: RefineOptions, size: int, pixel: float) -> None:
    """Refuse values that do not go with the box and pixel size of the particles."""
    if job.mask_diameter_angst > size * pixel:
        raise InputError(
            f"--mask_diameter_angst {job.mask_diameter_angst:g} is larger than the box of the particles "
            f"({size * pixel:.0f} Å); make it smaller, or extract with a larger box"
        )
    if job.mask_diameter_angst < 4 * pixel:
        raise InputError(
            f"--mask_diameter_angst {job.mask_diameter_angst:g} is less than four pixels of the particles ({pixel:.3g} "
            "Å each); give the diameter of the particle in Å"
        )
    if job.offset_range_px > size / 2 or job.offset_range_px > _MOST_STEPS * job.offset_step_px:
        raise InputError(
            f"--offset_range_px {job.offset_range_px:g} with --offset_step_px {job.offset_step_px:g} cannot be "
            f"searched: the range may be half the box ({size // 2} px) and {_MOST_STEPS} steps at most"
        )
    nyquist = 2 * pixel
    if 0 < job.initial_lowpass_angst <= nyquist:
        raise InputError(
            f"--initial_lowpass_angst {job.initial_lowpass_angst:g} is not coarser than the Nyquist limit of the "
            f"particles, {nyquist:.2f} Å"
        )
    if job.initial_lowpass_angst > 2 * size * pixel:
        raise InputError(
            f"--initial_lowpass_angst {job.initial_lowpass_angst:g} leaves nothing of a map in the particles' box of "
            f"{size * pixel:.0f} Å; take a smaller one"
        )


def read_references(job: RefineOptions, grid: Grid, said: list[str]) -> list[Volume]:
    """Read the start map of each half set, as it is.

    Parameters
    ----------
    grid
        Of the particles.
    said
        What is assumed of the maps is appended.
    """
    assert job.in_3dref is not None
    own = half_of(job.in_3dref)
    if own is None:
        return [read_reference(job.in_3dref, grid, said, resize=job.resize_reference)] * 2
    cure = "rename a map that is none of two halves"
    paths = [job.in_3dref, other_half(job.in_3dref, cure)][:: 1 if own == 1 else -1]
    stated = agreed_pixel_size(paths, said, "in_3dref")
    return [
        read_reference(path, grid, said, resize=job.resize_reference, stated_angst=stated) for path in paths
    ]


def _mask(job: RefineOptions, grid: Grid) -> torch.Tensor:
    if not job.in_mask:
        radius = job.mask_diameter_angst / (2 * grid.pixel_size_angst)
        return soft_disc(grid.box_px, radius, _EDGE_PX, n_dim=3)
    mask = read_mask(job.in_mask, grid, CLAMP_RINGING)
    return torch.from_numpy(mask.data.astype("f8"))


def _half_sets(job: RefineOptions, inputs: StaInputs) -> NDArray[np.int64]:
    """Half sets as given, or dealt by the seed."""
    given = inputs.particles.half_set
    if given is None or not given.any():
        n = len(inputs.particles)
        if n < 2:
            raise InputError(f"{inputs.particles_path} has {n} particle; two half sets need two at least")
        return np.random.default_rng(job.seed).permutation(np.arange(n) % 2 + 1)
    if set(np.unique(given)) != {1, 2}:
        raise InputError(
            f"{inputs.particles_path}: rlnRandomSubset must hold 1 and 2, or nothing at all; found "
            f"{', '.join(map(str, np.unique(given)))}"
        )
    return given.astype(np.int64)


def warnings_of(job: RefineOptions) -> list[str]:
    """Say what looks odd but does not stop the job.

    Parameters
    ----------
    job
        With what it takes over from the one it continues.
    """
    inputs = job.load()
    first = inputs.particles.optics[0]
    assert first.image_size_px is not None
    assert first.image_pixel_size_angst is not None
    grid = Grid(first.image_size_px, first.image_pixel_size_angst, "the particles")
    warnings = list(inputs.warnings)
    if job.in_3dref:
        for volume in {volume.path: volume for volume in read_references(job, grid, warnings)}.values():
            edge = volume.box_px * volume.pixel_size_angst
            if edge < job.mask_diameter_angst:
                warnings.append(
                    f"{volume.path} is {edge:.4g} Å a side, less than the mask diameter; what lies beyond is empty"
                )
    if job.in_mask:
        warnings += mask_warnings(job.in_mask, grid, CLAMP_RINGING)
    shared = job.in_3dref and half_of(job.in_3dref) is None
    if shared and job.initial_lowpass_angst < 15:
        warnings.append(
            f"{job.in_3dref} starts both half sets at {job.initial_lowpass_angst:g} Å (0: unfiltered); below about 15 Å give "
            "a half map (half1.mrc), so that the half sets stay independent"
        )
    for label, what in (
        ("rlnMtfFileName", "the detector's MTF"),
        ("rlnMagMat00", "anisotropic magnification"),
        ("rlnBeamTiltX", "beam tilt"),
    ):
        neutral = {"", "None", "0.000000", "0", "1.000000", "1"}
        if any(g.text.get(label, "") not in neutral for g in inputs.particles.optics):
            warnings.append(
                f"{what} ({label} of the particle set) is not corrected for; the images are taken as they are"
            )
    if job.solvent_flattened_fsc and not job.in_mask:
        warnings.append("solvent-flattened FSCs are measured in a sphere, because no mask is given")
    return warnings
