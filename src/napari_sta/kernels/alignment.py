"""Score a map against a mask: how far apart they are along an axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from napari_sta.kernels.grids import squared_radius

_WORKING_BOX_PX = 64
# Recipes masks are made by: low-pass, fraction of the mask's volume that is above the threshold, growth.
_LOWPASSES_ANGST = (14.0, 20.0)
_FRACTIONS = (0.2, 0.35, 0.55)
_GROWTHS_ANGST = (0.0, 5.0, 10.0, 16.0)
_MARGIN_ANGST = 12.0  # how far around the mask, along the axis, the map has a say
_FLOOR_PX = 0.08  # of the working grid: error left on simulated maps where all envelopes agree
_MISFIT_ANGST = 5.0  # error per unit of correlation below 0.9, on maps against masks of another extent
_TOLERANCE = 0.003  # recipes whose correlations differ by this are equally good


class Candidate(NamedTuple):
    """One maximum of a score curve."""

    offset_px: float
    score: float


class OffsetCurve(NamedTuple):
    """Score of a map against a mask as a function of the mask's shift.

    Attributes
    ----------
    offset_px, score
        (n,) shift along the axis in pixels of the map; correlation in [-1, 1] of the map's own envelope with
        the shifted mask.
    candidates
        Maxima, best first.
    confidence
        0 to 1: how well the best one fits and how far it is ahead of the next.
    uncertainty_px
        The error to expect: how far the optimum moves among envelopes that fit nearly as well, what remains
        on simulated maps even where they agree, and more where the best one fits badly.
    at_end
        The best score lies at the end of the range: no maximum was found inside it.
    profile_map, profile_mask
        (d,) mean of map and mask in planes across the axis, inside the mask's column.
    """

    offset_px: Float[ndarray, "n"]
    score: Float[ndarray, "n"]
    candidates: tuple[Candidate, ...]
    confidence: float
    uncertainty_px: float
    at_end: bool
    profile_map: Float[ndarray, "d"]
    profile_mask: Float[ndarray, "d"]


def trust(confidence: float) -> str:
    """Say in one word how far a confidence can be trusted: clear, fair or weak."""
    return "clear" if confidence >= 0.8 else "fair" if confidence >= 0.5 else "weak"


def score_curve(
    map_zyx: Float[ndarray, "d d d"],
    mask_zyx: Float[ndarray, "d d d"],
    axis: str = "z",
    range_px: float = 20.0,
    step_px: float = 1 / 20,
    pixel_size_angst: float = 1.0,
) -> OffsetCurve:
    """Find how far a map's density lies from a mask along one axis.

    Parameters
    ----------
    map_zyx, mask_zyx
        On one grid; density is positive.
    axis
        x, y or z.
    range_px, step_px
        The curve runs from -range to +range; pixels of the map.
    pixel_size_angst
        Of the map.

    Returns
    -------
    curve
        An offset of +d says: the density sits d pixels further along +axis than the mask.

    Raises
    ------
    ValueError
        If the grids differ, the mask is empty or fills the box, or the range leaves the box.

    Notes
    -----
    A mask is a low-passed, thresholded, grown and softened map, so plain correlation of density with
    mask is biased: strong layers and whatever lies beyond one face pull it. Here the map is made into
    masks again, at several low-passes, thresholds (fractions of the mask's volume) and growths, with the
    edge width measured on the mask; each is correlated with the mask (Pearson) in a domain that moves
    with it: its column along the axis, up to 12 Å around it. The curve is the mean over the recipes that
    fit best. Maps are brought to at most 64 voxels first, which keeps the cost near 0.4 s for any box.
    """
    if map_zyx.shape != mask_zyx.shape or len(set(map_zyx.shape)) != 1:
        raise ValueError(f"map {map_zyx.shape} and mask {mask_zyx.shape} must be cubes of one size")
    if axis not in "xyz":
        raise ValueError(f"axis must be x, y or z, not {axis}")
    if not 0 < range_px < map_zyx.shape[0] / 2:
        raise ValueError(f"the range must lie between 0 and half the box ({map_zyx.shape[0] // 2} px)")
    where = "zyx".index(axis)
    size = map_zyx.shape[0]
    density = np.moveaxis(np.asarray(map_zyx, dtype=np.float32), where, 0)
    mask = np.moveaxis(np.asarray(mask_zyx, dtype=np.float32), where, 0)
    volume = int((mask > 0.5).sum())
    if volume == 0 or volume == mask.size:
        raise ValueError("the mask is empty" if volume == 0 else "the mask fills the whole box")

    working = min(size, _WORKING_BOX_PX)
    ratio = size / working  # map pixels per working pixel
    pixel = pixel_size_angst * ratio
    small_mask = np.clip(_reduce(mask, working, 0.0), 0, 1)
    column = np.broadcast_to(small_mask.max(axis=0) > 0.05, small_mask.shape) & _ball(working)
    offsets = np.arange(-round(range_px / step_px), round(range_px / step_px) + 1) * step_px

    small_density = _reduce(density, working, 0.0)
    scorer = _RecipeScorer(small_density, small_mask, column, pixel, offsets / ratio)
    for lowpass in _LOWPASSES_ANGST:
        for fraction in _FRACTIONS:
            scorer.add(lowpass, fraction, _GROWTHS_ANGST)
    for step in (1.0, 0.5):  # closer to the best
        lowpass, fraction, growth = scorer.best()
        near = [max(growth + 2.5 * step * sign, 0.0) for sign in (-1, 0, 1)]
        for change in (-0.06, 0.0, 0.06):
            scorer.add(lowpass, fraction + change * step, near)
        for change in (-3.0, 3.0):
            scorer.add(lowpass + change * step, fraction, near)
    scores = np.array(scorer.scores)
    peaks = scores.max(axis=1)
    weight = np.exp((peaks - peaks.max()) / _TOLERANCE)
    curve = weight @ scores / weight.sum()
    candidates = _candidates(offsets, curve, scores, round(3 * ratio / step_px))
    good = weight > np.exp(-3)
    optima = np.array([_refine(offsets, one, int(one.argmax())).offset_px for one in scores[good]])
    close = optima[np.abs(optima - candidates[0].offset_px) < 3 * ratio]
    spread = float(np.ptp(close) / 2) if len(close) else 0.0
    # An envelope that explains little of the mask also places it badly.
    misfit_px = _MISFIT_ANGST * max(0.0, 0.9 - candidates[0].score) / pixel_size_angst
    uncertainty = float(np.sqrt(spread**2 + (_FLOOR_PX * ratio) ** 2 + misfit_px**2))
    runner_up = candidates[1].score if len(candidates) > 1 else 0.0
    lead = np.clip((candidates[0].score - runner_up) / 0.4, 0, 1)
    confidence = float(np.clip((candidates[0].score - 0.4) / 0.5, 0, 1) * (0.5 + 0.5 * lead))
    at_end = abs(candidates[0].offset_px) > range_px - step_px
    if at_end:
        confidence = 0.0  # the maximum is the end of the range, not a maximum
    footprint = mask.max(axis=0) > 0.05
    return OffsetCurve(
        offsets, curve, candidates, confidence, uncertainty, at_end,
        density[:, footprint].mean(axis=1).astype(np.float64),
        mask[:, footprint].mean(axis=1).astype(np.float64),
    )  # fmt: skip


class _RecipeScorer:
    """Correlates envelopes of the map with the shifted mask, recipe by recipe."""

    def __init__(
        self,
        density: ndarray,
        mask: ndarray,
        column: Bool[ndarray, "d d d"],
        pixel_angst: float,
        shifts: ndarray,
    ) -> None:
        from scipy.ndimage import maximum_filter1d

        self._density, self._pixel_angst = density, pixel_angst
        self._whole_column = column
        self._footprint = column.any(axis=0)
        self._edge_px = _edge_width_px(mask)
        self._target = float((mask[column] > 0.5).sum())
        # The mask and its surroundings move as one domain: what lies further away has no say.
        margin = max(1, round(_MARGIN_ANGST / pixel_angst))
        domain = maximum_filter1d(mask > 0.05, 2 * margin + 1, axis=0, mode="constant") & column.any(axis=0)
        domain = domain[:, self._footprint].astype(np.float32)
        columns = mask[:, self._footprint] * domain
        self._n = float(domain.sum())
        self._mask_mean = float(columns.sum()) / self._n
        self._mask_variance = float((columns**2).sum()) - self._n * self._mask_mean**2
        self._mask_hat = np.fft.rfft(columns, axis=0)
        self._domain_hat = np.fft.rfft(domain, axis=0)
        n, k = len(mask), np.arange(len(mask) // 2 + 1)
        twice = np.where((k == 0) | (2 * k == n), 1, 2)  # the other half of the spectrum
        self._waves = np.exp(2j * np.pi * np.outer(shifts, k) / n) * twice / n
        self._lowpassed: dict[float, tuple[ndarray, ndarray]] = {}
        self._distances: dict[tuple[float, float], ndarray | None] = {}
        self._recipes: dict[tuple[float, float, float], ndarray] = {}

    @property
    def scores(self) -> list[ndarray]:
        """Curves of all recipes tried."""
        return list(self._recipes.values())

    def add(self, lowpass_angst: float, fraction: float, growths_angst: Sequence[float]) -> None:
        """Low-pass, threshold at a fraction of the mask's volume, grow by each distance, correlate."""
        distance = self._distance(lowpass_angst, fraction)
        if distance is None:
            return
        for growth in growths_angst:
            if (lowpass_angst, fraction, growth) in self._recipes:
                continue
            t = (distance - growth / self._pixel_angst) * (np.pi / max(self._edge_px, 1e-3))
            envelope = (0.5 + 0.5 * np.cos(np.clip(t, 0, np.pi))).astype(np.float32)
            hat, square_hat = (np.fft.rfft(e, axis=0) for e in (envelope, envelope * envelope))
            product = self._correlate(hat, self._mask_hat)
            total = self._correlate(hat, self._domain_hat)
            square = self._correlate(square_hat, self._domain_hat)
            variance = np.maximum(square - total**2 / self._n, 1e-3 * self._n)
            curve = (product - total * self._mask_mean) / np.sqrt(variance * self._mask_variance)
            self._recipes[lowpass_angst, fraction, growth] = curve

    def best(self) -> tuple[float, float, float]:
        """Return low-pass, fraction and growth of the recipe that fits best so far."""
        if not self._recipes:
            raise ValueError("the map has no positive density where the mask could lie")
        return max(self._recipes, key=lambda recipe: float(self._recipes[recipe].max()))

    def _correlate(self, a_hat: ndarray, mask_hat: ndarray) -> ndarray:
        """Sum over voxels of a(z) · mask(z - shift) for every shift, of any fraction, along axis 0."""
        cross = np.einsum("kc,kc->k", a_hat, mask_hat.conj())
        # Not @: the threads that BLAS wakes for it spin on, and take as much time again as all the rest.
        result: ndarray = np.einsum("sk,k->s", self._waves, cross).real
        return result

    def _distance(self, lowpass_angst: float, fraction: float) -> ndarray | None:
        """Distance of each voxel from the map's densest voxels; None if they are not density."""
        from scipy.ndimage import distance_transform_edt

        if lowpass_angst not in self._lowpassed:
            low = _reduce(self._density, len(self._density), lowpass_angst / self._pixel_angst)
            self._lowpassed[lowpass_angst] = low, np.sort(low[self._whole_column])[::-1]
        low, ordered = self._lowpassed[lowpass_angst]
        if (lowpass_angst, fraction) not in self._distances:
            count = min(max(int(fraction * self._target), 1), len(ordered) - 1)
            level = ordered[count]
            self._distances[lowpass_angst, fraction] = (
                distance_transform_edt(low < level)[:, self._footprint].astype(np.float32)
                if level > 0
                else None
            )
        return self._distances[lowpass_angst, fraction]


def _candidates(offsets: ndarray, curve: ndarray, scores: ndarray, reach: int) -> tuple[Candidate, ...]:
    """Maxima of the curve, best first; all but the best are placed by the recipe that fits best there."""
    inner = np.flatnonzero((curve[1:-1] > curve[:-2]) & (curve[1:-1] >= curve[2:])) + 1
    peaks = sorted((_refine(offsets, curve, int(i)) for i in inner), key=lambda c: -c.score)
    if not peaks or curve.max() > peaks[0].score + 1e-6:
        end = int(curve.argmax())
        peaks.insert(0, Candidate(float(offsets[end]), float(curve[end])))
    for number, peak in enumerate(peaks[1:5], start=1):
        middle = int(np.abs(offsets - peak.offset_px).argmin())
        window = slice(max(0, middle - reach), middle + reach + 1)
        own = scores[scores[:, window].max(axis=1).argmax()]
        at = window.start + int(own[window].argmax())
        if 0 < at < len(own) - 1 and own[at] >= own[at - 1] and own[at] >= own[at + 1]:
            peaks[number] = Candidate(_refine(offsets, own, at).offset_px, peak.score)
    return tuple(peaks[:5])


def _refine(offsets: ndarray, curve: ndarray, i: int) -> Candidate:
    """Parabola through a maximum and its neighbours."""
    if not 0 < i < len(curve) - 1:
        return Candidate(float(offsets[i]), float(curve[i]))
    left, mid, right = curve[i - 1 : i + 2]
    bend = left - 2 * mid + right
    move = float(np.clip(0.5 * (left - right) / bend, -0.5, 0.5)) if bend < 0 else 0.0
    return Candidate(
        float(offsets[i] + move * (offsets[1] - offsets[0])), float(mid - 0.25 * (left - right) * move)
    )


def _edge_width_px(mask: ndarray) -> float:
    """Width of a raised-cosine edge, from its steepest slope pi / (2 width)."""
    slope = np.sqrt(sum(g * g for g in np.gradient(mask)))
    rim = (mask > 0.35) & (mask < 0.65)
    if not rim.any():
        return 1.0
    return float(np.clip(np.pi / (2 * max(np.median(slope[rim]), 1e-3)), 1.0, len(mask) / 8))


def _ball(size: int) -> Bool[ndarray, "n n n"]:
    """Voxels inside the inscribed sphere: averages are faded to zero outside of it."""
    index = np.arange(size) - size // 2
    ball: ndarray = squared_radius(index, index, index) < (size / 2) ** 2
    return ball


def _reduce(volume: ndarray, size: int, lowpass_px: float) -> ndarray:
    """Fourier-crop a cube to ``size`` voxels and low-pass it at ``lowpass_px`` voxels of the new grid."""
    import torch

    n = volume.shape[0]
    spectrum = torch.fft.rfftn(torch.from_numpy(np.ascontiguousarray(volume)))
    if size < n:
        half = size // 2
        rows = torch.cat([torch.arange(half), torch.arange(n - (size - half), n)])
        spectrum = spectrum[rows][:, rows][:, :, : half + 1] * (size / n) ** 3
    if lowpass_px > 2:
        k = torch.fft.fftfreq(size)
        kx = torch.fft.rfftfreq(size)
        r = torch.sqrt(squared_radius(k, k, kx))
        middle, width = 1 / lowpass_px, 1.5 / size
        spectrum = spectrum * (
            0.5 + 0.5 * torch.cos(torch.pi * ((r - middle) / (2 * width) + 0.5).clamp(0, 1))
        )
    reduced: ndarray = torch.fft.irfftn(spectrum, s=(size,) * 3).numpy()
    return reduced
