"""Open a particle set, whatever it holds: stacks or pseudo-subtomograms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_sta.engine.source import ImageOptions, ParticleSource
from napari_sta.engine.stacks import StackSource
from napari_sta.engine.subtomograms import SubtomogramSource
from napari_sta.io.relion.subtomograms import are_2d_stacks

if TYPE_CHECKING:
    from napari_sta.data.particles import Particles
    from napari_sta.io.relion.inputs import StaInputs


def open_particles(inputs: StaInputs, options: ImageOptions) -> ParticleSource:
    """Open an extracted particle set.

    Raises
    ------
    InputError
        If columns or images are missing, or options do not go with what it holds.
    """
    kind = SubtomogramSource if are_volumes(inputs.particles) else StackSource
    return kind(inputs, options)


def are_volumes(particles: Particles) -> bool:
    """Tell whether a particle set holds 3D pseudo-subtomograms rather than 2D stacks."""
    said = are_2d_stacks(particles)
    if said is not None:
        return not said
    return "rlnCtfImage" in particles.text and "rlnTomoVisibleFrames" not in particles.text
