"""Projects that the job tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import napari_sta.jobs
from map_jobs import ball, noise, write
from napari_sta.data.progress import Progress
from napari_sta.data.volume import Volume
from napari_sta.io.mrc import write_volume
from napari_sta.jobs._run import JobRun
from napari_sta.jobs._run_options import RunOptions
from practise_runs import EXTRA
from refine_project import (
    BOX_PX,
    PIXEL_ANGST,
    THREADS,
    Refinable,
    job_of,
    make_refinable,
    run_job,
)
from tiny_project import Project as TinyProject
from tiny_project import make_project


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyProject:
    """The plain tiny project, shared: read it, don't change it."""
    return make_project(tmp_path_factory.mktemp("tiny") / "project")


@pytest.fixture(scope="session")
def refinable(tmp_path_factory: pytest.TempPathFactory) -> Refinable:
    """32 lopsided particles, extracted; read it, don't change it."""
    return make_refinable(tmp_path_factory.mktemp("refine"))


@pytest.fixture(scope="session")
def three(refinable, tmp_path_factory) -> Path:
    """Three iterations that nothing disturbed."""
    out = tmp_path_factory.mktemp("three") / "run"
    record = run_job({**refinable.inputs(), "max_iterations": 3}, out)
    assert record["iterations"] == 3
    assert not record["converged"]
    assert "--continue_from" in record["summary"]
    return out


@pytest.fixture(scope="session")
def converged(refinable, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """A refinement to its end, inside a RELION project, with mask and solvent-flattened FSC."""
    root = refinable.root / "project"
    mask = refinable.root / "mask.mrc"
    index = (np.arange(BOX_PX) - BOX_PX // 2) * PIXEL_ANGST
    r = np.sqrt(index[:, None, None] ** 2 + index[:, None] ** 2 + index**2)
    write_volume(mask, Volume(np.clip((40 - r) / 8, 0, 1).astype(np.float32), PIXEL_ANGST))
    values = {**refinable.inputs(), "in_mask": mask, "solvent_flattened_fsc": "Yes"}
    run = JobRun(job_of(values), RunOptions(threads=THREADS, project=root))
    steps = run.steps()
    seen: list[Progress] = []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as end:
            record = end.value
            break
    phases = {one.data["phase"] for one in seen if one.data and "phase" in one.data}
    assert phases >= {"accuracy", "expectation", "maximisation", "done"}
    assert run.out is not None
    return run.out, record


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Half maps and a mask on one grid."""
    names = {f"half{i}": write(tmp_path / f"half{i}.mrc", noise(i)) for i in (1, 2)}
    return names | {"mask": write(tmp_path / "mask.mrc", ball())}


@pytest.fixture
def extra_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the jobs of the folder ``extra`` be found among the others."""
    monkeypatch.setattr(napari_sta.jobs, "__path__", [*napari_sta.jobs.__path__, str(EXTRA)])
