"""Time reading and writing of large particle sets and maps.

Usage: python benchmarks/bench_io.py [particles]

Target: 100,000 particles of 30 columns read in under 1.5 s and written in under 1.5 s on two cores.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from napari_sta.data.volume import Volume
from napari_sta.io.mrc import read_volume, write_volume
from napari_sta.io.relion.particles import read_particles, write_particles
from napari_sta.io.star import Table, format_number, text_column, write_star

N_COLUMNS = 30


def particle_file(path: Path, n: int) -> None:
    """Write a set like one that refine leaves: 2D stacks, 41 tilts, 30 columns."""
    rng = np.random.default_rng(0)
    columns = {
        "rlnTomoName": text_column(f"TS_{i * 40 // n:02d}" for i in range(n)),
        "rlnTomoParticleName": text_column(f"TS_{i * 40 // n:02d}/{i}" for i in range(n)),
        "rlnOpticsGroup": text_column(["1"] * n),
        "rlnRandomSubset": text_column(str(i % 2 + 1) for i in range(n)),
        "rlnImageName": text_column(f"Extract/job010/Subtomograms/TS_01/{i}_stack2d.mrcs" for i in range(n)),
        "rlnTomoVisibleFrames": text_column(["[" + ",".join("1" * 41) + "]"] * n),
    }
    numbers = [f"rln{kind}{axis}Angst" for kind in ("CenteredCoordinate", "Origin") for axis in "XYZ"]
    numbers += [
        f"rln{kind}{angle}" for kind in ("Angle", "TomoSubtomogram") for angle in ("Rot", "Tilt", "Psi")
    ]
    numbers += [f"rlnOther{i}" for i in range(N_COLUMNS - len(columns) - len(numbers))]
    columns |= {label: format_number(rng.normal(scale=100, size=n)) for label in numbers}
    optics = {"rlnOpticsGroup": "1", "rlnOpticsGroupName": "optics1", "rlnTomoTiltSeriesPixelSize": "1.35"}
    write_star(
        path,
        [
            Table("general", {"rlnTomoSubTomosAre2DStacks": text_column(["1"])}, is_loop=False),
            Table("optics", {label: text_column([value]) for label, value in optics.items()}),
            Table("particles", columns),
        ],
    )


def best(action: Callable[[], object], times: int = 3) -> tuple[float, float]:
    """Return the shortest and the longest of a few wall times, in seconds."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        action()
        taken.append(time.perf_counter() - began)
    return min(taken), max(taken)


def main(n: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, copy = Path(folder) / "particles.star", Path(folder) / "copy.star"
        particle_file(path, n)
        print(f"{n} particles x {N_COLUMNS} columns, {path.stat().st_size / 1e6:.0f} MB")

        def line(what: str, seconds: tuple[float, float]) -> None:
            print(f"{what:48s} {seconds[0]:6.2f} s (slowest {seconds[1]:.2f} s)")

        line("read_particles", best(lambda: read_particles(path)))
        particles = read_particles(path)
        line("write_particles, nothing changed", best(lambda: write_particles(copy, particles)))
        moved = replace(
            particles,
            coordinate_zyx_angst=particles.coordinate_zyx_angst + 0.1,
            origin_zyx_angst=particles.origin_zyx_angst + 0.1,
            angles_deg=particles.angles_deg + 0.1,
        )
        line("write_particles, nine columns changed", best(lambda: write_particles(copy, moved)))
        box = 256
        volume = Volume(np.zeros((box, box, box), np.float32), 1.0)
        line(f"write_volume, {box}^3", best(lambda: write_volume(Path(folder) / "map.mrc", volume)))
        line(
            f"write_volume, {box}^3, float16",
            best(lambda: write_volume(Path(folder) / "m.mrc", volume, float16=True)),
        )
        line(f"read_volume, {box}^3", best(lambda: read_volume(Path(folder) / "map.mrc")))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
