"""An excerpt of a RELION project with tilt images, to be changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from napari_sta.io.mrc import write_stack


@pytest.fixture
def project(data, tmp_path, monkeypatch) -> Path:
    shutil.copytree(data / "project", tmp_path / "project")
    for name in ("TS_01", "TS_03"):
        write_stack(tmp_path / f"project/tilt_stacks/{name}.mrc", np.ones((21, 8, 8), np.float32), 2.7)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"
