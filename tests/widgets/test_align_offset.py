"""What counts as one step of the offset, and the way back."""

from __future__ import annotations

import pytest

from napari_sta.widgets import align_offset
from napari_sta.widgets.align_offset import Offset


@pytest.fixture
def offset(qapp):
    return Offset()


def test_it_is_rounded_bounded_and_told(offset, wait):
    moved, settled = [], []
    offset.moved.connect(lambda: moved.append(offset.z_px))
    offset.settled.connect(lambda: settled.append(offset.z_px))
    offset.set_z(2.7512)
    offset.set_z(-9e3)
    offset.set_z(-0.001)
    assert moved == [2.75, -500.0, 0.0]
    assert str(offset.z_px) == "0.0"  # not -0.0
    assert not offset.is_settled
    assert settled == []
    wait(lambda: offset.is_settled)
    assert settled == [0.0]


def test_steps_go_back_one_by_one_once_they_have_settled(offset, wait):
    for z in (1.0, 2.5):
        offset.set_z(z)
        wait(lambda: offset.is_settled)
    offset.step_back()
    assert offset.z_px == 1.0
    offset.step_back()
    assert offset.z_px == 0.0
    offset.step_back()  # nothing more
    assert offset.z_px == 0.0


@pytest.mark.parametrize("burst", [False, True])
def test_a_drag_or_a_held_key_is_one_step_however_slow(offset, wait, burst, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(align_offset.time, "monotonic", lambda: now[0])
    for _ in range(2):
        offset.hold(True, burst=burst)
        for _ in range(3):
            offset.step(1)
            offset._settle.stop()  # a tick takes long
            now[0] += 5.0
        offset.hold(False)
    assert offset.z_px == 1.5
    offset.step_back()
    assert offset.z_px == 0.75
    offset.step_back()
    assert offset.z_px == 0


def test_keys_that_follow_closely_go_back_together(offset, monkeypatch):
    monkeypatch.setattr(align_offset.time, "monotonic", lambda: 100.0)
    for _ in range(3):
        offset.hold(True, burst=True)
        offset.step(-1)
        offset.hold(False)
    offset.step_back()
    assert offset.z_px == 0


def test_sideways_goes_back_too_and_is_forgotten_with_the_pair(offset, wait):
    told = []
    offset.went_back.connect(told.append)
    offset.set_axis(2, 1.504)
    assert list(offset.zyx_px) == [0, 0, 1.5]
    offset.step_back()
    assert not offset.zyx_px.any()
    assert told == [(0.0, 0.0)]
    offset.set_z(3.0)
    offset.forget()
    offset.step_back()
    assert offset.z_px == 3.0
