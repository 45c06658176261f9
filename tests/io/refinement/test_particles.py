"""Particles of an iteration."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_sta.data.errors import InputError
from napari_sta.io.refinement.particles import write_refined_particles
from napari_sta.io.relion.particles import read_particles
from napari_sta.io.star import read_star


@pytest.mark.parametrize("number", [0, 6])
def test_refined_particles_are_written_as_relion_wrote_them(refine, tmp_path, number):
    """RELION's input, with the poses RELION found, must give RELION's output."""
    theirs = read_particles(refine / f"run_it{number:03d}_data.star")
    found = {
        label: theirs.text[label].astype(float) if label in theirs.text else None
        for label in ("rlnLogLikeliContribution", "rlnMaxValueProbDistribution", "rlnNrOfSignificantSamples")
    }
    assert all((values is None) == (number == 0) for values in found.values())
    given = read_particles(refine / "particles_small.star")
    assert given.name.tolist() == theirs.name.tolist()
    moved = replace(
        given,
        angles_deg=theirs.angles_deg,
        origin_zyx_angst=theirs.origin_zyx_angst,
        half_set=theirs.half_set,
    )
    write_refined_particles(
        tmp_path / "d.star",
        moved,
        group_number=theirs.text["rlnGroupNumber"].astype(int),
        log_likelihood=found["rlnLogLikeliContribution"],
        p_max=found["rlnMaxValueProbDistribution"],
        n_significant=found["rlnNrOfSignificantSamples"],
    )
    expected, ours = read_star(refine / f"run_it{number:03d}_data.star"), read_star(tmp_path / "d.star")
    assert list(ours) == list(expected) == ["general", "optics", "particles"]
    for table in expected:
        assert list(ours[table].columns) == list(expected[table].columns)
        for label, column in expected[table].columns.items():
            try:
                np.testing.assert_allclose(
                    ours[table][label].astype(float), column.astype(float), rtol=1e-6, atol=6e-6
                )
            except ValueError:
                assert ours[table][label].tolist() == column.tolist()


def test_refined_particles_without_a_class_or_half_set_column_get_them(refine, tmp_path):
    given = read_particles(refine / "particles_small.star")
    text = {k: v for k, v in given.text.items() if k not in ("rlnRandomSubset", "rlnClassNumber")}
    halves = np.array([2, 1, 2, 1, 2, 1, 2])
    groups, norm = np.array([3, 3, 1, 2, 2, 1, 1]), np.linspace(0.5, 2, 7)
    write_refined_particles(
        tmp_path / "d.star", replace(given, text=text, half_set=halves), group_number=groups, norm=norm
    )
    back = read_particles(tmp_path / "d.star")
    assert back.half_set.tolist() == halves.tolist()
    assert back.text["rlnClassNumber"].tolist() == ["1"] * 7
    assert back.text["rlnGroupNumber"].astype(int).tolist() == groups.tolist()
    assert back.text["rlnNormCorrection"].astype(float) == pytest.approx(norm)
    assert list(back.text)[-4:] == [
        "rlnGroupNumber",
        "rlnRandomSubset",
        "rlnClassNumber",
        "rlnNormCorrection",
    ]


def test_a_second_refinement_replaces_the_columns_of_the_first(refine, tmp_path):
    first = read_particles(refine / "run_it001_data.star")
    likelihood = 161535.3125 + np.arange(len(first))
    write_refined_particles(
        tmp_path / "d.star", first, group_number=1, log_likelihood=likelihood, n_significant=np.arange(7)
    )
    again = read_particles(tmp_path / "d.star")
    assert list(again.text) == list(first.text)
    assert again.text["rlnLogLikeliContribution"].astype(float).tolist() == likelihood.tolist()
    assert again.text["rlnNrOfSignificantSamples"].astype(int).tolist() == list(range(7))
    assert again.text["rlnGroupNumber"].tolist() == ["1"] * 7
    assert (
        again.text["rlnMaxValueProbDistribution"].tolist()
        == first.text["rlnMaxValueProbDistribution"].tolist()
    )


def test_particles_that_cannot_be_written(refine, tmp_path):
    particles = read_particles(refine / "run_it001_data.star")
    with pytest.raises(ValueError, match="half sets"):
        write_refined_particles(tmp_path / "d.star", replace(particles, half_set=None), group_number=1)
    bad = np.ones(7)
    bad[3] = np.nan
    with pytest.raises(InputError, match=r"d\.star was not written: rlnMaxValueProbDistribution holds"):
        write_refined_particles(tmp_path / "d.star", particles, group_number=1, p_max=bad)
    assert not list(tmp_path.iterdir())
