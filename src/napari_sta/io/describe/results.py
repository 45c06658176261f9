"""Results of post-processing and refinement."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from napari_sta.io.describe.description import Description, exists
from napari_sta.io.relion.numbers import is_number
from napari_sta.io.star import Table


def describe_postprocess(found: Description, path: Path, tables: dict[str, Table]) -> None:
    """Tell a resolution, and what it was measured on."""
    head = tables["general"].row()
    found.lines.append(f"{path.name}: result of post-processing, {len(tables['fsc'])} Fourier shells")
    for label, what, unit in (
        ("rlnFinalResolution", "final resolution", " Å"),
        ("rlnBfactorUsedForSharpening", "B-factor", " Å²"),
        ("rlnUnfilteredMapHalf1", "half map 1", ""),
        ("rlnUnfilteredMapHalf2", "half map 2", ""),
        ("rlnMaskName", "mask", ""),
        ("rlnPostprocessedMap", "sharpened map", ""),
        ("rlnRandomiseFrom", "phases randomised beyond", " Å"),
        ("rlnParticleBoxFractionSolventMask", "share of the box inside the mask", " %"),
    ):
        if label in head:
            value = head[label]
            text = f"{float(value):g}" if unit and is_number(value) else value
            found.lines.append(f"  {what}: {text}{unit}")
    for label in ("rlnUnfilteredMapHalf1", "rlnPostprocessedMap", "rlnMaskName"):
        if head.get(label) and not exists(head[label], path):
            found.problems.append(f"{head[label]} ({label}) does not exist")


def describe_model(found: Description, path: Path, tables: dict[str, Table]) -> None:
    """Tell what a half set has taught a refinement."""
    head = tables["model_general"].row()
    found.lines.append(f"{path.name}: model of a refinement")
    _tell_numbers(
        found,
        head,
        ("rlnCurrentResolution", "resolution", " Å"),
        ("rlnPixelSize", "pixel size", " Å"),
        ("rlnOriginalImageSize", "box", " px"),
        ("rlnCurrentImageSize", "image size in use", " px"),
        ("rlnAveragePmax", "average Pmax", ""),
        ("rlnNrClasses", "classes", ""),
    )
    classes = tables.get("model_classes")
    if classes is not None and len(classes):
        row = classes.row()
        for label, what, unit in (
            ("rlnReferenceImage", "map", ""),
            ("rlnAccuracyRotations", "estimated accuracy of rotations", "°"),
            ("rlnAccuracyTranslationsAngst", "estimated accuracy of translations", " Å"),
        ):
            if label in row:
                found.lines.append(f"  {what}: {row[label]}{unit}")


def describe_optimiser(found: Description, path: Path, tables: dict[str, Table]) -> None:
    """Tell where a refinement stands."""
    head = tables["optimiser_general"].row()
    found.lines.append(
        f"{path.name}: state of a refinement after iteration {head.get('rlnCurrentIteration', '?')}"
    )
    for label, what in (
        ("rlnExperimentalDataStarFile", "particles"),
        ("rlnModelStarFile", "model of half 1"),
        ("rlnModelStarFile2", "model of half 2"),
        ("rlnOrientSamplingStarFile", "sampling"),
        ("rlnTomoTomogramsFile", "tomogram set"),
        ("rlnSolventMaskName", "mask"),
    ):
        value = head.get(label, "")
        if value and value != "None":
            found.lines.append(f"  {what}: {value}")
            if not exists(value, path):
                found.problems.append(f"{value} ({label}) does not exist")


def describe_sampling(found: Description, path: Path, tables: dict[str, Table]) -> None:
    """Tell which orientations and shifts are searched."""
    head = tables["sampling_general"].row()
    found.lines.append(f"{path.name}: orientations and shifts that a refinement searches")
    _tell_numbers(
        found,
        head,
        ("rlnHealpixOrder", "HEALPix order", ""),
        ("rlnPsiStep", "in-plane step", "°"),
        ("rlnOffsetRange", "shift range", " Å"),
        ("rlnOffsetStep", "shift step", " Å"),
    )
    if "rlnSymmetryGroup" in head:
        found.lines.append(f"  symmetry: {head['rlnSymmetryGroup']}")


def _tell_numbers(found: Description, head: Mapping[str, str], *rows: tuple[str, str, str]) -> None:
    """Tell those of the numbers that the head holds; a row is label, words and unit."""
    for label, words, unit in rows:
        if is_number(head.get(label, "")):
            found.lines.append(f"  {words}: {float(head[label]):g}{unit}")
