"""Numbers out of text: a number, or a sentence with file, row and column."""

from __future__ import annotations

import numpy as np
import pytest

from napari_sta.data.errors import InputError
from napari_sta.io.relion.numbers import particle_numbers
from napari_sta.io.relion.particles import read_particles, write_particles
from napari_sta.io.star import read_star
from star_edits import PARTICLES, with_value

_NO_NUMBER = ["<NA>", "", "None", "ten", "[1", "1_0", "1;2", "٣"]
_NO_FINITE_NUMBER = ["nan", "inf", "-inf", "1e400"]


@pytest.mark.parametrize("text", [*_NO_NUMBER, *_NO_FINITE_NUMBER, "1e30"])
@pytest.mark.parametrize(
    "label",
    ["rlnCenteredCoordinateXAngst", "rlnOriginYAngst", "rlnAngleRot", "rlnTomoSubtomogramPsi"],
)
def test_a_number_or_a_sentence_with_row_and_column(project, label, text):
    with_value(PARTICLES, "particles", label, text, 3)
    with pytest.raises(InputError, match=rf"particles\.star.*row 4 \(particle TS_01/4\).*column {label}"):
        read_particles(PARTICLES)


@pytest.mark.parametrize("text", ["<NA>", "nan", "1.5", "x", "1e30", "-inf"])
@pytest.mark.parametrize("label", ["rlnOpticsGroup", "rlnRandomSubset"])
def test_a_whole_number_or_a_sentence(project, label, text):
    with_value(PARTICLES, "particles", label, text, 3)
    with pytest.raises(InputError, match=rf"particles\.star.*row 4 .*column {label}"):
        read_particles(PARTICLES)


@pytest.mark.parametrize("text", ["<NA>", "nan", "NaN", "", "None", "N/A", "null"])
def test_priors_may_lack(project, text):
    label = "rlnAngleTiltPrior"
    with_value(PARTICLES, "particles", label, "90.0")
    with_value(PARTICLES, "particles", label, text, 3)
    particles = read_particles(PARTICLES)
    values = particle_numbers(particles, [label, "rlnNotThere"], may_lack=True)
    assert np.flatnonzero(np.isnan(values[:, 0])).tolist() == [3]
    assert values[:3, 0].tolist() == [90, 90, 90]
    assert not values[:, 1].any()
    write_particles("copy.star", particles)
    assert read_star("copy.star")["particles"][label].tolist() == particles.text[label].tolist()


@pytest.mark.parametrize("text", ["ten", "[1", "inf", "1_0"])
def test_a_prior_is_a_number_or_nothing(project, text):
    with_value(PARTICLES, "particles", "rlnAngleTiltPrior", text, 3)
    particles = read_particles(PARTICLES)
    with pytest.raises(InputError, match=r"row 4 .*column rlnAngleTiltPrior"):
        particle_numbers(particles, ["rlnAngleTiltPrior"], may_lack=True)
