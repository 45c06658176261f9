"""What a refinement takes over from the job or the iteration that it goes on from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from napari_sta.data.errors import InputError
from napari_sta.io.files import resolve
from napari_sta.io.refinement.optimiser import Optimiser, read_optimiser
from napari_sta.jobs import _refine_relion
from napari_sta.jobs._records import read_record

if TYPE_CHECKING:
    from napari_sta.engine.state import State
    from napari_sta.jobs._refine_inputs import Prepared
    from napari_sta.jobs._refine_options import RefineOptions

Options = TypeVar("Options", bound="RefineOptions")

_INPUTS = ("in_optimisation_set", "in_parts", "in_tomograms", "in_trajectories", "in_3dref", "in_mask")
"""Fields that name files."""


def with_continued(job: Options) -> tuple[Options, Optimiser | None]:
    """Return the job with what it takes over from the one it continues, and the optimiser file it goes on from.

    Raises
    ------
    InputError
        If that one cannot be read, or cannot be gone on with.
    """
    if job.continue_from is None:
        return job, None
    path = resolve(job.continue_from)
    optimiser = read_optimiser(path)
    taken = _values_of(type(job), path, optimiser)
    given = _changed(type(job), job.model_dump())
    if "in_optimisation_set" in given:
        taken = {k: v for k, v in taken.items() if k not in ("in_parts", "in_tomograms", "in_trajectories")}
    try:
        whole = type(job).from_text({**taken, **given})
    except InputError as error:
        raise InputError(
            f"{path.parent} cannot be continued: {error}; continue from an iteration of another job"
        ) from None
    assert isinstance(whole, type(job))
    return whole, optimiser


def _changed(kind: type[RefineOptions], values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is as by default: records and forms hold every value, given or not."""
    fields = kind.model_fields
    return {k: v for k, v in values.items() if fields[k].is_required() or v != fields[k].get_default()}


def _values_of(kind: type[RefineOptions], path: Path, optimiser: Optimiser) -> dict[str, Any]:
    """Values of the job that an optimiser file belongs to: from its job.json, else from RELION's files."""
    if (path.parent / "job.json").exists():
        written = read_record(path.parent)
        # A job that itself continues one says what it took over from it.
        values_are_complete = isinstance(written.get("complete_values"), dict)
        values = written["complete_values" if values_are_complete else "values"]
        values = {k: v for k, v in values.items() if v is not None and k != "max_iterations"}
        for name in _INPUTS:
            if values.get(name):
                values[name] = str(resolve(str(values[name]), path))
        before = values.pop("continue_from", None)
        if before is None or values_are_complete:
            return values
        older = resolve(str(before), path)
        if older.parent.resolve() != path.parent.resolve():
            # That job, too, took over what it was not given.
            return {**_values_of(kind, older, read_optimiser(older)), **_changed(kind, values)}
    return _refine_relion.values_of(path, optimiser)


def kept_iteration(job: RefineOptions, out: Path, optimiser: Optimiser | None) -> int:
    """Last iteration in a folder that stays: the one the job goes on from, if it is there; -1: none."""
    if optimiser is None or job.continue_from is None:
        return -1
    return optimiser.iteration if resolve(job.continue_from).parent.resolve() == out.resolve() else -1


def continued_state(
    job: RefineOptions, optimiser: Optimiser, prepared: Prepared, log: logging.Logger
) -> State:
    """State of the iteration that the job goes on from: of our checkpoint, else of RELION's files.

    Raises
    ------
    InputError
        If it is of other particles, or was the last one.
    """
    from napari_sta.engine.quirks import Quirk
    from napari_sta.engine.start import with_noise
    from napari_sta.jobs._refine_files import state_of_relion
    from napari_sta.jobs._refine_folder import checkpoint_path, read_checkpoint_of

    assert job.continue_from is not None
    path, run = resolve(job.continue_from), prepared.run
    ours = checkpoint_path(path.parent, optimiser.iteration)
    if ours.exists():
        checkpoint = read_checkpoint_of(ours)
        if checkpoint.state.converged:
            raise InputError(f"{path} is of a finished refinement; continue from one of its iterations")
        checkpoint.check(run, path)
        return checkpoint.state
    state = state_of_relion(optimiser, path, run, prepared.start, prepared.half_set)
    if not run.has(Quirk.SHELL_NOISE):
        state = with_noise(run, state)
        log.info("noise of the tilt images was measured at the poses of %s", optimiser.data_file)
    return state
