"""The particles of an iteration, ``run_itNNN_data.star``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from napari_sta.data.errors import InputError
from napari_sta.data.particles import Particles
from napari_sta.io.refinement.number_text import whole_text
from napari_sta.io.relion.particles import with_text, write_particles
from napari_sta.io.star import Column, format_number, text_column


def write_refined_particles(
    path: str | Path,
    particles: Particles,
    *,
    group_number: ArrayLike,
    norm: ArrayLike = 1.0,
    log_likelihood: ArrayLike | None = None,
    p_max: ArrayLike | None = None,
    n_significant: ArrayLike | None = None,
) -> None:
    """Write the particles of an iteration, ``run_itNNN_data.star``, in one step.

    Parameters
    ----------
    particles
        With half sets, and with the angles and origins of this iteration. Columns and tables that a
        refinement does not change are written as they were read; all particles are of class 1.
    group_number
        (n,) scale group, from 1.
    norm
        Normalisation of each particle; RELION does without one for tomograms, which is 1.
    log_likelihood, p_max
        (n,) contribution to the logarithm of the likelihood; largest posterior weight.
    n_significant
        (n,) coarse samples that the fine pass looked at. Each of the last three may be None, as in
        iteration 0: its column stays as it is, or absent.

    Raises
    ------
    ValueError
        If the particles have no half sets.
    InputError
        If a value is not finite.
    JobError
        If the disk is full or the folder cannot be written to.
    """
    if particles.half_set is None:
        raise ValueError("particles of a refinement have half sets; assign them first")
    n = len(particles)
    columns: dict[str, Column] = {"rlnGroupNumber": whole_text(np.broadcast_to(group_number, n))}
    if "rlnRandomSubset" not in particles.text:
        columns["rlnRandomSubset"] = whole_text(particles.half_set)
    columns["rlnClassNumber"] = text_column(["1"] * n)
    for label, values in (
        ("rlnNormCorrection", np.broadcast_to(norm, n)),
        ("rlnLogLikeliContribution", log_likelihood),
        ("rlnMaxValueProbDistribution", p_max),
    ):
        if values is None:
            continue
        try:
            columns[label] = format_number(values)
        except ValueError:
            raise InputError(
                f"{path} was not written: {label} holds a value that is not a finite number"
            ) from None
    if n_significant is not None:
        columns["rlnNrOfSignificantSamples"] = whole_text(n_significant)
    write_particles(path, with_text(particles, **columns))
