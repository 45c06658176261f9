"""The one door: who does the work, and that both do it to the same contract."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_sta.kernels.refine.backend import Backend, backend_of
from napari_sta.kernels.refine.on_cpu import OnCpu
from napari_sta.kernels.refine.on_device import OnDevice
from napari_sta.kernels.refine.projector import placed
from napari_sta.kernels.refine.terms import View
from toy_refinement import random_rotations


@pytest.fixture(params=["compiled", "torch"])
def projector(request, toy):
    return toy[1] if request.param == "compiled" else placed(toy[1], "cpu")


def views(particle) -> list[View]:
    return [View(q, [(0, t)]) for t, q in enumerate(particle.matrices_zyx)]


def test_the_projector_s_place_decides(toy):
    assert isinstance(backend_of(toy[1]), OnCpu)
    there = backend_of(placed(toy[1], "cpu"))
    assert isinstance(there, OnDevice)
    assert there.device == torch.device("cpu")


def test_both_have_the_four_methods(projector):
    backend = backend_of(projector)
    assert isinstance(backend, Backend)
    assert backend.zeros((2, 3)).sum() == 0
    assert backend.zeros((2, 3)).shape == (2, 3)
    assert backend.to_host(backend.zeros((4,))).dtype == np.float64


def test_every_image_meets_every_orientation_once(projector, toy):
    pixels, _, particle, _, _ = toy
    rotations, shifts = random_rotations(5, 1), np.zeros((3, 3))
    seen = np.zeros((particle.n_tilts, 5), int)
    backend = backend_of(projector)
    for terms in backend.terms(projector, [particle], views(particle), pixels, rotations, shifts):
        cross = [backend.to_host(values) for values in terms.cross]
        norm = [backend.to_host(values) for values in terms.norm]
        for (_, tilt), of_cross, of_norm in zip(terms.images, cross, norm, strict=True):
            seen[tilt, terms.rows] += 1
            assert of_cross.shape == (len(of_norm), 3)
            assert of_cross.dtype == of_norm.dtype == np.float64
            np.testing.assert_allclose(of_cross, of_cross[:, :1] * np.ones(3), rtol=1e-5)  # no shifts
            assert (of_norm > 0).all()
    assert (seen == 1).all()


def test_it_ends_early_once_it_may_not_go_on(projector, toy):
    pixels, _, particle, _, _ = toy
    asked = []
    found = backend_of(projector).terms(
        projector, [particle], views(particle), pixels, random_rotations(5, 1), np.zeros((3, 3)),
        go_on=lambda: asked.append(1) or False,
    )  # fmt: skip
    assert list(found) == []
    assert asked


def test_pairs_that_do_not_go_together(toy):
    """The compiled loops leave them at -inf; the others are as without pairs."""
    pixels, projector, particle, _, _ = toy
    rotations, shifts = random_rotations(8, 1), np.random.default_rng(0).normal(size=(4, 3))
    arguments = projector, [particle], views(particle)[:1], pixels, rotations, shifts
    (whole,) = backend_of(projector).terms(*arguments)
    (some,) = backend_of(projector).terms(*arguments, pairs=np.array([[True], [False]]))
    np.testing.assert_allclose(some.cross[0][:4], whole.cross[0][:4], rtol=1e-6)
    assert (some.cross[0][4:] == -np.inf).all()
    np.testing.assert_allclose(some.norm, whole.norm)
