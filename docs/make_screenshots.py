"""Make the pictures in docs/images: the real viewer, on a real (simulated) project.

Run it on a screen of 1366 x 768, for instance

    xvfb-run -a -s "-screen 0 1366x768x24 +extension GLX" python docs/make_screenshots.py

With a folder as argument it works on that project (a copy you can spare: jobs are run in it, from the
first map named merged.mrc); without one on the practice project. With options of 3D auto-refine after the
folder (KEY=VALUE …) it takes only the picture of that refinement, in its fifth iteration.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("QT_API", "pyside6")

import imageio.v3 as imageio
import napari
from qtpy.QtWidgets import QApplication

from napari_sta.widgets import add_docks

IMAGES = Path(__file__).parent / "images"
SIZE = (1366, 768)
LARGEST_BYTES = 400_000


def settle(seconds: float = 0.5, ready: Callable[[], bool] | None = None) -> None:
    """Let the viewer work for a while, or until something is ready."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()
        if ready is not None and ready():
            return
        time.sleep(0.01)
    if ready is not None:
        raise SystemExit("the viewer did not get ready in time")


def refine(bench: Any, viewer: Any, values: dict[str, Any], shoot: Callable[[str], None]) -> None:
    """Run a refinement from the Job dock and take a picture while its fifth iteration works."""
    viewer.layers.clear()
    job = bench.open_dock("job")
    job.fill("refine", values)
    settle(60, job.run_button.isEnabled)
    ticket = job.run()

    def half_way() -> bool:
        done = ticket.progress
        if ticket.state in ("done", "failed"):
            raise SystemExit(
                f"the refinement ended too early: {ticket.error or ticket.record.get('summary')}"
            )
        if done is None or done.data.get("iteration") != 5:
            return False
        return 0.3 < done.done / max(done.total, 1) < 0.9

    settle(900, half_way)
    monitor = job.monitor
    monitor.view.setCurrentIndex(monitor.view.findData("both"))
    viewer.dims.ndisplay = 2
    settle(20, lambda: monitor.plot.idle and monitor._mapping.idle)
    shoot("refine")
    job.stop()
    settle(20, lambda: ticket.state == "stopped")


def extracted(bench: Any, again: Any) -> dict[str, Any]:
    """Cut out the recentred particles; return the options of a refinement that starts from them."""
    from napari_sta.jobs._job import job_named

    made = again.job
    extract = job_named("extract").from_text(
        {
            "in_optimisation_set": made.in_optimisation_set, "binning": made.binning,
            "box_size_px": made.box_size_px, "crop_size_px": made.crop_size_px,
        }
    )  # fmt: skip
    ticket = bench.queue.run(extract, done=lambda _: None)
    settle(300, lambda: ticket.state == "done")
    masks = [p for p in bench.files["mask"] if "align" in Path(p).name]
    return {
        "in_optimisation_set": str(ticket.out / "optimisation_set.star"),
        "in_3dref": str(again.out / "half1.mrc"), "in_mask": masks[0], "symmetry": made.symmetry,
        "mask_diameter_angst": 200.0, "initial_lowpass_angst": 25.0, "initial_sampling_deg": "3.7",
        "local_searches_from_deg": "3.7", "offset_range_px": 3.0, "solvent_flattened_fsc": True,
    }  # fmt: skip


def main() -> None:
    """Walk through the workflow and take a picture at each stop."""
    if len(sys.argv) > 1:
        root = Path(sys.argv[1]).absolute()
    else:
        from napari_sta.phantoms.practice import make_practice_project

        root = make_practice_project(Path(tempfile.mkdtemp()) / "HIV-practice", seed=5).root

    IMAGES.mkdir(exist_ok=True)
    viewer = napari.Viewer(title="napari-sta", show=True)
    viewer.window._qt_window.resize(*SIZE)
    bench = add_docks(viewer, [root])
    settle(30, lambda: bench.view is not None)
    viewer.window._qt_window.resize(*SIZE)

    def shoot(name: str) -> None:
        settle(1.0)
        picture = viewer.window.screenshot(flash=False, canvas_only=False)
        path = IMAGES / f"{name}.png"
        imageio.imwrite(path, picture[..., :3], plugin="pillow", optimize=True)
        size = path.stat().st_size
        print(f"{path}: {picture.shape[1]} x {picture.shape[0]}, {size // 1000} kB")
        if size > LARGEST_BYTES:
            raise SystemExit(f"{path} is larger than {LARGEST_BYTES // 1000} kB")

    if sys.argv[2:]:
        from napari_sta.jobs._job import job_named

        options = job_named("refine").from_text(dict(word.split("=", 1) for word in sys.argv[2:]))
        refine(bench, viewer, {name: getattr(options, name) for name in options.model_fields_set}, shoot)
        viewer.close()
        return

    maps = sorted(p for p in bench.files["map"] if Path(p).name == "merged.mrc")
    align = bench.open_dock("align")
    settle(0.3)
    align.load(maps[0])
    settle(60, lambda: align.pair is not None)
    settle(0.5)
    align.suggest()
    shoot("align")

    settle(5, align.recentre.apply_button.isEnabled)
    align.recentre.apply()
    settle(300, lambda: len(bench.queue.tickets) == 2 and bench.queue.tickets[1].state == "done")
    again = bench.queue.tickets[1]
    settle(60, lambda: align._reading.idle and str(again.out) in align.pair.map.path)
    shoot("align_after")

    project = bench.open_dock("project")
    settle(10, lambda: again.name in bench.view.by_job)
    settle(0.3)
    project.select(again.name)
    shoot("project")

    viewer.dims.ndisplay = 3
    viewer.scene.camera.angles = (0, 25, -115)
    viewer.fit_to_view()
    viewer.scene.camera.zoom *= 1.5
    shoot("overview")
    align.show_xz()

    project._fill_next()
    next(a for a in project.next_menu.actions() if a.text() == "Post-processing").trigger()
    job = bench.open_dock("job")
    job.form.set_values({"auto_bfactor_lowest_resolution_angst": 20.0})
    settle(20, job.run_button.isEnabled)
    job.card.hide()
    shoot("job")
    ticket = job.run()
    settle(120, lambda: ticket.state == "done")
    settle(20, lambda: any("postprocess_masked" in layer.name for layer in viewer.layers))

    viewer.layers.clear()
    inspect = bench.open_dock("inspect")
    inspect.load(str(ticket.out))
    settle(60, lambda: inspect.result is not None)
    align.show_xz()
    shoot("inspect")

    refine(bench, viewer, extracted(bench, again), shoot)
    viewer.close()


if __name__ == "__main__":
    main()
