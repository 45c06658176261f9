"""Recentre: RELION's own rows, the printed example, units, priors, and what is refused."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from napari_sta.data.errors import InputError
from napari_sta.io.relion.optimisation_set import read_optimisation_set
from napari_sta.io.relion.particles import read_particles
from napari_sta.io.star import read_star, table, write_star
from napari_sta.jobs._job import job_named
from tiny_project import finish

ORIGINS = ("rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst")


def recenter(out, **values):
    return finish(job_named("recenter").from_text(values), out)


@pytest.fixture
def project(data, tmp_path, monkeypatch):
    """RELION's own files; the job is started in their project folder."""
    root = shutil.copytree(data / "project", tmp_path / "project")
    monkeypatch.chdir(root)
    return root


def test_relions_rows(project):
    """relion_star_handler --center --center_Z 2.75 on the same particles."""
    recenter(project / "out", in_parts="Extract/job024/particles.star", center_z_px="2.75")
    ours = read_star(project / "out/particles.star")
    theirs = read_star(project / "Extract/job024/particles2.75.star")
    before = read_star(project / "Extract/job024/particles.star")["particles"]
    assert list(ours) == list(theirs)
    for name in theirs:
        assert list(ours[name].columns) == list(theirs[name].columns)
        for label in theirs[name].columns:
            if label in ORIGINS:
                a, b = (one[name][label].astype(float) for one in (ours, theirs))
                np.testing.assert_allclose(a, b, atol=1e-5)
                assert np.abs(a - before[label].astype(float)).max() > 0.1
            else:
                assert ours[name][label].tolist() == theirs[name][label].tolist(), label


def test_the_set_that_is_written(project):
    record = recenter(
        project / "out", in_optimisation_set="Extract/job024/optimisation_set.star", center_z_px="2.75"
    )
    entries = read_optimisation_set(project / "out/optimisation_set.star")
    assert entries["rlnTomoParticlesFile"] == "out/particles.star"
    assert entries["rlnTomoTomogramsFile"] == "Tomograms/job007/tomograms.star"
    assert record["center_xyz_px"] == [0.0, 0.0, 2.75]
    assert record["center_xyz_angst"] == pytest.approx([0, 0, 2.75 * 2.7])
    assert record["summary"] == "Density at Z=+2.75 px becomes the centre of 12 particles."


def small_table(tmp_path, optics=None, **columns):
    """Two particles of the specification's example, at 1.35 Å."""
    optics = {"rlnOpticsGroup": [1], "rlnOpticsGroupName": ["o"], "rlnTomoTiltSeriesPixelSize": [1.35]} | (
        optics or {}
    )
    rows = {
        "rlnTomoName": ["TS_1", "TS_1"], "rlnTomoParticleName": ["TS_1/1", "TS_1/2"],
        "rlnCenteredCoordinateXAngst": [100.0, 1.0], "rlnCenteredCoordinateYAngst": [200.0, 2.0],
        "rlnCenteredCoordinateZAngst": [300.0, 3.0],
        "rlnTomoSubtomogramRot": [40.0, 0.0], "rlnTomoSubtomogramTilt": [70.0, 0.0], "rlnTomoSubtomogramPsi": [15.0, 0.0],
        "rlnAngleRot": [10.0, 0.0], "rlnAngleTilt": [20.0, 90.0], "rlnAnglePsi": [30.0, 0.0],
        "rlnOriginXAngst": [5.4, 0.0], "rlnOriginYAngst": [-2.7, 0.0], "rlnOriginZAngst": [8.1, 0.0],
        "rlnOpticsGroup": [1, 1], "rlnRandomSubset": [1, 2],
    } | columns  # fmt: skip
    path = tmp_path / "particles.star"
    write_star(path, [table("optics", optics), table("particles", rows)])
    return path


def origins(path):
    return read_particles(path).origin_zyx_angst[:, ::-1]


def test_printed_example(tmp_path):
    """Angles (10, 20, 30), o = (5.4, -2.7, 8.1), 1.35 Å, c = (0, 0, 2.75): the subtomogram angles play no part."""
    path = small_table(tmp_path)
    recenter(tmp_path / "out", in_parts=str(path), center_z_px="2.75")
    found = origins(tmp_path / "out/particles.star")
    np.testing.assert_allclose(found[0], [6.499635, -3.334875, 4.611391], atol=1e-5)
    # Tilt 90 lays z of the reference along -x of the subtomogram.
    np.testing.assert_allclose(found[1], [2.75 * 1.35, 0, 0], atol=1e-5)


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_there_and_back(tmp_path, axis):
    path = small_table(tmp_path)
    recenter(tmp_path / "a", in_parts=str(path), **{f"center_{axis}_px": 3.125})
    recenter(tmp_path / "b", in_parts=str(tmp_path / "a/particles.star"), **{f"center_{axis}_px": -3.125})
    assert np.abs(origins(tmp_path / "a/particles.star") - origins(path)).max() > 1
    np.testing.assert_allclose(origins(tmp_path / "b/particles.star"), origins(path), atol=2e-6)


@pytest.mark.parametrize(
    ("optics", "given", "pixel"),
    [
        pytest.param({}, None, 1.35, id="tilt series, before extraction"),
        pytest.param({"rlnImagePixelSize": [5.4]}, None, 5.4, id="extracted images"),
        pytest.param({"rlnImagePixelSize": [5.4]}, 2.0, 2.0, id="given"),
    ],
)
def test_whose_pixels(tmp_path, optics, given, pixel):
    path = small_table(tmp_path, optics)
    values = {} if given is None else {"pixel_size_angst": given}
    recenter(tmp_path / "out", in_parts=str(path), center_z_px="2", **values)
    assert origins(tmp_path / "out/particles.star")[1, 0] == pytest.approx(2 * pixel, abs=1e-5)


def test_each_optics_group_has_its_own_pixels(tmp_path):
    optics = {
        "rlnOpticsGroup": [1, 2],
        "rlnOpticsGroupName": ["a", "b"],
        "rlnTomoTiltSeriesPixelSize": [1.35, 2.7],
    }
    path = small_table(
        tmp_path, optics, rlnOpticsGroup=[1, 2], rlnAngleRot=[0, 0], rlnAnglePsi=[0, 0], rlnAngleTilt=[90, 90],
        rlnOriginXAngst=[0, 0], rlnOriginYAngst=[0, 0], rlnOriginZAngst=[0, 0],
    )  # fmt: skip
    recenter(tmp_path / "out", in_parts=str(path), center_z_px="2")
    np.testing.assert_allclose(origins(tmp_path / "out/particles.star")[:, 0], [2.7, 5.4], atol=1e-5)


def test_priors_move_along(tmp_path):
    """What stood between a prior and its origin stays; RELION would leave the prior behind."""
    priors = {
        "rlnOriginXPriorAngst": [5.0, 0.5],
        "rlnOriginYPriorAngst": [-3.0, 0.0],
        "rlnOriginZPriorAngst": [8.0, 0.0],
    }
    path = small_table(tmp_path, **priors)
    recenter(tmp_path / "out", in_parts=str(path), center_z_px="2.75", center_x_px="-1")
    for one in (path, tmp_path / "out/particles.star"):
        rows = read_star(one)["particles"]
        gap = [
            rows[f"rlnOrigin{a}PriorAngst"].astype(float) - rows[f"rlnOrigin{a}Angst"].astype(float)
            for a in "XYZ"
        ]
        np.testing.assert_allclose(gap, [[-0.4, 0.5], [-0.3, 0.0], [-0.1, 0.0]], atol=2e-5)


@pytest.mark.parametrize("text", ["<NA>", "nan", "", "None"])
def test_a_prior_that_is_not_there_stays_away(tmp_path, text):
    """Sets joined from picks with and without priors."""
    priors = {f"rlnOrigin{axis}PriorAngst": [text, 1.0] for axis in "XYZ"}
    path = small_table(tmp_path, **priors)
    recenter(tmp_path / "out", in_parts=str(path), center_z_px="2.75")
    rows = read_star(tmp_path / "out/particles.star")["particles"]
    moved = [float(rows[f"rlnOrigin{axis}PriorAngst"][1]) for axis in "XYZ"]
    assert [rows[f"rlnOrigin{axis}PriorAngst"][0] for axis in "XYZ"] == [text] * 3
    assert np.linalg.norm(np.array(moved) - 1) > 1


@pytest.mark.parametrize("text", ["ten", "[1", "inf"])
def test_a_prior_that_is_no_number_is_refused(tmp_path, text):
    path = small_table(tmp_path, rlnOriginXPriorAngst=[1.0, text])
    with pytest.raises(InputError, match=r"row 2 .*rlnOriginXPriorAngst"):
        job_named("recenter").from_text({"in_parts": str(path)}).check()


def test_missing_origins_count_as_zero(tmp_path):
    path = small_table(tmp_path)
    tables = read_star(path)
    rows = {k: v for k, v in tables["particles"].columns.items() if not k.startswith("rlnOrigin")}
    write_star(path, [tables["optics"], table("particles", rows)])
    recenter(tmp_path / "out", in_parts=str(path), center_z_px="2")
    np.testing.assert_allclose(origins(tmp_path / "out/particles.star")[1], [2.7, 0, 0], atol=1e-5)


def test_no_set_without_tomograms(tmp_path, caplog):
    recenter(tmp_path / "out", in_parts=str(small_table(tmp_path)), center_z_px="1")
    assert not (tmp_path / "out/optimisation_set.star").exists()
    assert "no tomogram set was given" in caplog.text


def test_large_shifts_are_warned_of(project):
    job = job_named("recenter").from_text({"in_parts": "Extract/job024/particles.star", "center_z_px": 30})
    assert any(
        "30 px is more than a quarter of the subtomograms' box (96 px)" in line for line in job.warnings()
    )
    small = job_named("recenter").from_text({"in_parts": "Extract/job024/particles.star", "center_z_px": 20})
    assert not small.warnings()


def test_no_particles(tmp_path):
    path = small_table(tmp_path)
    tables = read_star(path)
    rows = {k: v[:0] for k, v in tables["particles"].columns.items()}
    write_star(path, [tables["optics"], table("particles", rows)])
    with pytest.raises(InputError, match=r"particles\.star"):
        recenter(tmp_path / "out", in_parts=str(path), center_z_px="1")
    assert not (tmp_path / "out/particles.star").exists()


def test_command_of_relion():
    job = job_named("recenter").from_text({"in_parts": "p.star", "center_z_px": 2.75, "center_x_px": -1})
    expected = "relion_star_handler --i p.star --o External/job005/particles.star --center --center_X -1 --center_Z 2.75"
    assert job.relion_command("External/job005/") == expected
