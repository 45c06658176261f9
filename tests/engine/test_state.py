"""States: models by half set and class."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest

from napari_sta.engine.state import HALVES


def test_models_are_found_by_half_set_and_class(begun):
    state = begun.state
    assert [(m.half, m.class_number) for m in state.models] == [(1, 1), (2, 1)]
    for half in HALVES:
        assert state.model(half) is state.models[half - 1]
    second = replace(state.models[0], class_number=2)
    several = replace(state, models=(*state.models, second))
    assert several.model(1, 2) is second
    with pytest.raises(KeyError, match="half set 2, class 2"):
        several.model(2, 2)


def test_states_do_not_change(begun):
    with pytest.raises(FrozenInstanceError):
        begun.state.iteration = 3
