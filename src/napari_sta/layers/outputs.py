"""Which files of a job a user wants to see, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from napari_sta.data.volume import Volume
from napari_sta.io import files
from napari_sta.layers.keywords import iteration_of

HEADLINES = (
    "merged.mrc",
    "mask.mrc",
    "postprocess_masked.mrc",
    "postprocess.mrc",
    "run_class001.mrc",
    "half1.mrc",
    "half2.mrc",
    "particles.star",
    "run_data.star",
    "tomograms.star",
)
"""Outputs of a job in the order in which a user wants to see them."""


def is_job_folder(folder: Path) -> bool:
    """Whether a folder is one of RELION's ``<Type>/jobNNN``, or the alias of one."""
    return folder.is_dir() and files.is_job_folder(folder)


def is_project_folder(folder: Path) -> bool:
    """Whether a folder holds RELION jobs."""
    if (folder / "default_pipeline.star").is_file():
        return True
    return any(is_job_folder(job) for job in folder.glob("*/job[0-9][0-9][0-9]*"))


def viewable_outputs(folder: Path) -> list[Path]:
    """Return a job's files that can be shown, the one to look at first in front.

    Of a refinement's iterations only the last: the *Inspect* dock leafs through the others.
    """
    found = [folder / name for name in HEADLINES if (folder / name).is_file()]
    more = [p for p in sorted(folder.glob("*.mrc")) if p not in found and not _is_fourier(p)]
    if any(iteration_of(path) is not None for path in more):
        more = newest_iteration_only(more)
        more.sort(key=lambda path: (is_mask(path), "unfil" in path.stem, iteration_of(path) is not None))
    stars = [p for p in sorted(folder.glob("particles*.star")) if p not in found]
    return found + more + stars + sorted(folder.glob("tomograms/rec_*.mrc"))


def newest_iteration_only(paths: Sequence[Path]) -> list[Path]:
    """Drop the files of all iterations of a refinement but its last, which come after the final files."""
    numbers = [iteration_of(path) for path in paths]
    newest = max((n for n in numbers if n is not None), default=None)
    kept = [path for path, n in zip(paths, numbers, strict=True) if n is None]
    return kept + [path for path, n in zip(paths, numbers, strict=True) if n is not None and n == newest]


def _is_fourier(path: Path) -> bool:
    return path.stem.startswith(("data_", "weight_"))


def is_mask(path: str | Path, volume: Volume | None = None) -> bool:
    """Whether a volume is a mask: by its name, or because it runs exactly from 0 to 1."""
    from napari_sta.io.mrc import is_called_mask

    if is_called_mask(path):
        return True
    if volume is None or "masked" in Path(path).stem.lower():
        return False
    return float(volume.data.min()) == 0.0 and float(volume.data.max()) == 1.0
