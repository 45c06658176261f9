"""What is told of optimisation sets."""

from __future__ import annotations

import shutil

from napari_sta.io.describe import describe


def test_problems_of_sets(project):
    shutil.rmtree("Tomograms")
    problems = describe("Extract/job024/optimisation_set.star").problems
    assert problems == ["the tomogram set Tomograms/job007/tomograms.star does not exist"]
