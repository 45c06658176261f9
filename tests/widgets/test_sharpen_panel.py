"""The sliders start from the file's values and give what they show."""

from __future__ import annotations

import pytest

from napari_sta.widgets.result import read_result
from napari_sta.widgets.sharpen_panel import Sharpening, SharpenPanel


@pytest.fixture
def panel(qtbot, processed):
    made = SharpenPanel()
    qtbot.addWidget(made)
    made.set_result(read_result(processed / "PostProcess/job004"))
    return made


def test_it_starts_from_the_files_values_without_asking_for_a_map(panel, processed):
    changed = []
    panel.changed.connect(lambda: changed.append(panel.value()))
    panel.set_result(read_result(processed / "PostProcess/job005"))
    assert panel.value() == Sharpening(-300.0, None, True, False)
    assert changed == []
    assert panel.isEnabled()


def test_sliders_and_boxes_say_the_same(panel):
    changed, lowpass = [], []
    panel.changed.connect(lambda: changed.append(panel.value()))
    panel.lowpass_changed.connect(lowpass.append)
    panel.bfactor.setValue(-200)
    assert panel.bfactor_box.value() == -200
    panel.bfactor_box.setValue(-50)
    assert panel.bfactor.value() == -50
    panel.lowpass_box.setValue(16.0)
    frequencies = panel._result.frequency_inv_angst
    assert 1 / frequencies[panel.lowpass.value()] == pytest.approx(16.0, rel=0.05)
    panel.lowpass.setValue(5)
    assert panel.lowpass_angst == pytest.approx(1 / frequencies[5], abs=0.01)
    panel.weighting.setChecked(False)
    panel.in_mask.setChecked(True)
    assert lowpass[0] == 16.0
    assert changed[-1] == Sharpening(-50.0, panel.lowpass_angst, False, True)


def test_without_half_maps_nothing_can_be_sharpened(panel, processed):
    panel.set_result(read_result(processed / "PostProcess/job004", maps=False))
    assert not panel.isEnabled()
    panel.set_result(None)
    assert not panel.isEnabled()
