"""RELION's oddities: each is in the list, and each switches something."""

from __future__ import annotations

import ast
from pathlib import Path

import napari_sta
from napari_sta.engine.quirks import PARITY, Quirk


def test_parity_is_all_of_them():
    assert frozenset(Quirk) == PARITY
    assert len({quirk.value for quirk in Quirk}) == len(Quirk)


def test_each_is_asked_for_somewhere():
    """A quirk that nobody asks for would be a promise."""
    asked = set()
    for path in Path(napari_sta.__file__).parent.rglob("*.py"):
        if path.name == "quirks.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "Quirk"
            ):
                asked.add(node.attr)
    assert asked == {quirk.name for quirk in Quirk}
