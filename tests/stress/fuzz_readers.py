"""Harms every kind of file that is read, and sees that a reader answers with data or with our own sentence.

    python tests/stress/fuzz_readers.py --seed 1 --reads 100000
    python tests/stress/fuzz_readers.py --seed 1 --only 4711       # one read again, with its traceback
    python tests/stress/fuzz_readers.py --replay fuzz-found        # what was kept, on today's code

Anything else counts as a failure: a foreign exception, more than 2 s (of processor time, or blocked for
longer), more than 500 MB, or the death of the process. Each is kept in a folder, with what was read how.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import logging
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import _project
from _mutate import mutate
from _project import AVERAGE, CASES, EXTRACT, PICKS, POST, REFINE

CPU_S, WALL_S, MEMORY_BYTES = 2.0, 10.0, 500 * 2**20
_HOPELESS_S = 20.0
"""What is still reading then does not hear its alarm."""

Reader = Callable[[Path], object]


class Target(NamedTuple):
    """A file of the project, what kind of file it is, and the readers that take it (by name)."""

    file: str
    kind: str
    readers: tuple[str, ...]
    weight: int = 2


# ---- readers: each gets the harmed file; the current folder is the project

READERS: dict[str, Reader] = {}


def _reader(function: Reader) -> Reader:
    READERS[function.__name__.removeprefix("_")] = function
    return function


@_reader
def _describe(path: Path) -> object:
    from napari_sta.io.describe import describe

    return str(describe(path))


@_reader
def _describe_folder(path: Path) -> object:
    return _describe(path.parent)


@_reader
def _describe_project(_: Path) -> object:
    return _describe(Path.cwd())


@_reader
def _layers(path: Path) -> object:
    from napari_sta.layers import get_reader

    reader = get_reader(str(path))
    return reader and reader(str(path))


@_reader
def _layers_of_folder(path: Path) -> object:
    return _layers(path.parent)


@_reader
def _particles(path: Path) -> object:
    from napari_sta.io.relion.particles import read_particles

    return read_particles(path)


@_reader
def _particles_in_tomograms(path: Path) -> object:
    from napari_sta.io.relion.particles import read_particles
    from napari_sta.io.relion.tilt_series import read_tilt_series_set

    return read_particles(path, read_tilt_series_set(_beside(path, "tomograms.star")))


@_reader
def _written_again(path: Path) -> object:
    from napari_sta.io.relion.particles import read_particles, write_particles

    return write_particles("again.star", read_particles(path))


def _beside(path: Path, name: str) -> Path:
    return path.parent / name if (path.parent / name).exists() else Path("Tomograms/job001", name)


@_reader
def _inputs(path: Path) -> object:
    from napari_sta.io.relion.inputs import load_sta_inputs

    return load_sta_inputs(None, str(path), str(_beside(path, "tomograms.star")), None)


@_reader
def _inputs_of_tomograms(path: Path) -> object:
    from napari_sta.io.relion.inputs import load_sta_inputs

    tomograms = path if path.name == "tomograms.star" else _beside(path, "tomograms.star")
    particles = path.parent / "particles.star"
    return load_sta_inputs(
        None, str(particles if particles.exists() else "Select/job002/particles.star"), str(tomograms), None
    )


@_reader
def _inputs_with_motion(path: Path) -> object:
    from napari_sta.io.relion.inputs import load_sta_inputs

    return load_sta_inputs(PICKS, None, None, str(path))


@_reader
def _inputs_of_set(path: Path) -> object:
    from napari_sta.io.relion.inputs import load_sta_inputs

    return load_sta_inputs(str(path), None, None, None)


@_reader
def _tilt_series(path: Path) -> object:
    from napari_sta.io.relion.tilt_series import read_tilt_series_set

    return read_tilt_series_set(path if path.name == "tomograms.star" else _beside(path, "tomograms.star"))


@_reader
def _trajectories(path: Path) -> object:
    from napari_sta.io.relion.trajectories import read_trajectories

    return read_trajectories(path)


@_reader
def _optimisation_set(path: Path) -> object:
    from napari_sta.io.relion.optimisation_set import read_optimisation_set

    return read_optimisation_set(path)


@_reader
def _job_star(path: Path) -> object:
    from napari_sta.io.project.job_star import read_job_star
    from napari_sta.jobs._job_star import job_from_star

    return job_from_star(read_job_star(path))


@_reader
def _pipeline(_: Path) -> object:
    from napari_sta.io.project.project import Project

    project = Project(Path.cwd())
    return project.jobs(), project.nodes(), project.next_job, project.downstream(EXTRACT)


@_reader
def _pipeline_grows(_: Path) -> object:
    from napari_sta.io.project.project import Project
    from napari_sta.io.project.tables import PipelineNode

    project = Project(Path.cwd())
    name = project.add_job("External", "relion.external", [PipelineNode(PICKS, "TomoOptimisationSet.star")])
    return project.finish_job(name, "Succeeded", [PipelineNode("x.star", "ProcessData.star")])


@_reader
def _record(path: Path) -> object:
    from napari_sta.io.project.status import was_killed
    from napari_sta.jobs._records import job_from_record, read_record
    from napari_sta.jobs._run import resume

    was_killed(path.parent)
    job_from_record(read_record(path.parent), path.parent)
    return resume(path.parent)


@_reader
def _postprocess(path: Path) -> object:
    from napari_sta.io.postprocess import read_postprocess_star

    return read_postprocess_star(path)


@_reader
def _mtf(path: Path) -> object:
    from napari_sta.io.postprocess import read_mtf

    return read_mtf(path)


@_reader
def _refinement_file(path: Path) -> object:
    from napari_sta.io.refinement.model import read_model
    from napari_sta.io.refinement.optimiser import read_optimiser
    from napari_sta.io.refinement.sampling import read_sampling

    readers = {"model": read_model, "optimiser": read_optimiser, "sampling": read_sampling}
    return readers[path.stem.rsplit("_", 1)[-1]](path)


@_reader
def _history(path: Path) -> object:
    from napari_sta.io.refinement.history import read_history
    from napari_sta.widgets.refine_history import read_refinement

    read_history(path.parent)
    return read_refinement(path.parent)


@_reader
def _continued(path: Path) -> object:
    return _started("refine", continue_from=str(path.parent / "run_it001_optimiser.star"))


@_reader
def _continued_from_relion(path: Path) -> object:
    """Go on from RELION's files: without our record and checkpoint."""
    hidden = [path.parent / "job.json", path.parent / "run_it001_checkpoint.npz"]
    for one in hidden:
        one.rename(f"{one}.hidden")
    try:
        return _continued(path)
    finally:
        for one in hidden:
            Path(f"{one}.hidden").rename(one)


@_reader
def _checkpoint(path: Path) -> object:
    from napari_sta.jobs._refine_folder import read_checkpoint_of

    return read_checkpoint_of(path)


@_reader
def _volume(path: Path) -> object:
    from napari_sta.io.mrc import read_volume

    return read_volume(path)


@_reader
def _header(path: Path) -> object:
    from napari_sta.io.mrc import image_size_yx_px, is_complete, read_header

    return read_header(path), image_size_yx_px(path), is_complete(path, (16, 16, 16))


@_reader
def _images(path: Path) -> object:
    from napari_sta.io.mrc import check_images, read_images

    files = [(path, 0), (path, 1)]
    check_images(files)
    return read_images(files)


def _started(name: str, **values: str) -> object:
    """Check a job and take its first steps, without its runner: whatever happens is the reader's."""
    from napari_sta.jobs._job import Context, job_named

    case = CASES[name]
    job = job_named(case.job).from_text(values or dict(case.values))
    job.check()
    job.warnings()
    out = Path("out")
    out.mkdir()
    steps = job.run(
        Context(out.absolute(), threads=1, device="cpu", log=logging.getLogger("napari_sta.unheard"))
    )
    try:
        for _, _step in zip(range(2 if job.uses_torch else 1000), steps, strict=False):
            pass
    finally:
        steps.close()
        shutil.rmtree(out, ignore_errors=True)
    return None


def _checked(name: str) -> Reader:
    def check(_: Path) -> object:
        from napari_sta.jobs._job import job_named

        job = job_named(CASES[name].job).from_text(dict(CASES[name].values))
        job.check()
        return job.warnings()

    return check


READERS |= {f"check {name}": _checked(name) for name in CASES}
READERS |= {
    f"start {name}": lambda _, name=name: _started(name)
    for name in (
        "recenter",
        "remove_duplicates",
        "refine",
        "measure_offset",
        "process_map",
        "postprocess",
        "make_mask",
    )
}

_PARTICLES = ("particles", "inputs", "describe", "layers", "written_again")
_MAP = ("volume", "header", "images", "describe", "layers")
_PICKING = ("check extract", "check reconstruct", "start recenter", "start remove_duplicates")
TARGETS = (
    Target("Select/job002/particles.star", "star", (*_PARTICLES, *_PICKING), 5),
    Target(f"{EXTRACT}/particles.star", "star", (*_PARTICLES, "check refine", "start refine"), 5),
    Target("relion4/particles.star", "star", (*_PARTICLES, "particles_in_tomograms")),
    Target("warp/particles.star", "star", (*_PARTICLES, "particles_in_tomograms")),
    Target("pytom/particles.star", "star", _PARTICLES),
    Target("Tomograms/job001/tomograms.star", "star", ("tilt_series", "inputs_of_tomograms", "describe", "layers", "check extract"), 3),
    Target("relion4/tomograms.star", "star", ("tilt_series", "inputs_of_tomograms", "describe", "layers")),
    Target("Tomograms/job001/tilt_series/TS_01.star", "star", ("tilt_series", "inputs_of_tomograms", "describe", "layers"), 3),
    Target("motion.star", "star", ("trajectories", "inputs_with_motion", "describe", "layers")),
    Target(PICKS, "star", ("optimisation_set", "inputs_of_set", "describe", "layers", "check reconstruct", "start recenter"), 3),
    Target(f"{EXTRACT}/job.star", "star", ("job_star", "describe", "describe_folder", "layers_of_folder")),
    Target(f"{REFINE}/job.star", "star", ("job_star", "describe")),
    Target("External/job007/job.star", "star", ("job_star", "describe")),
    Target("default_pipeline.star", "star", ("pipeline", "pipeline_grows", "describe", "describe_project"), 3),
    Target(f"{EXTRACT}/job_pipeline.star", "star", ("describe", "describe_folder", "layers")),
    Target(f"{EXTRACT}/RELION_OUTPUT_NODES.star", "star", ("describe", "layers")),
    Target(f"{AVERAGE}/job.json", "json", ("record", "pipeline", "describe_folder")),
    Target(f"{REFINE}/job.json", "json", ("record", "continued")),
    Target(f"{POST}/postprocess.star", "star", ("postprocess", "describe", "layers")),
    Target("masks/mtf.star", "star", ("mtf", "describe", "check postprocess")),
    *(
        Target(f"{REFINE}/run_it001_{what}.star", "star", ("refinement_file", "describe", "continued_from_relion", "history"))
        for what in ("half1_model", "optimiser", "sampling")
    ),
    Target(f"{REFINE}/run_it001_data.star", "star", ("particles", "describe", "continued_from_relion", "layers")),
    Target(f"{REFINE}/run_history.json", "json", ("history",)),
    Target(f"{REFINE}/run_it001_checkpoint.npz", "zip", ("checkpoint", "checkpoint", "checkpoint", "continued"), 4),
    Target("masks/mask.mrc", "mrc", (*_MAP, "start postprocess", "start measure_offset"), 3),
    Target("truth/truth_map.mrc", "mrc", (*_MAP, "start make_mask", "start process_map"), 3),
    Target(f"{AVERAGE}/half1.mrc", "mrc", ("volume", "describe", "check refine", "check postprocess")),
    Target("tilt_stacks/TS_01.mrc", "mrc", ("images", "header", "describe", "layers", "inputs_of_set", "check extract"), 3),
    Target(f"{EXTRACT}/Subtomograms/TS_01/1_stack2d.mrcs", "mrc", ("images", "describe", "layers", "check refine")),
    *(Target(f"modes/mode{mode}.mrc", "mrc", _MAP, 1) for mode in (0, 1, 3, 4, 6, 12, 101)),
    Target("modes/extended.mrc", "mrc", _MAP, 1),
    Target("modes/big_endian.mrc", "mrc", _MAP, 1),
)  # fmt: skip


# ---- the files to harm


def make_seeds(root: str) -> None:
    """Make the project, and files of other programs' dialects beside it."""
    from napari_sta.io.star import table, write_star

    project = _project.make(Path(root))
    with contextlib.chdir(project):
        from napari_sta.cli import main

        if main([*CASES["process_map"].words(), "--quiet"]) != 0:
            raise SystemExit("process_map failed")
    shutil.copytree(Path(__file__).parents[1] / "data/relion4", project / "relion4")
    names = [f"TS_0{t}/{i}" for t in (1, 2) for i in (1, 2, 3, 4)]
    blocks = []
    for name in names:
        rows = "\n".join(f"{0.5 * i:.3f} {-0.25 * i:.3f} {0.125 * i:.3f}" for i in range(5))
        labels = "_rlnOriginXAngst #1\n_rlnOriginYAngst #2\n_rlnOriginZAngst #3"
        blocks.append(f"data_{name}\n\nloop_\n{labels}\n{rows}\n")
    general = f"data_general\n\n_rlnParticleNumber {len(names)}\n"
    (project / "motion.star").write_text("\n\n".join([general, *blocks]) + "\n")
    rows = {
        "rlnTomoName": ["TS_01", "TS_02"], "rlnCoordinateX": [20.5, 30.0], "rlnCoordinateY": [28.0, 21.5],
        "rlnCoordinateZ": [30.0, 25.0], "rlnAngleRot": [10.0, 20.0], "rlnAngleTilt": [30.0, 40.0],
        "rlnAnglePsi": [50.0, 60.0],
    }  # fmt: skip
    for folder, name in (("pytom", ""), ("warp", "particles")):
        (project / folder).mkdir()
        more = {"rlnTomoParticleName": ["TS_01/1", "TS_02/1"], "rlnOpticsGroup": [1, 1], "rlnImageName": ["a.mrcs", "b.mrcs"],
                "rlnTomoVisibleFrames": ["[1,1,1,1,1]", "[1,0,1,1,1]"]} if name else {}  # fmt: skip
        tables = [table(name, rows | more)]
        if name:
            optics = {"rlnOpticsGroup": [1], "rlnOpticsGroupName": ["og1"], "rlnTomoTiltSeriesPixelSize": [4.0],
                      "rlnVoltage": [300.0], "rlnSphericalAberration": [2.7], "rlnAmplitudeContrast": [0.1],
                      "rlnImagePixelSize": [4.0], "rlnImageSize": [16], "rlnImageDimensionality": [2],
                      "rlnTomoSubtomogramsAre2DStacks": [1]}  # fmt: skip
            tables.insert(0, table("optics", optics))
        write_star(project / folder / "particles.star", tables)
    for record in (*project.rglob("job.json"), *project.rglob("run_history.json")):
        # The same bytes each time, so that the same seed harms the same things.
        record.write_text(re.sub(r'"(seconds|process)": [0-9.]+', r'"\1": 12', record.read_text()))
    _write_modes(project / "modes")
    os.mkfifo(project / "pipe")


def _write_modes(folder: Path) -> None:
    """Write a small map in every mode of the format, one with an extended header, one of the other byte order."""
    import numpy as np

    folder.mkdir()
    data = np.arange(6 * 8 * 10, dtype=np.float32).reshape(6, 8, 10)
    kinds = {0: "i1", 1: "<i2", 2: "<f4", 3: "<i2", 4: "<c8", 6: "<u2", 12: "<f2", 101: "u1"}

    def write(name: str, mode: int, values: Any, extended: bytes = b"", order: str = "<") -> None:
        header = bytearray(1024)
        struct.pack_into(f"{order}10i", header, 0, 10, 8, 6, mode, 0, 0, 0, 10, 8, 6)
        struct.pack_into(f"{order}6f", header, 40, 40.0, 32.0, 24.0, 90.0, 90.0, 90.0)
        struct.pack_into(f"{order}3i3f2i", header, 64, 1, 2, 3, 0.0, 479.0, 239.5, 1, len(extended))
        header[104:108], header[208:212] = b"SERI", b"MAP "
        header[212:216] = b"\x44\x44\0\0" if order == "<" else b"\x11\x11\0\0"
        (folder / name).write_bytes(bytes(header) + extended + values.tobytes())

    for mode, kind in kinds.items():
        values = np.repeat(data, 2) if mode == 3 else data[:, :, :5] if mode == 101 else data
        write(f"mode{mode}.mrc", mode, values.astype(kind))
    write("extended.mrc", 2, data, extended=bytes(range(256)) * 4)
    write("big_endian.mrc", 2, data.astype(">f4"), order=">")


# ---- one read


class _TooLong(BaseException):
    """The read took longer than it may."""


class Read(NamedTuple):
    """What is read how."""

    target: Target
    reader: str
    data: bytes


class Harmer:
    """A scratch copy of the seeds, in which one file at a time is harmed and read."""

    def __init__(self, seeds: Path, scratch: Path) -> None:
        self.root = _project.copy_with_pipes(seeds, scratch)
        os.chdir(self.root)
        self.whole = {target.file: (self.root / target.file).read_bytes() for target in TARGETS}
        self._names = {str(one) for one in self.root.rglob("*")}
        self._weights = [target.weight for target in TARGETS]
        for number, problem in ((signal.SIGPROF, "of processor time"), (signal.SIGALRM, "blocked")):
            signal.signal(number, lambda *_, problem=problem: self._stop(problem))

    def _stop(self, problem: str) -> None:
        raise _TooLong(problem)

    def choose(self, seed: int, index: int) -> Read:
        """Return what the read of this number is; the same on every call."""
        rng = Random(f"{seed}/{index}")
        target = rng.choices(TARGETS, self._weights)[0]
        reader = rng.choice(target.readers)
        return Read(target, reader, mutate(rng, target.kind, self.whole[target.file]))

    def read(self, one: Read, *, limited: bool = True) -> str:
        """Read; return "" if that went as it should, else the fault with the place where it came up."""
        path = self.root / one.target.file
        path.write_bytes(one.data)
        from napari_sta.data.errors import StaError

        try:
            with _limits() if limited else contextlib.nullcontext():
                READERS[one.reader](Path(one.target.file))
        except StaError as error:
            return "" if str(error).strip() else "an error without a sentence"
        except _TooLong as error:
            return f"longer than {CPU_S:g} s ({error})  at {_place(error)}"
        except BaseException as error:
            return f"{type(error).__name__}  at {_place(error)}  {str(error)[:150]!r}"
        finally:
            path.write_bytes(self.whole[one.target.file])
            if one.reader in ("pipeline_grows", "written_again") or one.reader.startswith(
                ("start", "continued")
            ):
                self._tidy()
        return ""

    def _tidy(self) -> None:
        for entry in sorted(self.root.rglob("*"), reverse=True):
            if str(entry) not in self._names:
                entry.rmdir() if entry.is_dir() and not entry.is_symlink() else entry.unlink()


@contextlib.contextmanager
def _limits() -> Iterator[None]:
    """Let the block have so much time and memory, counted from here."""
    old = resource.getrlimit(resource.RLIMIT_AS)
    with contextlib.suppress(OSError, IndexError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY_BYTES, old[1]))
    signal.setitimer(signal.ITIMER_PROF, CPU_S)
    signal.setitimer(signal.ITIMER_REAL, WALL_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, old)


def _place(error: BaseException) -> str:
    """Name the last line of ours, and the line that raised."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "napari_sta" in frame.filename]
    places = [f"{'/'.join(Path(one.filename).parts[-2:])}:{one.lineno}" for one in [*ours[-1:], *frames[-1:]]]
    return " > ".join(dict.fromkeys(places))


# ---- many reads


def _work(seeds: Path, seed: int, first: int, step: int, last: int) -> None:
    """Read in this process; a line on stdout for each fault, the number of the read in hand in a file."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    told = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(0, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable()
    with tempfile.TemporaryDirectory(prefix="sta-fuzz-", dir=_fast_folder()) as scratch:
        harmer = Harmer(seeds, Path(scratch) / "project")
        for target in TARGETS:
            for reader in target.readers:
                if fault := harmer.read(
                    Read(target, reader, harmer.whole[target.file]), limited=False
                ):  # with its imports
                    raise SystemExit(f"{reader} cannot read {target.file} as it is: {fault}")
        for index in range(first, last, step):
            print(index, file=told, flush=True)
            faulthandler.dump_traceback_later(_HOPELESS_S, exit=True)
            if fault := harmer.read(harmer.choose(seed, index)):
                print(index, fault, file=told, flush=True)
        faulthandler.cancel_dump_traceback_later()
        print("done", file=told, flush=True)


def _fast_folder() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class Fuzz:
    """Shares reads among processes, and starts a new one where one dies."""

    def __init__(self, seeds: Path, seed: int, reads: int, jobs: int, seconds: float = 1e9) -> None:
        self.faults: dict[int, str] = {}
        self.reads = 0
        self._broken = ""
        self._end = time.monotonic() + seconds
        threads = [
            threading.Thread(target=self._watch, args=(seeds, seed, first, jobs, reads))
            for first in range(jobs)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._broken:
            raise SystemExit(f"a worker did not start: {self._broken}")

    def _watch(self, seeds: Path, seed: int, first: int, step: int, last: int) -> None:
        while first < last:
            words = [sys.executable, __file__, "--worker", str(seeds), *map(str, (seed, first, step, last))]
            with (
                tempfile.TemporaryFile("w+") as said,
                subprocess.Popen(words, stdout=subprocess.PIPE, stderr=said, text=True) as worker,
            ):
                assert worker.stdout is not None
                index = -1
                for line in worker.stdout:
                    number, _, fault = line.strip().partition(" ")
                    if number == "done" or time.monotonic() > self._end:
                        worker.kill()
                        return
                    index = int(number)
                    if fault:
                        self._tell(index, fault)
                    else:
                        self.reads += 1
                code = worker.wait()
                said.seek(0)
                lines = said.read().strip().splitlines()
            if index < 0:
                self._broken = "\n".join(lines[-20:])
                return
            what = signal.Signals(-code).name if code < 0 else f"exit {code}"
            ours = [line.strip() for line in lines if "/napari_sta/" in line]
            self._tell(index, f"the process died ({what})  at {[*ours, *lines[-1:], '?'][0]}")
            first = index + step

    def _tell(self, index: int, fault: str) -> None:
        self.faults[index] = fault
        print(f"{index}: {fault}", flush=True)


def _seeds(folder: Path) -> Path:
    from _forks import MAKING_S, Forks

    with Forks() as forks:
        made = forks.call("fuzz_readers:make_seeds", MAKING_S, root=str(folder))
    if made.status != 0:
        raise SystemExit(f"the files to harm could not be made: {made.err}")
    return folder


def _keep(seeds: Path, seed: int, faults: dict[int, str], folder: Path, scratch: Path) -> None:
    here = Path.cwd()
    harmer = Harmer(seeds, scratch)
    os.chdir(here)
    for index, fault in faults.items():
        one = harmer.choose(seed, index)
        kept = folder / f"{seed}-{index}"
        kept.mkdir(parents=True, exist_ok=True)
        (kept / "data").write_bytes(one.data)
        recipe = {"file": one.target.file, "kind": one.target.kind, "reader": one.reader, "fault": fault}
        (kept / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n")


def _replay(folder: Path, seeds: Path, scratch: Path) -> int:
    folder = folder.absolute()
    harmer = Harmer(seeds, scratch)
    failed = 0
    for recipe in sorted(folder.glob("*/recipe.json")):
        told = json.loads(recipe.read_text())
        target = Target(told["file"], told["kind"], (told["reader"],))
        fault = harmer.read(Read(target, told["reader"], (recipe.parent / "data").read_bytes()))
        failed += bool(fault)
        if fault:
            print(f"{recipe.parent.name}: {told['reader']} of {told['file']}: {fault}")
    print(f"{failed} of {len(list(folder.glob('*/recipe.json')))} fail")
    return 1 if failed else 0


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--reads", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after this time")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-found"), help="folder for what failed")
    parser.add_argument("--only", type=int, help="one read again, with its traceback")
    parser.add_argument("--replay", type=Path, help="read what was kept in a folder")
    found = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sta-fuzz-") as scratch:
        seeds = _seeds(Path(scratch) / "seeds")
        if found.replay is not None:
            return _replay(found.replay, seeds, Path(scratch) / "project")
        if found.only is not None:
            harmer = Harmer(seeds, Path(scratch) / "project")
            one = harmer.choose(found.seed, found.only)
            print(f"{one.reader} of {one.target.file}, {len(one.data)} bytes")
            (harmer.root / one.target.file).write_bytes(one.data)
            with _limits():
                print(READERS[one.reader](Path(one.target.file)))
            return 0
        began = time.monotonic()
        fuzz = Fuzz(seeds, found.seed, found.reads, found.jobs, found.seconds)
        _keep(seeds, found.seed, fuzz.faults, found.keep.absolute(), Path(scratch) / "project")
        seconds = time.monotonic() - began
    sorts = Counter(fault.split("  ")[0] + "  " + fault.split("  ")[1] for fault in fuzz.faults.values())
    for sort, count in sorts.most_common():
        first = next(i for i, fault in fuzz.faults.items() if fault.startswith(sort))
        print(f"{count:6}  {sort}  (first: --seed {found.seed} --only {first})")
    print(
        f"seed {found.seed}: {fuzz.reads} reads in {seconds:.0f} s, {len(fuzz.faults)} faults of {len(sorts)} sorts"
    )
    return 1 if fuzz.faults else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        _work(Path(sys.argv[2]), *map(int, sys.argv[3:]))
    else:
        sys.exit(main())
