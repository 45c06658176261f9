"""Work off the GUI thread, with every error brought back in words.

One place decides how a worker's failure reaches the user, so that no dock can lose one: superqt drops
a ``RuntimeError`` raised in a *generator* worker (torch's out-of-memory is one) without any signal.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from qtpy.compat import isalive
from qtpy.QtCore import QEventLoop, QObject, QTimer
from superqt.utils import create_worker

from napari_sta.data.errors import StaError, Stopped
from napari_sta.data.progress import Progress
from napari_sta.jobs._failures import in_words

YIELD_EVERY_S = 0.05
"""Progress reaches the GUI at most this often; a job may yield thousands of times a second."""


def in_background(
    owner: QObject,
    function: Callable[..., Any],
    *args: Any,
    done: Callable[[Any], None] | None = None,
    failed: Callable[[StaError], None] | None = None,
) -> Any:
    """Run a function in a thread and bring its answer to the GUI thread.

    Parameters
    ----------
    owner
        Answers that come after this object is gone are dropped.
    function, args
        What to call; it must not touch Qt or layers.
    done, failed
        Called in the GUI thread with the result, or with the error in words.
    """

    def returned(result: Any) -> None:
        if done is not None and isalive(owner):
            done(result)

    def errored(error: BaseException) -> None:
        if failed is not None and isalive(owner):
            failed(in_words(error))

    # A function worker, not a generator: those do report every kind of error.
    return create_worker(
        function,
        *args,
        _start_thread=True,
        _ignore_errors=True,
        _connect={"returned": returned, "errored": errored},
    )


def awaited(owner: QObject, function: Callable[..., Any], *args: Any) -> Any:
    """Return a function's answer, computed in a thread; the event loop turns meanwhile.

    For callers that must have the answer: napari asks for sample data so. Elsewhere use
    :func:`in_background`.

    Raises
    ------
    StaError
        The function's error in words; or that the program was quit first.
    """
    answer: list[Any] = []
    failure: list[StaError] = []
    loop = QEventLoop()

    def failed(error: StaError) -> None:
        failure.append(error)
        loop.quit()

    def done(result: Any) -> None:
        answer.append(result)
        loop.quit()

    in_background(owner, function, *args, done=done, failed=failed)
    loop.exec()
    if failure:
        raise failure[0]
    if not answer:
        raise Stopped("The program was quit before that was ready.")
    return answer[0]


class Latest(QObject):
    """Run only the newest of many requests: typing ten letters does not queue ten checks.

    Parameters
    ----------
    parent
        Owner; answers are dropped once it is gone.
    delay_ms
        Quiet time to wait for before starting.
    """

    def __init__(self, parent: QObject, delay_ms: int = 0) -> None:
        super().__init__(parent)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(delay_ms)
        self._timer.timeout.connect(self._start)
        self._next: tuple[Any, ...] | None = None
        self._busy = False
        self._serial = 0

    def request(
        self,
        function: Callable[..., Any],
        *args: Any,
        done: Callable[[Any], None],
        failed: Callable[[StaError], None] | None = None,
    ) -> None:
        """Ask for a call; it replaces one that has not begun and outdates one that has."""
        self._serial += 1
        self._next = (self._serial, function, args, done, failed)
        if not self._busy:
            self._timer.start()

    def cancel(self) -> None:
        """Forget what was asked for."""
        self._serial += 1
        self._next = None
        self._timer.stop()

    @property
    def idle(self) -> bool:
        """Whether nothing is running or waiting."""
        return not self._busy and self._next is None

    def _start(self) -> None:
        if self._next is None or self._busy:
            return
        serial, function, args, done, failed = self._next
        self._next = None
        self._busy = True

        def deliver(callback: Callable[[Any], None] | None, answer: Any) -> None:
            self._busy = False
            if self._next is not None:
                self._timer.start()
            if callback is not None and serial == self._serial:
                callback(answer)

        in_background(
            self,
            function,
            *args,
            done=lambda result: deliver(done, result),
            failed=lambda error: deliver(failed, error),
        )


@dataclass(frozen=True)
class Outcome:
    """How a job ended: its record, or the error in words."""

    record: Any = None
    error: StaError | None = None


def guarded(
    start: Callable[[], Generator[Progress, None, Any]],
    stop: threading.Event,
    note: Callable[[Progress], None] | None = None,
) -> Generator[Progress, None, Outcome]:
    """Drive a job's steps inside a worker thread: thin out progress, obey Stop, put errors in words.

    Parameters
    ----------
    start
        Called in the worker thread; gives the generator of steps.
    stop
        Set by the Stop button; the job is told at its next yield, so that it can leave its marks.
    note
        Called in the worker thread with every step, also those that are not yielded.

    Yields
    ------
    progress
        At most one per :data:`YIELD_EVERY_S`, and the last one.

    Returns
    -------
    outcome
        Also of a failure: a generator worker loses a RuntimeError without any signal, and napari 0.9
        trips over every other error.
    """
    try:
        steps = start()
        last = 0.0
        held: Progress | None = None
        try:
            while True:
                progress = next(steps)
                if note is not None:
                    note(progress)
                if stop.is_set():
                    _tell_to_stop(steps)
                    return Outcome(error=Stopped("Stopped. What was finished is kept."))
                now = time.monotonic()
                if now - last >= YIELD_EVERY_S:
                    last, held = now, None
                    yield progress
                else:
                    held = progress
        except StopIteration as end:
            if held is not None:
                yield held
            return Outcome(record=end.value)
        finally:
            steps.close()
    except Exception as error:
        return Outcome(error=in_words(error))


def _tell_to_stop(steps: Generator[Progress, None, Any]) -> None:
    with contextlib.suppress(StopIteration, Stopped):
        steps.throw(Stopped("Stopped by the user."))
