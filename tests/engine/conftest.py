"""Extracted particles that the tests of the engine share: stacks, and pseudo-subtomograms."""

from __future__ import annotations

import pytest

from engine_steps import Begun, begin, expected
from napari_sta.engine.expectation import HalfSums
from napari_sta.engine.plan import Plan
from refine_project import Refinable, make_refinable


@pytest.fixture(scope="session")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Refinable:
    """32 lopsided particles as 2D stacks; read it, don't change it."""
    return make_refinable(tmp_path_factory.mktemp("stacks"))


@pytest.fixture(scope="session")
def subtomograms(tmp_path_factory: pytest.TempPathFactory) -> Refinable:
    """The same particles as 3D subtomograms; read it, don't change it."""
    return make_refinable(tmp_path_factory.mktemp("volumes"), extract={"stack2d": "No"})


@pytest.fixture(scope="session")
def begun(stacks: Refinable) -> Begun:
    return begin(stacks)


@pytest.fixture(scope="session")
def halves(begun: Begun) -> tuple[Plan, list[HalfSums]]:
    """What an expectation step says; copy it before maximisation, which takes the volumes."""
    return expected(*begun)
