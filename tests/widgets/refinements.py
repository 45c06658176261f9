"""A small refinement of simulated particles, and the options it is run with."""

from __future__ import annotations

BOX_PX, PIXEL_ANGST = 24, 4.0
VALUES = {
    "in_optimisation_set": "Extract/job010/optimisation_set.star", "in_3dref": "Extract/job010/reference.mrc",
    "mask_diameter_angst": 76.0, "initial_lowpass_angst": 24.0, "initial_sampling_deg": "3.7",
    "local_searches_from_deg": "3.7", "offset_range_px": 2.0, "max_iterations": 2,
}  # fmt: skip
