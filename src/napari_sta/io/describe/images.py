"""MRC files."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from napari_sta.io import mrc
from napari_sta.io.describe.description import Description


def describe_mrc(path: Path) -> Description:
    """Tell the size, pixel and values of an MRC file."""
    header = mrc.read_header(path)
    d, h, w = header.shape_zyx
    kind = header.dtype.name
    found = Description()
    pixel = header.pixel_size_angst
    if header.is_stack:
        found.lines.append(f"{path.name}: stack of {d} images, {w} x {h} px, {kind}")
    elif d == 1:
        found.lines.append(f"{path.name}: one image, {w} x {h} px, {kind}")
    else:
        found.lines.append(f"{path.name}: {_volume_word(path, header)}, {w} x {h} x {d} voxels, {kind}")
        if header.says_stack:
            found.lines.append(
                "its header calls it a stack of images (ISPG 0, mz 1); a cube is read as a map"
            )
    if header.stored_axes != (0, 1, 2):
        columns, rows, sections = ("zyx"[header.stored_axes.index(axis)] for axis in (2, 1, 0))
        found.lines.append(
            f"stored with columns along {columns}, rows along {rows}, sections along {sections} (mapc, mapr, "
            "maps); read in the usual order, x, y, z. RELION ignores that, so there it is turned or mirrored"
        )
    if pixel is None:
        found.problems.append(f"it {header.why_no_pixel_size}: find out before measuring in Å")
    elif header.is_image:
        found.lines.append(f"pixel size {pixel:.4g} Å; field of view {w * pixel:.4g} x {h * pixel:.4g} Å")
    elif "Fourier" in _volume_word(path, header):
        found.lines.append(f"for a volume of {2 * (w - 1)} voxels a side, {1 / pixel:.4g} Å each")
    else:
        sides = " x ".join(f"{n * pixel:.4g}" for n in reversed(header.shape_zyx))
        found.lines.append(f"pixel size {pixel:.4g} Å; {sides} Å; Nyquist {2 * pixel:.4g} Å")
    if header.labels:
        found.lines.append("written by: " + " ".join(header.labels[0].split()))
    if header.why_incomplete:
        found.problems.append(f"it {header.why_incomplete}")
        return found
    _describe_values(found, path, header)
    return found


def _volume_word(path: Path, header: mrc.MrcHeader) -> str:
    name = path.name
    d, h, w = header.shape_zyx
    if name.endswith("_weights.mrc") and d == 2 * h and w == h // 2 + 1:
        return "weights of a 3D pseudo-subtomogram (CTF² over multiplicity, Fourier half)"
    if name.endswith("_data.mrc"):
        return "3D pseudo-subtomogram"
    if mrc.is_called_mask(path):
        return "mask"
    return f"volume, or stack of {d} images" if len({d, h, w}) > 1 else "map"


def _describe_values(found: Description, path: Path, header: mrc.MrcHeader) -> None:
    size = math.prod(header.shape_zyx)
    low, high, total, bad = np.inf, -np.inf, 0.0, 0
    for piece in mrc.sections(header):
        values = np.asarray(piece, dtype=np.float32)
        finite = np.isfinite(values)
        bad += int(values.size - finite.sum())
        if finite.any():
            low, high = min(low, float(values[finite].min())), max(high, float(values[finite].max()))
            total += float(values[finite].sum(dtype=np.float64))
    if bad == size:
        found.problems.append("no value is a finite number")
        return
    found.lines.append(f"values {low:.4g} to {high:.4g}, mean {total / (size - bad):.4g}")
    if bad:
        found.problems.append(f"{bad} values are not finite numbers (NaN or infinity)")
    if low == high:
        found.problems.append(f"all values are {low:g}")
    elif max(-low, high) > mrc.LARGEST_VALUE:
        found.problems.append(
            "values this large cannot be computed with; scale them down, or the file is damaged"
        )
    if mrc.is_called_mask(path) and header.shape_zyx[0] > 1 and (low < 0 or high > 1):
        found.problems.append(
            f"values of a mask must lie between 0 and 1, these go from {low:.3g} to {high:.3g} (rescaling "
            "does "
            "that); relion_postprocess refuses such a mask, clamp it to 0…1"
        )
