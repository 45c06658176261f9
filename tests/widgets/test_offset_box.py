"""The number steps by what the held keys ask for, and says when a key is held."""

from __future__ import annotations

import pytest
from qtpy.QtCore import Qt

from napari_sta.widgets.offset_box import OffsetBox


@pytest.fixture
def box(qtbot):
    made = OffsetBox()
    qtbot.addWidget(made)
    return made


@pytest.mark.parametrize(
    ("value", "text"), [(2.5, "+2.50"), (-0.25, "-0.25"), (0.0, "0.00"), (-0.001, "0.00")]
)
def test_the_sign_is_always_shown(box, value, text):
    assert box.textFromValue(value) == text


@pytest.mark.parametrize(
    ("modifier", "step"),
    [
        (Qt.KeyboardModifier.NoModifier, 0.25),
        (Qt.KeyboardModifier.ShiftModifier, 1.0),
        (Qt.KeyboardModifier.AltModifier, 0.05),
    ],
)
def test_keys_step_and_say_that_they_are_held(box, qtbot, modifier, step):
    held = []
    box.held.connect(held.append)
    qtbot.keyPress(box, Qt.Key.Key_Up, modifier)
    assert box.value() == pytest.approx(step)
    assert held == [True]
    qtbot.keyRelease(box, Qt.Key.Key_Up, modifier)
    assert held == [True, False]
    qtbot.keyClick(box, Qt.Key.Key_Down, modifier)
    assert box.value() == pytest.approx(0)


def test_undo_is_the_text_s_own_while_digits_are_typed(box, qtbot):
    undone = []
    box.undone.connect(lambda: undone.append(True))
    box.setValue(1.0)
    qtbot.keyClick(box, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert undone == [True]
    box.selectAll()
    qtbot.keyClicks(box, "7")
    qtbot.keyClick(box, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert undone == [True]
    assert box.text() == "+1.00"
