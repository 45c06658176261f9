"""How a job stands, by its folder and by its record."""

from __future__ import annotations

import json
import shutil
import socket

import pytest

from napari_sta.data.errors import InputError
from napari_sta.io.lock import process_mark
from napari_sta.io.project.markers import mark
from napari_sta.io.project.status import was_killed
from project_changes import DEAD, put_record


def test_markers_overrule_a_running_job(project):
    name = project.add_job("External", "relion.external")
    mark(project.root / name, "Failed")
    assert project.job(name).status == "Failed"


@pytest.mark.parametrize(
    "text",
    [
        *(json.dumps({"job": "x", "status": "Running", "host": socket.gethostname(), "process": one})
          for one in (2**31, 2**80, -1, 0, "12", "x", None, [1], {}, 1.5, True)),
        "[" * 100_000, '{"status":' * 100_000, "[]", "null", "1e999", "", "{", "\0", '"Running"',
        '{"status": ["Running"], "host": {}, "process": {}}', "\udcff",
    ],
)  # fmt: skip
def test_any_record_is_borne(project, text):
    name = project.add_job("External", "relion.external")
    (project.root / name / "job.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    (project.root / "External/job099").mkdir()
    shutil.copy(project.root / name / "job.json", project.root / "External/job099")
    assert project.job(name).status in ("Running", "Aborted")
    assert project.job("External/job099").status in ("Unknown", "Aborted")
    assert isinstance(was_killed(project.root / name), bool)
    assert project.add_job("External", "relion.external") == "External/job039/"


def test_a_live_job_that_the_pipeline_does_not_list_is_not_discarded(project):
    folder = project.root / "External/job050"
    folder.mkdir(parents=True)
    put_record(folder, **process_mark())
    assert project.job("External/job050").status == "Running"
    with pytest.raises(InputError, match="is running"):
        project.trash_job("External/job050")
    put_record(folder, **(process_mark() | {"process": DEAD}))
    assert project.job("External/job050").status == "Aborted"
