"""Kills every job at many moments, and sees that it can be continued or started again with the same result.

    python tests/stress/kills.py                      # 50 moments a job
    python tests/stress/kills.py --case refine --moments 200

A moment is a step of the job in the file system (opening a file to write, making a folder, renaming,
removing; the lock of the project and the windows before ``job.json`` among them), or a point of time. Half
the moments get SIGKILL, half SIGTERM; half the runs take the next job number of the project, half write to
a folder of their own. Afterwards, each time: no half-written file has a final name, the project lists no
running job, its lock can be taken, ``resume`` or the same command ends with the result of a run that nobody
disturbed, and no temporary file is left.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from _forks import Forks, Outcome, several
from _project import CASES, Report, copy, differences, leftovers, results, unreadable, workbench

PATIENCE_S = 5.0
_EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Moment(NamedTuple):
    """When a run gets which signal: before its step ``at`` (from 1), or ``at`` seconds after its start."""

    case: str
    numbered: bool
    signal: str
    at: float
    timed: bool = False

    def __str__(self) -> str:
        where = "next job number" if self.numbered else "--o"
        when = f"{self.at:.3f} s" if self.timed else f"step {self.at:.0f}"
        return f"{self.case} ({where}), {self.signal} at {when}"


# ---- in the child


def watch(root: str, signal_name: str = "", at: float = 0, told: str = "", timed: bool = False) -> None:
    """Let this process get a signal before a step in the file system or after a time; or write down its steps."""
    number = getattr(signal, signal_name) if signal_name else 0
    if timed:
        timer = threading.Timer(at, os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()
        return
    diary = os.open(told, os.O_WRONLY | os.O_CREAT) if told else -1
    count = 0

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in _EVENTS or not isinstance(args[0], str | os.PathLike):
            return
        if event == "open" and not (args[2] or 0) & _WRITING:
            return
        path = os.path.join(os.getcwd(), os.fspath(args[0]))
        if not path.startswith(root) or (os.path.lexists(path) != (event != "os.mkdir") and event != "open"):
            return  # elsewhere, or a step that comes to nothing
        count += 1
        if diary >= 0:
            os.write(diary, f"{event} {path[len(root) :]}\n".encode())
        elif count == at:
            os.kill(os.getpid(), number)

    sys.addaudithook(hook)


# ---- in the parent


class Undisturbed(NamedTuple):
    """A run that nobody disturbed."""

    steps: list[str]
    seconds: float
    results: dict[str, str]


class Killer:
    """Runs jobs on copies of a project, and looks at what is left of them."""

    def __init__(self, project: Path, scratch: Path, report: Report, forks: Sequence[Forks]) -> None:
        self.project, self.scratch, self.report = project, scratch, report
        self._free = list(forks)

    @contextlib.contextmanager
    def _forks(self) -> Iterator[Forks]:
        forks = self._free.pop()
        try:
            yield forks
        finally:
            self._free.append(forks)

    def undisturbed(self, case: str, numbered: bool) -> Undisturbed:
        """Run a case to its end and write down its steps."""
        with self._forks() as forks, tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            root = copy(self.project, Path(folder) / "p")
            told = Path(folder) / "steps"
            outcome = forks.run(
                _words(case, numbered), root, before="kills:watch", root=str(root), told=str(told)
            )
            if outcome.status != 0:
                raise SystemExit(f"{case} does not run: {outcome.last_line}")
            return Undisturbed(
                told.read_text().splitlines(),
                outcome.seconds,
                results(_out(root, case, numbered, self.project), root),
            )

    def kill(self, moment: Moment, truth: Undisturbed) -> None:
        """Run to a moment; look at what is left; go on."""
        with self._forks() as forks, tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            root = copy(self.project, Path(folder) / "p")
            words = _words(moment.case, moment.numbered)
            killed = forks.run(
                words, root, before="kills:watch", root=str(root), signal_name=moment.signal, at=moment.at,
                timed=moment.timed,
            )  # fmt: skip
            step = "" if moment.timed else f" ({truth.steps[int(moment.at) - 1]})"
            problems = self._look(killed, moment, root) + self._go_on(forks, moment, root, truth)
            self.report.check(not problems, f"{moment}{step}: {'; '.join(problems)}")

    def _look(self, killed: Outcome, moment: Moment, root: Path) -> list[str]:
        problems = []
        if moment.signal == "SIGTERM":
            if killed.status not in (0, 130) or "Traceback" in killed.err:
                problems.append(f"ended with {killed.status}: {killed.err[-600:]}")
            problems += [f"left {name}" for name in leftovers(root)]
        elif killed.status not in (0, -signal.SIGKILL):
            problems.append(f"ended with {killed.status}: {killed.err[-600:]}")
        problems += [f"half-written {one}" for one in unreadable(root)]
        return problems + state(root)

    def _go_on(self, forks: Forks, moment: Moment, root: Path, truth: Undisturbed) -> list[str]:
        out = _out(root, moment.case, moment.numbered, self.project)
        again = _words(moment.case, moment.numbered)
        # A folder of one's own is given again as often as it is resumed.
        resumes = out.is_dir() and (moment.numbered or int(moment.at * 1000) % 2 == 0)
        outcome = forks.run(["resume", str(out), "--quiet", "--j", "1"] if resumes else again, root)
        if resumes and outcome.status == 2 and "already finished" in outcome.err:
            pass
        elif resumes and outcome.status == 2:
            refusal = outcome.last_line
            if moment.numbered and (problem := _discard(root, out)):
                return [f"cannot be resumed ({refusal}) nor discarded ({problem})"]
            outcome = forks.run(again, root)
            if not out.is_dir():
                out = out.with_name(f"job{int(out.name[3:]) + 1:03d}")
        if outcome.status not in (0, 2):
            return [f"going on ended with {outcome.status}: {outcome.last_line}"]
        problems = (
            [f"result {one}" for one in differences(truth.results, results(out, root))[:5]]
            if out.is_dir()
            else ["no folder"]
        )
        problems += [f"after it {one}" for one in (*leftovers(root), *state(root))]
        if not (out / "RELION_JOB_EXIT_SUCCESS").exists():
            problems.append(f"no marker of success after going on ({outcome.last_line})")
        return problems


def state(root: Path) -> list[str]:
    """Say what is wrong with a project in which nothing runs."""
    from napari_sta.data.errors import StaError
    from napari_sta.io.project.project import Project

    problems = []
    project = Project(root)
    try:
        problems += [f"{job.name} is listed as running" for job in project.jobs() if job.status == "Running"]
        began = time.monotonic()
        with project.lock(patience_s=PATIENCE_S):
            pass
        if time.monotonic() - began > PATIENCE_S:
            problems.append("the lock took long")
    except StaError as error:
        problems.append(str(error))
    return problems


def _discard(root: Path, out: Path) -> str:
    from napari_sta.data.errors import StaError
    from napari_sta.io.project.project import Project

    try:
        Project(root).trash_job(str(out.relative_to(root)))
    except StaError as error:
        return str(error)
    return ""


def _words(case: str, numbered: bool) -> list[str]:
    return [*CASES[case].words(), "--quiet", *([] if numbered else ["--o", "Own/result"])]


def _out(root: Path, case: str, numbered: bool, project: Path) -> Path:
    """Name the folder that a case writes to: in a copy of the project, the next number is always the same."""
    from napari_sta.io.project.project import Project
    from napari_sta.jobs._job import all_jobs

    if not numbered:
        return root / "Own/result"
    return root / f"{all_jobs()[CASES[case].job].folder}/job{Project(project).next_job:03d}"


def moments(case: str, truths: dict[bool, Undisturbed], count: int) -> list[Moment]:
    """Spread so many moments over the steps of a run, and a fifth of them over its time."""
    found = []
    timed = count // 5
    for numbered, truth in truths.items():
        steps = len(truth.steps)
        here = (count - timed + numbered) // 2
        for i in range(here):
            at = 1 + round(i * (steps - 1) / max(1, here - 1))
            found.append(Moment(case, numbered, ("SIGKILL", "SIGTERM")[i % 2], at))
    for i in range(timed):
        at = truths[True].seconds * (i + 0.5) / timed
        found.append(Moment(case, i % 4 < 2, ("SIGKILL", "SIGTERM")[i % 2], at, timed=True))
    return found


def run(
    project: Path, scratch: Path, report: Report, cases: Sequence[str], count: int, forks: Sequence[Forks]
) -> None:
    """Kill each case at so many moments."""
    killer = Killer(project, scratch, report, forks)
    with ThreadPoolExecutor(len(forks)) as pool:
        for case in cases:
            truths = {numbered: killer.undisturbed(case, numbered) for numbered in (True, False)}
            chosen = moments(case, truths, count)
            before = len(report.failures)
            for _ in pool.map(lambda one, truths=truths: killer.kill(one, truths[one.numbered]), chosen):
                pass
            steps = [len(truth.steps) for truth in truths.values()]
            print(
                f"{case}: {len(chosen)} moments of {steps} steps, {len(report.failures) - before} failed",
                flush=True,
            )


def signals_at_start(project: Path, scratch: Path, report: Report, delays_s: Sequence[float]) -> None:
    """Send Ctrl-C and SIGTERM to real processes that have hardly begun."""
    # A shell that runs us in the background lets our children ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    spans = []
    for _ in range(5):
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        spans.append(time.monotonic() - began)
    bare = 2 * max(spans)  # while Python itself starts, nobody can hear; busy machines take their time
    for number in (signal.SIGINT, signal.SIGTERM):
        for delay in (max(bare, one) for one in delays_s):
            root = copy(project, scratch / "start")
            words = [sys.executable, "-m", "napari_sta", *_words("recenter", True)]
            process = subprocess.Popen(
                words, cwd=root, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            time.sleep(delay)
            process.send_signal(number)
            _, err = process.communicate(timeout=60)
            what = f"{number.name} {delay:.2f} s after the start"
            report.check(
                process.returncode in (0, 130)
                and "Traceback" not in err
                and len(err.strip().splitlines()) <= 1,
                f"{what}: ended with {process.returncode}: {err.strip()[-300:]}",
            )
            problems = state(root) + [f"left {name}" for name in leftovers(root)]
            report.check(not problems, f"{what}: {'; '.join(problems)}")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--case", action="append", choices=list(CASES), help="one case only; may be repeated")
    parser.add_argument("--moments", type=int, default=50, help="of each case")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="at once")
    found = parser.parse_args()
    report = Report("kills")
    with workbench() as (project, scratch), several(found.jobs) as forks:
        signals_at_start(project, scratch, report, (0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.2))
        run(project, scratch, report, found.case or list(CASES), found.moments, forks)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
