"""Stacks: what fills the outside of the mask, and what multiplies a slice."""

from __future__ import annotations

import numpy as np
import pytest

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
