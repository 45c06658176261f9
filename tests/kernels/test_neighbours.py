"""Close pairs and who survives them, against brute force."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from laws import assert_inputs_untouched
from napari_sta.kernels.neighbours import close_pairs, keep_best, keep_last

# Whole coordinates in a small box: many pairs, many exactly at the limit.
POINTS = hnp.arrays(
    np.float64, st.tuples(st.integers(0, 40), st.just(3)), elements=st.integers(0, 9).map(float)
)


def brute_pairs(points, d):
    n = len(points)
    return [
        (i, j) for i in range(n) for j in range(i + 1, n) if ((points[i] - points[j]) ** 2).sum() <= d * d
    ]


@settings(max_examples=150, deadline=None)
@given(POINTS, st.sampled_from([1.0, 2.0, 3.0, 5.0]))
def test_pairs_are_all_pairs(points, d):
    pairs, apart = assert_inputs_untouched(close_pairs, points, d)
    assert [tuple(p) for p in pairs.tolist()] == brute_pairs(points, d)
    expected = [np.linalg.norm(points[i] - points[j]) for i, j in pairs]
    np.testing.assert_allclose(apart, expected)


@pytest.mark.parametrize("n", [0, 1])
def test_nobody_is_close_to_nobody(n):
    pairs, apart = close_pairs(np.zeros((n, 3)), 10.0)
    assert pairs.shape == (0, 2)
    assert apart.shape == (0,)
    assert keep_last(pairs, n).all()
    assert keep_best(pairs, np.zeros(n)).all()


def test_the_distance_itself_is_close():
    points = np.array([[0.0, 0, 0], [0, 3.0, 4.0], [0, 0, -5.0000001]])
    pairs, apart = close_pairs(points, 5.0)
    assert pairs.tolist() == [[0, 1]]
    assert apart.tolist() == [5.0]


def test_of_a_chain_only_its_last_stays():
    """Three in a line spaced 0.9 d: RELION keeps the third, because the second counts although it is dropped."""
    points = np.array([[0.0, 0, 0], [0, 0, 9.0], [0, 0, 18.0]])
    pairs, _ = close_pairs(points, 10.0)
    assert keep_last(pairs, 3).tolist() == [False, False, True]
    # The best first: the middle one takes both neighbours with it, the ends leave each other alone.
    assert keep_best(pairs, np.array([1.0, 2.0, 1.0])).tolist() == [False, True, False]
    assert keep_best(pairs, np.array([2.0, 1.0, 2.0])).tolist() == [True, False, True]
    assert keep_best(pairs, np.zeros(3)).tolist() == [True, False, True]


@settings(max_examples=100, deadline=None)
@given(POINTS, st.sampled_from([1.0, 2.0, 4.0]))
def test_keep_last_is_relion_s_double_loop(points, d):
    n = len(points)
    expected = [
        not any(((points[i] - points[j]) ** 2).sum() <= d * d for j in range(i + 1, n)) for i in range(n)
    ]
    assert keep_last(close_pairs(points, d)[0], n).tolist() == expected


@settings(max_examples=150, deadline=None)
@given(POINTS, st.sampled_from([1.0, 2.0, 4.0]), st.data())
def test_keep_best_is_greedy(points, d, data):
    n = len(points)
    # Few values, so that ties are common.
    score = np.array(
        data.draw(st.lists(st.sampled_from([0.0, 0.5, -1.0, 2.0]), min_size=n, max_size=n)), float
    )
    keep = keep_best(close_pairs(points, d)[0], score)
    survivors: list[int] = []
    for i in sorted(range(n), key=lambda row: (-score[row], row)):
        if all(((points[i] - points[j]) ** 2).sum() > d * d for j in survivors):
            survivors.append(i)
    assert np.flatnonzero(keep).tolist() == sorted(survivors)
    # Which means: survivors are apart, and whoever went has a survivor nearby that is no worse.
    assert not brute_pairs(points[keep], d)
    for i in np.flatnonzero(~keep):
        near = [j for j in survivors if ((points[i] - points[j]) ** 2).sum() <= d * d]
        assert max(score[near]) >= score[i]


def test_two_hundred_thousand_take_seconds():
    rng = np.random.default_rng(4)
    points = rng.uniform(0, 20_000, (200_000, 3))
    points[::10] = points[5::10] + 8.0  # a tenth picked twice
    start = time.perf_counter()
    pairs, _ = close_pairs(points, 30.0)
    last, best = keep_last(pairs, len(points)), keep_best(pairs, rng.random(len(points)))
    elapsed = time.perf_counter() - start
    assert len(pairs) >= 20_000
    assert (~last).sum() >= 20_000
    assert (~best).sum() >= 20_000
    assert elapsed < 20  # half a second on an idle core; generous for a busy one
