"""Filters that a map's grid cannot have."""

from __future__ import annotations

import pytest

from napari_sta.data.errors import InputError
from napari_sta.jobs._job import job_named


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("process_map", {"rescale_pixel_size_angst": "1e-9"}),
        ("process_map", {"rescale_pixel_size_angst": "1e300"}),
        ("process_map", {"rescale_pixel_size_angst": "0.01"}),
        ("process_map", {"box_size_px": "100000"}),
        ("process_map", {"box_size_px": "10000"}),
        ("process_map", {"pixel_size_angst": "1e-9"}),
        ("process_map", {"shift_z_px": "1e300"}),
        ("process_map", {"bfactor_angst2": "-9e4", "pixel_size_angst": "1"}),
        ("process_map", {"bfactor_angst2": "1e300"}),
        ("process_map", {"lowpass_angst": "1e308"}),
        ("process_map", {"lowpass_angst": "90"}),
        ("process_map", {"clamp_low": "1e300"}),
        ("make_mask", {"pixel_size_angst": "1e300"}),
        ("make_mask", {"extend_px": "1e300"}),
        ("make_mask", {"soft_edge_px": "1e300"}),
        ("make_mask", {"threshold": "1e300"}),
        ("measure_offset", {"range_px": "1e300"}),
        ("measure_offset", {"pixel_size_angst": "0"}),
        ("postprocess", {"pixel_size_angst": "1e300"}),
        ("postprocess", {"adhoc_bfactor_angst2": "-1e300"}),
        ("postprocess", {"adhoc_bfactor_angst2": "-9e4", "pixel_size_angst": "1"}),
        ("postprocess", {"lowpass_angst": "90"}),
        ("postprocess", {"mtf_pixel_size_angst": "1e-300"}),
    ],
)
def test_numbers_that_cannot_be_meant(files, name, values):
    """They are refused with the option's name before anything is asked of the memory."""
    given = {"in_half_map": files["half1"]} if name == "postprocess" else {"in_3dref": files["half1"]}
    given |= {"in_mask": files["mask"]} if name == "measure_offset" else {}
    with pytest.raises(InputError, match=f"--{next(iter(values))}"):
        job_named(name).from_text({**given, **values}).check()
