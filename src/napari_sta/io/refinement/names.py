"""Names of the files of a refinement, and its last complete iteration."""

from __future__ import annotations

import re
from pathlib import Path

_ENDINGS = {
    "data": "data.star",
    "model": "model.star",
    "sampling": "sampling.star",
    "optimiser": "optimiser.star",
    "optimisation_set": "optimisation_set.star",
    "class001": "class001.mrc",
    "class001_unfil": "class001_unfil.mrc",
    "class001_angdist": "class001_angdist.bild",
}
_COMPLETE = (
    *((what, half) for what in ("class001", "model") for half in (1, 2)),
    *((what, None) for what in ("data", "sampling", "optimiser", "optimisation_set")),
)


def iteration_name(root: str | Path, iteration: int | None, what: str, half: int | None = None) -> str:
    """Name a file of a refinement: ``run_it003_half1_model.star``.

    Parameters
    ----------
    root
        First part of the name, with or without folder: ``Refine3D/job016/run``.
    iteration
        From 0; None for the final files, whose names have no iteration.
    what
        ``data``, ``model``, ``sampling``, ``optimiser``, ``optimisation_set`` (STAR files), ``class001``,
        ``class001_unfil`` (maps), ``class001_angdist`` (orientation plot), or any ending with a suffix.
    half
        1 or 2 for what belongs to one half set.

    Raises
    ------
    ValueError
        If ``what`` is neither known nor has a suffix.
    """
    ending = _ENDINGS.get(what, what)
    if "." not in ending:
        raise ValueError(f"{what!r} is no file of a refinement; known are {', '.join(_ENDINGS)}")
    number = "" if iteration is None else f"_it{iteration:03d}"
    return f"{root}{number}{'' if half is None else f'_half{half}'}_{ending}"


def latest_iteration(folder: str | Path, root: str = "run") -> int | None:
    """Find the last iteration of which all files are there; None if there is none.

    Notes
    -----
    All files: map and model of both half sets, data, sampling, optimiser and optimisation set. Unfiltered
    maps and orientation plots, which a run can do without, are not asked for.
    """
    folder = Path(folder)
    pattern = re.compile(re.escape(root) + r"_it(\d{3,})_optimiser\.star")
    names = {path.name for path in folder.iterdir() if path.is_file()} if folder.is_dir() else set()
    numbers = sorted((int(match.group(1)) for match in map(pattern.fullmatch, names) if match), reverse=True)
    for number in numbers:
        if names.issuperset(iteration_name(root, number, what, half) for what, half in _COMPLETE):
            return number
    return None
