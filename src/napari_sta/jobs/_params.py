"""Parameters that jobs share."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Self

from pydantic import model_validator

from napari_sta.jobs._job import Job, param

if TYPE_CHECKING:
    from napari_sta.io.relion import StaInputs


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

    @model_validator(mode="after")
    def _something_to_start_from(self) -> Self:
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
        """Read and check the inputs.

        Raises
        ------
        InputError
            As :func:`napari_sta.io.relion.load_sta_inputs`.
        """
        from napari_sta.io.relion import load_sta_inputs

        return load_sta_inputs(
            self.in_optimisation_set,
            self.in_parts,
            self.in_tomograms,
            self.in_trajectories,
            need_tomograms=self.needs_tomograms(),
        )

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
    name = value.strip().upper()
    if not re.fullmatch(r"C[1-9]\d*|D[1-9]\d*|T|O|I[1-4]?", name):
        raise ValueError(f"{value!r} is no point group; use C1, C6, D2, T, O, I, I1 to I4…")
    return name
