"""Tomogram sets."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from napari_sta.data.errors import InputError
from napari_sta.io.relion.particles import read_particles, write_particles
from napari_sta.io.relion.tilt_series import read_tilt_series_set
from napari_sta.io.star import read_star
from star_edits import edit, with_value, without_columns


def test_relion4_is_the_same_as_relion5(project, data):
    """The files in relion4/ were made from the excerpt by the published formulas, not by our readers."""
    from napari_sta.kernels.projection import projection_matrices_zyx

    old = read_tilt_series_set(data / "relion4/tomograms.star")
    new = read_tilt_series_set("Tomograms/job007/tomograms.star")
    assert list(old) == list(new) == ["TS_01", "TS_03"]
    for name in old:
        assert old[name].angles_xyz_deg is None
        assert new[name].matrices_zyx is None
        shift_px = new[name].shift_yx_angst / new[name].pixel_size_angst
        expected = projection_matrices_zyx(
            new[name].angles_xyz_deg, shift_px, new[name].size_zyx_px, (384, 384)
        )
        np.testing.assert_allclose(old[name].matrices_zyx, expected, atol=1e-8)
        np.testing.assert_array_equal(old[name].defocus_u_angst, new[name].defocus_u_angst)
        assert old[name].hand == new[name].hand == -1
        assert old[name].size_zyx_px == (340, 384, 384)
    particles = read_particles(data / "relion4/particles.star", old)
    expected_particles = read_particles("Select/job023/particles.star")
    np.testing.assert_allclose(
        particles.coordinate_zyx_angst, expected_particles.coordinate_zyx_angst, atol=1e-6
    )
    write_particles("new.star", particles)
    written = read_star("new.star")["particles"]
    assert "rlnCoordinateX" not in written
    np.testing.assert_allclose(
        written["rlnCenteredCoordinateXAngst"].astype(float),
        expected_particles.coordinate_zyx_angst[:, 2],
        atol=1e-6,
    )


def test_tilt_series_fields(project):
    series = read_tilt_series_set("Tomograms/job007/tomograms.star", ["TS_03"])
    assert list(series) == ["TS_03"]
    one = series["TS_03"]
    assert one.n_tilts == 21
    assert one.angles_xyz_deg[0].tolist() == [0.0, -60.0, 85.328735]
    assert one.shift_yx_angst[0].tolist() == [22.598171, 14.95675]
    assert one.dose_e_per_angst2[0] == 49.4
    assert one.defocus_u_angst[0] == 21823.389937
    assert one.ctf_scale[0] == 0.5
    assert not one.phase_shift_deg.any()
    assert one.images[20] == ("tilt_stacks/TS_03.mrc", 20)
    assert one.optics_group_name == "optics1"
    assert one.centre_zyx_px.tolist() == [170, 192, 192]


def test_images_named_row_by_row(project):
    path = Path("Tomograms/job007/tomograms.star")
    without_columns(path, "global", "rlnTomoTiltSeriesName", "rlnTomoFrameCount")
    with_value(
        Path("Tomograms/job007/tilt_series/TS_01.star"),
        "TS_01",
        "rlnMicrographName",
        "5@tilt_stacks/TS_03.mrc",
        0,
    )
    one = read_tilt_series_set(path)["TS_01"]
    assert one.images[:2] == (("tilt_stacks/TS_03.mrc", 4), ("tilt_stacks/TS_01.mrc", 1))


TILTS = Path("Tomograms/job007/tilt_series/TS_01.star")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(
            lambda p: without_columns(p, "global", "rlnTomoHand"),
            "tomogram TS_01 has no rlnTomoHand",
            id="hand",
        ),
        pytest.param(
            lambda p: with_value(p, "global", "rlnTomoHand", "0", 0), "rlnTomoHand is 0", id="hand 0"
        ),
        pytest.param(lambda p: without_columns(p, "global", "rlnVoltage"), "no rlnVoltage", id="voltage"),
        pytest.param(
            lambda p: without_columns(p, "global", "rlnTomoSizeZ"), "rlnTomoSizeZ is missing", id="size"
        ),
        pytest.param(
            lambda p: with_value(p, "global", "rlnAmplitudeContrast", "1.5", 0),
            "must lie between 0 and 1",
            id="contrast",
        ),
        pytest.param(
            lambda p: with_value(p, "global", "rlnTomoTiltSeriesPixelSize", "0", 0),
            "must be above 0",
            id="pixel size",
        ),
        pytest.param(
            lambda p: with_value(p, "global", "rlnTomoName", "TS_03", 0),
            "lists tomogram TS_03 twice",
            id="twice",
        ),
        pytest.param(
            lambda p: with_value(p, "global", "rlnTomoFrameCount", "20", 0),
            "21 rows.*is 20",
            id="frame count",
        ),
        pytest.param(
            lambda p: with_value(p, "global", "rlnTomoTiltSeriesStarFile", "gone.star", 0),
            "gone.star does not exist",
            id="no per-tilt file",
        ),
        pytest.param(
            lambda p: with_value(p, "global", "rlnTomoTiltSeriesName", "gone.mrc", 0),
            "gone.mrc does not exist",
            id="no images",
        ),
        pytest.param(
            lambda _: edit(TILTS, ("data_TS_01", "data_TS_1")), "no table data_TS_01.*data_TS_1", id="name"
        ),
        pytest.param(
            lambda _: without_columns(TILTS, "TS_01", "rlnMicrographPreExposure"),
            "no column rlnMicrographPreExposure",
            id="dose",
        ),
        pytest.param(
            lambda _: without_columns(TILTS, "TS_01", "rlnDefocusV"), "no column rlnDefocusV", id="defocus"
        ),
        pytest.param(
            lambda _: without_columns(TILTS, "TS_01", "rlnTomoZRot", "rlnTomoXShiftAngst"),
            r"no alignment \(rlnTomoZRot, rlnTomoXShiftAngst missing\)",
            id="alignment",
        ),
        pytest.param(
            lambda p: (
                with_value(p, "global", "rlnTomoDeformationGridSizeX", "2"),
                with_value(p, "global", "rlnTomoDeformationGridSizeY", "2"),
                with_value(p, "global", "rlnTomoDeformationType", "wavy"),
            ),
            "rlnTomoDeformationType is 'wavy'",
            id="deformation",
        ),
    ],
)
def test_what_tomogram_sets_are_refused(project, change, words):
    path = Path("Tomograms/job007/tomograms.star")
    change(path)
    with pytest.raises(InputError, match=words) as error:
        read_tilt_series_set(path)
    assert "Tomograms/job007/" in str(error.value)


def test_deformations(project):
    path = Path("Tomograms/job007/tomograms.star")
    for label, value in (("GridSizeX", "3"), ("GridSizeY", "4"), ("Type", "linear")):
        with_value(path, "global", f"rlnTomoDeformation{label}", value)
    with pytest.raises(InputError, match="no column rlnTomoDeformationCoefficients"):
        read_tilt_series_set(path)
    for name in ("TS_01", "TS_03"):
        with_value(TILTS.with_name(f"{name}.star"), name, "rlnTomoDeformationCoefficients", "[0.1,0.2,0.3]")
    deformation = read_tilt_series_set(path)["TS_01"].deformation
    assert (deformation.kind, deformation.grid_xy) == ("linear", (3, 4))
    assert deformation.coefficients[20].tolist() == [0.1, 0.2, 0.3]
    with_value(TILTS, "TS_01", "rlnTomoDeformationCoefficients", "[1,2]", 4)
    with pytest.raises(InputError, match=r"row 5.*has 2 numbers"):
        read_tilt_series_set(path)


@pytest.mark.parametrize(
    "text", ["<NA>", "nan", "", "[1,0,0]", "[nan,0,0,0]", "[<NA>,0,0,0]", "[1e300,0,0,0]", "[inf,0,0,0]"]
)
@pytest.mark.parametrize("label", ["rlnTomoProjX", "rlnTomoProjW"])
def test_matrices_of_numbers_that_can_be(project, data, label, text):
    path = Path("tomograms4.star")
    shutil.copy(data / "relion4/tomograms.star", path)
    with_value(path, "TS_03", label, text, 6)
    with pytest.raises(InputError, match=rf"tomograms4\.star, table data_TS_03, row 7: .*{label}"):
        read_tilt_series_set(path)


@pytest.mark.parametrize("text", ["1e30", "1e18", "-5", "2.5", "nan"])
def test_sizes_that_no_tomogram_has(project, text):
    path = Path("Tomograms/job007/tomograms.star")
    with_value(path, "global", "rlnTomoSizeX", text, 0)
    with pytest.raises(InputError, match=r"tomograms\.star, tomogram TS_01: .*rlnTomoSizeX"):
        read_tilt_series_set(path)
