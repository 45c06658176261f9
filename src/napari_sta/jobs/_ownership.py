"""Whose a job's folder is: a job writes only where nobody else's files are, and loses nothing unasked."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from napari_sta.data.errors import InputError, StaError
from napari_sta.io.files import WRITTEN, absolute, written_files
from napari_sta.io.project.job_star import read_job_star
from napari_sta.io.project.markers import ABORTED, FAILURE, SUCCESS, mark, status_of
from napari_sta.io.project.status import was_killed
from napari_sta.io.star import read_star
from napari_sta.jobs import _fingerprint
from napari_sta.jobs._job import Job
from napari_sta.jobs._records import read_record

# What RELION's GUI, scheduler or queue put into a job's folder before the job begins.
_LAUNCH_FILES = re.compile(
    r"job\.star|job_pipeline\.star|default_pipeline\.star|note\.txt|run\.(out|err)|run_submit\.script|"
    r"RELION_JOB_(EXIT_(SUCCESS|FAILURE|ABORTED)|ABORT_NOW)|slurm-\d+(_\d+)?\.(out|err)"
)
_SCHEDULED_FILES = {"job.star", "job_pipeline.star", "default_pipeline.star"}

# What systems leave anywhere, and what a run of ours killed in its first moment leaves.
_NOTHING = re.compile(r"\.nfs.*|\.DS_Store|Thumbs\.db|desktop\.ini|lost\+found|\..*\.sta-tmp")

# What the runner itself keeps in a job's folder, whatever becomes of results.
RECORDS = frozenset(
    {"job.json", "job.star", "job_pipeline.star", "note.txt", "run.out", "run.err", SUCCESS, FAILURE, ABORTED}
)

running_here: set[str] = set()  # folders of the jobs that run in this process


def own_record(job: Job, out: Path, by_relion: bool) -> tuple[dict[str, Any] | None, frozenset[str]]:
    """Return what an earlier run of this job recorded in a folder, and the files it wrote there.

    Parameters
    ----------
    by_relion
        RELION has made the folder for this job.

    Returns
    -------
    record, written
        None and nothing for an empty or a new folder.

    Raises
    ------
    InputError
        If the folder holds anything else, whoever made it.
    """
    if os.path.lexists(out) and not out.is_dir():
        raise InputError(f"--o {out} is a file; name a folder")
    above = next((one for one in absolute(out).parents if os.path.lexists(one)), None)
    if above is not None and not above.is_dir():
        raise InputError(f"--o {out} lies in {above}, which is a file; name a folder")
    try:
        names = {entry.name for entry in os.scandir(out)} if out.is_dir() else set()
    except OSError as error:
        raise InputError(f"--o {out} cannot be read ({error.strerror}); choose another folder") from None
    names = {name for name in names if not _NOTHING.fullmatch(name)}
    if "job.json" not in names:
        _refuse_foreign(job, out, names, by_relion)
        return None, frozenset()
    own = read_record(out)
    if own["job"] != job.name():
        raise InputError(f"--o {out} is the folder of another job ({own['job']}); choose another folder")
    if is_at_work(out, own):
        raise InputError(
            f"{out} is in use: the job there runs in process {own.get('process')}; wait for it or stop it"
        )
    if WRITTEN not in names or not isinstance(own.get("fingerprint"), str):
        # Killed in its first moments, it has written nothing yet.
        _refuse_foreign(job, out, names - {"job.json", WRITTEN}, by_relion, anyhow=True)
    written = written_files(out)
    theirs = sorted(name for name in job.outputs if name in names and name not in written)
    if theirs and not (out / WRITTEN).is_symlink():
        raise InputError(
            f"--o {out} holds {theirs[0]}, which the {own['job']} there did not write; move it away, or choose "
            "another folder"
        )
    return own, written


def _refuse_foreign(job: Job, out: Path, names: set[str], by_relion: bool, *, anyhow: bool = False) -> None:
    """Never write among what another program or another job left."""
    others = sorted(name for name in names if not _LAUNCH_FILES.fullmatch(name))
    if not others and names and not (anyhow or by_relion or _is_launched(job.relion_type, out, names)):
        others = sorted(names)
    if others:
        raise InputError(
            f"--o {out} already holds {others[0]}, which no {job.name()} of napari-sta wrote; choose another "
            "folder"
        )


def lost_files(
    job: Job,
    out: Path,
    own: Mapping[str, Any],
    written: frozenset[str],
    *,
    inputs: Mapping[str, Any],
    resumed: bool,
) -> frozenset[str]:
    """Return what of an earlier run in the folder has to go: nothing if values and inputs are the same.

    Parameters
    ----------
    own, written
        What that run recorded, and the files it wrote.
    inputs
        What tells the job's input files from others.
    resumed
        The user asked to go on, not to run the job anew.

    Raises
    ------
    InputError
        If something would be lost that nobody asked to lose.
    """
    if own["fingerprint"] == _fingerprint.of_job(job, inputs):
        return frozenset()
    stays = job.stays(out, written)
    lost = written - stays - RECORDS
    what = _fingerprint.difference(job, inputs, own)
    what = what or _fingerprint.changed_input(inputs, own)
    if resumed:
        # The work of days is not deleted for being given again, see below.
        again = "" if job.is_long and not stays else "give the same command again to start anew, or "
        raise InputError(f"{out} cannot be resumed: {what}; {again}choose another folder")
    if lost and (status_of(out) == "Succeeded" or own.get("status") == "Succeeded"):
        raise InputError(f"--o {out} holds a finished {job.name()}, but {what}; choose another folder")
    if lost and job.is_long and not stays:
        raise InputError(
            f"--o {out} holds an unfinished {job.name()}, but {what}; choose another folder, or delete that one "
            "if it is not needed"
        )
    return lost


def tell_relion(folder: str | Path, status: str) -> None:
    """Leave the exit marker that RELION waits for where it has started us as an External job, and no job began.

    Parameters
    ----------
    folder
        What ``--pipeline_control`` says.
    status
        Failed or Aborted.
    """
    out = Path(folder)
    with contextlib.suppress(StaError, OSError):
        if not out.is_dir() or status_of(out) != "Unknown" or not _is_launched("relion.external", out, set()):
            return
        if os.path.lexists(out / "job.json") and is_at_work(out, read_record(out)):
            return
        mark(out, status)


def _is_launched(relion_type: str, out: Path, names: set[str]) -> bool:
    """Whether RELION has made the folder, which holds files of these names, in order to run us there."""
    try:
        tables = read_star(out / "job.star")
        label = tables["job"].row().get("rlnJobTypeLabel", "")
        program = ""
        if "joboptions_values" in tables:
            program = read_job_star(out / "job.star").options.get("fn_exe", "")
    except (InputError, KeyError):
        return False
    if label.startswith("relion.external"):
        return "napari-sta" in program or not program
    # Scheduled there, or a job of RELION's that has begun?
    return label == relion_type and names <= _SCHEDULED_FILES


def is_at_work(folder: Path, record: Mapping[str, Any]) -> bool:
    """Whether a job is at work in a folder, as far as can be seen from this computer."""
    if record.get("process") == os.getpid() and record.get("host") == socket.gethostname():
        return os.path.realpath(folder) in running_here
    return (
        record.get("status") == "Running"
        and record.get("host") == socket.gethostname()
        and status_of(folder) == "Unknown"
        and not was_killed(folder)
    )
