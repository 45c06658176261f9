"""Pseudo-subtomograms: what their weights say, and what cannot be done with them."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from napari_sta.data.errors import InputError
from napari_sta.data.volume import Volume
from napari_sta.engine.source import ParticleSource
from napari_sta.engine.subtomograms import SubtomogramSource
from napari_sta.io.mrc import read_volume, write_volume
from napari_sta.io.star import read_star, write_star
from napari_sta.jobs._job import job_named, value_as_text
from napari_sta.jobs._refine_inputs import prepare
from napari_sta.kernels.refine.images import fill_outside, soft_disc
from napari_sta.kernels.refine.on_cpu import shift_images
from napari_sta.kernels.refine.volumes import volume_transform, weights_of
from refine_project import (
    BOX_PX,
    PIXEL_ANGST,
    Refinable,
)


def opened(project: Refinable, **values: Any) -> ParticleSource:
    """Open the particles as the job would."""
    given = {**project.inputs(), **values}
    job = job_named("refine").from_text({key: value_as_text(value) for key, value in given.items()})
    return prepare(job, logging.getLogger("test"), 1).run.source


def test_parity_moves_the_volume_under_the_mask(subtomograms):
    source = opened(subtomograms, relion_parity="Yes")
    assert isinstance(source, SubtomogramSource)
    window = source.windows(8)[0]
    loaded = source.load(0, window, None, np.array([2.2, -0.6, 0.3]))
    pixels = window.pixels
    stored = torch.from_numpy(read_volume(source.path(0)).data)
    moved = torch.zeros_like(stored)
    moved[2:, :-1] = stored[:-2, 1:]  # by (2, -1, 0), zeros behind
    disc = soft_disc(BOX_PX, source.options.diameter_angst / (2 * PIXEL_ANGST), source.options.edge_px, 3)
    weights = weights_of(torch.from_numpy(read_volume(source.path(0, "rlnCtfImage")).data))
    there = weights.multiplicity > 0
    for found, volume in ((loaded.masked, fill_outside(moved, disc, 3)), (loaded.unmasked, moved)):
        expected = pixels.take(volume_transform(volume) * there)
        for t in range(len(pixels.parts)):
            out = np.empty((1, expected.shape[1]), np.float32)
            shift_images(found[t], np.array([[2.0, -1.0, 0.0]]), pixels.part(t), out)
            np.testing.assert_allclose(out[0], expected[t], atol=2e-6 * np.abs(expected).max())
    np.testing.assert_array_equal(loaded.model, pixels.pick(weights.ctf2))
    np.testing.assert_array_equal(loaded.multiplicity, pixels.pick(weights.multiplicity))


def test_model_of_a_particle_is_what_its_weights_hold(subtomograms):
    source = opened(subtomograms)
    window = source.windows(BOX_PX // 2)[0]
    loaded = source.load(3, window)
    # Beyond what spreading reaches nothing is known, and the filling is empty.
    assert (loaded.model >= 0).all()
    assert loaded.tilts.tolist() == [0] * len(window.pixels.parts)
    share = loaded.model.ravel()[: window.pixels.count] > 0
    assert 0.3 < share.mean() < 1
    np.testing.assert_allclose(loaded.matrices_zyx[0], np.eye(3))
    totals = source.model_shells()
    assert totals.shape == (len(source.series_names), 1, BOX_PX // 2 + 1)
    mine = np.bincount(window.pixels.shell, loaded.model.ravel()[: window.pixels.count], BOX_PX // 2 + 1)
    np.testing.assert_allclose(mine[1:10], totals[source.series_index[3], 0, 1:10], rtol=0.3)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"zero_mask": "No"}, "--zero_mask Yes"),
        ({"ctf_correction": "No"}, "--ctf_correction Yes"),
        ({"ignore_ctf_until_first_peak": "Yes"}, "--ignore_ctf_until_first_peak No"),
    ],
    ids=["noise-filled mask", "no CTF", "first peak"],
)
def test_options_that_volumes_cannot_honour(subtomograms, option, words):
    with pytest.raises(InputError, match=words):
        opened(subtomograms, **option)


def with_columns(project: Refinable, root: Path, edit: Any) -> Refinable:
    """Copy the extracted folder and change its particle table."""
    folder = root / "Extract"
    shutil.copytree(project.particles.parent, folder)
    path = folder / "particles.star"
    tables = read_star(path)
    columns = tables["particles"].columns
    for label in ("rlnImageName", "rlnCtfImage"):
        columns[label] = np.array(
            [str(folder / Path(one).relative_to(project.particles.parent))
             if Path(one).is_absolute() else str(folder / one.partition("Extract/")[2]) for one in columns[label]],
            dtype=object,
        )  # fmt: skip
    edit(columns)
    write_star(path, tables)
    return replace(project, particles=path)


def direct(project: Refinable) -> dict[str, Any]:
    return {
        "in_optimisation_set": "", "in_parts": str(project.particles), "in_tomograms": str(project.tomograms)
    }  # fmt: skip


def test_damaged_inputs_are_refused(subtomograms, tmp_path):
    other = with_columns(subtomograms, tmp_path / "a", lambda columns: columns.pop("rlnCtfImage"))
    with pytest.raises(InputError, match="has no rlnCtfImage"):
        opened(other, **direct(other))

    other = with_columns(subtomograms, tmp_path / "b", lambda columns: None)
    source = opened(other, **direct(other))
    source.check_files()
    weights = source.path(1, "rlnCtfImage")
    whole = read_volume(weights)
    write_volume(weights, Volume(whole.data[:BOX_PX], whole.pixel_size_angst))  # no multiplicity
    with pytest.raises(InputError, match=r"13 x 24 x 24 voxels; CTF² and multiplicity .* 13 x 24 x 48"):
        source.check_files()
    with pytest.raises(InputError, match="extract again"):
        source.load(1, source.windows(6)[0])
    source.path(2).unlink()
    with pytest.raises(InputError, match="does not exist"):
        source.load(2, source.windows(6)[0])
