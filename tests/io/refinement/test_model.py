"""Model files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_sta.data.errors import InputError
from napari_sta.io.refinement.model import read_model, write_model
from napari_sta.io.star import Table, read_star, write_star
from refinement_records import model_with


def test_starfile_package_reads_what_we_wrote(tmp_path):
    starfile = pytest.importorskip("starfile")
    write_model(tmp_path / "m.star", model_with())
    tables = starfile.read(tmp_path / "m.star")
    assert tables["model_general"]["rlnLogLikelihood"] == pytest.approx(-123457.0)
    assert tables["model_class_1"]["rlnGoldStandardFsc"].tolist() == pytest.approx([1, 0.5, 0.375, 0.25])
    assert tables["model_class_1"]["rlnAngstromResolution"].tolist() == pytest.approx(
        [999, 22.75, 22.75 / 2, 22.75 / 3]
    )
    assert tables["model_groups"]["rlnGroupName"].tolist() == ["TS_1", "two words", "TS_3"]
    assert tables["model_optics_group_2"]["rlnSigma2Noise"].tolist() == [5e-6, 1, 1, 1]


def test_values_of_a_model_of_relion(refine):
    model = read_model(refine / "run_it006_half1_model.star")
    assert model.reference == "Refine3D/job016/run_it006_half1_class001.mrc"
    assert (model.size_px, model.pixel_size_angst, model.n_dim, model.n_shells) == (48, 5.4, 2, 25)
    assert (model.resolution_angst, model.current_size_px, model.padding) == (12.342858, 48, 2.0)
    assert (model.sigma_offset_angst, model.prior_mode, model.sigma_prior_deg) == (
        6.306746,
        1,
        (3.75, 3.75, 3.75),
    )
    assert (model.log_likelihood, model.p_max, model.tau2_fudge) == (1.098023e7, 0.988069, 1.0)
    assert (model.accuracy_deg, model.accuracy_angst, model.overall_completeness) == (0.533, 0.783, 0.981348)
    at_21 = [
        getattr(model, name)[21]
        for name in ("fsc", "ssnr", "sigma2_map", "tau2", "completeness", "orientability")
    ]
    assert at_21 == [0.559021, 1.267681, 2.586715e-7, 3.279131e-7, 0.840114, 0.002225]
    assert model.group_names == ("TS_01", "TS_03", "TS_43", "TS_45")
    assert model.group_n_particles.tolist() == [17, 17, 17, 17]
    assert model.group_scale.tolist() == [0.999001, 1.028818, 0.977885, 0.994296]
    assert model.sigma2_noise.shape == (1, 25)
    assert (model.sigma2_noise[0, 0], model.sigma2_noise[0, 24]) == (1.087205e-5, 6.578963e-6)
    assert model.pdf_direction.tolist() == [0, 0, 0, 0.014706, 0.029411, 0.014706, 0.014706, 0.058822, 0, 0]


def test_iteration_0_of_relion_has_no_resolution_yet(refine):
    model = read_model(refine / "run_it000_half1_model.star")
    assert np.isinf(model.resolution_angst)
    assert np.isnan(model.overall_completeness)
    assert model.current_size_px == 0
    assert model.orientability is None


def test_noise_that_is_absent_is_left_out_and_read_as_1(tmp_path):
    noise = np.array([[0, 3e-6, 0, 1e-6], [0, 0, 0, 0]])
    write_model(tmp_path / "m.star", model_with(sigma2_noise=noise))
    tables = read_star(tmp_path / "m.star")
    assert list(tables["model_optics_group_1"]["rlnSpectralIndex"]) == ["1", "3"]
    assert len(tables["model_optics_group_2"]) == 0
    assert read_model(tmp_path / "m.star").sigma2_noise.tolist() == [[1, 3e-6, 1, 1e-6], [1, 1, 1, 1]]


def test_overall_completeness_is_computed_up_to_the_resolution(refine, tmp_path):
    write_model(tmp_path / "m.star", model_with())
    # shells 0, 1, 2 with 1, 0.5, 0.25 and about 1, 4 pi, 16 pi voxels
    expected = (1 / 12 + 0.5 * 13 / 12 + 0.25 * 49 / 12) / (63 / 12)
    assert read_model(tmp_path / "m.star").overall_completeness == pytest.approx(expected, abs=1e-6)
    relion = read_model(refine / "run_it006_half1_model.star")
    write_model(tmp_path / "m.star", replace(relion, overall_completeness=None))
    assert read_model(tmp_path / "m.star").overall_completeness == pytest.approx(0.981348, abs=0.01)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"fsc": np.ones(5)}, "rlnGoldStandardFsc has shape", id="curve"),
        pytest.param({"orientability": np.ones(3)}, "rlnSpectralOrient", id="orientability"),
        pytest.param({"sigma2_noise": np.ones((2, 5))}, "rlnSigma2Noise has shape", id="noise"),
        pytest.param({"group_scale": np.ones(2)}, "groups have 3 names", id="groups"),
    ],
)
def test_a_model_that_does_not_fit_together_is_not_written(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        write_model(tmp_path / "m.star", model_with(**changes))
    assert not list(tmp_path.iterdir())


def test_two_classes_in_one_table_are_refused(refine, tmp_path):
    tables = read_star(refine / "run_it006_half1_model.star")
    twice = {label: np.repeat(column, 2) for label, column in tables["model_classes"].columns.items()}
    write_star(tmp_path / "m.star", tables | {"model_classes": Table("model_classes", twice)})
    with pytest.raises(InputError, match="2 rows of rlnReferenceImage instead of one"):
        read_model(tmp_path / "m.star")
