"""What a 3D auto-refinement has come to, read from its folder: ours or RELION's, running, stopped or done."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sta.data.errors import InputError
from napari_sta.layers.keywords import LayerData
from napari_sta.layers.volumes import map_layer
from napari_sta.widgets.project_files import commands_of

HALF_NAMES = {1: "half 1", 2: "half 2"}
_MODEL = re.compile(r"run_it(\d{3,})_half1_model\.star")


@dataclass(frozen=True)
class Iteration:
    """One iteration.

    Attributes
    ----------
    number
        From 1.
    fsc, edge_angst
        FSC of the half maps; shell k is at edge_angst / k.
    accuracy_deg, accuracy_angst
        Expected accuracy of poses; None while nobody has estimated it.
    changes_deg, changes_angst
        Of the poses, against the iteration before.
    sampling_deg, offset_step_angst
        Steps of the fine grids.
    is_last
        The refinement converged here: halves are joined, final maps written.
    maps
        Half set (1, 2) to its map.
    """

    number: int
    resolution_angst: float
    p_max: float
    sampling_deg: float
    offset_step_angst: float
    image_size_px: int
    fsc: NDArray[np.float64]
    edge_angst: float
    accuracy_deg: float | None = None
    accuracy_angst: float | None = None
    changes_deg: float | None = None
    changes_angst: float | None = None
    is_last: bool = False
    maps: Mapping[int, Path] = field(default_factory=dict)

    @property
    def frequency_inv_angst(self) -> NDArray[np.float64]:
        """Of every shell of the FSC."""
        return np.arange(len(self.fsc)) / self.edge_angst

    def sentence(self) -> str:
        """Say it in a line."""
        words = [
            f"{self.resolution_angst:.2f} Å",
            f"Pmax {self.p_max:.2f}",
            f"steps {self.sampling_deg:.2g}° and {self.offset_step_angst:.2g} Å",
        ]
        poses = []
        if self.accuracy_deg is not None:
            poses.append(f"accurate to {self.accuracy_deg:.2f}° and {self.accuracy_angst or 0:.2f} Å")
        if self.changes_deg is not None:
            poses.append(f"changed by {self.changes_deg:.2f}° and {self.changes_angst or 0:.2f} Å")
        if poses:
            words.append(f"poses {', '.join(poses)}")
        return " · ".join(words)


@dataclass(frozen=True)
class Refinement:
    """A refinement's folder as it was when last read.

    Attributes
    ----------
    folder
        ``…/Refine3D/job016``.
    iterations
        Those done, in order.
    status
        Running, Succeeded, Failed, Aborted; Unknown if nothing says.
    is_ours
        Whether napari-sta runs it: only then it can be resumed in its folder.
    can_resume
        It ended before it was done, and a checkpoint is there.
    optimiser
        File to continue from in a new job; None if there is none.
    command
        What it was started with.
    """

    folder: Path
    iterations: tuple[Iteration, ...] = ()
    status: str = "Unknown"
    is_ours: bool = False
    can_resume: bool = False
    optimiser: Path | None = None
    command: str = ""
    relion_command: str = ""

    @property
    def name(self) -> str:
        """``Refine3D/job016``."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def has_converged(self) -> bool:
        """Whether the last iteration is there."""
        return bool(self.iterations) and self.iterations[-1].is_last


def is_refinement(folder: str | Path) -> bool:
    """Whether a folder holds a 3D auto-refinement with at least its start written."""
    folder = Path(folder)
    return (folder / "run_it000_half1_model.star").is_file() or (folder / "run_history.json").is_file()


def read_refinement(folder: str | Path) -> Refinement:
    """Read what a refinement has come to; in a worker.

    Raises
    ------
    InputError
        If the folder is none of a refinement.
    """
    from napari_sta.io.project.markers import status_of
    from napari_sta.io.project.status import was_killed

    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not there. Was the job moved to the Trash?")
    names = {path.name for path in folder.iterdir()}
    recorded = _recorded(folder)
    numbers = sorted(int(m.group(1)) for m in map(_MODEL.fullmatch, names) if m)
    iterations = []
    for number in numbers:
        if number == 0:
            continue
        iteration = recorded.get(number) or _read_iteration(folder, number)
        if iteration is not None:
            maps = _maps(folder, f"run_it{number:03d}", "class001", names)
            iterations.append(replace(iteration, maps=maps))
    final = next((iteration for iteration in recorded.values() if iteration.is_last), None)
    if final is None and "run_model.star" in names:
        final = _read_iteration(folder, None, (iterations[-1].number if iterations else 0) + 1)
    if final is not None:
        iterations = [iteration for iteration in iterations if iteration.number < final.number]
        iterations.append(replace(final, maps=_maps(folder, "run", "class001_unfil", names)))
    status = status_of(folder)
    ours = "job.json" in names
    if ours and status == "Unknown":
        status = "Aborted" if was_killed(folder) else "Running"
    commands = commands_of(folder)
    optimisers = [n for n in numbers if f"run_it{n:03d}_optimiser.star" in names and n > 0]
    optimiser = folder / f"run_it{optimisers[-1]:03d}_optimiser.star" if optimisers else None
    own = [line for line in commands if line.startswith("napari-sta")]
    relion = [line for line in commands if "relion_refine" in line]
    return Refinement(
        folder=folder,
        iterations=tuple(iterations),
        status=status,
        is_ours=ours,
        can_resume=ours and status in ("Failed", "Aborted") and _has_checkpoint(names),
        optimiser=optimiser,
        command=(own or relion or commands or [_command_in(optimiser)])[-1],
        relion_command=relion[-1] if relion and own else "",
    )


def _has_checkpoint(names: set[str]) -> bool:
    return any(name.endswith("_checkpoint.npz") for name in names)


def _command_in(optimiser: Path | None) -> str:
    """Return the command line that RELION notes in an optimiser file; empty if it cannot be read."""
    from napari_sta.io.refinement.optimiser import read_optimiser

    try:
        options = read_optimiser(optimiser).command.strip() if optimiser is not None else ""
    except InputError:
        return ""
    return f"relion_refine_mpi {options}" if options.startswith("-") else options


def _recorded(folder: Path) -> dict[int, Iteration]:
    """Read our own history; what of it is damaged is left out, and RELION has none."""
    from napari_sta.io.refinement.history import read_history

    recorded = {}
    for record in read_history(folder):
        with suppress(ValueError, KeyError, TypeError, OverflowError):
            recorded[record["iteration"]] = _of_record(record)
    return recorded


def _number(record: Mapping[str, Any], name: str) -> float | None:
    value = record.get(name)
    return None if value is None else float(value)


def _of_record(record: Mapping[str, Any]) -> Iteration:
    return Iteration(
        number=int(record["iteration"]),
        resolution_angst=float(record["resolution_angst"]),
        p_max=float(record["p_max"]),
        sampling_deg=float(record["sampling_deg"]),
        offset_step_angst=float(record["offset_step_angst"]),
        image_size_px=int(record["image_size_px"]),
        fsc=np.asarray(record["fsc"], dtype=np.float64),
        edge_angst=float(record["edge_angst"]),
        accuracy_deg=_number(record, "accuracy_deg"),
        accuracy_angst=_number(record, "accuracy_angst"),
        changes_deg=_number(record, "changes_deg"),
        changes_angst=_number(record, "changes_angst"),
        is_last=bool(record.get("converged")),
    )


def _maps(folder: Path, root: str, what: str, names: set[str]) -> dict[int, Path]:
    expected = {half: f"{root}_half{half}_{what}.mrc" for half in HALF_NAMES}
    return {half: folder / name for half, name in expected.items() if name in names}


def _read_iteration(folder: Path, number: int | None, shown: int = 0) -> Iteration | None:
    """Read an iteration from RELION's files; None while they are being written."""
    root = folder / ("run" if number is None else f"run_it{number:03d}")
    model = Path(f"{root}_model.star" if number is None else f"{root}_half1_model.star")
    others = [Path(f"{root}_{what}.star") for what in ("optimiser", "sampling")]
    try:
        when = tuple(path.stat().st_mtime_ns for path in (model, *others))
        return _read_stars(model, others[0], others[1], shown if number is None else number, when)
    except (InputError, OSError):
        return None


@lru_cache(maxsize=512)
def _read_stars(
    model_path: Path, optimiser_path: Path, sampling_path: Path, number: int, when: tuple[int, ...]
) -> Iteration:
    """Read three files once; ``when`` they were written tells a file that was written anew."""
    from napari_sta.io.refinement.model import read_model
    from napari_sta.io.refinement.optimiser import UNKNOWN, read_optimiser
    from napari_sta.io.refinement.sampling import read_sampling

    model, optimiser = read_model(model_path), read_optimiser(optimiser_path)
    sampling = read_sampling(sampling_path)

    def known(value: float) -> float | None:
        return value if 0 < value < UNKNOWN else None

    finer = 2.0**optimiser.oversampling
    return Iteration(
        number=number,
        resolution_angst=model.resolution_angst,
        p_max=model.p_max,
        sampling_deg=sampling.psi_step_deg / finer,
        offset_step_angst=sampling.offset_step_angst / finer,
        image_size_px=model.current_size_px,
        fsc=model.fsc,
        edge_angst=model.size_px * model.pixel_size_angst,
        accuracy_deg=known(model.accuracy_deg),
        accuracy_angst=known(model.accuracy_angst),
        changes_deg=known(optimiser.changes_deg),
        changes_angst=known(optimiser.changes_angst),
        is_last=model_path.name == "run_model.star",
    )


def half_map_layers(iteration: Iteration, run: Path) -> list[LayerData]:
    """Read an iteration's half maps as layers that take the place of those of other iterations.

    Raises
    ------
    InputError
        If a map cannot be read.
    """
    from napari_sta.io.mrc import read_volume

    word = "final" if iteration.is_last else f"it {iteration.number}"
    layers = []
    for half, path in iteration.maps.items():
        volume = read_volume(path)
        if volume.stated_pixel_size_angst is None:  # the model file knows it
            volume = replace(volume, stated_pixel_size_angst=iteration.edge_angst / volume.box_px)
        layer = map_layer(
            volume,
            name=f"{run.parent.name}/{run.name} · {HALF_NAMES[half]} · {word}",
            kind="half",
            run=str(run),
            half=half,
            iteration=iteration.number,
        )
        layer[1]["visible"] = half == 1
        layers.append(layer)
    return layers
