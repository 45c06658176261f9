"""A model, a sampling and an optimiser that equal no default, for tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_sta.io.refinement.model import Model, read_model
from napari_sta.io.refinement.optimiser import Optimiser, read_optimiser
from napari_sta.io.refinement.sampling import Sampling, read_sampling

READERS = {"model": read_model, "sampling": read_sampling, "optimiser": read_optimiser}
RELION_FILES = [
    pytest.param(f"run_it{number:03d}_{what}.star", what.split("_")[-1], id=f"{number} {what}")
    for number in (0, 1, 6)
    for what in ("half1_model", "half2_model", "sampling", "optimiser")
]


def model_with(**changes: object) -> Model:
    """A model of odd box, two optics groups and three scale groups, equal to no default."""
    made = Model(
        reference="Refine3D/job007/run_it003_half2_class001.mrc", size_px=7, pixel_size_angst=3.25, n_dim=3,
        resolution_angst=22.75 / 2, current_size_px=6, padding=1.0, sigma_offset_angst=4.5, prior_mode=0,
        sigma_prior_deg=(1.5, 2.5, 3.5), log_likelihood=-123457.0, p_max=0.25, tau2_fudge=4.0,
        accuracy_deg=1.125, accuracy_angst=2.25, fsc=np.array([1, 0.5, 0.375, 0.25]),
        ssnr=np.array([2.5e6, 1e5, 1250.5, 1e-4]),
        sigma2_map=np.array([1e-7, 2e-7, 3e-7, 5e-7]), tau2=np.array([2e-5, 4e-5, 7e-5, 0]), completeness=np.array([1.0, 0.5, 0.25, 0]),
        orientability=None, group_names=("TS_1", "two words", "TS_3"), group_n_particles=np.array([5, 0, 12]),
        group_scale=np.array([0.75, 1.0, 1.25]), sigma2_noise=np.array([[4e-6, 3e-6, 2e-6, 1e-6], [5e-6, 1, 1, 1]]),
        pdf_direction=np.array([0.5, 0.375, 0.125, 0.0, 0.0]),
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def sampling_with(**changes: object) -> Sampling:
    made = Sampling(
        order=3, symmetry="D2", psi_step_deg=7.5, offset_range_angst=13.5, offset_step_angst=2.7,
        perturbation=-0.40625, perturbation_factor=0.25, order_original=2, psi_step_original_deg=15.0,
        offset_range_original_angst=27.0, offset_step_original_angst=5.4,
        directions_deg=np.array([[-22.5, 112.024313], [0.0, 0.0], [135.0, 90.0]]),
        is_3d_translations=False, tilt_limit_deg=70.0,
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def optimiser_with(**changes: object) -> Optimiser:
    made = Optimiser(
        output_root="Refine3D/job007/run", model_files=("a_half1_model.star", "a_half2_model.star"),
        data_file="a_data.star", sampling_file="a_sampling.star", tomograms_file="Tomograms/t.star",
        trajectories_file="Polish/motion.star", iteration=3, n_iterations=17, join_angst=50.0, oversampling=2,
        adaptive_fraction=0.75, seed=42, diameter_angst=140.0, mask_edge_px=7, zero_mask=False,
        solvent_flattening=False, solvent_fsc=True, solvent_mask="", increment=13, high_fsc=True,
        auto_local_order=5, n_without_gain=2, best_resolution_inv_angst=0.0625, n_without_changes=4,
        accuracy_deg=1.5, accuracy_angst=2.5, changes_deg=3.5, changes_angst=4.5, changes_classes=0.5,
        smallest_deg=5.5, smallest_angst=6.5, smallest_classes=9999999, has_converged=True, correct_norm=True,
        correct_scale=False, correct_ctf=False, refs_ctf_corrected=False, first_peak=True, skip_align=True,
        skip_rotate=True, n_pool=3, command="--o Refine3D/job007/run --sym C6",
        other={"rlnDoBlush": "1", "rlnNobodyKnows": "two words"},
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]
