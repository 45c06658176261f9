"""Threads that share out particles, and work in the background that can be stopped."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from napari_sta.data.progress import Progress

Result = TypeVar("Result")
Rows = NDArray[np.int64]

_PATIENCE_S = 0.2
"""Counts of finished particles are passed on after this at the latest, however slow they are."""


@dataclass(frozen=True)
class Watch:
    """What the threads of one piece of work have in common: the wish to stop, and what is done."""

    stop: threading.Event = field(default_factory=threading.Event)
    _done: queue.SimpleQueue[None] = field(default_factory=queue.SimpleQueue)

    def go_on(self) -> bool:
        """Whether nobody wishes to stop."""
        return not self.stop.is_set()

    def count(self) -> None:
        """Say that a particle is done."""
        self._done.put(None)

    def counted(self, patience_s: float) -> int:
        """Count the particles done since the last call, waiting for the first only."""
        count = 0
        try:
            self._done.get(timeout=patience_s)
            count = 1
            while True:
                self._done.get_nowait()
                count += 1
        except queue.Empty:
            return count


class Workers:
    """CPU threads among which rows are dealt, always in the same way.

    Attributes
    ----------
    threads
        How many; at least 1.
    stop
        Set once background work is no longer wanted; what takes long looks at it.
    """

    def __init__(self, threads: int = 1) -> None:
        self.threads = max(1, threads)
        self.stop = threading.Event()

    def _dealt(self, rows: Rows) -> list[Rows]:
        return [rows[k :: self.threads] for k in range(self.threads)]

    def map(self, work: Callable[[Rows], Result], rows: Rows) -> list[Result]:
        """Share rows out among the threads; return what each gave, in order."""

        def alone(mine: Rows) -> Result:
            torch.set_num_threads(1)
            return work(mine)

        try:
            with ThreadPoolExecutor(self.threads) as pool:
                return list(pool.map(alone, self._dealt(rows)))
        finally:
            torch.set_num_threads(self.threads)  # workers set theirs to 1, which is everybody's

    def count(self, work: Callable[[int, Rows, Watch], None], rows: Rows) -> Generator[int, None, None]:
        """Share rows out among the threads, and yield how many were done since the last time.

        Parameters
        ----------
        work
            Called with the number of the thread, its rows, and the watch on which it counts them.

        Notes
        -----
        Closing the generator, or an error in one thread, lets the others end after the row they are at.
        """
        watch = Watch()

        def alone(number: int, mine: Rows) -> None:
            torch.set_num_threads(1)
            work(number, mine, watch)

        with ThreadPoolExecutor(self.threads) as pool:
            running = [pool.submit(alone, k, mine) for k, mine in enumerate(self._dealt(rows))]
            try:
                while not all(thread.done() for thread in running):
                    count = watch.counted(_PATIENCE_S)
                    if count:
                        yield count
                    if any(_failed(thread) for thread in running):
                        watch.stop.set()
                        break
                for thread in running:
                    thread.result()
            finally:
                watch.stop.set()
        torch.set_num_threads(self.threads)

    def in_background(
        self, work: Callable[[], Result], progress: Progress
    ) -> Generator[Progress, None, Result]:
        """Run something long in a thread and keep telling, so that the job can be stopped meanwhile."""
        box: queue.SimpleQueue[tuple[Result | None, BaseException | None]] = queue.SimpleQueue()

        def run() -> None:
            try:
                box.put((work(), None))
            except BaseException as error:
                box.put((None, error))

        threading.Thread(target=run, daemon=True).start()
        try:
            while True:
                try:
                    result, error = box.get(timeout=0.25)
                except queue.Empty:
                    yield progress
                    continue
                if error is not None:
                    raise error
                return result  # type: ignore[return-value]
        except GeneratorExit:
            self.stop.set()
            raise


def _failed(thread: Future[None]) -> bool:
    return thread.done() and thread.exception() is not None
