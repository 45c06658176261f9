"""Numbers look as in RELION."""

from __future__ import annotations

import pytest

from napari_sta.io.refinement.number_text import number_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.000000"),
        (-0.0, "0.000000"),
        (16.2000009, "16.200001"),
        (-0.270981, "-0.27098"),
        (-91.0, "-91.00000"),
        (48480.415391, "48480.415391"),
        (2073393.0, "2.073393e+06"),
        (-161535.3, "-1.61535e+05"),
        (7.710759e-4, "7.710759e-04"),
        (float("inf"), "inf"),
    ],
)
def test_numbers_look_as_in_relion(value, text):
    assert number_text(value) == text
