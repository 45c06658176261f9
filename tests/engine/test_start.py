"""Iteration 0."""

from __future__ import annotations

import numpy as np
import pytest

from napari_sta.data.volume import Volume
from napari_sta.engine.start import initial_state
from napari_sta.io.mrc import read_volume, write_volume
from refine_project import (
    PIXEL_ANGST,
    Refinable,
    prepared,
)


@pytest.fixture(scope="module")
def project(stacks: Refinable) -> Refinable:
    return stacks


def test_an_unknown_grey_scale_leaves_the_noise_alone(project, tmp_path):
    """Iteration 1 by correlation, whatever the reference's scale; iteration 2 has the right noise."""
    noise = {}
    for factor in (1.0, 20.0):
        reference = read_volume(project.reference)
        path = tmp_path / f"times{factor:g}.mrc"
        write_volume(path, Volume(reference.data * np.float32(factor), PIXEL_ANGST))
        one = prepared(project, in_3dref=path, absolute_greyscale="No")
        state, _ = initial_state(one.run, one.references, one.start, one.half_set, fit_scale=False)
        noise[factor] = np.stack([images.noise for images in state.images])
    np.testing.assert_allclose(noise[20.0], noise[1.0], rtol=1e-3)
