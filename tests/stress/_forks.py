"""Runs many short command lines: a process that has imported everything forks one child for each.

A child takes hundredths of a second to start instead of seconds, may kill itself, hang or crash, and is
as fresh as a new program: the parent never computes anything, so it has no threads to lose.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAKING_S = 300.0
"""What a project may take to be made where nothing is compiled yet."""
_MEMORY_BYTES = 6 * 2**30


@dataclass(frozen=True)
class Outcome:
    """What became of a child: exit status (negative: the signal; None: it hung), output, seconds, memory."""

    status: int | None
    out: str
    err: str
    seconds: float
    peak_mb: float

    @property
    def last_line(self) -> str:
        """Last line on stderr, for messages."""
        return (self.err.strip().splitlines() or [""])[-1][:300]


class Forks:
    """The parent of the children; close it, or use it as a context."""

    def __init__(self) -> None:
        here = Path(__file__).parent
        env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(here), *sys.path]),
            "OMP_WAIT_POLICY": "passive",
        }
        self._process = subprocess.Popen(
            [sys.executable, str(here / "_forks.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True
        )  # fmt: skip

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def call(self, function: str, timeout_s: float = 60.0, **given: Any) -> Outcome:
        """Run ``module:function`` with these arguments in a child; an int that it returns is its exit status."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([function, timeout_s, given]) + "\n")
        self._process.stdin.flush()
        return Outcome(*json.loads(self._process.stdout.readline()))

    def run(
        self,
        words: Sequence[str],
        cwd: Path,
        timeout_s: float = 60.0,
        *,
        environment: dict[str, str] | None = None,
        before: str = "",
        **given: Any,
    ) -> Outcome:
        """Run a command line in a child.

        Parameters
        ----------
        before
            ``module:function`` to call with ``given`` in the child first.
        """
        return self.call(
            "_forks:command_line", timeout_s, words=list(words), cwd=str(cwd), environment=environment or {},
            before=before, given=given,
        )  # fmt: skip


@contextlib.contextmanager
def several(count: int) -> Iterator[list[Forks]]:
    """Give so many parents."""
    with contextlib.ExitStack() as opened:
        yield [opened.enter_context(Forks()) for _ in range(count)]


def command_line(
    words: list[str], cwd: str, environment: dict[str, str], before: str, given: dict[str, Any]
) -> int:
    """Call the program's main in this process, interrupts handled as the program handles them."""
    from napari_sta import _interrupt
    from napari_sta.cli import main

    os.chdir(cwd)
    os.environ.update(environment)
    # The words may hold what no shell could pass on.
    words = [os.fsdecode(word.encode("utf-8", "surrogateescape")) for word in words]
    if before:
        _named(before)(**given)
    with _interrupt.handled(at_once=True):
        return main(words)


def _named(function: str) -> Any:
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)


def _child(function: str, given: dict[str, Any], out: int, err: int) -> None:
    os.setpgid(0, 0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    status: object = 0
    try:
        status = _named(function)(**given)
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
        status = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status if isinstance(status, int) else 0 if status is None else 1)


def _serve() -> None:
    """Fork a child for every line on stdin."""
    for module in (
        "torch",
        "scipy.fft",
        "scipy.ndimage",
        "scipy.spatial",
        "pandas",
        "starfile",
        "mrcfile",
        "numba",
    ):
        importlib.import_module(module)
    import napari_sta.cli
    import napari_sta.layers
    from napari_sta.jobs._job import all_jobs

    all_jobs()
    package = Path(napari_sta.cli.__file__).parent
    for folder in ("kernels", "jobs", "io"):
        for path in sorted((package / folder).glob("*.py")):
            importlib.import_module(f"napari_sta.{folder}.{path.stem}")
    importlib.import_module("matplotlib.pyplot")
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        function, timeout_s, given = json.loads(line)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            began = time.monotonic()
            child = os.fork()
            if child == 0:
                _child(function, given, out.fileno(), err.fileno())
            with contextlib.suppress(OSError):
                os.setpgid(child, child)
            handle = os.pidfd_open(child)
            hung = not select.select([handle], [], [], timeout_s)[0]
            if hung:
                os.killpg(child, signal.SIGKILL)
            _, status, usage = os.wait4(child, 0)
            os.close(handle)
            seconds = time.monotonic() - began
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode("utf-8", "replace"))
        code = None if hung else os.waitstatus_to_exitcode(status)
        print(json.dumps([code, *texts, seconds, usage.ru_maxrss / 1024]), file=answers, flush=True)


if __name__ == "__main__":
    _serve()
