"""Particles without a refinement: what CTF refinement and polishing start from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_sta.data.errors import InputError
from napari_sta.engine.particles import are_volumes, open_particles
from napari_sta.engine.source import ImageOptions
from napari_sta.engine.stacks import StackSource
from napari_sta.engine.subtomograms import SubtomogramSource
from napari_sta.io.mrc import read_volume
from napari_sta.io.relion.inputs import load_sta_inputs
from napari_sta.kernels.refine.backend import backend_of
from napari_sta.kernels.refine.projector import make_projector
from napari_sta.kernels.refine.scores import score_poses
from napari_sta.kernels.refine.terms import View, combined
from napari_sta.kernels.rotations import euler_to_matrix_zyx
from refine_project import DIAMETER_ANGST, Refinable

OPTIONS = ImageOptions(DIAMETER_ANGST)


def inputs_of(project: Refinable):
    return load_sta_inputs(str(project.optimisation_set), None, None, None, need_tomograms=True)


def test_what_a_set_holds_is_found_out(stacks, subtomograms):
    for project, kind in ((stacks, StackSource), (subtomograms, SubtomogramSource)):
        inputs = inputs_of(project)
        source = open_particles(inputs, OPTIONS)
        assert type(source) is kind
        assert are_volumes(inputs.particles) == (kind is SubtomogramSource)
        assert len(source) == 32
        source.check_files()


def test_options_that_do_not_go_with_it_are_refused(subtomograms):
    with pytest.raises(InputError, match="zero_mask Yes"):
        open_particles(inputs_of(subtomograms), ImageOptions(DIAMETER_ANGST, zero_mask=False))


def test_scores_of_each_tilt(stacks):
    """Scores tilt by tilt add up to those of refinement, and the true map fits better than nothing does."""
    source = open_particles(inputs_of(stacks), OPTIONS)
    window = source.windows(8)[0]
    volume = torch.from_numpy(read_volume(stacks.reference).data.astype(np.float64))
    projector = make_projector(volume, 8, 2.0)
    particle = source.load(0, window)
    noise = source.initial_noise(0, 20, np.arange(4))
    particle = particle.at(noise, None, 1.0, source.particles.origin_zyx_angst[0] / source.pixel_size_angst)
    pose = euler_to_matrix_zyx(stacks.phantom.particles.angles_deg[:1])
    pose = np.concatenate([pose, np.roll(pose, 1, axis=1)])
    shifts = np.array([[0.0, 0, 0], [0, 1.5, 0]])
    views = [View(particle.matrices_zyx[t], [(0, t)]) for t in range(particle.n_tilts)]
    by_tilt = np.zeros((particle.n_tilts, 2, 2))
    for terms in backend_of(projector).terms(projector, [particle], views, window.pixels, pose, shifts):
        for k, (_, tilt) in enumerate(terms.images):
            by_tilt[tilt, terms.rows] += combined(terms.cross[k], terms.norm[k])
    whole = score_poses(projector, particle, window.pixels, pose, shifts)
    np.testing.assert_allclose(by_tilt.sum(axis=0), whole, rtol=1e-6)
    assert len({*by_tilt[:, 0, 0]}) == particle.n_tilts
