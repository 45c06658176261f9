"""Stacks: what fills the outside of the mask, and what multiplies a slice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_sta.data.errors import InputError
from napari_sta.kernels.refine.pixels import pixels_per_shell
from refine_project import (
    Refinable,
    prepared,
)


@pytest.fixture(scope="module")
def project(stacks: Refinable) -> Refinable:
    return stacks


def test_noise_fills_what_lies_outside_the_mask(project):
    """In power like the noise of the images, where zero_mask leaves nearly nothing."""
    power = {}
    for zero in (True, False):
        source = prepared(project, zero_mask=zero).run.source
        window = source.windows(12)[0]
        sigma2 = np.full(13, 0.01)
        power[zero] = source.load(0, window, sigma2).power[:, 8:].mean()
        plain = source.load(0, window, sigma2)
        assert np.isfinite(plain.masked).all()
    count = 2 * np.pi * 10  # pixels of a shell, with two components of variance sigma2 each
    outside = 1 - float(prepared(project).run.source.mask_share[0])
    added = power[False] - power[True]
    assert added == pytest.approx(outside * count * 2 * 0.01 / 2, rel=0.6)


def test_ctf_options(project):
    """Where the model of an image is 1, and where it is the CTF squared (stacks hold one factor)."""
    models = {}
    for name, given in (
        ("ctf", {}), ("none", {"ctf_correction": False}), ("peak", {"ignore_ctf_until_first_peak": True}),
    ):  # fmt: skip
        source = prepared(project, **given).run.source
        models[name] = source.load(0, source.windows(12)[0]).model
        pixels = source.windows(12)[0].pixels
    assert (models["none"] == 1).all()
    assert models["ctf"].min() < 0.1
    assert models["ctf"].max() < 1
    first = int(np.argmax(models["ctf"].mean(axis=1)))  # the first image taken
    near = pixels.shell == 1
    assert models["ctf"][first][near].max() < 0.3
    # Damage by the first dose and the microscope's tilt scale are left.
    assert models["peak"][first][near].min() > 0.8
    beyond = pixels.shell >= 8
    np.testing.assert_array_equal(models["peak"][:, beyond], models["ctf"][:, beyond])


def test_relion_takes_odd_aberrations_out_once_more(project):
    plain = prepared(project).run.source
    odd = prepared(project, relion_parity=True).run.source
    window = plain.windows(10)[0]
    for zernike, differs in (((), False), ((0.0, 0.3, 0.0), True)):
        for source in (plain, odd):
            groups = tuple(replace(group, odd_zernike=zernike) for group in source.particles.optics)
            source.particles = replace(source.particles, optics=groups)
        one, other = plain.load(0, window), odd.load(0, window)
        assert np.array_equal(one.unmasked, other.unmasked) != differs
        # A phase changes no power.
        np.testing.assert_allclose(other.power, one.power, rtol=1e-5)


def test_stacks_of_another_length_are_told(project, tmp_path):
    source = prepared(project).run.source
    source.check_files()
    source.visible[3] = source.visible[3][:-1]
    with pytest.raises(InputError, match=r"holds 7 images, but rlnTomoVisibleFrames of particle .* counts 6"):
        source.check_files()


def test_model_shells_are_sums_of_what_multiplies_noise(project):
    """At the middle of a tomogram a particle's own CTF² sums to nearly that."""
    source = prepared(project).run.source
    totals = source.model_shells()
    assert totals.shape == (4, source.n_tilts, source.n_shells)
    window = source.windows(source.size_px // 2)[0]
    particle = source.load(0, window)
    series = source.series_index[0]
    for tilt, model in zip(particle.tilts, particle.model, strict=True):
        mine = np.bincount(window.pixels.shell, model.astype(float), source.n_shells)
        np.testing.assert_allclose(mine[1:9], totals[series, tilt, 1:9], rtol=0.25)
    flat = prepared(project, ctf_correction=False).run.source.model_shells()
    np.testing.assert_array_equal(flat[0, 0], pixels_per_shell(source.size_px))


def test_noise_at_the_start_is_that_of_the_images(project):
    source = prepared(project).run.source
    noise = source.initial_noise(0, 40, np.arange(12))
    assert noise.shape == (source.n_shells,)
    window = source.windows(source.size_px // 2)[0]
    power = np.mean([source.load(i, window).power.mean(axis=0) for i in range(6)], axis=0)
    count = np.bincount(window.pixels.shell, minlength=source.n_shells)
    beyond = slice(8, 12)  # hardly any signal there
    np.testing.assert_allclose(noise[beyond], power[beyond] / (2 * count[beyond]), rtol=0.4)
    assert (source.initial_noise(0, 40, np.zeros(0, dtype=int)) == 1).all()
