"""Labels that make a vector, in the order of the axes of our fields: z, y, x; rot, tilt, psi."""

from __future__ import annotations

CENTRED = ("rlnCenteredCoordinateZAngst", "rlnCenteredCoordinateYAngst", "rlnCenteredCoordinateXAngst")
PIXEL = ("rlnCoordinateZ", "rlnCoordinateY", "rlnCoordinateX")
ORIGIN = ("rlnOriginZAngst", "rlnOriginYAngst", "rlnOriginXAngst")
ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
SUBTOMOGRAM_ANGLES = ("rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt", "rlnTomoSubtomogramPsi")

ANGLE_PRIORS = ("rlnAngleRotPrior", "rlnAngleTiltPrior", "rlnAnglePsiPrior")
ORIGIN_PRIORS = ("rlnOriginZPriorAngst", "rlnOriginYPriorAngst", "rlnOriginXPriorAngst")

TILT_ANGLES = ("rlnTomoXTilt", "rlnTomoYTilt", "rlnTomoZRot")
TILT_SHIFTS = ("rlnTomoYShiftAngst", "rlnTomoXShiftAngst")
OPTICS_OF_TILTS = (
    "rlnMicrographPreExposure",
    "rlnDefocusU",
    "rlnDefocusV",
    "rlnDefocusAngle",
    "rlnPhaseShift",
    "rlnCtfScalefactor",
    "rlnCtfBfactor",
)
TILT_NUMBERS = (*TILT_ANGLES, *TILT_SHIFTS, *OPTICS_OF_TILTS)
