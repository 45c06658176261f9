"""Extract: every image against the recipe written out in numpy, files against what RELION writes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import extraction_oracle as oracle
from napari_sta.cli import main
from napari_sta.data.errors import InputError
from napari_sta.data.tilt_series import Trajectories
from napari_sta.io.mrc import read_header, read_images, read_volume, write_stack
from napari_sta.io.relion.optimisation_set import read_optimisation_set, write_optimisation_set
from napari_sta.io.relion.particles import read_particles, write_particles
from napari_sta.io.relion.tilt_series import read_tilt_series_set
from napari_sta.io.relion.trajectories import read_trajectories, write_trajectories
from napari_sta.io.star import read_star, table, write_star
from napari_sta.jobs._job import Context, job_named
from napari_sta.jobs._run import JobRun, resume
from napari_sta.jobs._run_options import RunOptions
from napari_sta.kernels.optics import zernike_phase
from napari_sta.phantoms.density import Blobs
from napari_sta.phantoms.project import write_project
from napari_sta.phantoms.simulation import simulate
from tiny_project import Project, finish, make_project, tiny_spec

BEAD = Blobs(np.zeros((1, 3)), np.array([1.0]), 7.0)


def noise_project(root: Path, **changes: Any) -> Project:
    """Two tomograms of four particles, and tilt images of white noise: every frequency must be right."""
    values = {"n_tomograms": 2, "particles_per_tomogram": 4, "tilts_deg": (0.0, 20.0, -20.0, 45.0, -60.0)}
    phantom = simulate(tiny_spec(**(values | changes)))
    rng = np.random.default_rng(12)
    images = {
        name: (30 + rng.normal(size=image.shape)).astype(np.float16).astype(np.float32)
        for name, image in phantom.images.items()
    }
    phantom = replace(phantom, images=images)
    return Project(write_project(phantom, root), phantom)


def extract(project: Project, out: Path, threads: int = 1, **values: Any) -> dict[str, Any]:
    given = {"in_optimisation_set": str(project.paths.optimisation_set), "box_size_px": 24, "float16": "No"}
    return finish(job_named("extract").from_text(given | values), out, threads)


def run(project: Project, out: Path, **values: Any) -> dict[str, Any]:
    """Extract with records, as the command line does."""
    given = {"in_optimisation_set": str(project.paths.optimisation_set), "box_size_px": 24, "float16": "No"}
    job = job_named("extract").from_text({k: str(v) for k, v in (given | values).items()})
    steps = JobRun(job, RunOptions(out=out, threads=2, device="cpu")).steps()
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def stack_of(out: Path, tomogram: str, name: str) -> np.ndarray:
    path = out / "Subtomograms" / ("" if "/" in name else tomogram) / f"{name}_stack2d.mrcs"
    header = read_header(path)
    return read_images([(path, i) for i in range(header.shape_zyx[0])])


def expectations(
    project: Project, box: int, crop: int | None = None, binning: float = 1.0, motion=None, deform=None,
    zernike: bool = False, **options: Any,
) -> dict[str, oracle.Extracted]:  # fmt: skip
    """What each particle's images should be, from the project's files."""
    particles = read_particles(project.paths.particles)
    series = read_tilt_series_set(project.paths.tomograms)
    found = {}
    for i in range(len(particles)):
        one = series[particles.tomogram[i]]
        images = read_images(one.images)
        group = particles.optics_of(int(particles.optics_group[i]))
        if zernike:
            for key, values in (("even", group.even_zernike), ("odd", group.odd_zernike)):
                options[key] = (
                    None
                    if not any(values)
                    else lambda ky, kx, v=values, o=key: zernike_phase(v, ky[:, 0], kx[0], odd=o == "odd")
                )
        found[particles.name[i]] = oracle.extract(
            one, images, particles.coordinate_zyx_angst[i, ::-1], particles.origin_zyx_angst[i, ::-1],
            particles.subtomogram_angles_deg[i], box, crop or box, binning,
            motion_xyz=None if motion is None else motion[particles.name[i]][:, ::-1],
            deform=None if deform is None else deform[particles.tomogram[i]], **options,
        )  # fmt: skip
    return found


def check_stacks(project: Project, out: Path, expected: dict[str, oracle.Extracted]) -> None:
    """Files and the columns that describe them."""
    particles = read_particles(out / "particles.star")
    assert set(particles.name) == {name for name, e in expected.items() if e.visible.any()}
    for i, name in enumerate(particles.name):
        wanted = expected[name]
        found = stack_of(out, particles.tomogram[i], name)
        assert found.shape == wanted.stack.shape
        np.testing.assert_allclose(found, wanted.stack, atol=2e-4 * wanted.stack.std())
        said = "[" + ",".join(str(int(v)) for v in wanted.visible) + "]"
        assert particles.text["rlnTomoVisibleFrames"][i] == said
        assert str(particles.text["rlnImageName"][i]).endswith(f"{name.split('/')[-1]}_stack2d.mrcs")


@pytest.fixture(scope="module")
def noise(tmp_path_factory) -> Project:
    """The plain noise project: read it, don't change it."""
    return noise_project(tmp_path_factory.mktemp("noise") / "project")


@pytest.fixture
def copy(noise, tmp_path) -> Project:
    """A project to change."""
    root = shutil.copytree(noise.paths.root, tmp_path / "copy")
    moved = {
        name: root / getattr(noise.paths, name).relative_to(noise.paths.root)
        for name in noise.paths._fields
        if name != "root"
    }
    return Project(noise.paths._replace(root=root, **moved), noise.phantom)


def tilt_columns(project: Project, **changes: Any) -> None:
    """Add or replace columns of every tilt table; a function of (row, tomogram index) gives the values."""
    for i, series in enumerate(project.phantom.series):
        path = project.paths.tomograms.parent / f"tilt_series/{series.name}.star"
        columns = dict(read_star(path)[series.name].columns)
        for label, value in changes.items():
            columns[label] = [str(value(t, i)) for t in range(series.n_tilts)]
        write_star(path, [table(series.name, columns)])


def global_columns(project: Project, **changes: Any) -> None:
    columns = dict(read_star(project.paths.tomograms)["global"].columns)
    for label, value in changes.items():
        columns[label] = [str(value)] * len(columns["rlnTomoName"])
    write_star(project.paths.tomograms, [table("global", columns)])


def optics_columns(path: Path, **changes: Any) -> None:
    tables = read_star(path)
    columns = dict(tables["optics"].columns)
    for label, value in changes.items():
        columns[label] = [str(value)] * len(columns["rlnOpticsGroup"])
    write_star(path, [*(t for n, t in tables.items() if n == "general"), table("optics", columns), tables["particles"]])  # fmt: skip


# --- 2D stacks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "options"),
    [
        pytest.param({}, {}, id="plain"),
        pytest.param({"crop_size_px": 16}, {"crop": 16}, id="cropped"),
        pytest.param({"binning": 2, "box_size_px": 20, "crop_size_px": 12}, {"box": 20, "crop": 12, "binning": 2.0},
                     id="bin 2"),
        pytest.param({"binning": 1.5, "box_size_px": 20}, {"box": 20, "binning": 1.5}, id="bin 1.5"),
        pytest.param({"binning": 1.28, "box_size_px": 18}, {"box": 18, "binning": 1.28}, id="odd window, made even"),
        pytest.param({"binning": 1.57, "box_size_px": 14}, {"box": 14, "binning": 1.57}, id="window not b times s"),
        pytest.param({"apply_ctf": "No"}, {"use_ctf": False}, id="no CTF"),
        pytest.param({"invert_contrast": "No"}, {"sign": 1.0}, id="dark protein"),
        pytest.param({"circle_crop": "No", "crop_size_px": 18}, {"circle": False, "crop": 18}, id="no circle"),
        pytest.param({"max_dose_e_per_angst2": 5.3}, {"max_dose": 5.3}, id="maximum dose"),
    ],
)  # fmt: skip
def test_every_image_is_the_recipe_s(noise, tmp_path, values, options):
    extract(noise, tmp_path / "out", **values)
    check_stacks(noise, tmp_path / "out", expectations(noise, **({"box": 24} | options)))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"hand": 1.0}, id="hand +1"),
        pytest.param({"x_tilt_deg": 9.0}, id="x tilt"),
        *(
            pytest.param({"tilt_axis_deg": axis}, id=f"tilt axis {axis:g}")
            for axis in (0.0, 45.0, 90.0, 137.0, 180.0)
        ),
        *(pytest.param({"tilt_axis_deg": axis}, id=f"tilt axis {axis:g}") for axis in (200.0, 270.0, 359.9)),
        pytest.param({"tilt_axis_deg": 310.0, "shift_spread_angst": 25.0}, id="tilt axis 310"),
        pytest.param({"image_size_yx_px": (101, 107), "tomogram_size_zyx_px": (91, 103, 99)}, id="odd sizes"),
        pytest.param({"image_size_yx_px": (100, 132)}, id="wide images"),
        pytest.param({"image_size_yx_px": (132, 100)}, id="high images"),
        pytest.param({"tilts_deg": (10.0,)}, id="one tilt"),
        pytest.param({"phase_shift_deg": 70.0}, id="phase plate"),
        pytest.param({"astigmatism_angst": 5000.0, "astigmatism_angle_deg": -33.0}, id="astigmatic"),
        pytest.param({"sort_by_angle": False}, id="tilts as acquired"),
        pytest.param({"pick_grid_px": 0.0}, id="origins all zero"),
    ],
)
def test_geometries(tmp_path, changes):
    project = noise_project(tmp_path / "p", **changes)
    extract(project, tmp_path / "out", box_size_px=20, crop_size_px=16)
    check_stacks(project, tmp_path / "out", expectations(project, 20, 16))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"image_size_yx_px": (101, 107), "tomogram_size_zyx_px": (91, 103, 99)}, id="odd sizes"),
        pytest.param({"tilt_axis_deg": 200.0, "x_tilt_deg": 7.0}, id="tilt axis 200"),
        pytest.param({"hand": 1.0}, id="hand +1"),
    ],
)
@pytest.mark.parametrize(("binning", "box"), [(1, 32), (2, 20)])
def test_a_particle_lands_on_the_centre_pixel(tmp_path, changes, binning, box):
    """Ground truth, not a recipe: a Gaussian particle in every image, bright, centred, as high as it must be."""
    project = make_project(
        tmp_path / "p", density=BEAD, n_tomograms=3, particles_per_tomogram=1, with_ctf=False, with_dose=False,
        cosine_scale=False, **changes,
    )  # fmt: skip
    extract(project, tmp_path / "out", binning=binning, box_size_px=box, apply_ctf="No", circle_crop="No")
    index = (np.arange(box) - box // 2) * 4.0 * binning
    expected = np.exp(-(index[:, None] ** 2 + index**2) / (2 * 49)) / (2 * np.pi * 49) * 16 / binning
    particles = read_particles(tmp_path / "out/particles.star")
    for tomogram, name in zip(particles.tomogram, particles.name, strict=True):
        for image in stack_of(tmp_path / "out", tomogram, name):
            inner = slice(box // 2 - 4, box // 2 + 5)
            np.testing.assert_allclose(
                image[inner, inner], expected[inner, inner], atol=0.02 * expected.max()
            )
            assert np.unravel_index(image.argmax(), image.shape) == (box // 2, box // 2)


def test_defocus_slope_scale_and_bfactor(copy, tmp_path):
    global_columns(copy, rlnTomoDefocusSlope=40)
    tilt_columns(
        copy,
        rlnCtfScalefactor=lambda t, i: 0.5 + 0.1 * t,
        rlnCtfBfactor=lambda t, i: 30 * t + 10 * i,
        rlnDefocusAngle=lambda t, i: 20 * t - 40,
        rlnDefocusV=lambda t, i: 12000 + 700 * t,
        rlnPhaseShift=lambda t, i: 10 * t,
    )
    extract(copy, tmp_path / "out")
    check_stacks(copy, tmp_path / "out", expectations(copy, 24))
    flat = expectations(copy, 24)
    global_columns(copy, rlnTomoDefocusSlope=1)
    extract(copy, tmp_path / "slope1")
    name = copy.phantom.particles.name[0]
    difference = stack_of(tmp_path / "slope1", copy.phantom.particles.tomogram[0], name) - flat[name].stack
    assert np.abs(difference).max() > 0.1 * flat[name].stack.std()


def test_bfactor_per_dose(copy, tmp_path):
    global_columns(copy, rlnCtfBfactorPerElectronDose=4)
    extract(copy, tmp_path / "out")
    check_stacks(copy, tmp_path / "out", expectations(copy, 24))


def test_aberrations(copy, tmp_path):
    optics_columns(
        copy.paths.particles, rlnEvenZernike="[0.2,10,-30,50]", rlnOddZernike="[3.0,-2.0,60,20,-40]"
    )
    extract(copy, tmp_path / "out", binning=1.5, box_size_px=18)
    check_stacks(copy, tmp_path / "out", expectations(copy, 18, None, 1.5, zernike=True))


@pytest.mark.parametrize("stack2d", ["Yes", "No"])
def test_trajectories(copy, tmp_path, stack2d):
    """Windows follow the motion, the defocus does not; the set keeps naming its trajectories."""
    particles = copy.phantom.particles
    n_tilts = copy.phantom.series[0].n_tilts
    rng = np.random.default_rng(8)
    motion = {name: rng.normal(size=(n_tilts, 3)) * 9 for name in particles.name}
    path = copy.paths.root / "motion.star"
    write_trajectories(path, Trajectories(motion))
    extract(copy, tmp_path / "out", in_trajectories=str(path), stack2d=stack2d, crop_size_px=16)
    motion = read_trajectories(path).shift_zyx_angst
    expected = expectations(copy, 24, 16, motion=motion)
    if stack2d == "Yes":
        check_stacks(copy, tmp_path / "out", expected)
        still = expectations(copy, 24, 16)
        name = particles.name[0]
        assert np.abs(still[name].stack - expected[name].stack).max() > expected[name].stack.std()
    else:
        check_volumes(tmp_path / "out", expected, 16, 1.0)
    entries = read_optimisation_set(tmp_path / "out/optimisation_set.star")
    assert entries["rlnTomoTrajectoriesFile"].endswith("motion.star")
    assert not (tmp_path / "out/motion.star").exists()  # no particle was dropped


def test_a_subset_of_trajectories_is_written_when_particles_drop(copy, tmp_path):
    particles = copy.phantom.particles
    n_tilts = copy.phantom.series[0].n_tilts
    motion = {name: np.full((n_tilts, 3), 0.5) for name in particles.name}
    path = copy.paths.root / "motion.star"
    write_trajectories(path, Trajectories(motion))
    away = particles.coordinate_zyx_angst.copy()
    away[[1, 6], 2] += 3000
    write_particles(copy.paths.particles, replace(particles, coordinate_zyx_angst=away))
    record = extract(copy, tmp_path / "out", in_trajectories=str(path))
    assert (record["n_particles"], record["n_dropped"]) == (6, 2)
    left = read_particles(tmp_path / "out/particles.star").name.tolist()
    assert left == [n for i, n in enumerate(particles.name) if i not in (1, 6)]
    kept = read_trajectories(tmp_path / "out/motion.star").shift_zyx_angst
    assert set(kept) == set(left)
    entries = read_optimisation_set(tmp_path / "out/optimisation_set.star")
    assert Path(entries["rlnTomoTrajectoriesFile"]).samefile(tmp_path / "out/motion.star")


def test_deformations(copy, tmp_path):
    """A linear field: u + axx·(u - w/2), v + axy·(u - w/2) + ayy·(v - h/2)."""
    terms = {series.name: [(0.01 * t, -0.02 + 0.01 * i, 0.015) for t in range(5)]
             for i, series in enumerate(copy.phantom.series)}  # fmt: skip
    global_columns(
        copy, rlnTomoDeformationType="linear", rlnTomoDeformationGridSizeX=1, rlnTomoDeformationGridSizeY=1
    )
    names = [series.name for series in copy.phantom.series]
    tilt_columns(
        copy, rlnTomoDeformationCoefficients=lambda t, i: "[" + ",".join(map(str, terms[names[i]][t])) + "]"
    )

    def field(name):
        def move(f, u, v):
            axx, axy, ayy = terms[name][f]
            return u + axx * (u - 50), v + axy * (u - 50) + ayy * (v - 50)

        return move

    extract(copy, tmp_path / "out")
    check_stacks(copy, tmp_path / "out", expectations(copy, 24, deform={n: field(n) for n in names}))


@pytest.mark.parametrize(("box", "crop", "binning"), [(48, 40, 1), (24, 20, 2)])
def test_particles_at_the_edge(tmp_path, box, crop, binning):
    """Only tilts in which the whole cropped box is inside are written; the larger box repeats edge pixels."""
    project = noise_project(tmp_path / "p", sphere_radius_angst=130.0, particles_per_tomogram=9)
    expected = expectations(project, box, crop, binning)
    counts = np.array([e.visible.sum() for e in expected.values()])
    assert (counts < 5).any()
    assert (counts > 0).any()
    extract(project, tmp_path / "out", box_size_px=box, crop_size_px=crop, binning=binning)
    check_stacks(project, tmp_path / "out", expected)
    least = int(np.median(counts)) + 1
    record = extract(
        project, tmp_path / "least", box_size_px=box, crop_size_px=crop, binning=binning, min_frames=least
    )
    wanted = {name for name, e in expected.items() if e.visible.sum() >= least}
    assert set(read_particles(tmp_path / "least/particles.star").name) == wanted
    assert record["n_dropped"] == len(expected) - len(wanted)


def test_the_largest_dose_counts_and_drops(noise, tmp_path):
    """Dose equal to the limit is kept; particles left with too few tilts go."""
    doses = sorted(noise.phantom.series[0].dose_e_per_angst2)
    record = extract(noise, tmp_path / "out", max_dose_e_per_angst2=doses[1])
    stacks = expectations(noise, 24, max_dose=doses[1])
    assert {int(e.visible.sum()) for e in stacks.values()} == {2}
    check_stacks(noise, tmp_path / "out", stacks)
    assert record["n_dropped"] == 0
    with pytest.raises(InputError, match=r"no particle of .* is seen in 3 tilt images"):
        extract(noise, tmp_path / "none", max_dose_e_per_angst2=doses[1], min_frames=3)
    assert not list((tmp_path / "none").rglob("*.mrcs"))


def test_two_optics_groups_of_different_pixel_size(tmp_path):
    """Each tomogram in its own pixels; the optics table states both."""
    one = noise_project(tmp_path / "p", n_tomograms=2)
    columns = dict(read_star(one.paths.tomograms)["global"].columns)
    columns["rlnTomoTiltSeriesPixelSize"] = ["4.000000", "3.200000"]
    columns["rlnMicrographOriginalPixelSize"] = ["4.000000", "3.200000"]
    columns["rlnOpticsGroupName"] = ["a", "b"]
    write_star(one.paths.tomograms, [table("global", columns)])
    particles = one.phantom.particles
    second = particles.tomogram == "TS_02"
    assert second.any()
    first = replace(particles.optics[0], number=1, name="a", pixel_size_angst=4.0)
    other = replace(first, number=2, name="b", pixel_size_angst=3.2)
    groups = np.where(second, 2, 1)
    write_particles(one.paths.particles, replace(particles, optics_group=groups, optics=(first, other)))
    record = extract(one, tmp_path / "out", binning=1.5, box_size_px=20)
    check_stacks(one, tmp_path / "out", expectations(one, 20, None, 1.5))
    optics = read_star(tmp_path / "out/particles.star")["optics"].columns
    assert [float(v) for v in optics["rlnImagePixelSize"]] == pytest.approx([6.0, 4.8])
    assert [float(v) for v in optics["rlnTomoTiltSeriesPixelSize"]] == pytest.approx([4.0, 3.2])
    assert list(optics["rlnImageSize"]) == ["20", "20"]
    assert record["pixel_size_angst"] == pytest.approx(6.0)
    for name, pixel in (("TS_01", 6.0), ("TS_02", 4.8)):
        stack = next((tmp_path / f"out/Subtomograms/{name}").glob("*_stack2d.mrcs"), None) or next(
            (tmp_path / "out").rglob(f"{name}/*_stack2d.mrcs")
        )
        assert read_header(stack).pixel_size_angst == pytest.approx(pixel, rel=1e-6)


# --- tables --------------------------------------------------------------------------------------------


def test_tables_of_2d_stacks(copy, tmp_path):
    """Columns, optics and general table as RELION writes them; origins folded in, stale priors gone."""
    path = copy.paths.particles
    tables = read_star(path)
    columns = dict(tables["particles"].columns)
    n = len(columns["rlnTomoName"])
    columns["rlnOriginXPriorAngst"] = ["1.5"] * n
    columns["rlnOriginZPriorAngst"] = ["-1.5"] * n
    columns["rlnAngleTiltPrior"] = ["90.0"] * n
    columns["rlnMyOwnColumn"] = [f"x{i}" for i in range(n)]
    write_star(path, [tables["optics"], table("particles", columns)])
    extract(copy, tmp_path / "out", binning=2, box_size_px=20, crop_size_px=16)
    before, after = read_particles(path), read_particles(tmp_path / "out/particles.star")
    tables = read_star(tmp_path / "out/particles.star")
    assert list(tables) == ["general", "optics", "particles"]
    assert tables["general"].row()["rlnTomoSubTomosAre2DStacks"] == "1"
    optics = tables["optics"].row()
    assert optics["rlnCtfDataAreCtfPremultiplied"] == "1"
    assert optics["rlnImageDimensionality"] == "2"
    assert float(optics["rlnTomoSubtomogramBinning"]) == 2
    assert float(optics["rlnImagePixelSize"]) == 8
    assert optics["rlnImageSize"] == "16"
    assert set(tables["particles"].columns) == (
        set(columns) - {"rlnOriginXPriorAngst", "rlnOriginZPriorAngst"}
        | {"rlnImageName", "rlnTomoVisibleFrames", "rlnTomoParticleName"}
    )
    assert list(after.text["rlnMyOwnColumn"]) == list(columns["rlnMyOwnColumn"])
    assert not after.origin_zyx_angst.any()
    assert before.origin_zyx_angst.any()
    for i in range(n):
        turn = oracle.relion_rotation_xyz(before.subtomogram_angles_deg[i])
        moved = before.coordinate_zyx_angst[i, ::-1] - turn @ before.origin_zyx_angst[i, ::-1]
        np.testing.assert_allclose(after.coordinate_zyx_angst[i, ::-1], moved, atol=2e-6)
    for field in ("angles_deg", "subtomogram_angles_deg", "half_set", "optics_group"):
        np.testing.assert_array_equal(getattr(after, field), getattr(before, field))
    entries = read_optimisation_set(tmp_path / "out/optimisation_set.star")
    assert Path(entries["rlnTomoParticlesFile"]).samefile(tmp_path / "out/particles.star")
    assert entries["rlnTomoTomogramsFile"].endswith("tomograms.star")
    # Extracting again from the result gives the same images: positions have not moved.
    again = Project(
        copy.paths._replace(optimisation_set=tmp_path / "out/optimisation_set.star"), copy.phantom
    )
    extract(again, tmp_path / "again", binning=2, box_size_px=20, crop_size_px=16)
    for tomogram, name in zip(after.tomogram, after.name, strict=True):
        np.testing.assert_allclose(
            stack_of(tmp_path / "again", tomogram, name),
            stack_of(tmp_path / "out", tomogram, name),
            atol=1e-3,
        )


def test_without_ctf_the_table_says_so(noise, tmp_path):
    extract(noise, tmp_path / "out", apply_ctf="No")
    assert read_star(tmp_path / "out/particles.star")["optics"].row()["rlnCtfDataAreCtfPremultiplied"] == "0"


def test_names_without_a_slash_get_a_folder_of_their_tomogram(copy, tmp_path):
    particles = copy.phantom.particles
    plain = np.array([f"p{i:03d}" for i in range(len(particles))], dtype=object)
    write_particles(copy.paths.particles, replace(particles, name=plain))
    extract(copy, tmp_path / "plain")
    found = sorted(p.relative_to(tmp_path / "plain").as_posix() for p in (tmp_path / "plain").rglob("*.mrcs"))
    assert found == sorted(
        f"Subtomograms/{t}/{n}_stack2d.mrcs" for t, n in zip(particles.tomogram, plain, strict=True)
    )
    slashed = np.array(
        [f"{t}/{i + 1}" for i, t in enumerate(particles.tomogram)], dtype=object
    )  # RELION's own names
    write_particles(copy.paths.particles, replace(particles, name=slashed))
    extract(copy, tmp_path / "slashed")
    assert all((tmp_path / f"slashed/Subtomograms/{name}_stack2d.mrcs").exists() for name in slashed)


def test_particles_come_in_the_order_of_the_tomogram_set(copy, tmp_path):
    particles = copy.phantom.particles
    mixed = particles[np.argsort(np.arange(len(particles)) % 3, kind="stable")[::-1].copy()]
    write_particles(copy.paths.particles, mixed)
    extract(copy, tmp_path / "out")
    found = read_particles(tmp_path / "out/particles.star")
    expected = [n for t in ("TS_01", "TS_02") for n in mixed.name[mixed.tomogram == t]]
    assert found.name.tolist() == expected


def test_float16_is_float32_rounded(noise, tmp_path):
    extract(noise, tmp_path / "full")
    extract(noise, tmp_path / "half", float16="Yes")
    for path in (tmp_path / "full").rglob("*.mrcs"):
        other = tmp_path / "half" / path.relative_to(tmp_path / "full")
        assert (read_header(path).mode, read_header(other).mode) == (2, 12)
        count = read_header(path).shape_zyx[0]
        full, half = (read_images([(p, i) for i in range(count)]) for p in (path, other))
        np.testing.assert_array_equal(full.astype(np.float16).astype(np.float32), half)


# --- 3D ------------------------------------------------------------------------------------------------


def check_volumes(out: Path, expected: dict[str, oracle.Extracted], crop: int, binning: float) -> None:
    particles = read_particles(out / "particles.star")
    for i, name in enumerate(particles.name):
        e = expected[name]
        images, weights, matrices, ends = (
            a[e.visible] for a in (e.full_images, e.weights, e.matrices_xyz, e.x_end)
        )
        data, weight, multiplicity = oracle.insert(images, weights, matrices, ends, crop)
        scale = images.shape[-1] / (crop * np.sqrt(binning))
        base = out / "Subtomograms" / ("" if "/" in name else particles.tomogram[i]) / name
        found = read_volume(f"{base}_data.mrc")
        # float32 rounds a transform to some 1e-7 of its largest value, here the mean of the bare image.
        atol = scale * max(3e-4 * data.std(), 1e-6 * np.abs(data).max())
        np.testing.assert_allclose(found.data, scale * data, atol=atol)
        both = read_volume(f"{base}_weights.mrc").data
        assert both.shape == (2 * crop, crop, crop // 2 + 1)
        np.testing.assert_allclose(both[:crop], weight, atol=1e-4 * weight.max())
        np.testing.assert_allclose(both[crop:], multiplicity, atol=1e-4 * multiplicity.max())


@pytest.mark.parametrize(
    ("values", "options", "binning"),
    [
        pytest.param({}, {}, 1.0, id="plain"),
        pytest.param({"binning": 1.5, "max_dose_e_per_angst2": 8}, {"binning": 1.5, "max_dose": 8}, 1.5, id="binned"),
        pytest.param({"apply_ctf": "No"}, {"use_ctf": False}, 1.0, id="no CTF"),
        pytest.param({"circle_crop": "No", "invert_contrast": "No"}, {"circle": False, "sign": 1.0}, 1.0, id="bare"),
    ],
)  # fmt: skip
def test_pseudo_subtomograms(copy, tmp_path, values, options, binning):
    """Data and weights against the sum written out, with aberrations and a dose that ends some rows."""
    one = copy.phantom.particles[np.array([0, 5])]
    write_particles(copy.paths.particles, one)
    optics_columns(copy.paths.particles, rlnEvenZernike="[0.2,10,-30,50]")
    tilt_columns(copy, rlnMicrographPreExposure=lambda t, i: 2.6 * t + (20 if t == 4 else 0))
    extract(copy, tmp_path / "out", stack2d="No", box_size_px=20, crop_size_px=12, **values)
    expected = expectations(copy, 20, 12, zernike=True, **options)
    check_volumes(tmp_path / "out", expected, 12, binning)
    found = next((tmp_path / "out").rglob("*_data.mrc"))
    assert read_header(found).pixel_size_angst == pytest.approx(4 * binning, rel=1e-6)
    weights = found.with_name(found.name.replace("_data", "_weights"))
    assert read_header(weights).pixel_size_angst == pytest.approx(1 / (4 * binning), rel=1e-6)


def test_tables_of_pseudo_subtomograms(noise, tmp_path):
    extract(noise, tmp_path / "out", stack2d="No", box_size_px=16, float16="Yes")
    tables = read_star(tmp_path / "out/particles.star")
    assert tables["general"].row()["rlnTomoSubTomosAre2DStacks"] == "0"
    optics = tables["optics"].row()
    assert optics["rlnCtfDataAreCtfPremultiplied"] == "1"
    assert optics["rlnImageDimensionality"] == "3"
    columns = tables["particles"].columns
    assert "rlnTomoVisibleFrames" not in columns
    assert all(str(v).endswith("_data.mrc") for v in columns["rlnImageName"])
    assert all(str(v).endswith("_weights.mrc") for v in columns["rlnCtfImage"])
    for label in ("rlnImageName", "rlnCtfImage"):
        assert all(Path(v).exists() or (noise.paths.root / v).exists() for v in columns[label])
    # The weights stay float32: they span more than float16 can hold.
    assert read_header(next((tmp_path / "out").rglob("*_data.mrc"))).mode == 12
    assert read_header(next((tmp_path / "out").rglob("*_weights.mrc"))).mode == 2
    extract(noise, tmp_path / "no_ctf", stack2d="No", box_size_px=16, apply_ctf="No")
    assert (
        read_star(tmp_path / "no_ctf/particles.star")["optics"].row()["rlnCtfDataAreCtfPremultiplied"] == "1"
    )


# --- resuming, killing, threads, memory ----------------------------------------------------------------


@pytest.mark.parametrize("stack2d", ["Yes", "No"])
def test_resuming_keeps_what_is_finished(noise, tmp_path, stack2d):
    values = {"stack2d": stack2d, "box_size_px": 16}
    extract(noise, tmp_path / "whole", **values)
    out = tmp_path / "out"
    run(noise, out, **values)
    pattern = "*_stack2d.mrcs" if stack2d == "Yes" else "*_data.mrc"
    files = sorted(out.rglob(pattern))
    for path in out.rglob("*.mrc*"):
        os.utime(path, (1, 1))
    os.truncate(files[0], 3000)
    os.utime(files[0], (1, 1))
    files[3].unlink()
    redone = {files[0], files[3]}
    if stack2d == "No":
        weights = files[5].with_name(files[5].name.replace("_data", "_weights"))
        weights.unlink()
        redone.add(files[5])
    (out / "particles.star").unlink()
    record = run(noise, out, **values)
    assert record["n_written"] == len(redone)
    assert "kept from an earlier run" in record["summary"]
    assert {p for p in files if p.stat().st_mtime > 1} == redone
    for path in (tmp_path / "whole").rglob("*.mrc*"):
        # Not bit for bit in 3D: the FFT library rounds by how many transforms it is given at once.
        one, two = (
            np.fromfile(p, np.float32, offset=1024)
            for p in (path, out / path.relative_to(tmp_path / "whole"))
        )
        np.testing.assert_allclose(one, two, atol=1e-6 * np.abs(one).max())
    mine, whole = (read_particles(folder / "particles.star") for folder in (out, tmp_path / "whole"))
    np.testing.assert_array_equal(mine.coordinate_zyx_angst, whole.coordinate_zyx_angst)


def interrupted(project: Project, out: Path, **values: Any) -> None:
    """Extract everything, and leave it as if it had been stopped just before the end."""
    run(project, out, **values)
    (out / "RELION_JOB_EXIT_SUCCESS").unlink()
    record = json.loads((out / "job.json").read_text())
    (out / "job.json").write_text(json.dumps(record | {"status": "Aborted"}))


def move_particles(project: Project) -> None:
    particles = read_particles(project.paths.particles)
    write_particles(
        project.paths.particles,
        replace(particles, coordinate_zyx_angst=particles.coordinate_zyx_angst + np.array([3.0, 2.0, 1.0])),
    )


def darken_image(project: Project) -> None:
    path = project.paths.root / "tilt_stacks/TS_01.mrc"
    path.write_bytes(path.read_bytes()[:-4000] + bytes(4000))


def change_defocus(project: Project) -> None:
    path = next(project.paths.root.rglob("tilt_series/TS_01.star"))
    tables = read_star(path)
    columns = next(iter(tables.values())).columns
    columns["rlnDefocusU"] = columns["rlnDefocusU"].astype(float).astype(int).astype(str).astype(object)
    write_star(path, list(tables.values()))


OTHER_VALUES = [
    {"apply_ctf": "No"}, {"invert_contrast": "No"}, {"float16": "Yes"}, {"circle_crop": "No"}, {"binning": 1.3},
    {"box_size_px": 20}, {"stack2d": "No"},
]  # fmt: skip


def whole_content(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in out.rglob("*")
        if path.suffix in (".mrc", ".mrcs")
    }


@pytest.mark.parametrize("other", OTHER_VALUES, ids=lambda other: next(iter(other)))
def test_other_values_in_its_own_folder(noise, tmp_path, other):
    """Finished: refused. Stopped before the end: made again, and nothing of the other values stays."""
    out = tmp_path / "out"
    interrupted(noise, out)
    run(noise, out, **other)
    run(noise, tmp_path / "fresh", **other)
    assert whole_content(out) == whole_content(tmp_path / "fresh")
    before = whole_content(out)
    with pytest.raises(
        InputError, match=f"holds a finished extract, but --{next(iter(other))} was .* choose another"
    ):
        run(noise, out)
    assert whole_content(out) == before
    record = run(noise, out, **other)  # the same values: what is whole is kept
    assert record["n_written"] == 0


@pytest.mark.parametrize("change", [move_particles, darken_image, change_defocus])
def test_other_inputs_in_its_own_folder(copy, tmp_path, change):
    """Changed on the disk under the same names: never mixed with what was made before."""
    out = tmp_path / "out"
    interrupted(copy, out)
    change(copy)
    before = whole_content(out)
    with pytest.raises(InputError, match=r"cannot be resumed: .* (has|have) changed since; give the same"):
        for _ in resume(out).steps():
            pass
    assert whole_content(out) == before
    run(copy, out)
    run(copy, tmp_path / "fresh")
    assert whole_content(out) == whole_content(tmp_path / "fresh")
    assert whole_content(out) != before
    interrupted(copy, tmp_path / "second")
    for _ in resume(tmp_path / "second").steps():  # nothing has changed: it goes on
        pass


def test_fewer_particles_leave_no_stale_stack(copy, tmp_path):
    out = tmp_path / "out"
    interrupted(copy, out)
    write_particles(copy.paths.particles, read_particles(copy.paths.particles)[:3])
    run(copy, out)
    assert len(whole_content(out)) == 3


def test_stacks_of_others_are_never_taken_or_written_over(noise, tmp_path):
    """RELION's Subtomograms/ without particles.star: the job was stopped before its end."""
    out = tmp_path / "out"
    extract(noise, out)
    (out / "particles.star").unlink()
    (out / "optimisation_set.star").unlink()
    before = whole_content(out)
    with pytest.raises(InputError, match="already holds Subtomograms, which no extract of napari-sta wrote"):
        run(noise, out)
    assert whole_content(out) == before


def renamed(project: Project, rename: Callable[[int, str, str], tuple[str, str]]) -> None:
    """Give particles other names and tomograms, in the particle set and the tomogram set."""
    particles = read_particles(project.paths.particles)
    pairs = [
        rename(row, tomogram, name)
        for row, (tomogram, name) in enumerate(zip(particles.tomogram, particles.name, strict=True))
    ]
    tomograms = np.array([pair[0] for pair in pairs], dtype=object)
    names = np.array([pair[1] for pair in pairs], dtype=object)
    to = dict(zip(particles.tomogram, tomograms, strict=True))
    write_particles(project.paths.particles, replace(particles, tomogram=tomograms, name=names))
    tables = read_star(project.paths.tomograms)
    columns = tables["global"].columns
    for tomogram, path in zip(columns["rlnTomoName"], columns["rlnTomoTiltSeriesStarFile"], strict=True):
        per_tilt = project.paths.root / path
        (one,) = read_star(per_tilt).values()
        write_star(per_tilt, [replace(one, name=to[tomogram])])
    columns["rlnTomoName"] = np.array([to[name] for name in columns["rlnTomoName"]], dtype=object)
    write_star(project.paths.tomograms, list(tables.values()))


HOSTILE = {
    "up": lambda row, tomogram, name: (tomogram, f"../../{name}"),
    "up later": lambda row, tomogram, name: (tomogram, name if row < 5 else f"a/../../../../x{row}"),
    "absolute": lambda row, tomogram, name: (tomogram, f"/tmp/napari-sta-escape/{row}"),
    "dots": lambda row, tomogram, name: (tomogram, f"{tomogram}/.." if row == 5 else name),
    "dot": lambda row, tomogram, name: (tomogram, f"./{row}"),
    "empty part": lambda row, tomogram, name: (tomogram, f"{tomogram}//{row}"),
    "control": lambda row, tomogram, name: (tomogram, f"{tomogram}/{row}\x07"),
    "tomogram absolute": lambda row, tomogram, name: (f"/tmp/napari-sta-escape/{tomogram}", str(row)),
    "tomogram up": lambda row, tomogram, name: (f"../{tomogram}", str(row)),
    "tomogram dots": lambda row, tomogram, name: (".." if tomogram == "TS_01" else "TS_02", str(row)),
}


@pytest.mark.parametrize("stack2d", ["Yes", "No"])
@pytest.mark.parametrize("rename", HOSTILE.values(), ids=HOSTILE)
def test_names_never_lead_out_of_the_folder(copy, tmp_path, rename, stack2d):
    renamed(copy, rename)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=r"particles\.star, row \d+, rlnTomoParticleName .* leads out of"):
        run(copy, tmp_path / "deep/er/out", stack2d=stack2d)
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("/tmp/napari-sta-escape").exists()


@pytest.mark.parametrize(
    "rename",
    [
        lambda row, tomogram, name: (tomogram, f"{name}@b" if row == 5 else name),
        lambda row, tomogram, name: (f"{tomogram}@b", str(row)),
    ],
    ids=["particle", "tomogram"],
)
def test_names_that_are_read_as_numbers_of_images_are_refused(copy, tmp_path, rename):
    """Stacks of such names could be written, but neither we nor RELION would find them again."""
    renamed(copy, rename)
    with pytest.raises(InputError, match=r"particles\.star, row \d+: the name .* holds @.*; take the @ out"):
        run(copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("link", ["Subtomograms", "Subtomograms/TS_01"])
def test_links_in_its_folder_are_not_followed(copy, tmp_path, link):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    interrupted(copy, out)
    (out / link).rename(elsewhere)
    (out / link).symlink_to(elsewhere)
    for path in elsewhere.rglob("*.mrcs"):
        path.write_bytes(b"theirs")
    with pytest.raises(InputError, match=r"leads out of the folder .* through a link; remove the link"):
        run(copy, out)
    assert {path.read_bytes() for path in elsewhere.rglob("*.mrcs")} == {b"theirs"}


def test_two_particles_never_share_a_file(copy, tmp_path):
    renamed(copy, lambda row, tomogram, name: (tomogram, f"{tomogram}/{row if row != 5 else 2}"))
    tables = read_star(copy.paths.particles)
    tables["particles"].columns["rlnTomoParticleName"][5] = tables["particles"]["rlnTomoParticleName"][2]
    write_star(copy.paths.particles, list(tables.values()))
    with pytest.raises(InputError, match="rlnTomoParticleName"):
        run(copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    particles = read_particles(copy.paths.particles)
    inputs = SimpleNamespace(particles=particles, particles_path=copy.paths.particles)
    job = job_named("extract").from_text({"in_optimisation_set": str(copy.paths.optimisation_set)})
    with pytest.raises(InputError, match=r"particles 3 and 6 both have .* give each particle"):
        job._stems(inputs)


def test_names_of_many_particles_are_checked_at_once():
    many = np.array([f"TS_{row % 100:03d}/{row}" for row in range(100_000)], dtype=object)
    tomograms = np.array([name.partition("/")[0] for name in many], dtype=object)
    inputs = SimpleNamespace(
        particles=SimpleNamespace(name=many, tomogram=tomograms), particles_path="p.star"
    )
    job = job_named("extract").from_text({"in_optimisation_set": "set.star"})
    began = time.process_time()
    stems = job._stems(inputs)
    assert time.process_time() - began < 0.6
    assert stems[-1] == "Subtomograms/TS_099/99999"


def test_without_a_record_nothing_is_taken_for_finished(noise, tmp_path):
    extract(noise, tmp_path / "out", box_size_px=16)
    assert extract(noise, tmp_path / "out", box_size_px=16)["n_written"] == len(noise.phantom.particles)
    assert extract(noise, tmp_path / "out", box_size_px=20)["n_written"] == len(noise.phantom.particles)
    check_stacks(noise, tmp_path / "out", expectations(noise, 20))


@pytest.mark.parametrize("stack2d", ["Yes", "No"])
def test_threads_change_no_bit(noise, tmp_path, stack2d):
    for threads in (1, 2, 5):
        extract(noise, tmp_path / str(threads), threads, stack2d=stack2d, binning=1.5, box_size_px=20)
    files = [p.relative_to(tmp_path / "1") for p in (tmp_path / "1").rglob("*.mrc*")]
    assert len(files) == len(noise.phantom.particles) * (1 if stack2d == "Yes" else 2)
    for file in files:
        content = (tmp_path / "1" / file).read_bytes()
        assert content == (tmp_path / "2" / file).read_bytes()
        assert content == (tmp_path / "5" / file).read_bytes()


def same_files(one: Path, two: Path, rtol: float) -> None:
    files = [p.relative_to(one) for p in one.rglob("*.mrc*")]
    assert files
    for file in files:
        a, b = (np.fromfile(folder / file, np.float32, offset=1024) for folder in (one, two))
        np.testing.assert_allclose(a, b, atol=rtol * np.abs(a).max(), rtol=0)


@pytest.mark.parametrize("stack2d", ["Yes", "No"])
@pytest.mark.parametrize("circle_crop", ["Yes", "No"])
def test_the_path_of_gpus_writes_the_same(noise, tmp_path, monkeypatch, stack2d, circle_crop):
    """On the CPU here: batches, staging and places in the stacks are those of a GPU."""
    import napari_sta.jobs._cutter as module

    values = {"binning": 1.5, "box_size_px": 20, "crop_size_px": 16, "stack2d": stack2d}
    values["circle_crop"] = circle_crop
    extract(noise, tmp_path / "compiled", **values)
    plain = module.Cutter.__init__

    def by_torch(self, *arguments):
        plain(self, *arguments)
        self.compiled, self.device = False, torch.device("cpu")

    monkeypatch.setattr(module.Cutter, "__init__", by_torch)
    monkeypatch.setattr(module, "_FFT_BATCH", 3)
    extract(noise, tmp_path / "torch", 2, **values)
    same_files(tmp_path / "compiled", tmp_path / "torch", 1e-5)


@pytest.mark.parametrize("stack2d", ["Yes", "No"])
def test_tilt_series_too_large_to_keep(noise, tmp_path, monkeypatch, stack2d):
    """Images are read again for every batch, and fewer batches are made."""
    import napari_sta.jobs._cutter as module

    extract(noise, tmp_path / "kept", stack2d=stack2d)
    reads = []
    image = module.Cutter._image
    monkeypatch.setattr(module.Cutter, "_image", lambda self, tilt: reads.append(tilt) or image(self, tilt))
    monkeypatch.setattr(module, "_CACHE_BYTES", 0)
    monkeypatch.setattr(module, "_LARGE_BUFFER_BYTES", 1)  # one particle a batch
    extract(noise, tmp_path / "read again", 2, stack2d=stack2d)
    assert len(reads) > 2 * noise.phantom.series[0].n_tilts
    same_files(tmp_path / "kept", tmp_path / "read again", 1e-6)


def test_stacks_are_made_without_torch(noise, tmp_path):
    """Importing it takes a second, a third of a small job."""
    words = ["extract", "--in_optimisation_set", str(noise.paths.optimisation_set), "--box_size_px", "24"]
    words += ["--o", str(tmp_path / "out"), "--quiet", "--device", "cpu"]
    code = f"import sys; from napari_sta.cli import main; main({words!r}) and sys.exit(3); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert len(list((tmp_path / "out").rglob("*.mrcs"))) == len(noise.phantom.particles)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("stack2d", ["Yes", "No"])
def test_on_cuda(noise, tmp_path, stack2d):
    values = {"stack2d": stack2d, "box_size_px": 20, "crop_size_px": 16, "float16": "No"}
    extract(noise, tmp_path / "cpu", **values)
    job = job_named("extract").from_text({"in_optimisation_set": str(noise.paths.optimisation_set), **values})
    (tmp_path / "cuda").mkdir()
    for _ in job.run(Context(tmp_path / "cuda", device="cuda:0")):
        pass
    for path in (tmp_path / "cpu").rglob("*.mrc*"):
        one, two = (np.fromfile(tmp_path / d / path.relative_to(tmp_path / "cpu"), np.float32, offset=1024) for d in ("cpu", "cuda"))  # fmt: skip
        np.testing.assert_allclose(one, two, atol=1e-4 * np.abs(one).max())


def many(project: Project, factor: int) -> None:
    """Repeat the particles under other names."""
    particles = project.phantom.particles
    rows = np.tile(np.arange(len(particles)), factor)
    names = np.array([f"{particles.tomogram[r]}/{i + 1}" for i, r in enumerate(rows)], dtype=object)
    write_particles(project.paths.particles, replace(particles[rows], name=names))


_KILLED = """
import sys
from pathlib import Path
from napari_sta.jobs._job import job_named
from napari_sta.jobs._run_options import RunOptions
from napari_sta.jobs._run import JobRun

job = job_named("extract").from_text({"in_optimisation_set": sys.argv[1], "box_size_px": 48, "float16": "No"})
for _ in JobRun(job, RunOptions(out=Path(sys.argv[2]), threads=2, device="cpu")).steps():
    print("batch", flush=True)
"""


def test_killed_while_writing(copy, tmp_path, monkeypatch):
    """SIGKILL at a moment nobody chose: whatever has its final name is whole, and resuming finishes the rest."""
    many(copy, 300)
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(copy.paths.optimisation_set), str(out)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(list(out.rglob("*_stack2d.mrcs"))) < 40:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    written = [p for p in out.rglob("*.mrcs") if not p.name.startswith(".")]
    assert 0 < len(written) < 2400
    assert not (out / "particles.star").exists()
    for path in written:
        header = read_header(path)
        assert header.missing_bytes == 0
        assert header.shape_zyx[1:] == (48, 48)
    before = {p: p.stat().st_mtime_ns for p in written}
    record = run(copy, out, box_size_px=48, float16="No")
    assert record["n_particles"] == 2400
    assert record["n_written"] == 2400 - len(written)
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())


_MEMORY = """
import resource, sys
from pathlib import Path
from napari_sta.jobs import _cutter
from napari_sta.jobs._job import Context, job_named

_cutter._BUFFER_BYTES //= 12  # so that fewer particles fill several batches
job = job_named("extract").from_text(
    {"in_optimisation_set": sys.argv[1], "box_size_px": 64, "crop_size_px": sys.argv[4], "stack2d": sys.argv[3]}
)
for _ in job.run(Context(Path(sys.argv[2]), threads=1, device="cpu")):
    pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("stack2d", "crop", "few"), [("Yes", 40, 250), ("No", 40, 30)])
def test_memory_is_flat_in_the_number_of_particles(copy, tmp_path, stack2d, crop, few):
    """Ten times the particles, where the few fill several batches: peak memory grows by less than 10 %."""
    first = copy.phantom.particles[copy.phantom.particles.tomogram == "TS_01"]
    one = Project(copy.paths, replace(copy.phantom, particles=first))
    peak = []
    for factor in (few, 10 * few):
        many(one, factor)
        out = tmp_path / f"{factor}"
        words = [str(copy.paths.optimisation_set), str(out), stack2d, str(crop)]
        result = subprocess.run(
            [sys.executable, "-c", _MEMORY, *words], capture_output=True, text=True, check=True
        )
        peak.append(int(result.stdout.split()[-1]))
        shutil.rmtree(out)
    assert peak[1] < 1.1 * peak[0], peak


def test_progress_counts_every_particle_once(noise, tmp_path):
    job = job_named("extract").from_text(
        {"in_optimisation_set": str(noise.paths.optimisation_set), "box_size_px": 16}
    )
    (tmp_path / "out").mkdir()
    steps = list(job.run(Context(tmp_path / "out", device="cpu")))
    assert steps[-1].done == steps[-1].total == len(noise.phantom.particles)
    assert [s.done for s in steps] == sorted(s.done for s in steps)


# --- what cannot be done, in a sentence ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "words"),
    [
        pytest.param({"box_size_px": 33}, "box_size_px 33 is odd.*take 34", id="odd box"),
        pytest.param({"crop_size_px": 17}, "crop_size_px 17 must be even", id="odd crop"),
        pytest.param({"crop_size_px": 40}, "crop_size_px 40 is larger than box_size_px 24", id="crop over box"),
        pytest.param({"binning": 0.5}, "--binning 0.5: .*greater than or equal to 1", id="binning below 1"),
        pytest.param({"min_frames": 0}, "--min_frames 0", id="no frames"),
        pytest.param({"stack2d": "perhaps"}, "--stack2d perhaps", id="no truth value"),
        pytest.param({"boxsize": 3}, "--boxsize is no option of extract", id="typing error"),
        pytest.param({"box_size_px": 64, "binning": 2}, "box_size_px 64 at binning 2 is 128 px, larger than the tilt "
                     r"images of .* \(100 x 100 px\)", id="box over image"),
        pytest.param({"min_frames": 9}, "no particle of .* is seen in 9 tilt images", id="too many frames"),
    ],
)  # fmt: skip
def test_wrong_values(noise, tmp_path, values, words):
    with pytest.raises(InputError, match=words) as error:
        extract(noise, tmp_path / "out", **values)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "out").rglob("*.mrcs"))
    assert not (tmp_path / "out/particles.star").exists()


def outside(project):
    particles = project.phantom.particles
    away = particles.coordinate_zyx_angst + np.array([0, 0, 4000.0])
    write_particles(project.paths.particles, replace(particles, coordinate_zyx_angst=away))


def unknown_tomogram(project):
    particles = project.phantom.particles
    renamed = np.array(["TS_99"] * len(particles), dtype=object)
    write_particles(project.paths.particles, replace(particles, tomogram=renamed))


def not_a_number(project):
    series = project.phantom.series[1]
    images = project.phantom.images[series.name]
    path = project.paths.root / series.images[0][0]
    write_stack(path, images, 4.0)
    raw = np.memmap(path, np.float32, "r+", offset=1024, shape=images.shape)
    raw[2, 50, 50] = np.nan
    raw.flush()


def without(label):
    def spoil(project):
        tables = read_star(project.paths.particles)
        columns = {k: v for k, v in tables["particles"].columns.items() if k != label}
        write_star(project.paths.particles, [tables["optics"], table("particles", columns)])

    return spoil


def same_names(project):
    particles = project.phantom.particles
    write_particles(
        project.paths.particles, replace(particles, name=np.full(len(particles), "TS_01/1", object))
    )


def short_trajectory(project):
    motion = {name: np.zeros((5, 3)) for name in project.phantom.particles.name}
    motion[project.phantom.particles.name[2]] = np.zeros((4, 3))
    write_trajectories(project.paths.root / "motion.star", Trajectories(motion))
    write_optimisation_set(
        project.paths.optimisation_set, particles=project.paths.particles, tomograms=project.paths.tomograms,
        trajectories=project.paths.root / "motion.star",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        pytest.param(lambda p: p.paths.optimisation_set.unlink(), "optimisation_set.star", id="missing set"),
        pytest.param(lambda p: p.paths.particles.unlink(), "particles.star", id="missing particles"),
        pytest.param(without("rlnTomoName"), "rlnTomoName", id="missing column"),
        pytest.param(without("rlnCenteredCoordinateYAngst"), "but no rlnCenteredCoordinateYAngst", id="no coordinates"),
        pytest.param(lambda p: write_particles(p.paths.particles, p.phantom.particles[np.arange(0)]), "no particles",
                     id="empty set"),
        pytest.param(unknown_tomogram, "TS_99", id="unknown tomogram"),
        pytest.param(outside, "no particle of", id="outside"),
        pytest.param(not_a_number, "image 3 holds values that are not finite", id="NaN"),
        pytest.param(lambda p: os.truncate(p.paths.root / "tilt_stacks/TS_01.mrc", 3000), "TS_01.mrc is truncated",
                     id="truncated"),
        pytest.param(lambda p: (p.paths.root / "tilt_stacks/TS_01.mrc").unlink(), "TS_01.mrc", id="no images"),
        pytest.param(same_names, "both have rlnTomoParticleName", id="repeated names"),
        pytest.param(short_trajectory, "has 4 rows, its tilt series 5 tilts", id="short trajectory"),
        pytest.param(lambda p: tilt_columns(p, rlnDefocusU=lambda t, i: "high"), "rlnDefocusU", id="no number"),
        pytest.param(lambda p: optics_columns(p.paths.particles, rlnTomoTiltSeriesPixelSize=2.5),
                     "rlnTomoTiltSeriesPixelSize is 2.5", id="pixel sizes differ"),
        pytest.param(lambda p: global_columns(p, rlnTomoHand=3), "rlnTomoHand is 3", id="hand"),
    ],
)  # fmt: skip
def test_bad_input_ends_with_2_and_one_sentence(copy, tmp_path, monkeypatch, capsys, spoil, said):
    spoil(copy)
    monkeypatch.chdir(copy.paths.root)
    words = ["extract", "--in_optimisation_set", "Select/job002/optimisation_set.star", "--box_size_px", "24"]
    assert main([*words, "--o", "out/", "--quiet"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("napari-sta: ")]
    assert len(lines) == 1
    assert said in lines[0]
    assert not list((copy.paths.root / "out").glob("particles.star"))


def test_in_a_project_the_next_job_can_start_from_it(copy, monkeypatch, capsys):
    """Run as a job of the project; reconstruct takes its set and gives the same map as from the input set."""
    monkeypatch.chdir(copy.paths.root)
    words = ["--in_optimisation_set", "Select/job002/optimisation_set.star", "--box_size_px", "24", "--quiet"]
    assert main(["extract", *words]) == 0
    assert (copy.paths.root / "Extract/job003/RELION_JOB_EXIT_SUCCESS").exists()
    assert main(["reconstruct", *words]) == 0
    words[1] = "Extract/job003/optimisation_set.star"
    assert main(["reconstruct", *words]) == 0
    one, two = (read_volume(f"Reconstruct/job00{n}/merged.mrc").data for n in (4, 5))
    np.testing.assert_allclose(one, two, atol=1e-3 * one.std())


def test_relions_command_line():
    job = job_named("extract").from_text(
        {
            "in_parts": "p.star", "in_tomograms": "t.star", "binning": 2, "box_size_px": 96, "crop_size_px": 48,
            "max_dose_e_per_angst2": 50, "min_frames": 3, "float16": "No", "apply_ctf": "No",
        }
    )  # fmt: skip
    words = job.relion_command("Extract/job009/").split()
    assert words[0] == "relion_tomo_subtomo"
    pairs = {"--p": "p.star", "--t": "t.star", "--o": "Extract/job009/", "--b": "96", "--crop": "48", "--bin": "2",
             "--max_dose": "50", "--min_frames": "3", "--theme": "classic"}  # fmt: skip
    for flag, value in pairs.items():
        assert words[words.index(flag) + 1] == value
    assert {"--stack2d", "--no_ctf"} <= set(words)
    assert not {"--float16", "--no_ic", "--no_circle_crop"} & set(words)
