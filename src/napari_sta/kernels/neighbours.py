"""Distances between particles: who sits on whose place."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray


def close_pairs(
    position_zyx_angst: Float[ndarray, "n 3"], distance_angst: float
) -> tuple[Int[ndarray, "p 2"], Float[ndarray, "p"]]:
    """All pairs of points no further apart than a distance.

    Returns
    -------
    pairs
        Row numbers (i, j) with i < j, sorted.
    distance_angst
        Of each pair.

    Notes
    -----
    A k-d tree: 200,000 points take seconds as long as pairs are few.
    """
    from scipy.spatial import cKDTree

    if len(position_zyx_angst) < 2:
        return np.zeros((0, 2), np.int64), np.zeros(0)
    # A hair more than asked for: the tree's own rounding must not decide; the exact test follows.
    pairs = cKDTree(position_zyx_angst).query_pairs(
        distance_angst * (1 + 1e-9) + 1e-12, output_type="ndarray"
    )
    pairs = pairs.astype(np.int64)
    apart = np.linalg.norm(position_zyx_angst[pairs[:, 0]] - position_zyx_angst[pairs[:, 1]], axis=1)
    keep = apart**2 <= np.float64(distance_angst) ** 2
    pairs, apart = pairs[keep], apart[keep]
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    return pairs[order], apart[order]


def keep_last(pairs: Int[ndarray, "p 2"], n: int) -> Bool[ndarray, "n"]:
    """Which rows survive if a row is dropped as soon as a later one is close to it.

    Notes
    -----
    RELION's rule (``relion_star_handler --remove_duplicates``): a later row counts even if it is dropped
    itself, so of a chain only its last member stays.
    """
    keep = np.ones(n, dtype=bool)
    keep[pairs[:, 0]] = False
    return keep


def keep_best(pairs: Int[ndarray, "p 2"], score: Float[ndarray, "n"]) -> Bool[ndarray, "n"]:
    """Which rows survive if the best is taken first and drops its neighbours, and so on.

    Equal scores: the earlier row wins. No two survivors are close, and every dropped row is close to one.
    """
    n = len(score)
    starts = np.zeros(n + 1, dtype=np.int64)
    both = np.concatenate([pairs, pairs[:, ::-1]]) if len(pairs) else pairs
    both = both[np.argsort(both[:, 0], kind="stable")] if len(both) else both
    if len(both):
        starts = np.searchsorted(both[:, 0], np.arange(n + 1))
    keep = np.ones(n, dtype=bool)
    for row in np.argsort(-score, kind="stable"):
        if keep[row]:
            keep[both[starts[row] : starts[row + 1], 1]] = False
    return keep
