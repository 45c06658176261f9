"""The labels we know: RELION's name, our field, the unit, what it means. One row each.

Readers take their names from here, ``napari-sta info`` its words.
"""

from __future__ import annotations

from typing import NamedTuple


class Label(NamedTuple):
    """One RELION label.

    Attributes
    ----------
    rln
        Without the leading underscore.
    field
        Where it lands in our nouns; empty if it stays text.
    unit
        Of the value in the file.
    meaning
        For people.
    """

    rln: str
    field: str
    unit: str
    meaning: str


LABELS: dict[str, Label] = {
    row.rln: row
    for row in [
        # particles
        Label("rlnTomoName", "tomogram", "", "tomogram (tilt series) the row belongs to"),
        Label("rlnTomoParticleName", "name", "", "name of the particle"),
        Label(
            "rlnCenteredCoordinateXAngst",
            "coordinate_zyx_angst[2]",
            "Å",
            "coordinate from the tomogram centre",
        ),
        Label(
            "rlnCenteredCoordinateYAngst",
            "coordinate_zyx_angst[1]",
            "Å",
            "coordinate from the tomogram centre",
        ),
        Label(
            "rlnCenteredCoordinateZAngst",
            "coordinate_zyx_angst[0]",
            "Å",
            "coordinate from the tomogram centre",
        ),
        Label(
            "rlnCoordinateX",
            "coordinate_zyx_angst[2]",
            "px",
            "coordinate from the tomogram corner (RELION 4)",
        ),
        Label(
            "rlnCoordinateY",
            "coordinate_zyx_angst[1]",
            "px",
            "coordinate from the tomogram corner (RELION 4)",
        ),
        Label(
            "rlnCoordinateZ",
            "coordinate_zyx_angst[0]",
            "px",
            "coordinate from the tomogram corner (RELION 4)",
        ),
        Label("rlnOriginXAngst", "origin_zyx_angst[2]", "Å", "origin, subtracted, in the subtomogram frame"),
        Label("rlnOriginYAngst", "origin_zyx_angst[1]", "Å", "origin, subtracted, in the subtomogram frame"),
        Label("rlnOriginZAngst", "origin_zyx_angst[0]", "Å", "origin, subtracted, in the subtomogram frame"),
        Label("rlnAngleRot", "angles_deg[0]", "deg", "orientation of the particle in its subtomogram"),
        Label("rlnAngleTilt", "angles_deg[1]", "deg", "orientation of the particle in its subtomogram"),
        Label("rlnAnglePsi", "angles_deg[2]", "deg", "orientation of the particle in its subtomogram"),
        Label("rlnTomoSubtomogramRot", "subtomogram_angles_deg[0]", "deg", "orientation of the subtomogram"),
        Label("rlnTomoSubtomogramTilt", "subtomogram_angles_deg[1]", "deg", "orientation of the subtomogram"),
        Label("rlnTomoSubtomogramPsi", "subtomogram_angles_deg[2]", "deg", "orientation of the subtomogram"),
        Label("rlnAngleRotPrior", "", "deg", "prior of the orientation"),
        Label("rlnAngleTiltPrior", "", "deg", "prior of the orientation"),
        Label("rlnAnglePsiPrior", "", "deg", "prior of the orientation"),
        Label("rlnAnglePsiFlipRatio", "", "", "0.5: polarity of the filament is unknown"),
        Label("rlnOriginXPriorAngst", "", "Å", "prior of the origin"),
        Label("rlnOriginYPriorAngst", "", "Å", "prior of the origin"),
        Label("rlnOriginZPriorAngst", "", "Å", "prior of the origin"),
        Label("rlnRandomSubset", "half_set", "", "half set, 1 or 2"),
        Label("rlnOpticsGroup", "optics_group", "", "number of the optics group"),
        Label("rlnImageName", "", "", "the particle's 2D stack or 3D pseudo-subtomogram"),
        Label("rlnCtfImage", "", "", "weights of the 3D pseudo-subtomogram"),
        Label("rlnTomoVisibleFrames", "", "", "which tilt images the stack holds"),
        Label("rlnClassNumber", "", "", "class"),
        Label("rlnNormCorrection", "", "", "grey scale of the particle (refine)"),
        Label("rlnLogLikeliContribution", "", "", "log-likelihood of the particle (refine)"),
        Label("rlnMaxValueProbDistribution", "", "", "Pmax: probability of the best pose (refine)"),
        Label("rlnNrOfSignificantSamples", "", "", "poses that matter (refine)"),
        Label("rlnGroupNumber", "", "", "group for the scale correction (refine)"),
        # optics
        Label("rlnOpticsGroupName", "optics.name", "", "name of the optics group"),
        Label("rlnTomoTiltSeriesPixelSize", "pixel_size_angst", "Å/px", "pixel size of the tilt images"),
        Label(
            "rlnImagePixelSize", "optics.image_pixel_size_angst", "Å/px", "pixel size of the extracted images"
        ),
        Label("rlnImageSize", "optics.image_size_px", "px", "box of the extracted images"),
        Label("rlnImageDimensionality", "", "", "2: stacks, 3: pseudo-subtomograms"),
        Label("rlnTomoSubtomogramBinning", "", "", "binning of the extracted images"),
        Label("rlnVoltage", "voltage_kv", "kV", "acceleration voltage"),
        Label("rlnSphericalAberration", "spherical_aberration_mm", "mm", "spherical aberration"),
        Label("rlnAmplitudeContrast", "amplitude_contrast", "", "amplitude contrast"),
        Label("rlnCtfDataAreCtfPremultiplied", "", "", "images are multiplied by the CTF"),
        Label("rlnMtfFileName", "", "", "MTF of the detector"),
        Label("rlnEvenZernike", "optics.even_zernike", "", "symmetric aberrations"),
        Label("rlnOddZernike", "optics.odd_zernike", "", "antisymmetric aberrations"),
        Label("rlnTomoSubTomosAre2DStacks", "", "", "particles are 2D stacks"),
        # tomograms
        Label("rlnTomoTiltSeriesStarFile", "", "", "per-tilt table of the tilt series"),
        Label("rlnTomoTiltSeriesName", "images", "", "image stack of the tilt series"),
        Label("rlnTomoFrameCount", "", "", "number of tilt images"),
        Label("rlnTomoSizeX", "size_zyx_px[2]", "px", "size of the tomogram, unbinned"),
        Label("rlnTomoSizeY", "size_zyx_px[1]", "px", "size of the tomogram, unbinned"),
        Label("rlnTomoSizeZ", "size_zyx_px[0]", "px", "size of the tomogram, unbinned"),
        Label("rlnTomoHand", "hand", "", "slope of defocus with depth, +1 or -1"),
        Label("rlnTomoDefocusSlope", "defocus_slope", "", "multiplies the depth offset of defocus"),
        Label("rlnCtfBfactorPerElectronDose", "bfactor_per_dose", "Å²/(e/Å²)", "dose decay"),
        Label("rlnTomoImportFractionalDose", "", "e/Å²", "dose per tilt image"),
        Label("rlnMicrographOriginalPixelSize", "", "Å/px", "pixel size of the movies"),
        Label("rlnTomoTomogramBinning", "", "", "binning of the reconstructed tomogram"),
        Label("rlnTomoReconstructedTomogram", "", "", "reconstructed tomogram"),
        Label("rlnTomoReconstructedTomogramHalf1", "", "", "tomogram of one half of the data"),
        Label("rlnTomoReconstructedTomogramHalf2", "", "", "tomogram of the other half of the data"),
        Label("rlnTomoReconstructedTomogramDenoised", "", "", "denoised tomogram"),
        Label(
            "rlnTomoDeformationGridSizeX",
            "deformation.grid_xy[0]",
            "",
            "control grid of the image deformation",
        ),
        Label(
            "rlnTomoDeformationGridSizeY",
            "deformation.grid_xy[1]",
            "",
            "control grid of the image deformation",
        ),
        Label("rlnTomoDeformationType", "deformation.kind", "", "linear, spline or Fourier"),
        Label("rlnTomoDeformationCoefficients", "deformation.coefficients", "px", "deformation of the image"),
        # tilt images
        Label("rlnMicrographName", "images", "", "the tilt image"),
        Label("rlnMicrographPreExposure", "dose_e_per_angst2", "e/Å²", "dose before the image"),
        Label("rlnTomoXTilt", "angles_xyz_deg[0]", "deg", "tilt about X"),
        Label("rlnTomoYTilt", "angles_xyz_deg[1]", "deg", "tilt about Y"),
        Label("rlnTomoZRot", "angles_xyz_deg[2]", "deg", "in-plane rotation (tilt axis)"),
        Label("rlnTomoXShiftAngst", "shift_yx_angst[1]", "Å", "shift of the image"),
        Label("rlnTomoYShiftAngst", "shift_yx_angst[0]", "Å", "shift of the image"),
        Label("rlnTomoProjX", "matrices_zyx[2]", "px", "row of the projection matrix (RELION 4)"),
        Label("rlnTomoProjY", "matrices_zyx[1]", "px", "row of the projection matrix (RELION 4)"),
        Label("rlnTomoProjZ", "matrices_zyx[0]", "px", "row of the projection matrix (RELION 4)"),
        Label("rlnTomoProjW", "matrices_zyx[3]", "", "row of the projection matrix (RELION 4)"),
        Label("rlnDefocusU", "defocus_u_angst", "Å", "defocus, underfocus positive"),
        Label("rlnDefocusV", "defocus_v_angst", "Å", "defocus, underfocus positive"),
        Label("rlnDefocusAngle", "defocus_angle_deg", "deg", "azimuth of defocus U"),
        Label("rlnCtfScalefactor", "ctf_scale", "", "scale of the CTF"),
        Label("rlnCtfBfactor", "bfactor_angst2", "Å²", "envelope of the CTF"),
        Label("rlnPhaseShift", "phase_shift_deg", "deg", "phase plate"),
        Label("rlnTomoNominalStageTiltAngle", "", "deg", "stage angle"),
        # optimisation set
        Label("rlnTomoParticlesFile", "particles_path", "", "particle set"),
        Label("rlnTomoTomogramsFile", "tomograms_path", "", "tomogram set"),
        Label("rlnTomoTrajectoriesFile", "trajectories_path", "", "trajectory set"),
        Label("rlnTomoManifoldsFile", "", "", "manifold set"),
        Label("rlnTomoReferenceMap1File", "", "", "reference, half map 1"),
        Label("rlnTomoReferenceMap2File", "", "", "reference, half map 2"),
        Label("rlnTomoReferenceMaskFile", "", "", "reference mask"),
        Label("rlnTomoReferenceFscFile", "", "", "reference FSC"),
        Label("rlnParticleNumber", "", "", "number of trajectories"),
    ]
}
