"""One particle to refine, as images and as a volume, and its likelihood pixel by pixel in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from napari_sta.kernels.refine.particle import ParticleImages
from napari_sta.kernels.refine.posterior import (
    Search,
)
from napari_sta.kernels.refine.projector import (
    interpolation_falloff,
    make_projector,
    slice_axes,
)
from napari_sta.kernels.rotations import euler_to_matrix_zyx
from twins import gather_reference, shift_images_reference

SIZE, RADIUS, PADDING, ANGST = 16, 6, 2.0, 3.0
SHELLS = SIZE // 2 + 1


def blob_map(size=SIZE, seed=0, n=6):
    """A few Gaussian blobs near the centre."""
    rng = np.random.default_rng(seed)
    k = np.arange(size) - size // 2
    z, y, x = np.meshgrid(k, k, k, indexing="ij")
    out = np.zeros((size,) * 3)
    for _ in range(n):
        c = rng.uniform(-3, 3, 3)
        out += rng.uniform(0.5, 1) * np.exp(-((z - c[0]) ** 2 + (y - c[1]) ** 2 + (x - c[2]) ** 2) / 3)
    return torch.from_numpy(out)


def random_rotations(n, seed=0):
    rng = np.random.default_rng(seed)
    return euler_to_matrix_zyx(
        np.stack([rng.uniform(-180, 180, n), rng.uniform(0, 180, n), rng.uniform(-180, 180, n)], axis=1)
    )


def slice_by_hand(volume, matrix, v, u, padding=PADDING, radius=RADIUS):
    """Trilinear value of the padded transform at matrix^T (0, v, u), from the full complex FFT, one pixel."""
    size = volume.shape[0]
    big = int(padding * size)
    corrected = volume / interpolation_falloff(size, padding)
    padded = np.zeros((big,) * 3)
    first = big // 2 - size // 2
    padded[(slice(first, first + size),) * 3] = corrected.numpy()
    full = np.fft.fftn(np.fft.ifftshift(padded)) / size**2
    at = padding * (v * matrix[1] + u * matrix[2])
    low = np.floor(at).astype(int)
    part = at - low
    total = 0j
    for dz in (0, 1):
        for dy in (0, 1):
            for dx in (0, 1):
                index = low + np.array([dz, dy, dx])
                if (index**2).sum() > (padding * radius) ** 2:
                    continue
                w = np.prod([part[a] if d else 1 - part[a] for a, d in enumerate((dz, dy, dx))])
                total += w * full[tuple(index % big)]
    return total


def toy_particle(
    volume, pixels, rotation, shift, n_tilts=2, noise=0.02, seed=1, premultiplied=True, scale=1.0
):
    """Images of the map itself at a pose, times a CTF, plus noise; returns the particle and its parts."""
    rng = np.random.default_rng(seed)
    tilts = euler_to_matrix_zyx(np.array([[0.0, 35.0 * t, 10.0] for t in range(n_tilts)]))
    n = len(pixels)
    ctf = np.cos(0.15 * pixels.shell[None] * (1 + 0.2 * np.arange(n_tilts)[:, None])) * 0.9
    model = ctf**2 if premultiplied else ctf
    projector = make_projector(volume, pixels.radius, PADDING)
    images = np.empty((n_tilts, 2 * n), np.float32)
    for t in range(n_tilts):
        rows, _ = gather_reference(
            projector, slice_axes((tilts[t] @ rotation)[None], PADDING), pixels, np.zeros(n)
        )
        signal = rows[0].numpy() * np.tile(model[t], 2) * scale
        moved = shift_images_reference(signal, -(tilts[t] @ shift)[None, 1:], pixels)[0].numpy()
        images[t] = moved + noise * rng.normal(size=2 * n)
    shells = SIZE // 2 + 1
    power = np.zeros((n_tilts, shells))
    for t in range(n_tilts):
        np.add.at(power[t], pixels.shell, images[t, :n].astype(float) ** 2 + images[t, n:].astype(float) ** 2)
    particle = ParticleImages(
        images, images * np.float32(1.1), model.astype(np.float32),
        None if premultiplied else ctf.astype(np.float32), tilts, power,
        np.linspace(2e-3, 5e-4, shells), np.zeros(3), np.zeros(3), scale, power.sum(axis=1),
    )  # fmt: skip
    return projector, particle


def explicit_score(projector, particle, pixels, rotation, shift, *, with_constant=False):
    """-sum abs(s M V - X_shifted)² / 2 sigma² in complex float64, pixel by pixel; DC left out."""
    n = len(pixels)
    total = 0.0
    for t in range(particle.n_tilts):
        q = particle.matrices_zyx[t]
        rows, _ = gather_reference(projector, slice_axes((q @ rotation)[None], PADDING), pixels, np.zeros(n))
        v = rows[0, :n].numpy() + 1j * rows[0, n:].numpy()
        x = particle.masked[t, :n].astype(float) + 1j * particle.masked[t, n:].astype(float)
        d = (q @ (particle.offset_zyx_px + shift))[1:]
        x = x * np.exp(-2j * np.pi * (pixels.v * d[0] + pixels.u * d[1]) / SIZE)
        good = pixels.shell > 0
        difference = np.abs(particle.scale * particle.model[t] * v - x) ** 2 / (
            2 * particle.sigma2[pixels.shell]
        )
        total -= difference[good].sum()
        if not with_constant:
            total += (np.abs(x) ** 2 / (2 * particle.sigma2[pixels.shell]))[good].sum()
    return total


def make_search(rotations, children, steps, kids, perturbation=0.0, fraction=0.999):
    return Search(
        rotations, np.log(np.full(len(rotations), 1 / len(rotations))), children.__getitem__, steps, perturbation, kids, ANGST,
        25.0, fraction,
    )  # fmt: skip


def turned(projector, rotation, pixels):
    """Transform of the turned map at all listed voxels, complex, by the plain twin of the gather."""
    out = []
    for part in pixels.parts:
        rows, _ = gather_reference(
            projector, slice_axes(rotation[None], PADDING, 3), part, np.zeros(len(part))
        )
        row = rows[0].numpy()
        out.append(row[: len(part)] + 1j * row[len(part) :])
    return np.concatenate(out)[: pixels.count]


def joined(values, pixels):
    """Complex values of all listed voxels from planar parts."""
    n = len(pixels)
    return (values[:, :n].astype(float) + 1j * values[:, n:]).ravel()[: pixels.count]


def planar(values, pixels):
    return np.concatenate([pixels.split(values.real), pixels.split(values.imag)], axis=1)


def ramp(shift, pixels):
    k = np.stack([pixels.w, pixels.v, pixels.u])
    return np.exp(-2j * np.pi * (np.asarray(shift) @ k) / SIZE)


def toy_volume(pixels, rotation, shift, *, noise=0.002, seed=1, scale=1.0, **changes):
    """Subtomogram of the map at a pose, with a missing wedge, and the projector it was made with."""
    rng = np.random.default_rng(seed)
    projector = make_projector(blob_map(), pixels.radius, PADDING, n_dim=3)
    slices = np.where(
        np.abs(pixels.w) > 1.5 * np.hypot(pixels.v, pixels.u), 0, 0.05 + rng.uniform(0, 3, pixels.count)
    )
    ctf2 = slices * rng.uniform(0.2, 0.9, pixels.count)
    x = ctf2 * scale * turned(projector, rotation, pixels) * ramp(-np.asarray(shift), pixels)
    x = x + np.sqrt(slices) * noise * (rng.normal(size=pixels.count) + 1j * rng.normal(size=pixels.count))
    values = planar(x, pixels)
    power = np.bincount(pixels.shell, np.abs(x) ** 2, SHELLS)[None]
    n_parts = len(pixels.parts)
    particle = ParticleImages(
        masked=values, unmasked=values * np.float32(1.1), model=pixels.split(ctf2), ctf=None,
        matrices_zyx=np.broadcast_to(np.eye(3), (n_parts, 3, 3)), power=power,
        sigma2=np.linspace(8e-6, 2e-6, SHELLS), offset_zyx_px=np.zeros(3), offset_prior_zyx_px=np.zeros(3),
        scale=scale, window_power=power.sum(axis=1), multiplicity=pixels.split(slices),
        multiplicity_per_shell=np.bincount(pixels.shell, slices, SHELLS),
    )  # fmt: skip
    return projector, replace(particle, **changes)


def difference(projector, particle, pixels, rotation, shift):
    """|X_shifted - s C2 V|² at every voxel."""
    v = turned(projector, rotation, pixels)
    x = joined(particle.masked, pixels) * ramp(particle.offset_zyx_px + shift, pixels)
    ctf2 = particle.model.ravel()[: pixels.count].astype(float)
    return np.abs(x - particle.scale * ctf2 * v) ** 2, np.abs(x) ** 2
