"""Optimiser files: where a refinement stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import napari_sta
from napari_sta.io.refinement.list_table import Line, list_columns, list_values
from napari_sta.io.refinement.source import Source
from napari_sta.io.star import table, write_star

UNKNOWN = 999.0
"""RELION's value of an accuracy or a change that nobody has estimated yet."""


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
    Line("rlnOutputRootName", "output_root"),
    *(Line(label) for label in _MODEL_FILES),  # filled in by hand
    Line("rlnExperimentalDataStarFile", "data_file"),
    Line("rlnTomoTomogramsFile", "tomograms_file"),
    Line("rlnTomoTrajectoriesFile", "trajectories_file"),
    Line("rlnOrientSamplingStarFile", "sampling_file"),
    Line("rlnCurrentIteration", "iteration"),
    Line("rlnNumberOfIterations", "n_iterations"),
    Line("rlnDoSplitRandomHalves", text="1"),
    Line("rlnJoinHalvesUntilThisResolution", "join_angst"),
    Line("rlnAdaptiveOversampleOrder", "oversampling"),
    Line("rlnAdaptiveOversampleFraction", "adaptive_fraction"),
    Line("rlnRandomSeed", "seed"),
    Line("rlnParticleDiameter", "diameter_angst"),
    Line("rlnWidthMaskEdge", "mask_edge_px"),
    Line("rlnDoZeroMask", "zero_mask"),
    Line("rlnDoSolventFlattening", "solvent_flattening"),
    Line("rlnDoSolventFscCorrection", "solvent_fsc"),
    Line("rlnSolventMaskName", "solvent_mask", "None"),
    Line("rlnSolventMask2Name", text="None"),
    Line("rlnBodyStarFile", text="None"),
    Line("rlnTauSpectrumName", text="None"),
    Line("rlnMaximumCoarseImageSize", text="-1"),
    Line("rlnHighresLimitExpectation", text="-1.00000"),
    Line("rlnLowresLimitExpectation", text="-1.00000"),
    Line("rlnIncrementImageSize", "increment"),
    Line("rlnDoMapEstimation", text="1"),
    Line("rlnDoFastSubsetOptimisation", text="0"),
    Line("rlnDoExternalReconstruct", text="0"),
    Line("rlnDoBlush", text="0"),
    Line("rlnBlushNoSpectralTrailing", text="0"),
    Line("rlnDoGradientRefine", text="0"),
    Line("rlnDoStochasticGradientDescent", text="0"),
    Line("rlnGradEmIters", text="0"),
    Line("rlnGradHasConverged", text="0"),
    Line("rlnGradCurrentStepsize", text="0.000000"),
    Line("rlnGradSubsetOrder", text="0"),
    Line("rlnGradSuspendFinerSamplingIter", text="-1"),
    Line("rlnGradSuspendLocalSamplingIter", text="-1"),
    Line("rlnSgdInitialIterationsFraction", text="0.300000"),
    Line("rlnSgdFinalIterationsFraction", text="0.200000"),
    Line("rlnSgdMinimumResolution", text="20.000000"),
    Line("rlnSgdInitialResolution", text="-1.00000"),
    Line("rlnSgdFinalResolution", text="-1.00000"),
    Line("rlnSgdInitialSubsetSize", text="-1"),
    Line("rlnSgdFinalSubsetSize", text="-1"),
    Line("rlnSgdMuFactor", text="0.000000"),
    Line("rlnSgdSkipAnneal", text="0"),
    Line("rlnSgdClassInactivityThreshold", text="0.000000"),
    Line("rlnSgdSubsetSize", text="-1"),
    Line("rlnSgdWriteEverySubset", text="10"),
    Line("rlnSgdStepsize", text="-1.00000"),
    Line("rlnSgdStepsizeScheme", text=""),
    Line("rlnTau2FudgeScheme", text=""),
    Line("rlnTau2FudgeArg", text="-1.00000"),
    Line("rlnMaximumSignificantPoses", text="-1"),
    Line("rlnDoAutoRefine", text="1"),
    Line("rlnDoAutoSampling", text="1"),
    Line("rlnAutoLocalSearchesHealpixOrder", "auto_local_order"),
    Line("rlnNumberOfIterWithoutResolutionGain", "n_without_gain"),
    Line("rlnBestResolutionThusFar", "best_resolution_inv_angst"),
    Line("rlnNumberOfIterWithoutChangingAssignments", "n_without_changes"),
    Line("rlnDoSkipAlign", "skip_align"),
    Line("rlnDoSkipRotate", "skip_rotate"),
    Line("rlnOverallAccuracyRotations", "accuracy_deg"),
    Line("rlnOverallAccuracyTranslationsAngst", "accuracy_angst"),
    Line("rlnChangesOptimalOrientations", "changes_deg"),
    Line("rlnChangesOptimalOffsets", "changes_angst"),
    Line("rlnChangesOptimalClasses", "changes_classes"),
    Line("rlnSmallestChangesOrientations", "smallest_deg"),
    Line("rlnSmallestChangesOffsets", "smallest_angst"),
    Line("rlnSmallestChangesClasses", "smallest_classes"),
    Line("rlnLocalSymmetryFile", text="None"),
    Line("rlnDoHelicalRefine", text="0"),
    Line("rlnIgnoreHelicalSymmetry", text="0"),
    Line("rlnFourierMask", text="None"),
    Line("rlnHelicalTwistInitial", text="0.000000"),
    Line("rlnHelicalRiseInitial", text="0.000000"),
    Line("rlnHelicalCentralProportion", text="0.300000"),
    Line("rlnNrHelicalNStart", text="1"),
    Line("rlnHelicalMaskTubeInnerDiameter", text="-1.00000"),
    Line("rlnHelicalMaskTubeOuterDiameter", text="-1.00000"),
    Line("rlnHelicalSymmetryLocalRefinement", text="0"),
    Line("rlnHelicalSigmaDistance", text="-1.00000"),
    Line("rlnHelicalKeepTiltPriorFixed", text="0"),
    Line("rlnHasConverged", "has_converged"),
    Line("rlnHasHighFscAtResolLimit", "high_fsc"),
    Line("rlnHasLargeSizeIncreaseIterationsAgo", text="0"),
    Line("rlnDoCorrectNorm", "correct_norm"),
    Line("rlnDoCorrectScale", "correct_scale"),
    Line("rlnDoCorrectCtf", "correct_ctf"),
    Line("rlnDoCenterClasses", text="0"),
    Line("rlnDoIgnoreCtfUntilFirstPeak", "first_peak"),
    Line("rlnCtfDataArePhaseFlipped", text="0"),
    Line("rlnDoOnlyFlipCtfPhases", text="0"),
    Line("rlnRefsAreCtfCorrected", "refs_ctf_corrected"),
    Line("rlnFixSigmaNoiseEstimates", text="0"),
    Line("rlnFixSigmaOffsetEstimates", text="0"),
    Line("rlnMaxNumberOfPooledParticles", "n_pool"),
    Line("rlnOffsetRangeX", text="-1.00000"),
    Line("rlnOffsetRangeY", text="-1.00000"),
    Line("rlnOffsetRangeZ", text="-1.00000"),
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
    columns = list_columns(path, optimiser, _OPTIMISER)
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
    source = Source.open(path, "run_it001_optimiser.star")
    name = "optimiser_general"
    values = list_values(source, name, Optimiser, _OPTIMISER)
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
