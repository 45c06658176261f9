"""3D auto-refine: gold-standard refinement of poses against half maps."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import field_validator, model_validator

from napari_sta.data.errors import InputError
from napari_sta.data.progress import Progress
from napari_sta.io.files import resolve, sha256
from napari_sta.jobs._job import Context, Node, RunSteps, param
from napari_sta.jobs._params import StaInputsJob, check_symmetry

if TYPE_CHECKING:
    import logging

    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from napari_sta.data.volume import Volume
    from napari_sta.io.refinement import Optimiser
    from napari_sta.io.relion import StaInputs
    from napari_sta.jobs._maps import Grid
    from napari_sta.jobs._ranks import Ranks
    from napari_sta.jobs._refine_loop import Refinement, State
    from napari_sta.kernels.refine.control import Control

Sampling = Literal["30", "15", "7.5", "3.7", "1.8", "0.9", "0.5", "0.2", "0.1"]
"""Angular steps of the fine grid as RELION's GUI names them."""

_SAMPLINGS: tuple[str, ...] = ("30", "15", "7.5", "3.7", "1.8", "0.9", "0.5", "0.2", "0.1")
_SAMPLING_CHOICES = {one: f"{one} degrees" for one in _SAMPLINGS}
_EDGE_PX = 5.0
_MOST_ITERATIONS = 999
_MOST_STEPS = 100  # of offsets in one direction; each is tried with each orientation
_SURE_FIT = 8.0
"""Standard errors by which the fitted grey scale must differ from 0 to be believed."""


def _as_sampling(value: Any) -> Any:
    """Take 7.5, "7.5 degrees" and 1.875 as well."""
    text = str(value).strip().removesuffix("degrees").strip()
    try:
        number = float(text)
    except ValueError:
        return value
    near = min(_SAMPLINGS, key=lambda one: abs(float(one) / number - 1) if number > 0 else 1e9)
    return near if number > 0 and abs(float(near) / number - 1) < 0.25 else value


def healpix_order(sampling_deg: str) -> int:
    """HEALPix order of the coarse grid whose fine grid has the named step: 30 degrees is 0."""
    return _SAMPLINGS.index(sampling_deg)


class Refine(StaInputsJob):
    """Refine orientations and positions of extracted particles against two independent half maps.

    Starts from 2D stacks or 3D subtomograms, of napari-sta or RELION, a reference map and a mask; each half set
    is refined on its own, sampling gets finer by itself, and the job ends when neither resolution nor poses change. Every
    iteration is written with RELION's names, and an interrupted job can be resumed.
    """

    label: ClassVar[str] = "3D auto-refine"
    folder: ClassVar[str] = "Refine3D"
    relion_type: ClassVar[str] = "relion.refine3d"
    order: ClassVar[int] = 60
    uses_ranks: ClassVar[bool] = True
    may_grow: ClassVar[frozenset[str]] = frozenset({"max_iterations"})
    is_long: ClassVar[bool] = True
    outputs: ClassVar[dict[str, Node]] = {
        "run_class001.mrc": Node("DensityMap.mrc.relion.refine3d", 1, "refined map"),
        "run_half1_class001_unfil.mrc": Node("DensityMap.mrc.relion.halfmap.refine3d", 1, "half map 1"),
        "run_data.star": Node("ParticleGroupMetadata.star.relion.refine3d", 1, "refined particles"),
        "run_optimisation_set.star": Node("TomoOptimisationSet.star.relion.refine3d", 1, "refined set"),
        "run_optimiser.star": Node("OptimiserData.star.relion.refine3d", 1, "optimiser"),
    }

    in_3dref: str | None = param(
        None, title="Reference map", kind="file:map", relion="fn_ref", flag="--ref",
        help="Start map. If its name contains half1 or half2 (or half_A, half_map_1 and the like), each half set starts "
        "from its own half map. A map that states no pixel size, in the particles' box, gets theirs.",
    )  # fmt: skip
    in_mask: str | None = param(
        None, title="Reference mask", kind="file:mask", relion="fn_mask", flag="--solvent_mask",
        help="Soft mask that is applied to the maps after each iteration. Empty: a sphere of the mask "
        "diameter.",
    )  # fmt: skip
    continue_from: str | None = param(
        None, title="Continue from here", kind="file:optimiser", relion="fn_cont", flag="--continue",
        help="An _optimiser.star of an earlier refinement, ours or RELION's. Options left as they are by default "
        "are taken from that job.",
    )  # fmt: skip
    absolute_greyscale: Literal["Auto", "Yes", "No"] = param(
        "Auto", title="Ref. map is on absolute greyscale", tab="Reference",
        choices={"Auto": "fit it to the images", "Yes": "yes", "No": "no"},
        help="Auto: the grey scale is fitted to the images at their input poses, whatever program made the map. "
        "No: the first iteration uses cross-correlation, as in RELION.",
    )  # fmt: skip
    resize_reference: bool = param(
        True, title="Resize reference if needed", tab="Reference", relion="trust_ref_size", flag="--trust_ref_size",
        help="Bring reference to the box and pixel size of the particles.",
    )  # fmt: skip
    initial_lowpass_angst: float = param(
        60.0, title="Initial low-pass filter", unit="Å", tab="Reference", relion="ini_high", flag="--ini_high", ge=0,
        help="The start map is filtered to this resolution; 0: not at all. Take about the resolution that the "
        "particles have been aligned to.",
    )  # fmt: skip
    symmetry: str = param(
        "C1", title="Symmetry", tab="Reference", relion="sym_name", flag="--sym",
        help="Point group, its axes as in RELION: C1, C6, D2, T, O, I1 to I4.",
    )  # fmt: skip
    ctf_correction: bool = param(
        True, title="Do CTF correction", tab="CTF", relion="do_ctf_correction", flag="--ctf",
        help="No: projections are compared without CTF.",
    )  # fmt: skip
    ignore_ctf_until_first_peak: bool = param(
        False, title="Ignore CTFs until first peak", tab="CTF", relion="ctf_intact_first_peak",
        flag="--ctf_intact_first_peak", help="Take the CTF as 1 up to its first peak.",
    )  # fmt: skip
    mask_diameter_angst: float = param(
        200.0, title="Mask diameter", unit="Å", tab="Optimisation", relion="particle_diameter",
        flag="--particle_diameter", gt=0, help="Of the soft circle that cuts particles out of their images.",
    )  # fmt: skip
    zero_mask: bool = param(
        True, title="Mask individual particles with zeros", tab="Optimisation", relion="do_zero_mask",
        flag="--zero_mask", help="No: the outside is filled with noise.",
    )  # fmt: skip
    solvent_flattened_fsc: bool = param(
        False, title="Use solvent-flattened FSCs", tab="Optimisation", relion="do_solvent_fsc",
        flag="--solvent_correct_fsc",
        help="Measure the FSC within the mask, corrected for the mask by phase randomisation.",
    )  # fmt: skip
    initial_sampling_deg: Sampling = param(
        "7.5", title="Initial angular sampling", unit="deg", tab="Auto-sampling", flag="--healpix_order",
        choices=_SAMPLING_CHOICES, help="Step of the fine grid; the first pass takes twice that.",
    )  # fmt: skip
    offset_range_px: float = param(
        5.0, title="Initial offset range", unit="px", tab="Auto-sampling", relion="offset_range", flag="--offset_range",
        gt=0, help="Shifts up to this are tried.",
    )  # fmt: skip
    offset_step_px: float = param(
        1.0, title="Initial offset step", unit="px", tab="Auto-sampling", relion="offset_step", flag="--offset_step",
        gt=0, help="Step of the fine grid; the first pass takes twice that.",
    )  # fmt: skip
    local_searches_from_deg: Sampling = param(
        "1.8", title="Local searches from auto-sampling", unit="deg", tab="Auto-sampling",
        flag="--auto_local_healpix_order", choices=_SAMPLING_CHOICES,
        help="From this sampling on only orientations near the current one are tried.",
    )  # fmt: skip
    finer_sampling_faster: bool = param(
        False, title="Use finer angular sampling faster", tab="Auto-sampling", relion="auto_faster",
        flag="--auto_ignore_angles --auto_resol_angles",
        help="Refine the sampling as soon as the resolution allows, even while poses still change.",
    )  # fmt: skip
    tilt_prior_width_deg: float | None = param(
        None, title="Prior width on tilt angle", unit="deg", tab="Auto-sampling", relion="sigma_tilt", flag="--sigma_tilt",
        help="Standard deviation of the tilt angle about rlnAngleTiltPrior in global searches. Empty: no prior.",
    )  # fmt: skip
    padding: Literal[1, 2] = param(
        2, title="Padding", tab="Compute", flag="--pad", choices={1: "none (RELION: skip padding)", 2: "twice the box"},
        help="Maps are padded before their transform; 1 takes an eighth of the memory and is less accurate.",
        advanced=True,
    )  # fmt: skip
    seed: int = param(
        1, title="Random seed", tab="Compute", flag="--random_seed", ge=0, le=2**32 - 1,
        help="The same seed, threads and device give the same result.", advanced=True,
    )  # fmt: skip
    max_iterations: int | None = param(
        None, title="Stop after iteration", tab="Compute", flag="--auto_iter_max", gt=0, le=_MOST_ITERATIONS,
        help="Empty: iterate until it has converged. A job stopped this way can be continued.", advanced=True,
    )  # fmt: skip
    relion_parity: bool = param(
        False, title="Do as RELION does", tab="Compute", advanced=True,
        help="Repeat RELION's likelihood, rounding and units step by step instead of the calibrated likelihood "
        "of napari-sta; for comparisons.",
    )  # fmt: skip

    # ---- values

    @field_validator("initial_sampling_deg", "local_searches_from_deg", mode="before")
    @classmethod
    def _known_sampling(cls, value: Any) -> Any:
        return _as_sampling(value)

    @field_validator("padding", mode="before")
    @classmethod
    def _whole_padding(cls, value: Any) -> Any:
        text = str(value).strip()
        return int(text) if text in ("1", "2") else value

    @field_validator("tilt_prior_width_deg", mode="before")
    @classmethod
    def _negative_is_none(cls, value: Any) -> Any:
        # RELION writes "no prior" as -1.
        try:
            return None if float(value) <= 0 else value
        except (TypeError, ValueError, OverflowError):
            return value

    @field_validator("symmetry")
    @classmethod
    def _known_symmetry(cls, value: str) -> str:
        return check_symmetry(value)

    @classmethod
    def needs_inputs(cls, values: Mapping[str, Any]) -> bool:
        """Return whether inputs must be given: a continued job knows its own."""
        return not values.get("continue_from")

    @model_validator(mode="after")
    def _reference_is_given(self) -> Self:
        if self.in_3dref is None and self.continue_from is None:
            raise ValueError("--in_3dref (Reference map) must be given")
        return self

    # ---- before

    def check(self) -> None:
        """Read everything but the images' pixels."""
        import logging

        job, _ = self.with_continued()
        unheard = logging.getLogger("napari_sta.check")
        unheard.disabled = True  # the run says it again
        job._prepared(unheard, 1, quick=True)

    def warnings(self) -> list[str]:
        """Say what looks odd but does not stop the job."""
        from napari_sta.jobs._maps import CLAMP_RINGING, Grid, half_of, mask_warnings

        job, _ = self.with_continued()
        inputs = job.load()
        first = inputs.particles.optics[0]
        assert first.image_size_px is not None
        assert first.image_pixel_size_angst is not None
        grid = Grid(first.image_size_px, first.image_pixel_size_angst, "the particles")
        found = list(inputs.warnings)
        if job.in_3dref:
            for volume in {volume.path: volume for volume in job._references(grid, found)}.values():
                edge = volume.box_px * volume.pixel_size_angst
                if edge < job.mask_diameter_angst:
                    found.append(
                        f"{volume.path} is {edge:.4g} Å a side, less than the mask diameter; what lies beyond is empty"
                    )
        if job.in_mask:
            found += mask_warnings(job.in_mask, grid, CLAMP_RINGING)
        shared = job.in_3dref and half_of(job.in_3dref) is None
        if shared and job.initial_lowpass_angst < 15:
            found.append(
                f"{job.in_3dref} starts both half sets at {job.initial_lowpass_angst:g} Å (0: unfiltered); below about 15 Å give "
                "a half map (half1.mrc), so that the half sets stay independent"
            )
        for label, what in (
            ("rlnMtfFileName", "the detector's MTF"),
            ("rlnMagMat00", "anisotropic magnification"),
            ("rlnBeamTiltX", "beam tilt"),
        ):
            neutral = {"", "None", "0.000000", "0", "1.000000", "1"}
            if any(g.text.get(label, "") not in neutral for g in inputs.particles.optics):
                found.append(
                    f"{what} ({label} of the particle set) is not corrected for; the images are taken as they are"
                )
        if job.solvent_flattened_fsc and not job.in_mask:
            found.append("solvent-flattened FSCs are measured in a sphere, because no mask is given")
        return found

    def read_besides(self) -> dict[str, Any]:
        """Add tilt series, the particles' images, and what was refined before."""
        from napari_sta.jobs._fingerprint import of_files, of_table

        job, optimiser = self.with_continued()
        inputs = job.load()
        images = (
            resolve(str(name).rpartition("@")[2], inputs.particles_path)
            for label in ("rlnImageName", "rlnCtfImage")
            for name in inputs.particles.text.get(label, ())
        )
        found: dict[str, Any] = {
            "tilt series": of_table(inputs.tilt_series),
            "sizes or dates of particle images": of_files(images),
        }
        if optimiser is not None:
            # The particle set that is gone on with, and reference and mask taken over, are named in no field.
            taken = [inputs.particles_path, job.in_3dref, job.in_mask]
            found["particles, reference or mask taken over"] = [
                sha256(resolve(path)) if path else "" for path in taken
            ]
        return found

    def stays(self, out: Path, written: frozenset[str]) -> frozenset[str]:
        """Keep the iterations that the job continues, where it does so in the same folder."""
        from napari_sta.jobs import _refine_files as files

        optimiser = self.with_continued()[1]
        last = self._kept(out, optimiser)
        again = {"run_history.json", "run_solvent_mask.mrc"}  # are written anew without loss
        gone = files.iterations(written, after=last) - again
        return written - gone if last >= 0 else frozenset()

    def complete(self) -> Refine:
        """Return the job with what it takes over from the one it continues."""
        return self.with_continued()[0]

    def with_continued(self) -> tuple[Refine, Optimiser | None]:
        """Return the job with what it takes over from the one it continues."""
        if self.continue_from is None:
            return self, None
        from napari_sta.io.refinement import read_optimiser

        path = resolve(self.continue_from)
        optimiser = read_optimiser(path)
        taken = self._values_of(path, optimiser)
        given = self._changed(self.model_dump())
        if "in_optimisation_set" in given:
            taken = {
                k: v for k, v in taken.items() if k not in ("in_parts", "in_tomograms", "in_trajectories")
            }
        try:
            job = type(self).from_text({**taken, **given})
        except InputError as error:
            raise InputError(
                f"{path.parent} cannot be continued: {error}; continue from an iteration of another job"
            ) from None
        assert isinstance(job, Refine)
        return job, optimiser

    @classmethod
    def _changed(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Leave out what is as by default: records and forms hold every value, given or not."""
        fields = cls.model_fields
        return {k: v for k, v in values.items() if fields[k].is_required() or v != fields[k].get_default()}

    def _values_of(self, path: Path, optimiser: Optimiser) -> dict[str, Any]:
        """Values of the job that an optimiser file belongs to: from its job.json, else from RELION's files."""
        from napari_sta.io.refinement import read_model, read_optimiser, read_sampling

        def found(name: str) -> str:
            return str(resolve(name, path))

        record = path.parent / "job.json"
        if record.exists():
            from napari_sta.jobs._run import read_record

            written = read_record(path.parent)
            # A job that itself continues one says what it took over from it.
            values_are_complete = isinstance(written.get("complete_values"), dict)
            values = written["complete_values" if values_are_complete else "values"]
            values = {k: v for k, v in values.items() if v is not None and k != "max_iterations"}
            for name in (
                "in_optimisation_set",
                "in_parts",
                "in_tomograms",
                "in_trajectories",
                "in_3dref",
                "in_mask",
            ):
                if values.get(name):
                    values[name] = found(str(values[name]))
            before = values.pop("continue_from", None)
            if before is None or values_are_complete:
                return values
            older = resolve(str(before), path)
            if older.parent.resolve() != path.parent.resolve():
                # That job, too, took over what it was not given.
                return {**self._values_of(older, read_optimiser(older)), **self._changed(values)}
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
            "local_searches_from_deg": _SAMPLINGS[min(optimiser.auto_local_order, len(_SAMPLINGS) - 1)],
            "initial_sampling_deg": _SAMPLINGS[min(sampling.order_original, len(_SAMPLINGS) - 1)],
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

    def _prepared(
        self,
        log: logging.Logger,
        threads: int,
        ranks: Ranks | None = None,
        devices: Sequence[torch.device] = (),
        *,
        quick: bool = False,
    ) -> tuple[StaInputs, Refinement, list[Tensor] | None, Control]:
        """Read inputs and set the refinement up."""
        import numpy as np
        import torch

        from napari_sta.jobs._maps import Grid, on_grid
        from napari_sta.jobs._refine_loop import PARITY, Refinement, Settings
        from napari_sta.jobs._refine_source import ParticleSource, are_volumes
        from napari_sta.jobs._refine_volumes import VolumeSource
        from napari_sta.kernels.refine import control
        from napari_sta.kernels.refine.maps import resolution_of

        inputs = self.load()
        kind = VolumeSource if are_volumes(inputs.particles) else ParticleSource
        source = kind(
            inputs, diameter_angst=self.mask_diameter_angst, edge_px=_EDGE_PX, zero_mask=self.zero_mask,
            apply_ctf=self.ctf_correction, first_peak=self.ignore_ctf_until_first_peak, parity=self.relion_parity,
            seed=self.seed,
        )  # fmt: skip
        if quick:
            source.check_stacks()
        size, pixel = source.size_px, source.pixel_size_angst
        if self.mask_diameter_angst > size * pixel:
            raise InputError(
                f"--mask_diameter_angst {self.mask_diameter_angst:g} is larger than the box of the particles "
                f"({size * pixel:.0f} Å); make it smaller, or extract with a larger box"
            )
        if self.mask_diameter_angst < 4 * pixel:
            raise InputError(
                f"--mask_diameter_angst {self.mask_diameter_angst:g} is less than four pixels of the particles ({pixel:.3g} "
                "Å each); give the diameter of the particle in Å"
            )
        if self.offset_range_px > size / 2 or self.offset_range_px > _MOST_STEPS * self.offset_step_px:
            raise InputError(
                f"--offset_range_px {self.offset_range_px:g} with --offset_step_px {self.offset_step_px:g} cannot be "
                f"searched: the range may be half the box ({size // 2} px) and {_MOST_STEPS} steps at most"
            )
        nyquist = 2 * pixel
        if 0 < self.initial_lowpass_angst <= nyquist:
            raise InputError(
                f"--initial_lowpass_angst {self.initial_lowpass_angst:g} is not coarser than the Nyquist limit of the "
                f"particles, {nyquist:.2f} Å"
            )
        if self.initial_lowpass_angst > 2 * size * pixel:
            raise InputError(
                f"--initial_lowpass_angst {self.initial_lowpass_angst:g} leaves nothing of a map in the particles' box of "
                f"{size * pixel:.0f} Å; take a smaller one"
            )
        references = None
        grid = Grid(size, pixel, "the particles")
        if self.in_3dref:
            references = [
                torch.from_numpy(on_grid(one, grid).data.astype(np.float64))
                for one in self._references(grid, [])
            ]
        mask = self._mask(grid)
        order, local = healpix_order(self.initial_sampling_deg), healpix_order(self.local_searches_from_deg)
        rules = control.Rules(
            size, pixel, self.mask_diameter_angst, local_order=local, freeze_last=not self.relion_parity,
            ignore_angles=self.finer_sampling_faster, resolution_angles=self.finer_sampling_faster,
            volumes=source.n_dim == 3,
        )  # fmt: skip
        settings = Settings(
            symmetry=self.symmetry, initial_lowpass_angst=self.initial_lowpass_angst,
            solvent_fsc=self.solvent_flattened_fsc, first_cc=self.absolute_greyscale == "No", seed=self.seed,
            padding=float(self.padding), tilt_prior_deg=self.tilt_prior_width_deg or 0.0,
            quirks=PARITY if self.relion_parity else frozenset(),
        )  # fmt: skip
        halves = self._half_sets(inputs)
        loop = Refinement(source, settings, rules, mask, halves, threads, log, ranks, devices)
        start = control.start(
            rules, order, self.offset_range_px * pixel, 2 * self.offset_step_px * pixel,
            self.initial_lowpass_angst or resolution_of(references, size * pixel),
        )  # fmt: skip
        return inputs, loop, references, start

    def _references(self, grid: Grid, said: list[str]) -> list[Volume]:
        """Read the start map of each half set, as it is."""
        from napari_sta.jobs._maps import agreed_pixel_size, half_of, other_half, read_reference

        assert self.in_3dref is not None
        own = half_of(self.in_3dref)
        if own is None:
            return [read_reference(self.in_3dref, grid, said, resize=self.resize_reference)] * 2
        cure = "rename a map that is none of two halves"
        paths = [self.in_3dref, other_half(self.in_3dref, cure)][:: 1 if own == 1 else -1]
        stated = agreed_pixel_size(paths, said, "in_3dref")
        return [
            read_reference(path, grid, said, resize=self.resize_reference, stated_angst=stated)
            for path in paths
        ]

    def _mask(self, grid: Grid) -> Tensor:
        import torch

        from napari_sta.jobs._maps import CLAMP_RINGING, read_mask
        from napari_sta.kernels.refine.images import soft_disc

        if not self.in_mask:
            radius = self.mask_diameter_angst / (2 * grid.pixel_size_angst)
            return soft_disc(grid.box_px, radius, _EDGE_PX, n_dim=3)
        mask = read_mask(self.in_mask, grid, CLAMP_RINGING)
        return torch.from_numpy(mask.data.astype("f8"))

    def _half_sets(self, inputs: StaInputs) -> NDArray[np.int64]:
        """Half sets as given, or dealt by the seed."""
        import numpy as np

        given = inputs.particles.half_set
        if given is None or not given.any():
            n = len(inputs.particles)
            if n < 2:
                raise InputError(f"{inputs.particles_path} has {n} particle; two half sets need two at least")
            return np.random.default_rng(self.seed).permutation(np.arange(n) % 2 + 1)
        if set(np.unique(given)) != {1, 2}:
            raise InputError(
                f"{inputs.particles_path}: rlnRandomSubset must hold 1 and 2, or nothing at all; found "
                f"{', '.join(map(str, np.unique(given)))}"
            )
        return given.astype(np.int64)

    # ---- the run

    def run(self, context: Context) -> RunSteps:
        """Iterate until it has converged."""
        from napari_sta.data.volume import Volume
        from napari_sta.io.mrc import write_volume
        from napari_sta.io.refinement import read_history
        from napari_sta.jobs import _refine_files as files
        from napari_sta.jobs._ranks import Ranks

        job, optimiser = self.with_continued()
        yield Progress(0, 0, "reading")
        ranks = Ranks.join()
        devices = [one for one in context.devices() if one.type != "cpu"]
        if devices and ranks.size > 1:  # a device a process
            devices = [devices[ranks.local % len(devices)]]
        inputs, loop, references, start = job._prepared(context.log, context.threads, ranks, devices)
        writer = files.Writer(
            out=context.out, inputs=inputs, loop=loop, start=start, first_peak=job.ignore_ctf_until_first_peak,
            zero_mask=job.zero_mask, has_mask=bool(job.in_mask), command=self.command_line(str(context.out)),
            fingerprint=context.fingerprint,
        )  # fmt: skip
        saved = ranks.from_first(
            files.latest_checkpoint(context.out, context.kept, context.fingerprint)
            if ranks.is_first
            else None
        )
        history: list[dict[str, Any]] = []
        if saved is not None and not saved.state.converged:
            loop.set_half_sets(saved.half_set)
            state = saved.state
            if ranks.is_first:
                history = [one for one in read_history(context.out) if one["iteration"] <= state.iteration]
                files.remove_iterations(context.out, context.kept, after=state.iteration)
                _write_history(context.out, history)  # it may be stopped again before an iteration ends
            context.log.info("continuing after iteration %d", state.iteration)
        else:
            if optimiser is not None:
                state = self._continued(optimiser, loop, start, context.log)
            if ranks.is_first:
                after = self._kept(context.out, optimiser)
                files.remove_iterations(context.out, context.kept, after=after)
            if optimiser is None:
                assert references is not None
                state = yield from self._begin(job, loop, references, start, context)
                if ranks.is_first:
                    writer.write(state, None)
        if ranks.is_first and job.in_mask:
            mask = Volume(loop.mask.numpy().astype("f4"), loop.pixel)
            write_volume(context.out / "run_solvent_mask.mrc", mask)
        most = job.max_iterations or _MOST_ITERATIONS
        while not state.converged and state.iteration < most:
            began = time.monotonic()
            before = state
            state, maps = yield from loop.iterate(state)
            told = _report(state, loop, round(time.monotonic() - began, 2))
            if ranks.is_first:
                history.append(told)
                _write_history(context.out, history)  # before the checkpoint that says the iteration is done
                writer.write(state, maps, before)
            context.log.info("%s", told["sentence"])
            yield Progress(len(loop.source), len(loop.source), told["sentence"], told)
        if not state.converged:
            return self._result(state, loop, history) | {
                "summary": f"stopped after iteration {state.iteration}, before it converged; go on with "
                f"--continue_from {writer._named(str(context.out))}/run_it{state.iteration:03d}_optimiser.star"
            }
        return self._result(state, loop, history)

    def _kept(self, out: Path, optimiser: Optimiser | None) -> int:
        """Last iteration in a folder that stays: the one the job goes on from, if it is there."""
        if optimiser is None or self.continue_from is None:
            return -1
        return optimiser.iteration if resolve(self.continue_from).parent.resolve() == out.resolve() else -1

    def _begin(
        self, job: Refine, loop: Refinement, references: list[Tensor], start: Control, context: Context
    ) -> Any:
        """Prepare iteration 0: grey scale and noise."""
        told = Progress(0, len(loop.source), "grey scale and noise at the input poses")
        yield told
        auto = job.absolute_greyscale == "Auto"
        state, fit = yield from loop.in_background(
            lambda: loop.start(references, start, fit_scale=auto), told
        )
        if auto and fit["significance"] < _SURE_FIT:
            context.log.warning(
                "the images do not match the reference at the input poses (%.1f standard errors), so its grey scale "
                "cannot be fitted; the first iteration uses cross-correlation", fit["significance"],
            )  # fmt: skip
            state = replace(state, first_cc=True)
        elif auto:
            context.log.info(
                "grey scale: the reference is multiplied by %.4g (%.0f standard errors)", fit["scale"],
                fit["significance"],
            )  # fmt: skip
        return state

    def _continued(
        self, optimiser: Optimiser, loop: Refinement, start: Control, log: logging.Logger
    ) -> State:
        """State of the iteration that the job continues."""
        from napari_sta.jobs import _refine_files as files

        assert self.continue_from is not None
        path = resolve(self.continue_from)
        ours = files.checkpoint_path(path.parent, optimiser.iteration)
        if ours.exists():
            found = files.read_checkpoint(ours)
            if found.state.converged:
                raise InputError(f"{path} is of a finished refinement; continue from one of its iterations")
            found.check(loop, path)
            loop.set_half_sets(found.half_set)
            return found.state
        state = files.state_of_relion(optimiser, path, loop, start)
        if not self.relion_parity:
            state = loop.with_noise(state)
            log.info("noise of the tilt images was measured at the poses of %s", optimiser.data_file)
        return state

    def _result(self, state: State, loop: Refinement, history: list[dict[str, Any]]) -> dict[str, Any]:
        control = state.control
        resolution = 1 / max(control.resolution_inv_angst, 1e-6)
        return {
            "iterations": state.iteration,
            "converged": state.converged,
            "resolution_angst": round(resolution, 3),
            "accuracy_deg": round(control.accuracy_deg, 3),
            "accuracy_angst": round(control.accuracy_angst, 3),
            "p_max": round(float(state.p_max.mean()), 4),
            "sampling_deg": round(control.fine_step_deg(loop.rules), 4),
            "n_particles": len(loop.source),
            "history": history,
            "summary": f"{'converged after' if state.converged else 'stopped at'} iteration {state.iteration}: "
            f"{resolution:.2f} Å, poses accurate to {control.accuracy_deg:.2f}° and {control.accuracy_angst:.2f} Å",
        }

    # ---- RELION

    def relion_command(self, out: str) -> str | None:
        """Return the ``relion_refine_mpi`` line."""
        words = ["mpirun -n 3 relion_refine_mpi", f"--o {out}run", "--auto_refine --split_random_halves"]
        if self.continue_from:
            return " ".join([words[0], f"--o {out}run", f"--continue {self.continue_from}"])
        for name, flag in (
            ("in_optimisation_set", "--ios"), ("in_parts", "--i"), ("in_tomograms", "--tomograms"),
            ("in_trajectories", "--trajectories"),
        ):  # fmt: skip
            if getattr(self, name):
                words.append(f"{flag} {getattr(self, name)}")
        words.append(f"--ref {self.in_3dref}")
        if self.resize_reference:
            words.append("--trust_ref_size")
        if self.absolute_greyscale != "Yes":
            words.append("--firstiter_cc")
        if self.initial_lowpass_angst > 0:
            words.append(f"--ini_high {self.initial_lowpass_angst:g}")
        if self.ctf_correction:
            words.append("--ctf")
        if self.ignore_ctf_until_first_peak:
            words.append("--ctf_intact_first_peak")
        words.append(f"--particle_diameter {self.mask_diameter_angst:g} --flatten_solvent")
        if self.zero_mask:
            words.append("--zero_mask")
        if self.in_mask:
            words.append(f"--solvent_mask {self.in_mask}")
            if self.solvent_flattened_fsc:
                words.append("--solvent_correct_fsc")
        words.append(f"--oversampling 1 --healpix_order {healpix_order(self.initial_sampling_deg)}")
        words.append(f"--auto_local_healpix_order {healpix_order(self.local_searches_from_deg)}")
        words.append(f"--offset_range {self.offset_range_px:g} --offset_step {2 * self.offset_step_px:g}")
        if self.tilt_prior_width_deg:
            words.append(f"--sigma_tilt {self.tilt_prior_width_deg:g}")
        if self.finer_sampling_faster:
            words.append("--auto_ignore_angles --auto_resol_angles")
        words.append(f"--sym {self.symmetry} --low_resol_join_halves 40 --norm --scale --pad {self.padding}")
        words.append(f"--random_seed {self.seed} --dont_combine_weights_via_disc --pool 30")
        return " ".join(words)

    def relion_switches(self) -> dict[str, str]:
        """Return RELION's options that have another form than ours."""
        return {
            "ref_correct_greyscale": "Yes" if self.absolute_greyscale == "Yes" else "No",
            "sampling": f"{self.initial_sampling_deg} degrees",
            "auto_local_sampling": f"{self.local_searches_from_deg} degrees",
            "do_pad1": "Yes" if self.padding == 1 else "No",
            "do_blush": "No",
            "relax_sym": "",
            "nr_pool": "30",
            "do_combine_thru_disc": "No",
            "nr_mpi": "3",
        }

    @classmethod
    def switched_on(cls, options: Mapping[str, str]) -> dict[str, str]:
        """Translate RELION's options that have another form than ours.

        RELION's "No" to the absolute grey scale means that it is not known: it is fitted then.
        """
        found = dict(options)
        rest = [found.get("other_args", "")]
        for name, ours in (
            ("sampling", "initial_sampling_deg"),
            ("auto_local_sampling", "local_searches_from_deg"),
        ):
            if found.get(name) and f"--{ours}" not in rest[0]:
                rest.append(f"--{ours} {found[name].split()[0]}")
        if found.get("do_pad1") == "Yes" and "--padding" not in rest[0]:
            rest.append("--padding 1")
        if found.get("ref_correct_greyscale") == "Yes" and "--absolute_greyscale" not in rest[0]:
            rest.append("--absolute_greyscale Yes")
        found["other_args"] = " ".join(part for part in rest if part)
        return found


def _report(state: State, loop: Refinement, seconds: float) -> dict[str, Any]:
    """Say what an iteration brought: for logs, docks and ``--json``."""
    control = state.control
    resolution = 1 / max(control.resolution_inv_angst, 1e-6)
    known = control.accuracy_deg < 900
    sentence = (
        f"iteration {state.iteration}: {resolution:.2f} Å, Pmax {state.p_max.mean():.2f}, sampling "
        f"{control.fine_step_deg(loop.rules):.2g}°, changes {state.changes_deg:.2f}° and {state.changes_angst:.2f} Å"
    )
    if known:
        sentence += f", accuracy {control.accuracy_deg:.2f}° and {control.accuracy_angst:.2f} Å"
    return {
        "iteration": state.iteration,
        "phase": "done",
        "sentence": sentence + (", converged" if state.converged else ""),
        "resolution_angst": round(resolution, 4),
        "fsc": [round(float(one), 5) for one in state.fsc],
        "edge_angst": loop.rules.edge_angst,
        "accuracy_deg": control.accuracy_deg if known else None,
        "accuracy_angst": control.accuracy_angst if known else None,
        "p_max": round(float(state.p_max.mean()), 5),
        "sampling_deg": control.fine_step_deg(loop.rules),
        "offset_step_angst": control.fine_offset_step_angst(loop.rules),
        "image_size_px": state.current_size,
        "changes_deg": state.changes_deg,
        "changes_angst": state.changes_angst,
        "temperature": [round(float(one), 3) for one in state.temperature],
        "converged": state.converged,
        "seconds": seconds,
    }


def _write_history(out: Path, history: list[dict[str, Any]]) -> None:
    from napari_sta.io.files import write_text

    write_text(out / "run_history.json", json.dumps(history, indent=1) + "\n")
