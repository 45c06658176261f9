"""The files of a 3D auto-refinement: model, sampling, optimiser, particles and orientation plot.

Tables, labels, their order and the form of the numbers are RELION 5's, so that either program can go on
from what the other has written. Paths in these files count from the project folder and are kept as written.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

import napari_sta
from napari_sta.data.errors import InputError
from napari_sta.data.particles import Particles
from napari_sta.io.files import write_text
from napari_sta.io.relion.numbers import is_number, numbers_of
from napari_sta.io.relion.particles import with_text, write_particles
from napari_sta.io.star import Column, Table, format_number, read_star, table, text_column, write_star
from napari_sta.kernels.refine.sampling import directions_zyx
from napari_sta.kernels.rotations import symmetry_operators_zyx

Numbers = NDArray[np.float64]

_MOST_WHOLE = 2**53
UNKNOWN = 999.0
"""RELION's value of an accuracy or a change that nobody has estimated yet."""

# ----------------------------------------------------------------------------------------------------
# Names

_ENDINGS = {
    "data": "data.star",
    "model": "model.star",
    "sampling": "sampling.star",
    "optimiser": "optimiser.star",
    "optimisation_set": "optimisation_set.star",
    "class001": "class001.mrc",
    "class001_unfil": "class001_unfil.mrc",
    "class001_angdist": "class001_angdist.bild",
}
_COMPLETE = (
    *((what, half) for what in ("class001", "model") for half in (1, 2)),
    *((what, None) for what in ("data", "sampling", "optimiser", "optimisation_set")),
)


def read_history(folder: str | Path) -> list[dict[str, Any]]:
    """Read what our refinement tells of its iterations, ``run_history.json``; empty for one of RELION.

    Returns
    -------
    history
        One record an iteration, each with a whole ``iteration``; those that are damaged are left out, and
        of a file that cannot be read nothing is left.
    """
    try:
        found = json.loads((Path(folder) / "run_history.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    records = found if isinstance(found, list) else []
    return [one for one in records if isinstance(one, dict) and type(one.get("iteration")) is int]


def iteration_name(root: str | Path, iteration: int | None, what: str, half: int | None = None) -> str:
    """Name a file of a refinement: ``run_it003_half1_model.star``.

    Parameters
    ----------
    root
        First part of the name, with or without folder: ``Refine3D/job016/run``.
    iteration
        From 0; None for the final files, whose names have no iteration.
    what
        ``data``, ``model``, ``sampling``, ``optimiser``, ``optimisation_set`` (STAR files), ``class001``,
        ``class001_unfil`` (maps), ``class001_angdist`` (orientation plot), or any ending with a suffix.
    half
        1 or 2 for what belongs to one half set.

    Raises
    ------
    ValueError
        If ``what`` is neither known nor has a suffix.
    """
    ending = _ENDINGS.get(what, what)
    if "." not in ending:
        raise ValueError(f"{what!r} is no file of a refinement; known are {', '.join(_ENDINGS)}")
    number = "" if iteration is None else f"_it{iteration:03d}"
    return f"{root}{number}{'' if half is None else f'_half{half}'}_{ending}"


def latest_iteration(folder: str | Path, root: str = "run") -> int | None:
    """Find the last iteration of which all files are there; None if there is none.

    Notes
    -----
    All files: map and model of both half sets, data, sampling, optimiser and optimisation set. Unfiltered
    maps and orientation plots, which a run can do without, are not asked for.
    """
    folder = Path(folder)
    pattern = re.compile(re.escape(root) + r"_it(\d{3,})_optimiser\.star")
    names = {path.name for path in folder.iterdir() if path.is_file()} if folder.is_dir() else set()
    numbers = sorted((int(match.group(1)) for match in map(pattern.fullmatch, names) if match), reverse=True)
    for number in numbers:
        if names.issuperset(iteration_name(root, number, what, half) for what, half in _COMPLETE):
            return number
    return None


# ----------------------------------------------------------------------------------------------------
# Numbers and tables as RELION writes and reads them


def _number_text(value: float) -> str:
    """Write a number as RELION does: six decimals, five if it is negative; scientific where those are few."""
    if not math.isfinite(value):
        return str(value)
    decimals = 5 if value < 0 else 6
    size = abs(value)
    if size == 0 or 0.001 < size < 100000:
        return f"{value + 0.0:.{decimals}f}"
    return f"{value:.{decimals}e}"


def _numbers_text(values: ArrayLike) -> Column:
    return text_column(map(_number_text, np.asarray(values, dtype=np.float64).ravel().tolist()))


def _whole_text(values: ArrayLike) -> Column:
    return text_column(map(str, np.asarray(values, dtype=np.int64).ravel().tolist()))


@dataclass(frozen=True)
class _Source:
    """A file being read; every question that it cannot answer becomes an InputError.

    Attributes
    ----------
    what
        What the file should be: an example of its name.
    finite
        Whether inf and nan are refused. RELION writes them in the model of iteration 0.
    """

    path: str | Path
    what: str
    tables: Mapping[str, Table]
    finite: bool = True

    @classmethod
    def open(cls, path: str | Path, what: str, finite: bool = True) -> _Source:
        return cls(path, what, read_star(path), finite)

    def table(self, name: str) -> Table:
        if name not in self.tables:
            held = ", ".join(f"data_{one}" for one in self.tables)
            raise InputError(
                f"{self.path} has no table data_{name} (it holds {held}); name a file like {self.what}"
            )
        return self.tables[name]

    def texts(self, name: str, label: str) -> Column:
        one = self.table(name)
        if label not in one:
            raise InputError(
                f"{self.path}, table data_{name}, has no column {label}; go on from another iteration, or "
                f"name a file like {self.what} of a 3D auto-refinement of subtomograms"
            )
        return one[label]

    def numbers(self, name: str, label: str) -> Numbers:
        column = self.texts(name, label)
        values = numbers_of(column)
        if values is None:
            row = next(index for index, text in enumerate(column) if not is_number(text))
            raise self._wrong(name, label, row, column[row], "is not a number")
        if self.finite and not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values))[0])
            raise self._wrong(name, label, row, column[row], "is not a finite number")
        return values

    def wholes(self, name: str, label: str) -> NDArray[np.int64]:
        values = self.numbers(name, label)
        bad = np.flatnonzero(~(np.abs(values) < _MOST_WHOLE) | (values != np.rint(values)))
        if len(bad):
            text = self.texts(name, label)[bad[0]]
            raise self._wrong(name, label, int(bad[0]), text, "is not a whole number")
        return values.astype(np.int64)

    def text(self, name: str, label: str) -> str:
        return str(self._only(name, label, self.texts(name, label)))

    def number(self, name: str, label: str) -> float:
        return float(self._only(name, label, self.numbers(name, label)))

    def whole(self, name: str, label: str, least: int | None = None, most: int | None = None) -> int:
        value = int(self._only(name, label, self.wholes(name, label)))
        if (least is not None and value < least) or (most is not None and value > most):
            raise self._wrong(name, label, 0, str(value), f"does not lie between {least} and {most}")
        return value

    def _only(self, name: str, label: str, column: NDArray[Any]) -> Any:
        if len(column) != 1:
            raise InputError(
                f"{self.path}, table data_{name}, has {len(column)} rows of {label} instead of one; only "
                "refinements of a single class are read, choose a 3D auto-refine job"
            )
        return column[0]

    def _wrong(self, name: str, label: str, row: int, text: str, why: str) -> InputError:
        return InputError(
            f"{self.path}, table data_{name}, row {row + 1}: {text!r} in column {label} {why}; correct the "
            "value or go on from another iteration"
        )


class _Line(NamedTuple):
    """One label of a list table.

    Attributes
    ----------
    label
        RELION's.
    field
        Attribute of our dataclass; empty for what is always the same here.
    text
        The value if there is no field; else what stands for an empty text.
    """

    label: str
    field: str = ""
    text: str = ""


def _list_columns(path: str | Path, one: Sampling | Optimiser, lines: Sequence[_Line]) -> dict[str, str]:
    kinds = {f.name: str(f.type) for f in fields(one)}
    columns = {}
    for label, name, text in lines:
        if not name:
            columns[label] = text
            continue
        value = getattr(one, name)
        if kinds[name] == "str":
            columns[label] = value or text
        elif not math.isfinite(value):
            raise InputError(f"{path} was not written: {label} is {value}, not a finite number")
        else:
            columns[label] = _number_text(float(value)) if kinds[name] == "float" else str(int(value))
    return columns


def _list_values(
    source: _Source, name: str, cls: type[Sampling | Optimiser], lines: Sequence[_Line]
) -> dict[str, Any]:
    kinds = {f.name: str(f.type) for f in fields(cls)}
    values: dict[str, Any] = {}
    for label, attribute, text in lines:
        match kinds.get(attribute):
            case "bool":
                values[attribute] = source.whole(name, label) != 0
            case "int":
                values[attribute] = source.whole(name, label)
            case "float":
                values[attribute] = source.number(name, label)
            case "str":
                written = source.text(name, label)
                values[attribute] = "" if written == text else written
    return values


# ----------------------------------------------------------------------------------------------------
# Model


@dataclass(frozen=True)
class Model:
    """What one half set, or both at the end, have taught a refinement.

    Attributes
    ----------
    reference
        The map, as its path stands in the file (counted from the project).
    size_px, pixel_size_angst
        Box and pixel of the map; shell k is at k / (size · pixel size).
    n_dim
        Of the data: 2 for stacks of tilt images, 3 for pseudo-subtomograms.
    resolution_angst
        Current resolution; infinite in RELION's iteration 0.
    current_size_px
        Box of the Fourier window that was used; 0 in iteration 0.
    padding
        Factor by which references are padded before their Fourier transform.
    sigma_offset_angst
        Standard deviation of the prior on offsets.
    prior_mode
        0: none but the distribution of directions; 1: Gaussian priors on rot, tilt and psi.
    sigma_prior_deg
        Standard deviations of the priors on rot, tilt and psi.
    log_likelihood, p_max
        Sum over particles; mean of the largest posterior weight.
    tau2_fudge
        Weight of the data against the prior.
    accuracy_deg, accuracy_angst
        Expected accuracy of poses. RELION estimates them on half set 1 and writes 0 for half set 2.
    fsc, ssnr, sigma2_map, tau2, completeness
        (shells,) half-map FSC; signal-to-noise ratio of the map; power of its noise and of its signal;
        share of voxels with data.
    orientability
        (shells,) contribution to the accuracy of poses; None where none was estimated: the column is left
        out then, as RELION does for half set 2.
    group_names, group_n_particles, group_scale
        Of scale groups (tomograms), in the order of their number.
    sigma2_noise
        (optics groups, shells) noise power of the images. The files leave out what is not positive; such
        shells are read as 1, which makes data of a normalised Fourier transform count next to nothing.
    pdf_direction
        (directions,) probability of each direction of the grid.
    overall_completeness
        Over all shells up to the resolution; None to have it computed from ``completeness``.
    """

    reference: str
    size_px: int
    pixel_size_angst: float
    n_dim: int
    resolution_angst: float
    current_size_px: int
    padding: float
    sigma_offset_angst: float
    prior_mode: int
    sigma_prior_deg: tuple[float, float, float]
    log_likelihood: float
    p_max: float
    tau2_fudge: float
    accuracy_deg: float
    accuracy_angst: float
    fsc: Numbers
    ssnr: Numbers
    sigma2_map: Numbers
    tau2: Numbers
    completeness: Numbers
    orientability: Numbers | None
    group_names: tuple[str, ...]
    group_n_particles: NDArray[np.int64]
    group_scale: Numbers
    sigma2_noise: Numbers
    pdf_direction: Numbers
    overall_completeness: float | None = None

    @property
    def n_shells(self) -> int:
        """Shells up to Nyquist, the centre included."""
        return self.size_px // 2 + 1


_CURVES = {
    "rlnSsnrMap": "ssnr",
    "rlnGoldStandardFsc": "fsc",
    "rlnFourierCompleteness": "completeness",
    "rlnReferenceSigma2": "sigma2_map",
    "rlnReferenceTau2": "tau2",
}
_ORIENTABILITY = "rlnSpectralOrientabilityContribution"
_SIGMA_PRIORS = ("rlnSigmaPriorRotAngle", "rlnSigmaPriorTiltAngle", "rlnSigmaPriorPsiAngle")


def write_model(path: str | Path, model: Model) -> None:
    """Write a model file, ``run_itNNN_half1_model.star``, in one step.

    Raises
    ------
    ValueError
        If a curve has not one value per shell, or groups do not fit together.
    JobError
        If the disk is full or the folder cannot be written to.
    """
    shells = np.arange(model.n_shells)
    curves = {label: np.asarray(getattr(model, name), np.float64) for label, name in _CURVES.items()}
    if model.orientability is not None:
        curves[_ORIENTABILITY] = np.asarray(model.orientability, np.float64)
    noise = np.atleast_2d(np.asarray(model.sigma2_noise, np.float64))
    for label, values in (*curves.items(), ("rlnSigma2Noise", noise[0])):
        if values.shape != shells.shape:
            raise ValueError(f"{label} has shape {values.shape}, not the {len(shells)} shells of the box")
    counts = {len(model.group_names), len(model.group_n_particles), len(model.group_scale)}
    if len(counts) > 1:
        raise ValueError(f"groups have {len(model.group_names)} names but {sorted(counts)} values")
    frequency = shells / (model.size_px * model.pixel_size_angst)
    angst = np.full(len(shells), 999.0)
    angst[1:] = 1 / frequency[1:]
    overall = _overall_completeness(model)
    number = _number_text
    general = {
        "rlnReferenceDimensionality": "3",
        "rlnDataDimensionality": str(model.n_dim),
        "rlnOriginalImageSize": str(model.size_px),
        "rlnCurrentResolution": number(model.resolution_angst),
        "rlnCurrentImageSize": str(model.current_size_px),
        "rlnPaddingFactor": number(model.padding),
        "rlnIsHelix": "0",
        "rlnFourierSpaceInterpolator": "1",
        "rlnMinRadiusNnInterpolation": "10",
        "rlnPixelSize": number(model.pixel_size_angst),
        "rlnNrClasses": "1",
        "rlnNrBodies": "1",
        "rlnNrGroups": str(len(model.group_names)),
        "rlnNrOpticsGroups": str(len(noise)),
        "rlnTau2FudgeFactor": number(model.tau2_fudge),
        "rlnNormCorrectionAverage": "1.000000",
        "rlnSigmaOffsetsAngst": number(model.sigma_offset_angst),
        "rlnOrientationalPriorMode": str(model.prior_mode),
        **{label: number(v) for label, v in zip(_SIGMA_PRIORS, model.sigma_prior_deg, strict=True)},
        "rlnLogLikelihood": number(model.log_likelihood),
        "rlnAveragePmax": number(model.p_max),
    }
    classes = {
        "rlnReferenceImage": [model.reference],
        "rlnClassDistribution": ["1.000000"],
        "rlnAccuracyRotations": [number(model.accuracy_deg)],
        "rlnAccuracyTranslationsAngst": [number(model.accuracy_angst)],
        "rlnEstimatedResolution": [number(model.resolution_angst)],
        "rlnOverallFourierCompleteness": [number(overall)],
    }
    per_shell = {
        "rlnSpectralIndex": _whole_text(shells),
        "rlnResolution": _numbers_text(frequency),
        "rlnAngstromResolution": _numbers_text(angst),
        **{label: _numbers_text(values) for label, values in curves.items()},
    }
    groups = {
        "rlnGroupNumber": _whole_text(np.arange(len(model.group_names)) + 1),
        "rlnGroupName": text_column(model.group_names),
        "rlnGroupNrParticles": _whole_text(model.group_n_particles),
        "rlnGroupScaleCorrection": _numbers_text(model.group_scale),
    }
    optics = []
    for group, spectrum in enumerate(noise, start=1):
        known = spectrum > 0
        columns = {
            "rlnSpectralIndex": _whole_text(shells[known]),
            "rlnResolution": _numbers_text(frequency[known]),
            "rlnSigma2Noise": _numbers_text(spectrum[known]),
        }
        optics.append(Table(f"model_optics_group_{group}", columns))
    write_star(
        path,
        [
            table("model_general", general, is_loop=False),
            table("model_classes", classes),
            Table("model_class_1", per_shell),
            Table("model_groups", groups),
            *optics,
            Table(
                "model_pdf_orient_class_1",
                {"rlnOrientationDistribution": _numbers_text(model.pdf_direction)},
            ),
        ],
    )


def _overall_completeness(model: Model) -> float:
    if model.overall_completeness is not None:
        return model.overall_completeness
    edge = model.size_px * model.pixel_size_angst
    last = min(model.n_shells - 1, round(edge / max(model.resolution_angst, 1e-3)))
    # A shell of radius k holds about 4 pi k² + pi / 3 voxels.
    weight = np.arange(last + 1) ** 2 + 1 / 12
    return float((weight * model.completeness[: last + 1]).sum() / weight.sum())


def read_model(path: str | Path) -> Model:
    """Read a model file, RELION's or ours.

    Raises
    ------
    InputError
        If the file is missing, is no model of a single class, lacks a table or column, or is cut short.
    """
    source = _Source.open(path, "run_it001_half1_model.star", finite=False)
    general, classes, curves = "model_general", "model_classes", "model_class_1"
    n_classes = source.whole(general, "rlnNrClasses")
    if n_classes != 1:
        raise InputError(
            f"{path} is a model of {n_classes} classes (rlnNrClasses); only models of a single class are "
            "read, choose a 3D auto-refine job"
        )
    size = source.whole(general, "rlnOriginalImageSize", 2, 10_000)
    n_shells = size // 2 + 1
    per_shell = {name: source.numbers(curves, label) for label, name in _CURVES.items()}
    there = source.wholes(curves, "rlnSpectralIndex")
    if not np.array_equal(there, np.arange(n_shells)):
        raise InputError(
            f"{path}, table data_{curves}: rlnSpectralIndex does not count the {n_shells} shells of a box of "
            f"{size} px from 0 ({len(there)} rows); the file is cut short, go on from another iteration"
        )
    noise = np.ones((source.whole(general, "rlnNrOpticsGroups", 1, 10_000), n_shells))
    for group, spectrum in enumerate(noise, start=1):
        name = f"model_optics_group_{group}"
        if not source.table(name).columns:
            continue  # no particle of this half set is in the group
        index = source.wholes(name, "rlnSpectralIndex")
        if ((index < 0) | (index >= n_shells)).any():
            raise InputError(
                f"{path}, table data_{name}: rlnSpectralIndex goes beyond the {n_shells} shells of a box of "
                f"{size} px; go on from another iteration"
            )
        spectrum[index] = source.numbers(name, "rlnSigma2Noise")
    rot, tilt, psi = (source.number(general, label) for label in _SIGMA_PRIORS)
    return Model(
        reference=source.text(classes, "rlnReferenceImage"),
        size_px=size,
        pixel_size_angst=source.number(general, "rlnPixelSize"),
        n_dim=source.whole(general, "rlnDataDimensionality"),
        resolution_angst=source.number(general, "rlnCurrentResolution"),
        current_size_px=source.whole(general, "rlnCurrentImageSize"),
        padding=source.number(general, "rlnPaddingFactor"),
        sigma_offset_angst=source.number(general, "rlnSigmaOffsetsAngst"),
        prior_mode=source.whole(general, "rlnOrientationalPriorMode"),
        sigma_prior_deg=(rot, tilt, psi),
        log_likelihood=source.number(general, "rlnLogLikelihood"),
        p_max=source.number(general, "rlnAveragePmax"),
        tau2_fudge=source.number(general, "rlnTau2FudgeFactor"),
        accuracy_deg=source.number(classes, "rlnAccuracyRotations"),
        accuracy_angst=source.number(classes, "rlnAccuracyTranslationsAngst"),
        **per_shell,
        orientability=(
            source.numbers(curves, _ORIENTABILITY) if _ORIENTABILITY in source.table(curves) else None
        ),
        group_names=tuple(map(str, source.texts("model_groups", "rlnGroupName"))),
        group_n_particles=source.wholes("model_groups", "rlnGroupNrParticles"),
        group_scale=source.numbers("model_groups", "rlnGroupScaleCorrection"),
        sigma2_noise=noise,
        pdf_direction=source.numbers("model_pdf_orient_class_1", "rlnOrientationDistribution"),
        overall_completeness=source.number(classes, "rlnOverallFourierCompleteness"),
    )


# ----------------------------------------------------------------------------------------------------
# Sampling


@dataclass(frozen=True)
class Sampling:
    """The coarse grids of orientations and translations of an iteration.

    Attributes
    ----------
    order
        HEALPix order of the directions.
    symmetry
        Point group, as ``C6``.
    psi_step_deg
        Step of the in-plane angle.
    offset_range_angst, offset_step_angst
        Reach and step of the translations.
    perturbation, perturbation_factor
        Random shift of the grids in this iteration and its limit, fractions of a step.
    order_original, psi_step_original_deg, offset_range_original_angst, offset_step_original_angst
        What the refinement began with.
    directions_deg
        (n, 2) rot and tilt of the directions, those of one asymmetric unit.
    is_3d_translations
        Whether translations have a z component: true for everything in tomograms.
    tilt_limit_deg
        Directions are restricted to this tilt; -91 for no limit.
    """

    order: int
    symmetry: str
    psi_step_deg: float
    offset_range_angst: float
    offset_step_angst: float
    perturbation: float
    perturbation_factor: float
    order_original: int
    psi_step_original_deg: float
    offset_range_original_angst: float
    offset_step_original_angst: float
    directions_deg: Numbers
    is_3d_translations: bool = True
    tilt_limit_deg: float = -91.0


_SAMPLING = (
    _Line("rlnIs3DSampling", text="1"),
    _Line("rlnIs3DTranslationalSampling", "is_3d_translations"),
    _Line("rlnHealpixOrder", "order"),
    _Line("rlnSymmetryGroup", "symmetry"),
    _Line("rlnTiltAngleLimit", "tilt_limit_deg"),
    _Line("rlnPsiStep", "psi_step_deg"),
    _Line("rlnOffsetRange", "offset_range_angst"),
    _Line("rlnOffsetStep", "offset_step_angst"),
    _Line("rlnHelicalOffsetStep", text="-1.00000"),
    _Line("rlnSamplingPerturbInstance", "perturbation"),
    _Line("rlnSamplingPerturbFactor", "perturbation_factor"),
    _Line("rlnHealpixOrderOriginal", "order_original"),
    _Line("rlnPsiStepOriginal", "psi_step_original_deg"),
    _Line("rlnOffsetRangeOriginal", "offset_range_original_angst"),
    _Line("rlnOffsetStepOriginal", "offset_step_original_angst"),
)


def write_sampling(path: str | Path, sampling: Sampling) -> None:
    """Write a sampling file, ``run_itNNN_sampling.star``, in one step.

    Raises
    ------
    InputError
        If a value is not finite.
    JobError
        If the disk is full or the folder cannot be written to.
    """
    directions = np.asarray(sampling.directions_deg, np.float64).reshape(-1, 2)
    columns = {
        "rlnAngleRot": _numbers_text(directions[:, 0]),
        "rlnAngleTilt": _numbers_text(directions[:, 1]),
    }
    general = table("sampling_general", _list_columns(path, sampling, _SAMPLING), is_loop=False)
    write_star(path, [general, Table("sampling_directions", columns)])


def read_sampling(path: str | Path) -> Sampling:
    """Read a sampling file, RELION's or ours.

    Raises
    ------
    InputError
        If the file is missing, lacks a table or column, or a value is no number.
    """
    source = _Source.open(path, "run_it001_sampling.star")
    # HEALPix pixels of higher orders than RELION's finest are beyond any memory.
    for label in ("rlnHealpixOrder", "rlnHealpixOrderOriginal"):
        source.whole("sampling_general", label, 0, 9)
    values = _list_values(source, "sampling_general", Sampling, _SAMPLING)
    directions = [source.numbers("sampling_directions", label) for label in ("rlnAngleRot", "rlnAngleTilt")]
    return Sampling(**values, directions_deg=np.stack(directions, axis=-1))


# ----------------------------------------------------------------------------------------------------
# Optimiser


@dataclass(frozen=True, kw_only=True)
class Optimiser:
    """Where a refinement stands: its files, its options, its counters.

    Attributes
    ----------
    output_root
        First part of the names of all its files.
    model_files
        Of half set 1 and 2; a single one once the halves are joined.
    data_file, sampling_file, tomograms_file, trajectories_file
        Particles, grids, tilt series, motion; the last is empty if there is none.
    iteration, n_iterations
        This one; the most there may be.
    join_angst
        Half sets share what is coarser than this; negative for nothing.
    oversampling, adaptive_fraction
        Levels by which the fine pass is finer; share of the posterior weight it looks at.
    seed
        Of all random numbers.
    diameter_angst, mask_edge_px
        Of the particle mask, and width of its soft edge.
    zero_mask
        Whether the outside of particles is filled with its mean instead of noise.
    solvent_flattening, solvent_fsc, solvent_mask
        Whether maps are masked, and their FSC corrected for it; path of the mask, empty for a sphere.
    increment
        Shells by which the Fourier window reaches beyond the resolution.
    high_fsc
        FSC was above 0.2 at the limit of the data once.
    auto_local_order
        HEALPix order from which on searches are local.
    n_without_gain, n_without_changes
        Iterations without better resolution; without larger changes of poses.
    best_resolution_inv_angst
        Current resolution, as RELION compares it with the next one.
    accuracy_deg, accuracy_angst
        Expected accuracy of poses.
    changes_deg, changes_angst, changes_classes
        Changes of poses and classes against the iteration before.
    smallest_deg, smallest_angst, smallest_classes
        Smallest such changes so far at this sampling.
    has_converged
        This iteration is the last.
    correct_norm, correct_scale, correct_ctf, refs_ctf_corrected, first_peak
        Normalisation per image; scale per group; CTF of images and references; CTF 1 up to its first peak.
    skip_align, skip_rotate
        Poses, or angles, are not searched.
    n_pool
        Particles RELION takes at a time.
    command
        What the run was called with, the second comment line of the file.
    other
        Further labels to text: unknown ones, and those whose value is not the one we always write.
    """

    output_root: str
    model_files: tuple[str, ...]
    data_file: str
    sampling_file: str
    tomograms_file: str
    trajectories_file: str = ""
    iteration: int
    n_iterations: int = 999
    join_angst: float = 40.0
    oversampling: int = 1
    adaptive_fraction: float = 0.999
    seed: int
    diameter_angst: float
    mask_edge_px: int = 5
    zero_mask: bool = True
    solvent_flattening: bool = True
    solvent_fsc: bool = False
    solvent_mask: str = ""
    increment: int = 10
    high_fsc: bool = False
    auto_local_order: int = 4
    n_without_gain: int = 0
    best_resolution_inv_angst: float = 1 / UNKNOWN
    n_without_changes: int = 0
    accuracy_deg: float = UNKNOWN
    accuracy_angst: float = UNKNOWN
    changes_deg: float = UNKNOWN
    changes_angst: float = UNKNOWN
    changes_classes: float = 0.0
    smallest_deg: float = UNKNOWN
    smallest_angst: float = UNKNOWN
    smallest_classes: int = 0
    has_converged: bool = False
    correct_norm: bool = False
    correct_scale: bool = True
    correct_ctf: bool = True
    refs_ctf_corrected: bool = True
    first_peak: bool = False
    skip_align: bool = False
    skip_rotate: bool = False
    n_pool: int = 30
    command: str = ""
    other: Mapping[str, str] = field(default_factory=dict)


_MODEL_FILES = ("rlnModelStarFile", "rlnModelStarFile2")
_OPTIMISER = (
    _Line("rlnOutputRootName", "output_root"),
    *(_Line(label) for label in _MODEL_FILES),  # filled in by hand
    _Line("rlnExperimentalDataStarFile", "data_file"),
    _Line("rlnTomoTomogramsFile", "tomograms_file"),
    _Line("rlnTomoTrajectoriesFile", "trajectories_file"),
    _Line("rlnOrientSamplingStarFile", "sampling_file"),
    _Line("rlnCurrentIteration", "iteration"),
    _Line("rlnNumberOfIterations", "n_iterations"),
    _Line("rlnDoSplitRandomHalves", text="1"),
    _Line("rlnJoinHalvesUntilThisResolution", "join_angst"),
    _Line("rlnAdaptiveOversampleOrder", "oversampling"),
    _Line("rlnAdaptiveOversampleFraction", "adaptive_fraction"),
    _Line("rlnRandomSeed", "seed"),
    _Line("rlnParticleDiameter", "diameter_angst"),
    _Line("rlnWidthMaskEdge", "mask_edge_px"),
    _Line("rlnDoZeroMask", "zero_mask"),
    _Line("rlnDoSolventFlattening", "solvent_flattening"),
    _Line("rlnDoSolventFscCorrection", "solvent_fsc"),
    _Line("rlnSolventMaskName", "solvent_mask", "None"),
    _Line("rlnSolventMask2Name", text="None"),
    _Line("rlnBodyStarFile", text="None"),
    _Line("rlnTauSpectrumName", text="None"),
    _Line("rlnMaximumCoarseImageSize", text="-1"),
    _Line("rlnHighresLimitExpectation", text="-1.00000"),
    _Line("rlnLowresLimitExpectation", text="-1.00000"),
    _Line("rlnIncrementImageSize", "increment"),
    _Line("rlnDoMapEstimation", text="1"),
    _Line("rlnDoFastSubsetOptimisation", text="0"),
    _Line("rlnDoExternalReconstruct", text="0"),
    _Line("rlnDoBlush", text="0"),
    _Line("rlnBlushNoSpectralTrailing", text="0"),
    _Line("rlnDoGradientRefine", text="0"),
    _Line("rlnDoStochasticGradientDescent", text="0"),
    _Line("rlnGradEmIters", text="0"),
    _Line("rlnGradHasConverged", text="0"),
    _Line("rlnGradCurrentStepsize", text="0.000000"),
    _Line("rlnGradSubsetOrder", text="0"),
    _Line("rlnGradSuspendFinerSamplingIter", text="-1"),
    _Line("rlnGradSuspendLocalSamplingIter", text="-1"),
    _Line("rlnSgdInitialIterationsFraction", text="0.300000"),
    _Line("rlnSgdFinalIterationsFraction", text="0.200000"),
    _Line("rlnSgdMinimumResolution", text="20.000000"),
    _Line("rlnSgdInitialResolution", text="-1.00000"),
    _Line("rlnSgdFinalResolution", text="-1.00000"),
    _Line("rlnSgdInitialSubsetSize", text="-1"),
    _Line("rlnSgdFinalSubsetSize", text="-1"),
    _Line("rlnSgdMuFactor", text="0.000000"),
    _Line("rlnSgdSkipAnneal", text="0"),
    _Line("rlnSgdClassInactivityThreshold", text="0.000000"),
    _Line("rlnSgdSubsetSize", text="-1"),
    _Line("rlnSgdWriteEverySubset", text="10"),
    _Line("rlnSgdStepsize", text="-1.00000"),
    _Line("rlnSgdStepsizeScheme", text=""),
    _Line("rlnTau2FudgeScheme", text=""),
    _Line("rlnTau2FudgeArg", text="-1.00000"),
    _Line("rlnMaximumSignificantPoses", text="-1"),
    _Line("rlnDoAutoRefine", text="1"),
    _Line("rlnDoAutoSampling", text="1"),
    _Line("rlnAutoLocalSearchesHealpixOrder", "auto_local_order"),
    _Line("rlnNumberOfIterWithoutResolutionGain", "n_without_gain"),
    _Line("rlnBestResolutionThusFar", "best_resolution_inv_angst"),
    _Line("rlnNumberOfIterWithoutChangingAssignments", "n_without_changes"),
    _Line("rlnDoSkipAlign", "skip_align"),
    _Line("rlnDoSkipRotate", "skip_rotate"),
    _Line("rlnOverallAccuracyRotations", "accuracy_deg"),
    _Line("rlnOverallAccuracyTranslationsAngst", "accuracy_angst"),
    _Line("rlnChangesOptimalOrientations", "changes_deg"),
    _Line("rlnChangesOptimalOffsets", "changes_angst"),
    _Line("rlnChangesOptimalClasses", "changes_classes"),
    _Line("rlnSmallestChangesOrientations", "smallest_deg"),
    _Line("rlnSmallestChangesOffsets", "smallest_angst"),
    _Line("rlnSmallestChangesClasses", "smallest_classes"),
    _Line("rlnLocalSymmetryFile", text="None"),
    _Line("rlnDoHelicalRefine", text="0"),
    _Line("rlnIgnoreHelicalSymmetry", text="0"),
    _Line("rlnFourierMask", text="None"),
    _Line("rlnHelicalTwistInitial", text="0.000000"),
    _Line("rlnHelicalRiseInitial", text="0.000000"),
    _Line("rlnHelicalCentralProportion", text="0.300000"),
    _Line("rlnNrHelicalNStart", text="1"),
    _Line("rlnHelicalMaskTubeInnerDiameter", text="-1.00000"),
    _Line("rlnHelicalMaskTubeOuterDiameter", text="-1.00000"),
    _Line("rlnHelicalSymmetryLocalRefinement", text="0"),
    _Line("rlnHelicalSigmaDistance", text="-1.00000"),
    _Line("rlnHelicalKeepTiltPriorFixed", text="0"),
    _Line("rlnHasConverged", "has_converged"),
    _Line("rlnHasHighFscAtResolLimit", "high_fsc"),
    _Line("rlnHasLargeSizeIncreaseIterationsAgo", text="0"),
    _Line("rlnDoCorrectNorm", "correct_norm"),
    _Line("rlnDoCorrectScale", "correct_scale"),
    _Line("rlnDoCorrectCtf", "correct_ctf"),
    _Line("rlnDoCenterClasses", text="0"),
    _Line("rlnDoIgnoreCtfUntilFirstPeak", "first_peak"),
    _Line("rlnCtfDataArePhaseFlipped", text="0"),
    _Line("rlnDoOnlyFlipCtfPhases", text="0"),
    _Line("rlnRefsAreCtfCorrected", "refs_ctf_corrected"),
    _Line("rlnFixSigmaNoiseEstimates", text="0"),
    _Line("rlnFixSigmaOffsetEstimates", text="0"),
    _Line("rlnMaxNumberOfPooledParticles", "n_pool"),
    _Line("rlnOffsetRangeX", text="-1.00000"),
    _Line("rlnOffsetRangeY", text="-1.00000"),
    _Line("rlnOffsetRangeZ", text="-1.00000"),
)


def write_optimiser(path: str | Path, optimiser: Optimiser) -> None:
    """Write an optimiser file, ``run_itNNN_optimiser.star``, in one step.

    Raises
    ------
    InputError
        If a value is not finite.
    ValueError
        If there is not one model file, or two.
    JobError
        If the disk is full or the folder cannot be written to.
    """
    if len(optimiser.model_files) not in (1, 2):
        raise ValueError(f"a refinement has one model file or two, not {len(optimiser.model_files)}")
    columns = _list_columns(path, optimiser, _OPTIMISER)
    models = dict(zip(_MODEL_FILES, optimiser.model_files, strict=False))
    columns = {
        label: models.get(label, text)
        for label, text in columns.items()
        if label not in _MODEL_FILES or label in models
    }
    general = table("optimiser_general", {**columns, **optimiser.other}, is_loop=False)
    command = " ".join(optimiser.command.splitlines())
    write_star(path, [general], f"napari-sta optimiser; version {napari_sta.__version__}\n{command}")


def read_optimiser(path: str | Path) -> Optimiser:
    """Read an optimiser file, RELION's or ours.

    Raises
    ------
    InputError
        If the file is missing, lacks a table or column, or a value is no number.
    """
    source = _Source.open(path, "run_it001_optimiser.star")
    name = "optimiser_general"
    values = _list_values(source, name, Optimiser, _OPTIMISER)
    there = source.table(name)
    models = tuple(source.text(name, label) for label in _MODEL_FILES[: 2 if _MODEL_FILES[1] in there else 1])
    usual = {line.label: line.text for line in _OPTIMISER if not line.field}
    ours = {line.label for line in _OPTIMISER if line.field} | set(_MODEL_FILES)
    other = {
        label: text for label, text in there.row().items() if label not in ours and usual.get(label) != text
    }
    return Optimiser(**values, model_files=models, command=_command(path), other=other)


def _command(path: str | Path) -> str:
    """Return the second of the comment lines with which a file starts."""
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        lines = [file.readline().strip() for _ in range(2)]
    second = lines[1]
    return second[1:].strip() if all(line.startswith("#") for line in lines) else ""


# ----------------------------------------------------------------------------------------------------
# Particles


def write_refined_particles(
    path: str | Path,
    particles: Particles,
    *,
    group_number: ArrayLike,
    norm: ArrayLike = 1.0,
    log_likelihood: ArrayLike | None = None,
    p_max: ArrayLike | None = None,
    n_significant: ArrayLike | None = None,
) -> None:
    """Write the particles of an iteration, ``run_itNNN_data.star``, in one step.

    Parameters
    ----------
    particles
        With half sets, and with the angles and origins of this iteration. Columns and tables that a
        refinement does not change are written as they were read; all particles are of class 1.
    group_number
        (n,) scale group, from 1.
    norm
        Normalisation of each particle; RELION does without one for tomograms, which is 1.
    log_likelihood, p_max
        (n,) contribution to the logarithm of the likelihood; largest posterior weight.
    n_significant
        (n,) coarse samples that the fine pass looked at. Each of the last three may be None, as in
        iteration 0: its column stays as it is, or absent.

    Raises
    ------
    ValueError
        If the particles have no half sets.
    InputError
        If a value is not finite.
    JobError
        If the disk is full or the folder cannot be written to.
    """
    if particles.half_set is None:
        raise ValueError("particles of a refinement have half sets; assign them first")
    n = len(particles)
    columns: dict[str, Column] = {"rlnGroupNumber": _whole_text(np.broadcast_to(group_number, n))}
    if "rlnRandomSubset" not in particles.text:
        columns["rlnRandomSubset"] = _whole_text(particles.half_set)
    columns["rlnClassNumber"] = text_column(["1"] * n)
    for label, values in (
        ("rlnNormCorrection", np.broadcast_to(norm, n)),
        ("rlnLogLikeliContribution", log_likelihood),
        ("rlnMaxValueProbDistribution", p_max),
    ):
        if values is None:
            continue
        try:
            columns[label] = format_number(values)
        except ValueError:
            raise InputError(
                f"{path} was not written: {label} holds a value that is not a finite number"
            ) from None
    if n_significant is not None:
        columns["rlnNrOfSignificantSamples"] = _whole_text(n_significant)
    write_particles(path, with_text(particles, **columns))


# ----------------------------------------------------------------------------------------------------
# Distribution of orientations


def write_angular_distribution(
    path: str | Path,
    directions_deg: NDArray[np.float64],
    pdf: NDArray[np.float64],
    *,
    size_px: int,
    pixel_size_angst: float,
    diameter_angst: float,
    symmetry: str = "C1",
) -> None:
    """Draw how often each direction was seen, as cylinders around the map (``.bild``, for ChimeraX).

    Parameters
    ----------
    directions_deg
        (n, 2) rot and tilt.
    pdf
        (n,) their probabilities.
    size_px, pixel_size_angst
        Of the map, whose first voxel lies at the origin.
    diameter_angst
        Cylinders stand on the sphere of this diameter round the map's centre.
    symmetry
        Point group whose copies of the directions are drawn too.

    Notes
    -----
    Length and radius are proportional to the probability over its largest value, and so is the colour, from
    blue to red. The longest reaches out by a third of the sphere's radius; where all are alike, neighbours
    touch. Directions of probability 0 have no cylinder.
    """
    vectors = directions_zyx(np.asarray(directions_deg, np.float64).reshape(-1, 2))
    operators = symmetry_operators_zyx(symmetry)
    largest = float(np.max(pdf, initial=0.0))
    share = np.asarray(pdf, np.float64) / (largest or 1.0)
    radius = diameter_angst / 2
    # Of n directions each has 4 pi R² / n of the sphere: a square with sides twice the thickest cylinder.
    thickest = radius * np.sqrt(np.pi / max(1, len(vectors) * len(operators)))
    centre_angst = size_px // 2 * pixel_size_angst
    lines = [f".comment napari-sta: {len(vectors)} directions, {symmetry}, largest probability {largest:.6g}"]
    for vector, part in zip(vectors, share, strict=True):
        if part <= 0:
            continue
        lines.append(f".color {part:.3f} 0.000 {1 - part:.3f}")
        for copy in np.unique(np.round(operators @ vector, 6) + 0.0, axis=0):
            ends = centre_angst + radius * np.array([1.0, 1 + part / 3])[:, None] * copy[::-1]
            numbers = " ".join(f"{value:.3f}" for value in (*ends.ravel(), part * thickest))
            lines.append(f".cylinder {numbers}")
    write_text(path, "\n".join([*lines, ""]))
