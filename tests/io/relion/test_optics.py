"""Optics groups."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from napari_sta.data.errors import InputError
from napari_sta.io.relion.inputs import load_sta_inputs
from napari_sta.io.relion.particles import read_particles, write_particles
from napari_sta.io.star import Table, read_star, text_column, write_star
from star_edits import PARTICLES, with_value


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
    read = read_particles(path)
    assert read.optics_of(7).name == "seven"
    write_particles("new.star", read)
    after = read_star("new.star")
    assert after["optics"]["rlnOpticsGroup"].tolist() == ["1", "2"]
    assert after["optics"]["rlnOpticsGroupName"].tolist() == ["three", "seven"]
    assert after["particles"]["rlnOpticsGroup"].tolist() == ["2", "1"] * 6


def test_changed_optics_are_written(project):
    particles = read_particles("Extract/job024/particles.star")
    group = replace(
        particles.optics[0], image_pixel_size_angst=5.4, image_size_px=48, odd_zernike=(0.5, -1.25)
    )
    write_particles("new.star", replace(particles, optics=(group,)))
    row = read_star("new.star")["optics"].row()
    assert (row["rlnImagePixelSize"], row["rlnImageSize"]) == ("5.400000", "48")
    assert row["rlnOddZernike"] == "[0.5,-1.25]"
    assert row["rlnTomoTiltSeriesPixelSize"] == "2.700000"
    assert read_particles("new.star").optics[0].odd_zernike == (0.5, -1.25)


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
    with_value(Path("Tomograms/job007/tomograms.star"), "global", "rlnOpticsGroupName", "other", 1)
    alone = read_particles("picks.star")
    assert alone.optics == ()
    write_particles("again.star", alone)
    assert list(read_star("again.star")) == ["particles"]
    inputs = load_sta_inputs(in_parts="picks.star", in_tomograms="Tomograms/job007/tomograms.star")
    assert [(g.number, g.name) for g in inputs.particles.optics] == [(1, "other"), (2, "optics1")]
    assert inputs.particles.optics_group.tolist() == [1] * 6 + [2] * 6
    write_particles("new.star", inputs.particles)
    after = read_star("new.star")
    assert after["optics"].row()["rlnVoltage"] == "300.000000"
    assert after["particles"]["rlnOpticsGroup"].tolist() == ["1"] * 6 + ["2"] * 6
    assert read_particles("new.star").optics[0].amplitude_contrast == 0.1


@pytest.mark.parametrize("text", ["-2", "100000", "1e18", "24.5", "nan", "<NA>", "x"])
def test_boxes_that_no_image_has(project, text):
    with_value(PARTICLES, "optics", "rlnImageSize", text)
    with pytest.raises(InputError, match=r"particles\.star, table data_optics.*rlnImageSize"):
        read_particles(PARTICLES)
