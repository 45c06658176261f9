"""RELION's files of one iteration of a refinement: written from a state, and read into one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from napari_sta.data.errors import InputError
from napari_sta.data.volume import Volume
from napari_sta.engine.checkpoint import write_checkpoint
from napari_sta.engine.run import Run
from napari_sta.engine.state import HALVES, ImageModel, Maps, Model, State
from napari_sta.io.files import path_for, resolve
from napari_sta.io.mrc import read_volume, write_volume
from napari_sta.io.refinement.model import Model as ModelFile
from napari_sta.io.refinement.model import read_model, write_model
from napari_sta.io.refinement.names import iteration_name
from napari_sta.io.refinement.optimiser import UNKNOWN, Optimiser, write_optimiser
from napari_sta.io.refinement.orientations import write_angular_distribution
from napari_sta.io.refinement.particles import write_refined_particles
from napari_sta.io.refinement.sampling import Sampling, read_sampling, write_sampling
from napari_sta.io.relion.numbers import particle_numbers
from napari_sta.io.relion.optimisation_set import write_optimisation_set
from napari_sta.io.relion.particles import read_particles
from napari_sta.jobs._refine_folder import checkpoint_path
from napari_sta.kernels.refine.control import Control
from napari_sta.kernels.refine.sampling import AngularPrior, angular_step_deg, directions_zyx

if TYPE_CHECKING:
    from napari_sta.io.relion.inputs import StaInputs


@dataclass(frozen=True)
class Writer:
    """Writes the files of iterations.

    Attributes
    ----------
    out
        The job's folder.
    inputs
        What the particles came from.
    run
        The refinement.
    start
        State of the sampling at the beginning.
    has_mask
        A mask is given, which RELION's files name.
    command
        Command line, for the comment of the optimiser file.
    fingerprint
        Of values and inputs: a checkpoint belongs to one.
    """

    out: Path
    inputs: StaInputs
    run: Run
    start: Control
    has_mask: bool
    command: str
    fingerprint: str

    @property
    def root(self) -> str:
        """First part of all names."""
        return str(self.out / "run")

    def named(self, name: str | Path) -> str:
        """Name a file as RELION's files do: from the project folder."""
        return path_for(str(name), self.out)

    def write(self, state: State, maps: Maps | None, before: State | None = None) -> None:
        """Write everything of one iteration, its checkpoint last.

        Parameters
        ----------
        before
            State of the iteration before; None at the start.
        """
        self._write_maps(state, maps)
        self._write_particles(state)
        self._write_sampling(state)
        self._write_optimiser(state, before, [self._write_model(state, half) for half in _halves(state)])
        write_checkpoint(checkpoint_path(self.out, state.iteration), self.run, state, self.fingerprint)

    def _path(self, state: State, what: str, half: int | None = None) -> str:
        """Path of a file of an iteration; those of the last one have no number."""
        return iteration_name(self.root, None if state.converged else state.iteration, what, half)

    def _write_maps(self, state: State, maps: Maps | None) -> None:
        pixel_size = self.run.pixel_size_angst

        def write(volume: NDArray[np.float32], what: str, half: int | None) -> None:
            write_volume(self._path(state, what, half), Volume(volume, pixel_size))

        if not state.converged:
            for half in HALVES:
                write(state.model(half).reference, "class001", half)
        if maps is not None:
            for half, volume in zip(HALVES, maps.unfiltered or []):  # noqa: B905
                write(volume.numpy().astype(np.float32), "class001_unfil", half)
            if maps.merged is not None:
                write(maps.merged.numpy().astype(np.float32), "class001", None)

    def _write_particles(self, state: State) -> None:
        source, known = self.run.source, state.iteration > 0
        particles = replace(
            source.particles,
            angles_deg=state.angles_deg,
            origin_zyx_angst=state.offset_zyx_angst,
            half_set=state.half_set,
        )
        write_refined_particles(
            self._path(state, "data"), particles, group_number=source.series_index + 1,
            log_likelihood=state.log_likelihood if known else None, p_max=state.p_max if known else None,
            n_significant=state.n_significant if known else None,
        )  # fmt: skip
        write_optimisation_set(
            self._path(state, "optimisation_set"),
            particles=self._path(state, "data"),
            tomograms=self.inputs.tomograms_path,
            trajectories=self.inputs.trajectories_path,
            other_entries={},
        )

    def _write_sampling(self, state: State) -> None:
        settings, steer, start = self.run.settings, state.control, self.start
        write_sampling(
            self._path(state, "sampling"),
            Sampling(
                order=steer.order, symmetry=settings.symmetry, psi_step_deg=angular_step_deg(steer.order),
                offset_range_angst=steer.offset_range_angst, offset_step_angst=steer.offset_step_angst,
                perturbation=state.perturbation, perturbation_factor=settings.perturbation_factor,
                order_original=start.order, psi_step_original_deg=angular_step_deg(start.order),
                offset_range_original_angst=start.offset_range_angst,
                offset_step_original_angst=start.offset_step_angst,
                directions_deg=self.run.grid(steer.order).directions_deg,
            ),
        )  # fmt: skip

    def _write_optimiser(self, state: State, before: State | None, models: list[str]) -> None:
        settings, rules, steer = self.run.settings, self.run.rules, state.control
        options, known = self.run.source.options, state.iteration > 0
        trajectories, tomograms = self.inputs.trajectories_path, self.inputs.tomograms_path
        best = before.control.resolution_inv_angst if before is not None and known else 1 / UNKNOWN
        write_optimiser(
            self._path(state, "optimiser"),
            Optimiser(
                output_root=self.named(self.root), model_files=tuple(self.named(model) for model in models),
                data_file=self.named(self._path(state, "data")),
                sampling_file=self.named(self._path(state, "sampling")),
                tomograms_file=self.named(tomograms) if tomograms else "",
                trajectories_file=self.named(trajectories) if trajectories else "",
                iteration=state.iteration, join_angst=settings.join_angst,
                oversampling=rules.oversampling, adaptive_fraction=settings.adaptive_fraction,
                seed=settings.seed, diameter_angst=rules.diameter_angst,
                mask_edge_px=round(options.edge_px), zero_mask=options.zero_mask,
                solvent_fsc=settings.solvent_fsc,
                solvent_mask=self.named(self.out / "run_solvent_mask.mrc") if self.has_mask else "",
                increment=steer.increment, high_fsc=steer.high_fsc, auto_local_order=rules.local_order,
                n_without_gain=steer.n_without_gain, best_resolution_inv_angst=best,
                n_without_changes=steer.n_without_changes, accuracy_deg=steer.accuracy_deg,
                accuracy_angst=steer.accuracy_angst,
                changes_deg=state.changes_deg if known else UNKNOWN,
                changes_angst=state.changes_angst if known else UNKNOWN,
                changes_classes=0.0 if known else 9999999.0, smallest_classes=0 if known else 9999999,
                smallest_deg=steer.smallest_angles_deg, smallest_angst=steer.smallest_offsets_angst,
                has_converged=state.converged, correct_scale=len(self.run.source.series_names) > 1,
                correct_ctf=options.apply_ctf, first_peak=options.first_peak, command=self.command,
            ),
        )  # fmt: skip

    # ---- models

    def _write_model(self, state: State, half: int | None) -> str:
        """Write the model of a half set, or of both in the last iteration; return its path."""
        run, path = self.run, self._path(state, "model", half)
        rows = np.arange(len(run.source)) if half is None else run.rows_of(state.half_set, half)
        write_model(path, self._model(state, half, rows))
        write_angular_distribution(
            self._path(state, "class001_angdist", half), run.grid(state.control.order).directions_deg,
            self._share_of_directions(state, rows), size_px=run.size_px, pixel_size_angst=run.pixel_size_angst,
            diameter_angst=run.rules.diameter_angst, symmetry=run.settings.symmetry,
        )  # fmt: skip
        return path

    def _model(self, state: State, half: int | None, rows: NDArray[np.int64]) -> ModelFile:
        run, steer, source = self.run, state.control, self.run.source
        prior, known = steer.local_prior, state.iteration > 0
        model, images = state.model(half or HALVES[0]), state.images[(half or HALVES[0]) - 1]
        measured = known and model.half == HALVES[0]
        return ModelFile(
            reference=self.named(self._path(state, "class001", half)), size_px=run.size_px,
            pixel_size_angst=run.pixel_size_angst, n_dim=source.n_dim, resolution_angst=1 / steer.resolution_inv_angst,
            current_size_px=state.current_size_px, padding=run.settings.padding,
            sigma_offset_angst=float(np.sqrt(images.sigma2_offset_angst2)),
            prior_mode=int(prior.is_set), sigma_prior_deg=(prior.rot_deg, prior.tilt_deg, prior.psi_deg),
            log_likelihood=images.log_likelihood, p_max=float(state.p_max[rows].mean()) if known else 0.0,
            tau2_fudge=1.0, accuracy_deg=steer.accuracy_deg if measured else 0.0,
            accuracy_angst=steer.accuracy_angst if measured else 0.0,
            fsc=state.fsc, ssnr=model.ssnr, sigma2_map=model.sigma2_map, tau2=model.tau2,
            completeness=model.completeness, orientability=None, group_names=tuple(source.series_names),
            group_n_particles=np.bincount(source.series_index[rows], minlength=len(source.series_names)),
            group_scale=images.scale, sigma2_noise=images.sigma2,
            pdf_direction=self._written_directions(state, model),
        )  # fmt: skip

    def _share_of_directions(self, state: State, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Distribution of particles over directions, whatever the search was restrained to."""
        grid = self.run.grid(state.control.order)
        where = directions_zyx(state.angles_deg[rows][:, :2])
        mates = np.einsum("gij,ni->ngj", self.run.operators, where).reshape(-1, 3)
        distance, nearest = cKDTree(directions_zyx(grid.directions_deg)).query(mates)
        best = np.asarray(distance).reshape(len(rows), -1).argmin(axis=1)
        nearest = np.asarray(nearest).reshape(len(rows), -1)[np.arange(len(rows)), best]
        count = np.bincount(nearest, minlength=grid.n_directions).astype(np.float64)
        return np.asarray(count / max(count.sum(), 1))

    def _written_directions(self, state: State, model: Model) -> NDArray[np.float64]:
        """Distribution over directions as RELION would go on with it: in the frame of the subtomograms."""
        pdf, n = model.pdf_direction, self.run.grid(state.control.order).n_directions
        return pdf if len(pdf) == n and self.run.turns_with_subtomograms() else np.full(n, 1 / n)


def _halves(state: State) -> list[int | None]:
    """Half sets that have a model of their own; in the last iteration there is one of both."""
    return [None] if state.converged else [*HALVES]


# ----------------------------------------------------------------------------------------------------
# Reading


def state_of_relion(
    optimiser: Optimiser, path: Path, run: Run, start: Control, half_set: NDArray[np.int64]
) -> State:
    """Build the state of an iteration from RELION's files.

    Parameters
    ----------
    path
        Of the optimiser file.
    start
        What the job would start with, for what these files do not say.
    half_set
        Of the particles, if these files do not say.

    Raises
    ------
    InputError
        If a file is missing, or belongs to other particles.
    """
    models = [read_model(resolve(name, path)) for name in optimiser.model_files]
    if len(models) != len(HALVES):
        raise InputError(f"{path} is of a finished refinement; continue from one of its iterations")
    sampling = read_sampling(resolve(optimiser.sampling_file, path))
    particles = read_particles(resolve(optimiser.data_file, path), run.source.tilt_series)
    theirs, ours = (list(zip(p.tomogram, p.name, strict=True)) for p in (particles, run.source.particles))
    if theirs != ours:
        raise InputError(f"{optimiser.data_file} holds other particles than the input of this job")

    def column(label: str) -> NDArray[np.float64]:
        return particle_numbers(particles, [label])[:, 0]

    volumes = [read_volume(resolve(model.reference, path)).data for model in models]
    for model, volume in zip(models, volumes, strict=True):
        _check_model(model, volume, path, run, n_directions=len(models[0].pdf_direction))
    turns = run.turns_with_subtomograms()
    return State(
        iteration=optimiser.iteration, control=_control(start, models[0], sampling, optimiser),
        perturbation=sampling.perturbation,
        half_set=half_set if particles.half_set is None else particles.half_set,
        angles_deg=particles.angles_deg, offset_zyx_angst=particles.origin_zyx_angst,
        p_max=column("rlnMaxValueProbDistribution"), log_likelihood=column("rlnLogLikeliContribution"),
        n_significant=column("rlnNrOfSignificantSamples").astype(np.int64),
        models=tuple(
            Model(
                half=half, class_number=1, reference=volume.astype(np.float32),
                # Where our grid has another frame, theirs says nothing.
                pdf_direction=model.pdf_direction if turns else _even(len(model.pdf_direction)),
                ssnr=model.ssnr, tau2=model.tau2, sigma2_map=model.sigma2_map, completeness=model.completeness,
            )
            for half, model, volume in zip(HALVES, models, volumes, strict=True)
        ),
        images=tuple(_image_model(model, run) for model in models),
        fsc=models[0].fsc, current_size_px=models[0].current_size_px, changes_deg=optimiser.changes_deg,
        changes_angst=optimiser.changes_angst, converged=optimiser.has_converged,
    )  # fmt: skip


def _even(n: int) -> NDArray[np.float64]:
    return np.full(n, 1 / max(n, 1))


def _check_model(
    model: ModelFile, volume: NDArray[np.float32], path: Path, run: Run, *, n_directions: int
) -> None:
    """Refuse a model of other images."""
    for size in (model.size_px, *volume.shape):
        if size != run.size_px:
            raise InputError(f"{model.reference} has a box of {size} px, the particles one of {run.size_px}")
    if not model.resolution_angst > 0:
        raise InputError(
            f"{path}: a model file states a resolution of {model.resolution_angst:g} Å; go on from another iteration"
        )
    n_groups = len(run.source.particles.optics)
    if len(model.sigma2_noise) != n_groups:
        raise InputError(
            f"{path}: its model files have {len(model.sigma2_noise)} optics groups, the particles {n_groups}; go on "
            "from another iteration"
        )
    if len(model.pdf_direction) != n_directions:
        raise InputError(f"{path}: its two model files are of other directions; go on from another iteration")


def _control(start: Control, model: ModelFile, sampling: Sampling, optimiser: Optimiser) -> Control:
    resolution = model.resolution_angst
    return replace(
        start, order=sampling.order, offset_range_angst=sampling.offset_range_angst,
        offset_step_angst=sampling.offset_step_angst,
        resolution_inv_angst=1 / resolution if np.isfinite(resolution) else start.resolution_inv_angst,
        increment=optimiser.increment, high_fsc=optimiser.high_fsc, p_max=model.p_max,
        n_without_gain=optimiser.n_without_gain, n_without_changes=optimiser.n_without_changes,
        smallest_angles_deg=optimiser.smallest_deg, smallest_offsets_angst=optimiser.smallest_angst,
        changes_offsets_angst=optimiser.changes_angst, local_prior=AngularPrior(*model.sigma_prior_deg),
        accuracy_deg=optimiser.accuracy_deg, accuracy_angst=optimiser.accuracy_angst,
    )  # fmt: skip


def _image_model(model: ModelFile, run: Run) -> ImageModel:
    scale = dict(zip(model.group_names, model.group_scale, strict=True))
    names = run.source.series_names
    return ImageModel(
        sigma2=model.sigma2_noise,
        noise=np.ones((len(names), run.source.n_tilts, run.n_shells)),
        temperature=1.0,
        scale=np.array([scale.get(name, 1.0) for name in names], dtype=np.float64),
        sigma2_offset_angst2=model.sigma_offset_angst**2,
        log_likelihood=float(model.log_likelihood),
    )
