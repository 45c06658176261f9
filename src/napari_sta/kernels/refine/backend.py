"""The one door to the processor: which implementation compares particles with slices, and adds them up.

A projector says where its volume lies. On the CPU the compiled loops of :mod:`.on_cpu` read it: they win
wherever there is no GPU, and for single slices (accuracy, calibration) everywhere, so the projector keeps its
values on the host too. On a GPU the torch operations of :mod:`.on_device` do: whole tilt series at a time,
because a launch costs as much as thousands of pixels; on the CPU they are the oracle of the tests.

Both give a tilt's *terms* (:class:`Terms`), and :func:`combined` says what is made of them: the score formula
stands here once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from numpy import ndarray

from napari_sta.kernels.refine.particle import ParticleImages
from napari_sta.kernels.refine.pixels import PixelList
from napari_sta.kernels.refine.projector import Projector
from napari_sta.kernels.refine.voxels import VoxelList

_TINY = 1e-300
"""Correlations with a blank image are 0, not 0 / 0."""


class View(NamedTuple):
    """A direction of view, and the images that see the reference from it.

    Attributes
    ----------
    matrix_zyx
        (3, 3) from what orientations lead to (subtomogram, or tomogram) to the image (or part).
    images
        (particle, tilt) of each, counted in the sequence of particles and in the images of each.
    """

    matrix_zyx: ndarray
    images: Sequence[tuple[int, int]]


class Terms(NamedTuple):
    """What a score is made of, for some images and some orientations; arrays of the backend's own kind.

    Attributes
    ----------
    images
        (particle, tilt) of each of the k images.
    rows
        Which orientations.
    cross
        (k, o, s) float64 weighed products of slices and shifted images; -inf for pairs that are not tried.
    norm
        (k, o) float64 halves of the slices' weighed squared norms.
    """

    images: Sequence[tuple[int, int]]
    rows: slice
    cross: Any
    norm: Any


@runtime_checkable
class Backend(Protocol):
    """What does the work. All methods ask ``go_on`` now and then, and end early once it says no."""

    def terms(
        self,
        projector: Projector,
        particles: Sequence[ParticleImages],
        views: Sequence[View],
        pixels: PixelList | VoxelList,
        rotations_zyx: Float[ndarray, "o 3 3"],
        shifts_zyx_px: Float[ndarray, "s 3"],
        *,
        cross_correlation: bool = False,
        pairs: Bool[ndarray, "p q"] | None = None,
        go_on: Callable[[], bool] = lambda: True,
    ) -> Iterator[Terms]:
        """Compare images with slices, view by view.

        Parameters
        ----------
        rotations_zyx, shifts_zyx_px
            Poses; shifts come on top of each particle's offset.
        cross_correlation
            Weigh for correlation instead of log-likelihood.
        pairs
            Which p parents and q steps go together, where poses are their children side by side, a multiple
            of 4 each; None: all. Others may be computed all the same.
        """
        ...

    def zeros(self, shape: tuple[int, ...]) -> Any:
        """Make an array of float64 zeros."""
        ...

    def to_host(self, values: Any) -> ndarray:
        """Bring an array of this backend into the computer's memory."""
        ...

    def add(
        self,
        volume: Any,
        projector: Projector,
        particle: ParticleImages,
        pixels: PixelList | VoxelList,
        rotations_zyx: Float[ndarray, "o 3 3"],
        shifts_zyx_px: Float[ndarray, "s 3"],
        weights: Float[ndarray, "o s"],
        kept: Float[ndarray, "n"],
        n_shells: int,
        *,
        statistics: bool = True,
    ) -> tuple[Float[ndarray, "t shells"], Float[ndarray, "t shells"]]:
        """Add the images of a particle, at all its poses, to a volume, and compare them with the reference.

        Parameters
        ----------
        volume
            (d, d, w, 4) added to; None: leave it.
        shifts_zyx_px
            With the particle's offset.
        weights
            Of the poses.
        kept
            (n,) 0 for pixels to leave out of the volume.

        Returns
        -------
        cross, norm
            Shell sums of Re(conj(M V) F) and w abs(M V)², float64; 0 without statistics.
        """
        ...


def backend_of(projector: Projector) -> Backend:
    """Return what reads slices of a projector: the compiled loops, or torch on the device it lies on."""
    if projector.on_device is None:
        from napari_sta.kernels.refine.on_cpu import OnCpu

        return OnCpu()
    from napari_sta.kernels.refine.on_device import OnDevice

    return OnDevice(projector.on_device.device)


def placed(projector: Projector, device: torch.device | str) -> Projector:
    """Return the projector with its volume on a torch device as well, which then does the work."""
    from napari_sta.kernels.refine.on_device import placed as placed_there

    return placed_there(projector, device)


def combined(cross: Any, norm: Any, power: Any = None) -> Any:
    """Turn terms into scores: the log-likelihood up to a constant, or the correlation coefficient.

    Parameters
    ----------
    cross, norm
        (…, o, s) and (…, o), numpy arrays or tensors.
    power
        (…, 1) of the images, sum abs(X)² over the window: then correlation. None: log-likelihood.

    Notes
    -----
    Log-likelihood: sum of Re(conj(s M V) X) / sigma² - abs(s M V)² / 2 sigma², weighed in the terms.
    """
    if power is None:
        return cross - norm[..., None]
    return cross / ((2 * norm * power).clip(min=_TINY) ** 0.5)[..., None]
