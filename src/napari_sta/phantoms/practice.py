"""A small project to practise on, whose map sits off its mask by an offset that depends on the seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_sta.data.volume import HalfMaps, Volume
from napari_sta.io.files import write_text
from napari_sta.io.mrc import write_volume
from napari_sta.io.project.job_star import JobStar, write_job_star
from napari_sta.io.star import write_star
from napari_sta.phantoms.averages import lattice_maps
from napari_sta.phantoms.density import hexamer
from napari_sta.phantoms.project import pipeline_tables, write_project
from napari_sta.phantoms.simulation import simulate
from napari_sta.phantoms.spec import PhantomSpec, dose_symmetric


@dataclass(frozen=True)
class PracticeProject:
    """What :func:`make_practice_project` made.

    Attributes
    ----------
    root
        The project folder.
    map_path, mask_path
        ``Reconstruct/job003/merged.mrc``, off by the hidden offset, and the mask to bring it to.
    particles_path, optimisation_set_path
        What to recentre.
    hidden_offset_px
        How far the map's content lies towards +Z of the mask's.
    """

    root: Path
    map_path: Path
    mask_path: Path
    particles_path: Path
    optimisation_set_path: Path
    hidden_offset_px: float


def make_practice_project(out: Path, seed: int = 0) -> PracticeProject:
    """Write a small project whose map sits off its mask by an offset that depends on the seed.

    Two tomograms of one particle-covered sphere each, a particle set, a map with its half maps as a
    reconstruction of it would look, and a mask. All of it is made here, with nothing downloaded.

    Raises
    ------
    InputError
        If the folder already holds a project.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, 2]))
    offset_px = float(np.round(rng.choice([-1, 1]) * rng.uniform(1.5, 4.0) * 20) / 20)
    spec = PhantomSpec(
        seed=seed,
        image_size_yx_px=(180, 180),
        tomogram_size_zyx_px=(176, 180, 180),
        sphere_radius_angst=220.0,
        tilts_deg=dose_symmetric(60.0, 12.0),
        dose_e_per_angst2=4.5,
        defocus_angst=(20_000.0, 26_000.0),
        snr=0.3,
        hidden_offset_px=offset_px,
    )
    phantom = simulate(spec)
    paths = write_project(phantom, out)
    folder = paths.root / "Reconstruct/job003"
    halves = _ready_made_halves(spec, rng)
    write_volume(folder / "half1.mrc", halves.half1)
    write_volume(folder / "half2.mrc", halves.half2)
    mean = (halves.half1.data + halves.half2.data) / 2
    merged = Volume(mean.astype(np.float32), spec.pixel_size_angst)
    write_volume(folder / "merged.mrc", merged)
    options = {
        "in_optimisation": str(paths.optimisation_set.relative_to(paths.root)),
        "use_direct_entries": "No",
        "binning": "1",
        "box_size": "80",  # more would reach over the edges of these small images
        "crop_size": str(spec.map_box_px),
        "snr": "0",
        "sym_name": "C6",
    }
    write_job_star(folder / "job.star", JobStar("relion.reconstructparticletomo", options))
    write_text(folder / "RELION_JOB_EXIT_SUCCESS", "")
    write_star(paths.root / "default_pipeline.star", pipeline_tables(3))
    return PracticeProject(
        root=paths.root,
        map_path=folder / "merged.mrc",
        mask_path=paths.mask_align,
        particles_path=paths.particles,
        optimisation_set_path=paths.optimisation_set,
        hidden_offset_px=offset_px,
    )


def _ready_made_halves(spec: PhantomSpec, rng: np.random.Generator) -> HalfMaps:
    """Return half maps as averaging would give them: blurred by pose errors, noisy, tapered."""
    blobs = (spec.density or hexamer())._replace(sigma_angst=3.2)
    signal, _ = lattice_maps(spec, blobs, spec.hidden_offset_px)
    n = spec.map_box_px
    along = np.arange(n) - n // 2
    r = np.sqrt(along[:, None, None] ** 2 + along[:, None] ** 2 + along**2)
    taper = 0.5 + 0.5 * np.cos(np.pi * np.clip((r - n / 2 + 10) / 10, 0, 1))

    def half() -> Volume:
        noise = rng.standard_normal((n, n, n), dtype=np.float32) * np.float32(0.35 * signal.data.std())
        noisy = signal.data + noise
        noisy = taper * (noisy - (taper * noisy).sum() / taper.sum())
        return Volume(noisy.astype(np.float32), spec.pixel_size_angst)

    return HalfMaps(half(), half())
