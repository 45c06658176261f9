"""Waiting while Qt works."""

from __future__ import annotations

import time
from collections.abc import Callable


def settle(ready: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Let Qt work until something holds; return whether it came to hold."""
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()
        if ready():
            return True
        time.sleep(0.005)
    return False
