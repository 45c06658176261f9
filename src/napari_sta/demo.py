"""The demo: a simulated project with a hidden offset, taken through the whole section.

Simulate, reconstruct, measure the offset, recentre, reconstruct again, post-process; then compare
with what was hidden.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_sta.data.errors import InputError, JobError

if TYPE_CHECKING:
    from napari_sta.phantoms import PhantomSpec

OFFSET_TOLERANCE_PX = 0.25
BOX_SIZE_PX, CROP_SIZE_PX = 96, 64


def demo_spec(seed: int = 0) -> PhantomSpec:
    """Return the demo's phantom: about 430 particles of two virus-like spheres, 21 tilts each."""
    from napari_sta.phantoms import PhantomSpec

    return PhantomSpec(seed=seed, snr=0.05, angle_error_deg=2.5, position_error_angst=2.5)


def run_demo(
    out: Path,
    headless: bool = False,
    threads: int = 0,
    *,
    device: str = "auto",
    quiet: bool = False,
    spec: PhantomSpec | None = None,
) -> dict[str, Any]:
    """Make a project and run the workflow on it.

    Parameters
    ----------
    out
        Folder of the project; new or empty.
    headless
        Do not open napari on the result.
    threads, device
        As for any job; 0 threads: all there are.
    quiet
        Print nothing.
    spec
        What to simulate; None for :func:`demo_spec`.

    Returns
    -------
    record
        ``hidden_offset_px``, ``offset_px``, ``resolution_before_angst``, ``resolution_angst``,
        ``truth_resolution_before_angst``, ``truth_resolution_angst`` (agreement with the simulated
        density at FSC 0.5), ``seconds`` per step and in all, ``root`` and the job folders.

    Raises
    ------
    InputError
        If the folder is not empty.
    JobError
        If a job fails, the offset found is off by more than 0.25 px, or recentring did not improve the
        map.
    """
    start = time.monotonic()
    out = Path(out).absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not empty; delete it or choose another folder for the demo with --o")
    say = _Teller(quiet)
    spec = spec or demo_spec()

    say(f"Demo in {out}")
    say("1. Simulating tilt series of virus-like particles (CTF, dose, noise, membrane, hidden Z offset)")
    from napari_sta.phantoms import simulate, write_project

    phantom = simulate(spec)
    paths = write_project(phantom, out)
    say(
        f"   {len(phantom.particles)} particles in {len(phantom.series)} tomograms, {len(spec.tilts_deg)} "
        f"tilts each, {spec.pixel_size_angst:g} Å/px"
    )
    run = _Runner(out, threads, device, say)
    run.seconds["1 simulate"] = round(time.monotonic() - start, 1)
    averaging = {"box_size_px": BOX_SIZE_PX, "crop_size_px": CROP_SIZE_PX, "symmetry": "C6"}

    say("2. Averaging the particles as they were picked")
    picked = run("reconstruct", in_optimisation_set=paths.optimisation_set, **averaging)
    before = Path(picked["out"])

    say("3. Measuring how far the map lies from the mask along Z")
    measured = run("measure_offset", in_3dref=before / "merged.mrc", in_mask=paths.mask_align)
    offset_px = float(measured["offset_px"])
    say(
        f"   found {offset_px:+.2f} px ({offset_px * spec.pixel_size_angst:+.2f} Å); "
        f"hidden was {spec.hidden_offset_px:+.2f} px"
    )

    say("4. Recentring the particles by that offset")
    recentred = run(
        "recenter",
        in_optimisation_set=paths.optimisation_set,
        center_z_px=offset_px,
        pixel_size_angst=spec.pixel_size_angst,
    )

    say("5. Averaging the recentred particles")
    recentred_set = Path(recentred["out"]) / "optimisation_set.star"
    again = run("reconstruct", in_optimisation_set=recentred_set, **averaging)
    after = Path(again["out"])

    say("6. Post-processing")
    final = run("postprocess", in_half_map=after / "half1.mrc", in_mask=paths.mask_fsc)
    quality_before, quality = (
        _quality(folder, paths.mask_fsc, paths.truth_map) for folder in (before, after)
    )
    seconds = time.monotonic() - start
    say("Result")
    say(f"   offset        {offset_px:+.2f} px found, {spec.hidden_offset_px:+.2f} px hidden")
    say(f"   resolution    {final['resolution_angst']:.1f} Å (half maps in the mask, corrected FSC at 0.143)")
    say(
        f"   against truth {quality['truth_angst']:.1f} Å at FSC 0.5; "
        f"{quality_before['truth_angst']:.1f} Å before recentring"
    )
    say(f"   time          {seconds:.0f} s")
    record: dict[str, Any] = {
        "root": str(out),
        "hidden_offset_px": spec.hidden_offset_px,
        "offset_px": offset_px,
        "resolution_before_angst": quality_before["half_maps_angst"],
        "resolution_angst": float(final["resolution_angst"]),
        "truth_resolution_before_angst": quality_before["truth_angst"],
        "truth_resolution_angst": quality["truth_angst"],
        "seconds": {**run.seconds, "all": round(seconds, 1)},
        "jobs": run.folders,
    }
    _judge(record, quality_before, quality)
    if not headless:
        _open(out, after, Path(final["out"]), paths.mask_align)
    return record


def _judge(record: Mapping[str, Any], before: Mapping[str, float], after: Mapping[str, float]) -> None:
    """Say so if the demo did not do what it is there to show."""
    error_px = abs(record["offset_px"] - record["hidden_offset_px"])
    if error_px > OFFSET_TOLERANCE_PX:
        raise JobError(
            f"the demo failed: the offset found is {error_px:.2f} px from the hidden one (limit "
            f"{OFFSET_TOLERANCE_PX} px); please report it with the folder {record['root']}"
        )
    # Not the half maps: where the mask cuts off-centre density, both halves lose the same.
    if after["truth_mean_fsc"] <= before["truth_mean_fsc"]:
        raise JobError(
            "the demo failed: recentring did not improve the FSC of map and truth in the mask; please report "
            f"it with the folder {record['root']}"
        )


def _quality(folder: Path, mask_path: Path, truth_path: Path) -> dict[str, float]:
    """FSC of the half maps (0.143) and of the merged map with the truth (0.5), inside the mask."""
    import torch

    from napari_sta.io.mrc import read_volume
    from napari_sta.kernels import fsc

    mask = torch.from_numpy(read_volume(mask_path).data)
    half1, half2, merged = (
        torch.from_numpy(read_volume(folder / f"{name}.mrc").data) * mask
        for name in ("half1", "half2", "merged")
    )
    truth = read_volume(truth_path)
    box, pixel = truth.box_px, truth.pixel_size_angst
    halves = fsc.fourier_shell_correlation(half1, half2)
    against = fsc.fourier_shell_correlation(merged, torch.from_numpy(truth.data) * mask)
    return {
        "half_maps_angst": float(fsc.resolution_angst(halves, box, pixel)),
        "truth_angst": float(fsc.resolution_angst(against, box, pixel, 0.5)),
        "truth_mean_fsc": float(against[1:].mean()),
    }


class _Teller:
    """Prints what happens, at once."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet

    def __call__(self, text: str) -> None:
        if not self.quiet:
            print(text, flush=True)


class _Runner:
    """Runs jobs in the demo's project and keeps their times."""

    def __init__(self, root: Path, threads: int, device: str, say: _Teller) -> None:
        self.root, self.threads, self.device, self.say = root, threads, device, say
        self.seconds: dict[str, float] = {}
        self.folders: list[str] = []

    def __call__(self, job_name: str, **values: object) -> dict[str, Any]:
        from napari_sta.jobs._job import job_named, value_as_text
        from napari_sta.jobs._run import JobRun, RunOptions

        start = time.monotonic()
        job = job_named(job_name).from_text({key: value_as_text(value) for key, value in values.items()})
        run = JobRun(job, RunOptions(threads=self.threads, device=self.device, project=self.root))
        steps = run.steps()
        try:
            while True:
                next(steps)
        except StopIteration as end:
            record: dict[str, Any] = end.value
        seconds = time.monotonic() - start
        self.seconds[f"{len(self.folders) + 2} {job_name}"] = round(seconds, 1)
        self.folders.append(record["name"])
        self.say(f"   {job_name} -> {record['name']} in {seconds:.1f} s")
        return record


def _open(out: Path, average: Path, final: Path, mask: Path) -> None:
    """Open napari with the docks on the project, the recentred map, the mask and the sharpened map."""
    shown = [str(path) for path in (out, final, average / "merged.mrc", mask)]
    # By name: this module lies below the widgets and must work without Qt.
    try:
        importlib.import_module("napari_sta.widgets").open_viewer(shown)
    except ImportError as error:
        raise InputError(
            f"the viewer is not installed ({error.name or error} is missing); install it with "
            "pip install 'napari-sta[all]', or run the demo with --headless"
        ) from error
