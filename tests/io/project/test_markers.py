"""Exit markers and the note of a job."""

from __future__ import annotations

import pytest

from napari_sta.io.project.markers import ABORT_NOW, append_note, clear_markers, mark, status_of


@pytest.mark.parametrize("status", ["Succeeded", "Failed", "Aborted"])
def test_a_marker_tells_how_a_job_ended(tmp_path, status):
    assert status_of(tmp_path) == "Unknown"
    mark(tmp_path, status)
    assert status_of(tmp_path) == status
    (tmp_path / ABORT_NOW).touch()
    clear_markers(tmp_path)
    assert list(tmp_path.iterdir()) == []
    clear_markers(tmp_path)


def test_success_counts_before_an_older_failure(tmp_path):
    mark(tmp_path, "Aborted")
    mark(tmp_path, "Failed")
    assert status_of(tmp_path) == "Failed"
    mark(tmp_path, "Succeeded")
    assert status_of(tmp_path) == "Succeeded"


def test_runs_are_noted_one_below_the_other(tmp_path):
    append_note(tmp_path, ["napari-sta extract"], "Mon")
    append_note(tmp_path, ["napari-sta extract", "relion_tomo_subtomo"], "Tue")
    lines = (tmp_path / "note.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith(" ++++")] == [
        "napari-sta extract", "napari-sta extract", "relion_tomo_subtomo",
    ]  # fmt: skip
    assert [line.split()[-1] for line in lines if "new job" in line] == ["Mon", "Tue"]
