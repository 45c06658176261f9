"""The time left is that of what is counted."""

from __future__ import annotations

import pytest

from napari_sta.data.progress import Progress
from napari_sta.widgets.pace import Pace


def progress(done: int, **data) -> Progress:
    return Progress(done, 100, "x", data)


def test_time_left_is_counted_from_the_first_step_that_was_done():
    """A resumed job has read for a minute when its second particle is done: that will not come again."""
    pace = Pace()
    pace.note(progress(0, iteration=3, phase="expectation"), 0.0)
    assert pace.remaining_s(50.0) is None
    pace.note(progress(2, iteration=3, phase="expectation"), 60.0)
    assert pace.remaining_s(60.0) is None
    assert pace.remaining_s(75.0) is None  # one step tells nothing
    for done, now in ((12, 61.0), (22, 62.0)):
        pace.note(progress(done, iteration=3, phase="expectation"), now)
    assert pace.remaining_s(62.0) == pytest.approx(7.8)
    assert pace.remaining_s(63.0) == pytest.approx(6.8)
    pace.note(progress(0, iteration=4, phase="accuracy"), 70.0)
    assert pace.remaining_s(70.0) is None
    pace.note(Progress(5, 0, "no total"), 80.0)
    assert pace.remaining_s(90.0) is None
