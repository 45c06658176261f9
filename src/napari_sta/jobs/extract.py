"""Extract subtomos: cut particles out of the tilt images, as 2D stacks or 3D pseudo-subtomograms."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import field_validator, model_validator

from napari_sta.data.errors import InputError
from napari_sta.data.progress import Progress
from napari_sta.io.files import inside
from napari_sta.jobs._job import Context, Node, RunSteps, param
from napari_sta.jobs._params import StaInputsJob, check_boxes, check_window

if TYPE_CHECKING:
    from napari_sta.data.particles import Particles
    from napari_sta.io.relion.inputs import StaInputs


class Extract(StaInputsJob):
    """Cut each particle out of the tilt images that show it.

    Windows are centred to a fraction of a pixel, binned in Fourier space, multiplied by CTF and dose weight,
    inverted in contrast, background-subtracted and written as one 2D stack per particle, or back-projected
    into one small volume with its weights. Particles that are finished are kept when the job is resumed.
    """

    label: ClassVar[str] = "Extract subtomos"
    folder: ClassVar[str] = "Extract"
    relion_type: ClassVar[str] = "relion.pseudosubtomo"
    order: ClassVar[int] = 10
    uses_torch: ClassVar[bool] = False  # only on a GPU and for 3D subtomograms; importing it takes a second
    outputs: ClassVar[dict[str, Node]] = {
        "particles.star": Node("ParticleGroupMetadata.star.relion.tomo.extract", 1, "extracted particles"),
        "optimisation_set.star": Node("TomoOptimisationSet.star.relion.tomo.extract", 1, "extracted set"),
    }

    binning: float = param(
        1.0, title="Binning factor", tab="Reconstruct", relion="binning", flag="--bin", ge=1, le=1000,
        help="A pixel of the subtomogram is this many tilt-image pixels.",
    )  # fmt: skip
    box_size_px: int = param(
        128, title="Box size", unit="binned px", tab="Reconstruct", relion="box_size", flag="--b", gt=0,
        help="Edge of the window in which CTF and binning are applied; even.",
    )  # fmt: skip
    crop_size_px: int | None = param(
        None, title="Cropped box size", unit="binned px", tab="Reconstruct", relion="crop_size", flag="--crop",
        help="Edge of the subtomograms that are written; even, at most the box size. Empty: the box size.",
    )  # fmt: skip
    max_dose_e_per_angst2: float | None = param(
        None, title="Maximum dose", unit="e/Å²", tab="Reconstruct", relion="max_dose", flag="--max_dose",
        help="Tilt images with more dose before their exposure are left out. Empty: all are used.",
    )  # fmt: skip
    min_frames: int = param(
        1, title="Minimum nr. frames", tab="Reconstruct", relion="min_frames", flag="--min_frames", ge=1, le=100_000,
        help="Particles seen in fewer tilt images are dropped.",
    )  # fmt: skip
    stack2d: bool = param(
        True, title="Write output as 2D stacks?", tab="Reconstruct", relion="do_stack2d", flag="--stack2d",
        help="No: 3D pseudo-subtomograms, data and weights.",
    )  # fmt: skip
    float16: bool = param(
        True, title="Write output in float16?", tab="Reconstruct", relion="do_float16", flag="--float16",
        help="Half the disk space; weights of 3D subtomograms are always float32.",
    )  # fmt: skip
    apply_ctf: bool = param(
        True, title="Multiply by CTF and dose weights", tab="Reconstruct", flag="--no_ctf", advanced=True,
        help="No: images are only centred, binned and turned in contrast.",
    )  # fmt: skip
    invert_contrast: bool = param(
        True, title="Invert contrast", tab="Reconstruct", flag="--no_ic", advanced=True,
        help="Yes: dark protein becomes bright.",
    )  # fmt: skip
    circle_crop: bool = param(
        True, title="Circle crop", tab="Reconstruct", flag="--no_circle_crop", advanced=True,
        help="Subtract the background outside the inscribed circle of the cropped box and fade to zero at it.",
    )  # fmt: skip

    @field_validator("crop_size_px", "max_dose_e_per_angst2", mode="before")
    @classmethod
    def _minus_one_is_empty(cls, value: Any) -> Any:
        # RELION writes "not given" as -1.
        return None if str(value).strip() in {"-1", "-1.0"} else value

    @model_validator(mode="after")
    def _legal_boxes(self) -> Self:
        check_boxes(self.box_size_px, self.crop_size_px)
        return self

    def check(self) -> None:
        """Read the particle set and the tilt series tables, and see where names lead."""
        self._stems(self._checked_inputs())

    def warnings(self) -> list[str]:
        """Say what of the inputs looks odd."""
        return list(self.load().warnings)

    def run(self, context: Context) -> RunSteps:
        """Extract tomogram by tomogram, then write the particle set."""
        import numpy as np

        from napari_sta.data.particles import concatenate
        from napari_sta.io.relion.particles import write_particles
        from napari_sta.io.relion.trajectories import write_trajectories
        from napari_sta.jobs._cutter import Cutter, floats_of_first_batch
        from napari_sta.jobs._subtomogram_files import Writer
        from napari_sta.kernels.devices import surely_cpu

        inputs = self._checked_inputs()
        particles = inputs.particles
        stems = self._stems(inputs)
        for folder in {stem.rpartition("/")[0] for stem in stems}:
            inside(context.out, f"{folder}/x", f"{inputs.particles_path}, rlnTomoParticleName")
        order = [name for name in inputs.tilt_series if name in set(particles.tomogram)]
        pixel_of: dict[int, float] = {}
        kept: list[Particles] = []
        done, written, total = 0, 0, len(particles)
        # One pool for all: threads that come and go leave their memory behind.
        with Writer(context.threads) as writer, ThreadPoolExecutor(max(1, context.threads)) as pool:
            if self.stack2d and surely_cpu(context.device):
                most = max((inputs.tilt_series[name].n_tilts for name in order), default=0)
                edge = self.crop_size_px or self.box_size_px
                writer.get_ready(floats_of_first_batch(len(particles), most, edge))
            for tomogram in order:
                series = inputs.tilt_series[tomogram]
                rows = np.flatnonzero(particles.tomogram == tomogram)
                group = particles[rows]
                cutter = Cutter(self, series, group, inputs, context, pool, writer)
                for number in np.unique(group.optics_group):
                    # RELION states binning times the group's pixel; a window rounded to even is a little off it.
                    pixel_of[int(number)] = group.optics_of(int(number)).pixel_size_angst * cutter.binning
                done += len(group) - len(cutter.particles)
                files = [context.out / f"{stems[row]}{self._suffix()}" for row in rows[cutter.kept]]
                for n_done, n_written in cutter.extract(files, writer):
                    done, written = done + n_done, written + n_written
                    yield Progress(done, total, f"{tomogram}")
                kept.append(cutter.finished(files, context.out))
            n_written = writer.finish()
            done, written = done + n_written, written + n_written
            yield Progress(done, total, "written")
        kept = [group for group in kept if len(group)]
        if not kept:
            raise InputError(
                f"no particle of {inputs.particles_path} is seen in {self.min_frames} tilt images with its whole "
                f"cropped box ({self.crop_size_px or self.box_size_px} px at binning {self.binning:g}); take a "
                "smaller crop_size_px or min_frames, or check coordinates and alignment"
            )
        result = concatenate(kept)
        n_dropped = total - len(result)
        if n_dropped:
            context.log.warning(
                "%d of %d particles are dropped: seen in fewer than %d tilt images",
                n_dropped,
                total,
                self.min_frames,
            )
        result = self._described(result, pixel_of)
        path = context.out / "particles.star"
        write_particles(path, result)
        trajectories_path = None
        if inputs.trajectories is not None and n_dropped:
            names = set(result.name.tolist())
            shifts = inputs.trajectories.shift_zyx_angst
            trajectories_path = context.out / "motion.star"
            write_trajectories(
                trajectories_path,
                replace(inputs.trajectories, shift_zyx_angst={k: v for k, v in shifts.items() if k in names}),
            )
        inputs.write_set(context.out / "optimisation_set.star", path, trajectories_path)
        return {
            "n_particles": len(result),
            "n_dropped": n_dropped,
            "n_written": written,
            "pixel_size_angst": round(next(iter(pixel_of.values())), 6),
            "box_size_px": self.crop_size_px or self.box_size_px,
            "summary": f"{len(result)} particles extracted"
            + (f", {n_dropped} dropped" if n_dropped else "")
            + (f", {len(result) - written} kept from an earlier run" if written < len(result) else "")
            + ".",
        }

    def relion_command(self, out: str) -> str | None:
        """Return the ``relion_tomo_subtomo`` line."""
        words = ["relion_tomo_subtomo", *self.sta_flags(), "--theme classic", f"--o {out}"]
        words += [f"--b {self.box_size_px}", f"--bin {self.binning:g}", f"--min_frames {self.min_frames}"]
        if self.crop_size_px:
            words.append(f"--crop {self.crop_size_px}")
        if self.max_dose_e_per_angst2:
            words.append(f"--max_dose {self.max_dose_e_per_angst2:g}")
        for given, flag in (
            (self.stack2d, "--stack2d"),
            (self.float16, "--float16"),
            (not self.apply_ctf, "--no_ctf"),
            (not self.invert_contrast, "--no_ic"),
            (not self.circle_crop, "--no_circle_crop"),
        ):
            words += [flag] if given else []
        return " ".join(words)

    def _suffix(self) -> str:
        return "_stack2d.mrcs" if self.stack2d else "_data.mrc"

    def _checked_inputs(self) -> StaInputs:
        inputs = self.load()
        if len(inputs.particles) == 0:
            raise InputError(f"{inputs.particles_path} has no particles")
        check_window(inputs, self.box_size_px, self.binning)
        return inputs

    def _stems(self, inputs: StaInputs) -> list[str]:
        """Return how each particle's files begin, seen from the output folder.

        Raises
        ------
        InputError
            If a name leads elsewhere or cannot be read again, or two particles would have one file.
        """
        particles, path = inputs.particles, inputs.particles_path
        names, tomograms = particles.name.tolist(), particles.tomogram.tolist()
        if "/" not in str(names[0]):  # as RELION decides it
            names = [f"{tomogram}/{name}" for tomogram, name in zip(tomograms, names, strict=True)]
        first: dict[str, int] = {}
        folders: set[str] = set()
        for row, name in enumerate(names):
            other = first.setdefault(name, row)
            if other != row:
                raise InputError(
                    f"{path}: particles {other + 1} and {row + 1} both have rlnTomoParticleName "
                    f"{particles.name[row]}, so one would overwrite the other's images; give each particle of a "
                    "tomogram a name of its own, or delete the column, then they are numbered"
                )
            if "@" in name:
                raise InputError(
                    f"{path}, row {row + 1}: the name {name[:80]!r} of a particle's images holds @, after which RELION "
                    "looks for the name of a stack; take the @ out of rlnTomoParticleName and rlnTomoName"
                )
            folder, _, last = name.rpartition("/")
            if folder not in folders or last in ("", ".", "..") or not last.isprintable():
                # No folder is known yet; links in it are looked for once it is.
                inside(
                    "…/Subtomograms",
                    name,
                    f"{path}, row {row + 1}, rlnTomoParticleName {particles.name[row] or '(empty)'}",
                )
                folders.add(folder)
        return [f"Subtomograms/{name}" for name in names]

    def _described(self, particles: Particles, pixel_of: dict[int, float]) -> Particles:
        """State in optics groups and the general table what the subtomograms are."""
        from napari_sta.io.relion.subtomograms import with_subtomogram_kind

        optics = []
        for group in particles.optics:
            pixel = pixel_of.get(group.number, group.pixel_size_angst * self.binning)
            optics.append(
                replace(
                    group, image_pixel_size_angst=pixel, image_size_px=self.crop_size_px or self.box_size_px
                )
            )
        return with_subtomogram_kind(
            replace(particles, optics=tuple(optics)),
            stack2d=self.stack2d,
            premultiplied=self.apply_ctf or not self.stack2d,
            binning=self.binning,
        )
