"""Names of tomograms that are nearly right."""

from __future__ import annotations

import pytest

from napari_sta.data.errors import InputError
from napari_sta.io.relion.inputs import load_sta_inputs
from star_edits import PARTICLES, with_value


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("TS_01_Vol", "TS_01"),
        ("TS_01.tomostar", "TS_01"),
        ("rec_TS_03.mrc", "TS_03"),
        ("TS01", "TS_01"),
        ("zebra", None),
    ],
)
def test_names_that_the_set_has_are_shown(project, name, meant):
    with_value(PARTICLES, "particles", "rlnTomoName", name)
    with pytest.raises(InputError, match="its tomograms are TS_01, TS_03") as error:
        load_sta_inputs("Extract/job024/optimisation_set.star")
    assert (f"is {name} the same as {meant}?" in str(error.value)) == (meant is not None)
