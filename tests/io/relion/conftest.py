"""The excerpt of a RELION project that the tests of this folder change."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def project(data, tmp_path, monkeypatch) -> Path:
    """A copy of the excerpt of a RELION project that may be changed; the current folder."""
    root = tmp_path / "project"
    shutil.copytree(data / "project", root)
    # The set names stacks that are not part of the excerpt.
    from napari_sta.io.mrc import write_stack

    for name in ("TS_01", "TS_03"):
        write_stack(root / f"tilt_stacks/{name}.mrc", np.zeros((21, 8, 8), np.float32), 2.7)
    monkeypatch.chdir(root)
    return root
