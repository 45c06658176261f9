"""Particle, tomogram, trajectory and optimisation sets."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from napari_sta.data.errors import InputError
from napari_sta.io import relion
from napari_sta.io.star import Table, read_star, text_column, write_star


@pytest.fixture
def project(data, tmp_path, monkeypatch) -> Path:
    """A copy of the excerpt of a RELION project that may be changed; the current folder."""
    root = tmp_path / "project"
    shutil.copytree(data / "project", root)
    # The set names stacks that are not part of the excerpt.
    from napari_sta.io.mrc import write_stack

    for name in ("TS_01", "TS_03"):
        write_stack(root / f"tilt_stacks/{name}.mrc", np.zeros((21, 8, 8), np.float32), 2.7)
    monkeypatch.chdir(root)
    return root


def _edit(path: Path, *changes: tuple[str, str]) -> None:
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text)


def _without(path: Path, table: str, *labels: str) -> None:
    tables = read_star(path)
    kept = {label: column for label, column in tables[table].columns.items() if label not in labels}
    assert len(kept) == len(tables[table].columns) - len(labels)
    write_star(path, tables | {table: Table(table, kept)})


def _with(path: Path, table: str, label: str, value: str, row: int | None = None) -> None:
    tables = read_star(path)
    old = tables[table].columns.get(label, text_column([""] * len(tables[table])))
    column = old.copy()
    column[slice(None) if row is None else row] = value
    write_star(path, tables | {table: Table(table, {**tables[table].columns, label: column})})


# ---- particles

PARTICLE_FILES = [
    "Extract/job024/particles.star",
    "Extract/job024/particles2.75.star",
    "Select/job023/particles.star",
    "Extract/job030/particles.star",
    "Refine3D/job016/run_it003_data.star",
]


@pytest.mark.parametrize("file", PARTICLE_FILES)
def test_particles_survive_verbatim(project, file):
    relion.write_particles("copy.star", relion.read_particles(file))
    before, after = read_star(file), read_star("copy.star")
    assert list(before) == list(after)
    for name, table in before.items():
        assert list(table.columns) == list(after[name].columns)
        for label, column in table.columns.items():
            assert column.tolist() == after[name][label].tolist(), label


def test_axes_and_angles_land_in_their_fields(project):
    particles = relion.read_particles("Extract/job024/particles2.75.star")
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
    particles = relion.read_particles(path)
    origin = particles.origin_zyx_angst.copy()
    origin[2] = [-7.425123456, 0.5, 1 / 3]
    relion.write_particles("new.star", replace(particles, origin_zyx_angst=origin))
    before, after = read_star(path)["particles"], read_star("new.star")["particles"]
    for label in before.columns:
        changed = [i for i in range(12) if before[label][i] != after[label][i]]
        assert changed == ([2] if label.startswith("rlnOrigin") else []), label
    assert after["rlnOriginZAngst"][2] == "-7.425123"
    assert after["rlnOriginXAngst"][2] == "0.333333"


def test_rows_are_kept_with_all_their_columns(project):
    particles = relion.read_particles("Refine3D/job016/run_it003_data.star")
    relion.write_particles("some.star", particles[particles.half_set == 2])
    before, after = (
        read_star("Refine3D/job016/run_it003_data.star")["particles"],
        read_star("some.star")["particles"],
    )
    rows = before["rlnRandomSubset"] == "2"
    for label, column in before.columns.items():
        assert column[rows].tolist() == after[label].tolist()


def test_origins_and_angles_are_always_written(project):
    path = Path("Extract/job024/particles.star")
    _without(
        path,
        "particles",
        "rlnOriginZAngst",
        "rlnTomoSubtomogramRot",
        "rlnTomoSubtomogramTilt",
        "rlnTomoSubtomogramPsi",
        "rlnTomoParticleName",
    )
    particles = relion.read_particles(path)
    assert particles.name[:2].tolist() == ["TS_01/1", "TS_01/2"]
    assert particles.name[6] == "TS_03/1"
    assert not particles.subtomogram_angles_deg.any()
    relion.write_particles("new.star", particles)
    written = read_star("new.star")["particles"]
    for label in (
        "rlnOriginXAngst",
        "rlnOriginYAngst",
        "rlnOriginZAngst",
        *relion.ANGLES,
        *relion.SUBTOMOGRAM_ANGLES,
    ):
        assert label in written
    assert written["rlnOriginZAngst"].tolist() == ["0.000000"] * 12
    assert written["rlnTomoParticleName"][0] == "TS_01/1"


def test_unknown_tables_and_columns_are_kept(project):
    path = Path("Extract/job024/particles.star")
    _with(path, "particles", "rlnMyColumn", "a b")
    tables = read_star(path)
    extra = Table("mine", {"rlnX": text_column(["001", ""])})
    write_star(path, [extra, *tables.values()])
    relion.write_particles("new.star", relion.read_particles(path))
    after = read_star("new.star")
    assert list(after) == ["general", "optics", "particles", "mine"]
    assert after["mine"]["rlnX"].tolist() == ["001", ""]
    assert set(after["particles"]["rlnMyColumn"]) == {"a b"}


def test_optics_groups_are_written_in_order(project):
    path = Path("Extract/job024/particles.star")
    tables = read_star(path)
    optics = {
        label: text_column([column[0], column[0]]) for label, column in tables["optics"].columns.items()
    }
    optics["rlnOpticsGroup"] = text_column(["7", "3"])
    optics["rlnOpticsGroupName"] = text_column(["seven", "three"])
    numbers = text_column(["7", "3"] * 6)
    particles = {**tables["particles"].columns, "rlnOpticsGroup": numbers}
    write_star(path, tables | {"optics": Table("optics", optics), "particles": Table("particles", particles)})
    read = relion.read_particles(path)
    assert read.optics_of(7).name == "seven"
    relion.write_particles("new.star", read)
    after = read_star("new.star")
    assert after["optics"]["rlnOpticsGroup"].tolist() == ["1", "2"]
    assert after["optics"]["rlnOpticsGroupName"].tolist() == ["three", "seven"]
    assert after["particles"]["rlnOpticsGroup"].tolist() == ["2", "1"] * 6


def test_changed_optics_are_written(project):
    particles = relion.read_particles("Extract/job024/particles.star")
    group = replace(
        particles.optics[0], image_pixel_size_angst=5.4, image_size_px=48, odd_zernike=(0.5, -1.25)
    )
    relion.write_particles("new.star", replace(particles, optics=(group,)))
    row = read_star("new.star")["optics"].row()
    assert (row["rlnImagePixelSize"], row["rlnImageSize"]) == ("5.400000", "48")
    assert row["rlnOddZernike"] == "[0.5,-1.25]"
    assert row["rlnTomoTiltSeriesPixelSize"] == "2.700000"
    assert relion.read_particles("new.star").optics[0].odd_zernike == (0.5, -1.25)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(
            lambda p: _without(p, "particles", "rlnTomoName"), "no column rlnTomoName", id="no tomogram"
        ),
        pytest.param(
            lambda p: _without(p, "particles", "rlnCenteredCoordinateYAngst"),
            "has rlnCenteredCoordinateXAngst and rlnCenteredCoordinateZAngst but no rlnCenteredCoordinateYAngst",
            id="no y",
        ),
        pytest.param(
            lambda p: _with(p, "particles", "rlnCenteredCoordinateYAngst", "nan", 3),
            r"row 4 \(particle TS_01/4\): 'nan' in column rlnCenteredCoordinateYAngst is not a finite number",
            id="nan",
        ),
        pytest.param(
            lambda p: _with(p, "particles", "rlnAngleTilt", "ten", 0),
            "'ten' in column rlnAngleTilt",
            id="word",
        ),
        pytest.param(
            lambda p: _with(p, "particles", "rlnOpticsGroup", "4", 5), "optics group 4", id="unknown optics"
        ),
        pytest.param(
            lambda p: _without(p, "particles", "rlnAngleTilt"),
            "has rlnAngleRot but no rlnAngleTilt; an orientation needs all of",
            id="two of three angles",
        ),
        pytest.param(
            lambda p: _without(p, "particles", "rlnOpticsGroup"),
            "no column rlnOpticsGroup",
            id="no optics column",
        ),
        pytest.param(
            lambda p: _without(p, "optics", "rlnTomoTiltSeriesPixelSize"),
            "no rlnTomoTiltSeriesPixelSize",
            id="no pixel size",
        ),
        pytest.param(
            lambda p: _edit(p, ("data_particles", "data_micrographs")), "no table data_particles", id="table"
        ),
    ],
)
def test_what_particle_files_are_refused(project, change, words):
    path = Path("Extract/job024/particles.star")
    change(path)
    with pytest.raises(InputError, match=words) as error:
        relion.read_particles(path)
    assert "Extract/job024/particles.star" in str(error.value)


def test_empty_particle_set(project):
    path = Path("Extract/job024/particles.star")
    tables = read_star(path)
    empty = Table("particles", {label: text_column([]) for label in tables["particles"].columns})
    write_star(path, tables | {"particles": empty})
    with pytest.raises(InputError, match=r"particles\.star holds no particles"):
        relion.load_sta_inputs("Extract/job024/optimisation_set.star")


def test_not_finite_is_not_written(project):
    particles = relion.read_particles("Extract/job024/particles.star")
    bad = particles.coordinate_zyx_angst.copy()
    bad[3, 0] = np.nan
    with pytest.raises(InputError, match="rlnCenteredCoordinateZAngst holds a value that is not"):
        relion.write_particles("new.star", replace(particles, coordinate_zyx_angst=bad))
    assert not Path("new.star").exists()


# ---- RELION 4 and fresh picks


def test_relion4_is_the_same_as_relion5(project, data):
    """The files in relion4/ were made from the excerpt by the published formulas, not by our readers."""
    from napari_sta.kernels.projection import projection_matrices_zyx

    old = relion.read_tilt_series_set(data / "relion4/tomograms.star")
    new = relion.read_tilt_series_set("Tomograms/job007/tomograms.star")
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
    particles = relion.read_particles(data / "relion4/particles.star", old)
    expected_particles = relion.read_particles("Select/job023/particles.star")
    np.testing.assert_allclose(
        particles.coordinate_zyx_angst, expected_particles.coordinate_zyx_angst, atol=1e-6
    )
    relion.write_particles("new.star", particles)
    written = read_star("new.star")["particles"]
    assert "rlnCoordinateX" not in written
    np.testing.assert_allclose(
        written["rlnCenteredCoordinateXAngst"].astype(float),
        expected_particles.coordinate_zyx_angst[:, 2],
        atol=1e-6,
    )


def test_pixel_coordinates_need_the_tomograms(project, data):
    with pytest.raises(InputError, match=r"coordinates in pixels.*--in_tomograms"):
        relion.read_particles(data / "relion4/particles.star")
    shutil.copy(data / "relion4/particles.star", "p4.star")
    inputs = relion.load_sta_inputs(
        in_parts="p4.star", in_tomograms="Tomograms/job007/tomograms.star", need_tomograms=False
    )
    assert inputs.particles.coordinate_zyx_angst[0].tolist() == pytest.approx([202.5, 116.1, 218.7])


def test_fresh_picks_get_optics_from_the_tomograms(project):
    picks = read_star("Select/job023/particles.star")["particles"]
    keep = (
        "rlnTomoName",
        "rlnCenteredCoordinateXAngst",
        "rlnCenteredCoordinateYAngst",
        "rlnCenteredCoordinateZAngst",
    )
    columns = {label: picks[label][::-1] for label in keep}  # TS_03 comes first now
    write_star("picks.star", [Table("particles", columns)])
    _with(Path("Tomograms/job007/tomograms.star"), "global", "rlnOpticsGroupName", "other", 1)
    alone = relion.read_particles("picks.star")
    assert alone.optics == ()
    relion.write_particles("again.star", alone)
    assert list(read_star("again.star")) == ["particles"]
    inputs = relion.load_sta_inputs(in_parts="picks.star", in_tomograms="Tomograms/job007/tomograms.star")
    assert [(g.number, g.name) for g in inputs.particles.optics] == [(1, "other"), (2, "optics1")]
    assert inputs.particles.optics_group.tolist() == [1] * 6 + [2] * 6
    relion.write_particles("new.star", inputs.particles)
    after = read_star("new.star")
    assert after["optics"].row()["rlnVoltage"] == "300.000000"
    assert after["particles"]["rlnOpticsGroup"].tolist() == ["1"] * 6 + ["2"] * 6
    assert relion.read_particles("new.star").optics[0].amplitude_contrast == 0.1


# ---- tilt series


def test_tilt_series_fields(project):
    series = relion.read_tilt_series_set("Tomograms/job007/tomograms.star", ["TS_03"])
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
    _without(path, "global", "rlnTomoTiltSeriesName", "rlnTomoFrameCount")
    _with(
        Path("Tomograms/job007/tilt_series/TS_01.star"),
        "TS_01",
        "rlnMicrographName",
        "5@tilt_stacks/TS_03.mrc",
        0,
    )
    one = relion.read_tilt_series_set(path)["TS_01"]
    assert one.images[:2] == (("tilt_stacks/TS_03.mrc", 4), ("tilt_stacks/TS_01.mrc", 1))


TILTS = Path("Tomograms/job007/tilt_series/TS_01.star")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(
            lambda p: _without(p, "global", "rlnTomoHand"), "tomogram TS_01 has no rlnTomoHand", id="hand"
        ),
        pytest.param(lambda p: _with(p, "global", "rlnTomoHand", "0", 0), "rlnTomoHand is 0", id="hand 0"),
        pytest.param(lambda p: _without(p, "global", "rlnVoltage"), "no rlnVoltage", id="voltage"),
        pytest.param(lambda p: _without(p, "global", "rlnTomoSizeZ"), "rlnTomoSizeZ is missing", id="size"),
        pytest.param(
            lambda p: _with(p, "global", "rlnAmplitudeContrast", "1.5", 0),
            "must lie between 0 and 1",
            id="contrast",
        ),
        pytest.param(
            lambda p: _with(p, "global", "rlnTomoTiltSeriesPixelSize", "0", 0),
            "must be above 0",
            id="pixel size",
        ),
        pytest.param(
            lambda p: _with(p, "global", "rlnTomoName", "TS_03", 0), "lists tomogram TS_03 twice", id="twice"
        ),
        pytest.param(
            lambda p: _with(p, "global", "rlnTomoFrameCount", "20", 0), "21 rows.*is 20", id="frame count"
        ),
        pytest.param(
            lambda p: _with(p, "global", "rlnTomoTiltSeriesStarFile", "gone.star", 0),
            "gone.star does not exist",
            id="no per-tilt file",
        ),
        pytest.param(
            lambda p: _with(p, "global", "rlnTomoTiltSeriesName", "gone.mrc", 0),
            "gone.mrc does not exist",
            id="no images",
        ),
        pytest.param(
            lambda _: _edit(TILTS, ("data_TS_01", "data_TS_1")), "no table data_TS_01.*data_TS_1", id="name"
        ),
        pytest.param(
            lambda _: _without(TILTS, "TS_01", "rlnMicrographPreExposure"),
            "no column rlnMicrographPreExposure",
            id="dose",
        ),
        pytest.param(
            lambda _: _without(TILTS, "TS_01", "rlnDefocusV"), "no column rlnDefocusV", id="defocus"
        ),
        pytest.param(
            lambda _: _without(TILTS, "TS_01", "rlnTomoZRot", "rlnTomoXShiftAngst"),
            r"no alignment \(rlnTomoZRot, rlnTomoXShiftAngst missing\)",
            id="alignment",
        ),
        pytest.param(
            lambda p: (
                _with(p, "global", "rlnTomoDeformationGridSizeX", "2"),
                _with(p, "global", "rlnTomoDeformationGridSizeY", "2"),
                _with(p, "global", "rlnTomoDeformationType", "wavy"),
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
        relion.read_tilt_series_set(path)
    assert "Tomograms/job007/" in str(error.value)


def test_deformations(project):
    path = Path("Tomograms/job007/tomograms.star")
    for label, value in (("GridSizeX", "3"), ("GridSizeY", "4"), ("Type", "linear")):
        _with(path, "global", f"rlnTomoDeformation{label}", value)
    with pytest.raises(InputError, match="no column rlnTomoDeformationCoefficients"):
        relion.read_tilt_series_set(path)
    for name in ("TS_01", "TS_03"):
        _with(TILTS.with_name(f"{name}.star"), name, "rlnTomoDeformationCoefficients", "[0.1,0.2,0.3]")
    deformation = relion.read_tilt_series_set(path)["TS_01"].deformation
    assert (deformation.kind, deformation.grid_xy) == ("linear", (3, 4))
    assert deformation.coefficients[20].tolist() == [0.1, 0.2, 0.3]
    _with(TILTS, "TS_01", "rlnTomoDeformationCoefficients", "[1,2]", 4)
    with pytest.raises(InputError, match=r"row 5.*has 2 numbers"):
        relion.read_tilt_series_set(path)


# ---- trajectories


def test_trajectories(project):
    motion = relion.read_trajectories("Polish/job020/motion.star")
    assert len(motion.shift_zyx_angst) == 12
    table = read_star("Polish/job020/motion.star")["TS_03/2"]
    np.testing.assert_array_equal(
        motion.shift_zyx_angst["TS_03/2"][:, 0], table["rlnOriginZAngst"].astype(float)
    )
    relion.write_trajectories("copy.star", motion)
    again = relion.read_trajectories("copy.star")
    for name, shift in motion.shift_zyx_angst.items():
        np.testing.assert_allclose(again.shift_zyx_angst[name], shift, atol=1e-6)
    inputs = relion.load_sta_inputs(
        "Select/job023/optimisation_set.star", in_trajectories="Polish/job020/motion.star"
    )
    assert inputs.trajectories is not None


def test_trajectories_by_position(project):
    tables = list(read_star("Polish/job020/motion.star").values())
    numbered = [tables[0], *(Table(str(n), one.columns) for n, one in enumerate(tables[1:]))]
    write_star("old.star", numbered)
    names = relion.read_particles("Select/job023/particles.star").name.tolist()
    motion = relion.read_trajectories("old.star", names)
    assert list(motion.shift_zyx_angst) == names


def test_trajectories_that_do_not_fit(project):
    path = Path("Polish/job020/motion.star")
    tables = read_star(path)
    del tables["TS_01/3"]
    write_star("short.star", tables)
    with pytest.raises(InputError, match="announces 12 trajectories but holds 11"):
        relion.read_trajectories("short.star")
    tables["general"] = Table("general", {"rlnParticleNumber": text_column(["11"])}, is_loop=False)
    write_star("short.star", tables)
    with pytest.raises(InputError, match="no trajectory of particle TS_01/3"):
        relion.load_sta_inputs("Select/job023/optimisation_set.star", in_trajectories="short.star")
    tables = read_star(path)
    tables["TS_01/3"] = Table(
        "TS_01/3", {label: column[:20] for label, column in tables["TS_01/3"].columns.items()}
    )
    write_star("short.star", tables)
    with pytest.raises(InputError, match="particle TS_01/3 has 20 rows, its tilt series 21"):
        relion.load_sta_inputs("Select/job023/optimisation_set.star", in_trajectories="short.star")


# ---- optimisation sets and everything together


def test_sets_of_all_dialects(project):
    for path, particles in (
        ("Extract/job024/optimisation_set.star", "Extract/job024/particles.star"),  # RELION
        ("Extract/job024/optimisation_set2.75.star", "Extract/job024/particles2.75.star"),  # by hand
        ("Select/job023/optimisation_set.star", "Select/job023/particles.star"),  # starfile, named table
        ("Refine3D/job016/run_it003_optimisation_set.star", "Refine3D/job016/run_it003_data.star"),  # with ""
    ):
        assert relion.read_optimisation_set(path) == {
            "rlnTomoParticlesFile": particles,
            "rlnTomoTomogramsFile": "Tomograms/job007/tomograms.star",
        }
        assert relion.load_sta_inputs(path).trajectories is None


def test_set_keeps_what_we_do_not_use(project):
    _edit(
        Path("Extract/job024/optimisation_set.star"),
        ("_rlnTomoTomogramsFile", "_rlnTomoReferenceMaskFile masks/mask.mrc\n_rlnTomoTomogramsFile"),
    )
    Path("masks").mkdir()
    Path("masks/mask.mrc").touch()
    inputs = relion.load_sta_inputs("Extract/job024/optimisation_set.star")
    relion.write_particles("Recenter/job040/particles.star", inputs.particles)
    inputs.write_set("Recenter/job040/optimisation_set.star", "Recenter/job040/particles.star")
    assert relion.read_optimisation_set("Recenter/job040/optimisation_set.star") == {
        "rlnTomoParticlesFile": "Recenter/job040/particles.star",
        "rlnTomoTomogramsFile": "Tomograms/job007/tomograms.star",
        "rlnTomoReferenceMaskFile": "masks/mask.mrc",
    }
    inputs.write_set(project.parent / "elsewhere/set.star", "Recenter/job040/particles.star")
    entries = relion.read_optimisation_set(project.parent / "elsewhere/set.star")
    assert entries["rlnTomoReferenceMaskFile"] == str(project / "masks/mask.mrc")


def test_set_outside_the_project_can_be_read_from_anywhere(project, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    inputs = relion.load_sta_inputs(project / "Extract/job024/optimisation_set.star")
    out = tmp_path / "elsewhere"
    relion.write_particles(out / "particles.star", inputs.particles)
    inputs.write_set(out / "optimisation_set.star", out / "particles.star")
    entries = relion.read_optimisation_set(out / "optimisation_set.star")
    assert entries["rlnTomoTomogramsFile"] == str(project / "Tomograms/job007/tomograms.star")
    assert len(relion.load_sta_inputs(out / "optimisation_set.star").particles) == 12


def test_direct_entries_override_the_set(project):
    inputs = relion.load_sta_inputs(
        "Extract/job024/optimisation_set.star", in_parts="Extract/job024/particles2.75.star"
    )
    assert inputs.particles_path == Path("Extract/job024/particles2.75.star")
    assert inputs.tomograms_path == Path("Tomograms/job007/tomograms.star")
    assert inputs.particles.origin_zyx_angst.any()


def test_no_set_and_no_tomograms(project):
    with pytest.raises(InputError, match=r"no tomogram set is given.*--in_tomograms"):
        relion.load_sta_inputs(in_parts="Extract/job024/particles.star")
    with pytest.raises(InputError, match="no particle set is given"):
        relion.load_sta_inputs(in_tomograms="Tomograms/job007/tomograms.star")
    with pytest.raises(InputError, match="no optimisation set"):
        relion.load_sta_inputs("Extract/job024/particles.star")
    _edit(Path("Extract/job024/optimisation_set.star"), ("Tomograms/job007/tomograms.star", '""'))
    with pytest.raises(InputError, match=r"optimisation_set\.star has no rlnTomoTomogramsFile"):
        relion.load_sta_inputs("Extract/job024/optimisation_set.star")


def test_jobs_that_need_no_tilt_series_do_not_look_for_them(project, monkeypatch):
    shutil.rmtree("tilt_stacks")
    shutil.rmtree("Tomograms")
    inputs = relion.load_sta_inputs("Extract/job024/optimisation_set.star", need_tomograms=False)
    assert len(inputs.particles) == 12
    inputs.write_set("new.star", "Extract/job024/particles.star")
    assert (
        relion.read_optimisation_set("new.star")["rlnTomoTomogramsFile"] == "Tomograms/job007/tomograms.star"
    )
    with pytest.raises(InputError, match=r"tomograms\.star does not exist \(named in Extract"):
        relion.load_sta_inputs("Extract/job024/optimisation_set.star")
    monkeypatch.chdir("/")
    inputs = relion.load_sta_inputs(project / "Extract/job024/optimisation_set.star", need_tomograms=False)
    inputs.write_set(project / "Recenter/job040/set.star", project / "Extract/job024/particles.star")
    entries = relion.read_optimisation_set(project / "Recenter/job040/set.star")
    assert entries["rlnTomoTomogramsFile"] == "Tomograms/job007/tomograms.star"


def test_particles_of_unknown_tomograms(project):
    path = Path("Extract/job024/particles.star")
    tables = read_star(path)
    names = tables["particles"]["rlnTomoName"].copy()
    names[:2] = "TS_99"
    write_star(
        path,
        tables | {"particles": Table("particles", {**tables["particles"].columns, "rlnTomoName": names})},
    )
    inputs = relion.load_sta_inputs("Extract/job024/optimisation_set.star")
    assert len(inputs.particles) == 10
    assert inputs.warnings == (
        "2 of 12 particles are left out: Tomograms/job007/tomograms.star does not have their tomograms TS_99; "
        "its tomograms are TS_01, TS_03",
    )
    _with(path, "particles", "rlnTomoName", "TS_98")
    with pytest.raises(InputError, match=r"none of the particles of .*particles\.star.*TS_98"):
        relion.load_sta_inputs("Extract/job024/optimisation_set.star")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(
            lambda p: _with(p, "particles", "rlnRandomSubset", "3", 4),
            "row 5: rlnRandomSubset is 3",
            id="half set",
        ),
        pytest.param(
            lambda p: _with(p, "optics", "rlnTomoTiltSeriesPixelSize", "2.702"),
            "rlnTomoTiltSeriesPixelSize is 2.702 in optics group 1.*2.7 for tomogram TS_01",
            id="pixel size",
        ),
        pytest.param(
            lambda p: _with(p, "optics", "rlnVoltage", "200"), "rlnVoltage is 200 in optics", id="voltage"
        ),
        pytest.param(
            lambda p: _with(p, "optics", "rlnSphericalAberration", "0.01"), "Aberration is 0.01", id="Cs"
        ),
        pytest.param(
            lambda p: _with(p, "optics", "rlnAmplitudeContrast", "0.07"), "Contrast is 0.07", id="Q0"
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(project, change, words):
    change(Path("Extract/job024/particles.star"))
    with pytest.raises(InputError, match=words) as error:
        relion.load_sta_inputs("Extract/job024/optimisation_set.star")
    assert "Extract/job024/particles.star" in str(error.value)


def test_optics_may_differ_by_rounding(project):
    _with(Path("Extract/job024/particles.star"), "optics", "rlnTomoTiltSeriesPixelSize", "2.7005")
    relion.load_sta_inputs("Extract/job024/optimisation_set.star")


# ---- numbers

PARTICLES = Path("Extract/job024/particles.star")
_NO_NUMBER = ["<NA>", "", "None", "ten", "[1", "1_0", "1;2", "٣"]
_NO_FINITE_NUMBER = ["nan", "inf", "-inf", "1e400"]


@pytest.mark.parametrize("text", [*_NO_NUMBER, *_NO_FINITE_NUMBER, "1e30"])
@pytest.mark.parametrize(
    "label",
    ["rlnCenteredCoordinateXAngst", "rlnOriginYAngst", "rlnAngleRot", "rlnTomoSubtomogramPsi"],
)
def test_a_number_or_a_sentence_with_row_and_column(project, label, text):
    _with(PARTICLES, "particles", label, text, 3)
    with pytest.raises(InputError, match=rf"particles\.star.*row 4 \(particle TS_01/4\).*column {label}"):
        relion.read_particles(PARTICLES)


@pytest.mark.parametrize("text", ["<NA>", "nan", "1.5", "x", "1e30", "-inf"])
@pytest.mark.parametrize("label", ["rlnOpticsGroup", "rlnRandomSubset"])
def test_a_whole_number_or_a_sentence(project, label, text):
    _with(PARTICLES, "particles", label, text, 3)
    with pytest.raises(InputError, match=rf"particles\.star.*row 4 .*column {label}"):
        relion.read_particles(PARTICLES)


@pytest.mark.parametrize("text", ["-2", "100000", "1e18", "24.5", "nan", "<NA>", "x"])
def test_boxes_that_no_image_has(project, text):
    _with(PARTICLES, "optics", "rlnImageSize", text)
    with pytest.raises(InputError, match=r"particles\.star, table data_optics.*rlnImageSize"):
        relion.read_particles(PARTICLES)


@pytest.mark.parametrize("text", ["<NA>", "nan", "NaN", "", "None", "N/A", "null"])
def test_priors_may_lack(project, text):
    label = "rlnAngleTiltPrior"
    _with(PARTICLES, "particles", label, "90.0")
    _with(PARTICLES, "particles", label, text, 3)
    particles = relion.read_particles(PARTICLES)
    values = relion.particle_numbers(particles, [label, "rlnNotThere"], may_lack=True)
    assert np.flatnonzero(np.isnan(values[:, 0])).tolist() == [3]
    assert values[:3, 0].tolist() == [90, 90, 90]
    assert not values[:, 1].any()
    relion.write_particles("copy.star", particles)
    assert read_star("copy.star")["particles"][label].tolist() == particles.text[label].tolist()


@pytest.mark.parametrize("text", ["ten", "[1", "inf", "1_0"])
def test_a_prior_is_a_number_or_nothing(project, text):
    _with(PARTICLES, "particles", "rlnAngleTiltPrior", text, 3)
    particles = relion.read_particles(PARTICLES)
    with pytest.raises(InputError, match=r"row 4 .*column rlnAngleTiltPrior"):
        relion.particle_numbers(particles, ["rlnAngleTiltPrior"], may_lack=True)


@pytest.mark.parametrize("text", ["1", "[1,1", "[a,b]", "[1,nan]", "", "<NA>", "[1;1]", "[1_1,1]"])
def test_visible_frames_are_a_vector(project, text):
    _with(PARTICLES, "particles", "rlnTomoVisibleFrames", "[1,0,1]")
    particles = relion.read_particles(PARTICLES)
    assert [frames.tolist() for frames in relion.visible_frames(particles)] == [[True, False, True]] * 12
    with pytest.raises(InputError, match="TS_01/1 counts 3 tilts, its tilt series 21"):
        relion.visible_frames(particles, {"TS_01": 21, "TS_03": 3})
    _with(PARTICLES, "particles", "rlnTomoVisibleFrames", text, 3)
    with pytest.raises(InputError, match=r"particles\.star, row 4 .*column rlnTomoVisibleFrames"):
        relion.visible_frames(relion.read_particles(PARTICLES))


@pytest.mark.parametrize("text", ["1e30", "1e18", "-5", "2.5", "nan"])
def test_sizes_that_no_tomogram_has(project, text):
    path = Path("Tomograms/job007/tomograms.star")
    _with(path, "global", "rlnTomoSizeX", text, 0)
    with pytest.raises(InputError, match=r"tomograms\.star, tomogram TS_01: .*rlnTomoSizeX"):
        relion.read_tilt_series_set(path)


# ---- names


def _named_anew(names) -> relion.StaInputs:
    tables = read_star(PARTICLES)
    columns = {**tables["particles"].columns, "rlnTomoParticleName": text_column(names)}
    write_star(PARTICLES, tables | {"particles": Table("particles", columns)})
    return relion.load_sta_inputs("Extract/job024/optimisation_set.star")


def test_names_that_repeat_are_warned_of(project):
    tomograms = read_star(PARTICLES)["particles"]["rlnTomoName"]
    inputs = _named_anew([f"{name}/{row // 2}" for row, name in enumerate(tomograms)])
    assert len(inputs.particles) == 12
    assert len(inputs.warnings) == 1
    assert "names occur more than once in a tomogram (rlnTomoParticleName TS_01/0)" in inputs.warnings[0]


def test_names_may_be_numbers_within_a_tomogram(project):
    tomograms = read_star(PARTICLES)["particles"]["rlnTomoName"].tolist()
    inputs = _named_anew([str(tomograms[:row].count(name) + 1) for row, name in enumerate(tomograms)])
    assert inputs.warnings == ()
    assert relion.repeated_names(inputs.particles) == []
    assert relion.repeated_names(inputs.particles, over_all=True)[0] == "1"


def test_trajectories_need_names(project):
    _named_anew(["TS_01/1"] * 12)
    values = {
        "in_optimisation_set": "Extract/job024/optimisation_set.star",
        "in_trajectories": "Polish/job020/motion.star",
    }
    with pytest.raises(InputError, match=r"more than once \(rlnTomoParticleName TS_01/1\).*motion\.star"):
        relion.load_sta_inputs(**values)
    # A job that does not read them hands them on.
    inputs = relion.load_sta_inputs(**values, need_tomograms=False)
    assert inputs.trajectories_path == Path("Polish/job020/motion.star")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("TS_01_Vol", "TS_01"),
        ("TS_01.tomostar", "TS_01"),
        ("rec_TS_03.mrc", "TS_03"),
        ("TS01", "TS_01"),
        ("zebra", None),
    ],
)
def test_names_that_the_set_has_are_shown(project, name, meant):
    _with(PARTICLES, "particles", "rlnTomoName", name)
    with pytest.raises(InputError, match="its tomograms are TS_01, TS_03") as error:
        relion.load_sta_inputs("Extract/job024/optimisation_set.star")
    assert (f"is {name} the same as {meant}?" in str(error.value)) == (meant is not None)


# ---- tables that others write


def test_an_unnamed_particle_table_is_one(project):
    text = PARTICLES.read_text()
    PARTICLES.write_text(text.replace("data_particles", "data_"))
    inputs = relion.load_sta_inputs("Extract/job024/optimisation_set.star")
    assert len(inputs.particles) == 12
    assert "has no name" in inputs.warnings[0]
    relion.write_particles("copy.star", relion.read_particles(PARTICLES))
    assert list(read_star("copy.star")) == ["general", "optics", "particles"]
    PARTICLES.write_text(text.replace("data_particles", "data_picks"))
    with pytest.raises(InputError, match="rename data_picks to data_particles"):
        relion.read_particles(PARTICLES)
    # Two of them: which one is meant is not known.
    PARTICLES.write_text(text.replace("data_particles", "data_") + text.replace("data_", "data_old_"))
    with pytest.raises(InputError, match="no table data_particles"):
        relion.read_particles(PARTICLES)


@pytest.mark.parametrize("lacking", "XYZ")
@pytest.mark.parametrize("label", ["rlnCenteredCoordinate{}Angst", "rlnCoordinate{}"])
def test_the_missing_coordinate_is_named(project, label, lacking):
    _without(PARTICLES, "particles", *(f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ"))
    for axis in set("XYZ") - {lacking}:
        _with(PARTICLES, "particles", label.format(axis), "1.0")
    with pytest.raises(InputError, match=f"but no {label.format(lacking)};"):
        relion.read_particles(PARTICLES)


@pytest.mark.parametrize(("said", "dimension"), [("1", "3"), ("0", "2")])
def test_a_general_table_that_contradicts_the_images(project, said, dimension):
    tables = read_star("Refine3D/job016/run_it003_data.star")
    general = Table("general", {"rlnTomoSubTomosAre2DStacks": text_column([said])}, is_loop=False)
    optics = {**tables["optics"].columns, "rlnImageDimensionality": text_column([dimension])}
    write_star("odd.star", {**tables, "general": general, "optics": Table("optics", optics)})
    with pytest.raises(InputError, match=rf"odd\.star: the general table says .*{said}\), but"):
        relion.check_subtomogram_kind(relion.read_particles("odd.star"), "odd.star")


# ---- paths


def _warp(tmp_path: Path, named: str) -> Path:
    """Lay out a set as Warp does: paths that count from the set's own folder; return that folder."""
    folder = tmp_path / "work/deep/relion"
    folder.mkdir(parents=True)
    stacks = tmp_path / "work/deep/warp_tiltseries/TS_01"
    stacks.mkdir(parents=True)
    for row in (1, 2):
        (stacks / f"{row}.mrcs").touch()
    rows = "".join(f"TS_01 {row} 0 0 {named.format(row)}\n" for row in (1, 2))
    labels = "rlnTomoName rlnCenteredCoordinateXAngst rlnCenteredCoordinateYAngst rlnCenteredCoordinateZAngst"
    head = "".join(f"_{label} #{n}\n" for n, label in enumerate([*labels.split(), "rlnImageName"], 1))
    (folder / "particles.star").write_text(f"data_particles\n\nloop_\n{head}{rows}\n")
    return folder


@pytest.mark.parametrize("named", ["{}", "00000{}@{}", "{}:mrcs"])
@pytest.mark.parametrize(
    ("start", "out", "counted"),
    [
        pytest.param("deep/relion", "External/job001", None, id="beside the set"),
        pytest.param("deep/relion", "out", None, id="in no job"),
        pytest.param(".", "deep/out", "deep/warp_tiltseries/TS_01/", id="from above"),
        pytest.param("deep/relion", "../../other/out", "{work}/deep/warp_tiltseries/TS_01/", id="elsewhere"),
        pytest.param("deep/relion", "../External/job001", "warp_tiltseries/TS_01/", id="project above"),
    ],
)
def test_images_are_named_anew_where_a_set_is_written(tmp_path, monkeypatch, named, start, out, counted):
    folder = _warp(tmp_path, named.replace("{}", "../warp_tiltseries/TS_01/{0}.mrcs") if "@" not in named
                   else "00000{0}@../warp_tiltseries/TS_01/{0}.mrcs")  # fmt: skip
    monkeypatch.chdir(tmp_path / "work" / start)
    writer = Path(out) / "particles.star"
    relion.write_particles(writer, relion.read_particles(os.path.relpath(folder / "particles.star")))
    before = read_star(folder / "particles.star")["particles"]["rlnImageName"].tolist()
    after = read_star(writer)["particles"]["rlnImageName"].tolist()
    new = counted and counted.format(work=tmp_path / "work")
    assert after == [text.replace("../warp_tiltseries/TS_01/", new) if new else text for text in before]


def test_images_that_cannot_be_found_stay_as_they_are_named(tmp_path, monkeypatch):
    folder = _warp(tmp_path, "../gone/{0}.mrcs")
    monkeypatch.chdir(tmp_path / "work")
    relion.write_particles("out/particles.star", relion.read_particles(folder / "particles.star"))
    after = read_star("out/particles.star")["particles"]["rlnImageName"]
    assert after.tolist() == ["../gone/1.mrcs", "../gone/2.mrcs"]


def test_images_of_a_project_keep_their_names_in_it_and_lose_them_outside(project, tmp_path, monkeypatch):
    particles = relion.read_particles(PARTICLES)
    before = particles.text["rlnImageName"].tolist()
    for out in ("Select/job099/particles.star", "loose/particles.star"):
        relion.write_particles(out, particles)
        assert read_star(out)["particles"]["rlnImageName"].tolist() == before
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    relion.write_particles("out/particles.star", relion.read_particles(project / PARTICLES))
    after = read_star("out/particles.star")["particles"]["rlnImageName"].tolist()
    assert after == [str(project / text) for text in before]
