"""Expectation on a torch device: the twins of the compiled loops, whole tilt series at a time.

:mod:`napari_sta.kernels.refinement` and :mod:`~napari_sta.kernels.refinement_sums` call these where the
projector lies on a device. Inputs and results are theirs; what is large stays on the device. Sums into a
volume are atomic there, so that their last bits depend on the order of work.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Complex, Float
from numpy import ndarray
from torch import Tensor

from napari_sta.kernels.refinement import ParticleImages, PixelList, Projector, slice_axes
from napari_sta.kernels.refinement_volumes import VoxelList

_BYTES = {"cuda": 1_000_000_000, "cpu": 64_000_000}
"""What one step may hold at a time."""

_SAMPLE_BYTES = 100
"""Of a sample of a slice while it is read: indices, fractions, eight neighbours in turn."""


def on_device(projector: Projector, device: torch.device | str) -> Projector:
    """Return the projector with its volume on a device as well."""
    shape = (projector.depth, projector.depth, projector.width, 2)
    values = torch.as_tensor(projector.values, device=device).reshape(shape)
    return replace(projector, on_device=torch.view_as_complex(values))


def _frequencies(pixels: PixelList | VoxelList, first: int, last: int, device: torch.device) -> Tensor:
    """Frequencies (t, a, n) of images, or parts of volumes, first ... last - 1."""
    if isinstance(pixels, PixelList):
        k = np.stack([pixels.kv, pixels.ku])[None]
        return torch.as_tensor(k, device=device).expand(last - first, -1, -1)
    parts = [pixels.part(t) for t in range(first, last)]
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


def _score_weights(
    particle: ParticleImages, pixels: PixelList | VoxelList, t: int, cross_correlation: bool
) -> tuple[ndarray, ndarray]:
    here = pixels.part(t)
    if cross_correlation:
        factor = particle.model[t] * here.multiplicity.astype(np.float32)
        return factor, factor * particle.model[t]
    return particle.score_weights(t, here)


def score_poses(
    projector: Projector,
    particle: ParticleImages,
    pixels: PixelList | VoxelList,
    rotations_zyx: Float[ndarray, "o 3 3"],
    shifts_zyx_px: Float[ndarray, "s 3"],
    *,
    cross_correlation: bool = False,
) -> Float[ndarray, "o s"]:
    """Twin of :func:`napari_sta.kernels.refinement.score_poses`."""
    assert projector.on_device is not None
    device, n = projector.on_device.device, len(pixels)
    n_o, n_s = len(rotations_zyx), len(shifts_zyx_px)
    scores = torch.zeros((n_o, n_s), dtype=torch.float64, device=device)
    powers = torch.zeros(n_o, dtype=torch.float64, device=device)
    shifts = particle.offset_zyx_px + shifts_zyx_px
    for first, last in _blocks(particle.n_tilts, n * (_SAMPLE_BYTES * n_o + 24 * n_s), device):
        k = _frequencies(pixels, first, last, device)
        weights = [_score_weights(particle, pixels, t, cross_correlation) for t in range(first, last)]
        factor, weight = (torch.as_tensor(np.stack(one), device=device) for one in zip(*weights, strict=True))
        q = particle.matrices_zyx[first:last]
        steps = torch.as_tensor(shifts @ np.swapaxes(q[:, 3 - pixels.n_dim :], 1, 2), device=device)
        images = _moved(_complex(particle.masked[first:last], device) * factor, steps, k, pixels.size)
        axes = torch.as_tensor(
            slice_axes(q[:, None] @ rotations_zyx, projector.padding, pixels.n_dim), device=device
        )
        v = slices(projector, axes, k)
        cross = (_flat(v) @ _flat(images).transpose(1, 2)).double()
        norm = torch.einsum("ton,tn->to", v.real**2 + v.imag**2, weight).double()
        if not cross_correlation:
            scores += (cross - 0.5 * norm[:, :, None]).sum(dim=0)
        elif pixels.n_dim == 3:
            scores += cross.sum(dim=0)
            powers += norm.sum(dim=0) * float(particle.window_power[0])
        else:
            power = torch.as_tensor(particle.window_power[first:last], device=device)
            scores += (cross / (norm * power[:, None]).clamp(min=1e-37).sqrt()[:, :, None]).sum(dim=0)
    if cross_correlation and pixels.n_dim == 3:
        scores /= powers.clamp(min=1e-37).sqrt()[:, None]
    return scores.cpu().numpy()


def score_shared(
    projector: Projector,
    particles: Sequence[ParticleImages],
    images_of_tilt: Sequence[tuple[ndarray, Sequence[tuple[int, int]]]],
    pixels: PixelList | VoxelList,
    rotations_zyx: Float[ndarray, "o 3 3"],
    shifts_zyx_px: Float[ndarray, "s 3"],
    *,
    cross_correlation: bool = False,
) -> list[Float[ndarray, "o s"]]:
    """Twin of :func:`napari_sta.kernels.refinement.score_shared`.

    Parameters
    ----------
    images_of_tilt
        Per tilt its matrix (times the frames) and which image of which particle shows it.
    """
    assert projector.on_device is not None
    device, n, n_s = projector.on_device.device, len(pixels), len(shifts_zyx_px)
    n_o = len(rotations_zyx)
    scores = torch.zeros((len(particles), n_o, n_s), device=device)
    total = torch.zeros((len(particles), n_o), device=device)
    for matrix, seen in images_of_tilt:
        k = _frequencies(pixels, seen[0][1], seen[0][1] + 1, device)
        moved: list[Tensor] = []
        weights: list[ndarray] = []
        powers: list[float] = []
        for p, t in seen:
            one = particles[p]
            factor, of_norm = _score_weights(one, pixels, t, cross_correlation)
            steps = (one.offset_zyx_px + shifts_zyx_px) @ one.matrices_zyx[t, 3 - pixels.n_dim :].T
            image = _complex(one.masked[t : t + 1], device) * torch.as_tensor(factor, device=device)
            moved.append(_flat(_moved(image, torch.as_tensor(steps[None], device=device), k, pixels.size))[0])
            weights.append(of_norm)
            powers.append(float(one.window_power[t if pixels.n_dim == 2 else 0]))
        ramps, places = torch.cat(moved), [p for p, _ in seen]
        weight = torch.as_tensor(np.stack(weights), device=device)
        power = torch.as_tensor(np.array(powers), device=device).float()
        axes = torch.as_tensor(
            slice_axes(matrix @ rotations_zyx, projector.padding, pixels.n_dim), device=device
        )
        for first, last in _blocks(n_o, n * _SAMPLE_BYTES + 4 * len(ramps), device):
            v = slices(projector, axes[None, first:last], k)[0]
            cross = (_flat(v) @ ramps.T).reshape(last - first, len(seen), n_s).transpose(0, 1)
            norm = ((v.real**2 + v.imag**2) @ weight.T).T  # (p, o)
            if cross_correlation and pixels.n_dim == 3:
                scores[places, first:last] += cross
                total[places, first:last] += norm * power[:, None]
            elif cross_correlation:
                scores[places, first:last] += (
                    cross / (norm * power[:, None]).clamp(min=1e-37).sqrt()[:, :, None]
                )
            else:
                scores[places, first:last] += cross - 0.5 * norm[:, :, None]
    if cross_correlation and pixels.n_dim == 3:
        scores /= total.sqrt()[:, :, None]
    return list(scores.double().cpu().numpy())


def add_images(
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
    """Add the images of a particle at all its poses to a volume; twin of the loops of ``add_particle``.

    Parameters
    ----------
    volume
        On the projector's device, added to; None: leave it.
    shifts_zyx_px
        With the particle's offset.
    kept
        (n,) 0 for pixels to leave out of the volume.

    Returns
    -------
    cross, norm
        Shell sums of Re(conj(M V) F) and w abs(M V)², 0 without statistics.
    """
    assert projector.on_device is not None
    device, n, n_tilts = projector.on_device.device, len(pixels), particle.n_tilts
    w = torch.as_tensor(np.ascontiguousarray(weights, dtype=np.float32), device=device)
    of_orientation = w.sum(dim=1)
    cross, norm = (torch.zeros((n_tilts, n_shells), dtype=torch.float64, device=device) for _ in range(2))
    per_tilt = n * (_SAMPLE_BYTES * len(weights) + 48 * len(shifts_zyx_px))
    for first, last in _blocks(n_tilts, per_tilt, device):
        k = _frequencies(pixels, first, last, device)
        q = particle.matrices_zyx[first:last]
        steps = torch.as_tensor(shifts_zyx_px @ np.swapaxes(q[:, 3 - pixels.n_dim :], 1, 2), device=device)
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
