"""The project to practise on."""

from __future__ import annotations

import numpy as np
import pytest

from napari_sta.io.mrc import read_volume
from napari_sta.phantoms.density import density_map, hexamer
from napari_sta.phantoms.practice import make_practice_project


def test_practice_map_is_off_by_the_hidden_offset(tmp_path):
    practice = make_practice_project(tmp_path / "practice", seed=1)
    assert 1.5 <= abs(practice.hidden_offset_px) <= 4.0
    data = read_volume(practice.map_path).data
    # The particle alone, raised by the offset, fits best there: brute force in twentieths of a pixel.
    n = data.shape[0]
    ft = np.fft.rfftn(data)
    kz = np.fft.fftfreq(n)[:, None, None]
    truth = np.fft.rfftn(density_map(hexamer(), n, 4.0).data)
    offsets = np.arange(-6, 6.01, 0.05)
    product = (ft * truth.conj()).sum(axis=(1, 2), keepdims=True)
    scores = [(product * np.exp(2j * np.pi * kz * d)).real.sum() for d in offsets]
    assert offsets[int(np.argmax(scores))] == pytest.approx(practice.hidden_offset_px, abs=0.11)
    other = make_practice_project(tmp_path / "other", seed=2)
    assert other.hidden_offset_px != practice.hidden_offset_px
    half = read_volume(practice.map_path.parent / "half1.mrc").data
    assert 0.5 < np.corrcoef(half.ravel(), data.ravel())[0, 1] < 0.999
