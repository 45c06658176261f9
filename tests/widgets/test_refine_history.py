"""The history of a refinement is read from our files, and from RELION's."""

from __future__ import annotations

import json

import numpy as np
import pytest
from refinements import BOX_PX, PIXEL_ANGST

from napari_sta.widgets.refine_history import read_refinement


def test_relions_files_say_what_our_history_says(finished, relions):
    ours, theirs = read_refinement(finished), read_refinement(relions)
    assert (ours.is_ours, theirs.is_ours) == (True, False)
    assert [one.number for one in theirs.iterations] == [1, 2]
    for a, b in zip(ours.iterations, theirs.iterations, strict=True):
        for name in ("resolution_angst", "sampling_deg", "offset_step_angst", "changes_deg"):
            assert getattr(b, name) == pytest.approx(getattr(a, name), rel=1e-3), name
        assert b.p_max == pytest.approx(a.p_max, abs=0.05)  # a model file has it of one half set only
        assert b.image_size_px == a.image_size_px
        assert b.edge_angst == pytest.approx(BOX_PX * PIXEL_ANGST)
        np.testing.assert_allclose(b.fsc, a.fsc, atol=2e-5)
        assert b.accuracy_deg == (None if a.accuracy_deg is None else pytest.approx(a.accuracy_deg, rel=1e-3))
    assert theirs.optimiser == relions / "run_it002_optimiser.star"
    assert not theirs.can_resume


def test_damaged_or_half_written_iterations_are_left_out(relions, finished):
    text = (relions / "run_it002_half1_model.star").read_text()
    (relions / "run_it002_half1_model.star").write_text(text[: len(text) // 8])
    assert [one.number for one in read_refinement(relions).iterations] == [1]
    (relions / "run_history.json").write_text("[{")
    assert [one.number for one in read_refinement(relions).iterations] == [1]


def test_history_of_a_finished_job_is_plain_json(finished):
    """What the docks and ``--json`` live on."""
    records = json.loads((finished / "run_history.json").read_text())
    assert [one["iteration"] for one in records] == [1, 2]
    assert {"resolution_angst", "fsc", "edge_angst", "p_max", "sampling_deg", "sentence"} <= set(records[0])
