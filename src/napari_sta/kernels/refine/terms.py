"""What a score is made of, image by image, and the formula that makes it: it stands here once.

The backends yield terms (:mod:`.backend`); sums over images are made of scores (:mod:`.scores`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from numpy import ndarray

_TINY = 1e-300
"""Correlations with a blank image are 0, not 0 / 0."""


class View(NamedTuple):
    """A direction of view, and the images that see the reference from it.

    Attributes
    ----------
    matrix_zyx
        (3, 3) from what orientations lead to (subtomogram, or tomogram) to the image (or part).
    images
        (particle, tilt) of each, counted in the sequence of particles and in the images of each.
    """

    matrix_zyx: ndarray
    images: Sequence[tuple[int, int]]


class Terms(NamedTuple):
    """What a score is made of, for some images and some orientations; arrays of the backend's own kind.

    Attributes
    ----------
    images
        (particle, tilt) of each of the k images.
    rows
        Which orientations.
    cross
        (k, o, s) float64 weighed products of slices and shifted images; -inf for pairs that are not tried.
    norm
        (k, o) float64 halves of the slices' weighed squared norms.
    """

    images: Sequence[tuple[int, int]]
    rows: slice
    cross: Any
    norm: Any


def combined(cross: Any, norm: Any, power: Any = None) -> Any:
    """Turn terms into scores: the log-likelihood up to a constant, or the correlation coefficient.

    Parameters
    ----------
    cross, norm
        (…, o, s) and (…, o), numpy arrays or tensors.
    power
        (…, 1) of the images, sum abs(X)² over the window: then correlation. None: log-likelihood.

    Notes
    -----
    Log-likelihood: sum of Re(conj(s M V) X) / sigma² - abs(s M V)² / 2 sigma², weighed in the terms.
    """
    if power is None:
        return cross - norm[..., None]
    return cross / ((2 * norm * power).clip(min=_TINY) ** 0.5)[..., None]
