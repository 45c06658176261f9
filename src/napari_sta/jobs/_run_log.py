"""The log of a run: ``run.out``, ``run.err``, and the warnings that are shown at its end."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from napari_sta.io.files import open_log


@contextlib.contextmanager
def run_log(out: Path, warnings: list[str]) -> Iterator[logging.Logger]:
    """Give a logger that appends to run.out and run.err; the ``napari_sta`` logger hears everything too."""
    log = logging.getLogger(f"napari_sta.run.{id(warnings):x}")
    log.setLevel(logging.INFO)
    handlers: list[logging.Handler] = [_Collector(warnings)]
    try:
        for name, level in (("run.out", logging.INFO), ("run.err", logging.WARNING)):
            to_file = _QuietHandler(open_log(out / name))
            to_file.setLevel(level)
            to_file.setFormatter(
                logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")
            )
            handlers.append(to_file)
    except BaseException:
        for handler in handlers:
            handler.close()
        raise
    for handler in handlers:
        log.addHandler(handler)
    try:
        yield log
    finally:
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()


def unheard() -> logging.Logger:
    """Return a logger for what is told otherwise."""
    log = logging.getLogger("napari_sta.unheard")
    log.propagate, log.disabled = False, True
    return log


class _QuietHandler(logging.StreamHandler[TextIO]):
    """A log file on a full disk must not hide why the job ended."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing: the job's own error tells that the disk is full."""

    def close(self) -> None:
        """Close the file, written or not."""
        with contextlib.suppress(OSError):
            self.stream.close()
        super().close()


class _Collector(logging.Handler):
    def __init__(self, warnings: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._warnings = warnings

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.WARNING:
            self._warnings.append(record.getMessage())
