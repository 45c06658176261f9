"""Ctrl-C, the SIGTERM of queue systems, the SIGHUP of a closed terminal: one way to end, from the start.

Nothing but what Python has loaded anyway is imported here, because the program imports this first.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

STOPPED = 130
"""Exit status."""

_PATIENCE_S = 30.0
"""A second Ctrl-C this soon after the first does not disturb the tidying up that the first began."""

_SIGNALS = [number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None))]


class _State:
    """What has been asked for; there is one process and so one state."""

    is_handled = False
    leaves_at_once = False
    n_running = 0
    asked_at: float | None = None


@contextmanager
def handled(*, at_once: bool = False) -> Iterator[None]:
    """Turn the signals into a KeyboardInterrupt while the block runs; those that are ignored stay ignored.

    Parameters
    ----------
    at_once
        As long as no job runs (:func:`running`) there is nothing to tidy up: the process ends on the
        spot, whatever is just being imported.
    """
    before = {}
    if not _State.is_handled:
        with suppress(ValueError):  # not in the main thread
            for number in _SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    before[number] = signal.signal(number, _handle)
    if not before:
        yield
        return
    _State.is_handled, _State.leaves_at_once, _State.asked_at = True, at_once, None
    try:
        yield
    finally:
        _State.is_handled = _State.leaves_at_once = False
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def running() -> Iterator[None]:
    """Say that there is something to tidy up before the process may end."""
    _State.n_running += 1
    try:
        yield
    finally:
        _State.n_running -= 1


def asked() -> bool:
    """Whether the process was told to end: also where code in between swallowed or changed the interrupt."""
    return _State.asked_at is not None


def leave(text: str = "stopped") -> None:
    """End the process without waiting for its threads."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
    with suppress(OSError):
        os.write(2, f"napari-sta: {text}\n".encode() if text else b"")
    os._exit(STOPPED)


def _handle(_: int, __: FrameType | None) -> None:
    if _State.leaves_at_once and not _State.n_running:
        leave()
    now = time.monotonic()
    if _State.asked_at is not None and now - _State.asked_at < _PATIENCE_S:
        return
    _State.asked_at = now
    raise KeyboardInterrupt
