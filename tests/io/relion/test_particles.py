"""Particle sets, read and written."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from napari_sta.data.errors import InputError
from napari_sta.io.relion.axes import ANGLES, SUBTOMOGRAM_ANGLES
from napari_sta.io.relion.inputs import load_sta_inputs
from napari_sta.io.relion.particles import read_particles, write_particles
from napari_sta.io.star import Table, read_star, text_column, write_star
from star_edits import PARTICLES, edit, with_value, without_columns

PARTICLE_FILES = [
    "Extract/job024/particles.star",
    "Extract/job024/particles2.75.star",
    "Select/job023/particles.star",
    "Extract/job030/particles.star",
    "Refine3D/job016/run_it003_data.star",
]


@pytest.mark.parametrize("file", PARTICLE_FILES)
def test_particles_survive_verbatim(project, file):
    write_particles("copy.star", read_particles(file))
    before, after = read_star(file), read_star("copy.star")
    assert list(before) == list(after)
    for name, table in before.items():
        assert list(table.columns) == list(after[name].columns)
        for label, column in table.columns.items():
            assert column.tolist() == after[name][label].tolist(), label


def test_axes_and_angles_land_in_their_fields(project):
    particles = read_particles("Extract/job024/particles2.75.star")
    assert len(particles) == 12
    assert particles.tomogram[0] == "TS_01"
    assert particles.name[0] == "TS_01/1"
    # x 223.979334, y 112.209220, z 200.459047
    assert particles.coordinate_zyx_angst[0].tolist() == [200.459047, 112.20922, 223.979334]
    assert particles.origin_zyx_angst[0].tolist() == [-0.45084, 0.330845, 7.403912]
    assert particles.angles_deg[0].tolist() == [149.737092, 86.518872, -2.55857]
    assert particles.subtomogram_angles_deg[0].tolist() == [127.923499, 87.575225, 62.188362]
    assert particles.half_set is not None
    assert particles.half_set[:4].tolist() == [1, 2, 1, 2]
    (group,) = particles.optics
    assert (group.number, group.name, group.pixel_size_angst) == (1, "optics1", 2.7)
    assert (group.image_pixel_size_angst, group.image_size_px, group.voltage_kv) == (2.7, 96, 300.0)


def test_only_what_changed_is_rewritten(project):
    path = "Extract/job024/particles.star"
    particles = read_particles(path)
    origin = particles.origin_zyx_angst.copy()
    origin[2] = [-7.425123456, 0.5, 1 / 3]
    write_particles("new.star", replace(particles, origin_zyx_angst=origin))
    before, after = read_star(path)["particles"], read_star("new.star")["particles"]
    for label in before.columns:
        changed = [i for i in range(12) if before[label][i] != after[label][i]]
        assert changed == ([2] if label.startswith("rlnOrigin") else []), label
    assert after["rlnOriginZAngst"][2] == "-7.425123"
    assert after["rlnOriginXAngst"][2] == "0.333333"


def test_rows_are_kept_with_all_their_columns(project):
    particles = read_particles("Refine3D/job016/run_it003_data.star")
    write_particles("some.star", particles[particles.half_set == 2])
    before, after = (
        read_star("Refine3D/job016/run_it003_data.star")["particles"],
        read_star("some.star")["particles"],
    )
    rows = before["rlnRandomSubset"] == "2"
    for label, column in before.columns.items():
        assert column[rows].tolist() == after[label].tolist()


def test_origins_and_angles_are_always_written(project):
    path = Path("Extract/job024/particles.star")
    without_columns(
        path,
        "particles",
        "rlnOriginZAngst",
        "rlnTomoSubtomogramRot",
        "rlnTomoSubtomogramTilt",
        "rlnTomoSubtomogramPsi",
        "rlnTomoParticleName",
    )
    particles = read_particles(path)
    assert particles.name[:2].tolist() == ["TS_01/1", "TS_01/2"]
    assert particles.name[6] == "TS_03/1"
    assert not particles.subtomogram_angles_deg.any()
    write_particles("new.star", particles)
    written = read_star("new.star")["particles"]
    for label in (
        "rlnOriginXAngst",
        "rlnOriginYAngst",
        "rlnOriginZAngst",
        *ANGLES,
        *SUBTOMOGRAM_ANGLES,
    ):
        assert label in written
    assert written["rlnOriginZAngst"].tolist() == ["0.000000"] * 12
    assert written["rlnTomoParticleName"][0] == "TS_01/1"


def test_unknown_tables_and_columns_are_kept(project):
    path = Path("Extract/job024/particles.star")
    with_value(path, "particles", "rlnMyColumn", "a b")
    tables = read_star(path)
    extra = Table("mine", {"rlnX": text_column(["001", ""])})
    write_star(path, [extra, *tables.values()])
    write_particles("new.star", read_particles(path))
    after = read_star("new.star")
    assert list(after) == ["general", "optics", "particles", "mine"]
    assert after["mine"]["rlnX"].tolist() == ["001", ""]
    assert set(after["particles"]["rlnMyColumn"]) == {"a b"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(
            lambda p: without_columns(p, "particles", "rlnTomoName"),
            "no column rlnTomoName",
            id="no tomogram",
        ),
        pytest.param(
            lambda p: without_columns(p, "particles", "rlnCenteredCoordinateYAngst"),
            "has rlnCenteredCoordinateXAngst and rlnCenteredCoordinateZAngst but no rlnCenteredCoordinateYAngst",
            id="no y",
        ),
        pytest.param(
            lambda p: with_value(p, "particles", "rlnCenteredCoordinateYAngst", "nan", 3),
            r"row 4 \(particle TS_01/4\): 'nan' in column rlnCenteredCoordinateYAngst is not a finite number",
            id="nan",
        ),
        pytest.param(
            lambda p: with_value(p, "particles", "rlnAngleTilt", "ten", 0),
            "'ten' in column rlnAngleTilt",
            id="word",
        ),
        pytest.param(
            lambda p: with_value(p, "particles", "rlnOpticsGroup", "4", 5),
            "optics group 4",
            id="unknown optics",
        ),
        pytest.param(
            lambda p: without_columns(p, "particles", "rlnAngleTilt"),
            "has rlnAngleRot but no rlnAngleTilt; an orientation needs all of",
            id="two of three angles",
        ),
        pytest.param(
            lambda p: without_columns(p, "particles", "rlnOpticsGroup"),
            "no column rlnOpticsGroup",
            id="no optics column",
        ),
        pytest.param(
            lambda p: without_columns(p, "optics", "rlnTomoTiltSeriesPixelSize"),
            "no rlnTomoTiltSeriesPixelSize",
            id="no pixel size",
        ),
        pytest.param(
            lambda p: edit(p, ("data_particles", "data_micrographs")), "no table data_particles", id="table"
        ),
    ],
)
def test_what_particle_files_are_refused(project, change, words):
    path = Path("Extract/job024/particles.star")
    change(path)
    with pytest.raises(InputError, match=words) as error:
        read_particles(path)
    assert "Extract/job024/particles.star" in str(error.value)


def test_empty_particle_set(project):
    path = Path("Extract/job024/particles.star")
    tables = read_star(path)
    empty = Table("particles", {label: text_column([]) for label in tables["particles"].columns})
    write_star(path, tables | {"particles": empty})
    with pytest.raises(InputError, match=r"particles\.star holds no particles"):
        load_sta_inputs("Extract/job024/optimisation_set.star")


def test_not_finite_is_not_written(project):
    particles = read_particles("Extract/job024/particles.star")
    bad = particles.coordinate_zyx_angst.copy()
    bad[3, 0] = np.nan
    with pytest.raises(InputError, match="rlnCenteredCoordinateZAngst holds a value that is not"):
        write_particles("new.star", replace(particles, coordinate_zyx_angst=bad))
    assert not Path("new.star").exists()


def test_pixel_coordinates_need_the_tomograms(project, data):
    with pytest.raises(InputError, match=r"coordinates in pixels.*--in_tomograms"):
        read_particles(data / "relion4/particles.star")
    shutil.copy(data / "relion4/particles.star", "p4.star")
    inputs = load_sta_inputs(
        in_parts="p4.star", in_tomograms="Tomograms/job007/tomograms.star", need_tomograms=False
    )
    assert inputs.particles.coordinate_zyx_angst[0].tolist() == pytest.approx([202.5, 116.1, 218.7])


@pytest.mark.parametrize("lacking", "XYZ")
@pytest.mark.parametrize("label", ["rlnCenteredCoordinate{}Angst", "rlnCoordinate{}"])
def test_the_missing_coordinate_is_named(project, label, lacking):
    without_columns(PARTICLES, "particles", *(f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ"))
    for axis in set("XYZ") - {lacking}:
        with_value(PARTICLES, "particles", label.format(axis), "1.0")
    with pytest.raises(InputError, match=f"but no {label.format(lacking)};"):
        read_particles(PARTICLES)
