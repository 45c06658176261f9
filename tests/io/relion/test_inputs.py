"""What a job starts from, and whether it fits together."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from napari_sta.data.errors import InputError
from napari_sta.io.relion.inputs import StaInputs, load_sta_inputs
from napari_sta.io.relion.optimisation_set import read_optimisation_set
from napari_sta.io.relion.particles import read_particles, repeated_names, write_particles
from napari_sta.io.relion.trajectories import read_trajectories
from napari_sta.io.star import Table, read_star, text_column, write_star
from star_edits import PARTICLES, edit, with_value


def test_trajectories_that_do_not_fit(project):
    path = Path("Polish/job020/motion.star")
    tables = read_star(path)
    del tables["TS_01/3"]
    write_star("short.star", tables)
    with pytest.raises(InputError, match="announces 12 trajectories but holds 11"):
        read_trajectories("short.star")
    tables["general"] = Table("general", {"rlnParticleNumber": text_column(["11"])}, is_loop=False)
    write_star("short.star", tables)
    with pytest.raises(InputError, match="no trajectory of particle TS_01/3"):
        load_sta_inputs("Select/job023/optimisation_set.star", in_trajectories="short.star")
    tables = read_star(path)
    tables["TS_01/3"] = Table(
        "TS_01/3", {label: column[:20] for label, column in tables["TS_01/3"].columns.items()}
    )
    write_star("short.star", tables)
    with pytest.raises(InputError, match="particle TS_01/3 has 20 rows, its tilt series 21"):
        load_sta_inputs("Select/job023/optimisation_set.star", in_trajectories="short.star")


def test_direct_entries_override_the_set(project):
    inputs = load_sta_inputs(
        "Extract/job024/optimisation_set.star", in_parts="Extract/job024/particles2.75.star"
    )
    assert inputs.particles_path == Path("Extract/job024/particles2.75.star")
    assert inputs.tomograms_path == Path("Tomograms/job007/tomograms.star")
    assert inputs.particles.origin_zyx_angst.any()


def test_no_set_and_no_tomograms(project):
    with pytest.raises(InputError, match=r"no tomogram set is given.*--in_tomograms"):
        load_sta_inputs(in_parts="Extract/job024/particles.star")
    with pytest.raises(InputError, match="no particle set is given"):
        load_sta_inputs(in_tomograms="Tomograms/job007/tomograms.star")
    with pytest.raises(InputError, match="no optimisation set"):
        load_sta_inputs("Extract/job024/particles.star")
    edit(Path("Extract/job024/optimisation_set.star"), ("Tomograms/job007/tomograms.star", '""'))
    with pytest.raises(InputError, match=r"optimisation_set\.star has no rlnTomoTomogramsFile"):
        load_sta_inputs("Extract/job024/optimisation_set.star")


def test_jobs_that_need_no_tilt_series_do_not_look_for_them(project, monkeypatch):
    shutil.rmtree("tilt_stacks")
    shutil.rmtree("Tomograms")
    inputs = load_sta_inputs("Extract/job024/optimisation_set.star", need_tomograms=False)
    assert len(inputs.particles) == 12
    inputs.write_set("new.star", "Extract/job024/particles.star")
    assert read_optimisation_set("new.star")["rlnTomoTomogramsFile"] == "Tomograms/job007/tomograms.star"
    with pytest.raises(InputError, match=r"tomograms\.star does not exist \(named in Extract"):
        load_sta_inputs("Extract/job024/optimisation_set.star")
    monkeypatch.chdir("/")
    inputs = load_sta_inputs(project / "Extract/job024/optimisation_set.star", need_tomograms=False)
    inputs.write_set(project / "Recenter/job040/set.star", project / "Extract/job024/particles.star")
    entries = read_optimisation_set(project / "Recenter/job040/set.star")
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
    inputs = load_sta_inputs("Extract/job024/optimisation_set.star")
    assert len(inputs.particles) == 10
    assert inputs.warnings == (
        "2 of 12 particles are left out: Tomograms/job007/tomograms.star does not have their tomograms TS_99; "
        "its tomograms are TS_01, TS_03",
    )
    with_value(path, "particles", "rlnTomoName", "TS_98")
    with pytest.raises(InputError, match=r"none of the particles of .*particles\.star.*TS_98"):
        load_sta_inputs("Extract/job024/optimisation_set.star")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(
            lambda p: with_value(p, "particles", "rlnRandomSubset", "3", 4),
            "row 5: rlnRandomSubset is 3",
            id="half set",
        ),
        pytest.param(
            lambda p: with_value(p, "optics", "rlnTomoTiltSeriesPixelSize", "2.702"),
            "rlnTomoTiltSeriesPixelSize is 2.702 in optics group 1.*2.7 for tomogram TS_01",
            id="pixel size",
        ),
        pytest.param(
            lambda p: with_value(p, "optics", "rlnVoltage", "200"),
            "rlnVoltage is 200 in optics",
            id="voltage",
        ),
        pytest.param(
            lambda p: with_value(p, "optics", "rlnSphericalAberration", "0.01"), "Aberration is 0.01", id="Cs"
        ),
        pytest.param(
            lambda p: with_value(p, "optics", "rlnAmplitudeContrast", "0.07"), "Contrast is 0.07", id="Q0"
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(project, change, words):
    change(Path("Extract/job024/particles.star"))
    with pytest.raises(InputError, match=words) as error:
        load_sta_inputs("Extract/job024/optimisation_set.star")
    assert "Extract/job024/particles.star" in str(error.value)


def test_optics_may_differ_by_rounding(project):
    with_value(Path("Extract/job024/particles.star"), "optics", "rlnTomoTiltSeriesPixelSize", "2.7005")
    inputs = load_sta_inputs("Extract/job024/optimisation_set.star")
    assert inputs.warnings == ()
    assert [group.pixel_size_angst for group in inputs.particles.optics] == [2.7005]
    assert inputs.tilt_series["TS_01"].pixel_size_angst == 2.7


def _named_anew(names) -> StaInputs:
    tables = read_star(PARTICLES)
    columns = {**tables["particles"].columns, "rlnTomoParticleName": text_column(names)}
    write_star(PARTICLES, tables | {"particles": Table("particles", columns)})
    return load_sta_inputs("Extract/job024/optimisation_set.star")


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
    assert repeated_names(inputs.particles) == []
    assert repeated_names(inputs.particles, over_all=True)[0] == "1"


def test_trajectories_need_names(project):
    _named_anew(["TS_01/1"] * 12)
    values = {
        "in_optimisation_set": "Extract/job024/optimisation_set.star",
        "in_trajectories": "Polish/job020/motion.star",
    }
    with pytest.raises(InputError, match=r"more than once \(rlnTomoParticleName TS_01/1\).*motion\.star"):
        load_sta_inputs(**values)
    # A job that does not read them hands them on.
    inputs = load_sta_inputs(**values, need_tomograms=False)
    assert inputs.trajectories_path == Path("Polish/job020/motion.star")


def test_an_unnamed_particle_table_is_one(project):
    text = PARTICLES.read_text()
    PARTICLES.write_text(text.replace("data_particles", "data_"))
    inputs = load_sta_inputs("Extract/job024/optimisation_set.star")
    assert len(inputs.particles) == 12
    assert "has no name" in inputs.warnings[0]
    write_particles("copy.star", read_particles(PARTICLES))
    assert list(read_star("copy.star")) == ["general", "optics", "particles"]
    PARTICLES.write_text(text.replace("data_particles", "data_picks"))
    with pytest.raises(InputError, match="rename data_picks to data_particles"):
        read_particles(PARTICLES)
    # Two of them: which one is meant is not known.
    PARTICLES.write_text(text.replace("data_particles", "data_") + text.replace("data_", "data_old_"))
    with pytest.raises(InputError, match="no table data_particles"):
        read_particles(PARTICLES)
