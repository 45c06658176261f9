"""Writing a tomogram set anew: what is not changed stays to the letter, paths hold where the new one lies."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from napari_sta.data.errors import InputError
from napari_sta.io.relion.tilt_series import read_tilt_series_set
from napari_sta.io.star import read_star, table, text_column, write_star
from napari_sta.io.tilt_series_set import split_images, write_tilt_series_set
from tiny_project import make_project


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_project(tmp_path_factory.mktemp("tiny") / "project", n_tomograms=2).paths.root


@pytest.fixture
def project(made, tmp_path, monkeypatch):
    root = shutil.copytree(made, tmp_path / "project")
    monkeypatch.chdir(root)
    return root


def tomogram_set(project):
    return next(project.rglob("tomograms.star"))


def test_only_what_is_named_changes(project):
    source = tomogram_set(project)
    names = read_star(source)["global"]["rlnTomoName"].tolist()
    count = len(read_tilt_series_set(source)[names[1]].images)
    new = project / "CtfRefine/job030/tomograms.star"
    changed = {names[1]: {"rlnDefocusU": text_column([f"{20000 + i}.5" for i in range(count)])}}
    lacking = {names[0]: {"rlnDefocusU": text_column(["1.0"] * count), "rlnNew": text_column(["x"] * count)}}
    new.parent.mkdir(parents=True)
    written = write_tilt_series_set(
        new, source, {names[0]: {"rlnTomoTomogramBinning": "4.0"}}, changed, lacking
    )
    assert written[-1] == new
    assert all(path.is_file() and new.parent in path.parents for path in written)
    before, after = read_star(source)["global"], read_star(new)["global"]
    assert after["rlnTomoTomogramBinning"].tolist() == ["4.0"] + [""] * (len(names) - 1)
    for label in before.columns:
        if label != "rlnTomoTiltSeriesStarFile":
            assert after[label].tolist() == before[label].tolist(), label
    old_series, new_series = read_tilt_series_set(source), read_tilt_series_set(new)
    for name in names:
        expected = old_series[name].defocus_u_angst if name != names[1] else 20000.5 + np.arange(count)
        np.testing.assert_array_equal(new_series[name].defocus_u_angst, expected)
        assert new_series[name].images == old_series[name].images
        np.testing.assert_array_equal(new_series[name].angles_xyz_deg, old_series[name].angles_xyz_deg)
    row = after["rlnTomoTiltSeriesStarFile"][0]
    assert read_star(project / row)[names[0]]["rlnNew"].tolist() == ["x"] * count


def test_paths_hold_outside_of_the_project(project, tmp_path, monkeypatch):
    source = tomogram_set(project)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write_tilt_series_set(elsewhere / "tomograms.star", source, {})
    monkeypatch.chdir(tmp_path)
    found, expected = read_tilt_series_set(elsewhere / "tomograms.star"), read_tilt_series_set(source)
    assert {k: v.images for k, v in found.items()} == {k: v.images for k, v in expected.items()}


def test_relion_4_stays_one_file(data, tmp_path):
    source = next((data / "relion4").rglob("*tomograms*.star"))
    names = read_star(source)["global"]["rlnTomoName"].tolist()
    count = len(read_star(source)[names[0]])
    column = text_column(["123.0"] * count)
    new = tmp_path / "tomograms.star"
    assert write_tilt_series_set(new, source, {}, {names[0]: {"rlnDefocusU": column}}) == [new]
    before, after = read_star(source), read_star(new)
    assert list(after) == list(before)
    assert after[names[0]]["rlnDefocusU"].tolist() == column.tolist()
    assert after[names[0]]["rlnTomoProjX"].tolist() == before[names[0]]["rlnTomoProjX"].tolist()


def test_what_does_not_fit_is_refused(project):
    source = tomogram_set(project)
    name = read_star(source)["global"]["rlnTomoName"][0]
    new = project / "new.star"
    with pytest.raises(InputError, match="has no tomogram TS_none"):
        write_tilt_series_set(new, source, {"TS_none": {}})
    with pytest.raises(InputError, match="rows, not 2 as"):
        write_tilt_series_set(new, source, {}, {name: {"rlnDefocusU": text_column(["1", "2"])}})
    assert not new.exists()


def test_no_table_leads_out(project):
    source = tomogram_set(project)
    tables = read_star(source)
    overall = tables["global"]
    column = overall["rlnTomoTiltSeriesStarFile"].copy()
    (project / "job001").mkdir()
    shutil.copy(project / column[0], project / "outside.star")
    column[0] = "job001/../outside.star"
    write_star(source, [table("global", {**overall.columns, "rlnTomoTiltSeriesStarFile": column})])
    with pytest.raises(InputError, match="leads out"):
        write_tilt_series_set(project / "Polish/job002/tomograms.star", source, {})


def test_frames_in_halves(project):
    source = tomogram_set(project)
    overall = read_star(source)["global"]
    name, file = overall["rlnTomoName"][0], overall["rlnTomoTiltSeriesStarFile"][0]
    assert split_images(source, name) is None
    own = read_star(project / file)[name]
    (project / "frames").mkdir()
    halves = {}
    for half in ("Even", "Odd"):
        (project / f"frames/{half}.mrcs").touch()
        halves[f"rlnMicrographName{half}"] = [f"{i + 1}@frames/{half}.mrcs" for i in range(len(own))]
    write_star(project / file, [table(name, {**own.columns, **halves})])
    even, odd = split_images(source, name)
    assert [index for _, index in even] == list(range(len(own)))
    assert {path.rpartition("/")[2] for path, _ in even} == {"Even.mrcs"}
    assert {path.rpartition("/")[2] for path, _ in odd} == {"Odd.mrcs"}
