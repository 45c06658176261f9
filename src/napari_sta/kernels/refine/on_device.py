"""The torch operations that do the work on a GPU, whole tilt series at a time.

What is large stays on the device. Sums into a volume are atomic there, so that their last bits depend on the
order of work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Complex, Float
from numpy import ndarray
from torch import Tensor

from napari_sta.kernels.refine.particle import ParticleImages
from napari_sta.kernels.refine.pixels import PixelList
from napari_sta.kernels.refine.projector import Projector, slice_axes
from napari_sta.kernels.refine.terms import Terms, View
from napari_sta.kernels.refine.voxels import VoxelList

_BYTES = {"cuda": 1_000_000_000, "cpu": 64_000_000}
"""What one step may hold at a time."""

_SAMPLE_BYTES = 100
"""Of a sample of a slice while it is read: indices, fractions, eight neighbours in turn."""


def _frequencies(pixels: PixelList | VoxelList, images: Sequence[int], device: torch.device) -> Tensor:
    """Frequencies (t, a, n) of images, or parts of volumes, with these numbers."""
    if isinstance(pixels, PixelList):
        k = np.stack([pixels.kv, pixels.ku])[None]
        return torch.as_tensor(k, device=device).expand(len(images), -1, -1)
    parts = [pixels.part(t) for t in images]
    return torch.as_tensor(np.stack([np.stack([p.kw, p.kv, p.ku]) for p in parts]), device=device)


def _corners(where: Float[Tensor, "t o 3 n"], depth: int, width: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield flat index and weight of the eight voxels around points with x >= 0."""
    low = where.floor()
    part = where - low
    z, y, x = (low[:, :, axis].long() for axis in range(3))
    base = ((z + depth // 2) * depth + y + depth // 2) * width + x
    for corner in range(8):
        bits = [corner >> axis & 1 for axis in range(3)]
        weight = torch.ones_like(part[:, :, 0])
        for axis in range(3):
            weight = weight * (part[:, :, axis] if bits[axis] else 1 - part[:, :, axis])
        yield base + (bits[0] * depth + bits[1]) * width + bits[2], weight


def _points(
    axes: Float[Tensor, "t o a 3"], frequencies: Float[Tensor, "t a n"]
) -> tuple[Float[Tensor, "t o 3 n"], Float[Tensor, "t o n"]]:
    """Where pixels fall in the half volume, and -1 for those whose Friedel mate is there."""
    where = torch.einsum("toai,tan->toin", axes, frequencies)
    sign = torch.where(where[:, :, 2] >= 0, 1.0, -1.0)
    return where * sign[:, :, None], sign


def slices(
    projector: Projector, axes: Float[Tensor, "t o a 3"], frequencies: Float[Tensor, "t a n"]
) -> Complex[Tensor, "t o n"]:
    """Sample slices of the projector's volume, trilinearly."""
    assert projector.on_device is not None
    flat = projector.on_device.reshape(-1)
    where, sign = _points(axes, frequencies)
    total = torch.zeros(sign.shape, dtype=torch.complex64, device=flat.device)
    for index, weight in _corners(where, projector.depth, projector.width):
        total += weight * flat[index]
    return torch.complex(total.real, total.imag * sign)


def _moved(
    images: Complex[Tensor, "t n"],
    shifts: Float[Tensor, "t s a"],
    frequencies: Float[Tensor, "t a n"],
    size: int,
) -> Complex[Tensor, "t s n"]:
    """Images shifted by +shift."""
    turns = torch.einsum("tsa,tan->tsn", shifts, frequencies.double()) / size
    angle = (-2 * torch.pi * (turns - turns.round())).float()
    return images[:, None] * torch.polar(torch.ones_like(angle), angle)


def _complex(planar: Float[ndarray, "t m"], device: torch.device) -> Complex[Tensor, "t n"]:
    n = planar.shape[1] // 2
    both = torch.as_tensor(planar, device=device)
    return torch.complex(both[:, :n], both[:, n:])


def _flat(values: Complex[Tensor, "*b n"]) -> Float[Tensor, "*b m"]:
    """Real and imaginary parts as one row."""
    return torch.view_as_real(values).flatten(-2)


def _blocks(n_tilts: int, per_tilt_bytes: int, device: torch.device) -> Iterator[tuple[int, int]]:
    """Cut tilts into runs that fit the memory of a step."""
    step = max(1, int(_BYTES.get(device.type, _BYTES["cpu"]) / max(per_tilt_bytes, 1)))
    for first in range(0, n_tilts, step):
        yield first, min(first + step, n_tilts)


class OnDevice:
    """:class:`~napari_sta.kernels.refine.backend.Backend` of torch operations.

    Parameters
    ----------
    device
        Where projectors and sums lie.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

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
        """Compare images with slices: many views at a time if each has one image, else view by view."""
        n, n_o, n_s = len(pixels), len(rotations_zyx), len(shifts_zyx_px)
        together = all(len(view.images) == 1 for view in views)
        runs = [(k, k + 1) for k in range(len(views))]
        if together:
            runs = list(_blocks(len(views), n * (_SAMPLE_BYTES * n_o + 24 * n_s), self.device))
        for first, last in runs:
            images = [one for view in views[first:last] for one in view.images]
            k = _frequencies(pixels, [view.images[0][1] for view in views[first:last]], self.device)
            moved, weight = self._shifted(
                particles, images, pixels, shifts_zyx_px, k if together else k.expand(len(images), -1, -1),
                cross_correlation,
            )  # fmt: skip
            matrices = np.stack([view.matrix_zyx for view in views[first:last]])
            axes = self._there(slice_axes(matrices[:, None] @ rotations_zyx, projector.padding, pixels.n_dim))
            at_once = n * _SAMPLE_BYTES * (last - first) + 4 * moved[..., 0].numel()
            for row, end in _blocks(n_o, at_once, self.device):
                if not go_on():
                    return
                v = slices(projector, axes[:, row:end], k)
                square = v.real**2 + v.imag**2
                if together:
                    cross = _flat(v) @ moved.transpose(1, 2)
                    norm = torch.einsum("ton,tn->to", square, weight)
                else:
                    cross = (_flat(v[0]) @ moved.flatten(0, 1).T).reshape(end - row, len(images), n_s)
                    cross = cross.transpose(0, 1)
                    norm = (square[0] @ weight.T).T
                yield Terms(images, slice(row, end), cross.double(), 0.5 * norm.double())

    def _there(self, array: ndarray) -> Tensor:
        return torch.as_tensor(array, device=self.device)

    def _shifted(
        self,
        particles: Sequence[ParticleImages],
        images: Sequence[tuple[int, int]],
        pixels: PixelList | VoxelList,
        shifts_zyx_px: Float[ndarray, "s 3"],
        frequencies: Float[Tensor, "k a n"],
        cross_correlation: bool,
    ) -> tuple[Float[Tensor, "k s m"], Float[Tensor, "k n"]]:
        """Return images, weighed and moved by every shift, and the weights of the squared norms."""
        pairs = [
            particles[p].score_weights(t, pixels.part(t), cross_correlation=cross_correlation)
            for p, t in images
        ]
        factor, weight = (self._there(np.stack(one)) for one in zip(*pairs, strict=True))
        steps = np.stack(
            [
                (particles[p].offset_zyx_px + shifts_zyx_px)
                @ particles[p].matrices_zyx[t, 3 - pixels.n_dim :].T
                for p, t in images
            ]
        )
        masked = _complex(np.stack([particles[p].masked[t] for p, t in images]), self.device)
        return _flat(_moved(masked * factor, self._there(steps), frequencies, pixels.size)), weight

    def zeros(self, shape: tuple[int, ...]) -> Tensor:
        """Make a tensor of float64 zeros on the device."""
        return torch.zeros(shape, dtype=torch.float64, device=self.device)

    def to_host(self, values: Tensor) -> ndarray:
        """Copy a tensor into the computer's memory."""
        return values.cpu().numpy()

    def add(
        self,
        volume: Float[Tensor, "d d w 4"] | None,
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
        """Add the images of a particle to a volume, and compare them with the reference."""
        device, n, n_tilts = self.device, len(pixels), particle.n_tilts
        w = torch.as_tensor(np.ascontiguousarray(weights, dtype=np.float32), device=device)
        of_orientation = w.sum(dim=1)
        cross, norm = (torch.zeros((n_tilts, n_shells), dtype=torch.float64, device=device) for _ in range(2))
        per_tilt = n * (_SAMPLE_BYTES * len(weights) + 48 * len(shifts_zyx_px))
        for first, last in _blocks(n_tilts, per_tilt, device):
            k = _frequencies(pixels, range(first, last), device)
            q = particle.matrices_zyx[first:last]
            steps = torch.as_tensor(
                shifts_zyx_px @ np.swapaxes(q[:, 3 - pixels.n_dim :], 1, 2), device=device
            )
            axes = torch.as_tensor(
                slice_axes(q[:, None] @ rotations_zyx, projector.padding, pixels.n_dim), device=device
            )

            def mean(
                images: ndarray, steps: Tensor = steps, k: Tensor = k, first: int = first, last: int = last
            ) -> Tensor:
                moved = _moved(_complex(images[first:last], device), steps, k, pixels.size)
                total = w @ _flat(moved)
                return torch.view_as_complex(total.reshape(*total.shape[:-1], n, 2))

            if statistics:
                v = (
                    slices(projector, axes, k)
                    * torch.as_tensor(particle.model[first:last], device=device)[:, None]
                )
                f = mean(particle.masked)
                shell = torch.as_tensor(
                    np.stack([pixels.part(t).shell for t in range(first, last)]), device=device
                )
                x = (v.real * f.real + v.imag * f.imag).double().sum(dim=1)
                p = torch.einsum("o,ton->tn", of_orientation.double(), (v.real**2 + v.imag**2).double())
                cross[first:last].scatter_add_(1, shell, x)
                norm[first:last].scatter_add_(1, shell, p)
            if volume is not None:
                pairs = [particle.sum_weights(t, pixels.part(t)) for t in range(first, last)]
                factor, weight = (
                    torch.as_tensor(np.stack(one) * kept, device=device).float()
                    for one in zip(*pairs, strict=True)
                )
                data = mean(particle.unmasked) * factor[:, None]
                where, sign = _points(axes, k)
                values = torch.stack(
                    [
                        data.real,
                        data.imag * sign,
                        weight[:, None] * of_orientation[:, None],
                        torch.zeros_like(sign),
                    ],
                    dim=-1,
                )
                flat = volume.view(-1, 4)
                # Sums reach one voxel less in x than projectors.
                for index, part in _corners(where, volume.shape[0], volume.shape[2]):
                    flat.index_add_(0, index.flatten(), (values * part[..., None]).reshape(-1, 4))
        return cross.cpu().numpy(), norm.cpu().numpy()
