"""Tables of other names, without rows, in other encodings."""

from __future__ import annotations

from contextlib import suppress

import pytest

from napari_sta.data.errors import InputError
from napari_sta.io.describe import describe
from star_edits import PARTICLES


@pytest.mark.parametrize("name", ["images", "", "particles # of mine", "Particles"])
def test_a_particle_table_of_another_name_is_told_of(project, name):
    more = "\ndata_\n\n_rlnFirst 1\n" if name == "" else ""
    text = PARTICLES.read_text().replace("data_particles", f"data_{name or 'x'}")
    PARTICLES.write_text(text + more)
    assert f"rename data_{name or 'x'} to data_particles" in describe(PARTICLES).problems[0]


@pytest.mark.parametrize(
    "content",
    [
        "data_general\n\nloop_\n_rlnFinalResolution #1\n\n\ndata_fsc\n\nloop_\n_rlnResolution #1\n\n",
        "data_model_general\n\nloop_\n_rlnPixelSize #1\n\n",
        "data_optimiser_general\n\n",
        "data_sampling_general\n\nloop_\n_rlnPsiStep #1\n\n",
        "data_TS_01\n\nloop_\n_rlnMicrographPreExposure #1\n_rlnTomoYTilt #2\n\n",
        "data_TS_01\n\nloop_\n_rlnMicrographPreExposure #1\n_rlnTomoYTilt #2\n<NA> x\n\n",
        "data_particles\n\nloop_\n_rlnTomoName #1\n_rlnCoordinateX #2\n\n",
        "data_global\n\nloop_\n_rlnTomoName #1\n\n",
        "data_general\n\nloop_\n_rlnParticleNumber #1\n\n",
        "data_job\n\n\ndata_joboptions_values\n\n",
        "data_pipeline_general\n\n",
        "data_output_nodes\n\n",
        "data_\n\nloop_\n_rlnTomoParticlesFile #1\n\n",
    ],
)
def test_tables_without_rows_are_told_of(tmp_path, content):
    (tmp_path / "x.star").write_text(content)
    with suppress(InputError):
        assert str(describe(tmp_path / "x.star"))


def test_names_in_another_encoding_can_be_printed(project):
    PARTICLES.write_bytes(PARTICLES.read_bytes().replace(b"TS_01 ", b"TS_\xe9 "))
    assert "TS_\ufffd" in str(describe(PARTICLES))
    str(describe(PARTICLES)).encode("utf-8")
