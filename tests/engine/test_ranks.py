"""Processes: together they have every row once, and about the same to do."""

from __future__ import annotations

import numpy as np
import pytest

from napari_sta.engine.ranks import Ranks


@pytest.mark.parametrize("size", [2, 3, 7])
def test_every_row_has_one_process(rng, size):
    rows = rng.permutation(50)
    cost = rng.uniform(0.1, 2, 50)
    shares = [Ranks(rank, size).share(rows, cost) for rank in range(size)]
    np.testing.assert_array_equal(np.concatenate(shares), rows)


def test_costs_are_balanced(rng):
    rows = np.arange(1000)
    cost = np.where(rows < 200, 9.0, 1.0)  # the first tomogram is slow
    place = Ranks(0, 4)
    sums = [cost[Ranks(rank, 4).share(rows, cost)].sum() for rank in range(4)]
    assert max(sums) - min(sums) <= 18
    assert len(place.share(rows, cost)) < 100


def test_more_processes_than_rows():
    shares = [Ranks(rank, 5).share(np.array([4, 2]), np.ones(2)) for rank in range(5)]
    assert sorted(np.concatenate(shares)) == [2, 4]


def test_one_process_alone_needs_nobody(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    alone = Ranks.join()
    assert alone.is_first
    assert alone.size == 1
    rows, values = np.array([3, 1]), np.ones(2)
    assert alone.share(rows, np.ones(2)) is rows
    alone.add_up(values)
    alone.add_up_everywhere(values)
    np.testing.assert_array_equal(values, [1, 1])
    assert alone.collect("mine") == ["mine"]
    assert alone.from_first("mine") == "mine"
