"""Extract subtomos: cut particles out of the tilt images, as 2D stacks or 3D pseudo-subtomograms."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import field_validator, model_validator

from napari_sta.data.errors import InputError
from napari_sta.data.progress import Progress
from napari_sta.io.files import inside
from napari_sta.jobs._job import Context, Node, RunSteps, param
from napari_sta.jobs._params import StaInputsJob, check_boxes, check_window, window_px

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_sta.data.particles import Particles
    from napari_sta.data.tilt_series import TiltSeries
    from napari_sta.engine.geometry import TiltGeometry
    from napari_sta.io.relion.inputs import StaInputs
    from napari_sta.kernels.windows import Contrast

_FFT_BATCH = 16
_BUFFER_BYTES = 48 * 2**20  # images of one batch of particles held before they are written
_LARGE_BUFFER_BYTES = 256 * 2**20  # where every batch has to read the tilt images again
_CACHE_BYTES = 512 * 2**20  # a tilt series up to this size is kept in memory while its particles are cut


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
        with _Writer(context.threads) as writer, ThreadPoolExecutor(max(1, context.threads)) as pool:
            if self.stack2d and surely_cpu(context.device):
                most = max((inputs.tilt_series[name].n_tilts for name in order), default=0)
                edge = self.crop_size_px or self.box_size_px
                writer.get_ready(min(_BUFFER_BYTES // 4, len(particles) * most * edge**2))
            for tomogram in order:
                series = inputs.tilt_series[tomogram]
                rows = np.flatnonzero(particles.tomogram == tomogram)
                group = particles[rows]
                cutter = _Cutter(self, series, group, inputs, context, pool, writer)
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


class _Cutter:
    """Extracts the particles of one tomogram."""

    def __init__(
        self, job: Extract, series: TiltSeries, particles: Particles, inputs: StaInputs, context: Context,
        pool: ThreadPoolExecutor, writer: _Writer,
    ) -> None:  # fmt: skip
        import numpy as np

        from napari_sta.engine.geometry import tilt_geometry
        from napari_sta.io.mrc import image_size_yx_px
        from napari_sta.kernels.devices import surely_cpu
        from napari_sta.kernels.projection import is_visible

        self.job, self.series, self.context, self.pool, self.writer = job, series, context, pool, writer
        self.size = job.box_size_px
        self.crop = job.crop_size_px or job.box_size_px
        self.window_px = window_px(job.box_size_px, job.binning)
        self.binning = self.window_px / self.size
        self.pixel_size_angst = series.pixel_size_angst * self.binning
        self.image_size = image_size_yx_px(series.images[0][0])
        geometry = tilt_geometry(particles, series, inputs.trajectories, self.image_size)
        visible = is_visible(geometry.position_yx_px, self.image_size, self.binning * self.crop / 2)
        if job.max_dose_e_per_angst2:
            visible = visible & (series.dose_e_per_angst2 <= job.max_dose_e_per_angst2)
        keep = visible.sum(axis=1) >= job.min_frames
        self.kept = np.flatnonzero(keep)
        self.particles, self.visible = particles[keep], visible[keep]
        self.geometry: TiltGeometry = geometry.take(self.kept)
        # The compiled kernels know CPUs only, and do without torch.
        self.device: Any = None if surely_cpu(context.device) else context.devices()[0]
        self.compiled = self.device is None or self.device.type == "cpu"
        self._is_cached = 4 * series.n_tilts * self.image_size[0] * self.image_size[1] <= _CACHE_BYTES
        self._images: dict[int, Any] = {}
        if self.compiled and self._is_cached:
            self._store = writer.store((series.n_tilts, self.image_size[1], self.image_size[0]))
        self._envelopes: dict[int, NDArray[np.float32]] = {}
        self._phases: dict[int, tuple[Any, Any]] = {}

    def extract(self, files: list[Path], writer: _Writer) -> Iterator[tuple[int, int]]:
        """Make the stacks and hand them to the writer; yields (particles done, particles written)."""
        import numpy as np

        from napari_sta.io.mrc import is_complete

        todo, kept, out = [], self.context.kept, self.context.out
        for index, path in enumerate(files):
            if not kept:
                todo.append(index)
                continue
            n_images = int(self.visible[index].sum()) if self.job.stack2d else self.crop
            shapes = {path: (n_images, self.crop, self.crop)}
            if not self.job.stack2d:
                shapes[_weights_of(path)] = (2 * self.crop, self.crop, self.crop // 2 + 1)
            for one, shape in shapes.items():
                if str(one.relative_to(out)) not in kept or not is_complete(one, shape):
                    todo.append(index)
                    break
        if len(todo) < len(files):
            yield len(files) - len(todo), 0
        per_particle = 4 * self.series.n_tilts * (self.crop if self.job.stack2d else self.size) ** 2
        if not self.job.stack2d:
            per_particle += 8 * self.crop**3  # data, weights and multiplicity
        room = _BUFFER_BYTES if self._is_cached else _LARGE_BUFFER_BYTES
        batch_size = int(np.clip(room // per_particle, 1, 512))
        make = self._stacks if self.job.stack2d else self._volumes
        for first in range(0, len(todo), batch_size):
            batch = np.array(todo[first : first + batch_size])
            n_written = writer.take(make(batch, [files[i] for i in batch]))
            yield n_written, n_written

    def finished(self, files: list[Path], out: Path) -> Particles:
        """Return the particles as they stand in the stacks: origins folded in, images and tilts named."""
        import numpy as np

        from napari_sta.io.files import path_for
        from napari_sta.io.relion.subtomograms import with_images

        particles = self.particles
        rotation = self.geometry.subtomogram_rotation_zyx
        position = particles.coordinate_zyx_angst - np.einsum(
            "nij,nj->ni", rotation, particles.origin_zyx_angst
        )
        moved = (particles.origin_zyx_angst != 0).any(axis=1)
        position[~moved] = particles.coordinate_zyx_angst[~moved]
        star = out / "particles.star"
        folders = {folder: path_for(folder, star) for folder in {path.parent for path in files}}
        names = [f"{folders[path.parent]}/{path.name}" for path in files]
        weights = None if self.job.stack2d else [_weights_of(Path(name)).as_posix() for name in names]
        return with_images(
            replace(
                particles,
                coordinate_zyx_angst=position,
                origin_zyx_angst=np.zeros_like(particles.origin_zyx_angst),
            ),
            images=names,
            visible=self.visible if self.job.stack2d else None,
            weights=weights,
        )

    def _image(self, tilt: int) -> Any:
        """Return a tilt image: transposed for the compiled kernel, else on the device."""
        import numpy as np

        from napari_sta.io.mrc import read_images

        image = self._images.get(tilt)
        if image is None:
            pixels = read_images([self.series.images[tilt]])[0]
            if self.compiled and self._is_cached:
                image = self._store[tilt]
                image[:] = pixels.T
            elif self.compiled:
                image = np.ascontiguousarray(pixels.T)
            else:
                from napari_sta.kernels.devices import to_device

                image = to_device(pixels, self.device)
            if self._is_cached:
                self._images[tilt] = image
        return image

    def _groups(
        self, tilt: int, batch: NDArray[np.int64], at_once: int
    ) -> Iterator[tuple[NDArray[np.int64], Contrast]]:
        """Yield particles seen in one tilt image, as places in the batch, with their contrast; an optics group each."""
        import numpy as np

        from napari_sta.engine.geometry import ctf_coefficients
        from napari_sta.kernels.windows import Contrast

        seen = np.flatnonzero(self.visible[batch, tilt])
        if not len(seen):
            return
        sign = 1 if self.job.invert_contrast else -1
        envelope = self._envelope(tilt)
        for number in np.unique(self.particles.optics_group[batch[seen]]):
            members = seen[self.particles.optics_group[batch[seen]] == number]
            for first in range(0, len(members), at_once):
                places = members[first : first + at_once]
                coefficients = (
                    ctf_coefficients(self.series, tilt, self.geometry.depth_angst[batch[places], tilt])
                    if self.job.apply_ctf
                    else None
                )
                yield places, Contrast(coefficients, envelope, *self._aberrations(int(number)), sign)

    def _fill(
        self, batch: NDArray[np.int64], images: NDArray[np.float32], slot: NDArray[np.int64], scale: float
    ) -> None:
        """Make the images of a batch of particles; that of place p in tilt t becomes ``images[slot[p, t]]``.

        Images as large as the box are faded at the circle of the crop all the same.
        """
        if self.compiled:
            # A tilt a thread: without barriers between the many short steps.
            tilts = range(self.series.n_tilts)
            list(self.pool.map(lambda tilt: self._fill_tilt(tilt, batch, images, slot, scale), tilts))
        else:
            self._fill_by_torch(batch, images, slot, scale)

    def _fill_tilt(
        self, tilt: int, batch: NDArray[np.int64], images: NDArray[np.float32], slot: NDArray[np.int64],
        scale: float,
    ) -> None:  # fmt: skip
        from napari_sta.kernels.windows import subtomogram_images

        image = None
        for places, contrast in self._groups(tilt, batch, len(batch)):
            image = self._image(tilt) if image is None else image
            subtomogram_images(
                image, self.geometry.position_yx_px[batch[places], tilt], self.window_px, self.size, contrast,
                self.pixel_size_angst, images, slot[places, tilt], circle=self.job.circle_crop,
                radius_px=self.crop / 2, scale=scale,
            )  # fmt: skip

    def _fill_by_torch(
        self, batch: NDArray[np.int64], images: NDArray[np.float32], slot: NDArray[np.int64], scale: float
    ) -> None:
        import torch

        from napari_sta.kernels.crop import circle_crop, cut_windows, window_corners
        from napari_sta.kernels.devices import HostCopies
        from napari_sta.kernels.extraction import contrast_spectra, images_from, middle_images

        with HostCopies(self.device) as copies:
            for tilt in range(self.series.n_tilts):
                image = None
                for places, contrast in self._groups(tilt, batch, _FFT_BATCH):
                    image = self._image(tilt) if image is None else image
                    position = self.geometry.position_yx_px[batch[places], tilt]
                    corner, offset = window_corners(position, self.window_px)
                    windows = cut_windows(image, corner, self.window_px, circle=False)
                    spectra = contrast_spectra(
                        torch.fft.rfft2(windows), offset / self.binning, self.size, scale / self.binning,
                        contrast, self.pixel_size_angst,
                    )  # fmt: skip
                    if images.shape[1] == self.crop:
                        made = middle_images(spectra, self.crop, circle=self.job.circle_crop)
                    else:
                        made = images_from(spectra)
                        made = circle_crop(made, self.crop / 2) if self.job.circle_crop else made
                    copies.copy(made, images, slot[places, tilt])

    def _writes(
        self, images: NDArray[np.float32], batch: NDArray[np.int64], files: list[Path]
    ) -> list[tuple[Any, ...]]:
        """Return the calls that write the stacks of a batch."""
        from napari_sta.io.mrc import write_stack

        ends = self.visible[batch].sum(axis=1).cumsum()
        return [
            (write_stack, path, images[first:last], self.pixel_size_angst, self.job.float16)
            for path, first, last in zip(files, [0, *ends[:-1]], ends, strict=True)
        ]

    def _stacks(self, batch: NDArray[np.int64], files: list[Path]) -> list[tuple[Any, ...]]:

        # Stacks one behind the other, images of each in the order of the tilts.
        slot = self.visible[batch].cumsum().reshape(len(batch), -1) - 1
        images = self.writer.room((int(slot[-1, -1]) + 1, self.crop, self.crop))
        # RELION divides 2D stacks by the binning once more than the mean-preserving binning does.
        self._fill(batch, images, slot, 1 / self.binning)
        return self._writes(images, batch, files)

    def _volumes(self, batch: NDArray[np.int64], files: list[Path]) -> list[tuple[Any, ...]]:
        import numpy as np
        import torch

        from napari_sta.engine.geometry import ctf_coefficients
        from napari_sta.kernels.ctf import ctf_2d
        from napari_sta.kernels.extraction import pseudo_subtomograms
        from napari_sta.kernels.optics import tilt_envelope

        torch.set_num_threads(self.context.threads)

        n, t, s, half = len(batch), self.series.n_tilts, self.size, self.size // 2 + 1
        images = np.zeros((n, t, s, s), np.float32)
        self._fill(batch, images.reshape(-1, s, s), np.arange(n * t).reshape(n, t), 1.0)
        weights = np.zeros((n, t, s, half), np.float32)
        x_end = np.zeros((n, t, s), np.int64)
        k = np.fft.fftfreq(s, self.pixel_size_angst)
        ky, kx = torch.from_numpy(k), torch.from_numpy(np.arange(half) / (s * self.pixel_size_angst))

        for tilt in range(t):
            rows = np.flatnonzero(self.visible[batch, tilt])
            if not len(rows):
                continue
            # The range of the insertion follows the dose even where the CTF is not applied (RELION).
            end = tilt_envelope(s, self.pixel_size_angst, *self._fading(tilt))[1]
            x_end[rows, tilt] = np.fft.ifftshift(end)
            if not self.job.apply_ctf:
                weights[rows, tilt] = 1
                continue
            envelope = self._envelope(tilt)
            groups = self.particles.optics_group[batch[rows]]
            for number in np.unique(groups):
                members = rows[groups == number]
                coefficients = ctf_coefficients(
                    self.series, tilt, self.geometry.depth_angst[batch[members], tilt]
                )
                even = self._aberrations(int(number))[0]
                ctf = ctf_2d(
                    torch.from_numpy(coefficients), ky, kx, None if even is None else torch.from_numpy(even)
                ).numpy()
                weights[members, tilt] = (ctf * envelope) ** 2

        matrices = np.einsum(
            "tij,njk->ntik", self.geometry.tilt_rotation_zyx, self.geometry.subtomogram_rotation_zyx[batch]
        )
        scale = s / (self.crop * self.binning**0.5)
        result = pseudo_subtomograms(
            torch.from_numpy(images), weights, matrices, x_end, self.crop, scale, self.context.threads
        )
        return [
            (
                _write_volume, path, result.data[i].numpy(), result.weight[i].numpy(),
                result.multiplicity[i].numpy(), self.pixel_size_angst, self.job.float16,
            )
            for i, path in enumerate(files)
        ]  # fmt: skip

    def _fading(self, tilt: int) -> tuple[float, float, float, float]:
        series = self.series
        return (
            float(series.dose_e_per_angst2[tilt]), float(series.ctf_scale[tilt]),
            float(series.bfactor_angst2[tilt]), series.bfactor_per_dose,
        )  # fmt: skip

    def _envelope(self, tilt: int) -> NDArray[np.float32]:
        """Amplitude factor of a tilt image in FFTW order."""
        import numpy as np

        from napari_sta.kernels.optics import tilt_envelope

        if tilt not in self._envelopes:
            envelope = np.ones((self.size, self.size // 2 + 1), np.float32)
            if self.job.apply_ctf:
                centred = tilt_envelope(self.size, self.pixel_size_angst, *self._fading(tilt))[0]
                envelope = np.fft.ifftshift(centred, axes=0)
            self._envelopes[tilt] = envelope
        return self._envelopes[tilt]

    def _aberrations(self, number: int) -> tuple[Any, Any]:
        import numpy as np

        from napari_sta.kernels.optics import zernike_phase

        if number not in self._phases:
            group = self.particles.optics_of(number)
            ky = np.fft.fftfreq(self.size, self.pixel_size_angst)
            kx = np.arange(self.size // 2 + 1) / (self.size * self.pixel_size_angst)
            even, odd = (
                zernike_phase(values, ky, kx, odd=is_odd) if any(values) else None
                for values, is_odd in ((group.even_zernike, False), (group.odd_zernike, True))
            )
            self._phases[number] = even, odd
        return self._phases[number]


class _Writer:
    """Writes the files of one batch while the next is computed, across tomograms, and owns their memory.

    Memory that is given back and taken anew for every batch comes back in pieces: the job would grow.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(max(1, threads))
        self._writing: list[Any] = []
        self._rooms: list[Any] = [None, None]
        self._store: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._rooms = [None, None]

    def get_ready(self, n_floats: int) -> None:
        """Meet the memory for two batches while the compiled kernels, a second of pure Python, are loaded."""
        import numpy as np

        from napari_sta.kernels.windows import load_kernels

        self._rooms = [np.empty(n_floats, np.float32) for _ in self._rooms]
        filling = [self._pool.submit(room.fill, 0) for room in self._rooms]
        load_kernels()
        for one in filling:
            one.result()

    def take(self, calls: list[tuple[Any, ...]]) -> int:
        """Start to write a batch; return how many files of the one before are there now."""
        n_finished = self.finish()
        self._writing = [self._pool.submit(*call) for call in calls]
        self._rooms.reverse()
        return n_finished

    def store(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Give room for the tilt images of one tomogram, the same for all of one size."""
        import numpy as np

        if self._store is None or self._store.shape != shape:
            self._store = None
            self._store = np.empty(shape, np.float32)
        store: NDArray[np.float32] = self._store
        return store

    def room(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Give room for the next batch: the same memory over and over, while the other half is being written."""
        import numpy as np

        size = int(np.prod(shape))
        if self._rooms[0] is None or len(self._rooms[0]) < size:
            self._rooms[0] = None  # before the new one, not after
            self._rooms[0] = np.empty(size, np.float32)
        room: NDArray[np.float32] = self._rooms[0][:size].reshape(shape)
        return room

    def finish(self) -> int:
        """Wait for the batch that is being written; the first failure is raised here."""
        for one in self._writing:
            one.result()
        n_finished, self._writing = len(self._writing), []
        return n_finished


def _weights_of(path: Path) -> Path:
    return path.with_name(path.name.removesuffix("_data.mrc") + "_weights.mrc")


def _write_volume(
    path: Path,
    data: NDArray[np.float32],
    weight: NDArray[np.float32],
    multiplicity: NDArray[np.float32],
    pixel_size_angst: float,
    float16: bool,
) -> None:
    """Write weights first: a data file that is there says that its weights are too."""
    import numpy as np

    from napari_sta.data.volume import Volume
    from napari_sta.io.mrc import write_volume

    both = np.concatenate([weight, multiplicity])
    write_volume(_weights_of(path), Volume(both, 1 / pixel_size_angst))
    write_volume(path, Volume(data, pixel_size_angst), float16)
