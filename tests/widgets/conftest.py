"""A real viewer, real docks, and jobs that fail on purpose."""

from __future__ import annotations

import gc
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # tests say `from fake_jobs import ...`

from qt_loop import settle


@pytest.fixture(autouse=True, scope="session")
def _old_objects_are_not_looked_through():
    """Set aside what all tests share: each viewer is followed by a search for what it has left behind."""
    import napari._qt.qt_main_window  # noqa: F401
    import torch  # noqa: F401

    import napari_sta.kernels.warm_up  # noqa: F401
    from napari_sta.widgets import align_dock, inspect_dock, job_dock, project_dock  # noqa: F401

    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def real_window(make_napari_viewer):
    """Ask for it where `viewer` has to be napari's own, with its window and canvas."""
    return make_napari_viewer


@pytest.fixture
def viewer(request, qapp):
    """A viewer without a window (see `bare_viewer`), unless the test asks for `real_window`."""
    from bare_viewer import BareViewer

    from napari_sta.widgets.workbench import Workbench

    real = "real_window" in request.fixturenames
    made = request.getfixturevalue("real_window")(show=False) if real else BareViewer()
    yield made
    queue = Workbench.of(made).queue
    queue.stop_all()
    settle(lambda: queue.running is None, 10)
    if not real:
        made.close()


@pytest.fixture
def bench(viewer):
    from napari_sta.widgets.workbench import Workbench

    return Workbench.of(viewer)


@pytest.fixture
def project(small_project, tmp_path) -> Path:
    """A copy of the practice project, to be changed at will."""
    return Path(shutil.copytree(small_project.root, tmp_path / "project"))


@pytest.fixture
def wait():
    def until(ready: Callable[[], bool], seconds: float = 10.0) -> None:
        assert settle(ready, seconds), "it did not happen in time"

    return until


@pytest.fixture(scope="session")
def processed(small_project, tmp_path_factory) -> Path:
    """The practice project with two finished Post-processing jobs."""
    from napari_sta.jobs._job import job_named
    from napari_sta.jobs._run import JobRun
    from napari_sta.jobs._run_options import RunOptions

    root = Path(shutil.copytree(small_project.root, tmp_path_factory.mktemp("inspect") / "project"))
    for b in (-100.0, -300.0):
        job = job_named("postprocess").from_text(
            {
                "in_half_map": str(root / "Reconstruct/job003/half1.mrc"),
                "in_mask": str(root / "masks/mask_fsc.mrc"),
                "auto_bfactor": False,
                "adhoc_bfactor_angst2": b,
            }
        )
        for _ in JobRun(job, RunOptions(project=root)).steps():
            pass
    return root


@pytest.fixture(scope="session")
def extracted(tmp_path_factory) -> Path:
    """A RELION project with extracted particles: read it, don't change it."""
    from refinements import BOX_PX

    from napari_sta.data.volume import Volume
    from napari_sta.io.mrc import write_volume
    from napari_sta.jobs._job import job_named
    from napari_sta.phantoms.spec import dose_symmetric
    from tiny_project import finish, make_project

    root = tmp_path_factory.mktemp("refine") / "project"
    project = make_project(
        root, n_tomograms=3, particles_per_tomogram=8, snr=0.6, tilts_deg=dose_symmetric(60, 20.0),
        angle_error_deg=4.0, position_error_angst=3.0, map_box_px=BOX_PX,
    )  # fmt: skip
    job = {
        "in_optimisation_set": str(project.paths.optimisation_set),
        "box_size_px": 32,
        "crop_size_px": BOX_PX,
    }
    finish(job_named("extract").from_text(job), root / "Extract/job010")
    truth = project.phantom.truth_map
    bright = truth.data * np.float32(truth.box_px**0.5)
    write_volume(root / "Extract/job010/reference.mrc", Volume(bright, truth.pixel_size_angst))
    return root


@pytest.fixture(scope="session")
def finished(extracted, tmp_path_factory) -> Path:
    """The folder of a refinement of two iterations, run without any viewer."""
    from refinements import VALUES

    from napari_sta.jobs._job import job_named
    from napari_sta.jobs._run import JobRun
    from napari_sta.jobs._run_options import RunOptions

    root = Path(shutil.copytree(extracted, tmp_path_factory.mktemp("finished") / "project"))
    values = VALUES | {name: str(root / VALUES[name]) for name in ("in_optimisation_set", "in_3dref")}
    run = JobRun(job_named("refine").from_text(values), RunOptions(out=root / "Refine3D/job020", threads=2))
    for _ in run.steps():
        pass
    return root / "Refine3D/job020"


@pytest.fixture
def place(extracted, tmp_path) -> Path:
    return Path(shutil.copytree(extracted, tmp_path / "project"))


@pytest.fixture
def relions(finished, tmp_path) -> Path:
    """The same refinement with nothing but the files that RELION writes."""
    folder = Path(shutil.copytree(finished.parent.parent, tmp_path / "relion")) / "Refine3D/job020"
    for path in folder.iterdir():
        if not path.name.startswith("run_it") or path.suffix == ".npz":
            path.unlink()
    return folder
