"""Lets the disk fill up under every job, and sees that it says so and can be continued once there is room.

    sudo python tests/stress/full_disks.py                 # needs to mount a small tmpfs: Linux, as root
    python tests/stress/full_disks.py --case extract

Each job runs at five sizes of a disk that holds its output folder, and at five of one that holds the whole
project. Where it does not fit: exit status 1, one line that says that the disk is full, no marker of success,
no half-written file under a final name, no running job, and after making room the result of a run that had it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from _forks import Forks
from _project import CASES, Report, copy, differences, leftovers, results, unreadable, workbench
from kills import state

SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """Mount a disk of so many bytes."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def make_room(folder: Path) -> None:
    """Let a small disk grow."""
    subprocess.run(["mount", "-o", "remount,size=100m", str(folder)], check=True)


def can_mount(scratch: Path) -> bool:
    """Whether this user may mount a disk."""
    try:
        with small_disk(scratch / "try", 65536):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def _used(folder: Path) -> int:
    disk = os.statvfs(folder)
    return (disk.f_blocks - disk.f_bfree) * disk.f_frsize


def run(
    project: Path, scratch: Path, report: Report, cases: Sequence[str], shares: Sequence[float], forks: Forks
) -> None:
    """Run each case on disks that have these shares of the space it needs."""
    disk = scratch / "disk"
    for case in cases:
        before = len(report.failures)
        fitted = 0
        for whole in (False, True):
            with small_disk(disk, 100 * 2**20):
                root, out = _places(project, scratch, disk, whole)
                start = _used(disk)
                outcome = forks.run([*CASES[case].words(), "--quiet", "--o", str(out)], root)
                if outcome.status != 0:
                    raise SystemExit(f"{case} does not run: {outcome.last_line}")
                need, truth = _used(disk) - start, results(out, disk)
            for share in shares:
                with small_disk(disk, start + int(need * share)):
                    fitted += _one(forks, project, scratch, report, case, disk, truth, whole, share)
        print(
            f"{case}: {2 * len(shares)} disks, {fitted} large enough, {len(report.failures) - before} failed",
            flush=True,
        )


def _places(project: Path, scratch: Path, disk: Path, whole: bool) -> tuple[Path, Path]:
    if whole:
        return copy(project, disk / "p"), disk / "p/Own/job900"
    return copy(project, scratch / "p"), disk / "Own/job900"


def _one(
    forks: Forks, project: Path, scratch: Path, report: Report, case: str, disk: Path, truth: dict[str, str], whole: bool,
    share: float,
) -> bool:  # fmt: skip
    root, out = _places(project, scratch, disk, whole)
    words = [*CASES[case].words(), "--quiet", *([] if whole else ["--o", str(out)])]
    outcome = forks.run(words, root)
    if whole:
        new = [one for one in root.glob("*/job*") if not (project / one.relative_to(root)).exists()]
        out = new[0] if new else out
    problems = []
    fits = outcome.status == 0
    if not fits:
        said = outcome.err.strip().splitlines()
        if outcome.status != 1 or len(said) != 1 or "disk is full" not in outcome.err:
            problems.append(f"status {outcome.status}: {said[-1:]}")
        if (out / "RELION_JOB_EXIT_SUCCESS").exists():
            problems.append("marked as a success")
    problems += [f"half-written {one}" for one in unreadable(disk)] + [
        f"left {one}" for one in leftovers(disk)
    ]
    make_room(disk)
    problems += state(root)
    if not fits:
        resumes = (out / "job.json").exists()
        again = forks.run(["resume", str(out), "--quiet", "--j", "1"] if resumes else words, root)
        if again.status != 0:
            problems.append(f"going on ended with {again.status}: {again.last_line}")
        elif resumes or not whole:
            changed = differences(truth, results(out, root if whole else disk))
            # In a numbered folder the files name that folder.
            problems += [f"result {one}" for one in changed[:5] if not whole or "changed" not in one]
        problems += [f"after it {one}" for one in (*leftovers(disk), *state(root))]
    where = "the project" if whole else "the output folder"
    report.check(
        not problems, f"{case}, {where} on a disk of {share:.0%} of what it needs: {'; '.join(problems)}"
    )
    return fits


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--case", action="append", choices=list(CASES), help="one case only; may be repeated")
    found = parser.parse_args()
    report = Report("full disks")
    with workbench() as (project, scratch):
        if not can_mount(scratch):
            print(
                "full disks: NOT TRIED, because this user may not mount a small disk; run it as root on Linux"
            )
            return 0
        with Forks() as forks:
            run(project, scratch, report, found.case or list(CASES), SHARES, forks)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
