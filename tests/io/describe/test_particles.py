"""What is told of particle sets, and their problems."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_sta.io.describe import describe
from napari_sta.io.mrc import write_stack
from napari_sta.io.star import Table, read_star, text_column, write_star
from star_edits import PARTICLES


def test_problems_of_particles(project):
    path = Path("Extract/job024/particles.star")
    assert "12 of 12 subtomogram files" in describe(path).problems[0]
    path.write_text(path.read_text().replace("   223.979334", "          nan"))
    assert any(
        "'nan' in column rlnCenteredCoordinateXAngst" in problem for problem in describe(path).problems
    )
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert any("CR+LF" in problem for problem in describe(path).problems)


def _with(label: str, text: str, row: int, table: str = "particles") -> None:
    tables = read_star(PARTICLES)
    columns = dict(tables[table].columns)
    columns[label] = columns.get(label, text_column(["0"] * len(tables[table]))).copy()
    columns[label][row] = text
    write_star(PARTICLES, tables | {table: Table(table, columns)})


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("rlnOriginXAngst", "<NA>"),
        ("rlnAngleTilt", "nan"),
        ("rlnAngleTiltPrior", "ten"),
        ("rlnOriginXPriorAngst", "inf"),
        ("rlnOriginXPriorAngst", "1e300"),
        ("rlnAnglePsiPrior", "-1e30"),
        ("rlnMaxValueProbDistribution", "<NA>"),
        ("rlnTomoVisibleFrames", "[1,1"),
        ("rlnTomoVisibleFrames", "1"),
    ],
)
def test_what_jobs_would_stumble_over_is_a_problem(project, label, text):
    before = describe(PARTICLES).problems
    _with("rlnTomoVisibleFrames", "[1]", slice(None))
    _with(label, text, 3)
    new = [one for one in describe(PARTICLES).problems if one not in before]
    assert len(new) == 1
    assert label in new[0]
    assert "row 4" in new[0]


def test_priors_that_lack_are_counted(project):
    _with("rlnAngleTiltPrior", "<NA>", 3)
    description = describe(PARTICLES)
    assert "rlnAngleTiltPrior: 1 particle of 12 without this prior" in description.lines
    assert len(description.problems) == 1  # the images are not part of the excerpt


def test_an_unnamed_particle_table_is_a_particle_set(project):
    PARTICLES.write_text(PARTICLES.read_text().replace("data_particles", "data_"))
    description = describe(PARTICLES)
    assert "particle set, 12 particles" in description.lines[0]
    assert "rename data_ to data_particles" in description.problems[0]


def test_a_box_that_the_images_do_not_have(project):
    name = read_star(PARTICLES)["particles"]["rlnImageName"][0]
    write_stack(name, np.zeros((3, 8, 8), np.float32), 2.7)
    assert any(f"{name} has a box of 8 px, but rlnImageSize" in one for one in describe(PARTICLES).problems)
