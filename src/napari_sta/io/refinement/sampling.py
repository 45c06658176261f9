"""Sampling files: the coarse grids of orientations and translations of an iteration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_sta.io.refinement.list_table import Line, list_columns, list_values
from napari_sta.io.refinement.number_text import numbers_text
from napari_sta.io.refinement.source import Numbers, Source
from napari_sta.io.star import Table, table, write_star


@dataclass(frozen=True)
class Sampling:
    """The coarse grids of orientations and translations of an iteration.

    Attributes
    ----------
    order
        HEALPix order of the directions.
    symmetry
        Point group, as ``C6``.
    psi_step_deg
        Step of the in-plane angle.
    offset_range_angst, offset_step_angst
        Reach and step of the translations.
    perturbation, perturbation_factor
        Random shift of the grids in this iteration and its limit, fractions of a step.
    order_original, psi_step_original_deg, offset_range_original_angst, offset_step_original_angst
        What the refinement began with.
    directions_deg
        (n, 2) rot and tilt of the directions, those of one asymmetric unit.
    is_3d_translations
        Whether translations have a z component: true for everything in tomograms.
    tilt_limit_deg
        Directions are restricted to this tilt; -91 for no limit.
    """

    order: int
    symmetry: str
    psi_step_deg: float
    offset_range_angst: float
    offset_step_angst: float
    perturbation: float
    perturbation_factor: float
    order_original: int
    psi_step_original_deg: float
    offset_range_original_angst: float
    offset_step_original_angst: float
    directions_deg: Numbers
    is_3d_translations: bool = True
    tilt_limit_deg: float = -91.0


_SAMPLING = (
    Line("rlnIs3DSampling", text="1"),
    Line("rlnIs3DTranslationalSampling", "is_3d_translations"),
    Line("rlnHealpixOrder", "order"),
    Line("rlnSymmetryGroup", "symmetry"),
    Line("rlnTiltAngleLimit", "tilt_limit_deg"),
    Line("rlnPsiStep", "psi_step_deg"),
    Line("rlnOffsetRange", "offset_range_angst"),
    Line("rlnOffsetStep", "offset_step_angst"),
    Line("rlnHelicalOffsetStep", text="-1.00000"),
    Line("rlnSamplingPerturbInstance", "perturbation"),
    Line("rlnSamplingPerturbFactor", "perturbation_factor"),
    Line("rlnHealpixOrderOriginal", "order_original"),
    Line("rlnPsiStepOriginal", "psi_step_original_deg"),
    Line("rlnOffsetRangeOriginal", "offset_range_original_angst"),
    Line("rlnOffsetStepOriginal", "offset_step_original_angst"),
)


def write_sampling(path: str | Path, sampling: Sampling) -> None:
    """Write a sampling file, ``run_itNNN_sampling.star``, in one step.

    Raises
    ------
    InputError
        If a value is not finite.
    JobError
        If the disk is full or the folder cannot be written to.
    """
    directions = np.asarray(sampling.directions_deg, np.float64).reshape(-1, 2)
    columns = {
        "rlnAngleRot": numbers_text(directions[:, 0]),
        "rlnAngleTilt": numbers_text(directions[:, 1]),
    }
    general = table("sampling_general", list_columns(path, sampling, _SAMPLING), is_loop=False)
    write_star(path, [general, Table("sampling_directions", columns)])


def read_sampling(path: str | Path) -> Sampling:
    """Read a sampling file, RELION's or ours.

    Raises
    ------
    InputError
        If the file is missing, lacks a table or column, or a value is no number.
    """
    source = Source.open(path, "run_it001_sampling.star")
    # HEALPix pixels of higher orders than RELION's finest are beyond any memory.
    for label in ("rlnHealpixOrder", "rlnHealpixOrderOriginal"):
        source.whole("sampling_general", label, 0, 9)
    values = list_values(source, "sampling_general", Sampling, _SAMPLING)
    directions = [source.numbers("sampling_directions", label) for label in ("rlnAngleRot", "rlnAngleTilt")]
    return Sampling(**values, directions_deg=np.stack(directions, axis=-1))
