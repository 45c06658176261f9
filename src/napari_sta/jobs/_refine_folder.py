"""Which files of a folder are a refinement's, and of which iteration."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from napari_sta.data.errors import InputError
from napari_sta.engine.checkpoint import Checkpoint, read_checkpoint
from napari_sta.engine.state import HALVES
from napari_sta.io.files import remove_written, write_text

_OURS = re.compile(
    r"run(_it(?P<number>\d{3,}))?(_half[12])?_(class001.*|(data|model|sampling|optimiser|optimisation_set)\.star|"
    r"checkpoint\.npz|solvent_mask\.mrc|history\.json)"
)
"""Names of what a refinement writes."""


def checkpoint_path(out: Path, iteration: int) -> Path:
    """Name the checkpoint of an iteration."""
    return out / f"run_it{iteration:03d}_checkpoint.npz"


def read_checkpoint_of(path: Path) -> Checkpoint:
    """Read a checkpoint, and the half maps of its iteration.

    Raises
    ------
    InputError
        If it, or a map that belongs to it, is missing or damaged.
    """
    stem = str(path).removesuffix("_checkpoint.npz")
    return read_checkpoint(path, [Path(f"{stem}_half{half}_class001.mrc") for half in HALVES])


def latest_checkpoint(out: Path, kept: frozenset[str], fingerprint: str) -> Checkpoint | None:
    """Find the last whole checkpoint of these values and inputs; None if there is none.

    Parameters
    ----------
    kept
        Names of files that the job itself wrote there.
    """
    names = [name for name in kept if re.fullmatch(r"run_it\d{3,}_checkpoint\.npz", name)]
    for name in sorted(names, key=lambda name: (len(name), name), reverse=True):
        try:
            checkpoint = read_checkpoint_of(out / name)
        except InputError:
            continue
        if checkpoint.fingerprint == fingerprint:
            return checkpoint
    return None


def iterations(names: frozenset[str], after: int = -1) -> frozenset[str]:
    """Return which of a refinement's files are of iterations after a given one, or final ones."""
    matches = {name: _OURS.fullmatch(name) for name in names}
    return frozenset(
        name
        for name, match in matches.items()
        if match and (match["number"] is None or int(match["number"]) > after)
    )


def remove_iterations(out: Path, kept: frozenset[str], after: int = -1) -> None:
    """Delete the job's files of iterations after a given one, and final ones: they would be of another run."""
    remove_written(out, iterations(kept, after))


def write_history(out: Path, history: list[dict[str, Any]]) -> None:
    """Write what each iteration brought, for monitors."""
    write_text(out / "run_history.json", json.dumps(history, indent=1) + "\n")
