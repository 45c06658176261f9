"""RELION's postprocess.star, and the FSC file that the EMDB takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from napari_sta.data.errors import InputError
from napari_sta.io.files import write_text
from napari_sta.io.relion.numbers import number_column
from napari_sta.io.star import Table, format_number, read_star, table, write_star

FSC_COLUMNS = {
    "corrected": "rlnFourierShellCorrelationCorrected",
    "mask_fraction": "rlnFourierShellCorrelationParticleMaskFraction",
    "unmasked": "rlnFourierShellCorrelationUnmaskedMaps",
    "masked": "rlnFourierShellCorrelationMaskedMaps",
    "randomised": "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps",
}
GUINIER_COLUMNS = {
    "original": "rlnLogAmplitudesOriginal",
    "mtf": "rlnLogAmplitudesMTFCorrected",
    "weighted": "rlnLogAmplitudesWeighted",
    "sharpened": "rlnLogAmplitudesSharpened",
    "intercept": "rlnLogAmplitudesIntercept",
}
GENERAL = {
    "resolution_angst": "rlnFinalResolution",
    "bfactor_angst2": "rlnBfactorUsedForSharpening",
    "half1": "rlnUnfilteredMapHalf1",
    "half2": "rlnUnfilteredMapHalf2",
    "map": "rlnPostprocessedMap",
    "mask_fraction": "rlnParticleBoxFractionSolventMask",
    "mask": "rlnMaskName",
    "randomised_from_angst": "rlnRandomiseFrom",
    "masked_map": "rlnPostprocessedMapMasked",
    "slope": "rlnFittedSlopeGuinierPlot",
    "intercept": "rlnFittedInterceptGuinierPlot",
    "correlation": "rlnCorrelationFitGuinierPlot",
}
_PATHS = ("half1", "half2", "map", "mask", "masked_map")


@dataclass(frozen=True)
class PostprocessTables:
    """What a ``postprocess.star`` says, RELION's or ours.

    Attributes
    ----------
    general
        Keys of :data:`GENERAL` that the file has.
    frequency_inv_angst, fsc
        Per shell; keys of :data:`FSC_COLUMNS`.
    inverse_square_angst2, log_amplitudes
        Guinier plot; keys of :data:`GUINIER_COLUMNS`. Empty if the file has none.
    """

    general: dict[str, str | float]
    frequency_inv_angst: NDArray[np.float64]
    fsc: dict[str, NDArray[np.float64]]
    inverse_square_angst2: NDArray[np.float64]
    log_amplitudes: dict[str, NDArray[np.float64]]

    def number(self, key: str) -> float:
        """Return a number of the general table; NaN if it is not there."""
        value = self.general.get(key)
        return float(value) if isinstance(value, int | float) else float("nan")

    @property
    def mask_percent(self) -> float:
        """Share of the box inside the mask; NaN without a mask.

        RELION writes 0.476 / share, the factor of its mask-fraction FSC, under the name of the share.
        """
        return 47.6 / self.number("mask_fraction")


def read_postprocess_star(path: str | Path) -> PostprocessTables:
    """Read a post-processing result.

    Raises
    ------
    InputError
        If the file is missing, has no FSC, or text where numbers should be.
    """
    if not Path(path).is_file():
        raise InputError(f"{path} is not there; choose the folder of a finished Post-processing job")
    tables = read_star(path)
    general, fsc = tables.get("general"), tables.get("fsc")
    if general is None or fsc is None or "rlnResolution" not in fsc:
        raise InputError(f"{path} is no result of Post-processing: it has no FSC table")
    row = general.row()
    plot = tables.get("guinier")
    if plot is not None and "rlnResolutionSquared" not in plot:
        plot = None

    def columns(one: Table, labels: Mapping[str, str]) -> dict[str, NDArray[np.float64]]:
        # Both programs write a shell without signal as inf or nan.
        return {
            key: number_column(one, label, path, finite=False)
            for key, label in labels.items()
            if label in one
        }

    squares = {} if plot is None else columns(plot, {"": "rlnResolutionSquared"})
    return PostprocessTables(
        general={
            key: row[label] if key in _PATHS else float(number_column(general, label, path, finite=False)[0])
            for key, label in GENERAL.items()
            if label in row
        },
        frequency_inv_angst=columns(fsc, {"": "rlnResolution"})[""],
        fsc=columns(fsc, FSC_COLUMNS),
        inverse_square_angst2=squares.get("", np.zeros(0)),
        log_amplitudes={} if plot is None else columns(plot, GUINIER_COLUMNS),
    )


def write_postprocess_star(
    path: str | Path,
    general: Mapping[str, str | float],
    box_size_px: int,
    pixel_size_angst: float,
    fsc: Mapping[str, NDArray[np.float64]],
    inverse_square_angst2: NDArray[np.float64],
    log_amplitudes: Mapping[str, NDArray[np.float64]],
) -> None:
    """Write tables ``general``, ``fsc`` and ``guinier`` as RELION's postprocess does.

    Parameters
    ----------
    general
        Keys of :data:`GENERAL`; those that do not apply are left out.
    fsc
        Keys of :data:`FSC_COLUMNS`, (shells,) each.
    inverse_square_angst2, log_amplitudes
        Guinier plot; keys of :data:`GUINIER_COLUMNS`.
    """
    shells = np.arange(box_size_px // 2 + 1)
    angst = np.full(len(shells), 999.0)
    angst[1:] = box_size_px * pixel_size_angst / shells[1:]
    curves = {FSC_COLUMNS[key]: format_number(fsc[key]) for key in FSC_COLUMNS if key in fsc}
    amplitudes = {
        GUINIER_COLUMNS[key]: format_number(log_amplitudes[key])
        for key in GUINIER_COLUMNS
        if key in log_amplitudes
    }
    tables = [
        table(
            "general",
            {
                GENERAL[key]: [value if isinstance(value, str) else format_number([value])[0]]
                for key, value in general.items()
            },
            is_loop=False,
        ),
        table(
            "fsc",
            {
                "rlnSpectralIndex": [str(i) for i in shells],
                "rlnResolution": format_number(1 / angst),
                "rlnAngstromResolution": format_number(angst),
                **curves,
            },
        ),
        table("guinier", {"rlnResolutionSquared": format_number(inverse_square_angst2), **amplitudes}),
    ]
    write_star(path, tables)


def write_fsc_xml(path: str | Path, title: str, fsc: NDArray[np.float64], edge_angst: float) -> None:
    """Write an FSC curve as the EMDB's deposition takes it.

    Parameters
    ----------
    edge_angst
        Box size · pixel size.
    """
    lines = [f'<fsc title={quoteattr(title)} xaxis="Resolution (A-1)" yaxis="Correlation Coefficient">']
    for shell, value in enumerate(fsc):
        lines += ["  <coordinate>", f"    <x>{shell / edge_angst:.6f}</x>", f"    <y>{value:.6f}</y>"]
        lines.append("  </coordinate>")
    write_text(path, "\n".join([*lines, "</fsc>", ""]))


def read_mtf(path: str | Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read a detector's MTF: cycles per pixel and value.

    Raises
    ------
    InputError
        If the file is no STAR file with ``rlnResolutionInversePixel`` and ``rlnMtfValue``, has fewer than
        three rows, or values that are not positive.
    """
    columns: Sequence[str] = ("rlnResolutionInversePixel", "rlnMtfValue")
    for one in read_star(path).values():
        if all(label in one for label in columns):
            rho, mtf = (number_column(one, label, path) for label in columns)
            if len(rho) < 3 or (mtf < 1e-10).any():
                raise InputError(f"{path}: an MTF needs at least three rows, with values above 0")
            return rho, mtf
    raise InputError(f"{path} is no MTF file: it has no table with {columns[0]} and {columns[1]}")
