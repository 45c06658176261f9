"""postprocess.star and MTF files: what is no number is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_sta.data.errors import InputError
from napari_sta.io.postprocess import read_mtf, read_postprocess_star
from napari_sta.io.star import Table, read_star, text_column, write_star

RESULT = "project/PostProcess/job037/postprocess.star"


def test_relions_result(data):
    found = read_postprocess_star(data / RESULT)
    assert found.number("resolution_angst") == pytest.approx(10.368)
    assert found.general["map"] == "PostProcess/job037/postprocess.mrc"
    shells = len(found.frequency_inv_angst)
    assert set(map(len, found.fsc.values())) == {shells}
    assert len(found.inverse_square_angst2) == len(found.log_amplitudes["original"]) > 3


def _changed(source: Path, path: Path, name: str, label: str, value: str) -> Path:
    tables = read_star(source)
    columns = {**tables[name].columns}
    columns[label] = columns[label].copy()
    columns[label][-1] = value
    write_star(path, tables | {name: Table(name, columns, tables[name].is_loop)})
    return path


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("fsc", "rlnResolution"),
        ("fsc", "rlnFourierShellCorrelationCorrected"),
        ("guinier", "rlnResolutionSquared"),
        ("guinier", "rlnLogAmplitudesOriginal"),
    ],
)
@pytest.mark.parametrize("value", ["x", "<NA>", "", "[1"])
def test_words_among_the_numbers(data, tmp_path, name, label, value):
    path = _changed(data / RESULT, tmp_path / "postprocess.star", name, label, value)
    with pytest.raises(InputError, match=rf"postprocess\.star, table data_{name}, row .*column {label}"):
        read_postprocess_star(path)


def test_a_map_may_be_called_by_a_number(data, tmp_path):
    path = _changed(data / RESULT, tmp_path / "postprocess.star", "general", "rlnUnfilteredMapHalf1", "1e3")
    assert read_postprocess_star(path).general["half1"] == "1e3"
    path = _changed(data / RESULT, tmp_path / "postprocess.star", "general", "rlnFinalResolution", "x")
    with pytest.raises(InputError, match=r"'x' in column rlnFinalResolution"):
        read_postprocess_star(path)


def test_shells_without_a_number_stay_unknown(data, tmp_path):
    label = "rlnFourierShellCorrelationCorrected"
    found = read_postprocess_star(_changed(data / RESULT, tmp_path / "p.star", "fsc", label, "nan"))
    assert np.isnan(found.fsc["corrected"][-1])


@pytest.mark.parametrize(
    "content",
    [
        "data_general\n\n_rlnFinalResolution 3\n",
        "data_fsc\n\nloop_\n_rlnResolution #1\n0.1\n",
        "data_general\n\n\ndata_fsc\n\nloop_\n_rlnOther #1\n1\n",
        "no table",
        "",
    ],
)
def test_no_result(tmp_path, content):
    (tmp_path / "postprocess.star").write_text(content)
    with pytest.raises(InputError, match=r"postprocess\.star"):
        read_postprocess_star(tmp_path / "postprocess.star")


def test_a_result_without_guinier_columns_or_rows(tmp_path):
    path = tmp_path / "postprocess.star"
    path.write_text(
        "data_general\n\nloop_\n_rlnFinalResolution #1\n\n\ndata_fsc\n\nloop_\n_rlnResolution #1\n\n\n"
        "data_guinier\n\nloop_\n_rlnOther #1\n1\n"
    )
    found = read_postprocess_star(path)
    assert np.isnan(found.number("resolution_angst"))
    assert len(found.frequency_inv_angst) == len(found.inverse_square_angst2) == 0


@pytest.mark.parametrize("value", ["x", "<NA>", "nan", "inf"])
@pytest.mark.parametrize("label", ["rlnResolutionInversePixel", "rlnMtfValue"])
def test_mtf_of_words(tmp_path, label, value):
    columns = {
        "rlnResolutionInversePixel": text_column(["0", "0.1", "0.2"]),
        "rlnMtfValue": text_column(["1", "0.9", "0.8"]),
    }
    write_star(tmp_path / "mtf.star", [Table("", columns)])
    assert read_mtf(tmp_path / "mtf.star")[1].tolist() == [1, 0.9, 0.8]
    columns[label][1] = value
    write_star(tmp_path / "mtf.star", [Table("", columns)])
    with pytest.raises(InputError, match=rf"mtf\.star.*row 2.*{label}"):
        read_mtf(tmp_path / "mtf.star")
