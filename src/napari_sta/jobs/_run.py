"""Run a job: its folder, its records, its markers, its place in the RELION project.

The command line and the docks run jobs through here, so that both leave the same files.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import os
import platform
import re
import shlex
import socket
import sys
import time
import traceback
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import napari_sta
from napari_sta import _interrupt
from napari_sta.data.errors import InputError, JobError, StaError, Stopped
from napari_sta.data.progress import Progress
from napari_sta.io.files import (
    WRITTEN,
    absolute,
    check_is_file,
    open_log,
    path_for,
    recorded,
    relative_to,
    remove_temporary_files,
    remove_written,
    resolve,
    sentence_for,
    write_text,
    written_files,
)
from napari_sta.io.lock import process_mark
from napari_sta.io.project.folders import JOB_NAME
from napari_sta.io.project.job_pipeline import write_job_pipeline, write_output_nodes
from napari_sta.io.project.job_star import JobStar, read_job_star, write_job_star
from napari_sta.io.project.markers import (
    ABORT_NOW,
    ABORTED,
    FAILURE,
    SUCCESS,
    append_note,
    clear_markers,
    mark,
    status_of,
)
from napari_sta.io.project.project import Project
from napari_sta.io.project.status import was_killed
from napari_sta.io.project.tables import PipelineNode
from napari_sta.io.star import read_star
from napari_sta.jobs import _fingerprint
from napari_sta.jobs._job import Context, Job, all_jobs, extra_of, job_named
from napari_sta.jobs._params import keep_inputs, release_inputs

_LARGEST_RECORD_BYTES = 64 * 2**20

# What RELION's GUI, scheduler or queue put into a job's folder before the job begins.
_LAUNCH_FILES = re.compile(
    r"job\.star|job_pipeline\.star|default_pipeline\.star|note\.txt|run\.(out|err)|run_submit\.script|"
    r"RELION_JOB_(EXIT_(SUCCESS|FAILURE|ABORTED)|ABORT_NOW)|slurm-\d+(_\d+)?\.(out|err)"
)
_SCHEDULED_FILES = {"job.star", "job_pipeline.star", "default_pipeline.star"}
# What systems leave anywhere, and what a run of ours killed in its first moment leaves.
_NOTHING = re.compile(r"\.nfs.*|\.DS_Store|Thumbs\.db|desktop\.ini|lost\+found|\..*\.sta-tmp")

# What the runner itself keeps in a job's folder, whatever becomes of results.
_RECORDS = frozenset(
    {"job.json", "job.star", "job_pipeline.star", "note.txt", "run.out", "run.err", SUCCESS, FAILURE, ABORTED}
)

_running_here: set[str] = set()  # folders of the jobs that run in this process

# Label of a node that the pipeline does not know yet, by the kind of the field that names it.
_NODE_LABELS = {
    "optimisation_set": "TomoOptimisationSet.star",
    "particles": "ParticleGroupMetadata.star",
    "tomograms": "TomogramGroupMetadata.star",
    "trajectories": "TomoTrajectoryData.star",
    "map": "DensityMap.mrc",
    "mask": "Mask3D.mrc",
    "star": "ProcessData.star",
    "optimiser": "OptimiserData.star",
}

# Our field to RELION's slot of External jobs; the other fields become param1…param10, then other_args.
_EXTERNAL_SLOTS = {"in_parts": "in_part", "in_3dref": "in_3dref", "in_mask": "in_mask"}


@dataclass(frozen=True)
class RunOptions:
    """Where and with what to run.

    Attributes
    ----------
    out
        Output folder; None: the next job folder of the project.
    threads
        CPU threads; 0: all that this process may use.
    device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:0,1``.
    project
        Project folder; None: the one the current folder belongs to.
    by_relion
        RELION has made the output folder for this job (``--pipeline_control``).
    """

    out: Path | None = None
    threads: int = 0
    device: str = "auto"
    project: Path | None = None
    by_relion: bool = False

    @property
    def n_threads(self) -> int:
        """How many CPU threads to use."""
        if self.threads > 0:
            return self.threads
        if hasattr(os, "sched_getaffinity"):
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1

    @staticmethod
    def most_threads() -> int:
        """Return how many CPU threads may be asked for: more only take memory and turns from each other."""
        return 4 * (os.cpu_count() or 1)


class JobRun:
    """One run of one job.

    Attributes
    ----------
    job, options
        What to run, and how.
    out
        The output folder, known once :meth:`steps` has been called.
    name
        ``Reconstruct/job038/`` in a project, else the folder.
    warnings
        Sentences for the user, complete once the run is over.
    """

    def __init__(self, job: Job, options: RunOptions | None = None) -> None:
        self.job = job
        self.options = options or RunOptions()
        self.out: Path | None = self.options.out
        self.name = "" if self.out is None else str(self.out)
        self.warnings: list[str] = []
        self._project: Project | None = None
        self._in_pipeline = False
        self._resumed = False
        self._record: dict[str, Any] = {}
        self._ending = False
        self._inputs: dict[str, Any] | None = None
        self._written: frozenset[str] = frozenset()  # what an earlier run of this job left in the folder
        self._lost: frozenset[str] = frozenset()  # and what of it has to go

    # ---- before

    def steps(self) -> Generator[Progress, None, dict[str, Any]]:
        """Check the input, make the job folder, and return the generator that runs the job.

        The generator yields what the job yields and returns the job's result record, to which it adds
        ``job``, ``name``, ``out``, ``outputs``, ``seconds`` and ``warnings``. Closing it stops the job;
        so does the file ``RELION_JOB_ABORT_NOW`` in its folder.

        Raises
        ------
        InputError
            If the input is wrong; nothing has been written then.
        JobError
            If the folder cannot be made.
        """
        self.job = self._with_found_files()
        keep_inputs(self.job)
        steps = self._steps()
        try:
            self.job.check()
            with _interrupt.running(self._abandon), _interrupt.deferred():
                self._prepare()
                next(steps)  # from here on, whatever ends it leaves its marker
        except BaseException:
            release_inputs(self.job)
            steps.close()
            raise
        return steps

    def _with_found_files(self) -> Job:
        """Return the job with its files where they are, seen from the current folder or the project's."""
        found = {}
        for field_name, value in self.job.input_files().items():
            in_project = self.options.project / value if self.options.project else None
            if in_project is not None and not Path(value).exists() and in_project.exists():
                found[field_name] = str(in_project)
                continue
            try:
                # Also those that the job will not read: all are hashed for its record.
                check_is_file(resolve(value))
            except InputError as error:
                raise InputError(f"--{field_name}: {error}") from None
        return self.job.model_copy(update=found) if found else self.job

    def _prepare(self) -> None:
        """Find or make the folder, and leave the record there before anything else."""
        if self.out is None:
            self._project = Project(self.options.project) if self.options.project else Project.find()
            if self._project is None:
                raise InputError(
                    "no output folder: give one with --o, or start inside a RELION project folder"
                )
            self.name = self._project.add_job(
                self.job.folder, self.job.relion_type, inputs=self._input_nodes(), first=self._first_record
            )
            self.out = self._project.root / self.name
            self._in_pipeline = True
            return
        out = self.out
        self._project = Project.find(out)
        own = self._own_record(out)
        if own is not None:
            self._compare(out, own)
        made = not os.path.lexists(out)
        try:
            out.mkdir(parents=True, exist_ok=True)
            self._first_record(out, own)
        except (OSError, StaError) as error:
            if made:
                with contextlib.suppress(OSError):
                    out.rmdir()
            if isinstance(error, OSError):
                raise JobError(sentence_for(error, out)) from error
            raise
        inner = relative_to(os.path.realpath(out), self._project.root) if self._project is not None else None
        if inner is not None and JOB_NAME.search(inner):
            self.name = f"{inner}/"

    def _own_record(self, out: Path) -> dict[str, Any] | None:
        """Return what an earlier run of this job recorded in a folder, None for an empty or new one.

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
            self._refuse_foreign(out, names)
            return None
        own = read_record(out)
        if own["job"] != self.job.name():
            raise InputError(f"--o {out} is the folder of another job ({own['job']}); choose another folder")
        if _runs(out, own):
            raise InputError(
                f"{out} is in use: the job there runs in process {own.get('process')}; wait for it or stop it"
            )
        if WRITTEN not in names or not isinstance(own.get("fingerprint"), str):
            # Killed in its first moments, it has written nothing yet.
            self._refuse_foreign(out, names - {"job.json", WRITTEN}, anyhow=True)
        self._written = written_files(out)
        theirs = sorted(name for name in self.job.outputs if name in names and name not in self._written)
        if theirs and not (out / WRITTEN).is_symlink():
            raise InputError(
                f"--o {out} holds {theirs[0]}, which the {own['job']} there did not write; move it away, or choose "
                "another folder"
            )
        return own

    def _refuse_foreign(self, out: Path, names: set[str], *, anyhow: bool = False) -> None:
        """Never write among what another program or another job left."""
        others = sorted(name for name in names if not _LAUNCH_FILES.fullmatch(name))
        if (
            not others
            and names
            and not (anyhow or self.options.by_relion or _is_launched(self.job.relion_type, out, names))
        ):
            others = sorted(names)
        if others:
            raise InputError(
                f"--o {out} already holds {others[0]}, which no {self.job.name()} of napari-sta wrote; choose another "
                "folder"
            )

    def _compare(self, out: Path, own: dict[str, Any]) -> None:
        """Find out what of an earlier run in the folder may stay: all if values and inputs are the same.

        Raises
        ------
        InputError
            If something would be lost that nobody asked to lose.
        """
        before = own.get("fingerprint")
        if not isinstance(before, str) or not self._written - _RECORDS:
            return  # nothing was made yet
        self._inputs = _fingerprint.of_inputs(self.job)
        if before == _fingerprint.of_job(self.job, self._inputs):
            return
        stays = self.job.stays(out, self._written)
        self._lost = self._written - stays - _RECORDS
        what = _fingerprint.difference(self.job, self._inputs, own)
        what = what or _fingerprint.changed_input(self._inputs, own)
        if self._resumed:
            # The work of days is not deleted for being given again, see below.
            again = "" if self.job.is_long and not stays else "give the same command again to start anew, or "
            raise InputError(f"{out} cannot be resumed: {what}; {again}choose another folder")
        if self._lost and (status_of(out) == "Succeeded" or own.get("status") == "Succeeded"):
            raise InputError(
                f"--o {out} holds a finished {self.job.name()}, but {what}; choose another folder"
            )
        if self._lost and self.job.is_long and not stays:
            raise InputError(
                f"--o {out} holds an unfinished {self.job.name()}, but {what}; choose another folder, or delete that one "
                "if it is not needed"
            )

    # ---- during

    def _steps(self) -> Generator[Progress, None, dict[str, Any]]:
        assert self.out is not None
        began = time.time()
        status = "Failed"
        record: dict[str, Any] = {}
        failure = ""
        log = _unheard()
        here = os.path.realpath(self.out)
        with contextlib.ExitStack() as opened:
            opened.enter_context(_interrupt.running(self._abandon))
            _running_here.add(here)
            try:
                yield Progress(0, 0)  # taken by steps()
                opened.enter_context(recorded(self.out))
                log = opened.enter_context(_log_files(self.out, self.warnings))
                self._clear(log)
                self._write_start(began)
                log.info("%s %s", self.job.label or self.job.name(), self.name)
                for sentence in self.job.warnings():
                    log.warning("%s", sentence)
                result = yield from self._run_job(log)
                record = self._finished_record(result, began)
                self._record["result"] = result
                status = "Succeeded"
                log.info("finished in %.1f s", record["seconds"])
                return record
            except (GeneratorExit, KeyboardInterrupt, Stopped) as error:
                status, failure = "Aborted", str(error) or "stopped"
                log.warning("stopped")
                raise
            except Exception as error:
                if _interrupt.asked():
                    # What was just being imported or compiled made an error of its own of it.
                    status, failure = "Aborted", "stopped"
                    log.warning("stopped")
                    raise KeyboardInterrupt from None
                if isinstance(error, StaError):
                    failure = str(error)
                    log.error("%s", error)
                    raise
                log.error("%s", traceback.format_exc())
                converted = as_job_error(error, self.job, self.out)
                failure = str(converted)
                log.error("%s", converted)
                raise converted from error
            finally:
                with _interrupt.deferred():
                    if status == "Failed" and not failure and _interrupt.asked():
                        status, failure = "Aborted", "stopped"  # it came while another end was taken down
                    release_inputs(self.job)
                    try:
                        self._write_end(status, began, failure, log)
                    finally:
                        _running_here.discard(here)

    def _abandon(self) -> bool:
        """Leave records and marker although threads are still at work; the process ends right after."""
        if self.out is None or not self._record:
            return True  # nothing has been written yet
        if self._ending:
            return False
        self._write_end("Aborted", time.time(), "stopped", _unheard(), in_pipeline=False)
        remove_temporary_files(self.out)
        return True

    def _clear(self, log: logging.Logger) -> None:
        """Remove what an earlier run left half done, or made of other values or inputs."""
        assert self.out is not None
        try:
            clear_markers(self.out)
            remove_temporary_files(self.out)
        except OSError as error:
            raise JobError(sentence_for(error, self.out)) from error
        if self._resumed and self._project is not None:
            self._in_pipeline = True
            self._project.finish_job(self.name, "Running")
        if self._lost:
            log.info("values or inputs have changed: what an earlier run of this job left is made anew")
            remove_written(self.out, self._lost)
            self._written -= self._lost

    def _run_job(self, log: logging.Logger) -> Generator[Progress, None, dict[str, Any]]:
        assert self.out is not None
        threads = self.options.n_threads
        if getattr(type(self.job), "uses_torch", True):
            # A spinning barrier beside another busy process makes torch 45 times slower.
            os.environ.setdefault("OMP_WAIT_POLICY", "passive")
            import torch

            torch.set_num_threads(threads)
        context = Context(
            out=self.out, threads=threads, device=self.options.device, log=log,
            fingerprint=self._record["fingerprint"], kept=self._written - _RECORDS,
        )  # fmt: skip
        abort_file = self.out / ABORT_NOW
        steps = self.job.run(context)
        told = ("", 0.0)
        try:
            while True:
                try:
                    progress = next(steps)
                except StopIteration as end:
                    return dict(end.value or {})
                if _interrupt.asked():
                    raise KeyboardInterrupt
                if abort_file.exists():
                    raise Stopped(f"{self.name} was stopped because {ABORT_NOW} was found in its folder")
                if not self.out.is_dir():
                    raise JobError(
                        f"the output folder {self.out} was removed or renamed while the job was running; run the job "
                        "again"
                    )
                if progress.message and (progress.message != told[0] or time.monotonic() - told[1] > 30):
                    told = (progress.message, time.monotonic())
                    log.info("%d/%s %s", progress.done, progress.total or "?", progress.message)
                yield progress
        finally:
            steps.close()

    # ---- records

    def _first_record(self, out: Path, own: Mapping[str, Any] | None = None) -> None:
        """Say at once that the job runs, and where; what an earlier run recorded holds until it is replaced."""
        self.out = out
        now = {"status": "Running", **process_mark(), "started": datetime.now().isoformat(timespec="seconds")}
        if own is not None:
            self._record = {**own, **now}
        else:
            self._record = {
                "job": self.job.name(),
                "values": self._portable_job().model_dump(mode="json"),
                "threads": self.options.n_threads,
                "device": self.options.device,
                "folder": _here(),
                **now,
            }
        self._write_record(out)

    def _write_start(self, began: float) -> None:
        assert self.out is not None
        job, name = self._portable_job(), self._folder_name()
        # Where RELION's GUI started us as an External job, job.star and job_pipeline.star are its own.
        if "job.star" in self._written or not (self.out / "job.star").exists():
            write_job_star(self.out / "job.star", job_star(job, self.options.n_threads, self.job))
        if self._in_pipeline:
            write_job_pipeline(self.out, name, job.relion_type, "Running", self._input_nodes(), [])
        # With absolute paths, because some commands name files that a set names, and have to read it.
        absolute = {field: str(Path(value).absolute()) for field, value in self.job.input_files().items()}
        relion = self.job.model_copy(update=absolute).relion_command(name)
        if relion and self._project is not None:
            relion = relion.replace(f"{self._project.root}/", "")
        commands = [line for line in (job.command_line(name), relion) if line]
        when = datetime.fromtimestamp(began).strftime("%a %b %d %H:%M:%S %Y")
        append_note(self.out, commands, when)
        if self._inputs is None:
            self._inputs = _fingerprint.of_inputs(self.job)
        self._record = {
            "job": job.name(),
            "name": name,
            "values": job.model_dump(mode="json"),
            "threads": self.options.n_threads,
            "device": self.options.device,
            "versions": _versions(),
            "inputs": self._inputs,
            "fingerprint": _fingerprint.of_job(self.job, self._inputs),
            "commands": {"napari-sta": commands[0], "relion": commands[1] if len(commands) > 1 else None},
            "folder": _here(),
            **process_mark(),
            "started": datetime.fromtimestamp(began).isoformat(timespec="seconds"),
            "status": "Running",
        }
        complete = self.job.complete()
        if complete is not self.job:
            # Where the other job ran in this folder, its record ends here.
            self._record["complete_values"] = self._portable_job(complete).model_dump(mode="json")
        self._write_record(self.out)

    def _finished_record(self, result: dict[str, Any], began: float) -> dict[str, Any]:
        assert self.out is not None
        outputs = [node.path for node in self._output_nodes()]
        return {
            **result,
            "job": self.job.name(),
            "name": self.name,
            "out": str(self.out),
            "outputs": {one: str(self.out / one) for one in outputs},
            "seconds": round(time.time() - began, 3),
            "warnings": list(self.warnings),
        }

    def _write_end(
        self, status: str, began: float, failure: str, log: logging.Logger, *, in_pipeline: bool = True
    ) -> None:
        """Leave records and markers; a full disk here must not hide how the job itself ended."""
        assert self.out is not None
        self._ending = True
        outputs = self._output_nodes() if status == "Succeeded" else []
        name = self._folder_name()
        try:
            self._record |= {
                "finished": datetime.now().isoformat(timespec="seconds"),
                "seconds": round(time.time() - began, 3),
                "warnings": list(self.warnings),
            }
            if status != "Succeeded":
                self._record["failure"] = failure
            self._write_record(self.out)
            if status == "Succeeded":
                write_output_nodes(self.out, name, outputs)
                if self._in_pipeline:
                    inputs = self._input_nodes()
                    write_job_pipeline(self.out, name, self.job.relion_type, status, inputs, outputs)
            mark(self.out, status)
            # Last: while it says Running and the process is dead, the job is known to have been killed.
            self._record["status"] = status
            self._write_record(self.out)
        except (StaError, OSError) as error:
            log.error("the records of the job could not be completed: %s", error)
            if status != "Succeeded":
                # Without the marker RELION takes it to be running; an empty file may find room on a full disk.
                with contextlib.suppress(StaError, OSError):
                    mark(self.out, status)
            if status == "Succeeded":
                # It ends with 1, so it must not be marked a success; renaming needs no room on the disk.
                with contextlib.suppress(OSError):
                    os.replace(self.out / SUCCESS, self.out / FAILURE)
                raise JobError(f"the job finished, but its records could not be written: {error}") from error
        if in_pipeline and self._in_pipeline and self._project is not None:
            try:
                late = self._project.finish_job(self.name, status, outputs)
                if late:
                    log.warning("%s", late)
            except (StaError, OSError) as error:
                # The marker tells how it ended, to us and to RELION.
                log.warning("the project's pipeline does not show yet how the job ended: %s", error)

    def _write_record(self, out: Path) -> None:
        write_text(out / "job.json", json.dumps(self._record, indent=1, default=_plain) + "\n")

    def _folder_name(self) -> str:
        """Return the output folder as RELION's files name it, with its slash."""
        assert self.out is not None
        return path_for(self.out, self.out).rstrip("/") + "/"

    def _portable_job(self, job: Job | None = None) -> Job:
        """Return the job, or another, with its files named as seen from the project folder."""
        job = job or self.job
        return job.model_copy(
            update={field: self._portable(value) for field, value in job.input_files().items()}
        )

    def _portable(self, value: str) -> str:
        inner = None if self._project is None else relative_to(value, self._project.root)
        return value if inner is None else inner

    def _input_nodes(self) -> list[PipelineNode]:
        if self._project is None:
            return []
        nodes = []
        for field_name, value in self.job.input_files().items():
            path = self._portable(value)
            # RELION's alias substitution stumbles over "None" in a path.
            if Path(path).is_absolute() or "None" in path:
                continue
            kind = extra_of(type(self.job).model_fields[field_name])["kind"].removeprefix("file:")
            nodes.append(PipelineNode(path, _NODE_LABELS.get(kind, "ProcessData.star")))
        return nodes

    def _output_nodes(self) -> list[PipelineNode]:
        assert self.out is not None
        return [
            PipelineNode(file, node.label, node.depth)
            for file, node in self.job.outputs.items()
            if (self.out / file).exists()
        ]


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
        if os.path.lexists(out / "job.json") and _runs(out, read_record(out)):
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


def assist(job: Job, options: RunOptions) -> None:
    """Do a further process's share of a job that torchrun started; the first process keeps the records."""
    if not job.uses_ranks:
        return
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import torch

    torch.set_num_threads(options.n_threads)
    log = logging.getLogger("napari_sta.assistant")
    log.addHandler(logging.NullHandler())
    log.propagate = False
    for _ in job.run(Context(out=Path(), threads=options.n_threads, device=options.device, log=log)):
        pass


def resume(folder: str | Path, options: RunOptions | None = None) -> JobRun:
    """Return a run that continues a job in its folder, with the values it was started with.

    Parameters
    ----------
    options
        Threads and device; the folder counts as ``out`` and project.

    Raises
    ------
    InputError
        If the folder holds no job of ours, or the job has finished already.
    """
    folder = Path(folder)
    record = read_record(folder)
    if status_of(folder) == "Succeeded":
        if not _runs(folder, record):  # killed during its last records, it may have left some
            remove_temporary_files(folder)
        raise InputError(
            f"{folder} has already finished; to run it again, start a new job with the same values"
        )
    options = options or options_of(record)
    job = job_from_record(record, folder)
    run = JobRun(job, RunOptions(out=folder, threads=options.threads, device=options.device))
    run._resumed = True
    return run


def read_record(folder: str | Path) -> dict[str, Any]:
    """Read ``job.json``.

    Raises
    ------
    InputError
        If it is missing or damaged.
    """
    path = Path(folder) / "job.json"
    if not os.path.lexists(path):
        # Made and killed at once, a folder of ours is empty.
        cure = "start the job again" if os.path.isdir(folder) else "check the path"
        raise InputError(f"{folder} holds no job of napari-sta: it has no job.json; {cure}")
    try:
        if path.stat().st_size > _LARGEST_RECORD_BYTES:
            raise ValueError("it is too large")
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}); start the job anew in another folder") from None
    if (
        not isinstance(record, dict)
        or not isinstance(record.get("job"), str)
        or not isinstance(record.get("values"), dict)
    ):
        raise InputError(f"{path} is no record of a job; start the job anew in another folder")
    return record


def options_of(record: Mapping[str, Any]) -> RunOptions:
    """Return threads and device as a ``job.json`` says; what it does not say, or this computer has not, is free."""
    threads, device = record.get("threads"), record.get("device")
    known = type(threads) is int and 0 < threads <= RunOptions.most_threads()
    return RunOptions(threads=threads if known else 0, device=device if isinstance(device, str) else "auto")  # type: ignore[arg-type]


def _runs(folder: Path, record: Mapping[str, Any]) -> bool:
    """Whether a job is at work in a folder, as far as can be seen from this computer."""
    if record.get("process") == os.getpid() and record.get("host") == socket.gethostname():
        return os.path.realpath(folder) in _running_here
    return (
        record.get("status") == "Running"
        and record.get("host") == socket.gethostname()
        and status_of(folder) == "Unknown"
        and not was_killed(folder)
    )


def job_from_record(record: Mapping[str, Any], folder: str | Path | None = None) -> Job:
    """Build the job that a ``job.json`` describes.

    Parameters
    ----------
    folder
        The job's folder; input files are looked for in its project too.
    """
    job_class = job_named(str(record["job"]))
    values = {key: value for key, value in record["values"].items() if value is not None}
    job = job_class.from_text(values)
    if folder is not None:
        started_in = [record["folder"]] if isinstance(record.get("folder"), str) else []
        hints = [folder, *(f"{one}/x" for one in started_in)]
        found = {}
        for field, value in job.input_files().items():
            try:
                found[field] = str(resolve(value, *hints))
            except InputError as error:
                raise InputError(f"--{field}: {error}") from None
        job = job.model_copy(update=found)
    return job


# ----------------------------------------------------------------------------------------------------
# job.star


def job_star(job: Job, threads: int = 1, found: Job | None = None) -> JobStar:
    """Return what RELION's ``job.star`` says of a job: its own options, or those of an External job.

    Parameters
    ----------
    found
        The job with its files where they are, for options that are read from them.
    """
    text = job.as_text()
    options = {"nr_threads": str(threads), "do_queue": "No", "min_dedicated": "1", "queuename": "openmpi"}
    options |= {"qsub": "sbatch", "qsubscript": ""}
    rest: list[str] = []
    if job.relion_type == "relion.external":
        options |= {"fn_exe": f"napari-sta {job.name()}", "in_mov": "", "in_mic": "", "in_coords": ""}
        options |= dict.fromkeys(_EXTERNAL_SLOTS.values(), "")
        params = []
        for name, value in text.items():
            if name in _EXTERNAL_SLOTS:
                options[_EXTERNAL_SLOTS[name]] = value
            elif value:
                params.append((name, value))
        for number in range(1, 11):
            name, value = params[number - 1] if number <= len(params) else ("", "")
            options |= {f"param{number}_label": name, f"param{number}_value": value}
        for name, value in params[10:]:
            rest += [f"--{name}", value]
    else:
        for name, info in type(job).model_fields.items():
            relion = extra_of(info)["relion"]
            if relion:
                options[relion] = text[name]
            elif text[name] and text[name] != _default_text(job, name):
                rest += [f"--{name}", text[name]]
        named = (
            {}
            if found is None
            else dict(zip(found.input_files().values(), job.input_files().values(), strict=True))
        )
        options |= {key: named.get(value, value) for key, value in (found or job).relion_switches().items()}
        if "in_optimisation" in options:
            options["use_direct_entries"] = "Yes" if options.get("in_particles") else "No"
    options["other_args"] = shlex.join(rest)
    return JobStar(type_label=job.relion_type, options=options)


def job_from_star(star: JobStar) -> Job:
    """Build the job that a ``job.star``, ours or RELION's, describes.

    Raises
    ------
    InputError
        If we have no such job, or a value is out of range.
    """
    if star.type_label.startswith("relion.external"):
        values = _other_arguments(star.options)
        words = star.options.get("fn_exe", "").split()
        if len(words) < 2 or not words[0].endswith("napari-sta"):
            raise InputError(
                f"the External job runs {' '.join(words) or 'nothing'}, which is no job of napari-sta"
            )
        job_class = job_named(words[1])
        values |= {field: star.options.get(slot, "") for field, slot in _EXTERNAL_SLOTS.items()}
        for number in range(1, 11):
            if star.options.get(f"param{number}_label"):
                values[star.options[f"param{number}_label"]] = star.options.get(f"param{number}_value", "")
        return job_class.from_text({key: value for key, value in values.items() if value})
    job_class = _job_of_type(star.type_label)
    options = job_class.switched_on(star.options)
    values = _other_arguments(options)
    direct = options.get("use_direct_entries", "Yes") == "Yes"
    for name, info in job_class.model_fields.items():
        relion = extra_of(info)["relion"]
        if relion in ("in_particles", "in_tomograms", "in_trajectories") and not direct:
            continue
        if relion and options.get(relion):
            values[name] = options[relion]
    known = {name: value for name, value in values.items() if name in job_class.model_fields and value}
    return job_class.from_text(known)


def _other_arguments(options: Mapping[str, str]) -> dict[str, str]:
    text = options.get("other_args", "")
    try:
        rest = shlex.split(text)
    except ValueError as error:
        raise InputError(
            f"other_args of the job.star, {text[:80]!r}, cannot be read ({error}); correct it"
        ) from None
    return {
        name.lstrip("-").replace("-", "_"): value for name, value in zip(rest[::2], rest[1::2], strict=False)
    }


def _job_of_type(type_label: str) -> type[Job]:
    # Labels may carry further levels; RELION strips them from the end until it knows the type.
    label = type_label
    while label:
        for job_class in all_jobs().values():
            if job_class.relion_type == label != "relion.external":
                return job_class
        label = label.rpartition(".")[0]
    raise InputError(f"napari-sta has no job for RELION's {type_label}")


def _default_text(job: Job, name: str) -> str | None:
    from napari_sta.jobs._job import value_as_text

    info = type(job).model_fields[name]
    return None if info.is_required() else value_as_text(info.get_default())


# ----------------------------------------------------------------------------------------------------
# Failures


def as_job_error(error: Exception, job: Job, out: Path) -> JobError:
    """Say what an unexpected failure of a job means, and what to do."""
    text = str(error)
    lower = text.lower()
    kind = type(error).__name__
    if isinstance(error, MemoryError) or "out of memory" in lower or "can't allocate memory" in lower:
        where = "the GPU" if "cuda" in lower else "this computer"
        cure = "run it with --device cpu, or take a smaller box or a larger binning"
        if where == "this computer":
            cure = "close other programs, or take a smaller box or a larger binning"
        return JobError(
            f"{job.name()} ran out of memory on {where}; {cure} (files already finished are kept)"
        )
    if "cuda" in lower or "cudnn" in lower or "cublas" in lower or "device-side" in lower:
        return JobError(
            f"{job.name()} lost the GPU ({text.splitlines()[0][:120]}); run it again, or with --device cpu "
            f"(files already finished are kept; details in {out / 'run.err'})"
        )
    if isinstance(error, OSError):
        return JobError(sentence_for(error, error.filename or out))
    first = text.splitlines()[0][:200] if text else "no message"
    return JobError(
        f"{job.name()} failed unexpectedly ({kind}: {first}); this is a fault of the program: please report "
        "it with "
        f"{out / 'run.err'}"
    )


# ----------------------------------------------------------------------------------------------------
# Small things


@contextlib.contextmanager
def _log_files(out: Path, warnings: list[str]) -> Iterator[logging.Logger]:
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


def _unheard() -> logging.Logger:
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


def _here() -> str:
    """Return the current folder; empty if it has been deleted."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def _versions() -> dict[str, str]:
    found = {"napari-sta": napari_sta.__version__, "python": platform.python_version()}
    for package in ("numpy", "scipy", "torch", "numba"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found | {"platform": sys.platform}


def _plain(value: Any) -> Any:
    """Turn what a result record may hold (arrays, tensors, paths) into JSON."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)
