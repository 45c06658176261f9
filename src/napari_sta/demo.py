"""The demo: a simulated project with a hidden offset, taken through the whole section.

Simulate, reconstruct, measure the offset, recentre, reconstruct again, extract, refine, remove duplicates,
reconstruct at the refined poses, post-process; then compare with what was hidden.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from napari_sta.data.errors import InputError, JobError

if TYPE_CHECKING:
    from napari_sta.phantoms.simulation import Phantom
    from napari_sta.phantoms.spec import PhantomSpec

OFFSET_TOLERANCE_PX = 0.25
BOX_SIZE_PX, CROP_SIZE_PX = 96, 64
BINNING = 2
REFINE_ITERATIONS = 2
"""More bring little at this binning; a refinement of one's own runs until it has converged."""
REFINING: dict[str, Any] = {
    "symmetry": "C6", "mask_diameter_angst": 230, "initial_lowpass_angst": 20, "initial_sampling_deg": "1.8",
    "local_searches_from_deg": "1.8", "offset_range_px": 1, "offset_step_px": 0.5,
    "solvent_flattened_fsc": "Yes", "max_iterations": REFINE_ITERATIONS,
}  # fmt: skip


class PoseErrors(NamedTuple):
    """Median distance of poses from the simulated ones."""

    angle_deg: float
    position_angst: float


def demo_spec(seed: int = 0) -> PhantomSpec:
    """Return the demo's phantom: about 430 particles of two virus-like spheres, 21 tilts each."""
    from napari_sta.phantoms.spec import PhantomSpec

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
        ``truth_resolution_before_angst``, ``truth_resolution_recentred_angst``,
        ``truth_resolution_angst`` (agreement with the simulated density at FSC 0.5, as picked,
        recentred and refined), ``angle_error_before_deg``, ``angle_error_deg``,
        ``position_error_before_angst``, ``position_error_angst`` (medians, recentred and refined),
        ``n_duplicates``, ``seconds`` per step and in all, ``root`` and the job folders.

    Raises
    ------
    InputError
        If the folder is not empty.
    JobError
        If a job fails, the offset found is off by more than 0.25 px, or recentring or refinement did not
        improve the map, or refinement not the poses.
    """
    start = time.monotonic()
    out = Path(out).absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not empty; delete it or choose another folder for the demo with --o")
    say = _Teller(quiet)
    spec = spec or demo_spec()

    say(f"Demo in {out}")
    say("1. Simulating tilt series of virus-like particles (CTF, dose, noise, membrane, hidden Z offset)")
    from napari_sta.phantoms.project import write_project
    from napari_sta.phantoms.simulation import simulate

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

    say(f"6. Extracting the recentred particles as 2D stacks, {BINNING} times binned")
    extracted = run(
        "extract",
        in_optimisation_set=recentred_set,
        binning=BINNING,
        box_size_px=BOX_SIZE_PX // BINNING + 16,
        crop_size_px=CROP_SIZE_PX // BINNING,
    )

    say(f"7. Refining their poses from the half maps, {REFINE_ITERATIONS} iterations")
    say(
        f"   (maps and mask are brought to the stacks' pixels of {BINNING * spec.pixel_size_angst:g} Å first)"
    )
    with _without_warnings("resampled"):
        refined = run(
            "refine",
            in_optimisation_set=Path(extracted["out"]) / "optimisation_set.star",
            in_3dref=after / "half1.mrc",
            in_mask=paths.mask_align,
            **REFINING,
        )
    stem = Path(refined["out"]) / f"run_it{refined['iterations']:03d}"
    poses_before, poses = (
        _pose_errors(path, paths.tomograms, phantom)
        for path in (Path(recentred["out"]) / "particles.star", Path(f"{stem}_data.star"))
    )
    say(
        f"   median error {poses_before.angle_deg:.2f}° and {poses_before.position_angst:.2f} Å before, "
        f"{poses.angle_deg:.2f}° and {poses.position_angst:.2f} Å after"
    )

    say("8. Removing particles that were picked twice")
    single = run(
        "remove_duplicates",
        in_optimisation_set=f"{stem}_optimisation_set.star",
        min_distance_angst=spec.lattice_spacing_angst / 2,
        rule="geometric",
    )
    say(f"   {single['n_removed']} of {len(phantom.particles)} removed")

    say("9. Averaging at the refined poses")
    final_set = Path(single["out"]) / "optimisation_set.star"
    last = Path(run("reconstruct", in_optimisation_set=final_set, **averaging)["out"])

    say("10. Post-processing")
    final = run("postprocess", in_half_map=last / "half1.mrc", in_mask=paths.mask_fsc)
    quality_before, quality_recentred, quality = (
        _quality(folder, paths.mask_fsc, paths.truth_map) for folder in (before, after, last)
    )
    seconds = time.monotonic() - start
    say("Result")
    say(f"   offset        {offset_px:+.2f} px found, {spec.hidden_offset_px:+.2f} px hidden")
    say(f"   resolution    {final['resolution_angst']:.1f} Å (half maps in the mask, corrected FSC at 0.143)")
    say(
        f"   against truth {quality_before['truth_angst']:.1f} Å at FSC 0.5 as picked, "
        f"{quality_recentred['truth_angst']:.1f} Å recentred, {quality['truth_angst']:.1f} Å refined"
    )
    say(f"   time          {seconds:.0f} s")
    record: dict[str, Any] = {
        "root": str(out),
        "hidden_offset_px": spec.hidden_offset_px,
        "offset_px": offset_px,
        "resolution_before_angst": quality_before["half_maps_angst"],
        "resolution_angst": float(final["resolution_angst"]),
        "truth_resolution_before_angst": quality_before["truth_angst"],
        "truth_resolution_recentred_angst": quality_recentred["truth_angst"],
        "truth_resolution_angst": quality["truth_angst"],
        "angle_error_before_deg": round(poses_before.angle_deg, 3),
        "angle_error_deg": round(poses.angle_deg, 3),
        "position_error_before_angst": round(poses_before.position_angst, 3),
        "position_error_angst": round(poses.position_angst, 3),
        "n_duplicates": single["n_removed"],
        "seconds": {**run.seconds, "all": round(seconds, 1)},
        "jobs": run.folders,
    }
    _judge(record, quality_before, quality_recentred, quality)
    say(f"Look at it with\n   {_command_to_open(out)}")
    if not headless:
        _open(out, last, Path(final["out"]), paths.mask_align)
    return record


def _judge(
    record: Mapping[str, Any],
    before: Mapping[str, float],
    recentred: Mapping[str, float],
    refined: Mapping[str, float],
) -> None:
    """Say so if the demo did not do what it is there to show."""
    error_px = abs(record["offset_px"] - record["hidden_offset_px"])
    if error_px > OFFSET_TOLERANCE_PX:
        raise JobError(
            f"the demo failed: the offset found is {error_px:.2f} px from the hidden one (limit "
            f"{OFFSET_TOLERANCE_PX} px); please report it with the folder {record['root']}"
        )
    # Not the half maps: where the mask cuts off-centre density, both halves lose the same.
    for what, worse, better in (("recentring", before, recentred), ("refinement", recentred, refined)):
        if better["truth_mean_fsc"] <= worse["truth_mean_fsc"]:
            raise JobError(
                f"the demo failed: {what} did not improve the FSC of map and truth in the mask; please "
                f"report it with the folder {record['root']}"
            )
    for what, unit in (("angle_error", "deg"), ("position_error", "angst")):
        error, error_before = record[f"{what}_{unit}"], record[f"{what}_before_{unit}"]
        if error >= error_before:
            raise JobError(
                f"the demo failed: refinement took the {what.replace('_', ' ')} from {error_before:.2f} to "
                f"{error:.2f} {unit}; please report it with the folder {record['root']}"
            )


def _pose_errors(particles_path: Path, tomograms_path: Path, phantom: Phantom) -> PoseErrors:
    """Compare a particle set with the truth, particles by their names, angles up to the six-fold symmetry."""
    import numpy as np

    from napari_sta.io.relion.particles import read_particles
    from napari_sta.io.relion.tilt_series import read_tilt_series_set
    from napari_sta.kernels.rotations import angular_distance_deg, euler_to_matrix_zyx

    found = read_particles(particles_path, read_tilt_series_set(tomograms_path))
    place = {name: i for i, name in enumerate(phantom.particles.name)}
    rows = np.array([place[name] for name in found.name])
    frame = euler_to_matrix_zyx(found.subtomogram_angles_deg)
    truth = euler_to_matrix_zyx(phantom.true_angles_deg[rows])
    angle = angular_distance_deg(frame @ euler_to_matrix_zyx(found.angles_deg), truth, "C6")
    position = found.coordinate_zyx_angst - np.einsum("nij,nj->ni", frame, found.origin_zyx_angst)
    miss = np.linalg.norm(position - phantom.true_position_zyx_angst[rows], axis=1)
    return PoseErrors(float(np.median(angle)), float(np.median(miss)))


def _quality(folder: Path, mask_path: Path, truth_path: Path) -> dict[str, float]:
    """FSC of the half maps (0.143) and of the merged map with the truth (0.5), inside the mask."""
    import torch

    from napari_sta.io.mrc import read_volume
    from napari_sta.kernels import fsc
    from napari_sta.kernels.shells import resolution_angst

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
        "half_maps_angst": float(resolution_angst(halves, box, pixel)),
        "truth_angst": float(resolution_angst(against, box, pixel, 0.5)),
        "truth_mean_fsc": float(against[1:].mean()),
    }


def _command_to_open(folder: Path) -> str:
    """Return the line that opens a project in napari, from the current folder."""
    program = Path(sys.executable).with_name("napari-sta.exe" if sys.platform == "win32" else "napari-sta")
    found = shutil.which("napari-sta")
    plain = not program.exists() or (found is not None and Path(found).absolute() == program.absolute())
    return shlex.join(["napari-sta" if plain else _short(program), "open", _short(folder)])


def _short(path: Path) -> str:
    path, here = path.absolute(), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


@contextlib.contextmanager
def _without_warnings(word: str) -> Iterator[None]:
    """Print no warning with this word: the demo has said so in its own. The job's log has it all the same."""

    def expected(record: logging.LogRecord) -> bool:
        return word not in record.getMessage()

    handlers = list(logging.getLogger("napari_sta").handlers)
    for handler in handlers:
        handler.addFilter(expected)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(expected)


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
        from napari_sta.jobs._run import JobRun
        from napari_sta.jobs._run_options import RunOptions

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
    try:
        from napari_sta.widgets import open_viewer  # only here: the demo must work without Qt

        open_viewer(shown)
    except ImportError as error:
        raise InputError(
            f"the viewer is not installed ({error.name or error} is missing); install it with "
            "pip install 'napari-sta[all]', or run the demo with --headless"
        ) from error
