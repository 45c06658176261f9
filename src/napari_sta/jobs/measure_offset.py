"""Measure offset: how far a map lies from a mask along its symmetry axis."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import field_validator

from napari_sta.data.errors import InputError
from napari_sta.data.progress import Progress
from napari_sta.jobs._job import Context, Job, Node, RunSteps, param
from napari_sta.jobs._params import check_symmetry

if TYPE_CHECKING:
    from napari_sta.data.volume import Volume
    from napari_sta.jobs._maps import Grid


class MeasureOffset(Job):
    """Measure how far a map's density lies from a mask along an axis, to 1/20 px.

    The map is made into masks again, at several thresholds and growths, and the shift is found at which the
    best of them agrees with the mask. Recentre by the number printed, with the sign printed.
    """

    label: ClassVar[str] = "Measure offset"
    folder: ClassVar[str] = "External"
    order: ClassVar[int] = 40
    outputs: ClassVar[dict[str, Node]] = {
        "offset.json": Node("ProcessData.json.napari_sta.offset", 1, "offset, candidates and score curve")
    }

    in_3dref: str = param(
        title="Reference map", kind="file:map", help="The map to measure, usually merged.mrc of Reconstruct."
    )
    in_mask: str = param(
        title="Mask", kind="file:mask",
        help="A mask that is centred as the map should be. Another box or pixel size is resampled, and that is said.",
    )  # fmt: skip
    pixel_size_angst: float | None = param(
        None, title="Pixel size", unit="Å", flag="--angpix", ge=0.01, le=1000,
        help="Of the map. Empty: from its header. A mask on its grid follows it.",
    )  # fmt: skip
    axis: Literal["x", "y", "z"] = param(
        "z", title="Axis", tab="Offset", choices={"z": "z (symmetry axis)", "x": "x", "y": "y"},
        help="Axis to measure along. With Cn symmetry only z is free.",
    )  # fmt: skip
    range_px: float = param(
        20.0,
        title="Range",
        unit="px",
        tab="Offset",
        gt=0,
        le=10_000,
        help="Offsets from -range to +range are scored.",
    )
    symmetry: str = param(
        "C1", title="Symmetry", tab="Offset", relion="sym_name",
        help="Point group of the map: it decides which axes are free to shift.",
    )  # fmt: skip
    clamp_mask: bool = param(
        False, title="Clamp mask to 0..1", tab="Offset", advanced=True,
        help="Yes: cut off mask values below 0 and above 1 instead of refusing them.",
    )  # fmt: skip

    @field_validator("symmetry")
    @classmethod
    def _known_symmetry(cls, value: str) -> str:
        return check_symmetry(value)

    def check(self) -> None:
        """Read map and mask, and hold the axis against the symmetry."""
        from napari_sta.kernels.rotations import free_axes

        free = free_axes(self.symmetry)
        if self.axis not in free:
            allowed = f"only {', '.join(free)} is free" if free else "no axis is free"
            raise InputError(f"--axis {self.axis}: {self.symmetry} fixes the centre on it; {allowed}")
        reference, _ = self._read()
        if self.range_px >= reference.box_px / 2:
            raise InputError(
                f"--range_px {self.range_px:g} must be below half the map's box ({reference.box_px // 2} px)"
            )

    @property
    def _clamp(self) -> float:
        from napari_sta.jobs._masks import CLAMP_ANY

        return CLAMP_ANY if self.clamp_mask else 0.0

    def warnings(self) -> list[str]:
        """Say what is assumed of map and mask, and what is done to the mask."""
        from napari_sta.jobs._masks import mask_warnings

        said: list[str] = []
        grid = self._grid(said)
        return said + mask_warnings(self.in_mask, grid, self._clamp)

    def _grid(self, said: list[str]) -> Grid:
        from napari_sta.io.mrc import read_header
        from napari_sta.jobs._maps import Grid, known_pixel_size

        header = read_header(self.in_3dref)
        pixel = known_pixel_size(self.in_3dref, self.pixel_size_angst, said)
        return Grid(header.shape_zyx[0], pixel, header_angst=header.pixel_size_angst)

    def _read(self) -> tuple[Volume, Volume]:
        from napari_sta.jobs._maps import read_map
        from napari_sta.jobs._masks import read_mask

        grid = self._grid([])
        reference = read_map(self.in_3dref, grid.pixel_size_angst)
        return reference, read_mask(self.in_mask, grid, self._clamp)

    def run(self, context: Context) -> RunSteps:
        """Score, print the offset in px, Å and RELION's words, write the curve."""
        from napari_sta.io.files import write_text
        from napari_sta.kernels.alignment import score_curve

        reference, mask = self._read()
        yield Progress(0, 1, "scoring")
        pixel = reference.pixel_size_angst
        try:
            curve = score_curve(reference.data, mask.data, self.axis, self.range_px, pixel_size_angst=pixel)
        except ValueError as error:
            raise InputError(f"{self.in_3dref} and {self.in_mask}: {error}") from error
        best = curve.candidates[0]
        record: dict[str, Any] = {
            "offset_px": round(best.offset_px, 2) + 0.0,
            "offset_angst": round(best.offset_px * pixel, 2) + 0.0,
            "axis": self.axis,
            "score": round(best.score, 4),
            "confidence": round(curve.confidence, 2),
            "uncertainty_px": round(curve.uncertainty_px, 2),
            "at_end_of_range": curve.at_end,
            "pixel_size_angst": round(pixel, 6),
            "candidates": [
                {"offset_px": round(c.offset_px, 2), "score": round(c.score, 4)} for c in curve.candidates
            ],
        }
        record["summary"] = in_words(record)
        full = record | {
            "curve": {
                "offset_px": [round(float(v), 4) for v in curve.offset_px],
                "score": [round(float(v), 5) for v in curve.score],
            }
        }
        write_text(context.out / "offset.json", json.dumps(full, indent=1) + "\n")
        yield Progress(1, 1, "scored")
        return full


def in_words(record: dict[str, Any]) -> str:
    """Say what an offset means, with RELION's sign."""
    from napari_sta.kernels.alignment import trust

    offset, axis = record["offset_px"], record["axis"].upper()
    level = record["confidence"]
    angst = f"{record['offset_angst']:+.2f} Å"
    if record["at_end_of_range"]:
        lines = [
            f"No offset found: the score still rises at {axis} = {offset:+.2f} px, the end of the range; widen "
            "--range_px, or map and mask do not belong together."
        ]
    elif trust(level) == "weak":
        lines = [
            f"No reliable offset: the best guess is {axis} = {offset:+.2f} px ({angst}), but the mask fits the map "
            f"badly there (score {record['score']:.2f}, confidence {level:.2f}); look at the overlay."
        ]
    else:
        word = trust(level) + ("" if trust(level) == "clear" else ": look at the overlay")
        lines = [
            f"Offset {axis} = {offset:+.2f} px ({angst}), to about {record['uncertainty_px']:.2f} px; confidence "
            f"{level:.2f} ({word})."
        ]
    lines += [
        f"Density at {axis}={offset:+.2f} px becomes the centre. RELION: --center --center_{axis} {offset:g}; "
        f"napari-sta: recenter --center_{axis.lower()}_px {offset:g}",
        "Candidates: "
        + ", ".join(f"{c['offset_px']:+.2f} px ({c['score']:.3f})" for c in record["candidates"]),
        "What limits it: the threshold and growth the mask was made with are unknown; envelopes that fit "
        "equally well differ by the uncertainty above.",
    ]
    return "\n".join(lines)
