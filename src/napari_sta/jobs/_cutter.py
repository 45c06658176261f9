"""Subtomograms of one tomogram: windows around its particles made into stacks or volumes, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_sta.jobs._job import Context
from napari_sta.jobs._params import window_px
from napari_sta.jobs._subtomogram_files import Writer, weights_path, write_subtomogram

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_sta.data.particles import Particles
    from napari_sta.data.tilt_series import TiltSeries
    from napari_sta.engine.geometry import TiltGeometry
    from napari_sta.io.relion.inputs import StaInputs
    from napari_sta.jobs.extract import Extract
    from napari_sta.kernels.windows import Contrast


_FFT_BATCH = 16
_BUFFER_BYTES = 48 * 2**20  # images of one batch of particles held before they are written
_LARGE_BUFFER_BYTES = 256 * 2**20  # where every batch has to read the tilt images again
_CACHE_BYTES = 512 * 2**20  # a tilt series up to this size is kept in memory while its particles are cut


def floats_of_first_batch(n_particles: int, n_tilts: int, edge_px: int) -> int:
    """Return how many numbers the images of the first batch of 2D stacks are at most."""
    return min(_BUFFER_BYTES // 4, n_particles * n_tilts * edge_px**2)


class Cutter:
    """Extracts the particles of one tomogram."""

    def __init__(
        self, job: Extract, series: TiltSeries, particles: Particles, inputs: StaInputs, context: Context,
        pool: ThreadPoolExecutor, writer: Writer,
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

    def extract(self, files: list[Path], writer: Writer) -> Iterator[tuple[int, int]]:
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
                shapes[weights_path(path)] = (2 * self.crop, self.crop, self.crop // 2 + 1)
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
        weights = None if self.job.stack2d else [weights_path(Path(name)).as_posix() for name in names]
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

        from napari_sta.kernels.crop import circle_crop, cut_windows
        from napari_sta.kernels.devices import HostCopies
        from napari_sta.kernels.extraction import contrast_spectra, images_from, middle_images
        from napari_sta.kernels.windows import window_corners

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
                write_subtomogram, path, result.data[i].numpy(), result.weight[i].numpy(),
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
