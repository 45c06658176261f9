"""Hands the program projects that mean harm, and sees that not a byte changes outside of where it may write.

    python tests/stress/hostile.py

Names in particle and tomogram sets that lead out of the output folder; pipelines whose jobs, files, labels and
aliases lie elsewhere, discarded and brought back; output folders full of links to somebody's files; Python
files in the project folder that must not be imported. Beside each project lies a victim, compared byte for
byte, and everything in the project that is not the job's is compared too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from _forks import Forks
from _project import CASES, Report, copy, differences, everything, workbench

OUT = "Own/job900"

NAMES = (
    "../../../../../victim/new", "../../../victim/1", "../victim", "a/../../../../../victim/a", "..", ".", "", "/", "//", "a//b",
    "VICTIM/new", "VICTIM/secret", "TS_01/../../../../../victim/1", "./x", "x/", "x/.", "\x01", "a\tb", "a\\..\\..\\b", "~/x", "b" * 300,
    "é" * 200, "link/new", "-rf", "$(touch VICTIM/shell)", "`touch VICTIM/shell`", "'; touch VICTIM/shell; '", "TS_02/1", "PROJECT/stolen",
    "../particles", "../../job.json", "../run", "x\u202ey",
)  # fmt: skip
"""What particles and tomograms call themselves."""

MODULES = ("tqdm", "torch", "numpy", "scipy", "numba", "pandas", "mrcfile", "starfile", "pydantic", "matplotlib", "json", "argparse",
           "logging", "typing_extensions", "random", "socket")  # fmt: skip


class Stage:
    """A project, and a victim beside it; both made anew for each act."""

    def __init__(self, project: Path, scratch: Path, forks: Forks, report: Report) -> None:
        self.project, self.scratch, self.forks, self.report = project, scratch, forks, report
        self.root, self.victim = scratch / "stage/here/project", scratch / "stage/victim"

    def set(self) -> Path:
        """Make both anew; return the project."""
        shutil.rmtree(self.scratch / "stage", ignore_errors=True)
        copy(self.project, self.root)
        for name in (
            "secret",
            "data/precious.mrc",
            "new_stack2d.mrcs",
            "1_stack2d.mrcs",
            "1_data.mrc",
            "a_weights.mrc",
            "run.out",
            "job001/x",
        ):
            (self.victim / name).parent.mkdir(parents=True, exist_ok=True)
            (self.victim / name).write_text(f"{name} is somebody's\n")
        # The victims of names that climb by other numbers of steps.
        for other in (self.root.parent / "victim", self.root / "victim"):
            shutil.copytree(self.victim, other)
        return self.root

    def filled(self, name: str) -> str:
        """Name the victim and the project in a name."""
        return name.replace("VICTIM", str(self.victim)).replace("PROJECT", str(self.root))

    def all(self) -> dict[str, str]:
        """Return the state of all that no job may touch."""
        own = str(self.root / OUT)
        allowed = (
            own,
            str(self.root / "Own"),
            str(self.root / ".Nodes"),
            str(self.root / ".pipeline_has_changed"),
        )
        return {
            name: what
            for name, what in everything(self.scratch / "stage").items()
            if name not in allowed and not name.startswith((own + "/", str(self.root / ".Nodes/")))
        }

    def act(
        self, what: str, before: dict[str, str], outcome: object, *, allowed: tuple[str, ...] = ()
    ) -> None:
        """Compare with what was there, and look at how it ended."""
        changed = [one for one in differences(before, self.all()) if not any(name in one for name in allowed)]
        self.report.check(not changed, f"{what}: {changed[:3]}")
        status, err = getattr(outcome, "status", 0), getattr(outcome, "err", "")
        self.report.check(
            status in (0, 1, 2, 130) and "Traceback" not in err and "fault of the program" not in err,
            f"{what}: ended with {status}: {err[-300:]}",
        )


# ---- names in particle and tomogram sets


def _rename(path: Path, column: str, name: str) -> None:
    from napari_sta.io.star import Table, read_star, write_star

    tables = read_star(path)
    for key, table in tables.items():
        if column in table and table.is_loop:
            values = table[column].copy()
            values[: max(1, len(values) // 2)] = name
            tables[key] = Table(table.name, {**table.columns, column: values})
    write_star(path, list(tables.values()))


def names(stage: Stage) -> None:
    """Run the jobs that write files named after particles and tomograms."""
    for column in ("rlnTomoParticleName", "rlnTomoName"):
        for name in NAMES:
            for case in ("extract", "extract_3d", "recenter", "remove_duplicates", "reconstruct"):
                root = stage.set()
                (root / OUT / "Subtomograms").mkdir(parents=True)
                shutil.rmtree(root / "Own")
                filled = stage.filled(name)
                try:
                    _rename(root / "Select/job002/particles.star", column, filled)
                    if column == "rlnTomoName":
                        _rename(root / "Tomograms/job001/tomograms.star", column, filled)
                except Exception as error:  # such a name cannot be written at all
                    stage.report.check("cannot" in str(error), f"{name!r} cannot be written: {error!r}")
                    continue
                before = stage.all()
                outcome = stage.forks.run([*CASES[case].words(), "--quiet", "--o", OUT], root)
                stage.act(f"{case} with {column} {name[:40]!r}", before, outcome)


# ---- pipelines

_JOBS = ("../victim/data/", "../../victim/data/", "VICTIM/data/", "Extract/../../victim/", "..", "./", "/", "", "Extract/", "victim/job001/",
         ".Nodes/x/", "Extract/job003/../../../victim/data/", "External/link/", "Trash/", "default_pipeline.star/")  # fmt: skip
_FILES = ("../../victim/secret", "VICTIM/secret", "../../../victim/secret", "Extract/job003/../../../../victim/secret", "..", "",
          "../default_pipeline.star")  # fmt: skip
_LABELS = ("../../../victim", "VICTIM", "..", "../..", "", "DensityMap/../../../../victim", ".")
_ALIASES = ("../victim/data/", "../../victim/data/", "VICTIM/link/", "External/alias/", "victim/link/")


def _discard_and_restore(root: str, job: str) -> None:
    from napari_sta.data.errors import StaError
    from napari_sta.io.project.project import Project

    project = Project(root)
    wanted = [job] if job else [one.name for one in project.jobs()]
    for one in wanted:
        try:
            project.restore_job(project.trash_job(one))
        except StaError as error:
            print(f"{one}: {error}")
    for folder in Path(root, "Trash").rglob("job*"):
        try:
            project.restore_job(folder)
        except StaError as error:
            print(f"{folder}: {error}")
    try:
        name = project.add_job("External", "relion.external")
        project.finish_job(name, "Failed")
    except StaError as error:
        print(error)


def pipelines(stage: Stage) -> None:
    """Discard and restore every job of pipelines that point elsewhere."""
    original = (stage.project / "default_pipeline.star").read_text()
    plots: list[tuple[str, str]] = []
    for name in map(stage.filled, _JOBS):
        plots.append((f"job {name}", original.replace("Reconstruct/job004/", name or '""')))
    for name in map(stage.filled, _FILES):
        plots.append((f"file {name}", original.replace("Extract/job003/particles.star", name or '""')))
        plots.append(
            (
                f"file below {name}",
                original.replace("PostProcess/job006/postprocess.mrc", f"PostProcess/job006/{name}"),
            )
        )
    for name in map(stage.filled, _LABELS):
        plots.append(
            (
                f"label {name}",
                original.replace("ProcessData.star.relion.postprocess", name or '""').replace(
                    "DensityMap.mrc", name or '""'
                ),
            )
        )
    for name in map(
        stage.filled,
        ("../victim/data/", "../../victim/data/", "VICTIM/link/", "External/alias/", "victim/link/"),
    ):
        plots.append((f"alias {name}", original.replace(" None ", f" {name} ")))
    mine = ("/default_pipeline.star", "project/Trash", "/job_pipeline.star", "/External", ".relion_lock")
    for what, text in plots:
        root = stage.set()
        (stage.victim / "link").symlink_to(stage.victim / "data")
        (root / "victim/link").symlink_to(stage.victim / "data")
        (root / "External").mkdir()
        (root / "External/link").symlink_to(stage.victim / "data")
        (root / "default_pipeline.star").write_text(text)
        before = stage.all()
        outcome = stage.forks.call("hostile:_discard_and_restore", root=str(root), job="")
        # Jobs of the project itself may go to the Trash and come back.
        moved = tuple(
            f"project/{job}"
            for job in (
                "Select/",
                "Extract/job",
                "Reconstruct/job",
                "Refine3D/",
                "PostProcess/",
                "Tomograms/",
            )
        )
        stage.act(f"pipeline with {what}", before, outcome, allowed=(*mine, *moved))
    for label in ("DensityMap", "TomoOptimisationSet"):
        root = stage.set()
        shutil.rmtree(root / ".Nodes")
        (root / ".Nodes").mkdir()
        (root / ".Nodes" / label).symlink_to(stage.victim)
        before = stage.all()
        outcome = stage.forks.run([*CASES["recenter"].words(), "--quiet"], root)
        outcome = stage.forks.run([*CASES["process_map"].words(), "--quiet"], root)
        stage.act(f".Nodes/{label} is a link", before, outcome, allowed=(*mine, "project/External"))


# ---- links


def links(stage: Stage) -> None:
    """Fill output folders with links to the victim's files, then run the job there again, or resume it."""
    for case in CASES:
        root = stage.set()
        words = [*CASES[case].words(), "--quiet", "--o", OUT]
        if (first := stage.forks.run(words, root)).status != 0:
            raise SystemExit(f"{case} does not run: {first.last_line}")
        done = copy(root / OUT, stage.scratch / "done")
        files = [str(path.relative_to(done)) for path in sorted(done.rglob("*")) if path.is_file()]
        for what in ("file", "dangling", "folder"):
            for again in (words, ["resume", OUT, "--quiet", "--j", "1"]):
                root = stage.set()
                out = copy(done, root / OUT)
                (out / "RELION_JOB_EXIT_SUCCESS").unlink()
                for file in files:
                    if what == "folder":
                        break
                    if file not in ("job.json", ".napari-sta-files"):
                        (out / file).unlink(missing_ok=True)
                        target = stage.victim / ("secret" if what == "file" else f"made by {Path(file).name}")
                        (out / file).symlink_to(target)
                if what == "folder":
                    for folder in [one for one in out.iterdir() if one.is_dir()] or [out]:
                        shutil.rmtree(folder)
                        folder.symlink_to(stage.victim)
                before = stage.all()
                outcome = stage.forks.run(again, root)
                stage.act(
                    f"{case} with links ({what}), {again[0]}",
                    before,
                    outcome,
                    allowed=("/default_pipeline.star",),
                )
        root = stage.set()
        (root / OUT).mkdir(parents=True)
        for name in ("run.out", "run.err", "note.txt", "job.json", "job.star", ".napari-sta-files", *files):
            (root / OUT / name).parent.mkdir(parents=True, exist_ok=True)
            if not (root / OUT / name).is_symlink():
                (root / OUT / name).symlink_to(stage.victim / "secret")
        before = stage.all()
        stage.act(f"{case} into a folder of links", before, stage.forks.run(words, root))


# ---- Python files in the project folder


def imports(stage: Stage) -> None:
    """Start the program in a folder with Python files of the names that it imports."""
    root = stage.set()
    told = stage.scratch / "imported"
    for module in MODULES:
        line = f"open({str(told)!r}, 'a').write({module!r} + '\\n')\nraise SystemExit('imported {module}')\n"
        (root / f"{module}.py").write_text(line)
    job = CASES["recenter"].words()
    starts = {
        "-m": [sys.executable, "-m", "napari_sta", *job],
        "-m, with an empty part of PYTHONPATH": [sys.executable, "-m", "napari_sta", *job],
        "--help": [sys.executable, "-m", "napari_sta", "--help"],
        "the script": [_script("napari-sta"), *job],
        "detached": [sys.executable, "-P", "-c", _DETACH, *job],
    }
    starts["torchrun"] = [
        _script("torchrun"), "--standalone", "--nproc-per-node", "1", "-m", "napari_sta", *CASES["refine"].words(), "--o", OUT,
    ]  # fmt: skip
    for what, words in starts.items():
        if not words[0]:
            continue  # not installed as a script
        told.unlink(missing_ok=True)
        path = os.environ.get("PYTHONPATH", "")
        env = {**os.environ, "PYTHONPATH": f"{path}:" if "PYTHONPATH" in what else path}
        done = subprocess.run(words, cwd=root, capture_output=True, text=True, env=env, timeout=120)
        imported = sorted(set(told.read_text().split())) if told.exists() else []
        stage.report.check(
            not imported, f"started by {what}: imports {', '.join(imported)} of the project folder"
        )
        stage.report.check(
            done.returncode == 0, f"started by {what}: ended with {done.returncode}: {done.stderr[-300:]}"
        )


def _script(name: str) -> str:
    return shutil.which(name, path=str(Path(sys.executable).parent)) or ""


# What the dock does, from a process that is in the project folder.
_DETACH = """
import os, sys, time
from pathlib import Path
from napari_sta.widgets._detached import Detached

job = Detached.start([(Path.cwd(), sys.argv[1:])])
while job.status() is None:
    time.sleep(0.1)
sys.exit(job.status())
"""


ACTS = {"imports": imports, "pipelines": pipelines, "links": links, "names": names}


def run(project: Path, scratch: Path, report: Report, acts: list[str], forks: Forks) -> None:
    """Play the acts."""
    stage = Stage(project, scratch, forks, report)
    for name in acts:
        before = report.checks, len(report.failures)
        ACTS[name](stage)
        print(
            f"{name}: {report.checks - before[0]} checks, {len(report.failures) - before[1]} failed",
            flush=True,
        )


def main() -> int:
    """Run the command line."""
    report = Report("hostile projects")
    with workbench() as (project, scratch), Forks() as forks:
        run(project, scratch, report, sys.argv[1:] or list(ACTS), forks)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
