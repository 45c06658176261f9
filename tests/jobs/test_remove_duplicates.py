"""Subset selection: RELION's rule to the row, the geometric rule, what is written and what is refused."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace

import numpy as np
import pytest

from extraction_oracle import relion_rotation_xyz
from napari_sta.cli import main
from napari_sta.data.errors import InputError
from napari_sta.data.particles import Particles
from napari_sta.io.project.job_star import JobStar, read_job_star
from napari_sta.io.relion.optimisation_set import read_optimisation_set
from napari_sta.io.relion.particles import read_particles, with_text, write_particles
from napari_sta.io.star import read_star, table, text_column, write_star
from napari_sta.jobs._job import job_named
from napari_sta.jobs._job_star import job_from_star
from napari_sta.jobs._run import JobRun
from napari_sta.jobs._run_options import RunOptions
from tiny_project import finish


def job(project, **values):
    return job_named("remove_duplicates").from_text(
        {"in_optimisation_set": str(project.paths.optimisation_set), **values}
    )


@pytest.fixture
def copy(tiny, tmp_path):
    root = shutil.copytree(tiny.paths.root, tmp_path / "copy")
    moved = {
        name: root / getattr(tiny.paths, name).relative_to(tiny.paths.root)
        for name in tiny.paths._fields
        if name != "root"
    }
    return tiny._replace(paths=tiny.paths._replace(root=root, **moved))


def place(project, xyz, tomogram=None, origin_xyz=None, angles=None, half_set=None, **text) -> Particles:
    """Write a particle set with these coordinates in Å."""
    n = len(xyz)
    particles = project.phantom.particles[np.arange(n)]
    names = [f"TS_01/{i + 1}" for i in range(n)]
    particles = replace(
        particles,
        tomogram=np.array(["TS_01"] * n if tomogram is None else tomogram, dtype=object),
        name=np.array(names, dtype=object),
        coordinate_zyx_angst=np.array(xyz, float)[:, ::-1].copy(),
        origin_zyx_angst=np.zeros((n, 3))
        if origin_xyz is None
        else np.array(origin_xyz, float)[:, ::-1].copy(),
        subtomogram_angles_deg=np.zeros((n, 3)) if angles is None else np.array(angles, float),
        half_set=np.array(half_set if half_set is not None else [1 + i % 2 for i in range(n)]),
    )
    if text:
        particles = with_text(
            particles, **{k: text_column([str(v) for v in values]) for k, values in text.items()}
        )
    write_particles(project.paths.particles, particles)
    return particles


def kept(out) -> list[int]:
    return [int(name.split("/")[1]) for name in read_particles(out / "particles.star").name]


LINE = [(0, 0, 0), (27, 0, 0), (54, 0, 0), (200, 0, 0)]


def test_of_a_chain_the_last_stays(copy, tmp_path):
    """Spaced 0.9 d: RELION keeps only the third, and whoever is far away."""
    place(copy, LINE)
    record = finish(job(copy), tmp_path / "out")
    assert kept(tmp_path / "out") == [3, 4]
    assert (record["n_particles"], record["n_removed"], record["n_pairs"]) == (2, 2, 2)
    assert record["n_pairs_across_half_sets"] == 2
    assert "2 of 4 particles removed" in record["summary"]
    removed = read_star(tmp_path / "out/particles_removed.star")["particles"].columns["rlnTomoParticleName"]
    assert list(removed) == ["TS_01/1", "TS_01/2"]


def test_the_distance_is_included(copy, tmp_path):
    place(copy, [(0, 0, 0), (18, 24, 0), (0, 0, -30.001)])
    finish(job(copy, min_distance_angst=30), tmp_path / "out")
    assert kept(tmp_path / "out") == [2, 3]


def test_relion_reads_the_distance_in_single_precision(copy, tmp_path):
    """30.3 is 30.2999992 then: particles exactly 30.3 apart are no duplicates to RELION."""
    place(copy, [(0, 0, 0), (30.3, 0, 0)])
    finish(job(copy, min_distance_angst=30.3), tmp_path / "relion")
    assert kept(tmp_path / "relion") == [1, 2]
    finish(job(copy, min_distance_angst=30.3, rule="geometric"), tmp_path / "geometric")
    assert kept(tmp_path / "geometric") == [1]


def test_tomograms_are_apart(copy, tmp_path):
    place(copy, [(0, 0, 0)] * 4, tomogram=["TS_01", "TS_02", "TS_01", "TS_03"])
    finish(job(copy), tmp_path / "out")
    assert kept(tmp_path / "out") == [2, 3, 4]


def test_relion_does_not_turn_origins(copy, tmp_path):
    """Origin (40, 0, 0), subtomogram turned by 90 deg: subtracted as it stands, or turned to its true place."""
    angles = [(90.0, 0, 0), (0, 0, 0), (0, 0, 0)]
    origin = [(40, 0, 0), (0, 0, 0), (0, 0, 0)]
    true = -relion_rotation_xyz(angles[0]) @ origin[0]
    assert np.abs(true - [0, 40, 0]).max() < 1e-9
    place(copy, [(0, 0, 0), tuple(true), (-40, 0, 0)], origin_xyz=origin, angles=angles)
    finish(job(copy), tmp_path / "relion")
    assert kept(tmp_path / "relion") == [2, 3]  # the first falls onto the third
    preview = job(copy).preview()
    assert preview.pairs.tolist() == [[0, 2]]
    finish(job(copy, rule="geometric"), tmp_path / "true")
    assert job(copy, rule="geometric").preview().pairs.tolist() == [[0, 1]]
    assert kept(tmp_path / "true") == [1, 3]


@pytest.mark.parametrize(
    ("scores", "left"),
    [
        pytest.param([0.1, 0.9, 0.2, 0.5], [2, 4], id="the middle is best"),
        pytest.param([0.9, 0.5, 0.8, 0.5], [1, 3, 4], id="the ends are best"),
        pytest.param([0.5, 0.5, 0.5, 0.5], [1, 3, 4], id="ties: the first"),
        pytest.param(["1e-3", "2.5E+1", -7, 0], [2, 4], id="any spelling"),
    ],
)
def test_the_best_score_stays(copy, tmp_path, scores, left):
    place(copy, LINE, rlnMaxValueProbDistribution=scores)
    finish(job(copy, rule="geometric"), tmp_path / "out")
    assert kept(tmp_path / "out") == left
    finish(job(copy), tmp_path / "relion")  # RELION's rule asks no score
    assert kept(tmp_path / "relion") == [3, 4]


def test_another_score_column(copy, tmp_path):
    place(copy, LINE, rlnMaxValueProbDistribution=[0.1, 0.9, 0.2, 0.5], rlnAutopickFigureOfMerit=[5, 1, 2, 3])
    finish(job(copy, rule="geometric", score_column="rlnAutopickFigureOfMerit"), tmp_path / "out")
    assert kept(tmp_path / "out") == [1, 3, 4]


def test_without_a_score_the_first_stays_and_it_is_said(copy, tmp_path, caplog):
    place(copy, LINE)
    finish(job(copy, rule="geometric", score_column="rlnNone"), tmp_path / "out")
    assert kept(tmp_path / "out") == [1, 3, 4]
    assert "no column rlnNone: of each cluster the first particle stays" in caplog.text


def test_a_score_that_is_no_number(copy, tmp_path):
    place(copy, LINE, rlnMaxValueProbDistribution=["good", "bad", "good", "0.3"])
    with pytest.raises(
        InputError, match=r"row 1 .*'good' in column rlnMaxValueProbDistribution is not.*--score_column"
    ):
        job(copy, rule="geometric").check()
    finish(job(copy), tmp_path / "out")  # RELION's rule does not read it
    assert kept(tmp_path / "out") == [3, 4]
    assert job(copy).preview().keep.tolist() == [False, False, True, True]


def test_joined_sets_of_the_same_names(copy, tmp_path, caplog):
    """Two extractions of the same picks: names repeat, images differ, and rows are what counts."""
    placed = place(copy, LINE, rlnMark=list("abcd"))
    write_particles(copy.paths.particles, replace(placed, name=text_column(["TS_01/1"] * len(LINE))))
    finish(job(copy), tmp_path / "out")
    rows = read_star(tmp_path / "out/particles.star")["particles"]
    assert rows["rlnMark"].tolist() == ["c", "d"]
    assert any("occur more than once" in one for one in job(copy).warnings())


def test_preview(copy):
    place(
        copy,
        [(0, 0, 0), (10, 0, 0), (0, 0, 0), (100, 0, 0), (100, 20, 0)],
        tomogram=["TS_01", "TS_01", "TS_02", "TS_02", "TS_02"],
        half_set=[1, 2, 1, 2, 2],
    )
    before = sorted(copy.paths.root.rglob("*"))
    found = job(copy).preview()
    assert found.keep.tolist() == [False, True, True, False, True]
    assert found.pairs.tolist() == [[0, 1], [3, 4]]
    np.testing.assert_allclose(found.distance_angst, [10, 20])
    assert found.n_straddling == 1
    assert sorted(copy.paths.root.rglob("*")) == before


def test_without_half_sets_no_pair_straddles(copy, tmp_path):
    particles = place(copy, LINE)
    write_particles(copy.paths.particles, replace(particles, half_set=None))
    record = finish(job(copy), tmp_path / "out")
    assert record["n_pairs_across_half_sets"] == 0
    assert "across half sets" not in record["summary"]


def test_rows_are_kept_as_they_were(copy, tmp_path):
    """Every other column, the order and the optics tables; the set names the new file and the old tomograms."""
    particles = place(copy, LINE, rlnMyOwnColumn=["a", "b", "c", "d"])
    finish(job(copy), tmp_path / "out")
    before, after = read_star(copy.paths.particles), read_star(tmp_path / "out/particles.star")
    assert list(after) == list(before)
    assert list(after["particles"].columns) == list(before["particles"].columns)
    for label, column in after["particles"].columns.items():
        assert list(column) == list(before["particles"].columns[label][2:]), label
    assert after["optics"].columns.keys() == before["optics"].columns.keys()
    entries = read_optimisation_set(tmp_path / "out/optimisation_set.star")
    assert entries["rlnTomoParticlesFile"].endswith("out/particles.star")
    assert entries["rlnTomoTomogramsFile"].endswith("tomograms.star")
    assert len(read_particles(tmp_path / "out/particles_removed.star")) == len(particles) - 2


def test_nothing_to_remove(copy, tmp_path):
    place(copy, [(0, 0, 0), (100, 0, 0)])
    record = finish(job(copy), tmp_path / "out")
    assert record["n_removed"] == 0
    assert kept(tmp_path / "out") == [1, 2]


def test_a_particle_set_alone_is_enough(copy, tmp_path, caplog):
    place(copy, LINE)
    alone = job_named("remove_duplicates").from_text({"in_parts": str(copy.paths.particles)})
    alone.check()
    finish(alone, tmp_path / "out")
    assert kept(tmp_path / "out") == [3, 4]
    assert not (tmp_path / "out/optimisation_set.star").exists()
    assert "no tomogram set was given" in caplog.text


def test_two_hundred_thousand_particles(copy):
    """Many tomograms, a tenth picked twice: seconds, without the time for reading the file."""
    n = 200_000
    rng = np.random.default_rng(2)
    position = rng.uniform(-2000, 2000, (n, 3))
    tomogram = np.array([f"TS_{i % 40:02d}" for i in range(n)], dtype=object)
    position[400:20_400] = position[20_400:40_400] + 3.0
    particles = replace(
        copy.phantom.particles[np.zeros(n, dtype=np.int64)],
        tomogram=tomogram,
        name=np.arange(n).astype(str).astype(object),
        coordinate_zyx_angst=position,
        origin_zyx_angst=rng.normal(size=(n, 3)),
        half_set=1 + np.arange(n) % 2,
    )
    start = time.perf_counter()
    found = job(copy)._preview(particles)
    best = job(copy, rule="geometric")._preview(particles)
    elapsed = time.perf_counter() - start
    assert (~found.keep).sum() > 18_000
    assert (~best.keep).sum() > 15_000
    assert elapsed < 30  # half a second on an idle core; generous for a busy one


@pytest.mark.parametrize(
    ("values", "words"),
    [
        pytest.param({"min_distance_angst": 0}, "--min_distance_angst 0: .*greater than 0", id="no distance"),
        pytest.param({"min_distance_angst": -5}, "--min_distance_angst -5", id="negative"),
        pytest.param({"min_distance_angst": "far"}, "--min_distance_angst far", id="no number"),
        pytest.param({"rule": "coin"}, "--rule coin", id="unknown rule"),
        pytest.param({"distance": 5}, "--distance is no option", id="typing error"),
    ],
)
def test_wrong_values(copy, values, words):
    with pytest.raises(InputError, match=words):
        job(copy, **values)


def test_no_input():
    with pytest.raises(InputError, match="no input"):
        job_named("remove_duplicates").from_text({})


def spoilt(label=None, value=None):
    def spoil(path):
        tables = read_star(path)
        columns = dict(tables["particles"].columns)
        if value is None:
            del columns[label]
        else:
            columns[label] = [value, *columns[label][1:]]
        write_star(path, [tables["optics"], table("particles", columns)])

    return spoil


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        pytest.param(lambda p: p.unlink(), "particles.star", id="missing file"),
        pytest.param(lambda p: p.write_text("data_\n"), "particles.star", id="no table"),
        pytest.param(spoilt("rlnTomoName"), "rlnTomoName", id="missing column"),
        pytest.param(
            spoilt("rlnCenteredCoordinateXAngst", "left"), "rlnCenteredCoordinateXAngst", id="no number"
        ),
        pytest.param(spoilt("rlnRandomSubset", "3"), "rlnRandomSubset is 3", id="third half"),
        pytest.param(
            lambda p: write_particles(p, read_particles(p)[np.arange(0)]), "no particles", id="empty"
        ),
    ],
)
def test_bad_input_ends_with_2_and_one_sentence(copy, monkeypatch, capsys, spoil, said):
    spoil(copy.paths.particles)
    monkeypatch.chdir(copy.paths.root)
    words = [
        "remove_duplicates",
        "--in_optimisation_set",
        "Select/job002/optimisation_set.star",
        "--o",
        "out/",
    ]
    assert main(words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("napari-sta: ")]
    assert len(lines) == 1
    assert said in lines[0]
    assert not (copy.paths.root / "out/particles.star").exists()


def test_in_a_project(copy, monkeypatch):
    place(copy, LINE)
    monkeypatch.chdir(copy.paths.root)
    words = ["remove_duplicates", "--in_optimisation_set", "Select/job002/optimisation_set.star", "--quiet"]
    assert main(words) == 0
    assert kept(copy.paths.root / "Select/job003") == [3, 4]
    assert (copy.paths.root / "Select/job003/RELION_JOB_EXIT_SUCCESS").exists()


def test_relions_command_line(copy):
    line = job_named("remove_duplicates").from_text({"in_parts": "p.star", "min_distance_angst": 50})
    assert line.relion_command("Select/job009/") == (
        "relion_star_handler --i p.star --o Select/job009/particles.star --remove_duplicates 50"
    )
    other = job_named("remove_duplicates").from_text({"in_parts": "p.star", "rule": "geometric"})
    assert other.relion_command("Select/job009/") is None


def test_relions_scheduler_gets_the_particle_set(data, tmp_path, monkeypatch):
    """RELION asks for fn_data, also where we were given an optimisation set; our own slots count on the way back."""
    shutil.copytree(data / "project", tmp_path / "project")
    monkeypatch.chdir(tmp_path)  # not the project's folder
    root = tmp_path / "project"
    asked = job_named("remove_duplicates").from_text(
        {"in_optimisation_set": "Extract/job024/optimisation_set.star"}
    )
    run = JobRun(asked, RunOptions(project=root))
    for _ in run.steps():
        pass
    star = read_job_star(run.out / "job.star")
    assert star.options["fn_data"] == "Extract/job024/particles.star"
    assert job_from_star(star) == asked
    given = job_named("remove_duplicates").from_text(
        {"in_parts": str(root / "Extract/job024/particles.star")}
    )
    run = JobRun(given, RunOptions(project=root))
    for _ in run.steps():
        pass
    assert read_job_star(run.out / "job.star").options["fn_data"] == "Extract/job024/particles.star"
    # RELION's own job has that slot alone.
    theirs = JobStar("relion.select.removeduplicates", {"fn_data": "a.star", "do_remove_duplicates": "Yes"})
    assert job_from_star(theirs).in_parts == "a.star"
