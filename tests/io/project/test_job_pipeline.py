"""The small files of a job."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_sta.data.errors import JobError
from napari_sta.io.project.job_pipeline import write_job_pipeline, write_output_nodes
from napari_sta.io.project.markers import append_note, clear_markers, mark, status_of
from napari_sta.io.star import read_star
from project_changes import HALF, MAP, SET, tree


def test_small_files_of_a_job(tmp_path):
    assert status_of(tmp_path) == "Unknown"
    for status in ("Aborted", "Failed", "Succeeded"):  # RELION looks at success first
        mark(tmp_path, status)
        assert status_of(tmp_path) == status
    (tmp_path / "RELION_JOB_ABORT_NOW").touch()
    clear_markers(tmp_path)
    assert list(tmp_path.iterdir()) == []
    append_note(tmp_path, ["one", "two"], "today")
    append_note(tmp_path, ["three"], "later")
    assert (tmp_path / "note.txt").read_text().splitlines() == [
        " ++++ Executing new job on today",
        " ++++ with the following command(s): ",
        "one",
        "two",
        " ++++ ",
        " ++++ Executing new job on later",
        " ++++ with the following command(s): ",
        "three",
        " ++++ ",
    ]
    write_output_nodes(tmp_path, "Reconstruct/job038/", [MAP, HALF])
    nodes = read_star(tmp_path / "RELION_OUTPUT_NODES.star")["output_nodes"]
    assert nodes["rlnPipeLineNodeName"].tolist() == [
        "Reconstruct/job038/merged.mrc",
        "Reconstruct/job038/half1.mrc",
    ]
    assert nodes["rlnPipeLineNodeTypeLabelDepth"].tolist() == ["1", "99"]
    write_job_pipeline(Path(tmp_path), "Reconstruct/job038/", "relion.x", "Running", [SET], [MAP])
    tables = read_star(tmp_path / "job_pipeline.star")
    assert list(tables) == [
        "pipeline_general",
        "pipeline_processes",
        "pipeline_nodes",
        "pipeline_input_edges",
        "pipeline_output_edges",
    ]
    assert tables["pipeline_output_edges"].row() == {
        "rlnPipeLineEdgeProcess": "Reconstruct/job038/",
        "rlnPipeLineEdgeToNode": "Reconstruct/job038/merged.mrc",
    }


def test_small_files_are_not_written_through_links(project, victim):
    before = tree(victim)
    for name in (".pipeline_has_changed", "Extract/job024/note.txt", "Extract/job024/job_pipeline.star"):
        (project.root / name).unlink(missing_ok=True)
        (project.root / name).symlink_to(victim / "secret.txt")
    project.add_job("External", "relion.external")
    assert not (project.root / ".pipeline_has_changed").is_symlink()
    with pytest.raises(JobError, match="it is a link"):
        append_note(project.root / "Extract/job024", ["one"], "today")
    project.trash_job("Extract/job024")
    assert tree(victim) == before
