"""What a refinement leaves behind after every iteration: RELION's files, and a checkpoint of our own."""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from napari_sta.data.errors import InputError
from napari_sta.data.volume import Volume
from napari_sta.io import refinement as files
from napari_sta.io.files import path_for, remove_written, replacing, resolve
from napari_sta.io.mrc import read_volume, write_volume
from napari_sta.io.relion import particle_numbers, read_particles, write_optimisation_set
from napari_sta.jobs._refine_loop import HALVES, Maps, Refinement, State
from napari_sta.kernels.refine import control
from napari_sta.kernels.refine.sampling import AngularPrior, angular_step_deg, directions_zyx

if TYPE_CHECKING:
    from napari_sta.io.relion import StaInputs

_OURS = re.compile(
    r"run(_it(?P<number>\d{3,}))?(_half[12])?_(class001.*|(data|model|sampling|optimiser|optimisation_set)\.star|"
    r"checkpoint\.npz|solvent_mask\.mrc|history\.json)"
)
"""Names of what a refinement writes."""

_FORMAT = 2
"""Of the checkpoint; another number is another layout."""


@dataclass(frozen=True)
class Writer:
    """Writes the files of iterations.

    Attributes
    ----------
    out
        The job's folder.
    inputs
        What the particles came from.
    loop
        The refinement.
    start
        State of the sampling at the beginning.
    first_peak, zero_mask, has_mask
        Options that RELION's files record.
    command
        Command line, for the comment of the optimiser file.
    fingerprint
        Of values and inputs: a checkpoint belongs to one.
    """

    out: Path
    inputs: StaInputs
    loop: Refinement
    start: control.Control
    first_peak: bool
    zero_mask: bool
    has_mask: bool
    command: str
    fingerprint: str

    @property
    def root(self) -> str:
        """First part of all names."""
        return str(self.out / "run")

    def _named(self, name: str) -> str:
        return path_for(name, self.out)

    def write(self, state: State, maps: Maps | None, before: State | None = None) -> None:
        """Write everything of one iteration, its checkpoint last."""
        number = None if state.converged else state.iteration
        name = self._name(number)
        pixel = self.loop.pixel
        if not state.converged:
            for half in HALVES:
                volume = Volume(state.references[half], pixel)
                write_volume(name("class001", half + 1), volume)
        if maps is not None:
            for half, one in enumerate(maps.unfiltered or []):
                write_volume(name("class001_unfil", half + 1), Volume(one.numpy().astype(np.float32), pixel))
            if maps.merged is not None:
                write_volume(name("class001", None), Volume(maps.merged.numpy().astype(np.float32), pixel))
        self._write_tables(state, before, name)
        self._write_checkpoint(state)

    def _name(self, number: int | None) -> Any:
        def name(what: str, half: int | None = None) -> str:
            return files.iteration_name(self.root, number, what, half)

        return name

    def _write_tables(self, state: State, before: State | None, name: Any) -> None:
        loop, steer, rules = self.loop, state.control, self.loop.rules
        grid = loop.grid(steer.order)
        particles = replace(
            loop.source.particles,
            angles_deg=state.angles_deg,
            origin_zyx_angst=state.offset_zyx_angst,
            half_set=loop.half_set,
        )
        known = state.iteration > 0
        files.write_refined_particles(
            name("data"), particles, group_number=loop.source.series_index + 1,
            log_likelihood=state.log_likelihood if known else None, p_max=state.p_max if known else None,
            n_significant=state.n_significant if known else None,
        )  # fmt: skip
        write_optimisation_set(
            name("optimisation_set"),
            particles=name("data"),
            tomograms=self.inputs.tomograms_path,
            trajectories=self.inputs.trajectories_path,
            other_entries={},
        )
        step = angular_step_deg(steer.order)
        start_step = angular_step_deg(self.start.order)
        files.write_sampling(
            name("sampling"),
            files.Sampling(
                order=steer.order, symmetry=loop.settings.symmetry, psi_step_deg=step,
                offset_range_angst=steer.offset_range_angst, offset_step_angst=steer.offset_step_angst,
                perturbation=state.perturbation, perturbation_factor=loop.settings.perturbation_factor,
                order_original=self.start.order, psi_step_original_deg=start_step,
                offset_range_original_angst=self.start.offset_range_angst,
                offset_step_original_angst=self.start.offset_step_angst, directions_deg=grid.directions_deg,
            ),
        )  # fmt: skip
        models = []
        halves = [None] if state.converged else [1, 2]
        for half in halves:
            path = name("model", half)
            models.append(self._named(path))
            files.write_model(path, self._model(state, half, name))
            h = 0 if half is None else half - 1
            files.write_angular_distribution(
                name("class001_angdist", half), grid.directions_deg, self._shown_directions(state, h),
                size_px=loop.size, pixel_size_angst=loop.pixel, diameter_angst=rules.diameter_angst,
                symmetry=loop.settings.symmetry,
            )  # fmt: skip
        trajectories, tomograms = self.inputs.trajectories_path, self.inputs.tomograms_path
        best = before.control.resolution_inv_angst if before is not None and known else 1 / files.UNKNOWN
        files.write_optimiser(
            name("optimiser"),
            files.Optimiser(
                output_root=self._named(self.root), model_files=tuple(models),
                data_file=self._named(name("data")), sampling_file=self._named(name("sampling")),
                tomograms_file=self._named(str(tomograms)) if tomograms else "",
                trajectories_file=self._named(str(trajectories)) if trajectories else "",
                iteration=state.iteration, join_angst=loop.settings.join_angst,
                oversampling=rules.oversampling, adaptive_fraction=loop.settings.adaptive_fraction,
                seed=loop.settings.seed, diameter_angst=rules.diameter_angst,
                mask_edge_px=round(loop.source.edge_px), zero_mask=self.zero_mask,
                solvent_fsc=loop.settings.solvent_fsc,
                solvent_mask=self._named(str(self.out / "run_solvent_mask.mrc")) if self.has_mask else "",
                increment=steer.increment, high_fsc=steer.high_fsc, auto_local_order=rules.local_order,
                n_without_gain=steer.n_without_gain, best_resolution_inv_angst=best,
                n_without_changes=steer.n_without_changes, accuracy_deg=steer.accuracy_deg,
                accuracy_angst=steer.accuracy_angst,
                changes_deg=state.changes_deg if known else files.UNKNOWN,
                changes_angst=state.changes_angst if known else files.UNKNOWN,
                changes_classes=0.0 if known else 9999999.0, smallest_classes=0 if known else 9999999,
                smallest_deg=steer.smallest_angles_deg, smallest_angst=steer.smallest_offsets_angst,
                has_converged=state.converged, correct_scale=len(loop.source.series_names) > 1,
                correct_ctf=loop.source.apply_ctf, first_peak=self.first_peak, command=self.command,
            ),
        )  # fmt: skip

    def _shown_directions(self, state: State, half: int) -> NDArray[np.float64]:
        """Distribution of the particles over directions, whatever the search was restrained to."""
        loop = self.loop
        grid = loop.grid(state.control.order)
        rows = np.arange(len(loop.source)) if state.converged else loop.rows[half]
        where = directions_zyx(state.angles_deg[rows][:, :2])
        mates = np.einsum("gij,ni->ngj", loop.operators, where).reshape(-1, 3)
        distance, nearest = cKDTree(directions_zyx(grid.directions_deg)).query(mates)
        best = np.asarray(distance).reshape(len(rows), -1).argmin(axis=1)
        nearest = np.asarray(nearest).reshape(len(rows), -1)[np.arange(len(rows)), best]
        count = np.bincount(nearest, minlength=grid.n_directions).astype(np.float64)
        return np.asarray(count / max(count.sum(), 1))

    def _model(self, state: State, half: int | None, name: Any) -> files.Model:
        loop, steer = self.loop, state.control
        h = 0 if half is None else half - 1
        rows = np.arange(len(loop.source)) if half is None else loop.rows[h]
        prior = steer.local_prior
        counts = np.bincount(loop.source.series_index[rows], minlength=len(loop.source.series_names))
        known = state.iteration > 0
        return files.Model(
            reference=self._named(name("class001", half)), size_px=loop.size, pixel_size_angst=loop.pixel,
            n_dim=loop.source.n_dim, resolution_angst=1 / steer.resolution_inv_angst, current_size_px=state.current_size,
            padding=loop.settings.padding, sigma_offset_angst=float(np.sqrt(state.sigma2_offset_angst2[h])),
            prior_mode=int(prior.is_set), sigma_prior_deg=(prior.rot_deg, prior.tilt_deg, prior.psi_deg),
            log_likelihood=float(state.mean_log_likelihood[h]),
            p_max=float(state.p_max[rows].mean()) if known else 0.0, tau2_fudge=1.0,
            accuracy_deg=steer.accuracy_deg if h == 0 and known else 0.0,
            accuracy_angst=steer.accuracy_angst if h == 0 and known else 0.0,
            fsc=state.fsc, ssnr=state.ssnr[h], sigma2_map=state.sigma2_map[h], tau2=state.tau2[h],
            completeness=state.completeness[h], orientability=None,
            group_names=tuple(loop.source.series_names), group_n_particles=counts, group_scale=state.scale[h],
            sigma2_noise=state.sigma2[h],
            pdf_direction=self._written_directions(state, h),
        )  # fmt: skip

    def _written_directions(self, state: State, half: int) -> NDArray[np.float64]:
        """Distribution over directions as RELION would go on with it: in the frame of the subtomograms."""
        pdf, n = state.pdf_direction[half], self.loop.grid(state.control.order).n_directions
        return pdf if len(pdf) == n and self.loop.turns_with_subtomograms() else np.full(n, 1 / n)

    # ---- checkpoint

    def _write_checkpoint(self, state: State) -> None:
        arrays = {
            f.name: getattr(state, f.name)
            for f in fields(State)
            if isinstance(getattr(state, f.name), np.ndarray) and f.name != "references"
        }
        plain = {
            f.name: getattr(state, f.name)
            for f in fields(State)
            if f.name not in arrays and f.name not in ("references", "control")
        }
        about = {
            "format": _FORMAT,
            "fingerprint": self.fingerprint,
            "control": asdict(state.control),
            "plain": plain,
            "half_set": self.loop.half_set.tolist(),
            "particles": _names(self.loop),
            "size_px": self.loop.size,
        }
        with (
            replacing(checkpoint_path(self.out, state.iteration)) as temporary,
            open(temporary, "wb") as file,
        ):
            np.savez(file, about=np.array(json.dumps(about)), **arrays)


def _names(loop: Refinement) -> str:
    """Tell particle sets apart: names and their order."""
    names = "\n".join(map(str, loop.source.particles.name))
    return hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()


def checkpoint_path(out: Path, iteration: int) -> Path:
    """Name the checkpoint of an iteration."""
    return out / f"run_it{iteration:03d}_checkpoint.npz"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds; the state lacks its references, which are the iteration's half maps."""

    state: State
    half_set: NDArray[np.int64]
    fingerprint: str
    particles: str
    size_px: int

    def check(self, loop: Refinement, path: Path) -> None:
        """Refuse to go on with other particles.

        Raises
        ------
        InputError
            If they, or their box, are not those of the checkpoint.
        """
        if self.particles != _names(loop) or self.size_px != loop.size:
            raise InputError(
                f"{path} is of other particles than the input of this job (or of another order or box); leave the "
                "particle set out, it is taken from there, or start a new refinement from its half maps"
            )


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and its half maps.

    Raises
    ------
    InputError
        If it, or a map that belongs to it, is missing or damaged.
    """
    try:
        arrays = _arrays(path)
        about: dict[str, Any] = json.loads(str(arrays.pop("about")))
        if about.get("format") != _FORMAT:
            raise InputError(f"{path} was written by another version of napari-sta; start the job anew")
        steer = dict(about["control"])
        steer["local_prior"] = AngularPrior(**steer["local_prior"])
        plain: Mapping[str, Any] = about["plain"]
        if plain["converged"]:
            references = np.zeros((2, 1, 1, 1), np.float32)
        else:
            stem = str(path).removesuffix("_checkpoint.npz")
            references = np.stack([read_volume(f"{stem}_half{h}_class001.mrc").data for h in (1, 2)])
        state = State(control=control.Control(**steer), references=references, **arrays, **plain)
        _check_state(state)
        half_set = np.asarray(about["half_set"], dtype=np.int64)
        if half_set.shape != state.p_max.shape:
            raise ValueError("half sets of another number of particles")
        return Checkpoint(
            state, half_set, str(about["fingerprint"]), str(about["particles"]), int(about["size_px"])
        )
    except InputError:
        raise
    except Exception as error:
        # A damaged file may fail anywhere between here and zlib.
        what = str(error) or type(error).__name__
        raise InputError(f"{path} cannot be read ({what}); continue from an earlier iteration") from None


def _arrays(path: Path) -> dict[str, Any]:
    """Read the arrays of an uncompressed ``.npz``, and no more than the file can hold."""
    found: dict[str, Any] = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED or member.file_size > path.stat().st_size:
                raise ValueError(f"{member.filename} is damaged")
            content = io.BytesIO(archive.read(member))
            version = np.lib.format.read_magic(content)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read(content)
            if math.prod(shape) * dtype.itemsize != member.file_size - content.tell():
                raise ValueError(f"{member.filename} is damaged")
            content.seek(0)
            name = member.filename.removesuffix(".npy")
            found[name] = np.lib.format.read_array(content, allow_pickle=False)
    return found


def _check_state(state: State) -> None:
    """Refuse values that no refinement writes."""
    kinds: dict[str, Any] = {"int": int, "float": (int, float), "bool": bool}
    for part in (state, state.control):
        for one in fields(part):
            value, kind = getattr(part, one.name), kinds.get(str(one.type))
            if kind is not None and (
                not isinstance(value, kind) or isinstance(value, bool) != (kind is bool)
            ):
                raise ValueError(f"{one.name} is {value!r}")
    n = len(state.p_max)
    for name, shape in (("angles_deg", (n, 3)), ("offset_zyx_angst", (n, 3)), ("p_max", (n,))):
        array = getattr(state, name)
        if array.shape != shape or not np.isfinite(array).all():
            raise ValueError(f"{name} is damaged")
    if state.iteration < 0 or not 0 <= state.control.order < 12:
        raise ValueError("iteration or sampling is out of range")


def latest_checkpoint(out: Path, kept: frozenset[str], fingerprint: str) -> Checkpoint | None:
    """Find the last whole checkpoint of these values and inputs; None if there is none.

    Parameters
    ----------
    kept
        Names of files that the job itself wrote there.
    """
    names = [name for name in kept if re.fullmatch(r"run_it\d{3,}_checkpoint\.npz", name)]
    for name in sorted(names, key=lambda name: (len(name), name), reverse=True):
        try:
            found = read_checkpoint(out / name)
        except InputError:
            continue
        if found.fingerprint == fingerprint:
            return found
    return None


def iterations(names: frozenset[str], after: int = -1) -> frozenset[str]:
    """Return which of a refinement's files are of iterations after a given one, or final ones."""
    found = {name: _OURS.fullmatch(name) for name in names}
    return frozenset(
        name for name, one in found.items() if one and (one["number"] is None or int(one["number"]) > after)
    )


def remove_iterations(out: Path, kept: frozenset[str], after: int = -1) -> None:
    """Delete the job's files of iterations after a given one, and final ones: they would be of another run."""
    remove_written(out, iterations(kept, after))


def state_of_relion(
    optimiser: files.Optimiser, path: Path, loop: Refinement, start: control.Control
) -> State:
    """Build the state of an iteration from RELION's files.

    Raises
    ------
    InputError
        If a file is missing, or belongs to other particles.
    """
    models = [files.read_model(resolve(one, path)) for one in optimiser.model_files]
    if len(models) != 2:
        raise InputError(f"{path} is of a finished refinement; continue from one of its iterations")
    sampling = files.read_sampling(resolve(optimiser.sampling_file, path))
    particles = read_particles(resolve(optimiser.data_file, path), loop.source.tilt_series)
    theirs, ours = (list(zip(p.tomogram, p.name, strict=True)) for p in (particles, loop.source.particles))
    if theirs != ours:
        raise InputError(f"{optimiser.data_file} holds other particles than the input of this job")

    def column(label: str) -> NDArray[np.float64]:
        return particle_numbers(particles, [label])[:, 0]

    if particles.half_set is not None:
        loop.set_half_sets(particles.half_set)
    volumes = [read_volume(resolve(one.reference, path)).data for one in models]
    for one, volume in zip(models, volumes, strict=True):
        for size in (one.size_px, *volume.shape):
            if size != loop.size:
                raise InputError(f"{one.reference} has a box of {size} px, the particles one of {loop.size}")
        if not one.resolution_angst > 0:
            raise InputError(
                f"{path}: a model file states a resolution of {one.resolution_angst:g} Å; go on from another iteration"
            )
        if len(one.sigma2_noise) != len(loop.source.particles.optics):
            raise InputError(
                f"{path}: its model files have {len(one.sigma2_noise)} optics groups, the particles "
                f"{len(loop.source.particles.optics)}; go on from another iteration"
            )
        if len(one.pdf_direction) != len(models[0].pdf_direction):
            raise InputError(
                f"{path}: its two model files are of other directions; go on from another iteration"
            )
    references = np.stack(volumes)
    first, n_tilts = models[0], loop.source.n_tilts
    resolution = first.resolution_angst
    inverse = start.resolution_inv_angst if not np.isfinite(resolution) else 1 / resolution
    place = [{name: i for i, name in enumerate(one.group_names)} for one in models]
    scale = np.ones((2, len(loop.source.series_names)))
    for half in HALVES:
        for position, name in enumerate(loop.source.series_names):
            if name in place[half]:
                scale[half, position] = models[half].group_scale[place[half][name]]
    width = AngularPrior(*first.sigma_prior_deg)
    steer = replace(
        start, order=sampling.order, offset_range_angst=sampling.offset_range_angst,
        offset_step_angst=sampling.offset_step_angst, resolution_inv_angst=inverse,
        increment=optimiser.increment, high_fsc=optimiser.high_fsc, p_max=first.p_max,
        n_without_gain=optimiser.n_without_gain, n_without_changes=optimiser.n_without_changes,
        smallest_angles_deg=optimiser.smallest_deg, smallest_offsets_angst=optimiser.smallest_angst,
        changes_offsets_angst=optimiser.changes_angst, local_prior=width,
        accuracy_deg=optimiser.accuracy_deg, accuracy_angst=optimiser.accuracy_angst,
    )  # fmt: skip
    noise = np.ones((2, len(loop.source.series_names), n_tilts, loop.n_shells))
    return State(
        iteration=optimiser.iteration, control=steer, perturbation=sampling.perturbation,
        angles_deg=particles.angles_deg, offset_zyx_angst=particles.origin_zyx_angst,
        p_max=column("rlnMaxValueProbDistribution"), log_likelihood=column("rlnLogLikeliContribution"),
        n_significant=column("rlnNrOfSignificantSamples").astype(np.int64),
        references=references.astype(np.float32),
        sigma2=np.stack([one.sigma2_noise for one in models]), noise=noise, temperature=np.ones(2), scale=scale,
        sigma2_offset_angst2=np.array([one.sigma_offset_angst**2 for one in models]),
        pdf_direction=np.stack([loop.own_directions(one.pdf_direction) for one in models]), fsc=first.fsc,
        ssnr=np.stack([one.ssnr for one in models]), tau2=np.stack([one.tau2 for one in models]),
        sigma2_map=np.stack([one.sigma2_map for one in models]),
        completeness=np.stack([one.completeness for one in models]),
        mean_log_likelihood=np.array([one.log_likelihood for one in models]),
        current_size=first.current_size_px, changes_deg=optimiser.changes_deg,
        changes_angst=optimiser.changes_angst, converged=optimiser.has_converged,
    )  # fmt: skip
