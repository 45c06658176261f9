"""What our refinement tells of its iterations, ``run_history.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_history(folder: str | Path) -> list[dict[str, Any]]:
    """Read what our refinement tells of its iterations, ``run_history.json``; empty for one of RELION.

    Returns
    -------
    history
        One record an iteration, each with a whole ``iteration``; those that are damaged are left out, and
        of a file that cannot be read nothing is left.
    """
    try:
        found = json.loads((Path(folder) / "run_history.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    records = found if isinstance(found, list) else []
    return [one for one in records if isinstance(one, dict) and type(one.get("iteration")) is int]
