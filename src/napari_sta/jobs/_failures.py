"""Failures in words: what went wrong and what to do, in a job, or in whatever else the docks let run."""

from __future__ import annotations

import errno
from enum import Enum, auto
from pathlib import Path

from napari_sta.data.errors import JobError, StaError
from napari_sta.io.files import sentence_for
from napari_sta.jobs._job import Job


class _Cause(Enum):
    """What an exception means to a user."""

    GPU_MEMORY = auto()
    MEMORY = auto()
    GPU = auto()
    FILE = auto()
    UNFORESEEN = auto()


def in_words(error: BaseException, job: Job | None = None, out: Path | None = None) -> StaError:
    """Turn any exception into one whose text a user can act on; ours pass through.

    Parameters
    ----------
    error
        What was raised.
    job, out
        The job that raised it, and its folder; None where no job ran, as while a file is read to be shown.
    """
    if isinstance(error, StaError):
        return error
    raised = JobError(
        _sentence(error) if job is None or out is None else _sentence_of_job(error, job.name(), out)
    )
    raised.__cause__ = error
    return raised


def _cause(error: BaseException) -> _Cause:
    text = str(error).lower()
    if type(error).__name__ == "OutOfMemoryError":  # torch's
        return _Cause.GPU_MEMORY
    if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
        return _Cause.GPU_MEMORY if "cuda" in text else _Cause.MEMORY
    if any(word in text for word in ("cuda", "cudnn", "cublas", "device-side")):
        return _Cause.GPU
    return _Cause.FILE if isinstance(error, OSError) else _Cause.UNFORESEEN


def _sentence_of_job(error: BaseException, job: str, out: Path) -> str:
    text, kind = str(error), type(error).__name__
    match _cause(error):
        case _Cause.GPU_MEMORY:
            return (
                f"{job} ran out of memory on the GPU; run it with --device cpu, or take a smaller box or a larger "
                "binning (files already finished are kept)"
            )
        case _Cause.MEMORY:
            return (
                f"{job} ran out of memory on this computer; close other programs, or take a smaller box or a larger "
                "binning (files already finished are kept)"
            )
        case _Cause.GPU:
            return (
                f"{job} lost the GPU ({text.splitlines()[0][:120]}); run it again, or with --device cpu "
                f"(files already finished are kept; details in {out / 'run.err'})"
            )
        case _Cause.FILE if isinstance(error, OSError):
            return sentence_for(error, error.filename or out)
    first = text.splitlines()[0][:200] if text else "no message"
    return (
        f"{job} failed unexpectedly ({kind}: {first}); this is a fault of the program: please report it with "
        f"{out / 'run.err'}"
    )


def _sentence(error: BaseException) -> str:
    text, kind = str(error).strip(), type(error).__name__
    match _cause(error):
        case _Cause.GPU_MEMORY:
            return (
                "The GPU ran out of memory. Files already finished are kept. Close other programs that use it, or "
                "run on the CPU."
            )
        case _Cause.MEMORY:
            return (
                "The computer ran out of memory. Close other programs, or use a smaller box, a higher binning or "
                "fewer threads."
            )
        case _Cause.FILE if isinstance(error, OSError):
            if isinstance(error, FileNotFoundError):
                return f"{error.filename or text} is not there. Was it moved, or is the disk not mounted?"
            if isinstance(error, PermissionError):
                return f"{error.filename or text} cannot be opened: no permission."
            if error.errno == errno.ENOSPC:
                return "The disk is full. Free some space, then press Retry."
    return f"It stopped unexpectedly: {text or kind} ({kind}). The details are below."
