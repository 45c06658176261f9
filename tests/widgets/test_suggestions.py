"""The best offsets are offered, but not the ends of the range."""

from __future__ import annotations

from dataclasses import replace

import pytest

from napari_sta.widgets.align_pair import read_pair
from napari_sta.widgets.suggestions import Suggestions


@pytest.fixture(scope="module")
def pair(small_project):
    paths = {"map": str(small_project.map_path), "mask": str(small_project.mask_path)}
    return read_pair(paths, {"map": None, "mask": None}, None).pair


@pytest.fixture
def row(qtbot, pair):
    made = Suggestions()
    qtbot.addWidget(made)
    made.show_pair(pair)
    return made


def words(row) -> list[str]:
    shown = [row.candidates.itemAt(i).widget() for i in range(row.candidates.count())]
    return [button.text() for button in shown if button is not None]


def test_the_best_is_the_hidden_offset(row, pair, small_project):
    chosen = []
    row.chosen.connect(chosen.append)
    row.suggest_button.click()
    row.candidates.itemAt(0).widget().click()
    assert chosen == [pair.maxima()[0][0]] * 2
    assert chosen[0] == pytest.approx(small_project.hidden_offset_px, abs=0.1)
    row.reset_button.click()
    assert chosen[-1] == 0


def test_uncertainty_is_the_number_of_the_command_line(row, pair):
    best = pair.curve.candidates[0].offset_px
    assert f"Best {best:+.2f} ± {pair.curve.uncertainty_px:.2f} px" in row.confidence.text()


def test_ends_of_the_range_are_no_candidates(row, pair):
    end = type(pair.curve.candidates[0])(20.0, 0.99)
    curve = pair.curve._replace(candidates=(end, *pair.curve.candidates), at_end=True)
    row.show_pair(replace(pair, curve=curve))
    assert words(row)
    assert not any("20.00" in text for text in words(row))
    assert "end of the range" in row.confidence.text()
    assert not row.suggest_button.isEnabled()
    chosen = []
    row.chosen.connect(chosen.append)
    row.suggest()
    assert chosen == []


def test_nothing_compared_is_nothing_offered(row):
    row.show_pair(None)
    assert words(row) == []
    assert row.confidence.text() == ""
    assert not row.suggest_button.isEnabled()
