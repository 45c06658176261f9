"""Iteration 0: grey scale, and the noise of images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_sta.data.volume import Volume
from napari_sta.engine.quirks import Quirk
from napari_sta.engine.run import Run
from napari_sta.engine.start import initial_state, with_noise
from napari_sta.engine.workers import Workers
from napari_sta.io.mrc import read_volume, write_volume
from refine_project import (
    PIXEL_ANGST,
    Refinable,
    prepared,
)


@pytest.fixture(scope="module")
def project(stacks: Refinable) -> Refinable:
    return stacks


def test_an_unknown_grey_scale_leaves_the_noise_alone(project, tmp_path):
    """Iteration 1 by correlation, whatever the reference's scale; iteration 2 has the right noise."""
    noise = {}
    for factor in (1.0, 20.0):
        reference = read_volume(project.reference)
        path = tmp_path / f"times{factor:g}.mrc"
        write_volume(path, Volume(reference.data * np.float32(factor), PIXEL_ANGST))
        one = prepared(project, in_3dref=path, absolute_greyscale="No")
        state, _ = initial_state(one.run, one.references, one.start, one.half_set, fit_scale=False)
        noise[factor] = np.stack([images.noise for images in state.images])
    np.testing.assert_allclose(noise[20.0], noise[1.0], rtol=1e-3)


def begun_with(run, one, references, **options):
    return initial_state(run, references, one.start, one.half_set, **options)


def test_the_grey_scale_is_fitted_to_each_half_set(project):
    one = prepared(project)
    run, references = one.run, one.references
    plain, fit = begun_with(run, one, references, fit_scale=True)
    assert fit.significance > 8
    _, third = begun_with(run, one, [3 * volume for volume in references], fit_scale=True)
    assert third.scale == pytest.approx(fit.scale / 3)
    assert third.significance == pytest.approx(fit.significance)
    other, _ = begun_with(run, one, [references[0], 5 * references[1]], fit_scale=True)
    for half in (1, 2):
        np.testing.assert_allclose(other.model(half).reference, plain.model(half).reference, atol=1e-5)


def test_a_scale_that_is_known_is_left_alone(project):
    one = prepared(project)
    state, _ = begun_with(one.run, one, one.references, fit_scale=False)
    np.testing.assert_allclose(
        state.model(1).reference, one.run.lowpassed(one.references[0]).numpy().astype(np.float32)
    )
    assert state.iteration == 0
    assert (state.half_set == one.half_set).all()
    assert [images.scale.tolist() for images in state.images] == [[1, 1, 1, 1]] * 2
    assert [images.sigma2_offset_angst2 for images in state.images] == [100, 100]


def test_each_half_set_measures_its_own_noise(project):
    one = prepared(project)
    state, _ = begun_with(one.run, one, one.references, fit_scale=True)
    first, second = state.images
    assert not np.array_equal(first.sigma2, second.sigma2)
    np.testing.assert_allclose(first.noise.mean(axis=(0, 1)), second.noise.mean(axis=(0, 1)), rtol=0.2)
    quirks = frozenset({Quirk.FEW_IMAGES})
    few = Run(one.run.source, replace(one.run.settings, quirks=quirks), one.run.rules, one.run.mask)
    state, _ = begun_with(few, one, one.references, fit_scale=True)
    np.testing.assert_array_equal(state.images[0].sigma2, state.images[1].sigma2)


def test_relions_likelihood_needs_no_first_look(project):
    one = prepared(project)
    quirks = frozenset({Quirk.SHELL_NOISE})
    run = Run(one.run.source, replace(one.run.settings, quirks=quirks), one.run.rules, one.run.mask)
    state, fit = begun_with(run, one, one.references, fit_scale=False)
    assert (fit.scale, fit.significance) == (1, np.inf)
    assert not state.images[0].noise.any()


def test_noise_can_be_measured_again(project):
    """At the same poses, against the fitted references, it is what it was."""
    one = prepared(project)
    state, _ = begun_with(one.run, one, one.references, fit_scale=True)
    wiped = replace(state, images=tuple(replace(i, noise=np.ones_like(i.noise)) for i in state.images))
    for images, again in zip(state.images, with_noise(one.run, wiped).images, strict=True):
        np.testing.assert_allclose(again.noise, images.noise, rtol=1e-4)


def test_threads_change_nothing_but_rounding(project):
    one = prepared(project)
    run = Run(one.run.source, one.run.settings, one.run.rules, one.run.mask, Workers(3))
    (plain, _), (shared, _) = (begun_with(r, one, one.references, fit_scale=True) for r in (one.run, run))
    np.testing.assert_allclose(shared.images[1].noise, plain.images[1].noise, rtol=1e-9)


def test_what_is_assumed_at_the_start(project):
    one = prepared(project)
    run = one.run
    state, _ = begun_with(run, one, one.references, fit_scale=True)
    for half, images in zip((1, 2), state.images, strict=True):
        assert images.temperature == 1
        model = state.model(half)
        assert model.class_number == 1
        np.testing.assert_allclose(model.pdf_direction, 1 / run.grid(one.start.order).n_directions)
        rows = np.flatnonzero(one.half_set == half)
        values = run.source.initial_noise(0, 20 * run.source.n_tilts, rows)
        np.testing.assert_array_equal(images.sigma2[0], values)
    assert state.perturbation == run.perturbation(0.0, 0)


def test_what_the_reference_explains_is_no_noise(project):
    """Nothing is explained by a map of nothing, which is left as it is."""
    one = prepared(project)
    state, _ = begun_with(one.run, one, one.references, fit_scale=True)
    nothing, fit = begun_with(one.run, one, [0 * volume for volume in one.references], fit_scale=True)
    assert fit.significance == 0
    assert not nothing.model(1).reference.any()
    for images, blank in zip(state.images, nothing.images, strict=True):
        assert images.noise[..., 1:4].mean() < 0.98 * blank.noise[..., 1:4].mean()
