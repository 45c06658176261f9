"""What is told of tomogram sets."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from napari_sta.io.describe import describe
from napari_sta.io.mrc import write_stack
from napari_sta.io.star import Table, read_star, text_column, write_star


def test_problems_of_tomograms(project):
    shutil.rmtree("tilt_stacks")
    assert any(
        "image files are missing" in one for one in describe("Tomograms/job007/tomograms.star").problems
    )
    path = Path("Tomograms/job007/tilt_series/TS_01.star")
    path.write_text(
        path.read_text().replace("_rlnTomoYTilt", "_rlnOther").replace("_rlnDefocusU", "_rlnNoCtf")
    )
    problems = describe(path).problems
    assert any("not aligned yet: rlnTomoYTilt missing" in one for one in problems)
    assert any("no CTF estimate yet" in one for one in problems)
    assert any("no alignment" in one for one in describe("Tomograms/job007/tomograms.star").problems)


@pytest.mark.parametrize("value", ["<NA>", "nan", "1e300"])
@pytest.mark.parametrize(
    "label", ["rlnTomoXTilt", "rlnTomoXShiftAngst", "rlnDefocusAngle", "rlnCtfScalefactor", "rlnPhaseShift"]
)
def test_every_number_of_a_tilt_series_is_looked_at(project, label, value):
    path = Path("Tomograms/job007/tilt_series/TS_01.star")
    tables = read_star(path)
    columns = dict(tables["TS_01"].columns)
    columns[label] = columns.get(label, text_column(["0"] * 21)).copy()
    columns[label][4] = value
    write_star(path, [Table("TS_01", columns)])
    found = [describe(path), describe("Tomograms/job007/tomograms.star")]
    for one in found:
        assert any(f"row 5: '{value}' in column {label}" in problem for problem in one.problems)


def test_placeholders_of_warp_are_no_problem(project, data):
    path = Path("tomograms.star")
    text = (data / "relion4/tomograms.star").read_text()
    for name in ("TS_01", "TS_03"):
        text = text.replace(f"tilt_stacks/{name}.mrc", "dummy_tiltseries.mrc")
    path.write_text(text)
    assert "dummy_tiltseries" in text
    write_stack("dummy_tiltseries.mrc", np.ones((2, 2, 2), np.float32), 1.0)
    description = describe(path)
    assert "Warp's placeholder" in str(description)
    assert description.problems == []
