"""A state on the disk, to go on from: an uncompressed ``.npz``, with the maps that it belongs to beside it.

Names and layout stay as they are, so that a run can be resumed by another version: arrays and numbers of half
sets are stacked, with those of half set 1 first.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sta.data.errors import InputError
from napari_sta.engine.run import Run
from napari_sta.engine.state import HALVES, ImageModel, Model, State
from napari_sta.io.files import replacing
from napari_sta.io.mrc import read_volume
from napari_sta.kernels.refine.control import Control
from napari_sta.kernels.refine.sampling import AngularPrior

_FORMAT = 2
"""Of the file; another number is another layout."""

_LARGEST = 1e12
"""No number of a state is as large."""

_OF_PARTICLES = ("angles_deg", "offset_zyx_angst", "p_max", "log_likelihood", "n_significant")
_OF_MODELS = ("pdf_direction", "ssnr", "tau2", "sigma2_map", "completeness")
_OF_IMAGES = {
    "sigma2": "sigma2", "noise": "noise", "temperature": "temperature", "scale": "scale",
    "sigma2_offset_angst2": "sigma2_offset_angst2", "log_likelihood": "mean_log_likelihood",
}  # fmt: skip
"""Attributes of :class:`ImageModel`, and what they are called in the file."""

_PLAIN = {
    "iteration": "iteration", "perturbation": "perturbation", "current_size_px": "current_size",
    "changes_deg": "changes_deg", "changes_angst": "changes_angst", "converged": "converged",
    "first_cc": "first_cc",
}  # fmt: skip
"""Numbers of :class:`State`, and what they are called in the file."""

_CONTROL = {"is_last": "converged"}
"""Attributes of :class:`Control` that are called otherwise in the file."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes
    ----------
    state
        With the references that belong to it; in the last iteration there are none to go on with.
    fingerprint
        Of values and inputs of the job.
    particles
        Of names and order of the particles (:func:`names_of`).
    size_px
        Box of the reference.
    """

    state: State
    fingerprint: str
    particles: str
    size_px: int

    def check(self, run: Run, path: Path) -> None:
        """Refuse to go on with other particles.

        Raises
        ------
        InputError
            If they, or their box, are not those of the checkpoint.
        """
        if self.particles != names_of(run) or self.size_px != run.size_px:
            raise InputError(
                f"{path} is of other particles than the input of this job (or of another order or box); "
                "leave the particle set out, it is taken from there, or start a new refinement from its half "
                "maps"
            )


def names_of(run: Run) -> str:
    """Tell particle sets apart: names and their order."""
    names = "\n".join(map(str, run.source.particles.name))
    return hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()


def write_checkpoint(path: Path, run: Run, state: State, fingerprint: str) -> None:
    """Write all of a state but its references."""
    arrays = {name: getattr(state, name) for name in (*_OF_PARTICLES, "fsc")}
    for name in _OF_MODELS:
        arrays[name] = np.stack([getattr(model, name) for model in state.models])
    for attribute, name in _OF_IMAGES.items():
        arrays[name] = np.stack([getattr(images, attribute) for images in state.images])
    steer = asdict(state.control)
    about = {
        "format": _FORMAT,
        "fingerprint": fingerprint,
        "control": {_CONTROL.get(name, name): value for name, value in steer.items()},
        "plain": {name: getattr(state, attribute) for attribute, name in _PLAIN.items()},
        "half_set": state.half_set.tolist(),
        "particles": names_of(run),
        "size_px": run.size_px,
    }
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, about=np.array(json.dumps(about)), **arrays)


def read_checkpoint(path: Path, references: Sequence[Path]) -> Checkpoint:
    """Read a checkpoint and the maps that belong to it.

    Parameters
    ----------
    references
        A map for each half set; not read if the refinement has converged.

    Raises
    ------
    InputError
        If it, or a map that belongs to it, is missing or damaged.
    """
    try:
        arrays = _arrays(path)
        about: dict[str, Any] = json.loads(str(arrays.pop("about")))
        if about.get("format") != _FORMAT:
            raise InputError(f"{path} was written by another version of napari-sta; start the job anew")
        maps = [np.zeros((1, 1, 1), np.float32)] * len(HALVES)
        if not about["plain"]["converged"]:
            maps = [read_volume(one).data for one in references]
        state = _state(about, arrays, maps)
        _check_state(state)
        return Checkpoint(state, str(about["fingerprint"]), str(about["particles"]), int(about["size_px"]))
    except InputError:
        raise
    except Exception as error:
        # A damaged file may fail anywhere between here and zlib.
        what = str(error) or type(error).__name__
        raise InputError(f"{path} cannot be read ({what}); continue from an earlier iteration") from None


def _state(about: dict[str, Any], arrays: dict[str, Any], maps: Sequence[NDArray[np.float32]]) -> State:
    names = {_CONTROL.get(f.name, f.name): f.name for f in fields(Control)}
    _check_names(about["control"], names)
    _check_names(about["plain"], _PLAIN.values())
    _check_names(arrays, (*_OF_PARTICLES, "fsc", *_OF_MODELS, *_OF_IMAGES.values()))
    steer = {names[name]: value for name, value in about["control"].items()}
    steer["local_prior"] = AngularPrior(**steer["local_prior"])
    models = tuple(
        Model(half=half, class_number=1, reference=volume, **{name: arrays[name][k] for name in _OF_MODELS})
        for k, (half, volume) in enumerate(zip(HALVES, maps, strict=True))
    )
    images = tuple(
        ImageModel(**{attribute: _plain(arrays[name][k]) for attribute, name in _OF_IMAGES.items()})
        for k in range(len(HALVES))
    )
    return State(
        control=Control(**steer),
        half_set=np.asarray(about["half_set"], dtype=np.int64),
        models=models,
        images=images,
        **{name: arrays[name] for name in (*_OF_PARTICLES, "fsc")},
        **{attribute: about["plain"][name] for attribute, name in _PLAIN.items()},
    )


def _check_names(given: Iterable[str], expected: Iterable[str]) -> None:
    """Refuse what no refinement writes, and what is missing."""
    odd = set(given) ^ set(expected)
    if odd:
        raise ValueError(f"{', '.join(sorted(odd))} missing or too many")


def _plain(value: Any) -> Any:
    """One number of a stack as a float; rows as they are."""
    return value if np.ndim(value) else float(value)


def _arrays(path: Path) -> dict[str, Any]:
    """Read the arrays of an uncompressed ``.npz``, and no more than the file can hold."""
    arrays: dict[str, Any] = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED or member.file_size > path.stat().st_size:
                raise ValueError(f"{member.filename} is damaged")
            content = io.BytesIO(archive.read(member))
            version = np.lib.format.read_magic(content)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read(content)
            if math.prod(shape) * dtype.itemsize != member.file_size - content.tell():
                raise ValueError(f"{member.filename} is damaged")
            content.seek(0)
            name = member.filename.removesuffix(".npy")
            arrays[name] = np.lib.format.read_array(content, allow_pickle=False)
    return arrays


def _check_state(state: State) -> None:
    """Refuse values that no refinement writes."""
    kinds: dict[str, Any] = {"int": int, "float": (int, float), "bool": bool}
    for part in (state, state.control):
        for one in fields(part):
            value, kind = getattr(part, one.name), kinds.get(str(one.type))
            if kind is not None and (
                not isinstance(value, kind) or isinstance(value, bool) != (kind is bool)
            ):
                raise ValueError(f"{one.name} is {value!r}")
            # Sizes and steps are computed from these: what is far out of range cannot be.
            if kind is not None and not abs(value) < _LARGEST:
                raise ValueError(f"{one.name} is {value!r}")
    n = len(state.p_max)
    for name, shape in (("angles_deg", (n, 3)), ("offset_zyx_angst", (n, 3)), ("p_max", (n,))):
        array = getattr(state, name)
        if array.shape != shape or not np.isfinite(array).all():
            raise ValueError(f"{name} is damaged")
    if state.half_set.shape != (n,):
        raise ValueError("half sets of another number of particles")
    if state.iteration < 0 or not 0 <= state.control.order < 12:
        raise ValueError("iteration or sampling is out of range")
