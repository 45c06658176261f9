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
import shlex
import socket
import sys
import time
import traceback
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import napari_sta
from napari_sta.data.errors import InputError, JobError, StaError, Stopped
from napari_sta.io.files import path_for, remove_temporary_files, resolve, sentence_for, sha256, write_text
from napari_sta.io.project import (
    ABORT_NOW,
    JOB_NAME,
    JobStar,
    PipelineNode,
    Project,
    append_note,
    clear_markers,
    mark,
    status_of,
    write_job_pipeline,
    write_job_star,
    write_output_nodes,
)
from napari_sta.jobs._job import Context, Job, Progress, all_jobs, extra_of, job_named
from napari_sta.jobs._params import keep_inputs, release_inputs

_LARGE_FILE_BYTES = 50 * 2**20

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
    """

    out: Path | None = None
    threads: int = 0
    device: str = "auto"
    project: Path | None = None

    @property
    def n_threads(self) -> int:
        """How many CPU threads to use."""
        if self.threads > 0:
            return self.threads
        if hasattr(os, "sched_getaffinity"):
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1


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
        try:
            self.job.check()
            self._prepare()
        except BaseException:
            release_inputs(self.job)
            raise
        return self._steps()

    def _with_found_files(self) -> Job:
        """Return the job with its files where they are, seen from the current folder or the project's."""
        found = {}
        for field_name, value in self.job.input_files().items():
            in_project = self.options.project / value if self.options.project else None
            if in_project is not None and not Path(value).exists() and in_project.exists():
                found[field_name] = str(in_project)
                continue
            try:
                resolve(value)
            except InputError as error:
                raise InputError(f"--{field_name}: {error}") from None
        return self.job.model_copy(update=found) if found else self.job

    def _prepare(self) -> None:
        job = self.job
        if self.out is None:
            self._project = Project(self.options.project) if self.options.project else Project.find()
            if self._project is None:
                raise InputError(
                    "no output folder: give one with --o, or start inside a RELION project folder"
                )
            self.name = self._project.add_job(job.folder, job.relion_type, inputs=self._input_nodes())
            self.out = self._project.root / self.name
            self._in_pipeline = True
        else:
            self._refuse_foreign_results(self.out)
            try:
                self.out.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise JobError(sentence_for(error, self.out)) from error
            self._project = Project.find(self.out)
            if self._project is not None and JOB_NAME.search(str(self.out.absolute())):
                self.name = f"{self.out.absolute().relative_to(self._project.root)}/"
            remove_temporary_files(self.out)
            if self._resumed and self._project is not None:
                self._in_pipeline = True
                self._project.finish_job(self.name, "Running")
        try:
            clear_markers(self.out)
        except OSError as error:
            raise JobError(sentence_for(error, self.out)) from error

    def _refuse_foreign_results(self, out: Path) -> None:
        """Never write over what another program or another job left under our names."""
        if out.exists() and not out.is_dir():
            raise InputError(f"--o {out} is a file; name a folder")
        there = [name for name in self.job.outputs if (out / name).exists()]
        if not there or self._resumed:
            return
        own = out / "job.json"
        if not own.exists() or read_record(out).get("job") != self.job.name():
            raise InputError(
                f"--o {out} already holds {there[0]}, which no {self.job.name()} of napari-sta wrote; choose another "
                "folder"
            )

    # ---- during

    def _steps(self) -> Generator[Progress, None, dict[str, Any]]:
        assert self.out is not None
        began = time.time()
        status = "Failed"
        record: dict[str, Any] = {}
        failure = ""
        with _log_files(self.out, self.warnings) as log:
            try:
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
            except StaError as error:
                failure = str(error)
                log.error("%s", error)
                raise
            except Exception as error:
                log.error("%s", traceback.format_exc())
                converted = as_job_error(error, self.job, self.out)
                failure = str(converted)
                log.error("%s", converted)
                raise converted from error
            finally:
                release_inputs(self.job)
                self._write_end(status, began, failure, log)

    def _run_job(self, log: logging.Logger) -> Generator[Progress, None, dict[str, Any]]:
        assert self.out is not None
        threads = self.options.n_threads
        if getattr(type(self.job), "uses_torch", True):
            # A spinning barrier beside another busy process makes torch 45 times slower.
            os.environ.setdefault("OMP_WAIT_POLICY", "passive")
            import torch

            torch.set_num_threads(threads)
        context = Context(out=self.out, threads=threads, device=self.options.device, log=log)
        abort_file = self.out / ABORT_NOW
        steps = self.job.run(context)
        told = ("", 0.0)
        try:
            while True:
                try:
                    progress = next(steps)
                except StopIteration as end:
                    return dict(end.value or {})
                if abort_file.exists():
                    raise Stopped(f"{self.name} was stopped because {ABORT_NOW} was found in its folder")
                if progress.message and (progress.message != told[0] or time.monotonic() - told[1] > 30):
                    told = (progress.message, time.monotonic())
                    log.info("%d/%s %s", progress.done, progress.total or "?", progress.message)
                yield progress
        finally:
            steps.close()

    # ---- records

    def _write_start(self, began: float) -> None:
        assert self.out is not None
        job, name = self._portable_job(), self._folder_name()
        own = self.out / "job.json"
        # Where RELION's GUI started us as an External job, job.star and job_pipeline.star are its own.
        if own.exists() or not (self.out / "job.star").exists():
            write_job_star(self.out / "job.star", job_star(job, self.options.n_threads))
        inputs = self._input_nodes()
        if self._in_pipeline:
            write_job_pipeline(self.out, name, job.relion_type, "Running", inputs, [])
        # With absolute paths, because some commands name files that a set names, and have to read it.
        absolute = {field: str(Path(value).absolute()) for field, value in self.job.input_files().items()}
        relion = self.job.model_copy(update=absolute).relion_command(name)
        if relion and self._project is not None:
            relion = relion.replace(f"{self._project.root}/", "")
        commands = [line for line in (job.command_line(name), relion) if line]
        when = datetime.fromtimestamp(began).strftime("%a %b %d %H:%M:%S %Y")
        append_note(self.out, commands, when)
        self._record = {
            "job": job.name(),
            "name": name,
            "values": job.model_dump(mode="json"),
            "threads": self.options.n_threads,
            "device": self.options.device,
            "versions": _versions(),
            "inputs": self._input_hashes(),
            "commands": {"napari-sta": commands[0], "relion": commands[1] if len(commands) > 1 else None},
            "folder": str(Path.cwd()),
            "process": os.getpid(),
            "host": socket.gethostname(),
            "started": datetime.fromtimestamp(began).isoformat(timespec="seconds"),
            "status": "Running",
        }
        self._write_record()

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

    def _write_end(self, status: str, began: float, failure: str, log: logging.Logger) -> None:
        """Leave records and markers; a full disk here must not hide how the job itself ended."""
        assert self.out is not None
        outputs = self._output_nodes() if status == "Succeeded" else []
        name = self._folder_name()
        try:
            if self._record:
                self._record |= {
                    "status": status,
                    "finished": datetime.now().isoformat(timespec="seconds"),
                    "seconds": round(time.time() - began, 3),
                    "warnings": list(self.warnings),
                }
                if status != "Succeeded":
                    self._record["failure"] = failure
                self._write_record()
            if status == "Succeeded":
                write_output_nodes(self.out, name, outputs)
                if self._in_pipeline:
                    inputs = self._input_nodes()
                    write_job_pipeline(self.out, name, self.job.relion_type, status, inputs, outputs)
            mark(self.out, status)
            if self._in_pipeline and self._project is not None:
                late = self._project.finish_job(self.name, status, outputs)
                if late:
                    log.warning("%s", late)
        except (StaError, OSError) as error:
            log.error("the records of the job could not be completed: %s", error)
            if status == "Succeeded":
                raise JobError(f"the job finished, but its records could not be written: {error}") from error

    def _write_record(self) -> None:
        assert self.out is not None
        write_text(self.out / "job.json", json.dumps(self._record, indent=1, default=_plain) + "\n")

    def _folder_name(self) -> str:
        """Return the output folder as RELION's files name it, with its slash."""
        assert self.out is not None
        return path_for(self.out, self.out).rstrip("/") + "/"

    def _portable_job(self) -> Job:
        """Return the job with its files named as seen from the project folder."""
        return self.job.model_copy(
            update={field: self._portable(value) for field, value in self.job.input_files().items()}
        )

    def _portable(self, value: str) -> str:
        if self._project is None:
            return value
        absolute = Path(value).absolute()
        root = self._project.root
        return str(absolute.relative_to(root)) if absolute.is_relative_to(root) else value

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

    def _input_hashes(self) -> dict[str, Any]:
        """Say what each input file was: SHA-256, or size and date where that would take long."""
        from napari_sta.io.relion import read_optimisation_set

        hashes: dict[str, Any] = {}
        for field_name, value in self.job.input_files().items():
            path = resolve(value)
            hashes[value] = _fingerprint(path)
            kind = extra_of(type(self.job).model_fields[field_name])["kind"]
            if kind == "file:optimisation_set":
                for member in read_optimisation_set(path).values():
                    with contextlib.suppress(InputError):
                        hashes[member] = _fingerprint(resolve(member, path))
        return hashes


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
        raise InputError(
            f"{folder} has already finished; to run it again, start a new job with the same values"
        )
    options = options or RunOptions(
        threads=int(record.get("threads") or 0), device=str(record.get("device") or "auto")
    )
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
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder} holds no job of napari-sta: it has no job.json") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); start the job anew") from None
    if not isinstance(record, dict) or "job" not in record or "values" not in record:
        raise InputError(f"{path} is no record of a job; start the job anew")
    return record


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
        started_in = [str(record["folder"])] if record.get("folder") else []
        hints = [folder, *(f"{one}/x" for one in started_in)]
        found = {field: str(resolve(value, *hints)) for field, value in job.input_files().items()}
        job = job.model_copy(update=found)
    return job


# ----------------------------------------------------------------------------------------------------
# job.star


def job_star(job: Job, threads: int = 1) -> JobStar:
    """Return what RELION's ``job.star`` says of a job: its own options, or those of an External job."""
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
        options |= job.relion_switches()
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
    rest = shlex.split(options.get("other_args", ""))
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
            to_file = _QuietFileHandler(out / name, encoding="utf-8")
            to_file.setLevel(level)
            to_file.setFormatter(
                logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")
            )
            handlers.append(to_file)
    except OSError as error:
        raise JobError(sentence_for(error, out)) from error
    for handler in handlers:
        log.addHandler(handler)
    try:
        yield log
    finally:
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()


class _QuietFileHandler(logging.FileHandler):
    """A log file on a full disk must not hide why the job ended."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing: the job's own error tells that the disk is full."""

    def close(self) -> None:
        """Close the file, written or not."""
        with contextlib.suppress(OSError):
            super().close()


class _Collector(logging.Handler):
    def __init__(self, warnings: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._warnings = warnings

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.WARNING:
            self._warnings.append(record.getMessage())


def _fingerprint(path: Path) -> dict[str, Any]:
    stat = path.stat()
    if stat.st_size > _LARGE_FILE_BYTES and path.suffix != ".star":
        return {"bytes": stat.st_size, "modified": datetime.fromtimestamp(stat.st_mtime).isoformat()}
    return {"bytes": stat.st_size, "sha256": sha256(path)}


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
