"""What a set says of its subtomograms."""

from __future__ import annotations

import pytest

from napari_sta.data.errors import InputError
from napari_sta.io.relion.particles import read_particles
from napari_sta.io.relion.subtomograms import check_subtomogram_kind, visible_frames
from napari_sta.io.star import Table, read_star, text_column, write_star
from star_edits import PARTICLES, with_value


@pytest.mark.parametrize("text", ["1", "[1,1", "[a,b]", "[1,nan]", "", "<NA>", "[1;1]", "[1_1,1]"])
def test_visible_frames_are_a_vector(project, text):
    with_value(PARTICLES, "particles", "rlnTomoVisibleFrames", "[1,0,1]")
    particles = read_particles(PARTICLES)
    assert [frames.tolist() for frames in visible_frames(particles)] == [[True, False, True]] * 12
    with pytest.raises(InputError, match="TS_01/1 counts 3 tilts, its tilt series 21"):
        visible_frames(particles, {"TS_01": 21, "TS_03": 3})
    with_value(PARTICLES, "particles", "rlnTomoVisibleFrames", text, 3)
    with pytest.raises(InputError, match=r"particles\.star, row 4 .*column rlnTomoVisibleFrames"):
        visible_frames(read_particles(PARTICLES))


@pytest.mark.parametrize(("said", "dimension"), [("1", "3"), ("0", "2")])
def test_a_general_table_that_contradicts_the_images(project, said, dimension):
    tables = read_star("Refine3D/job016/run_it003_data.star")
    general = Table("general", {"rlnTomoSubTomosAre2DStacks": text_column([said])}, is_loop=False)
    optics = {**tables["optics"].columns, "rlnImageDimensionality": text_column([dimension])}
    write_star("odd.star", {**tables, "general": general, "optics": Table("optics", optics)})
    with pytest.raises(InputError, match=rf"odd\.star: the general table says .*{said}\), but"):
        check_subtomogram_kind(read_particles("odd.star"), "odd.star")
