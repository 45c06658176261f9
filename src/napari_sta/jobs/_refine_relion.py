"""What RELION calls a 3D auto-refine: its command line, its switches, and its values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_sta.io.files import resolve
from napari_sta.jobs._refine_options import SAMPLINGS, RefineOptions, healpix_order

if TYPE_CHECKING:
    from napari_sta.io.refinement.optimiser import Optimiser


def command_line(job: RefineOptions, out: str) -> str:
    """Return the ``relion_refine_mpi`` line."""
    words = ["mpirun -n 3 relion_refine_mpi", f"--o {out}run", "--auto_refine --split_random_halves"]
    if job.continue_from:
        return " ".join([words[0], f"--o {out}run", f"--continue {job.continue_from}"])
    for name, flag in (
        ("in_optimisation_set", "--ios"), ("in_parts", "--i"), ("in_tomograms", "--tomograms"),
        ("in_trajectories", "--trajectories"),
    ):  # fmt: skip
        if getattr(job, name):
            words.append(f"{flag} {getattr(job, name)}")
    words.append(f"--ref {job.in_3dref}")
    if job.resize_reference:
        words.append("--trust_ref_size")
    if job.absolute_greyscale != "Yes":
        words.append("--firstiter_cc")
    if job.initial_lowpass_angst > 0:
        words.append(f"--ini_high {job.initial_lowpass_angst:g}")
    if job.ctf_correction:
        words.append("--ctf")
    if job.ignore_ctf_until_first_peak:
        words.append("--ctf_intact_first_peak")
    words.append(f"--particle_diameter {job.mask_diameter_angst:g} --flatten_solvent")
    if job.zero_mask:
        words.append("--zero_mask")
    if job.in_mask:
        words.append(f"--solvent_mask {job.in_mask}")
        if job.solvent_flattened_fsc:
            words.append("--solvent_correct_fsc")
    words.append(f"--oversampling 1 --healpix_order {healpix_order(job.initial_sampling_deg)}")
    words.append(f"--auto_local_healpix_order {healpix_order(job.local_searches_from_deg)}")
    words.append(f"--offset_range {job.offset_range_px:g} --offset_step {2 * job.offset_step_px:g}")
    if job.tilt_prior_width_deg:
        words.append(f"--sigma_tilt {job.tilt_prior_width_deg:g}")
    if job.finer_sampling_faster:
        words.append("--auto_ignore_angles --auto_resol_angles")
    words.append(f"--sym {job.symmetry} --low_resol_join_halves 40 --norm --scale --pad {job.padding}")
    words.append(f"--random_seed {job.seed} --dont_combine_weights_via_disc --pool 30")
    return " ".join(words)


def switches(job: RefineOptions) -> dict[str, str]:
    """Return RELION's options that have another form than ours."""
    return {
        "ref_correct_greyscale": "Yes" if job.absolute_greyscale == "Yes" else "No",
        "sampling": f"{job.initial_sampling_deg} degrees",
        "auto_local_sampling": f"{job.local_searches_from_deg} degrees",
        "do_pad1": "Yes" if job.padding == 1 else "No",
        "do_blush": "No",
        "relax_sym": "",
        "nr_pool": "30",
        "do_combine_thru_disc": "No",
        "nr_mpi": "3",
    }


def switched_on(options: Mapping[str, str]) -> dict[str, str]:
    """Translate RELION's options that have another form than ours.

    RELION's "No" to the absolute grey scale means that it is not known: it is fitted then.
    """
    translated = dict(options)
    rest = [translated.get("other_args", "")]
    for name, ours in (
        ("sampling", "initial_sampling_deg"),
        ("auto_local_sampling", "local_searches_from_deg"),
    ):
        if translated.get(name) and f"--{ours}" not in rest[0]:
            rest.append(f"--{ours} {translated[name].split()[0]}")
    if translated.get("do_pad1") == "Yes" and "--padding" not in rest[0]:
        rest.append("--padding 1")
    if translated.get("ref_correct_greyscale") == "Yes" and "--absolute_greyscale" not in rest[0]:
        rest.append("--absolute_greyscale Yes")
    translated["other_args"] = " ".join(part for part in rest if part)
    return translated


def values_of(path: Path, optimiser: Optimiser) -> dict[str, Any]:
    """Values of the job that an optimiser file belongs to, from RELION's files alone."""
    from napari_sta.io.refinement.model import read_model
    from napari_sta.io.refinement.sampling import read_sampling

    def found(name: str) -> str:
        return str(resolve(name, path))

    model, sampling = (
        read_model(found(optimiser.model_files[0])),
        read_sampling(found(optimiser.sampling_file)),
    )
    values = {
        "in_parts": found(optimiser.data_file), "in_tomograms": found(optimiser.tomograms_file),
        "symmetry": sampling.symmetry, "mask_diameter_angst": optimiser.diameter_angst,
        "zero_mask": optimiser.zero_mask, "solvent_flattened_fsc": optimiser.solvent_fsc,
        "ctf_correction": optimiser.correct_ctf, "ignore_ctf_until_first_peak": optimiser.first_peak,
        "padding": int(model.padding), "seed": max(0, optimiser.seed),
        "absolute_greyscale": "No" if "--firstiter_cc" in optimiser.command else "Yes",
        "local_searches_from_deg": SAMPLINGS[min(optimiser.auto_local_order, len(SAMPLINGS) - 1)],
        "initial_sampling_deg": SAMPLINGS[min(sampling.order_original, len(SAMPLINGS) - 1)],
        "offset_range_px": round(sampling.offset_range_original_angst / model.pixel_size_angst, 4),
        "offset_step_px": round(sampling.offset_step_original_angst / model.pixel_size_angst / 2, 4),
    }  # fmt: skip
    lowpass = re.search(r"--ini_high\s+([0-9.]+)", optimiser.command)
    if lowpass:
        values["initial_lowpass_angst"] = float(lowpass[1])
    if optimiser.trajectories_file:
        values["in_trajectories"] = found(optimiser.trajectories_file)
    if optimiser.solvent_mask:
        values["in_mask"] = found(optimiser.solvent_mask)
    return values
