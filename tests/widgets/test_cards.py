"""Cards say what went wrong, with the way out as a button."""

from __future__ import annotations

from napari_sta.jobs._job import job_named
from napari_sta.widgets.cards import Card


def test_cards_say_errors_and_warnings_in_these_words(qtbot):
    card = Card()
    qtbot.addWidget(card)
    job = job_named("make_mask")
    card.tell("error", "Mask creation failed", "--threshold 99 is above every voxel", job=job)
    assert "“Initial binarisation threshold” 99" in card.text
    card.tell("info", "Command copied", "napari-sta make_mask --threshold 99")
    assert "--threshold 99" in card.text
