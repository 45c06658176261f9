"""Limits on filters that a map's grid sets."""

from __future__ import annotations

import numpy as np

from napari_sta.data.errors import InputError


def check_bfactor(option: str, bfactor_angst2: float | None, pixel_size_angst: float) -> None:
    """Refuse a B-factor that amplifies the finest details beyond what numbers hold.

    Raises
    ------
    InputError
        If it amplifies them more than 10^20-fold.
    """
    power = -(bfactor_angst2 or 0.0) / (16 * pixel_size_angst**2 * np.log(10))
    if power > 20:
        raise InputError(
            f"--{option} {bfactor_angst2:g} amplifies details of {2 * pixel_size_angst:.4g} Å 10^{power:.0f}-fold; take "
            "one nearer to 0"
        )


def check_lowpass(lowpass_angst: float | None, edge_angst: float) -> None:
    """Refuse a low-pass that leaves nothing of a map but its mean.

    Raises
    ------
    InputError
        If it is coarser than the box.
    """
    if lowpass_angst is not None and lowpass_angst > edge_angst:
        raise InputError(
            f"--lowpass_angst {lowpass_angst:g} is coarser than the map's box, {edge_angst:.4g} Å, so nothing would be "
            "left; take a smaller one"
        )
