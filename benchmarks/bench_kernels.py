"""Kernels of `extract` and `reconstruct` against what this machine can do.

    python benchmarks/bench_kernels.py [--box 192] [--crop 96] [--images 96] [--threads 2]

Needs no data: times each kernel on random images at random poses and prints flops and bytes an image,
the rate reached, and the time a machine running at its measured multiply-add or copy rate would need.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from napari_sta.kernels import reconstruction, slices
from napari_sta.kernels.crop import cut_windows
from napari_sta.kernels.ctf import Defocus, Microscope, phase_coefficients
from napari_sta.kernels.devices import available_threads
from napari_sta.kernels.extraction import Contrast, contrast_spectra, middle_images
from napari_sta.kernels.warm_up import warm_up


def best(work: Callable[[], object], repeats: int = 5) -> float:
    """Best wall time of several runs, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def machine(threads: int) -> tuple[float, float]:
    """Measured float32 multiply-add rate (GF/s) and copy rate (GB/s, read + written)."""
    a = torch.randn(2048, 2048)
    gemm = 2 * 2048**3 / best(lambda: a @ a) / 1e9
    source = torch.zeros(64 * 2**20)
    target = torch.empty_like(source)
    copy = 2 * source.numel() * 4 / best(lambda: target.copy_(source)) / 1e9
    print(f"machine, {threads} threads: sgemm {gemm:.0f} GF/s, copy {copy:.1f} GB/s")
    return gemm, copy


def kernels(box: int, crop: int, n_images: int, threads: int) -> None:
    """Time the kernels on random data."""
    torch.set_num_threads(threads)
    warm_up()
    gemm, copy = machine(threads)
    rng = np.random.default_rng(0)
    half = box // 2 + 1
    image = torch.randn(2 * box, 2 * box)
    corners = rng.integers(0, box, (n_images, 2))
    windows = cut_windows(image, corners, box, threads=threads)
    spectra = torch.cat([torch.fft.rfft2(part) for part in windows.split(48)])
    defocus = Defocus(*(np.full(n_images, v) for v in (25000.0, 24500.0, 30.0, 0.0)))
    coefficients = phase_coefficients(Microscope(300, 2.7, 0.1), defocus)
    envelope, x_end = reconstruction.tilt_envelope(box, 2.7, 10.0, 1.0, 0.0)
    shift = rng.uniform(-0.5, 0.5, (n_images, 2))

    def weigh() -> torch.Tensor:
        return slices.weigh_transforms(
            spectra, shift, box, 1 / box, coefficients, 2.7, envelope, x_end, threads=threads
        )

    weighed = weigh()
    poses = Rotation.random(n_images, random_state=1).as_matrix()
    volume = reconstruction.new_accumulator(box)
    ones = torch.zeros_like(weighed)
    ones[..., 2] = 1
    slices.gather_slices(ones[:1], poses[:1], box / 2, volume, threads)
    voxels = int((volume[..., 2] > 0).sum())
    volume.zero_()
    rows = [
        # name, seconds, flops and bytes an image
        (
            "cut + circle",
            best(lambda: cut_windows(image, corners, box, threads=threads)),
            4 * box**2,
            12 * box**2,
        ),
        (
            "FFT",
            best(lambda: [torch.fft.rfft2(part) for part in windows.split(48)]),
            2.5 * box**2 * np.log2(box**2),
            4 * box**2 + 8 * box * half,
        ),
        ("CTF, shift, weigh", best(weigh), 45 * box * half, (8 + 12) * box * half),
        (
            "insert",
            best(lambda: slices.gather_slices(weighed, poses, box / 2, volume, threads)),
            45 * voxels,
            (4 * 12 + 24) * voxels,
        ),
    ]
    contrast = Contrast(coefficients, np.fft.ifftshift(envelope, axes=0))

    def to_images() -> None:
        for part in filtered.split(24):
            middle_images(part, crop, threads=threads)

    filtered = contrast_spectra(spectra, shift, box, 1.0, contrast, 2.7, threads)
    plain = {"circle": False, "threads": threads}
    extraction = [
        ("cut", best(lambda: cut_windows(image, corners, box, **plain)), box**2, 8 * box**2),
        rows[1],
        (
            "CTF, shift, multiply",
            best(lambda: contrast_spectra(spectra, shift, box, 1.0, contrast, 2.7, threads)),
            45 * box * half,
            16 * box * half,
        ),
        (
            "back, background, crop",
            best(to_images),
            2.5 * box**2 * np.log2(box**2) * 0.75,
            8 * box * half + 8 * crop * half + 8 * crop**2,
        ),
    ]
    print(f"box {box}, crop {crop}, {n_images} images; {voxels} voxels touched by one slice")
    for job, one in (("reconstruct", rows), ("extract", extraction)):
        print(f"{job:24s}{'µs/image':>10s}{'Mflop':>8s}{'MB':>7s}{'GF/s':>7s}{'GB/s':>7s}{'floor µs':>10s}")
        total = floor = 0.0
        for name, seconds, flops, n_bytes in one:
            each = seconds / n_images
            least = max(flops / gemm, n_bytes / copy) / 1e9
            total, floor = total + each, floor + least
            print(
                f"  {name:22s}{each * 1e6:10.0f}{flops / 1e6:8.2f}{n_bytes / 1e6:7.2f}"
                f"{flops / each / 1e9:7.1f}{n_bytes / each / 1e9:7.1f}{least * 1e6:10.0f}"
            )
        print(f"  {'sum':22s}{total * 1e6:10.0f}{'':29s}{floor * 1e6:10.0f}   ({total / floor:.1f} times)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--box", type=int, default=192)
    parser.add_argument("--crop", type=int, default=96)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--threads", type=int, default=available_threads())
    given = parser.parse_args()
    kernels(given.box, given.crop, given.images, given.threads)
