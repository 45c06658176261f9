"""Ctrl-C, the SIGTERM of queue systems, the SIGHUP of a closed terminal: one way to end, from the start.

Nothing but what Python has loaded anyway is imported here, because the program imports this first.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import ClassVar

STOPPED = 130
"""Exit status."""

_PATIENCE_S = 30.0
"""A second Ctrl-C this soon after the first does not disturb the tidying up that the first began."""

_AGAIN_S = 0.05
"""So much later it is tried again where an interrupt must not be raised."""

_FRAGILE = ("numba", "llvmlite", "importlib")
"""Where these are at work (compiling, loading machine code, importing what C++ made) an exception that comes
out of nowhere ends the process, or is swallowed."""

_TIDY_S = 4.0
"""Tidying up may wait for threads that compile or compute; after this it is cut short."""

_SIGNALS = [number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None))]


class _State:
    """What has been asked for; there is one process and so one state."""

    is_handled = False
    leaves_at_once = False
    n_running = 0
    n_deferring = 0
    is_due = False
    is_waiting = False
    last_resorts: ClassVar[list[Callable[[], bool]]] = []
    n_tries = 0
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
    _State.is_handled, _State.leaves_at_once, _State.asked_at, _State.is_due = True, at_once, None, False
    _State.is_waiting = False
    try:
        yield
    finally:
        _State.is_handled = _State.leaves_at_once = False
        for number, handler in before.items():
            # All is done when a process of its own gets here: nothing may change how it ends.
            signal.signal(number, signal.SIG_IGN if at_once else handler)


@contextmanager
def running(last_resort: Callable[[], bool] | None = None) -> Iterator[None]:
    """Say that there is something to tidy up before the process may end.

    Parameters
    ----------
    last_resort
        Does the least that must be done where tidying up takes too long; says whether the process may end.
    """
    _State.n_running += 1
    if last_resort is not None:
        _State.last_resorts.append(last_resort)
    try:
        yield
    finally:
        if last_resort is not None:
            _State.last_resorts.remove(last_resort)
        _State.n_running -= 1


@contextmanager
def deferred() -> Iterator[None]:
    """Let the block, which is short, come to its end before an interrupt, an earlier one too, is raised."""
    _State.n_deferring += 1
    if _State.is_waiting:
        # The block is reached although the alarm has still to raise it: it must not do so in the midst.
        _State.is_waiting, _State.is_due = False, True
    try:
        yield
    finally:
        _State.n_deferring -= 1
    if _State.is_due and not _State.n_deferring:
        _State.is_due = False
        raise KeyboardInterrupt


def asked() -> bool:
    """Whether the process was told to end: also where code in between swallowed or changed the interrupt.

    Who asks sees to the end: no interrupt that still waits for its moment comes after it.
    """
    _State.is_waiting = False
    return _State.asked_at is not None


def leave(text: str = "stopped") -> None:
    """End the process without waiting for its threads."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
    with suppress(OSError):
        os.write(2, f"napari-sta: {text}\n".encode() if text else b"")
    os._exit(STOPPED)


def _is_fragile(frame: FrameType | None) -> bool:
    """Whether the main thread is inside something that an exception from nowhere would break."""
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] in _FRAGILE:
            return True
        frame = frame.f_back
    return False


def _handle(_: int, frame: FrameType | None) -> None:
    if _State.leaves_at_once and not _State.n_running:
        leave()
    now = time.monotonic()
    if _State.asked_at is not None and now - _State.asked_at < _PATIENCE_S:
        return
    _State.asked_at = now
    # Elsewhere than in a process of our own the alarm may be somebody else's.
    may_wait = _State.leaves_at_once and hasattr(signal, "setitimer")
    _State.is_waiting = may_wait and not _State.n_deferring and _is_fragile(frame)
    if may_wait:
        signal.signal(signal.SIGALRM, _alarm)
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_S if _State.is_waiting else _TIDY_S)
    if _State.n_deferring:
        _State.is_due = True
    elif not _State.is_waiting:
        raise KeyboardInterrupt


def _alarm(_: int, frame: FrameType | None) -> None:
    assert _State.asked_at is not None
    left = _State.asked_at + _TIDY_S - time.monotonic()
    if left <= 0:
        _cut_short()
        return
    if _State.is_waiting and _is_fragile(frame):
        signal.setitimer(signal.ITIMER_REAL, min(_AGAIN_S, left))
        return
    signal.setitimer(signal.ITIMER_REAL, left)
    if not _State.is_waiting:
        return
    _State.is_waiting = False
    if _State.n_deferring:
        _State.is_due = True
        return
    raise KeyboardInterrupt


def _cut_short() -> None:
    _State.n_tries += 1
    done = True
    for last_resort in list(_State.last_resorts):
        with suppress(BaseException):
            done = last_resort() and done
    if done or _State.n_tries > 4:
        leave()
    signal.setitimer(signal.ITIMER_REAL, _TIDY_S)
