"""Jobs in a process of their own, which goes on when the viewer is closed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from napari_sta.data.errors import JobError
from napari_sta.io.files import open_log, sentence_for

# Command lines one after the other, as the queue would have run them; the worst status of all.
_CODE = """
import json, os, sys
from napari_sta.cli import main

worst = 0
for folder, words in json.loads(sys.argv[1]):
    os.chdir(folder)
    worst = max(worst, main([*words, "--quiet"]))
sys.exit(worst)
"""

Line = tuple[Path, list[str]]
"""A folder to work in, and a command line as after ``napari-sta``."""


def resume_words(folder: Path, *, threads: int = 0, device: str = "auto") -> list[str]:
    """Return the words after ``napari-sta`` that let an interrupted job go on."""
    return ["resume", str(folder), f"--j={threads}", f"--device={device}"]


@dataclass(eq=False)
class Detached:
    """A process that works off command lines, in a session of its own.

    Attributes
    ----------
    process
        Its number.
    """

    process: int
    _child: subprocess.Popen[Any]
    _told: Path | None = None

    @classmethod
    def start(cls, lines: Sequence[Line], folder: Path | None = None) -> Detached:
        """Start a process; no Python file of the folder that it works in is ever imported.

        Parameters
        ----------
        lines
            What to run, one after the other.
        folder
            The job's folder, if it is there already: what the process says goes to run.out and run.err in
            it, as what the job logs does.

        Raises
        ------
        JobError
            If the process cannot be started, or its output has no place.
        """
        command = [
            sys.executable,
            "-P",
            "-c",
            _CODE,
            json.dumps([(str(place), words) for place, words in lines]),
        ]
        own: dict[str, Any] = {"start_new_session": True}
        if os.name == "nt":
            own = {"creationflags": 0x00000008 | 0x00000200}  # detached, in a process group of its own
        with ExitStack() as files:
            error_file: Path | None = None
            output: IO[Any] | int = subprocess.DEVNULL
            errors: IO[Any]
            if folder is not None:
                output = files.enter_context(open_log(folder / "run.out"))
                errors = files.enter_context(open_log(folder / "run.err"))
            else:  # the job's own logs come with its folder; this is for what stops it before
                errors = files.enter_context(
                    tempfile.NamedTemporaryFile("w", prefix="napari-sta-", suffix=".err", delete=False)
                )
                error_file = Path(errors.name)
            try:
                child = subprocess.Popen(
                    command, env=safe_environment(os.environ), stdin=subprocess.DEVNULL, stdout=output,
                    stderr=errors, **own,
                )  # fmt: skip
            except OSError as error:
                if error_file is not None:
                    error_file.unlink(missing_ok=True)
                raise JobError(sentence_for(error, sys.executable).replace("written", "started")) from error
        return cls(child.pid, child, error_file)

    def status(self) -> int | None:
        """Return the exit status; None while it runs. Its temporary file goes once it has succeeded."""
        status = self._child.poll()
        if status == 0 and self._told is not None:
            self._told.unlink(missing_ok=True)
        return status

    def last_words(self) -> str:
        """Return what it said last, if it failed before its job had a folder."""
        if self._told is None:
            return ""
        lines = self._told.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        self._told.unlink(missing_ok=True)
        return lines[-1].removeprefix("napari-sta: ") if lines else ""


def safe_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without search paths that count from the folder a process works in."""
    safe = dict(environment)
    if "PYTHONPATH" in safe:
        absolute = [str(Path(part).absolute()) for part in safe["PYTHONPATH"].split(os.pathsep) if part]
        safe["PYTHONPATH"] = os.pathsep.join(absolute)
    if not safe.get("PYTHONPATH"):
        safe.pop("PYTHONPATH", None)
    return safe
