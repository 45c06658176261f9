"""How long a running job still takes."""

from __future__ import annotations

from typing import Any

from napari_sta.data.progress import Progress


class Pace:
    """How fast a job goes on, and so how long it still takes.

    It counts from the first step that got something done: what comes before (reading, compiling) does not
    come again. Each phase of each iteration is timed by itself.
    """

    LEAST_S = 2.0

    def __init__(self) -> None:
        self._phase: tuple[Any, ...] = ()
        self._first: tuple[int, float] | None = None
        self._last: tuple[int, float] = (0, 0.0)
        self._total = 0

    def note(self, progress: Progress, now: float) -> None:
        """Take in a step."""
        phase = (progress.data.get("iteration"), progress.data.get("phase"), progress.total)
        if phase != self._phase or progress.done < self._last[0]:
            self._phase, self._first = phase, None
        if self._first is None and progress.done > 0:
            self._first = (progress.done, now)
        if progress.done != self._last[0] or self._first is None:
            self._last = (progress.done, now)
        self._total = progress.total

    def remaining_s(self, now: float) -> float | None:
        """Return how many seconds are left of what is counted; None as long as nobody can tell."""
        if self._first is None or not self._total:
            return None
        (first, began), (done, when) = self._first, self._last
        if done <= first or done >= self._total or when - began < self.LEAST_S:
            return None
        rate = (done - first) / (when - began)
        return max(0.0, (self._total - done) / rate - (now - when))
