"""A damaged history is as none."""

from __future__ import annotations

import pytest

from napari_sta.io.refinement.history import read_history


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "{}", '"x"', '[{"iteration": "1"}, {"iteration": true}]', "[" * 100_000, "null"]
)
def test_a_damaged_history_is_as_none(tmp_path, text):
    (tmp_path / "run_history.json").write_text(text)
    assert read_history(tmp_path) == []
    (tmp_path / "run_history.json").write_text('[{"iteration": 1, "p_max": 1e999}, 7]')
    assert [one["iteration"] for one in read_history(tmp_path)] == [1]
