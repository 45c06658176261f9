"""Accuracies: the same for the same seed whatever the threads; noise makes them worse."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine_steps import planned
from napari_sta.engine import accuracy
from napari_sta.engine.accuracy import measure_accuracy
from napari_sta.engine.ranks import Ranks
from napari_sta.engine.run import Run
from napari_sta.engine.workers import Workers


@pytest.fixture(scope="module")
def ready(begun):
    plan, projectors = planned(*begun)
    return plan, projectors[0]


def with_(run: Run, **changes) -> Run:
    return Run(run.source, run.settings, run.rules, run.mask, **changes)


def test_threads_change_nothing(begun, ready):
    (run, state), (plan, projector) = begun, ready
    one = measure_accuracy(run, state, projector, plan.windows, 1)
    assert 0 < one[0] < 90
    assert 0 < one[1] < 30
    assert measure_accuracy(with_(run, workers=Workers(3)), state, projector, plan.windows, 1) == one


def test_more_noise_is_worse(begun, ready):
    (run, state), (plan, projector) = begun, ready
    before = measure_accuracy(run, state, projector, plan.windows, 1)
    loud = tuple(replace(images, temperature=9.0) for images in state.images)
    after = measure_accuracy(run, replace(state, images=loud), projector, plan.windows, 1)
    assert after[0] > 1.5 * before[0]
    assert after[1] > 1.5 * before[1]


def test_a_few_particles_are_drawn(begun, ready, monkeypatch):
    (run, state), (plan, projector) = begun, ready
    seen: list[int] = []
    read = Run.particle

    def spied(self, state, half, index, window):
        assert half == 1
        seen.append(index)
        return read(self, state, half, index, window)

    monkeypatch.setattr(Run, "particle", spied)
    monkeypatch.setattr(accuracy, "_PARTICLES", 5)
    draws = []
    for number in (1, 2):
        seen.clear()
        measure_accuracy(run, state, projector, plan.windows, number)
        draws.append(list(seen))
        assert len(set(seen)) == 5
        assert (state.half_set[seen] == 1).all()
    assert draws[0] != draws[1]


def test_others_wait_for_the_first_and_a_stop_ends_it(begun, ready):
    (run, state), (plan, projector) = begun, ready
    second = with_(run, ranks=Ranks(1, 2))
    assert measure_accuracy(second, state, projector, plan.windows, 1) == (0, 0)
    stopped = with_(run, workers=Workers(1))
    stopped.workers.stop.set()
    assert measure_accuracy(stopped, state, projector, plan.windows, 1) == (0, 0)
