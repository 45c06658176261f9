"""Drawings of directions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_sta.io.refinement.orientations import write_angular_distribution


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
