"""The table of labels."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields

from napari_sta.data.particles import OpticsGroup, Particles
from napari_sta.data.tilt_series import Deformation, TiltSeries
from napari_sta.io import relion
from napari_sta.io.labels import LABELS


def test_every_label_that_the_readers_use_is_explained():
    used = set(re.findall(r"\"(rln[A-Za-z0-9]+)\"", inspect.getsource(relion)))
    assert len(used) > 50
    assert used <= set(LABELS)


def test_every_field_exists():
    nouns = (Particles, OpticsGroup, TiltSeries, Deformation, relion.StaInputs)
    known = {field.name for noun in nouns for field in fields(noun)}
    for label in LABELS.values():
        assert label.meaning
        for part in re.sub(r"\[\d\]", "", label.field).split("."):
            assert not part or part in known, label
