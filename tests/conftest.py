"""What must be set before anything is imported, and shape checks for every kernel."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

# libgomp's threads must sleep, not spin, at barriers: on a shared machine spinning costs a factor of 40.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("QT_API", "pyside6")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("NAPARI_ASYNC", "0")
# A shell that runs us in the background lets all our children ignore Ctrl-C, which some tests send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Tests say `from laws import ...`, those of stress `import kills`.
sys.path.insert(0, str(Path(__file__).parent / "stress"))
sys.path.insert(0, str(Path(__file__).parent))

from jaxtyping import install_import_hook

import napari_sta

# The shapes in the signatures of the kernels are checked in every call that a test makes. Not so in
# what numba compiles: it cannot compile the check.
_KERNELS = Path(napari_sta.__file__).parent / "kernels"
CHECKED = [
    ".".join(("napari_sta.kernels", *path.relative_to(_KERNELS).with_suffix("").parts))
    for path in sorted(_KERNELS.rglob("[!_]*.py"))
    if "compiled" not in path.parts
]
_hook = install_import_hook(CHECKED, "beartype.beartype")

import numpy as np  # noqa: E402
import pytest  # noqa: E402


@pytest.fixture(autouse=True, scope="session")
def _few_threads() -> None:
    """Two threads, or this process's share of the cores where tests run side by side (``pytest -n``)."""
    import torch

    side_by_side = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    torch.set_num_threads(max(1, min(2, (os.cpu_count() or 1) // side_by_side)))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20_241_105)


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of the small files kept with the tests."""
    return Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def small_project(tmp_path_factory: pytest.TempPathFactory):
    """A practice project (see ``phantoms.make_practice_project``), shared: read it, don't change it."""
    from napari_sta.phantoms.practice import make_practice_project

    return make_practice_project(tmp_path_factory.mktemp("practice") / "project", seed=3)
