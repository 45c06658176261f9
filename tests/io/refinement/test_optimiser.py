"""Optimiser files."""

from __future__ import annotations

import numpy as np
import pytest

from napari_sta.io.refinement.optimiser import read_optimiser, write_optimiser
from napari_sta.io.star import Table, read_star, write_star
from refinement_records import optimiser_with


def test_values_of_an_optimiser_of_relion(refine):
    optimiser = read_optimiser(refine / "run_it006_optimiser.star")
    root = "Refine3D/job016/run_it006"
    assert optimiser.model_files == (f"{root}_half1_model.star", f"{root}_half2_model.star")
    assert (optimiser.output_root, optimiser.iteration) == ("Refine3D/job016/run", 6)
    assert (optimiser.data_file, optimiser.sampling_file) == (f"{root}_data.star", f"{root}_sampling.star")
    assert (optimiser.tomograms_file, optimiser.trajectories_file) == ("Tomograms/job007/tomograms.star", "")
    assert (optimiser.diameter_angst, optimiser.mask_edge_px, optimiser.seed) == (230.0, 5, 1)
    assert (optimiser.solvent_mask, optimiser.solvent_fsc) == ("Refine3D/job016/run_solvent_mask.mrc", True)
    assert (optimiser.n_without_gain, optimiser.n_without_changes, optimiser.high_fsc) == (1, 2, True)
    assert optimiser.best_resolution_inv_angst == 0.084877
    assert (optimiser.accuracy_deg, optimiser.accuracy_angst) == (0.533, 0.783)
    assert (optimiser.changes_deg, optimiser.changes_angst) == (2.287659, 4.394899)
    assert (optimiser.smallest_deg, optimiser.smallest_angst) == (1.644389, 3.191071)
    assert optimiser.command.startswith("--o Refine3D/job016/run --auto_refine")
    assert optimiser.command.endswith("--random_seed 1 --cpu")
    assert optimiser.other == {}


def test_what_relion_sets_and_we_do_not_know_stays(refine, tmp_path):
    tables = read_star(refine / "run_it001_optimiser.star")
    columns = dict(tables["optimiser_general"].columns)
    columns["rlnDoBlush"] = np.array(["1"], dtype=object)
    columns["rlnOfNextYear"] = np.array(["7"], dtype=object)
    write_star(tmp_path / "a.star", [Table("optimiser_general", columns, is_loop=False)])
    optimiser = read_optimiser(tmp_path / "a.star")
    assert optimiser.other == {"rlnDoBlush": "1", "rlnOfNextYear": "7"}
    assert optimiser.command == ""
    write_optimiser(tmp_path / "b.star", optimiser)
    assert read_star(tmp_path / "b.star")["optimiser_general"].row() == {k: v[0] for k, v in columns.items()}
    assert list(read_star(tmp_path / "b.star")["optimiser_general"].columns) == list(columns)


def test_an_optimiser_says_who_wrote_it_and_with_which_command(tmp_path):
    write_optimiser(tmp_path / "o.star", optimiser_with(command="--o a\n--sym C6"))
    lines = (tmp_path / "o.star").read_text().split("\n")
    assert lines[0].startswith("# napari-sta optimiser; version ")
    assert lines[1:4] == ["# --o a --sym C6", "", "# version 50001"]
    assert read_optimiser(tmp_path / "o.star").command == "--o a --sym C6"


@pytest.mark.parametrize("files", [(), ("a", "b", "c")])
def test_an_optimiser_has_one_or_two_models(tmp_path, files):
    with pytest.raises(ValueError, match="one model file or two"):
        write_optimiser(tmp_path / "o.star", optimiser_with(model_files=files))
