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
import sys
import time
import traceback
from collections.abc import Generator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import napari_sta
from napari_sta import _interrupt
from napari_sta.data.errors import InputError, JobError, StaError, Stopped
from napari_sta.data.progress import Progress
from napari_sta.io.files import (
    check_is_file,
    path_for,
    recorded,
    relative_to,
    remove_temporary_files,
    remove_written,
    resolve,
    sentence_for,
    write_text,
)
from napari_sta.io.lock import process_mark
from napari_sta.io.project.folders import JOB_NAME
from napari_sta.io.project.job_pipeline import write_job_pipeline, write_output_nodes
from napari_sta.io.project.job_star import write_job_star
from napari_sta.io.project.markers import (
    ABORT_NOW,
    FAILURE,
    SUCCESS,
    append_note,
    clear_markers,
    mark,
    status_of,
)
from napari_sta.io.project.project import Project
from napari_sta.io.project.tables import PipelineNode
from napari_sta.jobs import _fingerprint
from napari_sta.jobs._failures import in_words
from napari_sta.jobs._job import Context, Job, extra_of
from napari_sta.jobs._job_star import job_star
from napari_sta.jobs._ownership import RECORDS, is_at_work, lost_files, own_record, running_here
from napari_sta.jobs._params import keep_inputs, release_inputs
from napari_sta.jobs._records import job_from_record, options_of, read_record
from napari_sta.jobs._run_log import run_log, unheard
from napari_sta.jobs._run_options import RunOptions

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
        own, self._written = own_record(self.job, out, self.options.by_relion)
        if own is not None and isinstance(own.get("fingerprint"), str) and self._written - RECORDS:
            self._inputs = _fingerprint.of_inputs(self.job)
            self._lost = lost_files(
                self.job, out, own, self._written, inputs=self._inputs, resumed=self._resumed
            )
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

    # ---- during

    def _steps(self) -> Generator[Progress, None, dict[str, Any]]:
        assert self.out is not None
        began = time.time()
        status = "Failed"
        record: dict[str, Any] = {}
        failure = ""
        log = unheard()
        here = os.path.realpath(self.out)
        with contextlib.ExitStack() as opened:
            opened.enter_context(_interrupt.running(self._abandon))
            running_here.add(here)
            try:
                yield Progress(0, 0)  # taken by steps()
                opened.enter_context(recorded(self.out))
                log = opened.enter_context(run_log(self.out, self.warnings))
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
                converted = in_words(error, self.job, self.out)
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
                        running_here.discard(here)

    def _abandon(self) -> bool:
        """Leave records and marker although threads are still at work; the process ends right after."""
        if self.out is None or not self._record:
            return True  # nothing has been written yet
        if self._ending:
            return False
        self._write_end("Aborted", time.time(), "stopped", unheard(), in_pipeline=False)
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
            fingerprint=self._record["fingerprint"], kept=self._written - RECORDS,
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
        if not is_at_work(folder, record):  # killed during its last records, it may have left some
            remove_temporary_files(folder)
        raise InputError(
            f"{folder} has already finished; to run it again, start a new job with the same values"
        )
    options = options or options_of(record)
    job = job_from_record(record, folder)
    run = JobRun(job, RunOptions(out=folder, threads=options.threads, device=options.device))
    run._resumed = True
    return run


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
