"""Sampling files."""

from __future__ import annotations

import pytest

from napari_sta.data.errors import InputError
from napari_sta.io.refinement.sampling import read_sampling, write_sampling
from refinement_records import sampling_with


def test_values_of_a_sampling_of_relion(refine):
    sampling = read_sampling(refine / "run_it006_sampling.star")
    assert (sampling.order, sampling.symmetry, sampling.psi_step_deg) == (4, "C6", 3.75)
    assert (sampling.offset_range_angst, sampling.offset_step_angst) == (16.200001, 10.800001)
    assert (sampling.perturbation, sampling.perturbation_factor) == (-0.27098, 0.5)
    assert (sampling.order_original, sampling.psi_step_original_deg) == (4, 3.75)
    assert (sampling.offset_range_original_angst, sampling.offset_step_original_angst) == (
        16.200001,
        10.800001,
    )
    assert (sampling.is_3d_translations, sampling.tilt_limit_deg) == (True, -91.0)
    assert sampling.directions_deg.shape == (10, 2)
    assert sampling.directions_deg[0].tolist() == [28.125, 73.042237]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_sampling_that_is_not_finite_is_not_written(tmp_path, value):
    with pytest.raises(
        InputError, match=r"s\.star was not written: rlnSamplingPerturbInstance is (nan|inf), not"
    ):
        write_sampling(tmp_path / "s.star", sampling_with(perturbation=value))
    assert not list(tmp_path.iterdir())
