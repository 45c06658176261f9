"""Model, sampling and optimiser files as RELION 5.0.1 wrote them, and there and back: list tables, label by label."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from napari_sta.io.refinement.model import write_model
from napari_sta.io.refinement.optimiser import write_optimiser
from napari_sta.io.refinement.sampling import write_sampling
from napari_sta.io.star import read_star
from refinement_records import READERS, RELION_FILES, model_with, optimiser_with, sampling_with

WRITERS = {"model": write_model, "sampling": write_sampling, "optimiser": write_optimiser}

# RELION computes these from a pixel size with more digits than it writes.
FROM_PIXEL_SIZE = ("rlnAngstromResolution", "rlnResolution")


def _assert_equal(one: object, other: object) -> None:
    assert type(one) is type(other)
    for f in fields(one):  # type: ignore[arg-type]
        a, b = getattr(one, f.name), getattr(other, f.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype, f.name
            np.testing.assert_array_equal(a, b, err_msg=f.name)
        else:
            assert a == b or (a != a and b != b), f.name


MADE = [
    pytest.param(model_with(overall_completeness=0.625), "model", id="model"),
    pytest.param(
        model_with(overall_completeness=0.625, orientability=np.array([0, 0.5, 0.25, 1e-4])),
        "model",
        id="orientability",
    ),
    pytest.param(sampling_with(), "sampling", id="sampling"),
    pytest.param(optimiser_with(), "optimiser", id="optimiser"),
    pytest.param(
        optimiser_with(model_files=("run_model.star",), other={}, command=""), "optimiser", id="joined halves"
    ),
]


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
    for made in (sampling_with(), optimiser_with(solvent_mask="masks/mask.mrc")):
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
