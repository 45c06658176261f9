"""What one particle brings to refinement, and what its images and slices are weighed by."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from napari_sta.kernels.refine.pixels import PixelList
from napari_sta.kernels.refine.voxels import VoxelPart

_LEAST_MULTIPLICITY = 0.1
"""Voxels of a pseudo-subtomogram through which fewer slices went are not divided by their number."""


@dataclass(frozen=True)
class ParticleImages:
    """What one particle brings to the expectation step; ``t`` visible tilts, ``n`` listed pixels.

    Of a pseudo-subtomogram ``t`` are the parts of its voxel list
    (:class:`~napari_sta.kernels.refine.voxels.VoxelList`); it counts as one premultiplied image.

    Attributes
    ----------
    masked, unmasked
        (t, 2n) planar transforms: the masked ones are scored, the others averaged.
    model
        (t, n) what multiplies a slice: CTF² of premultiplied images, else the CTF.
    ctf
        (t, n) what multiplies the image when it is averaged; None for premultiplied images (1).
    matrices_zyx
        (t, 3, 3) subtomogram to image.
    power
        (t, shells) float64 shell sums of abs(X)² of the masked images (:func:`half_plane_shells`);
        (1, shells) of a volume.
    sigma2
        (shells,) noise power of its optics group.
    offset_zyx_px
        Current shift of the images, in pixels of the box.
    offset_prior_zyx_px
        Centre of the prior on the shift.
    scale
        Of its tomogram.
    window_power
        (t,) sum of abs(X)² over the whole current window, for the cross-correlation score.
    noise
        (t, shells) noise power of the *raw* tilt images (before premultiplication): with it each tilt and
        shell is weighed by what it knows. None: RELION's likelihood, in which ``sigma2`` is that of the
        images as they are, whatever the CTF does to their noise.
    multiplicity
        (t, n) of a pseudo-subtomogram: by how many slices its noise is larger, in RELION's likelihood.
    multiplicity_per_shell
        (shells,) sums of the multiplicity over the whole volume: what its residuals are divided by.
    tilts
        (t,) places of the images in the tilt series; None: the first ones. Those of a volume are all 0.
    """

    masked: Float[ndarray, "t m"]
    unmasked: Float[ndarray, "t m"]
    model: Float[ndarray, "t n"]
    ctf: Float[ndarray, "t n"] | None
    matrices_zyx: Float[ndarray, "t 3 3"]
    power: Float[ndarray, "i shells"]
    sigma2: Float[ndarray, "shells"]
    offset_zyx_px: Float[ndarray, "3"]
    offset_prior_zyx_px: Float[ndarray, "3"]
    scale: float
    window_power: Float[ndarray, "i"]
    noise: Float[ndarray, "t shells"] | None = None
    multiplicity: Float[ndarray, "t n"] | None = None
    multiplicity_per_shell: Float[ndarray, "shells"] | None = None
    tilts: Int[ndarray, "t"] | None = None

    @property
    def n_tilts(self) -> int:
        """How many tilt images show the particle; of a volume: parts."""
        return len(self.masked)

    @property
    def n_images(self) -> int:
        """How many images it brings: a volume is one."""
        return len(self.power)

    def at(
        self,
        sigma2: Float[ndarray, "shells"],
        noise: Float[ndarray, "t shells"] | None,
        scale: float,
        offset_zyx_px: Float[ndarray, "3"],
        offset_prior_zyx_px: Float[ndarray, "3"] | None = None,
    ) -> ParticleImages:
        """Say what is believed of the images: noise of the group and of each tilt, grey scale, and offset.

        Parameters
        ----------
        offset_prior_zyx_px
            None: as it was.
        """
        prior = self.offset_prior_zyx_px if offset_prior_zyx_px is None else offset_prior_zyx_px
        return replace(
            self,
            sigma2=sigma2,
            noise=noise,
            scale=scale,
            offset_zyx_px=offset_zyx_px,
            offset_prior_zyx_px=prior,
        )

    def at_pixels(self, place: Int[ndarray, "*m"]) -> ParticleImages:
        """Keep the pixels at the given places of the list (``pixels.places_of``)."""
        if place.ndim == 2:
            return self._at_voxels(place)
        both = np.concatenate([place, place + self.model.shape[1]])
        return replace(
            self, masked=np.ascontiguousarray(self.masked[:, both]),
            unmasked=np.ascontiguousarray(self.unmasked[:, both]),
            model=np.ascontiguousarray(self.model[:, place]),
            ctf=None if self.ctf is None else np.ascontiguousarray(self.ctf[:, place]),
        )  # fmt: skip

    def _at_voxels(self, place: Int[ndarray, "t n"]) -> ParticleImages:
        def taken(values: ndarray) -> ndarray:
            return np.concatenate([values.ravel(), np.zeros(1, values.dtype)])[place]

        n = self.model.shape[1]
        masked, unmasked = (
            np.concatenate([taken(a[:, :n]), taken(a[:, n:])], axis=1) for a in (self.masked, self.unmasked)
        )
        t = len(place)
        return replace(
            self, masked=masked, unmasked=unmasked, model=taken(self.model),
            matrices_zyx=self.matrices_zyx[:t],
            noise=None if self.noise is None else self.noise[:t],
            multiplicity=None if self.multiplicity is None else taken(self.multiplicity),
            tilts=None if self.tilts is None else self.tilts[:t],
        )  # fmt: skip

    def score_weights(
        self, tilt: int, pixels: PixelList | VoxelPart, *, cross_correlation: bool = False
    ) -> tuple[Float[ndarray, "n"], Float[ndarray, "n"]]:
        """Compute what image and abs(V)² are multiplied by in the score of a tilt.

        Parameters
        ----------
        cross_correlation
            Noise is not used, and every pixel counts as often as the window holds it; else it is the
            log-likelihood's weights, 0 at frequency 0.
        """
        if cross_correlation:
            factor = self.model[tilt] * pixels.friedel_mates.astype(np.float32)
            return factor, factor * self.model[tilt]
        model = self.model[tilt].astype(np.float64)
        inverse = self._inverse_noise(tilt, pixels)
        inverse[pixels.shell == 0] = 0
        if self.noise is None and self.multiplicity is not None:
            multiplicity = self.multiplicity[tilt]
            inverse = inverse / np.where(multiplicity > _LEAST_MULTIPLICITY, multiplicity, 1)
        cross = self.scale * inverse
        if self.noise is None or self.ctf is not None:
            cross = cross * model
        return cross.astype(np.float32), (self.scale * model * cross).astype(np.float32)

    def sum_weights(
        self, tilt: int, pixels: PixelList | VoxelPart
    ) -> tuple[Float[ndarray, "n"], Float[ndarray, "n"]]:
        """Compute what the image is multiplied by when it is averaged, and its weight in the average."""
        model = self.model[tilt].astype(np.float64)
        inverse = self._inverse_noise(tilt, pixels)
        if self.ctf is not None:
            ctf = self.ctf[tilt].astype(np.float64)
            return self.scale * ctf * inverse, self.scale**2 * ctf * ctf * inverse
        if self.noise is not None:
            return self.scale * inverse, self.scale**2 * model * inverse
        return inverse, self.scale * model * inverse

    def _inverse_noise(self, tilt: int, pixels: PixelList | VoxelPart) -> Float[ndarray, "n"]:
        power = self.sigma2 if self.noise is None else self.noise[tilt]
        return 1 / power[pixels.shell]
