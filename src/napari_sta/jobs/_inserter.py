"""Particles of one tomogram, inserted into the sums of a reconstruction."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from napari_sta.jobs._job import Context
from napari_sta.jobs._params import window_px

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_sta.data.particles import Particles
    from napari_sta.data.tilt_series import TiltSeries, Trajectories
    from napari_sta.jobs.reconstruct import Reconstruct


_FFT_BATCH = 32  # windows that a GPU takes at once
_PIECE = 32  # windows that a thread takes at once, at most

_IMAGES_BYTES = 192 * 2**20  # tilt images held while their windows become slices, one at least


class Inserter:
    """Inserts the particles of one tomogram."""

    def __init__(
        self, job: Reconstruct, particles: Particles, series: TiltSeries, trajectories: Trajectories | None,
        pixel_size_angst: float, context: Context,
    ) -> None:  # fmt: skip
        import numpy as np

        from napari_sta.engine.geometry import tilt_geometry
        from napari_sta.io.mrc import image_size_yx_px
        from napari_sta.kernels.optics import zernike_phase
        from napari_sta.kernels.projection import is_visible

        self.job, self.particles, self.series, self.context = job, particles, series, context
        self.size, self.half_box = job.box_size_px, job.box_size_px // 2 + 1
        self.image_size = image_size = image_size_yx_px(series.images[0][0])
        self.geometry = tilt_geometry(particles, series, trajectories, image_size)
        # RELION compares the binned half box with unbinned pixels here; kept, it decides who takes part.
        self.visible = is_visible(self.geometry.position_yx_px, image_size, self.size / 2)
        unseen = int((~self.visible.any(axis=1)).sum())
        if unseen:
            context.log.warning(
                "%d of %d particles of %s lie in no tilt image", unseen, len(particles), series.name
            )
        self.window = window_px(job.box_size_px, job.binning)
        self.binning = self.window / self.size
        self.own_pixel = series.pixel_size_angst * self.binning
        self.matrices = self.geometry.slice_matrices_zyx * (self.own_pixel / pixel_size_angst)
        halves = np.zeros(len(particles), int) if job.merged_only else particles.half_set
        assert halves is not None
        groups = particles.optics_group
        # Half set, optics group and particles.
        self.kinds: list[tuple[int, int, NDArray[np.int64]]] = [
            (int(half), int(number), np.flatnonzero((halves == half) & (groups == number)))
            for half in np.unique(halves)
            for number in np.unique(groups)
        ]
        ky = (np.arange(self.size) - self.size // 2) / (self.size * self.own_pixel)
        kx = np.arange(self.half_box) / (self.size * self.own_pixel)
        self.aberrations: dict[int, tuple[Any, Any]] = {}
        for group in particles.optics:
            even, odd = (
                zernike_phase(coefficients, ky, kx, odd=is_odd) if any(coefficients) else None
                for coefficients, is_odd in ((group.even_zernike, False), (group.odd_zernike, True))
            )
            self.aberrations[group.number] = even, odd

    def _pieces(self, tilt: int, at_once: int) -> list[tuple[int, int, NDArray[np.int64]]]:
        """Particles that one tilt image shows: (half, optics group, members)."""
        return [
            (half, number, seen[first : first + at_once])
            for half, number, mine in self.kinds
            for seen in [mine[self.visible[mine, tilt]]]
            for first in range(0, len(seen), at_once)
        ]

    def _image(self, tilt: int) -> tuple[NDArray[np.float32], Any, Any]:
        """Read one tilt image; also return envelope and ends of its transform."""
        import numpy as np

        from napari_sta.io.mrc import read_images
        from napari_sta.kernels.optics import tilt_envelope

        series = self.series
        if self.job.apply_ctf:
            envelope, x_end = tilt_envelope(
                self.size, self.own_pixel, series.dose_e_per_angst2[tilt], series.ctf_scale[tilt],
                series.bfactor_angst2[tilt], series.bfactor_per_dose,
            )  # fmt: skip
        else:
            envelope = np.ones((self.size, self.half_box), np.float32)
            x_end = np.full(self.size, self.half_box)
        return read_images([series.images[tilt]])[0], envelope, x_end

    def _coefficients(self, tilt: int, members: NDArray[np.int64]) -> NDArray[np.float64] | None:
        from napari_sta.engine.geometry import ctf_coefficients

        if not self.job.apply_ctf:
            return None
        return ctf_coefficients(self.series, tilt, self.geometry.depth_angst[members, tilt])

    def on_cpu(self, sums: dict[Any, Any], room: NDArray[np.float32]) -> Iterator[tuple[int, int]]:
        """Insert everything; yields the number of tilt images and of windows done.

        Windows of several tilt images become slices a thread each, in ``room``, then all threads insert them
        together, in an order that does not depend on the number of threads.
        """
        import numpy as np

        from napari_sta.kernels.windows import Contrast, add_slices, weighed_slices

        images_at_once = max(1, _IMAGES_BYTES // (4 * self.image_size[0] * self.image_size[1]))
        threads, most = max(1, self.context.threads), len(room)
        at_once = max(1, min(_PIECE, most // (2 * threads)))

        def read(tilt: int) -> tuple[Any, ...]:
            image, envelope, x_end = self._image(tilt)
            return np.ascontiguousarray(image.T), envelope, x_end

        def weigh(piece: tuple[Any, ...], place: int) -> NDArray[np.float64]:
            source, tilt, number, members = piece
            image, envelope, x_end = source.result()
            weighed_slices(
                image, self.geometry.position_yx_px[members, tilt], self.window, self.size,
                Contrast(self._coefficients(tilt, members), envelope, *self.aberrations[number]),
                self.own_pixel, x_end, room[place : place + len(members)],
            )  # fmt: skip
            return np.full(len(members), float(x_end[self.size // 2]))

        with ThreadPoolExecutor(threads) as pool:
            for first in range(0, self.series.n_tilts, images_at_once):
                tilts = range(first, min(first + images_at_once, self.series.n_tilts))
                pieces: list[tuple[Any, ...]] = []
                for tilt in tilts:
                    batches = self._pieces(tilt, at_once)
                    if batches:
                        # Those who read are in line before those who wait for it.
                        source = pool.submit(read, tilt)
                    pieces += [(half, source, tilt, *batch) for half, *batch in batches]
                # Half set by half set, so that as many as there is room for go into a volume at once.
                pieces.sort(key=lambda piece: piece[0])
                count, done, told = sum(len(piece[-1]) for piece in pieces), 0, 0
                while pieces:
                    half, places, now = pieces[0][0], [0], []
                    while pieces and pieces[0][0] == half and places[-1] + len(pieces[0][-1]) <= most:
                        now.append(pieces.pop(0)[1:])
                        places.append(places[-1] + len(now[-1][-1]))
                    radii = np.concatenate(list(pool.map(weigh, now, places)))
                    matrices = np.concatenate([self.matrices[members, tilt] for _, tilt, _, members in now])
                    add_slices(room[: places[-1]], matrices, radii, sums[(half, None)], threads)
                    done += places[-1]
                    n_tilts = len(tilts) * done // count - told
                    told += n_tilts
                    yield n_tilts, places[-1]
                yield len(tilts) - told, 0

    def on_gpus(self, sums: dict[Any, Any], devices: list[Any]) -> Iterator[tuple[int, int]]:
        """Insert everything; yields the number of tilt images and of windows done."""
        import torch

        from napari_sta.kernels import slices
        from napari_sta.kernels.crop import cut_windows
        from napari_sta.kernels.devices import to_device
        from napari_sta.kernels.windows import window_corners

        scale = 1 / (self.window * self.binning)  # unitary transform, mean-preserving binning
        for tilt in range(self.series.n_tilts):
            device = devices[tilt % len(devices)]
            batches = self._pieces(tilt, _FFT_BATCH)
            if batches:
                pixels, envelope, x_end = self._image(tilt)
                image = to_device(pixels, device)
            for half, number, members in batches:
                corner, offset = window_corners(self.geometry.position_yx_px[members, tilt], self.window)
                weighed = slices.weigh_transforms(
                    torch.fft.rfft2(cut_windows(image, corner, self.window)), offset / self.binning, self.size,
                    scale, self._coefficients(tilt, members), self.own_pixel, envelope, x_end,
                    *self.aberrations[number],
                )  # fmt: skip
                slices.gather_slices(
                    weighed, self.matrices[members, tilt], float(x_end[self.size // 2]), sums[(half, device)],
                    self.context.threads,
                )  # fmt: skip
            yield 1, sum(len(members) for *_, members in batches)
