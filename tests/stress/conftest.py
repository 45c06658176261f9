"""One project and one parent of processes for all tests here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from _forks import MAKING_S, Forks, several


@pytest.fixture(scope="session")
def pair() -> Iterator[list[Forks]]:
    """Where the tests run the program, two at once."""
    with several(2) as parents:
        yield parents


@pytest.fixture(scope="session")
def forks(pair: list[Forks]) -> Forks:
    """Where the tests run the program, one at a time."""
    return pair[0]


@pytest.fixture(scope="session")
def project(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny project, shared: copy it before anything is harmed."""
    root = tmp_path_factory.mktemp("stress") / "project"
    made = forks.call("_project:make_in", MAKING_S, root=str(root))
    assert made.status == 0, made.err
    return root
