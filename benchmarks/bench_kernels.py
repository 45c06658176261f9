"""Kernels of the linear jobs (extract, reconstruct, remove_duplicates, process_map) against this machine.

    python benchmarks/bench_kernels.py [--box 192] [--crop 96] [--images 192] [--threads 2]

Needs no data. Prints for each kernel the time, the flops of transforms and of everything else, the bytes that
must come from and go to memory, and the floor: flops of transforms at the measured rate of torch's FFT, plus
other flops at the measured rate of sgemm, or bytes at the measured copy rate, whichever takes longer.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from napari_sta.kernels import neighbours, reconstruction, volumes
from napari_sta.kernels.compiled.float16 import round_to_half, sum_up
from napari_sta.kernels.devices import available_threads, run_each
from napari_sta.kernels.optics import Defocus, Microscope, phase_coefficients, tilt_envelope
from napari_sta.kernels.rotations import euler_to_matrix_zyx, symmetry_operators_zyx
from napari_sta.kernels.warm_up import warm_up
from napari_sta.kernels.windows import Contrast, add_slices, subtomogram_images, weighed_slices


class Machine(NamedTuple):
    """Measured rates: multiply-add and FFT in GF/s, copy in GB/s (read + written)."""

    gemm: float
    fft: float
    copy: float


class Row(NamedTuple):
    """One kernel: seconds and floating-point operations and bytes of one item."""

    name: str
    seconds: float
    fft_flops: float
    flops: float
    n_bytes: float


def best(work: Callable[[], object], repeats: int = 5) -> float:
    """Best wall time of several runs, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def fft_flops(*shape: int) -> float:
    """Of a real transform: half of 5 N log2 N."""
    n = float(np.prod(shape))
    return 2.5 * n * np.log2(n)


def machine(box: int, threads: int) -> Machine:
    """Measure this machine."""
    a = torch.randn(2048, 2048)
    gemm = 2 * 2048**3 / best(lambda: a @ a) / 1e9
    source = torch.zeros(64 * 2**20)
    target = torch.empty_like(source)
    copy = 2 * source.numel() * 4 / best(lambda: target.copy_(source)) / 1e9
    windows = torch.randn(32, box, box)
    fft = 32 * fft_flops(box, box) / best(lambda: torch.fft.rfft2(windows), 9) / 1e9
    print(f"machine, {threads} threads: sgemm {gemm:.0f} GF/s, FFT {fft:.0f} GF/s, copy {copy:.1f} GB/s")
    return Machine(gemm, fft, copy)


def table(title: str, unit: str, rows: list[Row], rates: Machine) -> None:
    """Print one job's kernels."""
    scale = {"µs": 1e6, "ms": 1e3}[unit]
    print(f"\n{title:40s}{unit:>9s}{'FFT Mflop':>11s}{'Mflop':>9s}{'MB':>8s}{'floor':>9s}{'times':>7s}")
    for row in rows:
        flops = row.fft_flops / rates.fft + row.flops / rates.gemm
        least = max(flops, row.n_bytes / rates.copy) / 1e9
        print(
            f"  {row.name:38s}{row.seconds * scale:9.1f}{row.fft_flops / 1e6:11.2f}{row.flops / 1e6:9.2f}"
            f"{row.n_bytes / 1e6:8.2f}{least * scale:9.1f}{row.seconds / least:7.1f}"
        )


def windows(box: int, crop: int, n: int, threads: int, rates: Machine) -> None:
    """Extract and reconstruct: what is done for every window, and for every map."""
    rng = np.random.default_rng(0)
    half = box // 2 + 1
    image = np.ascontiguousarray(rng.normal(size=(2 * box, 2 * box)).astype(np.float32))
    position = rng.uniform(box / 2, 1.5 * box, (n, 2))
    defocus = Defocus(*(np.full(n, v) for v in (25000.0, 24500.0, 30.0, 0.0)))
    coefficients = phase_coefficients(Microscope(300, 2.7, 0.1), defocus)
    envelope, x_end = tilt_envelope(box, 2.7, 10.0, 1.0, 0.0)
    images = np.empty((n, crop, crop), np.float32)
    halves = np.empty(images.shape, np.uint16)
    slices = np.empty((n, box + 1, half + 2, 3), np.float32)
    fftw = np.fft.ifftshift(envelope, axes=0)

    def to_images(first: int, last: int) -> None:
        contrast = Contrast(coefficients[first:last], fftw)
        slots = np.arange(first, last)
        subtomogram_images(image, position[first:last], box, box, contrast, 2.7, images, slots)

    def to_slices(first: int, last: int) -> None:
        contrast = Contrast(coefficients[first:last], envelope)
        weighed_slices(image, position[first:last], box, box, contrast, 2.7, x_end, slices[first:last])

    def to_halves(first: int, last: int) -> None:
        round_to_half(images[first:last].reshape(-1), halves[first:last].reshape(-1))

    def each(work: Callable[[int, int], None]) -> float:
        work(0, 1)
        edges = [round(i * n / threads) for i in range(threads + 1)]
        return best(lambda: run_each(lambda k: work(edges[k], edges[k + 1]), range(threads), threads)) / n

    poses = Rotation.random(n, random_state=1).as_matrix()
    radii = np.full(n, box / 2)
    volume = reconstruction.new_sums(box)
    ones = np.ones_like(slices[:1])
    add_slices(ones, poses[:1], radii[:1], volume, threads)
    voxels = int((volume[..., 2] > 0).sum())
    volume[:] = 0
    # Back along y for all columns, back along x for the middle rows only.
    back = fft_flops(box, box) * (0.5 + 0.5 * crop / box)
    contrast_flops = 40.0 * box * half
    rows = [
        Row(
            "window to image", each(to_images), fft_flops(box, box) + back,
            contrast_flops + 4 * crop**2, 4 * box**2 + 4 * crop**2,
        ),
        Row("float16, header's statistics", each(to_halves), 0, 12 * crop**2, 6 * crop**2),
    ]  # fmt: skip
    table(f"extract, box {box}, crop {crop}: an image", "µs", rows, rates)
    rows = [
        Row(
            "window to slice", each(to_slices), fft_flops(box, box), contrast_flops + 3 * box**2,
            4 * box**2 + 12 * box * half,
        ),
        Row(
            f"insert {voxels} voxels",
            best(lambda: add_slices(slices, poses, radii, volume, threads)) / n,
            0, 45 * voxels, (4 * 12 + 32) * voxels,
        ),
    ]  # fmt: skip
    table(f"reconstruct, box {box}: an image", "µs", rows, rates)
    operators = symmetry_operators_zyx("C6")
    data = reconstruction.real_space_data(volume, threads)
    full = reconstruction.divided_by_weight(data, volume, 0.0, threads)
    middle, room = reconstruction.crop_centre(full, crop), np.empty_like(volume)
    points = box * box * half
    one_fft = fft_flops(box, box, box)
    rows = [
        Row(
            "C6 of the sums", best(lambda: reconstruction.symmetrise(volume, operators, threads, room), 3), 0,
            5 * 70 * points, (5 * 8 + 2) * 16 * points,
        ),
        Row(
            "numerator to real space, gridding",
            best(lambda: reconstruction.real_space_data(volume, threads), 3),
            one_fft, 8 * points, (16 + 8 + 2 * 8 + 3 * 8) * points,
        ),
        Row(
            "division by the weight, there and back",
            best(lambda: reconstruction.divided_by_weight(data, volume, 0.0, threads), 3),
            2 * one_fft, 30 * points, (8 + 2 * 8 + 16 + 16 + 2 * 8 + 2 * 8) * points,
        ),
        Row(
            "weights of the whole space", best(lambda: reconstruction.full_weight(volume, threads), 3), 0, 0,
            (16 + 8) * points,
        ),
        Row(
            f"taper of the middle {crop}³", best(lambda: reconstruction.taper(middle, 10.0, threads), 3), 0,
            6 * crop**3, 12 * crop**3,
        ),
        Row(
            "statistics of a map's header", best(lambda: sum_up(full.reshape(-1)), 3), 0, 4 * box**3,
            4 * box**3,
        ),
    ]  # fmt: skip
    table(f"reconstruct, box {box}: a map", "ms", rows, rates)


def duplicates(n: int, rates: Machine) -> None:
    """Find and drop duplicates among particles of 40 tomograms, a tenth of them picked twice."""
    rng = np.random.default_rng(2)
    per = n // 40
    groups: list[NDArray[np.float64]] = []
    for _ in range(40):
        points = rng.uniform(0, 8000, (per, 3))
        points[::10] = points[5::10] + 8.0
        groups.append(points)
    found = [neighbours.close_pairs(points, 30.0)[0] for points in groups]
    score = rng.random(per)
    n_pairs = sum(len(pairs) for pairs in found)
    angles = rng.uniform(-180, 180, (n, 3))
    origin = rng.normal(size=(n, 3))

    def rotate() -> NDArray[np.float64]:
        turned: NDArray[np.float64] = np.einsum("nij,nj->ni", euler_to_matrix_zyx(angles), origin)
        return turned

    # A tree compares each point with about log2 n planes and the few points of its leaf (16).
    tests = n * (np.log2(per) + 16)
    rows = [
        Row("origins turned (geometric rule)", best(rotate, 3), 0, 60 * n, 8 * (3 + 9 + 9 + 3 + 3) * n),
        Row(
            f"{n_pairs} pairs by k-d tree",
            best(lambda: [neighbours.close_pairs(points, 30.0) for points in groups], 3),
            0, 8 * tests, 24 * tests,
        ),
        Row(
            "RELION's survivors", best(lambda: [neighbours.keep_last(pairs, per) for pairs in found], 3),
            0, 0, n + 16 * n_pairs,
        ),
        Row(
            "best survivors", best(lambda: [neighbours.keep_best(pairs, score) for pairs in found], 3), 0, 0,
            25 * n + 64 * n_pairs,
        ),
    ]  # fmt: skip
    table(f"remove_duplicates, {n} particles", "ms", rows, rates)


def maps(box: int, threads: int, rates: Machine) -> None:
    """Map operations."""
    data = np.random.default_rng(0).normal(size=(box,) * 3).astype(np.float32)
    operators = symmetry_operators_zyx("C6")
    small, n = box // 2, box**3

    def filtered() -> torch.Tensor:
        spectrum = torch.fft.rfftn(torch.from_numpy(data).to(torch.float64))
        return torch.fft.irfftn(spectrum * 0.5, s=data.shape).to(torch.float32)

    def symmetrised() -> None:
        for _ in volumes.symmetrise_in_steps(data, operators, threads):
            pass

    rows = [
        Row("filter", best(filtered, 3), 2 * fft_flops(box, box, box), n, (8 + 6 * 8 + 2 * 8 + 8) * n),
        Row(
            "shift", best(lambda: volumes.shift_volume(data, (0.3, 0.2, -0.7)), 3),
            2 * fft_flops(box, box, box), 6 * n, (8 + 6 * 8 + 2 * 8 + 8) * n,
        ),
        # Cubic splines: 64 neighbours, 12 weights.
        Row("C6", best(symmetrised, 2), 0, 5 * (2 * 64 + 60) * n, (5 * (8 + 8 + 8 + 4 + 4) + 16) * n),
        Row(
            f"rescale to {small} px", best(lambda: volumes.rescale(data, small), 3),
            fft_flops(box, box, box) + fft_flops(small, small, small), 0, (4 + 3 * 2 * 8) * n,
        ),
        Row("invert the hand", best(lambda: volumes.invert_hand(data), 3), 0, 0, 8 * n),
    ]  # fmt: skip
    table(f"process_map, {box}³ voxels", "ms", rows, rates)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--box", type=int, default=192)
    parser.add_argument("--crop", type=int, default=96)
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--particles", type=int, default=200_000)
    parser.add_argument("--threads", type=int, default=available_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warm_up()
    measured = machine(given.box, given.threads)
    windows(given.box, given.crop, given.images, given.threads, measured)
    duplicates(given.particles, measured)
    maps(given.box, given.threads, measured)
