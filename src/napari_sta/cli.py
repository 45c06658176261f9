"""The command line: ``napari-sta JOB --field value … --o DIR``.

Every job's options come from its declaration. Imports stay light, so that ``--help`` answers at once.
"""

from __future__ import annotations

import os

# Before anything can import torch: a spinning barrier beside another busy process makes it 45 times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# numpy and scipy multiply small matrices only, often in threads of ours; idle threads of their BLAS spin.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# numba takes settings from a file in the current folder; its compiled code must not come from there.
os.environ.setdefault("NUMBA_CACHE_DIR", "")

import argparse
import contextlib
import difflib
import gc
import json
import logging
import re
import sys
import textwrap
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import napari_sta
from napari_sta import _interrupt
from napari_sta.data.errors import InputError, StaError, Stopped

if TYPE_CHECKING:
    from napari_sta.jobs._job import Job
    from napari_sta.jobs._run import JobRun
    from napari_sta.jobs._run_options import RunOptions

EXIT_FAILED, EXIT_INPUT, EXIT_STOPPED = 1, 2, _interrupt.STOPPED

_COMMANDS = {
    "open": "open a project, job folder, STAR or MRC file in napari",
    "demo": "simulate a small project with a hidden offset and run the workflow on it",
    "info": "say in words what a STAR or MRC file, job folder or project holds",
    "resume": "continue an interrupted job in its folder",
}

_NUMBER = re.compile(r"-(\d|\.\d)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    0 success, 1 the job failed, 2 the input is wrong, 130 interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    # Importing makes many objects that all stay; looking for garbage among them costs a quarter of a second.
    gc.set_threshold(50_000)
    try:
        with _interrupt.handled():
            try:
                return _main(words)
            except Exception:
                # What was just being imported or compiled may have made an error of its own of it.
                if _interrupt.asked():
                    raise KeyboardInterrupt from None
                raise
    except Stopped as error:
        _tell_relion(words, "Aborted")
        print(f"napari-sta: {error or 'stopped'}", file=sys.stderr)
        return EXIT_STOPPED
    except KeyboardInterrupt:
        _tell_relion(words, "Aborted")
        print("napari-sta: stopped", file=sys.stderr)
        return EXIT_STOPPED
    except BrokenPipeError:
        # The reader of our output (head, less) has left; say no more, also not at exit.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except InputError as error:
        _tell_relion(words, "Failed")
        print(f"napari-sta: {error}", file=sys.stderr)
        return EXIT_INPUT
    except StaError as error:
        _tell_relion(words, "Failed")
        print(f"napari-sta: {error}", file=sys.stderr)
        return EXIT_FAILED


def _tell_relion(words: Sequence[str], status: str) -> None:
    """RELION's GUI waits for ever for a job that leaves no marker, such as one whose input is wrong."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, _, value = word.replace("-", "_").partition("=")
        if name == "__pipeline_control":
            from napari_sta.jobs._ownership import tell_relion

            tell_relion(word.partition("=")[2] if value else following, status)


def _main(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if words[0] == "--version":
        print(f"napari-sta {napari_sta.__version__}")
        return 0
    first, rest = words[0], words[1:]
    commands: dict[str, Callable[[list[str]], int]] = {
        "open": _open,
        "demo": _demo,
        "info": _info,
        "resume": _resume,
    }
    if first in commands:
        return commands[first](rest)
    from napari_sta.jobs._job import all_jobs

    jobs = all_jobs()
    name = first.replace("-", "_")
    if name not in jobs:
        near = difflib.get_close_matches(name, [*jobs, *commands], n=1)
        hint = f"did you mean {near[0]}?" if near else "see napari-sta --help"
        raise InputError(f"{first} is no job or command; {hint}")
    return _job(jobs[name], rest)


def _overview() -> str:
    from napari_sta.jobs._job import all_jobs

    lines = [
        "usage: napari-sta JOB --field value … [--o DIR]   run a job",
        "       napari-sta JOB --help                      its options",
        "",
        "jobs, in workflow order:",
    ]
    jobs = all_jobs()
    width = max([len(name) for name in [*jobs, *_COMMANDS]], default=10) + 2
    for name, job_class in jobs.items():
        lines.append(f"  {name:<{width}}{_first_sentence(job_class)}")
    lines += ["", "other commands:"]
    lines += [f"  {name:<{width}}{what}" for name, what in _COMMANDS.items()]
    lines += [
        "",
        "Started inside a RELION project folder without --o, a job gets the next job number there.",
        "",
        "exit status: 0 success, 1 the job failed, 2 wrong input, 130 interrupted",
    ]
    return "\n".join(lines)


def _first_sentence(job_class: type[Job]) -> str:
    return (job_class.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ").strip()


# ----------------------------------------------------------------------------------------------------
# Jobs


class _Parser(argparse.ArgumentParser):
    """argparse that reports errors as ours and knows one spelling of each option."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse; unknown options are an error with a hint."""
        known = [option for action in self._actions for option in action.option_strings]
        found, unknown = self.parse_known_args(self._normalised(words, known))
        if unknown:
            word = unknown[0].split("=")[0]
            near = [option for option in known if option.startswith(word)]
            near = near or difflib.get_close_matches(word, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"see {self.prog} --help"
            what = "option" if word.startswith("-") else "value expected here"
            raise InputError(f"{word} is no {what} of {self.prog}; {hint}")
        for action in self._actions:
            given = getattr(found, action.dest, None)
            if not action.option_strings and "" in (given if isinstance(given, list) else [given]):
                # A variable of the shell that is not set: the current folder is not meant.
                raise InputError(f"{action.metavar} is empty; name a file or folder, see {self.prog} --help")
        return found

    def _normalised(self, words: Sequence[str], known: Sequence[str]) -> list[str]:
        # One spelling inside: underscores. And a number below zero must not be taken for an option.
        flags = {option for action in self._actions if action.nargs == 0 for option in action.option_strings}
        done: list[str] = []
        for word in words:
            if done and done[-1] in known and done[-1] not in flags and _NUMBER.match(word):
                done[-1] += f"={word}"
                continue
            if word.startswith("--") and len(word) > 2:
                name, equals, value = word.partition("=")
                name = "--" + name[2:].replace("-", "_")
                word = name + equals + value
            done.append(word)
        return done


def _job(job_class: type[Job], words: list[str]) -> int:
    from napari_sta.jobs._run import JobRun

    parser = job_parser(job_class)
    found = vars(parser.read(words))
    values = {name: value for name in job_class.model_fields if (value := found.get(name)) is not None}
    out = found["o"] or found["pipeline_control"]
    by_relion = found["pipeline_control"] is not None
    job = job_class.from_text(values)
    if _rank() > 0:
        from napari_sta.jobs._run import assist

        assist(job, _run_options(found, None))
        return 0
    run = JobRun(job, replace(_run_options(found, Path(out) if out else None), by_relion=by_relion))
    return _drive(run, as_json=found["json"], quiet=found["quiet"])


def _rank() -> int:
    """Return the number of this process among those that torchrun started; 0 without it.

    Raises
    ------
    InputError
        If the environment says what torchrun would not.
    """
    found = {}
    for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1)):
        text = os.environ.get(name, "").strip()
        if text and not re.fullmatch(r"\d{1,6}", text):
            raise InputError(
                f"the environment variable {name} is {text[:40]!r}, which is no number of a process; start "
                f"several processes with torchrun, or clear it with: unset {name}"
            )
        found[name] = int(text) if text else default
    if found["RANK"] >= max(1, found["WORLD_SIZE"]):
        raise InputError(
            f"the environment variables RANK and WORLD_SIZE say that this is process {found['RANK']} of "
            f"{found['WORLD_SIZE']}; start several processes with torchrun, or clear them with: unset RANK "
            "WORLD_SIZE"
        )
    return found["RANK"]


def job_parser(job_class: type[Job]) -> _Parser:
    """Build the parser of a job from its declaration; every value stays text for the model to check."""
    from napari_sta.jobs._job import extra_of

    doc = textwrap.dedent("    " + (job_class.__doc__ or "").strip())
    parser = _Parser(
        prog=f"napari-sta {job_class.name()}",
        usage=f"napari-sta {job_class.name()} --field value … [--o DIR]",
        description=f"{job_class.label or job_class.name()}: {doc}",
    )
    groups: dict[str, Any] = {}
    for name, info in job_class.model_fields.items():
        tab = extra_of(info).get("tab", "") or "I/O"
        if tab not in groups:
            groups[tab] = parser.add_argument_group(tab)
        groups[tab].add_argument(f"--{name}", metavar="…", help=_option_help(info))
    _add_run_options(parser)
    # RELION's GUI appends this when it runs us as an External job.
    parser.add_argument("--pipeline_control", help=argparse.SUPPRESS)
    return parser


def _option_help(info: Any) -> str:
    from napari_sta.jobs._job import extra_of, value_as_text

    extra = extra_of(info)
    text = f"{info.title} ({extra['unit']}). " if extra.get("unit") else f"{info.title}. "
    text += info.description or ""
    if extra.get("choices"):
        choices = "; ".join(f"{value}: {words}" for value, words in extra["choices"].items())
        text = f"{text.rstrip()} Choices: {choices}."
    notes = []
    if info.is_required():
        notes.append("required")
    else:
        default = value_as_text(info.get_default())
        notes.append(f"default {default}" if default else "default: none")
    if extra.get("flag"):
        notes.append(f"RELION {extra['flag']}")
    return f"{text.strip()} [{', '.join(notes)}]".replace("%", "%%")


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("Running")
    group.add_argument(
        "--o", metavar="DIR", help="output folder [default: the next job folder of the project here]"
    )
    group.add_argument("--j", metavar="N", default="0", help="CPU threads [default 0: all]")
    group.add_argument(
        "--device", metavar="…", default="auto", help="auto, cpu, cuda or cuda:0,1 [default auto]"
    )
    group.add_argument(
        "--json",
        action="store_true",
        help="print the result record as JSON on stdout, progress as JSON lines on stderr",
    )
    group.add_argument("--quiet", action="store_true", help="no progress bar and no messages")


def _run_options(found: dict[str, Any], out: Path | None) -> RunOptions:
    from napari_sta.jobs._run_options import RunOptions

    if not re.fullmatch(r"[0-9]+", str(found["j"])):
        raise InputError(f"--j {str(found['j'])[:40]}: give the number of threads, 0 for all")
    most = RunOptions.most_threads()
    if len(str(found["j"])) > 9 or int(found["j"]) > most:
        raise InputError(
            f"--j {str(found['j'])[:40]} is more threads than help on this computer (at most {most}); take "
            "fewer, or 0 for all cores"
        )
    if not re.fullmatch(r"auto|cpu|cuda(:\d+(,\d+)*)?", str(found["device"])):
        raise InputError(f"--device {found['device']}: choose auto, cpu, cuda or cuda:0,1")
    return RunOptions(out=out, threads=int(found["j"]), device=str(found["device"]))


def _drive(run: JobRun, *, as_json: bool, quiet: bool) -> int:
    """Run to the end with a progress bar; print the result."""
    with _messages(quiet):
        steps = run.steps()
        record = _with_lines(steps) if as_json and not quiet else _with_bar(steps, run.name, quiet)
    if as_json:
        print(json.dumps(record, default=_plain))
    elif not quiet:
        if record.get("summary"):
            print(record["summary"])
        print(f"{run.name}: done in {record['seconds']:.1f} s")
        for path in record["outputs"].values():
            print(f"  {path}")
    elif record.get("summary"):
        print(record["summary"])
    return 0


def _with_lines(steps: Generator[Any, None, dict[str, Any]]) -> dict[str, Any]:
    """Tell progress as JSON on stderr, a line each: at most one a second, and every finished iteration."""
    last = 0.0
    while True:
        try:
            progress = next(steps)
        except StopIteration as end:
            record: dict[str, Any] = end.value
            return record
        except BaseException:
            steps.close()
            raise
        if progress.data.get("phase") != "done" and time.monotonic() - last < 1:
            continue
        last = time.monotonic()
        told = {"done": progress.done, "total": progress.total, "message": progress.message, **progress.data}
        print(json.dumps(told, default=_plain), file=sys.stderr, flush=True)


def _with_bar(steps: Generator[Any, None, dict[str, Any]], name: str, quiet: bool) -> dict[str, Any]:
    from tqdm import tqdm

    from napari_sta.jobs._words import step_words

    with tqdm(disable=quiet, file=sys.stderr, desc=name, leave=False, dynamic_ncols=True) as bar:
        short = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]"
        try:
            while True:
                try:
                    progress = next(steps)
                except StopIteration as end:
                    record: dict[str, Any] = end.value
                    return record
                if progress.data.get("phase") == "done":
                    if not quiet:  # it stays above the bar
                        tqdm.write(progress.message, file=sys.stderr)
                    continue
                if progress.done < bar.n:  # a new iteration: its time is its own
                    bar.reset()
                if progress.total:
                    bar.total = progress.total
                if "iteration" in progress.data:
                    bar.bar_format = short
                    bar.set_description_str(step_words(progress), refresh=False)
                else:
                    bar.set_postfix_str(progress.message, refresh=False)
                bar.update(progress.done - bar.n)
        finally:
            steps.close()


class _BarHandler(logging.Handler):
    """Warnings above the progress bar; what ends the job is told by :func:`main`."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        if record.levelno == logging.WARNING:
            tqdm.write(f"warning: {record.getMessage()}", file=sys.stderr)


@contextlib.contextmanager
def _messages(quiet: bool) -> Iterator[None]:
    log = logging.getLogger("napari_sta")
    handler = logging.NullHandler() if quiet else _BarHandler()
    was = log.propagate
    log.propagate = False
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = was


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


# ----------------------------------------------------------------------------------------------------
# Other commands


def _resume(words: list[str]) -> int:
    from napari_sta.jobs._records import options_of, read_record
    from napari_sta.jobs._run import resume
    from napari_sta.jobs._run_options import RunOptions

    parser = _Parser(prog="napari-sta resume", description=_COMMANDS["resume"].capitalize() + ".")
    parser.add_argument("folder", metavar="DIR", help="the job's folder")
    _add_run_options(parser)
    parser.set_defaults(j=None, device=None)
    found = vars(parser.read(words))
    if found["o"]:
        raise InputError("resume works in the job's own folder; leave --o out")
    recorded = options_of(read_record(found["folder"]))
    checked = _run_options(
        {
            "j": recorded.threads if found["j"] is None else found["j"],
            "device": found["device"] or recorded.device,
        },
        None,
    )
    run = resume(found["folder"], RunOptions(threads=checked.threads, device=checked.device))
    return _drive(run, as_json=found["json"], quiet=found["quiet"])


def _info(words: list[str]) -> int:
    from napari_sta.io.describe import describe

    parser = _Parser(prog="napari-sta info", description=_COMMANDS["info"].capitalize() + ".")
    parser.add_argument("path", metavar="PATH", help="STAR or MRC file, job folder or project folder")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    found = parser.read(words)
    description = describe(found.path)
    if found.json:
        print(json.dumps({"path": found.path, "lines": description.lines, "problems": description.problems}))
    else:
        print(description)
    return 0


def _open(words: list[str]) -> int:
    parser = _Parser(prog="napari-sta open", description=_COMMANDS["open"].capitalize() + ".")
    parser.add_argument("paths", metavar="PATH", nargs="*", help="project folder, job folder, .star or .mrc")
    found = parser.read(words)
    for path in found.paths:
        if not os.path.exists(path):  # that of Path fails for names that no file can have
            raise InputError(f"{path} does not exist; check the path")
    _open_viewer(found.paths)
    return 0


def _open_viewer(paths: list[str]) -> None:
    try:
        from napari_sta.widgets import open_viewer  # only here: the command line must work without Qt
    except ImportError as error:
        raise InputError(
            f"the viewer is not installed ({error.name or error} is missing); install it with "
            "pip install 'napari-sta[all]'"
        ) from error
    open_viewer(paths)


def _demo(words: list[str]) -> int:
    parser = _Parser(prog="napari-sta demo", description=_COMMANDS["demo"].capitalize() + ".")
    parser.add_argument("--headless", action="store_true", help="do not open napari at the end")
    _add_run_options(parser)
    found = vars(parser.read(words))
    options = _run_options(found, Path(found["o"]) if found["o"] else None)
    from napari_sta.demo import run_demo  # only here: for --help to answer at once

    with _messages(found["quiet"]), _interrupt.running():
        record = run_demo(
            options.out or Path("napari-sta-demo"),
            headless=found["headless"],
            threads=options.n_threads,
            device=options.device,
            quiet=found["quiet"] or found["json"],
        )
    if found["json"]:
        print(json.dumps(record, default=_plain))
    return 0


if __name__ == "__main__":
    sys.exit(main())
