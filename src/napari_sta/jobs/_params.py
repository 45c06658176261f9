"""Parameters that jobs share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pydantic import model_validator

from napari_sta.data.errors import InputError
from napari_sta.io.files import resolve
from napari_sta.jobs._job import Job, param

if TYPE_CHECKING:
    from napari_sta.io.relion.inputs import StaInputs


_MOST_PX = 1_000_000
"""No detector has so many pixels a side."""


@dataclass
class _Kept:
    """A running job and what it has read; holding the job keeps its id its own."""

    job: Job
    read: dict[str, Any] = field(default_factory=dict)
    beside: list[Job] = field(default_factory=list)


_KEPT: dict[int, _Kept] = {}

Read = TypeVar("Read")


def keep_inputs(job: Job) -> None:
    """Let a job that is about to run read its inputs once: checks, warnings and the run itself all need them."""
    _KEPT[id(job)] = _Kept(job)


def release_inputs(job: Job) -> None:
    """End :func:`keep_inputs`."""
    kept = _KEPT.pop(id(job), None)
    for other in kept.beside if kept is not None else []:
        release_inputs(other)


def keep_beside(job: Job, other: Job) -> None:
    """Let the inputs of a job that stands for a running one be read once too, and be released with it."""
    kept = _KEPT.get(id(job))
    if kept is not None and other is not job:
        keep_inputs(other)
        kept.beside.append(other)


def read_once(job: Job, what: str, read: Callable[[], Read]) -> Read:
    """Read something of a job; while it runs (:func:`keep_inputs`), the first time only."""
    kept = _KEPT.get(id(job))
    if kept is None:
        return read()
    if what not in kept.read:
        kept.read[what] = read()
    found: Read = kept.read[what]
    return found


class StaInputsJob(Job):
    """A job that starts from particles in tilt series: an optimisation set, or its parts."""

    in_optimisation_set: str | None = param(
        None,
        title="Input optimisation set",
        help="STAR file that names a particle set, a tomogram set and perhaps a trajectory set. "
        "Files given below take the place of its members.",
        relion="in_optimisation",
        flag="--i",
        kind="file:optimisation_set",
    )
    in_parts: str | None = param(
        None,
        title="Input particle set",
        help="particles.star; replaces the one of the optimisation set.",
        relion="in_particles",
        flag="--p",
        kind="file:particles",
    )
    in_tomograms: str | None = param(
        None,
        title="Input tomogram set",
        help="tomograms.star; replaces the one of the optimisation set.",
        relion="in_tomograms",
        flag="--t",
        kind="file:tomograms",
    )
    in_trajectories: str | None = param(
        None,
        title="Input trajectory set",
        help="motion.star with the particles' motion through the tilt series; replaces the one of the "
        "optimisation set.",
        relion="in_trajectories",
        flag="--mot",
        kind="file:trajectories",
    )

    @classmethod
    def needs_tomograms(cls) -> bool:
        """Whether the job reads tilt images or tilt geometry."""
        return True

    @classmethod
    def needs_inputs(cls, values: Mapping[str, Any]) -> bool:
        """Whether inputs must be given, in view of the job's other values."""
        return True

    @model_validator(mode="after")
    def _something_to_start_from(self) -> Self:
        if not self.needs_inputs(self.__dict__):
            return self
        if self.in_optimisation_set is None and self.in_parts is None:
            raise ValueError(
                "no input: give an optimisation set with --in_optimisation_set, or a particle set with "
                "--in_parts" + (" and a tomogram set with --in_tomograms" if self.needs_tomograms() else "")
            )
        if self.in_optimisation_set is None and self.in_tomograms is None and self.needs_tomograms():
            raise ValueError(
                "a particle set alone does not say where the tilt images are: give the tomogram set too with "
                "--in_tomograms, or an optimisation set with --in_optimisation_set"
            )
        return self

    def load(self) -> StaInputs:
        """Read and check the inputs, once a run (:func:`keep_inputs`).

        Raises
        ------
        InputError
            As :func:`napari_sta.io.relion.inputs.load_sta_inputs`.
        """
        from napari_sta.io.relion.inputs import load_sta_inputs

        return read_once(
            self,
            "inputs",
            lambda: load_sta_inputs(
                self.in_optimisation_set,
                self.in_parts,
                self.in_tomograms,
                self.in_trajectories,
                need_tomograms=self.needs_tomograms(),
            ),
        )

    def read_besides(self) -> dict[str, Any]:
        """Add tilt series as they were read, and size and date of their images."""
        from napari_sta.jobs._fingerprint import of_files, of_table

        series = self.load().tilt_series
        if not series:
            return {}
        images = (path for one in series.values() for path, _ in one.images)
        return {
            "tilt series": of_table(series),
            **({"sizes or dates of tilt images": of_files(images)} if self.needs_tomograms() else {}),
        }

    def particles_name(self) -> str:
        """Return the particle set as RELION's command lines name it; a plain name while it cannot be found."""
        from napari_sta.io.relion.optimisation_set import PARTICLES_FILE, read_optimisation_set

        if self.in_parts:
            return self.in_parts
        assert self.in_optimisation_set is not None
        try:
            entries = read_optimisation_set(resolve(self.in_optimisation_set))
        except InputError:
            return "particles.star"
        return entries.get(PARTICLES_FILE, "particles.star")

    def sta_flags(self) -> list[str]:
        """Return the inputs as words of a command line of RELION's tomo programs."""
        flags = []
        for field_name in ("in_optimisation_set", "in_parts", "in_tomograms", "in_trajectories"):
            value = getattr(self, field_name)
            if value:
                extra = type(self).model_fields[field_name].json_schema_extra
                assert isinstance(extra, dict)
                flags += [str(extra["flag"]), value]
        return flags


def check_symmetry(value: str) -> str:
    """Return the name of a point group as RELION writes it.

    Raises
    ------
    ValueError
        If it is none that has rotations only (RELION also knows groups with mirrors, which no molecule has).
    """
    from napari_sta.kernels.rotations import parse_symmetry

    parse_symmetry(value)
    return value.strip().upper()


def check_boxes(box_size_px: int, crop_size_px: int | None) -> None:
    """Refuse odd boxes and crops that do not fit.

    Raises
    ------
    ValueError
        One sentence with the cure.
    """
    if box_size_px % 2:
        raise ValueError(
            f"box_size_px {box_size_px} is odd, and the centre of an odd box is no voxel; take {box_size_px + 1}"
        )
    if crop_size_px is not None:
        if crop_size_px % 2 or crop_size_px < 2:
            raise ValueError(f"crop_size_px {crop_size_px} must be even and at least 2")
        if crop_size_px > box_size_px:
            raise ValueError(
                f"crop_size_px {crop_size_px} is larger than box_size_px {box_size_px}; take a larger box or a "
                "smaller crop"
            )


def window_px(box_size_px: int, binning: float) -> int:
    """Return the edge of the unbinned window.

    An odd window has no centre pixel (RELION writes displaced images then), so the next even one is
    taken; the pixel size of the result is window / box times that of the tilt images.

    Raises
    ------
    InputError
        If it is larger than any image.
    """
    if binning * box_size_px > _MOST_PX:
        raise InputError(
            f"box_size_px {box_size_px} at binning {binning:g} is larger than any tilt image; take a smaller box "
            "or binning"
        )
    window = int(binning * box_size_px + 0.5)
    return window + window % 2


def check_window(inputs: StaInputs, box_size_px: int, binning: float) -> None:
    """Refuse tilt images that are truncated or unequal, and a window larger than they are.

    Raises
    ------
    InputError
        One sentence with the cure.
    """
    from napari_sta.io.mrc import check_images
    from napari_sta.io.relion.tilt_series import is_placeholder

    window = window_px(box_size_px, binning)
    for name in inputs.particles.tomograms:
        images = inputs.tilt_series[name].images
        if is_placeholder(images):
            raise InputError(
                f"{images[0][0]} of tomogram {name} is the placeholder that Warp writes instead of tilt images; "
                "particles are extracted and reconstructed in Warp then, and refined here"
            )
        path, size = images[0][0], check_images(images)
        if window > min(size):
            raise InputError(
                f"box_size_px {box_size_px} at binning {binning:g} is {window} px, larger than the tilt images of "
                f"{Path(path).name} ({size[1]} x {size[0]} px); take a smaller box"
            )
