"""Refinement: its kernels against this machine, RELION's quirks against truth, asymmetric particles.

    python benchmarks/bench_refine.py kernels [--box 48] [--tilts 20]
    python benchmarks/bench_refine.py scaling
    python benchmarks/bench_refine.py quirks PROJECT [--iterations 10]
    python benchmarks/bench_refine.py c1 [--o DIR] [--iterations 8]

``kernels`` and ``scaling`` need no data. ``quirks`` takes a project with truth/particles.csv (RELION's angles
and positions of every particle, from the tomogram's centre), refines
Extract/job013/optimisation_set_small.star as it is and with each of RELION's quirks, and prints errors
against truth. ``c1`` simulates a project of asymmetric particles and compares the default with RELION's
rules.
"""

from __future__ import annotations

import argparse
import csv
import logging
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import torch

from napari_sta.engine.loop import iterate
from napari_sta.engine.quirks import PARITY, Quirk
from napari_sta.engine.start import initial_state
from napari_sta.engine.state import State
from napari_sta.io.relion.particles import read_particles
from napari_sta.jobs._job import Context, job_named
from napari_sta.jobs._refine_inputs import prepare
from napari_sta.jobs.refine import Refine
from napari_sta.kernels.compiled.products import add_pair_products, add_products
from napari_sta.kernels.devices import available_threads
from napari_sta.kernels.refine import maps
from napari_sta.kernels.refine import sums as sums_of
from napari_sta.kernels.refine.on_cpu import gather, shift_images, spread
from napari_sta.kernels.refine.pixels import make_pixel_list
from napari_sta.kernels.refine.projector import make_projector, slice_axes
from napari_sta.kernels.rotations import angular_distance_deg, euler_to_matrix_zyx, symmetry_operators_zyx


def best(work: Callable[[], object], repeats: int = 7) -> float:
    """Best wall time of several runs, in seconds; the first one compiles."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


# ----------------------------------------------------------------------------------------------------


def sgemm_rate() -> float:
    """Rate of a large square product on one thread, GF/s."""
    a, b = torch.randn(1536, 1536), torch.randn(1536, 1536)
    return 2 * 1536**3 / best(lambda: torch.mm(a, b)) / 1e9


def copy_rate() -> float:
    """Rate of a large copy on one thread, GB/s read and written."""
    a = torch.zeros(2**26)
    b = torch.empty_like(a)
    return 2 * a.nbytes / best(lambda: b.copy_(a)) / 1e9


def kernels(box: int, tilts: int, n_orientations: int = 175, n_shifts: int = 81, n_poses: int = 32) -> None:
    """Time the kernels of one particle on one thread."""
    torch.set_num_threads(1)
    peak, copy = sgemm_rate(), copy_rate()
    rng = np.random.default_rng(0)
    pixels = make_pixel_list(box, box // 2)
    n = len(pixels)
    projector = make_projector(torch.from_numpy(rng.normal(size=(box,) * 3)), box // 2, 2.0)
    turns = rng.uniform(-7, 7, (n_orientations, 3)) * [1, 1, 0]
    rotations = euler_to_matrix_zyx(np.array([30.0, 50, 70])) @ euler_to_matrix_zyx(turns)
    axes = slice_axes(rotations, 2.0)
    slices = np.empty((n_orientations, 2 * n), np.float32)
    norm, weight = np.zeros(n_orientations), np.ones(n, np.float32)
    image = rng.normal(size=2 * n).astype(np.float32)
    shifts = rng.uniform(-5, 5, (n_shifts, 2))
    ramps = np.empty((n_shifts, 2 * n), np.float32)
    scores = np.zeros((n_orientations, n_shifts))
    parents, steps = np.nonzero(rng.random((20, 10)) < 0.3)
    fine_a, fine_b = (rng.normal(size=(k, 2 * n)).astype(np.float32) for k in (160, 80))
    fine = np.zeros((160, 80))
    sums = sums_of.new_sums(box // 2, 2.0, 1, 1, box // 2 + 1)
    data = rng.normal(size=(n_poses, 2 * n)).astype(np.float32)
    ones = np.ones(n_poses, np.float32)

    def scatter() -> None:
        spread(data, weight, ones, axes[:n_poses], pixels, sums.volume)

    rows = [
        ("gather slices", lambda: gather(projector, axes, pixels, weight, slices, norm),
         n_orientations * n, 45 * n_orientations * n),
        ("shift images", lambda: shift_images(image, shifts, pixels, ramps), n_shifts * n,
         14 * n_shifts * n),
        ("products", lambda: add_products(slices, ramps, scores), n_orientations * n_shifts,
         4 * n_orientations * n_shifts * n),
        ("products of pairs", lambda: add_pair_products(fine_a, fine_b, parents, steps, 8, 8, fine),
         64 * len(parents), 4 * 64 * len(parents) * n),
        ("spread slices", scatter, n_poses * n, 60 * n_poses * n),
    ]  # fmt: skip
    print(
        f"box {box}, {n} pixels, {n_orientations} orientations, {n_shifts} shifts; one thread: "
        f"sgemm {peak:.0f} GF/s, copy {copy:.0f} GB/s"
    )
    print(f"{'kernel':20} {'ms a tilt':>10} {'GF/s':>7} {'% sgemm':>8} {'M items/s':>10}")
    total = 0.0
    for name, work, items, flops in rows:
        seconds = best(work)
        total += seconds
        print(
            f"{name:20} {seconds * 1e3:10.2f} {flops / seconds / 1e9:7.1f} "
            f"{flops / seconds / 1e7 / peak:8.0f} {items / seconds / 1e6:10.0f}"
        )
    print(f"{tilts} tilts, one coarse pass: {tilts * total * 1e3:.0f} ms a particle and thread")
    sums.volume[..., 2] += 1
    full = sums.volume.astype(np.float64)
    six = symmetry_operators_zyx("C6")
    steps = [
        ("symmetrise (C6)", lambda: maps.complete_sums(full, six, box)),
        ("reconstruct", lambda: maps.reconstruct(full, box, box // 2, 2.0)),
        ("transform reference", lambda: make_projector(torch.zeros((box,) * 3), box // 2, 2.0)),
        ("FSC of sums", lambda: maps.average_fsc(full, full, box // 2, 2.0, box // 2 + 1)),
    ]
    print("maximisation, a half map: " + ", ".join(f"{name} {best(w, 3) * 1e3:.0f} ms" for name, w in steps))
    print(f"largest memory so far {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB")


def scaling() -> None:
    """How the search of one particle grows with box, orientations and shifts, on one thread."""
    for box in (32, 48, 64, 96, 128, 192):
        kernels(box, 20, n_shifts=81)
    for n_orientations in (44, 175, 700):
        kernels(96, 20, n_orientations=n_orientations)
    for n_shifts in (19, 81, 251):
        kernels(96, 20, n_shifts=n_shifts)


# ----------------------------------------------------------------------------------------------------


def errors(particles, state: State, truth, symmetry: str) -> tuple[np.ndarray, np.ndarray]:
    """Angle (deg, modulo symmetry) and distance (Å, common shift removed) of every particle from truth."""
    rotation, position = truth
    subtomogram = euler_to_matrix_zyx(particles.subtomogram_angles_deg)
    found = subtomogram @ euler_to_matrix_zyx(state.angles_deg)
    at = particles.coordinate_zyx_angst - np.einsum("nij,nj->ni", subtomogram, state.offset_zyx_angst)
    local = np.einsum("nji,nj->ni", rotation, at - position)
    return angular_distance_deg(found, rotation, symmetry), np.linalg.norm(
        local - np.median(local, 0), axis=1
    )


def refine(job: Refine, truth, iterations: int, quirks: frozenset[Quirk], threads: int) -> None:
    """Run iterations and print errors, Pmax and calibration."""
    log = logging.getLogger("bench")
    _, run, half_set, references, start = prepare(job, log, threads, quirks=quirks)
    assert references is not None
    fit_scale = job.absolute_greyscale == "Auto"
    state, _ = initial_state(run, references, start, half_set, fit_scale=fit_scale)
    began = time.perf_counter()
    best_so_far = (np.inf, np.inf)
    while state.iteration < iterations and not state.converged:
        steps = iterate(run, state)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                state = end.value[0]
                break
        angle, distance = errors(run.source.particles, state, truth, job.symmetry)
        best_so_far = min(best_so_far, (float(np.median(angle)), float(np.median(distance))))
    sure = state.p_max > 0.9
    step = state.control.fine_step_deg(run.rules)
    right = (angle[sure] < 2 * step) & (distance[sure] < 2 * state.control.fine_offset_step_angst(run.rules))
    name = ", ".join(sorted(quirks)) or "default"
    if quirks == PARITY:
        name = "all of RELION's"
    print(
        f"{name:20} it {state.iteration:2d}{'*' if state.converged else ' '} {np.median(angle):5.2f} deg "
        f"{np.median(distance):5.2f} A; best {best_so_far[0]:.2f}, {best_so_far[1]:.2f}; "
        f"Pmax {state.p_max.mean():.2f}; accuracy said {state.control.accuracy_deg:.2f} deg "
        f"{state.control.accuracy_angst:.2f} A; of {sure.sum()} with Pmax > 0.9 within two steps "
        f"{right.mean() if sure.any() else np.nan:.2f}; "
        f"{time.perf_counter() - began:.0f} s",
        flush=True,
    )


def read_truth(path: Path, names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True rotations and positions (zyx, Å) of particles."""
    with open(path) as file:
        rows = {row["rlnTomoParticleName"]: row for row in csv.DictReader(file)}
    angles = np.array([[float(rows[name][a]) for a in ("rot", "tilt", "psi")] for name in names])
    return euler_to_matrix_zyx(angles), np.array([[float(rows[n][a]) for a in "zyx"] for n in names])


def quirks(project: Path, iterations: int, threads: int) -> None:
    """Each of RELION's quirks alone, then all."""
    os.chdir(project)
    values = {
        "in_optimisation_set": "Extract/job013/optimisation_set_small.star",
        "in_3dref": "Reconstruct/job014/half1.mrc", "in_mask": "masks/mask_align_bin2.mrc",
        "initial_lowpass_angst": 20, "symmetry": "C6", "mask_diameter_angst": 230,
        "solvent_flattened_fsc": True, "initial_sampling_deg": "1.8", "offset_range_px": 3,
    }  # fmt: skip
    job = Refine(**values)
    truth = read_truth(Path("truth/particles.csv"), job.load().particles.name)
    refine(job, truth, iterations, frozenset(), threads)
    for one in Quirk:
        refine(job, truth, iterations, frozenset({one}), threads)
    refine(
        Refine(**values, absolute_greyscale="No", relion_parity=True),
        truth,
        iterations,
        PARITY,
        threads,
    )


def c1(folder: Path | None, iterations: int, threads: int) -> None:
    """Asymmetric particles: simulate, extract, reconstruct at the picked poses, refine both ways."""
    from napari_sta.phantoms.density import Blobs
    from napari_sta.phantoms.project import write_project
    from napari_sta.phantoms.simulation import simulate
    from napari_sta.phantoms.spec import PhantomSpec

    rng = np.random.default_rng(4)
    density = Blobs(rng.normal(0, 26, (40, 3)), rng.uniform(0.5, 1.5, 40), 5.0)
    spec = PhantomSpec(
        seed=3, n_tomograms=3, density=density, snr=0.05, angle_error_deg=4.0, position_error_angst=4.0,
        hidden_offset_px=0.0, duplicate_fraction=0.0, membrane_strength=0.0, particles_per_tomogram=60,
        lattice_spacing_angst=160.0,
    )  # fmt: skip
    root = folder or Path(tempfile.mkdtemp())
    phantom = simulate(spec)
    paths = write_project(phantom, root)

    def run(name: str, out: str, **values: object) -> Path:
        there = root / out
        there.mkdir(parents=True, exist_ok=True)
        for _ in (
            job_named(name)
            .from_text({k: str(v) for k, v in values.items()})
            .run(Context(there, threads=threads))
        ):
            pass
        return there

    box = {"box_size_px": 96, "crop_size_px": 48}
    extracted = run("extract", "Extract/job100", in_optimisation_set=paths.optimisation_set, **box)
    start = extracted / "optimisation_set.star"
    averaged = run("reconstruct", "Reconstruct/job101", in_optimisation_set=start, **box)
    values = {
        "in_optimisation_set": str(start), "in_3dref": str(averaged / "half1.mrc"),
        "initial_lowpass_angst": 25, "mask_diameter_angst": 170, "initial_sampling_deg": "1.8",
        "offset_range_px": 3,
    }  # fmt: skip
    particles = read_particles(extracted / "particles.star")
    order = {name: i for i, name in enumerate(phantom.particles.name)}
    rows = np.array([order[name] for name in particles.name])
    truth = (
        euler_to_matrix_zyx(phantom.true_angles_deg[rows]),
        np.asarray(phantom.true_position_zyx_angst)[rows],
    )
    refine(Refine(**values), truth, iterations, frozenset(), threads)
    refine(
        Refine(**values, absolute_greyscale="No", relion_parity=True),
        truth,
        iterations,
        PARITY,
        threads,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["kernels", "scaling", "quirks", "c1"])
    parser.add_argument("project", type=Path, nargs="?")
    parser.add_argument("--box", type=int, default=48)
    parser.add_argument("--tilts", type=int, default=20)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--threads", type=int, default=available_threads())
    parser.add_argument("--o", type=Path)
    options = parser.parse_args()
    if options.what == "kernels":
        kernels(options.box, options.tilts)
    elif options.what == "scaling":
        scaling()
    elif options.what == "quirks":
        quirks(options.project, options.iterations, options.threads)
    else:
        c1(options.o, options.iterations, options.threads)


if __name__ == "__main__":
    main()
