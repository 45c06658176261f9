"""Images named anew where a set is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from napari_sta.io.relion.particles import read_particles, write_particles
from napari_sta.io.star import read_star
from star_edits import PARTICLES


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
    write_particles(writer, read_particles(os.path.relpath(folder / "particles.star")))
    before = read_star(folder / "particles.star")["particles"]["rlnImageName"].tolist()
    after = read_star(writer)["particles"]["rlnImageName"].tolist()
    new = counted and counted.format(work=tmp_path / "work")
    assert after == [text.replace("../warp_tiltseries/TS_01/", new) if new else text for text in before]


def test_images_that_cannot_be_found_stay_as_they_are_named(tmp_path, monkeypatch):
    folder = _warp(tmp_path, "../gone/{0}.mrcs")
    monkeypatch.chdir(tmp_path / "work")
    write_particles("out/particles.star", read_particles(folder / "particles.star"))
    after = read_star("out/particles.star")["particles"]["rlnImageName"]
    assert after.tolist() == ["../gone/1.mrcs", "../gone/2.mrcs"]


def test_images_of_a_project_keep_their_names_in_it_and_lose_them_outside(project, tmp_path, monkeypatch):
    particles = read_particles(PARTICLES)
    before = particles.text["rlnImageName"].tolist()
    for out in ("Select/job099/particles.star", "loose/particles.star"):
        write_particles(out, particles)
        assert read_star(out)["particles"]["rlnImageName"].tolist() == before
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    write_particles("out/particles.star", read_particles(project / PARTICLES))
    after = read_star("out/particles.star")["particles"]["rlnImageName"].tolist()
    assert after == [str(project / text) for text in before]
