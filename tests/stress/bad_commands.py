"""Types bad command lines for every job and command, and sees that each gets one sentence and leaves nothing.

    python tests/stress/bad_commands.py                    # 1,000
    python tests/stress/bad_commands.py --count 3000 --seed 2
    python tests/stress/bad_commands.py --list | less      # what would be typed

The command lines come from the declarations of the jobs: every option gets values of the wrong type, out of
range, not finite, far too large, empty files, folders, pipes, devices, files of another kind. A line that is
certainly wrong must end with status 2, one line on stderr that names the option or file and a cure, no
traceback, and nothing that looks finished. Where a value is odd but legal (1e308), whatever happens must at
least be no traceback and no fault of the program, within the time.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from random import Random
from typing import Any, Literal, NamedTuple, get_args, get_origin

from _forks import Forks, Outcome, several
from _project import CASES, EXTRACT, PICKS, POST, REFINE, Case, Report, copy, workbench

MOST_S = 5.0
LONG = "x" * 300

# Words of which a sentence with a cure has one at least.
_CURES = re.compile(
    r"\b(give|take|choose|see|use|must|should|did you mean|check|name|correct|make|run|remove|restore|copy|start|"
    r"leave|extract|gunzip|delete|write|install|less than|greater than|valid|one of|only|needs?|say|lower|larger|at "
    r"most|at least|try|known|reads|even|between|none|has no|Input should be)\b",
    re.IGNORECASE,
)


class Line(NamedTuple):
    """A command line; what its sentence must name (any of these); whether it is certainly wrong."""

    words: tuple[str, ...]
    names: tuple[str, ...]
    wrong: bool = True
    environment: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        before = [f"{name}={value}" for name, value in self.environment]
        return " ".join(
            [*before, "napari-sta", *(ascii(w)[1:-1][:80] if w.strip() else repr(w) for w in self.words)]
        )


# ---- what to type


def _kinds(annotation: Any) -> tuple[Any, ...]:
    """Return the types that an option takes, without None."""
    if get_origin(annotation) is Literal:
        return (Literal,)
    if isinstance(annotation, types.UnionType) or get_origin(annotation) is not None:
        return tuple(kind for one in get_args(annotation) if one is not type(None) for kind in _kinds(one))
    return (annotation,)


_NOT_NUMBERS = (
    "abc",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "1,5",
    "1.2.3",
    "0x10",
    "[1,2]",
    "5 px",
    "½",
    "\x01",
    "1;2",
    "--",
)
_NOT_WHOLE = ("1.5", "1e400", "abc", "nan", "inf", "0x10", "1,0", "9.99", "\x01")
_ODD_NUMBERS = ("1e308", "-1e308", "1e-320", "1e18", "99999999999999999999", "-1", "0", "1_0", "٣", "100000")


def _out_of_bounds(metadata: Sequence[Any]) -> list[str]:
    found = []
    for one in metadata:
        for name, off in (("gt", 0), ("ge", -1), ("lt", 0), ("le", 1)):
            if (bound := getattr(one, name, None)) is not None:
                found += [
                    str(bound + off),
                    str(bound + off * 1000 - (1 if name == "gt" else 0) + (1 if name == "lt" else 0)),
                ]
    return found


def _bad_files(kind: str) -> Iterator[str]:
    """Yield what is no such file."""
    yield from (
        "nowhere/file.star", "missing.mrc", "masks", "pipe", "/dev/null", "/dev/zero", LONG, LONG + ".mrc", "a/" * 200 + "b.star",
        "masks/mask.mrc/inside.star", "empty.star", "empty.mrc", "text.star", "random.mrc", "random.star", "bad\x01name.star",
        "masks.mrc", "gone", "..", "/", "~", "-", "truth/particles.csv",
    )  # fmt: skip
    others = {"optimisation_set": "masks/mtf.star", "particles": "Tomograms/job001/tomograms.star", "star": PICKS,
              "tomograms": PICKS, "trajectories": "masks/mtf.star", "optimiser": PICKS, "mask": "tilt_stacks/TS_01.mrc"}  # fmt: skip
    yield others.get(kind, "Select/job002/particles.star")
    yield "Extract/job003/job.star" if kind in ("map", "mask") else "masks/mask.mrc"


def _lines_of(case: Case) -> Iterator[Line]:
    """Yield bad lines of a job, one option at a time."""
    from napari_sta.jobs._job import all_jobs, extra_of
    from napari_sta.jobs._params import StaInputsJob

    job = all_jobs()[case.job]

    def line(changes: dict[str, str], *names: str, wrong: bool = True) -> Line:
        words = [word for name, value in {**case.values, **changes}.items() for word in (f"--{name}", value)]
        return Line((case.job, *words), names, wrong)

    for name, info in job.model_fields.items():
        kinds, extra, option = _kinds(info.annotation), extra_of(info), f"--{name}"
        if extra["kind"].startswith("file:"):
            # A member given takes the place of the set's, so it is read.
            member = issubclass(job, StaInputsJob) and name in ("in_tomograms", "in_trajectories")
            read = not member or job.needs_tomograms()
            for value in _bad_files(extra["kind"].removeprefix("file:")):
                yield line({name: value}, option, Path(value).name[:40], value[:40], wrong=read)
        elif Literal in kinds or extra["choices"] or bool in kinds:
            for value in ("nonsense", "-7", "1e308", "[]", LONG, "\x01"):
                yield line({name: value}, option)
        elif int in kinds or float in kinds:
            whole = int in kinds and float not in kinds
            for value in _NOT_WHOLE if whole else _NOT_NUMBERS:
                yield line({name: value}, option)
            for value in _out_of_bounds(info.metadata):
                lenient = re.search(r"Negative|negative|0 or less|Empty or", info.description or "")
                yield line({name: value}, option, wrong=not lenient)
            for value in _ODD_NUMBERS:
                yield line({name: value}, option, wrong=False)
        elif name == "symmetry":
            for value in ("C0", "Q7", "C-1", "C1.5", "I9", "C", "7", LONG, "\x01", "c٣"):
                yield line({name: value}, option, "symmetry", value)
            yield line({name: "C99999999999999999999"}, option, wrong=False)
        else:
            for value in ("\x01", LONG, "nonsense"):
                yield line({name: value}, option, value, wrong=False)
        yield Line((*line({}).words, option), (option,))
        yield Line((*line({}).words, f"--{name}x", "1"), (option + "x", option))
        if info.is_required():
            rest = [w for key, value in case.values.items() if key != name for w in (f"--{key}", value)]
            yield Line((case.job, *rest), (option,))


_CONTRADICTIONS: tuple[tuple[str, dict[str, str]], ...] = (
    ("extract", {"box_size_px": "21"}), ("extract", {"crop_size_px": "40"}), ("extract", {"crop_size_px": "7"}),
    ("extract", {"box_size_px": "4000"}), ("extract", {"min_frames": "1000"}), ("reconstruct", {"crop_size_px": "22"}),
    ("reconstruct", {"binning": "40"}), ("refine", {"in_3dref": ""}), ("refine", {"mask_diameter_angst": "100000"}),
    ("refine", {"initial_lowpass_angst": "2"}), ("make_mask", {"shape": "sphere"}), ("make_mask", {"shape": "cylinder"}),
    ("make_mask", {"shape": "shell", "radius_angst": "10", "inner_radius_angst": "20"}), ("make_mask", {"threshold": "1e9"}),
    ("postprocess", {"in_half_map": "truth/truth_map.mrc"}), ("remove_duplicates", {"score_column": "rlnNothing", "rule": "geometric"}),
    ("recenter", {"in_optimisation_set": ""}), ("extract", {"in_optimisation_set": "", "in_parts": "Select/job002/particles.star"}),
    ("process_map", {"rescale_pixel_size_angst": "1e-9"}), ("process_map", {"box_size_px": "15"}),
    ("process_map", {"clamp_low": "1", "clamp_high": "0"}), ("measure_offset", {"axis": "w"}),
)  # fmt: skip


def _other_lines() -> Iterator[Line]:
    """Yield bad lines that are no matter of one option of a job."""
    for case, changes in _CONTRADICTIONS:
        given = {name: value for name, value in {**CASES[case].values, **changes}.items() if value}
        words = (CASES[case].job, *(word for name, value in given.items() for word in (f"--{name}", value)))
        certain = changes != {"rescale_pixel_size_angst": "1e-9"}
        yield Line(words, (*changes, "input", *changes.values()), certain)
    for case in CASES.values():
        words = tuple(case.words()[:-2])
        for threads in ("abc", "-1", "1.5", "100000", "99999999999999999999", "nan", "", "٣", "1_0"):
            yield Line((*words, "--j", threads), ("--j",), threads not in ("", "٣"))
        for device in ("gpu", "cuda:99", "cuda:", "cuda:-1", "cpu:0", "CUDA", "tpu", "\x01"):
            # Without a GPU every cuda is wrong; jobs that only shuffle tables need none.
            yield Line((*words, "--device", device), ("--device",), device not in ("cuda:99",))
        for out in (
            "masks/mask.mrc",
            "/dev/null",
            LONG,
            "masks/mask.mrc/x",
            "bad\x00name"[:3] + LONG,
            EXTRACT,
            "tilt_stacks",
            "pipe",
        ):
            own = out == EXTRACT and case.job == "extract"
            yield Line((*words, "--o", out), ("--o", out[:40]), not own)
        for name, value in (
            ("RANK", "abc"),
            ("RANK", ""),
            ("RANK", "1.5"),
            ("RANK", "-1"),
            ("WORLD_SIZE", "abc"),
        ):
            wrong = name == "RANK" and value in ("abc", "1.5")
            yield Line((*words, "--j", "1"), (name,), wrong, ((name, value),))
        yield Line((*words, "--unknown", "1"), ("--unknown",))
        yield Line((*words, "stray"), ("stray",))
        yield Line((*words, "--o"), ("--o",))
    for path in ("", "nowhere", "pipe", "/dev/null", "/dev/zero", LONG, "a/" * 3000, "text.star", "random.mrc", "truth/particles.csv",
                 "empty.mrc", "masks", "bad\x01name", "masks/mask.mrc/x", "random.star"):  # fmt: skip
        yield Line(
            ("info", path), (path[:40], Path(path).name[:40], "PATH"), path not in ("masks", "random.star")
        )
        yield Line(("resume", path), (path[:40], Path(path).name[:40], "DIR"))
        if not Path(path).name or path in ("nowhere", LONG, "masks/mask.mrc/x"):
            yield Line(("open", path or "nowhere"), (path[:40] or "nowhere",))
    for words, names in (
        (("info",), ("PATH",)), (("info", "a", "b"), ("b",)), (("info", "--what", "masks"), ("--what",)), (("resume",), ("DIR",)),
        (("resume", EXTRACT), (EXTRACT, "finished")), (("resume", EXTRACT, "--o", "x"), ("--o",)), (("resume", PICKS), (PICKS,)),
        (("resume", "broken/job001"), ("job.json",)), (("resume", "broken/job002"), ("job.json",)),
        (("resume", "broken/job003"), ("job.json", "--j", "threads")), (("resume", "broken/job004"), ("job.json",)),
        (("extrcat",), ("extrcat",)), (("nonsense", "--o", "x"), ("nonsense",)), (("--nonsense",), ("--nonsense",)), (("\x01",), ("",)),
        ((LONG,), (LONG[:40],)), (("demo", "--j", "abc"), ("--j",)), (("demo", "--o", "masks", "--headless"), ("masks",)),
        (("demo", "stray"), ("stray",)), (("refine", "--continue_from", f"{REFINE}/run_it001_data.star"), ("run_it001_data",)),
        (("refine", "--continue_from", PICKS), (PICKS, "optimisation_set")), (("make_mask",), ("--in_3dref",)), (("",), ("",)),
        (("postprocess", "--in_half_map", f"{POST}/postprocess.mrc"), ("postprocess.mrc",)),
    ):  # fmt: skip
        yield Line(words, names)


def lines(seed: int, count: int) -> list[Line]:
    """Return so many lines, those of every option first of all mixed by the seed."""
    found = [line for case in CASES.values() if case != CASES["extract_3d"] for line in _lines_of(case)]
    found += _other_lines()
    Random(seed).shuffle(found)
    return found[:count]


def prepare(root: Path) -> None:
    """Put into a project what the lines name."""
    import json

    for name, content in {
        "empty.star": b"", "empty.mrc": b"", "text.star": b"these are words\n", "random.mrc": Random(1).randbytes(5000),
        "random.star": Random(2).randbytes(3000), "bad\x01name.star": b"data_\n", "masks.mrc": b"\x1f\x8b" + bytes(2000),
    }.items():  # fmt: skip
        (root / name).write_bytes(content)
    (root / "gone").symlink_to("nowhere")
    os.mkfifo(root / "pipe")
    whole = json.loads((root / EXTRACT / "job.json").read_text())
    for number, text in enumerate(
        ("{", json.dumps(whole | {"values": 3}), json.dumps(whole | {"threads": "many"}), "[" * 100_000), start=1
    ):  # fmt: skip
        folder = root / f"broken/job{number:03d}"
        folder.mkdir(parents=True)
        (folder / "job.json").write_text(text)


# ---- typing it


def judge(line: Line, outcome: Outcome, made: Sequence[str]) -> list[str]:
    """Say what is wrong with the answer to a line."""
    problems = []
    told = [one for one in outcome.err.strip().splitlines() if not one.startswith("warning: ")]
    if outcome.status is None:
        return [f"took longer than {MOST_S * 4:g} s"]
    if outcome.seconds > MOST_S and line.wrong:
        problems.append(f"took {outcome.seconds:.1f} s")
    if "Traceback" in outcome.err or "fault of the program" in outcome.err or outcome.status < 0:
        problems.append(f"status {outcome.status}, {' … '.join(told[-3:])[-400:]}")
    elif outcome.status != 0 or line.wrong:
        if line.wrong and outcome.status != 2:
            problems.append(f"status {outcome.status}")
        if len(told) != 1 or not told[0].startswith("napari-sta: "):
            problems.append(f"{len(told)} lines on stderr: {told[:2]}")
        elif line.wrong:
            if not any(
                name in told[0] or name.lstrip("-").replace("_", "-") in told[0] for name in line.names
            ):
                problems.append(f"names none of {line.names}: {told[0][:300]}")
            if not _CURES.search(told[0]):
                problems.append(f"says no cure: {told[0][:300]}")
            if len(told[0]) > 1500 + max(map(len, line.words)):
                problems.append(f"says too much: {len(told[0])} characters")
    if line.wrong and made:
        problems.append(f"left {', '.join(made[:3])}")
    return problems


def _made(out: Path, job: str) -> list[str]:
    from napari_sta.jobs._job import all_jobs

    names = [*(all_jobs()[job].outputs if job in all_jobs() else ()), "RELION_JOB_EXIT_SUCCESS"]
    return [name for name in names if (out / name).exists()]


class Typist:
    """Types lines in copies of a project, a few at once."""

    def __init__(self, project: Path, scratch: Path, report: Report, forks: Sequence[Forks]) -> None:
        self.report = report
        self._places: SimpleQueue[tuple[Forks, Path]] = SimpleQueue()
        for number, one in enumerate(forks):
            root = copy(project, scratch / f"typist{number}")
            prepare(root)
            self._places.put((one, root))

    def type(self, line: Line, *, really: bool = False) -> None:
        """Type a line, in a child or as a real process, and judge the answer."""
        forks, root = self._places.get()
        words = list(line.words)
        out = root / "out"
        if words and words[0] in {case.job for case in CASES.values()}:
            words += [
                "--quiet",
                *([] if "--j" in words else ["--j", "1"]),
                *([] if "--o" in words else ["--o", "out"]),
            ]
            if line.words[-1].startswith("--"):  # its value is what is missing
                words = [line.words[0], *words[len(line.words) :], *line.words[1:]]
        before = set(os.listdir(root))
        if really and not any("\0" in word for word in words):
            outcome = _real(words, root, dict(line.environment))
        else:
            outcome = forks.run(words, root, MOST_S * 4, environment=dict(line.environment))
        made = _made(out, line.words[0] if line.words else "")
        for name in set(os.listdir(root)) - before:
            shutil.rmtree(root / name, ignore_errors=True)
        problems = judge(line, outcome, made)
        self.report.check(not problems, f"{line}: {'; '.join(problems)}")
        self._places.put((forks, root))


def _real(words: Sequence[str], root: Path, environment: dict[str, str]) -> Outcome:
    run = subprocess.run(
        [sys.executable, "-m", "napari_sta", *words], cwd=root, env={**os.environ, **environment}, capture_output=True,
        stdin=subprocess.DEVNULL, timeout=120, errors="replace",
    )  # fmt: skip
    return Outcome(run.returncode, run.stdout, run.stderr, 0.0, 0.0)


def run(
    project: Path, scratch: Path, report: Report, typed: Sequence[Line], forks: Sequence[Forks], every: int
) -> None:
    """Type lines, each so-many-th as a real process."""
    typist = Typist(project, scratch, report, forks)
    with ThreadPoolExecutor(len(forks)) as pool:
        for _ in pool.map(
            lambda one: typist.type(one[1], really=one[0] % every == every - 1), enumerate(typed)
        ):
            pass


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="at once")
    parser.add_argument("--list", action="store_true", help="print the lines and type none")
    found = parser.parse_args()
    typed = lines(found.seed, found.count)
    if found.list:
        print("\n".join(map(str, typed)))
        return 0
    report = Report("bad command lines")
    with workbench() as (project, scratch), several(found.jobs) as forks:
        run(project, scratch, report, typed, forks, every=25)
    print(f"{sum(line.wrong for line in typed)} certainly wrong")
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
