"""What is missing or wrong in a file of a refinement is named."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest

from napari_sta.data.errors import InputError
from napari_sta.io.refinement.model import read_model
from napari_sta.io.refinement.optimiser import read_optimiser
from napari_sta.io.refinement.sampling import read_sampling
from napari_sta.io.star import Table, read_star, write_star
from refinement_records import READERS, RELION_FILES


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


@pytest.mark.parametrize("what", READERS)
def test_a_file_that_is_not_there_or_another_is_refused(data, tmp_path, what):
    with pytest.raises(InputError, match="does not exist"):
        READERS[what](tmp_path / "none.star")
    with pytest.raises(InputError, match=f"has no table data_{what}_general .it holds data_general"):
        READERS[what](data / "refine/run_it001_data.star")


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
