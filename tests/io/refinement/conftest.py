"""``data/refine``: RELION 5.0.1's own files of a refinement, with long loops cut to a few rows."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def refine(data) -> Path:
    return data / "refine"
