"""Model files: what one half set, or both at the end, have taught a refinement."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_sta.data.errors import InputError
from napari_sta.io.refinement.number_text import number_text, numbers_text, whole_text
from napari_sta.io.refinement.source import Numbers, Source
from napari_sta.io.star import Table, table, text_column, write_star


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
    number = number_text
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
        "rlnSpectralIndex": whole_text(shells),
        "rlnResolution": numbers_text(frequency),
        "rlnAngstromResolution": numbers_text(angst),
        **{label: numbers_text(values) for label, values in curves.items()},
    }
    groups = {
        "rlnGroupNumber": whole_text(np.arange(len(model.group_names)) + 1),
        "rlnGroupName": text_column(model.group_names),
        "rlnGroupNrParticles": whole_text(model.group_n_particles),
        "rlnGroupScaleCorrection": numbers_text(model.group_scale),
    }
    optics = []
    for group, spectrum in enumerate(noise, start=1):
        known = spectrum > 0
        columns = {
            "rlnSpectralIndex": whole_text(shells[known]),
            "rlnResolution": numbers_text(frequency[known]),
            "rlnSigma2Noise": numbers_text(spectrum[known]),
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
                {"rlnOrientationDistribution": numbers_text(model.pdf_direction)},
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
    source = Source.open(path, "run_it001_half1_model.star", finite=False)
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
