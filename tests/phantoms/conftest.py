"""The phantom that the tests of this folder share."""

from __future__ import annotations

import numpy as np
import pytest

from napari_sta.phantoms.simulation import simulate
from napari_sta.phantoms.spec import PhantomSpec

_SMALL = PhantomSpec(
    seed=5,
    n_tomograms=2,
    image_size_yx_px=(150, 160),
    tomogram_size_zyx_px=(150, 160, 150),
    sphere_radius_angst=170.0,
    tilts_deg=(0.0, 20.0, -20.0),
    x_tilt_deg=2.0,
    snr=np.inf,
    membrane_strength=0.0,
    hidden_offset_px=-1.5,
)


@pytest.fixture(scope="session")
def phantom():
    return simulate(_SMALL)
