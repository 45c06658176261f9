"""What a refinement is told once, and where it stands after an iteration.

A refinement has models: maps that particles are compared with, each of a half set and a class. Auto-refine is
the case of two half sets of one class (:data:`HALVES`). What is believed of images (noise, scale, how sure
the likelihood is) belongs to a half set, whatever class its particles are of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from napari_sta.engine.quirks import Quirk
from napari_sta.kernels.refine.control import Control

Array = NDArray[np.float64]

HALVES = (1, 2)
"""Half sets as ``rlnRandomSubset`` counts them."""


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
class Model:
    """A map under refinement.

    Attributes
    ----------
    half, class_number
        Half set and class of its particles, both counted from 1.
    reference
        (n, n, n) float32, what the next iteration projects.
    pdf_direction
        (directions,) of the grid.
    ssnr, tau2, sigma2_map, completeness
        (shells,) signal-to-noise ratio, power of the signal, of the noise, and share of voxels with data.
    """

    half: int
    class_number: int
    reference: NDArray[np.float32]
    pdf_direction: Array
    ssnr: Array
    tau2: Array
    sigma2_map: Array
    completeness: Array


@dataclass(frozen=True)
class ImageModel:
    """What is believed of the images of one half set.

    Attributes
    ----------
    sigma2
        (groups, shells) noise power of the images as they are.
    noise
        (series, tilts, shells) noise power of raw tilt images; not used with ``Quirk.SHELL_NOISE``.
    temperature
        How much too sure the likelihood was found to be.
    scale
        (series,).
    sigma2_offset_angst2
        Variance of the offsets about their prior.
    log_likelihood
        Sum over its particles.
    """

    sigma2: Array
    noise: Array
    temperature: float
    scale: Array
    sigma2_offset_angst2: float
    log_likelihood: float


@dataclass(frozen=True)
class State:
    """Where a refinement stands after an iteration.

    Attributes
    ----------
    iteration
        Number of the last iteration done.
    control
        What the next iteration goes by.
    perturbation
        Of the grids, in steps.
    half_set
        Half set of every particle, 1 or 2.
    angles_deg, offset_zyx_angst, p_max, log_likelihood, n_significant
        Of every particle.
    models
        One for each half set and class.
    images
        One for each half set, in the order of :data:`HALVES`.
    fsc
        (shells,) between the half maps.
    current_size_px
        Box of the Fourier window that was used.
    changes_deg, changes_angst
        Of poses against the iteration before.
    converged
        This was the last iteration.
    first_cc
        Iteration 1 is, or was, one of cross-correlation.
    """

    iteration: int
    control: Control
    perturbation: float
    half_set: NDArray[np.int64]
    angles_deg: Array
    offset_zyx_angst: Array
    p_max: Array
    log_likelihood: Array
    n_significant: NDArray[np.int64]
    models: tuple[Model, ...]
    images: tuple[ImageModel, ...]
    fsc: Array
    current_size_px: int
    changes_deg: float = 0.0
    changes_angst: float = 0.0
    converged: bool = False
    first_cc: bool = False

    def model(self, half: int, class_number: int = 1) -> Model:
        """Return the map of a half set and class."""
        for model in self.models:
            if (model.half, model.class_number) == (half, class_number):
                return model
        raise KeyError(f"half set {half}, class {class_number}")


class Maps(NamedTuple):
    """Maps of one iteration: unregularised half maps if they were made, and the whole in the last."""

    unfiltered: list[torch.Tensor] | None
    merged: torch.Tensor | None
