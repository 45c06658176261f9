"""Checkpoints: what is damaged is told, old ones are read."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine_steps import Begun
from napari_sta.data.errors import InputError
from napari_sta.data.volume import Volume
from napari_sta.engine.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from napari_sta.engine.state import HALVES
from napari_sta.io.mrc import write_volume
from refine_project import BOX_PX, PIXEL_ANGST


def rewritten(path: Path, change: Callable[[dict[str, bytes]], None], how: int = zipfile.ZIP_STORED) -> None:
    """Change members of a checkpoint."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def header_of_terabytes(members: dict[str, bytes]) -> None:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<f8", "fortran_order": False, "shape": (1 << 20, 190_000)}
    )
    members["p_max.npy"] = file.getvalue()


def about(**changes: Any) -> Callable[[dict[str, bytes]], None]:
    def change(members: dict[str, bytes]) -> None:
        found = json.loads(str(np.load(io.BytesIO(members["about.npy"]))))
        for name, value in changes.items():
            found[name] = found[name] | value if isinstance(value, dict) else value
        file = io.BytesIO()
        np.save(file, np.array(json.dumps(found)))
        members["about.npy"] = file.getvalue()

    return change


DAMAGES: dict[str, Callable[[dict[str, bytes]], object]] = {
    "terabytes": header_of_terabytes,
    "header no dictionary": lambda m: m.update({"p_max.npy": m["p_max.npy"].replace(b"{", b"(", 1)}),
    "header unclosed": lambda m: m.update({"p_max.npy": m["p_max.npy"].replace(b"}", b"(", 1)}),
    "objects": lambda m: m.update({"p_max.npy": m["p_max.npy"].replace(b"<f8", b"|O8", 1)}),
    "short": lambda m: m.update({"p_max.npy": m["p_max.npy"][:-8]}),
    "no array": lambda m: m.update({"p_max.npy": b""}),
    "missing": lambda m: m.pop("p_max.npy"),
    "too many": lambda m: m.update({"surprise.npy": m["p_max.npy"]}),
    "nothing": lambda m: m.clear(),
    "about a list": lambda m: m.update({"about.npy": m["p_max.npy"]}),
    "plain a list": about(plain=[]),
    "control empty": about(control=None),
    "order a word": about(control={"order": "3"}),
    "order huge": about(control={"order": 10**30}),
    "order twelve": about(control={"order": 12}),
    "order negative": about(control={"order": -1}),
    "iteration negative": about(plain={"iteration": -1}),
    "iteration a bool": about(plain={"iteration": True}),
    "perturbation a bool": about(plain={"perturbation": False}),
    "converged a number": about(plain={"converged": 0}),
    "surplus in plain": about(plain={"surprise": 1}),
    "surplus in control": about(control={"surprise": 1}),
    "resolution nan": about(control={"resolution_inv_angst": float("nan")}),
    "resolution infinite": about(control={"resolution_inv_angst": float("inf")}),
    "step huge": about(control={"offset_step_angst": 1e300}),
    "iteration": about(plain={"iteration": None}),
    "half sets": about(half_set=[1, 2]),
    "half sets huge": about(half_set=[10**30]),
    "size": about(size_px="huge"),
}


@pytest.fixture
def written(begun: Begun, tmp_path: Path) -> Path:
    """A checkpoint of iteration 0 and its half maps."""
    run, state = begun
    for half in HALVES:
        write_volume(tmp_path / f"half{half}.mrc", Volume(state.model(half).reference, PIXEL_ANGST))
    path = tmp_path / "run_it000_checkpoint.npz"
    write_checkpoint(path, run, state, "fingerprint")
    return path


def read(path: Path) -> Checkpoint:
    return read_checkpoint(path, [path.parent / f"half{half}.mrc" for half in HALVES])


def same(one: Any, other: Any, where: str = "state") -> None:
    """Compare states to the last bit, and the kinds of what they hold."""
    if is_dataclass(one) or isinstance(one, tuple):
        assert type(one) is type(other), where
        names = [f.name for f in fields(one)] if is_dataclass(one) else range(len(one))
        for name in names:
            pick = getattr if is_dataclass(one) else type(one).__getitem__
            same(pick(one, name), pick(other, name), f"{where}.{name}")
    elif isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, other, err_msg=where)
        assert one.dtype == other.dtype, where
    else:
        assert one == other, where


def test_what_is_written_is_read(begun, written):
    run, state = begun
    checkpoint = read(written)
    same(checkpoint.state, state)
    assert checkpoint.fingerprint == "fingerprint"
    checkpoint.check(run, written)


def test_other_particles_are_refused(begun, written):
    checkpoint = read(written)
    for other in (replace(checkpoint, particles="others"), replace(checkpoint, size_px=26)):
        with pytest.raises(InputError, match="is of other particles than the input of this job"):
            other.check(begun.run, written)


def test_one_of_the_first_version_is_read(data):
    """As they were before states had models: names, layout and number of the format are the same."""
    folder = data / "refine_checkpoint"
    path = folder / "run_it001_checkpoint.npz"
    state = read_checkpoint(path, [folder / f"run_it001_half{half}_class001.mrc" for half in HALVES]).state
    with np.load(path) as file:
        stored = dict(file)
    says = json.loads(str(stored.pop("about")))
    assert state.iteration == says["plain"]["iteration"] == 1
    assert state.current_size_px == says["plain"]["current_size"]
    assert state.control.is_last is says["control"]["converged"] is False
    assert state.control.p_max == says["control"]["p_max"]
    np.testing.assert_array_equal(state.half_set, says["half_set"])
    np.testing.assert_array_equal(state.angles_deg, stored["angles_deg"])
    for k, half in enumerate(HALVES):
        model, images = state.model(half), state.images[k]
        np.testing.assert_array_equal(model.tau2, stored["tau2"][k])
        np.testing.assert_array_equal(model.pdf_direction, stored["pdf_direction"][k])
        np.testing.assert_array_equal(images.noise, stored["noise"][k])
        assert images.temperature == stored["temperature"][k]
        assert images.log_likelihood == stored["mean_log_likelihood"][k]
        assert model.reference.shape == (BOX_PX,) * 3
    assert stored["temperature"].max() > 1


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_told(written, damage):
    rewritten(written, damage)
    with pytest.raises(InputError, match=r"run_it000_checkpoint\.npz cannot be read"):
        read(written)


def test_a_checkpoint_of_another_layout_is_told(written):
    rewritten(written, about(format=1))
    with pytest.raises(InputError, match="written by another version"):
        read(written)


def test_a_missing_map_is_told(written):
    (written.parent / "half2.mrc").unlink()
    with pytest.raises(InputError, match=r"half2\.mrc"):
        read(written)


def test_a_checkpoint_that_unpacks_to_terabytes(written):
    rewritten(written, lambda m: m.update({"p_max.npy": bytes(50_000_000)}), zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="cannot be read"):
        read(written)


def test_a_packed_checkpoint_is_none_of_ours(written):
    rewritten(written, lambda m: None, zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="is damaged"):
        read(written)


def test_a_converged_refinement_has_no_maps_to_go_on_with(begun, written):
    run, state = begun
    write_checkpoint(written, run, replace(state, converged=True, iteration=9), "fingerprint")
    (written.parent / "half2.mrc").unlink()
    checkpoint = read(written)
    assert checkpoint.state.converged
    assert checkpoint.state.model(2).reference.size == 1
