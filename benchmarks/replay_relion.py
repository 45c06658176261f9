"""Replay one iteration of a RELION 3D auto-refine of 2D stacks from its files and compare.

    python benchmarks/replay_relion.py PROJECT ITERATION [--job Refine3D/job016] [--threads 1]

Reads run_itNNN (data, model, sampling, optimiser, maps), computes the next iteration in parity mode and
prints how it differs from run_it(N+1).
"""

from __future__ import annotations

import argparse
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import torch

from napari_sta.engine.particles import open_particles
from napari_sta.engine.quirks import PARITY
from napari_sta.engine.source import ImageOptions
from napari_sta.io.mrc import read_volume
from napari_sta.io.relion.inputs import load_sta_inputs
from napari_sta.io.relion.particles import read_particles
from napari_sta.io.star import read_star
from napari_sta.kernels import fsc
from napari_sta.kernels.refine import accuracy, control, maps, sampling
from napari_sta.kernels.refine import noise as noise_of
from napari_sta.kernels.refine import sums as sums_of
from napari_sta.kernels.refine.pixels import pixels_per_shell
from napari_sta.kernels.refine.posterior import Search, find_posterior
from napari_sta.kernels.refine.projector import make_projector, padded_radius
from napari_sta.kernels.rotations import angular_distance_deg, euler_to_matrix_zyx, symmetry_operators_zyx


def value(table, label):
    return float(table[label][0])


def column(table, label):
    return np.array(table[label], dtype=np.float64)


START = "Extract/job013/optimisation_set_small.star"


class Iteration:
    """What RELION wrote after one iteration."""

    def __init__(self, job: Path, number: int):
        stem = str(job / f"run_it{number:03d}")
        self.number = number
        self.particles = read_particles(f"{stem}_data.star")
        self.sampling = read_star(f"{stem}_sampling.star")["sampling_general"]
        self.optimiser = read_star(f"{stem}_optimiser.star")["optimiser_general"]
        self.models = [read_star(f"{stem}_half{h}_model.star") for h in (1, 2)]
        self.maps = [
            torch.from_numpy(np.array(read_volume(f"{stem}_half{h}_class001.mrc").data)) for h in (1, 2)
        ]
        self.stem = stem

    def text(self, label):
        return self.particles.text[label].astype(float)

    def sigma2(self, half, n_shells):
        table = self.models[half]["model_optics_group_1"]
        out = np.ones(n_shells)
        out[column(table, "rlnSpectralIndex").astype(int)] = column(table, "rlnSigma2Noise")
        return out

    def scale(self, half):
        groups = self.models[half]["model_groups"]
        return dict(zip(groups["rlnGroupName"], column(groups, "rlnGroupScaleCorrection"), strict=True))


def prepare(project: Path, it: Iteration, radius: int, diameter: float, edge: float, start_set: str = START):
    """Read every particle in the order of an iteration; noise, offset and scale are told later."""
    inputs = load_sta_inputs(str(project / start_set), None, None, None, need_tomograms=True)
    options = ImageOptions(diameter, edge, quirks=PARITY)
    source = open_particles(inputs, options)
    row = {name: i for i, name in enumerate(source.particles.name)}
    window = source.windows(radius)[0]
    particles = [source.load(row[name], window) for name in it.particles.name]
    return particles, window.pixels, source.size_px, source.pixel_size_angst


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("project", type=Path)
    parser.add_argument("iteration", type=int)
    parser.add_argument("--job", default="Refine3D/job016")
    parser.add_argument("--start", default=START, help="optimisation set the run was started from")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    n = arguments.iteration
    job = arguments.project / arguments.job
    os.chdir(arguments.project)
    old, new = Iteration(job, n), Iteration(job, n + 1)
    opt = old.optimiser
    t0 = time.time()
    cc = n == 0
    current = int(value(new.models[0]["model_general"], "rlnCurrentImageSize"))
    radius = current // 2
    particles, pixels, size, a = prepare(
        arguments.project,
        old,
        radius,
        value(opt, "rlnParticleDiameter"),
        value(opt, "rlnWidthMaskEdge"),
        arguments.start,
    )
    print(f"prepared {len(particles)} particles, {len(pixels)} pixels in {time.time() - t0:.1f} s")
    s = new.sampling
    grid = sampling.make_orientation_grid(int(value(s, "rlnHealpixOrder")), s["rlnSymmetryGroup"][0])
    perturbation = value(s, "rlnSamplingPerturbInstance")
    step, reach = value(s, "rlnOffsetStep"), value(s, "rlnOffsetRange")
    translations = sampling.translation_grid_zyx(reach, step)
    children = sampling.translation_children_zyx(step)
    general = new.models[0]["model_general"]
    width = sampling.AngularPrior(*(value(general, f"rlnSigmaPrior{x}Angle") for x in ("Rot", "Tilt", "Psi")))
    choices = sampling.choose_near_prior(grid, old.particles.angles_deg, width)
    print(
        f"{np.mean([len(c.orientation) for c in choices]):.1f} orientations, "
        f"{len(translations)} translations a particle"
    )
    halves = old.particles.half_set
    projectors = [make_projector(m, radius, 2.0) for m in old.maps]
    names = list(old.scale(0))
    count = arguments.limit or len(particles)
    sums = [sums_of.new_sums(radius, 2.0, 1, len(names), size // 2 + 1, 64) for _ in (1, 2)]
    posteriors = [None] * count
    images = [None] * count
    clock = {"search": 0.0, "sums": 0.0}

    def work(rows, sums):
        torch.set_num_threads(1)
        for i in rows:
            h = halves[i] - 1
            p = particles[i].at(
                sigma2=old.sigma2(h, size // 2 + 1),
                noise=None,
                scale=old.scale(h).get(old.particles.tomogram[i], 1.0),
                offset_zyx_px=np.floor(old.particles.origin_zyx_angst[i] / a + 0.5),
            )
            images[i] = p
            choice = choices[i]
            search = Search(
                sampling.perturbed_rotations_zyx(
                    grid.angles_deg(choice.orientation), perturbation, grid.step_deg
                ),
                np.log(choice.prior),
                lambda parents, choice=choice: sampling.perturbed_rotations_zyx(
                    grid.children_deg(choice.orientation[parents]), perturbation, grid.step_deg
                ),
                translations,
                perturbation * step,
                children,
                a,
                value(old.models[h]["model_general"], "rlnSigmaOffsetsAngst") ** 2,
                0.999,
                True,
            )
            t = time.time()
            posterior = find_posterior(projectors[h], p, pixels, search, cross_correlation=cc)
            clock["search"] += time.time() - t
            t = time.time()
            series = names.index(old.particles.tomogram[i])
            sums_of.add_particle(
                sums[h],
                posterior,
                projectors[h],
                p,
                pixels,
                0,
                series,
                a,
                statistics=not cc,
                per_image=False,
                drop_row_ends=True,
            )
            clock["sums"] += time.time() - t
            posteriors[i] = posterior

    work([0], [sums_of.new_sums(radius, 2.0, 1, len(names), size // 2 + 1, 64) for _ in (1, 2)])  # compile
    clock.update(search=0.0, sums=0.0)
    t0 = time.time()
    if arguments.threads == 1:
        work(range(count), sums)
    else:
        parts = [
            [sums_of.new_sums(radius, 2.0, 1, len(names), size // 2 + 1, 64) for _ in (1, 2)]
            for _ in range(arguments.threads)
        ]
        with ThreadPoolExecutor(arguments.threads) as pool:
            list(
                pool.map(work, [range(k, count, arguments.threads) for k in range(arguments.threads)], parts)
            )
        for part in parts:
            for h in (0, 1):
                sums[h].volume += part[h].volume
                sums[h].add_statistics(part[h])
    print(f"E-step {time.time() - t0:.1f} s with {arguments.threads} threads; {clock}")
    compare_poses(posteriors, images, old, new, a, grid, count)
    if not cc:
        compare_noise(sums, old, new, size)
    if count == len(particles):
        compare_control(posteriors, images, old, new, a, grid, projectors, pixels, cc)
    t0 = time.time()
    maximise(sums, old, new, size, a, radius, cc)
    print(f"M-step and comparison {time.time() - t0:.1f} s")


def maximise(sums, old, new, size, a, radius, cc):
    """Reconstruct both halves and compare with RELION's maps and tables."""
    symmetry = old.sampling["rlnSymmetryGroup"][0]
    operators = symmetry_operators_zyx(symmetry)
    padding, opt = 2.0, old.optimiser
    full = [maps.complete_sums(s.volume, operators, padded_radius(radius, padding)) for s in sums]
    resolution = value(old.models[0]["model_general"], "rlnCurrentResolution")
    if not np.isfinite(resolution):
        resolution = size * a / round(size * a / 20)
    join = maps.joining_radius(size, a, value(opt, "rlnJoinHalvesUntilThisResolution"), resolution)
    maps.join_low_resolution(*full, join, padding)
    t0 = time.time()
    plain = [maps.reconstruct(v, size, radius, padding) for v in full]
    t1 = time.time() - t0
    for h in (0, 1):
        theirs = torch.from_numpy(np.array(read_volume(f"{new.stem}_half{h + 1}_class001_unfil.mrc").data))
        curve = fsc.fourier_shell_correlation(plain[h], theirs)
        ratio = float((plain[h] * theirs).sum() / (theirs**2).sum())
        print(
            f"unfil half {h + 1}: FSC to RELION's min {curve[1 : radius + 1].min():.6f}, "
            f"scale {ratio:.6f}, rel L2 "
            f"{float((plain[h] - theirs).norm() / theirs.norm()):.2e}; one reconstruction {t1 / 2:.2f} s"
        )
    mask = torch.from_numpy(np.array(read_volume(Path(old.stem).parent / "run_solvent_mask.mrc").data)).clamp(
        0, 1
    )
    curve = maps.solvent_corrected_fsc(*plain, mask, 2 * radius)
    table = new.models[0]["model_class_1"]
    their_curve = column(table, "rlnGoldStandardFsc")
    print("FSC: max difference", np.abs(curve - their_curve).max().round(5), np.round(curve - their_curve, 4))
    for h in (0, 1):
        table = new.models[h]["model_class_1"]
        noise = maps.map_noise(full[h], radius, padding, size // 2 + 1)
        their_noise = column(table, "rlnReferenceSigma2")
        good = their_noise > 0
        prior = maps.signal_prior(their_curve, noise)
        print(f"map noise half {h + 1}: ratio", np.round((noise[good] / their_noise[good]), 4))
        final = maps.reconstruct(full[h], size, radius, padding, prior.tau2)
        if cc:
            final = lowpass_start(final, a, 20.0)
        final = final * mask
        curve2 = fsc.fourier_shell_correlation(final, new.maps[h])
        ratio = float((final * new.maps[h]).sum() / (new.maps[h] ** 2).sum())
        print(
            f"half map {h + 1}: FSC to RELION's min {curve2[1 : radius + 1].min():.6f}, "
            f"scale {ratio:.6f}, rel L2 {float((final - new.maps[h]).norm() / new.maps[h].norm()):.2e}"
        )
        if not cc:
            names = list(old.scale(h))
            count = np.array(
                [((new.particles.half_set == h + 1) & (new.particles.tomogram == n)).sum() for n in names]
            )
            scales = noise_of.update_scales(
                sums[h], column(old.models[h]["model_class_1"], "rlnSsnrMap"), count
            )
            print(f"scales half {h + 1}: ours", np.round(scales, 5), "RELION's", list(new.scale(h).values()))
        print(
            "sigma_offset",
            np.sqrt(noise_of.update_sigma2_offset(sums[h])).round(5),
            value(new.models[h]["model_general"], "rlnSigmaOffsetsAngst"),
        )
        ssnr = column(table, "rlnSsnrMap")
        print(
            "resolution shell",
            maps.current_resolution_shell(ssnr),
            "RELION's",
            size * a / value(new.models[h]["model_general"], "rlnCurrentResolution"),
        )


def lowpass_start(volume, a, resolution):
    from napari_sta.kernels import fourier

    size = volume.shape[0]
    r = fourier.radius_px((size,) * 3)
    r0 = size * a / resolution
    t = ((r - (r0 - 1)) / 2).clamp(0, 1)
    return torch.fft.irfftn(torch.fft.rfftn(volume) * (0.5 + 0.5 * torch.cos(torch.pi * t)), s=(size,) * 3)


def compare_poses(posteriors, images, old, new, a, grid, count):
    rotation = np.stack([p.rotations_zyx[p.best[0]] for p in posteriors])
    offset = np.stack(
        [
            (im.offset_zyx_px + p.shifts_zyx_px[p.best[1]]) * a
            for p, im in zip(posteriors, images, strict=True)
        ]
    )
    theirs = euler_to_matrix_zyx(new.particles.angles_deg[:count])
    angle = angular_distance_deg(rotation, theirs, grid.symmetry)
    moved = np.linalg.norm(offset - new.particles.origin_zyx_angst[:count], axis=1)
    pmax = np.array([p.p_max for p in posteriors])
    their_pmax = new.text("rlnMaxValueProbDistribution")[:count]
    nsig, their_nsig = (
        np.array([p.n_significant for p in posteriors]),
        new.text("rlnNrOfSignificantSamples")[:count],
    )
    same = (angle < 0.1) & (moved < 0.05)
    sure = their_pmax > 0.3
    print(
        f"Pmax: ours {pmax.mean():.5f}, RELION's {their_pmax.mean():.5f}, mean abs difference "
        f"{np.abs(pmax - their_pmax).mean():.5f}, max {np.abs(pmax - their_pmax).max():.4f}"
    )
    print(
        f"same best sample: {same.mean():.4f} of all, {same[sure].mean():.4f} of {sure.sum()} with Pmax > 0.3"
    )
    print(
        f"angle difference: median {np.median(angle):.4f}, max {angle.max():.3f} deg; "
        f"offset: median {np.median(moved):.4f}, max {moved.max():.3f} A"
    )
    print(
        f"significant samples: ours {nsig.mean():.3f}, RELION's {their_nsig.mean():.3f}, "
        f"equal {np.mean(nsig == their_nsig):.3f}"
    )
    lnl = new.text("rlnLogLikeliContribution")[:count]
    ours = np.array([p.log_evidence for p in posteriors])
    print("log likelihood, first five: ours", np.round(ours[:5], 5), "RELION's", lnl[:5])


def compare_control(posteriors, images, old, new, a, grid, projectors, pixels, cc):
    """Changes of poses and expected accuracies."""
    rotation = np.stack([p.rotations_zyx[p.best[0]] for p in posteriors])
    offset = np.stack(
        [im.offset_zyx_px + p.shifts_zyx_px[p.best[1]] for p, im in zip(posteriors, images, strict=True)]
    )
    before = euler_to_matrix_zyx(old.particles.angles_deg)
    angles = control.angle_change_deg(before, rotation, grid.symmetry)
    offsets = control.offset_change_angst(old.particles.origin_zyx_angst, offset * a)
    theirs = [value(new.optimiser, f"rlnChangesOptimal{x}") for x in ("Orientations", "Offsets")]
    print(f"changes: {angles:.5f} deg, {offsets:.5f} A; RELION's {theirs}")
    if cc:
        return
    generator = np.random.default_rng(1)
    t0 = time.time()
    mine = np.flatnonzero(old.particles.half_set == 1)[:100]
    found = np.array(
        [
            accuracy.expected_accuracy(
                projectors[0], images[i], pixels, old.particles.angles_deg[i], generator
            )
            for i in mine
        ]
    )
    theirs = [value(new.optimiser, f"rlnOverallAccuracy{x}") for x in ("Rotations", "TranslationsAngst")]
    print(
        f"accuracy: {found[:, 0].mean():.4f} deg, {found[:, 1].mean() * a:.4f} A; "
        f"RELION's {theirs}; {time.time() - t0:.2f} s"
    )


def compare_noise(sums, old, new, size):
    count = pixels_per_shell(size)
    for h in (0, 1):
        ours = sums[h].residual[0] / (2 * sums[h].n_images[0] * count)
        ratio = ours / new.sigma2(h, size // 2 + 1)
        print(
            f"sigma2 half {h + 1}: ratio min {ratio.min():.5f} max {ratio.max():.5f}; by shell",
            np.round(ratio, 4),
        )


if __name__ == "__main__":
    main()
