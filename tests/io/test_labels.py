"""The table of labels."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from importlib import import_module
from pkgutil import iter_modules

from napari_sta.data.particles import OpticsGroup, Particles
from napari_sta.data.tilt_series import Deformation, TiltSeries
from napari_sta.io import relion
from napari_sta.io.labels import LABELS
from napari_sta.io.relion.inputs import StaInputs


def test_every_label_that_the_readers_use_is_explained():
    sources = [
        inspect.getsource(import_module(f"napari_sta.io.relion.{one.name}"))
        for one in iter_modules(relion.__path__)
    ]
    used = set(re.findall(r"\"(rln[A-Za-z0-9]+)\"", "".join(sources)))
    assert len(used) > 50
    assert used <= set(LABELS)


def test_every_field_exists():
    nouns = (Particles, OpticsGroup, TiltSeries, Deformation, StaInputs)
    known = {field.name for noun in nouns for field in fields(noun)}
    for label in LABELS.values():
        assert label.meaning
        for part in re.sub(r"\[\d\]", "", label.field).split("."):
            assert not part or part in known, label
