"""A tiny phantom project with every kind of file, and for each job a command line that takes a second on it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("MPLBACKEND", "Agg")
sys.path.insert(0, str(Path(__file__).parents[1]))  # for tiny_project

EXTRACT, AVERAGE, REFINE, POST = (
    "Extract/job003",
    "Reconstruct/job004",
    "Refine3D/job005",
    "PostProcess/job006",
)
"""Jobs that the project has already been through."""

PICKS = "Select/job002/optimisation_set.star"
TOMOGRAMS = "Tomograms/job001/tomograms.star"
_REFINING = {
    "in_optimisation_set": f"{EXTRACT}/optimisation_set.star", "in_3dref": f"{AVERAGE}/half1.mrc",
    "mask_diameter_angst": "64", "initial_lowpass_angst": "24", "initial_sampling_deg": "30",
    "local_searches_from_deg": "30", "offset_range_px": "1", "offset_step_px": "1", "padding": "1",
}  # fmt: skip


class Case(NamedTuple):
    """A job and its values as a command line takes them, paths from the project folder."""

    job: str
    values: Mapping[str, str]

    def words(self, **changes: str) -> list[str]:
        """Return the command line, without the program."""
        return [self.job, *_options({**self.values, **changes}), "--j", "1"]


def _options(values: Mapping[str, str]) -> list[str]:
    return [word for name, value in values.items() if value for word in (f"--{name}", value)]


CASES = {
    "extract": Case("extract", {"in_optimisation_set": PICKS, "box_size_px": "20", "crop_size_px": "16"}),
    "extract_3d": Case(
        "extract", {"in_optimisation_set": PICKS, "box_size_px": "20", "crop_size_px": "16", "stack2d": "No"}
    ),
    "reconstruct": Case("reconstruct", {"in_optimisation_set": PICKS, "box_size_px": "20", "crop_size_px": "16"}),
    "refine": Case("refine", {**_REFINING, "max_iterations": "1"}),
    "postprocess": Case(
        "postprocess",
        {"in_half_map": f"{AVERAGE}/half1.mrc", "in_mask": "masks/mask.mrc", "mtf_file": "masks/mtf.star"},
    ),
    "make_mask": Case("make_mask", {"in_3dref": "truth/truth_map.mrc", "threshold": "0.01"}),
    "process_map": Case("process_map", {"in_3dref": "truth/truth_map.mrc", "lowpass_angst": "20"}),
    "measure_offset": Case(
        "measure_offset", {"in_3dref": "truth/truth_map.mrc", "in_mask": "masks/mask.mrc", "range_px": "3"}
    ),
    "reconstruct_tomograms": Case(
        "reconstruct_tomograms", {"in_tomograms": TOMOGRAMS, "binned_pixel_size_angst": "12"}
    ),
    "recenter": Case("recenter", {"in_optimisation_set": PICKS, "center_z_px": "1.5"}),
    "remove_duplicates": Case("remove_duplicates", {"in_optimisation_set": PICKS, "min_distance_angst": "60"}),
}  # fmt: skip
"""One run of every job, and both kinds of extraction."""


def make(root: Path) -> Path:
    """Simulate the project and take it through extraction, averaging, refinement and post-processing; return its folder."""
    from napari_sta.cli import main
    from napari_sta.io.star import table, write_star
    from napari_sta.phantoms.spec import dose_symmetric
    from tiny_project import make_project

    make_project(
        root, n_tomograms=2, particles_per_tomogram=4, tilts_deg=dose_symmetric(60, 30.0), snr=1.0,
        image_size_yx_px=(56, 56), tomogram_size_zyx_px=(56, 56, 56), sphere_radius_angst=60.0,
        lattice_spacing_angst=70.0, map_box_px=16, angle_error_deg=3.0, position_error_angst=2.0,
    )  # fmt: skip
    (root / "masks/mask_fsc.mrc").rename(root / "masks/mask.mrc")
    (root / "masks/mask_align.mrc").unlink()
    mtf = {"rlnResolutionInversePixel": [0.0, 0.25, 0.5], "rlnMtfValue": [1.0, 0.8, 0.5]}
    write_star(root / "masks/mtf.star", [table("", mtf)])
    with contextlib.chdir(root):
        for words in (
            CASES["extract"].words(), CASES["reconstruct"].words(), CASES["refine"].words(),
            CASES["postprocess"].words(),
        ):  # fmt: skip
            if main([*words, "--quiet"]) != 0:
                raise SystemExit(f"the project for the tests could not be made: {' '.join(words)}")
    return root


@contextlib.contextmanager
def workbench(project: Path | None = None) -> Iterator[tuple[Path, Path]]:
    """Give a project (made here if there is none) and an empty folder to harm copies in."""
    from _forks import MAKING_S, Forks

    with tempfile.TemporaryDirectory(prefix="sta-stress-") as scratch:
        if project is None:
            project = Path(scratch) / "project"
            with Forks() as forks:
                made = forks.call("_project:make_in", MAKING_S, root=str(project))
            if made.status != 0:
                raise SystemExit(f"the project could not be made: {made.err}")
        yield project, Path(scratch)


def make_in(root: str) -> None:
    """Do the same in a child of :class:`_forks.Forks`."""
    make(Path(root))


# ---- copies, and what is in a folder


def copy(project: Path, to: Path) -> Path:
    """Copy a project, so that it can be harmed."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(project, to, symlinks=True)
    return to


def copy_with_pipes(project: Path, to: Path) -> Path:
    """The same where there are pipes, which a copy would read from."""
    shutil.copytree(
        project,
        to,
        symlinks=True,
        ignore=lambda folder, names: [n for n in names if Path(folder, n).is_fifo()],
    )
    for pipe in (one for one in project.rglob("*") if one.is_fifo()):
        os.mkfifo(to / pipe.relative_to(project))
    return to


_LOGS = (
    "run.out",
    "run.err",
    "note.txt",
    "RELION_JOB_EXIT_SUCCESS",
    "job.json",
    "job.star",
    "job_pipeline.star",
)
_TIMES = re.compile(rb"/CreationDate \([^)]*\)|\"seconds\": [0-9.]+")


def results(folder: Path, root: Path) -> dict[str, str]:
    """Return hashes of a job's results: every file but logs and records, without time stamps and its own name."""
    own = str(folder.relative_to(root)).encode()
    found = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name in _LOGS or path.name.startswith("."):
            continue
        data = path.read_bytes()
        if path.suffix == ".npz":  # the archive keeps the time, its members do not
            with zipfile.ZipFile(path) as archive:
                data = b"".join(name.encode() + archive.read(name) for name in sorted(archive.namelist()))
        data = _TIMES.sub(b"", data)
        if path.suffix == ".star":  # comments hold the command line
            data = re.sub(rb"(?m)^#.*$", b"", data)
        if path.suffix in (".star", ".json", ".npz", ".pdf"):
            data = data.replace(str(root).encode(), b"ROOT").replace(own, b"OWN")
        found[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    return found


def everything(*folders: Path) -> dict[str, str]:
    """Return hash or link target of every file below the folders, to see that nothing was touched."""
    found = {}
    for folder in folders:
        for path in sorted([folder, *folder.rglob("*")]):
            if path.is_symlink():
                found[str(path)] = f"link to {os.readlink(path)}"
            elif path.is_file():
                found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                found[str(path)] = "folder"
    return found


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Say what is missing, new or changed."""
    names = sorted({*before, *after})
    words = {(True, False): "missing", (False, True): "new", (True, True): "changed"}
    return [
        f"{words[name in before, name in after]}: {name}"
        for name in names
        if before.get(name) != after.get(name)
    ]


def unreadable(folder: Path) -> list[str]:
    """Name every file that has its final name and is not whole."""
    from napari_sta.data.errors import StaError
    from napari_sta.io import mrc
    from napari_sta.io.star import read_star

    bad = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        try:
            if path.suffix == ".star":
                read_star(path)
            elif path.suffix in (".mrc", ".mrcs"):
                header = mrc.read_header(path)
                if not mrc.is_complete(path, header.shape_zyx):
                    raise ValueError("bytes are missing")
            elif path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".npz":
                import numpy as np

                with np.load(path) as archive:
                    [archive[name] for name in archive.files]
            elif path.suffix in (".xml", ".pdf", ".png") and not path.stat().st_size:
                raise ValueError("it is empty")
        except (StaError, ValueError, OSError, EOFError, KeyError) as error:
            bad.append(f"{path.name}: {error}")
    return bad


def leftovers(root: Path) -> list[str]:
    """Name temporary files and locks that are still there; the Trash may hold what it likes."""
    return [
        str(path.relative_to(root))
        for path in sorted(root.rglob(".*"))
        if path.name.endswith(".sta-tmp") or path.name.startswith(".relion_lock")
        if "Trash" not in path.parts
    ]


# ---- telling


class Report:
    """Counts checks and prints each failure once, with what reproduces it."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.checks = 0
        self.failures: list[str] = []
        self._lock = threading.Lock()

    def check(self, holds: object, what: str) -> None:
        """Count a check; tell it if it does not hold."""
        with self._lock:
            self.checks += 1
            if not holds:
                self.failures.append(what)
                print(f"FAILED {what}", flush=True)

    def end(self) -> int:
        """Print the sum; return the exit status."""
        print(f"{self.title}: {self.checks} checks, {len(self.failures)} failed")
        return 1 if self.failures else 0
