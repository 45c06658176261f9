"""The whole phantom: its images, its truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_sta.phantoms.simulation import simulate


def test_table_is_sorted_by_angle_and_keeps_its_dose(phantom):
    series = phantom.series[0]
    np.testing.assert_allclose(series.angles_xyz_deg[:, 1], [-20, 0, 20])
    np.testing.assert_allclose(series.dose_e_per_angst2, [5.2, 0.0, 2.6])
    unsorted = simulate(replace(phantom.spec, sort_by_angle=False, n_tomograms=1)).series[0]
    np.testing.assert_allclose(unsorted.angles_xyz_deg[:, 1], [0, 20, -20])
    np.testing.assert_allclose(unsorted.dose_e_per_angst2, [0.0, 2.6, 5.2])


def test_noise_has_the_asked_variance(phantom):
    noisy = simulate(replace(phantom.spec, snr=0.25))
    name = phantom.series[0].name
    noise = noisy.images[name] - phantom.images[name]
    signal = phantom.images[name][1].std()  # the image of zero dose
    assert noise.std() == pytest.approx(signal / np.sqrt(0.25), rel=0.02)


def test_membrane_lies_outside_the_particles(phantom):
    with_membrane = simulate(replace(phantom.spec, membrane_strength=1.0, n_tomograms=1, image_size_yx_px=(170, 170),
                                     tomogram_size_zyx_px=(170, 170, 170)))  # fmt: skip
    data = with_membrane.lattice_map.data
    z = np.arange(64) - 32
    profile = data[:, 30:34, 30:34].mean(axis=(1, 2))
    assert profile[z == 17] > 0.5 * profile[z == 18]  # 70 A = 17.5 px above the centre
    assert profile[z == 12] < 0.05 * profile[z == 18]
    assert with_membrane.mask_align.data[32 + 17].max() < 0.05


def test_a_sphere_that_does_not_fit_is_refused(phantom):
    with pytest.raises(ValueError, match="does not fit"):
        simulate(replace(phantom.spec, sphere_radius_angst=400.0))
