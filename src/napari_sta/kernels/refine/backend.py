"""The one door to the processor: which implementation compares particles with slices, and adds them up.

A projector says where its volume lies. On the CPU the compiled loops of :mod:`.on_cpu` read it: they win
wherever there is no GPU, and for single slices (accuracy, calibration) everywhere, so the projector keeps its
values on the host too. On a GPU the torch operations of :mod:`.on_device` do: whole tilt series at a time,
because a launch costs as much as thousands of pixels; on the CPU they are the oracle of the tests.

Both give a tilt's terms; what is made of them is said in :mod:`.terms`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Bool, Float
from numpy import ndarray

from napari_sta.kernels.refine.on_cpu import OnCpu
from napari_sta.kernels.refine.on_device import OnDevice
from napari_sta.kernels.refine.particle import ParticleImages
from napari_sta.kernels.refine.pixels import PixelList
from napari_sta.kernels.refine.projector import Projector
from napari_sta.kernels.refine.terms import Terms, View
from napari_sta.kernels.refine.voxels import VoxelList


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
        return OnCpu()
    return OnDevice(projector.on_device.device)
