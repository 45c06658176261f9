"""``info``: words for every kind of file."""

from __future__ import annotations

import pytest

from napari_sta.data.errors import InputError
from napari_sta.io.describe import describe


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (
            "Extract/job024/particles.star",
            ["12 particles in 2 tomograms (TS_01 6, TS_03 6)", "2D stacks, 96 px"],
        ),
        ("Extract/job030/particles.star", ["3D pseudo-subtomograms, 48 px, 5.4 Å/px"]),
        ("Select/job023/particles.star", ["not extracted yet", "half sets: 6 in 1, 6 in 2"]),
        ("Refine3D/job016/run_it003_data.star", ["refined: Pmax"]),
        (
            "Tomograms/job007/tomograms.star",
            ["RELION 5 layout", "TS_03: 21 tilts from -60 to 60°", "hand -1"],
        ),
        ("Tomograms/job007/tilt_series/TS_01.star", ["tilt series TS_01, 21 tilt images"]),
        ("Extract/job024/optimisation_set.star", ["the parts fit together"]),
        ("Polish/job020/motion.star", ["trajectory set of 12 particles over 21 tilts"]),
        ("PostProcess/job037/postprocess.star", ["final resolution: 10.368 Å", "B-factor: -620.378 Å²"]),
        ("default_pipeline.star", ["pipeline file", "Extract/job024/: relion.pseudosubtomo, succeeded"]),
        ("Extract/job013/Subtomograms/TS_03/6_stack2d.mrcs", ["stack of 20 images, 48 x 48 px, float16"]),
        ("Extract/job024", ["job folder"]),
        (".", ["RELION project", "the next one gets number 38"]),
    ],
)
def test_words(project, file, words):
    text = str(describe(file))
    for one in words:
        assert one in text


def test_sound_files_have_no_problems(project):
    for file in (
        "Tomograms/job007/tomograms.star",
        "Extract/job024/optimisation_set.star",
        "Select/job023/particles.star",
        "Polish/job020/motion.star",
        "Tomograms/job007/tilt_series/TS_01.star",
    ):
        assert describe(file).problems == [], file
        assert str(describe(file)).endswith("No problems found.")


def test_what_is_nothing_we_know(project, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        describe("nope.star")
    (tmp_path / "x.pdf").touch()
    with pytest.raises(InputError, match="neither a STAR nor an MRC file"):
        describe(tmp_path / "x.pdf")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="neither a RELION project nor a job folder"):
        describe(tmp_path / "empty")
    (tmp_path / "other.star").write_text("data_x\n\nloop_\n_rlnA #1\n1\n2\n")
    assert "data_x: 2 rows x 1 columns" in str(describe(tmp_path / "other.star"))


def test_a_path_that_no_file_can_have():
    with pytest.raises(InputError, match="does not exist"):
        describe("x" * 300 + ".star")
