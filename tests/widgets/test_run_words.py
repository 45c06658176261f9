"""What is said of a job that has ended."""

from __future__ import annotations

import pytest
from fake_jobs import Fine

from napari_sta.data.errors import InputError
from napari_sta.jobs._failures import in_words
from napari_sta.widgets.run_queue import Ticket
from napari_sta.widgets.run_words import failure_details, result_words, span


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.4, "59 s"), (61.0, "1 min 1 s"), (3725.0, "1 h 2 min")]
)
def test_times(seconds, words):
    assert span(seconds) == words


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"n_particles": 12, "resolution_angst": 8.25, "seconds": 3.0}, "particles 12 · resolution 8.25 Å"),
        ({"bfactor_angst2": -100, "done": True, "name": "x"}, "bfactor -100 Å²"),
        ({"summary": "All is well.", "n": 3}, "All is well."),
        ({}, ""),
    ],
)
def test_result_is_the_summary_or_the_numbers(record, words):
    assert result_words(Ticket(Fine(), record=record)) == words


def test_a_refinement_that_ended_early_says_how_to_go_on():
    assert "Continue" in result_words(Ticket(Fine(), record={"converged": False, "iterations": 3}))


def test_only_what_nobody_foresaw_has_details():
    try:
        raise RuntimeError("bang")
    except RuntimeError as error:
        unforeseen = in_words(error)
    assert "RuntimeError: bang" in failure_details(Ticket(Fine(), error=unforeseen))
    assert failure_details(Ticket(Fine(), error=InputError("no such file"))) == ""
    assert failure_details(Ticket(Fine())) == ""
