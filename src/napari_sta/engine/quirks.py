"""What RELION does and we do not, unless told to: all of its oddities, and what each switches.

What they cost is in docs/refinement.md.
"""

from __future__ import annotations

from enum import StrEnum


class Quirk(StrEnum):
    """One of RELION's ways; none is taken by default."""

    # ---- images and noise

    SHELL_NOISE = "shell_noise"
    """One noise spectrum per optics group, of the images as they are: premultiplied images weigh C² again.

    Without it particles carry the noise of each raw tilt image (``State.images[].noise``).
    """
    FEW_IMAGES = "few_images"
    """The first noise spectrum is that of ten images of half set 1."""
    PARTICLE_NOISE = "particle_noise"
    """Noise is averaged over particles, whatever their number of tilts (``per_image=False``)."""
    NO_CALIBRATION = "no_calibration"
    """The likelihood is believed, however much the scores of the tilts disagree: temperatures stay 1."""
    ROW_ENDS = "row_ends"
    """The last pixel of each row of an image is left out of averages (``drop_row_ends=True``)."""
    ODD_ABERRATIONS = "odd_aberrations"
    """Odd aberrations, which extraction took out of the images, are taken out once more."""

    # ---- pseudo-subtomograms

    SPREAD_VOLUMES = "spread_volumes"
    """Volumes keep the fall-off of the spreading that made them, and are 0 where no slice went."""
    MOVED_VOLUMES = "moved_volumes"
    """A volume is moved under the particle mask by its offset, in whole voxels."""
    LONE_SLICES = "lone_slices"
    """Accuracies are estimated as if one slice went through each voxel."""

    # ---- the search

    WHOLE_PIXELS = "whole_pixels"
    """Offsets of the iteration before are rounded to pixels."""
    OFFSET_UNITS = "offset_units"
    """The offset prior adds Å to pixels (``Search.relion_offset_prior``)."""
    BARE_PSI = "bare_psi"
    """Local searches compare psi as it stands, also with a symmetry mate that has another one (D)."""
    SUBTOMOGRAM_GRID = "subtomogram_grid"
    """Global searches turn the grid with each subtomogram, so that no slice is shared."""
    DYING_DIRECTIONS = "dying_directions"
    """A direction without a particle is never tried again at its order."""

    # ---- what is made of it

    BEST_POSE = "best_pose"
    """The best grid point is a particle's pose, not the posterior mean."""
    ALL_SAMPLES = "all_samples"
    """Every pose that matters is averaged, not a few drawn from them (``Settings.samples``)."""
    FIRST_PARTICLES = "first_particles"
    """Accuracies are estimated on the first particles, all of the same tomogram or two."""
    FINER_LAST = "finer_last"
    """The grid may be refined in the last iteration (``Rules.freeze_last`` is False)."""


PARITY = frozenset(Quirk)
"""All of them: RELION step by step."""
