"""What images and slices are weighed by, in each case written out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_sta.kernels.refine.particle import ParticleImages
from napari_sta.kernels.refine.pixels import make_pixel_list
from napari_sta.kernels.refine.voxels import make_voxel_list
from toy_refinement import RADIUS, SHELLS, SIZE

PIXELS = make_pixel_list(SIZE, RADIUS)
N, T, SCALE = len(PIXELS), 3, 1.7


@pytest.fixture
def particle(rng) -> ParticleImages:
    """Of images that are not premultiplied, with the noise of the group."""
    ctf = rng.uniform(-1, 1, (T, N)).astype(np.float32)
    image = rng.normal(size=(T, 2 * N)).astype(np.float32)
    return ParticleImages(
        image, image * 2, ctf, ctf, np.repeat(np.eye(3)[None], T, axis=0), np.ones((T, SHELLS)),
        rng.uniform(1, 2, SHELLS), np.arange(3.0), np.ones(3), SCALE, np.ones(T),
    )  # fmt: skip


def premultiplied(particle: ParticleImages) -> ParticleImages:
    return replace(particle, model=particle.model**2, ctf=None)


def with_noise(particle: ParticleImages, rng) -> ParticleImages:
    return replace(particle, noise=rng.uniform(1, 2, (T, SHELLS)))


@pytest.mark.parametrize("tilt", [0, 2])
def test_relions_likelihood(particle, tilt):
    """scale · M / sigma² times the image, (scale · M)² / sigma² times |V|², of any images."""
    inverse = np.where(PIXELS.shell > 0, 1 / particle.sigma2[PIXELS.shell], 0)
    for case in (particle, premultiplied(particle)):
        model = case.model[tilt].astype(float)
        cross, norm = case.score_weights(tilt, PIXELS)
        np.testing.assert_allclose(cross, SCALE * model * inverse, rtol=1e-6)
        np.testing.assert_allclose(norm, (SCALE * model) ** 2 * inverse, rtol=1e-6)
        assert cross.dtype == norm.dtype == np.float32


@pytest.mark.parametrize("tilt", [0, 2])
def test_with_the_noise_of_each_tilt(particle, rng, tilt):
    """Premultiplied images hold CTF · noise: CTF² of the model cancels against the noise's."""
    raw = with_noise(particle, rng)
    inverse = np.where(PIXELS.shell > 0, 1 / raw.noise[tilt][PIXELS.shell], 0)
    model = raw.model[tilt].astype(float)
    cross, norm = raw.score_weights(tilt, PIXELS)
    np.testing.assert_allclose(cross, SCALE * model * inverse, rtol=1e-6)
    np.testing.assert_allclose(norm, (SCALE * model) ** 2 * inverse, rtol=1e-6)
    cross, norm = premultiplied(raw).score_weights(tilt, PIXELS)
    np.testing.assert_allclose(cross, SCALE * inverse, rtol=1e-6)
    np.testing.assert_allclose(norm, SCALE**2 * model**2 * inverse, rtol=1e-5)


def test_correlation_uses_no_noise_and_counts_the_window(particle):
    mates = np.where((PIXELS.u == 0) & (PIXELS.v > 0) & (PIXELS.v < RADIUS), 2, 1)
    cross, norm = particle.score_weights(1, PIXELS, cross_correlation=True)
    np.testing.assert_allclose(cross, particle.model[1] * mates, rtol=1e-6)
    np.testing.assert_allclose(norm, particle.model[1] ** 2 * mates, rtol=1e-6)
    assert cross[PIXELS.shell == 0].any()


def test_what_images_are_averaged_with(particle, rng):
    model = particle.model[1].astype(float)
    group, noisy = 1 / particle.sigma2[PIXELS.shell], with_noise(particle, rng)
    own = 1 / noisy.noise[1][PIXELS.shell]
    for case, factor, weight in (
        (particle, SCALE * model * group, (SCALE * model) ** 2 * group),
        (noisy, SCALE * model * own, (SCALE * model) ** 2 * own),
        (premultiplied(particle), group, SCALE * model**2 * group),
        (premultiplied(noisy), SCALE * own, SCALE**2 * model**2 * own),
    ):
        found = case.sum_weights(1, PIXELS)
        np.testing.assert_allclose(found[0], factor, rtol=1e-6)
        np.testing.assert_allclose(found[1], weight, rtol=1e-6)


def test_noise_of_a_volume_grows_with_its_slices(rng):
    """Voxels that hardly a slice crossed are not divided by their number; of known noise none is."""
    voxels = make_voxel_list(SIZE, RADIUS, part=300)
    t, n, part = len(voxels.parts), len(voxels), voxels.parts[1]
    multiplicity = rng.uniform(0, 3, (t, n)).astype(np.float32)
    multiplicity[1, 7], multiplicity[1, 8] = 0.1, 0.11
    volume = ParticleImages(
        np.ones((t, 2 * n), np.float32), np.ones((t, 2 * n), np.float32), np.ones((t, n), np.float32), None,
        np.repeat(np.eye(3)[None], t, axis=0), np.ones((1, SHELLS)), np.linspace(1, 2, SHELLS), np.zeros(3),
        np.zeros(3), 1.0, np.ones(1), multiplicity=multiplicity,
    )  # fmt: skip
    divisor = np.where(multiplicity[1] > 0.1, multiplicity[1], 1)
    divisor[7] = 1  # float32's 0.1 is just above
    inverse = np.where(part.shell > 0, 1 / volume.sigma2[part.shell], 0)
    cross, _ = volume.score_weights(1, part)
    np.testing.assert_allclose(np.delete(cross, 7), np.delete(inverse / divisor, 7), rtol=1e-5)
    known = replace(volume, noise=np.tile(volume.sigma2, (t, 1)))
    np.testing.assert_allclose(known.score_weights(1, part)[0], inverse, rtol=1e-6)
    assert volume.n_images == 1
    assert volume.n_tilts == t


def test_what_is_believed_of_it(particle, rng):
    sigma2, noise, offset = np.full(SHELLS, 3.0), rng.uniform(size=(T, SHELLS)), np.array([4.0, 5, 6])
    changed = particle.at(sigma2, noise, 2.5, offset)
    assert changed.sigma2 is sigma2
    assert changed.noise is noise
    assert changed.scale == 2.5
    assert changed.offset_zyx_px is offset
    np.testing.assert_array_equal(changed.offset_prior_zyx_px, np.ones(3))
    assert particle.at(sigma2, None, 1.0, offset, offset).offset_prior_zyx_px is offset
    assert particle.scale == SCALE


def test_fewer_pixels(particle):
    small = make_pixel_list(SIZE, 3)
    place = PIXELS.places_of(small)
    for case in (particle, premultiplied(particle)):
        fewer = case.at_pixels(place)
        for name, both in (("masked", True), ("unmasked", True), ("model", False)):
            values = getattr(case, name)
            expected = (
                np.concatenate([values[:, place], values[:, N + place]], axis=1) if both else values[:, place]
            )
            np.testing.assert_array_equal(getattr(fewer, name), expected)
            assert getattr(fewer, name).flags.c_contiguous
        assert fewer.ctf is None if case.ctf is None else (fewer.ctf == case.ctf[:, place]).all()
