"""Names of files, and the last complete iteration."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from napari_sta.io.refinement.names import iteration_name, latest_iteration


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("run", 3, "model", 1), "run_it003_half1_model.star"),
        (("Refine3D/job016/run", 0, "optimiser"), "Refine3D/job016/run_it000_optimiser.star"),
        ((Path("a") / "run_ct6", 1234, "class001", 2), "a/run_ct6_it1234_half2_class001.mrc"),
        (("run", 12, "class001_unfil", 1), "run_it012_half1_class001_unfil.mrc"),
        (("run", 5, "class001_angdist", 2), "run_it005_half2_class001_angdist.bild"),
        (("run", None, "model"), "run_model.star"),
        (("run", None, "data"), "run_data.star"),
        (("run", None, "sampling"), "run_sampling.star"),
        (("run", None, "optimisation_set"), "run_optimisation_set.star"),
        (("run", None, "class001"), "run_class001.mrc"),
        (("run", None, "class001_unfil", 1), "run_half1_class001_unfil.mrc"),
        (("run", None, "half_maps.png"), "run_half_maps.png"),
    ],
)
def test_names_are_relions(arguments, name):
    assert iteration_name(*arguments) == name


def test_unknown_files_have_no_name():
    with pytest.raises(ValueError, match="'modle' is no file of a refinement; known are data, model"):
        iteration_name("run", 1, "modle")


def test_the_latest_iteration_is_the_last_complete_one(refine, tmp_path):
    assert latest_iteration(tmp_path / "none") is None
    assert latest_iteration(tmp_path) is None
    for path in refine.glob("run_it*"):
        shutil.copy(path, tmp_path)
    assert latest_iteration(tmp_path) is None  # no maps
    for number in (0, 1, 6):
        for half in (1, 2):
            (tmp_path / iteration_name("run", number, "class001", half)).touch()
    assert latest_iteration(tmp_path) == 6
    assert latest_iteration(tmp_path, "ru.") is None
    assert latest_iteration(tmp_path, "run_ct6") is None
    for what, half in (
        ("model", 2),
        ("class001", 1),
        ("data", None),
        ("sampling", None),
        ("optimisation_set", None),
    ):
        missing = tmp_path / iteration_name("run", 6, what, half)
        missing.rename(tmp_path / "aside")
        assert latest_iteration(tmp_path) == 1, missing
        (tmp_path / "aside").rename(missing)
    (tmp_path / "run_it006_optimiser.star").unlink()
    assert latest_iteration(tmp_path) == 1
    (tmp_path / "run_it001_optimiser.star").unlink()
    assert latest_iteration(tmp_path) == 0
