"""A real viewer, real docks, and jobs that fail on purpose."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # tests say `from fake_jobs import ...`

from qt_loop import settle


@pytest.fixture
def viewer(make_napari_viewer):
    made = make_napari_viewer(show=False)
    yield made
    from napari_sta.widgets.workbench import Workbench

    bench = Workbench.of(made)
    bench.queue.stop_all()
    settle(lambda: bench.queue.running is None, 10)


@pytest.fixture
def bench(viewer):
    from napari_sta.widgets.workbench import Workbench

    return Workbench.of(viewer)


@pytest.fixture
def project(small_project, tmp_path) -> Path:
    """A copy of the practice project, to be changed at will."""
    return Path(shutil.copytree(small_project.root, tmp_path / "project"))


@pytest.fixture
def wait():
    def until(ready: Callable[[], bool], seconds: float = 10.0) -> None:
        assert settle(ready, seconds), "it did not happen in time"

    return until
