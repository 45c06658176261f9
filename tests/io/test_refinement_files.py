"""Files of a 3D auto-refinement. ``data/refine``: RELION 5.0.1's own, with long loops cut to a few rows."""

from __future__ import annotations

import re
import shutil
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from napari_sta.data.errors import InputError
from napari_sta.io import refinement
from napari_sta.io.refinement import (
    Model,
    Optimiser,
    Sampling,
    iteration_name,
    latest_iteration,
    read_model,
    read_optimiser,
    read_sampling,
    write_angular_distribution,
    write_model,
    write_optimiser,
    write_refined_particles,
    write_sampling,
)
from napari_sta.io.relion.particles import read_particles
from napari_sta.io.star import Table, read_star, write_star

READERS = {"model": read_model, "sampling": read_sampling, "optimiser": read_optimiser}
WRITERS = {"model": write_model, "sampling": write_sampling, "optimiser": write_optimiser}
RELION_FILES = [
    pytest.param(f"run_it{number:03d}_{what}.star", what.split("_")[-1], id=f"{number} {what}")
    for number in (0, 1, 6)
    for what in ("half1_model", "half2_model", "sampling", "optimiser")
]
# RELION computes these from a pixel size with more digits than it writes.
FROM_PIXEL_SIZE = ("rlnAngstromResolution", "rlnResolution")


@pytest.fixture
def refine(data) -> Path:
    return data / "refine"


def _assert_equal(one: object, other: object) -> None:
    assert type(one) is type(other)
    for f in fields(one):  # type: ignore[arg-type]
        a, b = getattr(one, f.name), getattr(other, f.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype, f.name
            np.testing.assert_array_equal(a, b, err_msg=f.name)
        else:
            assert a == b or (a != a and b != b), f.name


def _model(**changes: object) -> Model:
    """A model of odd box, two optics groups and three scale groups, equal to no default."""
    made = Model(
        reference="Refine3D/job007/run_it003_half2_class001.mrc", size_px=7, pixel_size_angst=3.25, n_dim=3,
        resolution_angst=22.75 / 2, current_size_px=6, padding=1.0, sigma_offset_angst=4.5, prior_mode=0,
        sigma_prior_deg=(1.5, 2.5, 3.5), log_likelihood=-123457.0, p_max=0.25, tau2_fudge=4.0,
        accuracy_deg=1.125, accuracy_angst=2.25, fsc=np.array([1, 0.5, 0.375, 0.25]),
        ssnr=np.array([2.5e6, 1e5, 1250.5, 1e-4]),
        sigma2_map=np.array([1e-7, 2e-7, 3e-7, 5e-7]), tau2=np.array([2e-5, 4e-5, 7e-5, 0]), completeness=np.array([1.0, 0.5, 0.25, 0]),
        orientability=None, group_names=("TS_1", "two words", "TS_3"), group_n_particles=np.array([5, 0, 12]),
        group_scale=np.array([0.75, 1.0, 1.25]), sigma2_noise=np.array([[4e-6, 3e-6, 2e-6, 1e-6], [5e-6, 1, 1, 1]]),
        pdf_direction=np.array([0.5, 0.375, 0.125, 0.0, 0.0]),
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def _sampling(**changes: object) -> Sampling:
    made = Sampling(
        order=3, symmetry="D2", psi_step_deg=7.5, offset_range_angst=13.5, offset_step_angst=2.7,
        perturbation=-0.40625, perturbation_factor=0.25, order_original=2, psi_step_original_deg=15.0,
        offset_range_original_angst=27.0, offset_step_original_angst=5.4,
        directions_deg=np.array([[-22.5, 112.024313], [0.0, 0.0], [135.0, 90.0]]),
        is_3d_translations=False, tilt_limit_deg=70.0,
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def _optimiser(**changes: object) -> Optimiser:
    made = Optimiser(
        output_root="Refine3D/job007/run", model_files=("a_half1_model.star", "a_half2_model.star"),
        data_file="a_data.star", sampling_file="a_sampling.star", tomograms_file="Tomograms/t.star",
        trajectories_file="Polish/motion.star", iteration=3, n_iterations=17, join_angst=50.0, oversampling=2,
        adaptive_fraction=0.75, seed=42, diameter_angst=140.0, mask_edge_px=7, zero_mask=False,
        solvent_flattening=False, solvent_fsc=True, solvent_mask="", increment=13, high_fsc=True,
        auto_local_order=5, n_without_gain=2, best_resolution_inv_angst=0.0625, n_without_changes=4,
        accuracy_deg=1.5, accuracy_angst=2.5, changes_deg=3.5, changes_angst=4.5, changes_classes=0.5,
        smallest_deg=5.5, smallest_angst=6.5, smallest_classes=9999999, has_converged=True, correct_norm=True,
        correct_scale=False, correct_ctf=False, refs_ctf_corrected=False, first_peak=True, skip_align=True,
        skip_rotate=True, n_pool=3, command="--o Refine3D/job007/run --sym C6",
        other={"rlnDoBlush": "1", "rlnNobodyKnows": "two words"},
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


MADE = [
    pytest.param(_model(overall_completeness=0.625), "model", id="model"),
    pytest.param(
        _model(overall_completeness=0.625, orientability=np.array([0, 0.5, 0.25, 1e-4])),
        "model",
        id="orientability",
    ),
    pytest.param(_sampling(), "sampling", id="sampling"),
    pytest.param(_optimiser(), "optimiser", id="optimiser"),
    pytest.param(
        _optimiser(model_files=("run_model.star",), other={}, command=""), "optimiser", id="joined halves"
    ),
]


# ---- RELION's files and ours


@pytest.mark.parametrize(("name", "what"), RELION_FILES)
def test_relions_files_are_written_as_relion_wrote_them(refine, tmp_path, name, what):
    read = READERS[what](refine / name)
    WRITERS[what](tmp_path / name, read)
    _assert_equal(READERS[what](tmp_path / name), read)
    theirs, ours = read_star(refine / name), read_star(tmp_path / name)
    assert list(ours) == list(theirs)
    for table in theirs:
        assert ours[table].is_loop == theirs[table].is_loop
        assert list(ours[table].columns) == list(theirs[table].columns), table
        for label, column in theirs[table].columns.items():
            if label in FROM_PIXEL_SIZE:
                np.testing.assert_allclose(
                    ours[table][label].astype(float), column.astype(float), rtol=1e-7, atol=1e-6
                )
            else:
                there = [text.replace("-nan", "nan") for text in column]
                assert list(ours[table][label]) == there, (table, label)


@pytest.mark.parametrize(("made", "what"), MADE)
def test_values_that_differ_from_every_default_come_back(tmp_path, made, what):
    WRITERS[what](tmp_path / "x.star", made)
    _assert_equal(READERS[what](tmp_path / "x.star"), made)
    assert [path.name for path in tmp_path.iterdir()] == ["x.star"]


def test_no_value_of_the_test_objects_is_a_default():
    for made in (_sampling(), _optimiser(solvent_mask="masks/mask.mrc")):
        for f in fields(made):
            value = getattr(made, f.name)
            assert isinstance(value, np.ndarray) or value != f.default, f.name


@pytest.mark.parametrize(("name", "what"), RELION_FILES)
def test_starfile_package_reads_the_same_from_our_files(refine, tmp_path, name, what):
    starfile = pytest.importorskip("starfile")
    WRITERS[what](tmp_path / name, READERS[what](refine / name))
    theirs = starfile.read(refine / name, always_dict=True)
    ours = starfile.read(tmp_path / name, always_dict=True)
    assert list(ours) == list(theirs)
    for table, expected in theirs.items():
        found = ours[table]
        assert list(found) == list(expected)
        for label in expected:
            here, there = np.atleast_1d(found[label]), np.atleast_1d(expected[label])
            slack = 1e-6 if label in FROM_PIXEL_SIZE else 0
            try:
                # RELION's -nan is a text to this package, our nan a number.
                np.testing.assert_allclose(here.astype(float), there.astype(float), rtol=1e-7, atol=slack)
            except ValueError:
                assert here.tolist() == there.tolist(), label


def test_starfile_package_reads_what_we_wrote(tmp_path):
    starfile = pytest.importorskip("starfile")
    write_model(tmp_path / "m.star", _model())
    tables = starfile.read(tmp_path / "m.star")
    assert tables["model_general"]["rlnLogLikelihood"] == pytest.approx(-123457.0)
    assert tables["model_class_1"]["rlnGoldStandardFsc"].tolist() == pytest.approx([1, 0.5, 0.375, 0.25])
    assert tables["model_class_1"]["rlnAngstromResolution"].tolist() == pytest.approx(
        [999, 22.75, 22.75 / 2, 22.75 / 3]
    )
    assert tables["model_groups"]["rlnGroupName"].tolist() == ["TS_1", "two words", "TS_3"]
    assert tables["model_optics_group_2"]["rlnSigma2Noise"].tolist() == [5e-6, 1, 1, 1]


# ---- model


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
    write_model(tmp_path / "m.star", _model(sigma2_noise=noise))
    tables = read_star(tmp_path / "m.star")
    assert list(tables["model_optics_group_1"]["rlnSpectralIndex"]) == ["1", "3"]
    assert len(tables["model_optics_group_2"]) == 0
    assert read_model(tmp_path / "m.star").sigma2_noise.tolist() == [[1, 3e-6, 1, 1e-6], [1, 1, 1, 1]]


def test_overall_completeness_is_computed_up_to_the_resolution(refine, tmp_path):
    write_model(tmp_path / "m.star", _model())
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
        write_model(tmp_path / "m.star", _model(**changes))
    assert not list(tmp_path.iterdir())


# ---- numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.000000"),
        (-0.0, "0.000000"),
        (16.2000009, "16.200001"),
        (-0.270981, "-0.27098"),
        (-91.0, "-91.00000"),
        (48480.415391, "48480.415391"),
        (2073393.0, "2.073393e+06"),
        (-161535.3, "-1.61535e+05"),
        (7.710759e-4, "7.710759e-04"),
        (float("inf"), "inf"),
    ],
)
def test_numbers_look_as_in_relion(value, text):
    assert refinement._number_text(value) == text


# ---- sampling


def test_values_of_a_sampling_of_relion(refine):
    sampling = read_sampling(refine / "run_it006_sampling.star")
    assert (sampling.order, sampling.symmetry, sampling.psi_step_deg) == (4, "C6", 3.75)
    assert (sampling.offset_range_angst, sampling.offset_step_angst) == (16.200001, 10.800001)
    assert (sampling.perturbation, sampling.perturbation_factor) == (-0.27098, 0.5)
    assert (sampling.order_original, sampling.psi_step_original_deg) == (4, 3.75)
    assert (sampling.offset_range_original_angst, sampling.offset_step_original_angst) == (
        16.200001,
        10.800001,
    )
    assert (sampling.is_3d_translations, sampling.tilt_limit_deg) == (True, -91.0)
    assert sampling.directions_deg.shape == (10, 2)
    assert sampling.directions_deg[0].tolist() == [28.125, 73.042237]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_sampling_that_is_not_finite_is_not_written(tmp_path, value):
    with pytest.raises(
        InputError, match=r"s\.star was not written: rlnSamplingPerturbInstance is (nan|inf), not"
    ):
        write_sampling(tmp_path / "s.star", _sampling(perturbation=value))
    assert not list(tmp_path.iterdir())


# ---- optimiser


def test_values_of_an_optimiser_of_relion(refine):
    optimiser = read_optimiser(refine / "run_it006_optimiser.star")
    root = "Refine3D/job016/run_it006"
    assert optimiser.model_files == (f"{root}_half1_model.star", f"{root}_half2_model.star")
    assert (optimiser.output_root, optimiser.iteration) == ("Refine3D/job016/run", 6)
    assert (optimiser.data_file, optimiser.sampling_file) == (f"{root}_data.star", f"{root}_sampling.star")
    assert (optimiser.tomograms_file, optimiser.trajectories_file) == ("Tomograms/job007/tomograms.star", "")
    assert (optimiser.diameter_angst, optimiser.mask_edge_px, optimiser.seed) == (230.0, 5, 1)
    assert (optimiser.solvent_mask, optimiser.solvent_fsc) == ("Refine3D/job016/run_solvent_mask.mrc", True)
    assert (optimiser.n_without_gain, optimiser.n_without_changes, optimiser.high_fsc) == (1, 2, True)
    assert optimiser.best_resolution_inv_angst == 0.084877
    assert (optimiser.accuracy_deg, optimiser.accuracy_angst) == (0.533, 0.783)
    assert (optimiser.changes_deg, optimiser.changes_angst) == (2.287659, 4.394899)
    assert (optimiser.smallest_deg, optimiser.smallest_angst) == (1.644389, 3.191071)
    assert optimiser.command.startswith("--o Refine3D/job016/run --auto_refine")
    assert optimiser.command.endswith("--random_seed 1 --cpu")
    assert optimiser.other == {}


def test_what_relion_sets_and_we_do_not_know_stays(refine, tmp_path):
    tables = read_star(refine / "run_it001_optimiser.star")
    columns = dict(tables["optimiser_general"].columns)
    columns["rlnDoBlush"] = np.array(["1"], dtype=object)
    columns["rlnOfNextYear"] = np.array(["7"], dtype=object)
    write_star(tmp_path / "a.star", [Table("optimiser_general", columns, is_loop=False)])
    optimiser = read_optimiser(tmp_path / "a.star")
    assert optimiser.other == {"rlnDoBlush": "1", "rlnOfNextYear": "7"}
    assert optimiser.command == ""
    write_optimiser(tmp_path / "b.star", optimiser)
    assert read_star(tmp_path / "b.star")["optimiser_general"].row() == {k: v[0] for k, v in columns.items()}
    assert list(read_star(tmp_path / "b.star")["optimiser_general"].columns) == list(columns)


def test_an_optimiser_says_who_wrote_it_and_with_which_command(tmp_path):
    write_optimiser(tmp_path / "o.star", _optimiser(command="--o a\n--sym C6"))
    lines = (tmp_path / "o.star").read_text().split("\n")
    assert lines[0].startswith("# napari-sta optimiser; version ")
    assert lines[1:4] == ["# --o a --sym C6", "", "# version 50001"]
    assert read_optimiser(tmp_path / "o.star").command == "--o a --sym C6"


@pytest.mark.parametrize("files", [(), ("a", "b", "c")])
def test_an_optimiser_has_one_or_two_models(tmp_path, files):
    with pytest.raises(ValueError, match="one model file or two"):
        write_optimiser(tmp_path / "o.star", _optimiser(model_files=files))


# ---- particles


@pytest.mark.parametrize("number", [0, 6])
def test_refined_particles_are_written_as_relion_wrote_them(refine, tmp_path, number):
    """RELION's input, with the poses RELION found, must give RELION's output."""
    theirs = read_particles(refine / f"run_it{number:03d}_data.star")
    found = {
        label: theirs.text[label].astype(float) if label in theirs.text else None
        for label in ("rlnLogLikeliContribution", "rlnMaxValueProbDistribution", "rlnNrOfSignificantSamples")
    }
    assert all((values is None) == (number == 0) for values in found.values())
    given = read_particles(refine / "particles_small.star")
    assert given.name.tolist() == theirs.name.tolist()
    moved = replace(
        given,
        angles_deg=theirs.angles_deg,
        origin_zyx_angst=theirs.origin_zyx_angst,
        half_set=theirs.half_set,
    )
    write_refined_particles(
        tmp_path / "d.star",
        moved,
        group_number=theirs.text["rlnGroupNumber"].astype(int),
        log_likelihood=found["rlnLogLikeliContribution"],
        p_max=found["rlnMaxValueProbDistribution"],
        n_significant=found["rlnNrOfSignificantSamples"],
    )
    expected, ours = read_star(refine / f"run_it{number:03d}_data.star"), read_star(tmp_path / "d.star")
    assert list(ours) == list(expected) == ["general", "optics", "particles"]
    for table in expected:
        assert list(ours[table].columns) == list(expected[table].columns)
        for label, column in expected[table].columns.items():
            try:
                np.testing.assert_allclose(
                    ours[table][label].astype(float), column.astype(float), rtol=1e-6, atol=6e-6
                )
            except ValueError:
                assert ours[table][label].tolist() == column.tolist()


def test_refined_particles_without_a_class_or_half_set_column_get_them(refine, tmp_path):
    given = read_particles(refine / "particles_small.star")
    text = {k: v for k, v in given.text.items() if k not in ("rlnRandomSubset", "rlnClassNumber")}
    halves = np.array([2, 1, 2, 1, 2, 1, 2])
    groups, norm = np.array([3, 3, 1, 2, 2, 1, 1]), np.linspace(0.5, 2, 7)
    write_refined_particles(
        tmp_path / "d.star", replace(given, text=text, half_set=halves), group_number=groups, norm=norm
    )
    back = read_particles(tmp_path / "d.star")
    assert back.half_set.tolist() == halves.tolist()
    assert back.text["rlnClassNumber"].tolist() == ["1"] * 7
    assert back.text["rlnGroupNumber"].astype(int).tolist() == groups.tolist()
    assert back.text["rlnNormCorrection"].astype(float) == pytest.approx(norm)
    assert list(back.text)[-4:] == [
        "rlnGroupNumber",
        "rlnRandomSubset",
        "rlnClassNumber",
        "rlnNormCorrection",
    ]


def test_a_second_refinement_replaces_the_columns_of_the_first(refine, tmp_path):
    first = read_particles(refine / "run_it001_data.star")
    likelihood = 161535.3125 + np.arange(len(first))
    write_refined_particles(
        tmp_path / "d.star", first, group_number=1, log_likelihood=likelihood, n_significant=np.arange(7)
    )
    again = read_particles(tmp_path / "d.star")
    assert list(again.text) == list(first.text)
    assert again.text["rlnLogLikeliContribution"].astype(float).tolist() == likelihood.tolist()
    assert again.text["rlnNrOfSignificantSamples"].astype(int).tolist() == list(range(7))
    assert again.text["rlnGroupNumber"].tolist() == ["1"] * 7
    assert (
        again.text["rlnMaxValueProbDistribution"].tolist()
        == first.text["rlnMaxValueProbDistribution"].tolist()
    )


def test_particles_that_cannot_be_written(refine, tmp_path):
    particles = read_particles(refine / "run_it001_data.star")
    with pytest.raises(ValueError, match="half sets"):
        write_refined_particles(tmp_path / "d.star", replace(particles, half_set=None), group_number=1)
    bad = np.ones(7)
    bad[3] = np.nan
    with pytest.raises(InputError, match=r"d\.star was not written: rlnMaxValueProbDistribution holds"):
        write_refined_particles(tmp_path / "d.star", particles, group_number=1, p_max=bad)
    assert not list(tmp_path.iterdir())


# ---- errors of readers


@pytest.mark.parametrize(
    ("what", "table", "label"),
    [
        pytest.param("model", "model_general", "rlnOriginalImageSize", id="model number"),
        pytest.param("model", "model_classes", "rlnAccuracyRotations", id="model class"),
        pytest.param("model", "model_class_1", "rlnGoldStandardFsc", id="model curve"),
        pytest.param("model", "model_groups", "rlnGroupName", id="model groups"),
        pytest.param("model", "model_optics_group_1", "rlnSigma2Noise", id="model noise"),
        pytest.param(
            "model", "model_pdf_orient_class_1", "rlnOrientationDistribution", id="model directions"
        ),
        pytest.param("sampling", "sampling_general", "rlnSymmetryGroup", id="sampling text"),
        pytest.param("sampling", "sampling_general", "rlnHealpixOrder", id="sampling number"),
        pytest.param("sampling", "sampling_directions", "rlnAngleTilt", id="sampling directions"),
        pytest.param("optimiser", "optimiser_general", "rlnModelStarFile", id="optimiser models"),
        pytest.param("optimiser", "optimiser_general", "rlnTomoTomogramsFile", id="optimiser text"),
        pytest.param("optimiser", "optimiser_general", "rlnHasConverged", id="optimiser number"),
    ],
)
def test_a_missing_column_or_table_is_named(refine, tmp_path, what, table, label):
    name = next(p.values[0] for p in RELION_FILES if p.values[1] == what)
    tables = read_star(refine / name)
    kept = {key: column for key, column in tables[table].columns.items() if key != label}
    path = tmp_path / name
    # A table of no columns is legal where a half set has no particle of an optics group.
    kept = kept or {"rlnOther": tables[table][label]}
    write_star(path, tables | {table: Table(table, kept, tables[table].is_loop)})
    with pytest.raises(
        InputError, match=rf"{re.escape(str(path))}, table data_{table}, has no column {label}; "
    ):
        READERS[what](path)
    tables.pop(table)
    write_star(path, tables or {"": Table("", {})})
    with pytest.raises(
        InputError, match=rf"{re.escape(str(path))} has no table data_{table} .* name a file like run_"
    ):
        READERS[what](path)


@pytest.mark.parametrize(
    ("what", "old", "new", "message"),
    [
        ("model", "48480.415391", "many", r"data_model_class_1, row 5: 'many' in column rlnSsnrMap is not a number"),
        ("model", "_rlnNrClasses                                      1", "_rlnNrClasses 3", "model of 3 classes"),
        ("model", "          24     0.092593    10.80", "          25     0.09    10.80", "the 25 shells of a box of 48"),
        ("model", "          24     0.092593 7.08", "          25     0.092593 7.08", "data_model_optics_group_1.* beyond"),
        ("model", "_rlnOriginalImageSize                             48", "_rlnOriginalImageSize 48.5", "not a whole number"),
        ("sampling", "0.460047", "nan", "rlnSamplingPerturbInstance is not a finite number; correct"),
        ("sampling", "   28.125000", "   -", "'-' in column rlnAngleRot is not a number"),
        ("optimiser", "230.000000", "wide", "row 1: 'wide' in column rlnParticleDiameter is not a number"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named(refine, tmp_path, what, old, new, message):
    name = next(p.values[0] for p in RELION_FILES if p.values[1] == what)
    text = (refine / name).read_text()
    assert old in text
    (tmp_path / name).write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=message) as caught:
        READERS[what](tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_two_classes_in_one_table_are_refused(refine, tmp_path):
    tables = read_star(refine / "run_it006_half1_model.star")
    twice = {label: np.repeat(column, 2) for label, column in tables["model_classes"].columns.items()}
    write_star(tmp_path / "m.star", tables | {"model_classes": Table("model_classes", twice)})
    with pytest.raises(InputError, match="2 rows of rlnReferenceImage instead of one"):
        read_model(tmp_path / "m.star")


@pytest.mark.parametrize("what", READERS)
def test_a_file_that_is_not_there_or_another_is_refused(data, tmp_path, what):
    with pytest.raises(InputError, match="does not exist"):
        READERS[what](tmp_path / "none.star")
    with pytest.raises(InputError, match=f"has no table data_{what}_general .it holds data_general"):
        READERS[what](data / "refine/run_it001_data.star")


# ---- names


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("run", 3, "model", 1), "run_it003_half1_model.star"),
        (("Refine3D/job016/run", 0, "optimiser"), "Refine3D/job016/run_it000_optimiser.star"),
        ((Path("a") / "run_ct6", 1234, "class001", 2), "a/run_ct6_it1234_half2_class001.mrc"),
        (("run", 12, "class001_unfil", 1), "run_it012_half1_class001_unfil.mrc"),
        (("run", 5, "class001_angdist", 2), "run_it005_half2_class001_angdist.bild"),
        (("run", None, "model"), "run_model.star"),
        (("run", None, "data"), "run_data.star"),
        (("run", None, "sampling"), "run_sampling.star"),
        (("run", None, "optimisation_set"), "run_optimisation_set.star"),
        (("run", None, "class001"), "run_class001.mrc"),
        (("run", None, "class001_unfil", 1), "run_half1_class001_unfil.mrc"),
        (("run", None, "half_maps.png"), "run_half_maps.png"),
    ],
)
def test_names_are_relions(arguments, name):
    assert iteration_name(*arguments) == name


def test_unknown_files_have_no_name():
    with pytest.raises(ValueError, match="'modle' is no file of a refinement; known are data, model"):
        iteration_name("run", 1, "modle")


def test_the_latest_iteration_is_the_last_complete_one(refine, tmp_path):
    assert latest_iteration(tmp_path / "none") is None
    assert latest_iteration(tmp_path) is None
    for path in refine.glob("run_it*"):
        shutil.copy(path, tmp_path)
    assert latest_iteration(tmp_path) is None  # no maps
    for number in (0, 1, 6):
        for half in (1, 2):
            (tmp_path / iteration_name("run", number, "class001", half)).touch()
    assert latest_iteration(tmp_path) == 6
    assert latest_iteration(tmp_path, "ru.") is None
    assert latest_iteration(tmp_path, "run_ct6") is None
    for what, half in (
        ("model", 2),
        ("class001", 1),
        ("data", None),
        ("sampling", None),
        ("optimisation_set", None),
    ):
        missing = tmp_path / iteration_name("run", 6, what, half)
        missing.rename(tmp_path / "aside")
        assert latest_iteration(tmp_path) == 1, missing
        (tmp_path / "aside").rename(missing)
    (tmp_path / "run_it006_optimiser.star").unlink()
    assert latest_iteration(tmp_path) == 1
    (tmp_path / "run_it001_optimiser.star").unlink()
    assert latest_iteration(tmp_path) == 0


# ---- distribution of orientations


def _cylinders(path: Path) -> np.ndarray:
    lines = [line.split() for line in path.read_text().splitlines()]
    # ChimeraX shows lines that begin with no period as labels.
    assert {words[0] for words in lines} <= {".comment", ".color", ".cylinder"}
    return np.array([[float(word) for word in words[1:]] for words in lines if words[0] == ".cylinder"])


def test_cylinders_stand_where_their_directions_point(tmp_path):
    # rot 90, tilt 90 is y; rot 0, tilt 90 is x; tilt 0 is z
    directions = np.array([[90.0, 90.0], [0.0, 90.0], [37.0, 0.0], [12.0, 34.0]])
    pdf = np.array([0.4, 0.2, 0.1, 0.0])
    write_angular_distribution(
        tmp_path / "a.bild", directions, pdf, size_px=9, pixel_size_angst=2.5, diameter_angst=60.0
    )
    found = _cylinders(tmp_path / "a.bild")
    assert found.shape == (3, 7)
    for cylinder, axis, share in zip(found, (1, 0, 2), (1, 1 / 2, 1 / 4), strict=True):
        unit = np.eye(3)[axis]
        assert cylinder[:3] == pytest.approx(10.0 + 30 * unit, abs=1e-3)
        assert cylinder[3:6] == pytest.approx(10.0 + (30 + 10 * share) * unit, abs=1e-3)
        assert cylinder[6] == pytest.approx(found[0, 6] * share, abs=1e-3)
    assert 0 < found[0, 6] < 30


def test_symmetry_copies_are_drawn_once(tmp_path):
    directions, pdf = np.array([[10.0, 50.0], [0.0, 0.0]]), np.array([0.75, 0.25])
    write_angular_distribution(
        tmp_path / "a.bild",
        directions,
        pdf,
        size_px=8,
        pixel_size_angst=2.0,
        diameter_angst=10.0,
        symmetry="C3",
    )
    found = _cylinders(tmp_path / "a.bild")
    assert len(found) == 4  # three copies, and the axis once
    rot = np.rad2deg(np.arctan2(found[:3, 1] - 8, found[:3, 0] - 8))
    assert np.sort(np.round(rot)).tolist() == [-110, 10, 130]


def test_no_probabilities_give_no_cylinders(tmp_path):
    write_angular_distribution(
        tmp_path / "a.bild",
        np.zeros((2, 2)),
        np.zeros(2),
        size_px=8,
        pixel_size_angst=2.0,
        diameter_angst=10.0,
    )
    assert _cylinders(tmp_path / "a.bild").size == 0


@pytest.mark.parametrize(
    ("read", "file", "table_name", "label", "value"),
    [
        (read, file, table_name, label, value)
        for read, file, table_name, label in (
            (read_model, "run_it001_half1_model.star", "model_general", "rlnOriginalImageSize"),
            (read_model, "run_it001_half1_model.star", "model_general", "rlnNrOpticsGroups"),
            (read_model, "run_it001_half1_model.star", "model_class_1", "rlnSpectralIndex"),
            (read_sampling, "run_it001_sampling.star", "sampling_general", "rlnHealpixOrder"),
            (read_optimiser, "run_it001_optimiser.star", "optimiser_general", "rlnCurrentIteration"),
        )
        for value in ("1e300", "-1e18", "1_0", "<NA>", "", "nan", "0.5")
    ],
)
def test_numbers_that_make_no_sense(data, tmp_path, read, file, table_name, label, value):
    tables = read_star(data / "refine" / file)
    columns = {**tables[table_name].columns}
    columns[label] = columns[label].copy()
    columns[label][0] = value
    changed = Table(table_name, columns, tables[table_name].is_loop)
    write_star(tmp_path / "x.star", tables | {table_name: changed})
    with pytest.raises(InputError, match=rf"x\.star.*{label}"):
        read(tmp_path / "x.star")


@pytest.mark.parametrize(
    ("read", "file"),
    [
        (read_model, "run_it001_half1_model.star"),
        (read_sampling, "run_it001_sampling.star"),
        (read_optimiser, "run_it001_optimiser.star"),
    ],
)
def test_tables_without_rows(data, tmp_path, read, file):
    tables = read_star(data / "refine" / file)
    for name, one in tables.items():
        empty = Table(name, {label: column[:0] for label, column in one.columns.items()})
        write_star(tmp_path / "x.star", tables | {name: empty})
        with suppress(InputError):  # some tables may be empty
            read(tmp_path / "x.star")


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "{}", '"x"', '[{"iteration": "1"}, {"iteration": true}]', "[" * 100_000, "null"]
)
def test_a_damaged_history_is_as_none(tmp_path, text):
    (tmp_path / "run_history.json").write_text(text)
    assert refinement.read_history(tmp_path) == []
    (tmp_path / "run_history.json").write_text('[{"iteration": 1, "p_max": 1e999}, 7]')
    assert [one["iteration"] for one in refinement.read_history(tmp_path)] == [1]
