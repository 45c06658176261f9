"""A phantom on the disk reads back."""

from __future__ import annotations

import json

import numpy as np
import pytest

from napari_sta.data.errors import InputError
from napari_sta.io.mrc import read_images, read_volume
from napari_sta.io.relion.inputs import load_sta_inputs
from napari_sta.phantoms.project import write_project


def test_a_written_project_reads_back(phantom, tmp_path):
    paths = write_project(phantom, tmp_path / "project")
    inputs = load_sta_inputs(paths.optimisation_set)
    np.testing.assert_array_equal(
        inputs.particles.coordinate_zyx_angst, phantom.particles.coordinate_zyx_angst
    )
    np.testing.assert_array_equal(inputs.particles.origin_zyx_angst, phantom.particles.origin_zyx_angst)
    np.testing.assert_array_equal(inputs.particles.angles_deg, phantom.particles.angles_deg)
    assert not inputs.warnings
    for series in phantom.series:
        found = inputs.tilt_series[series.name]
        for name in ("angles_xyz_deg", "shift_yx_angst", "defocus_u_angst", "ctf_scale", "dose_e_per_angst2"):
            np.testing.assert_array_equal(getattr(found, name), getattr(series, name), err_msg=name)
        assert found.size_zyx_px == series.size_zyx_px
        assert found.hand == series.hand
        stack = read_images(found.images)
        scale = np.abs(phantom.images[series.name]).max()
        np.testing.assert_allclose(stack, phantom.images[series.name], atol=1e-3 * scale)
    assert read_volume(paths.mask_align).pixel_size_angst == pytest.approx(4.0)
    text = (tmp_path / "project/Select/job002/optimisation_set.star").read_text()
    assert " Select/job002/particles.star" in text  # relative to the project, as RELION wants it
    spec = json.loads((tmp_path / "project/truth/phantom.json").read_text())
    assert spec["hidden_offset_px"] == -1.5
    with pytest.raises(InputError, match="already holds a RELION project"):
        write_project(phantom, tmp_path / "project")
