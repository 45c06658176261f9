"""Reconstruct particle: average a particle set into half maps and a merged map."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Thread
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import field_validator, model_validator

from napari_sta.data.errors import InputError
from napari_sta.data.memory import check_memory
from napari_sta.data.progress import Progress
from napari_sta.jobs._job import Context, Node, RunSteps, param
from napari_sta.jobs._params import (
    StaInputsJob,
    check_boxes,
    check_symmetry,
    check_window,
    window_px,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_sta.data.particles import Particles
    from napari_sta.data.tilt_series import TiltSeries, Trajectories
    from napari_sta.io.relion.inputs import StaInputs

_FFT_BATCH = 32  # windows that a GPU takes at once
_PIECE = 32  # windows that a thread takes at once, at most
# Slices inserted at once: the more, the less often the volume passes through the cores.
_SLICES_BYTES = 64 * 2**20
_IMAGES_BYTES = 192 * 2**20  # tilt images held while their windows become slices, one at least
_TAPER_PX = 10.0


class Reconstruct(StaInputsJob):
    """Average particles straight from their tilt images into half maps and a merged map.

    Each particle is cut out of every tilt image that shows it, weighted by its CTF and dose, and inserted
    in Fourier space at its pose. Extracted subtomograms are not needed and not read.
    """

    label: ClassVar[str] = "Reconstruct particle"
    folder: ClassVar[str] = "Reconstruct"
    relion_type: ClassVar[str] = "relion.reconstructparticletomo"
    order: ClassVar[int] = 20
    uses_torch: ClassVar[bool] = False  # on CPUs; importing it takes a second
    outputs: ClassVar[dict[str, Node]] = {
        "merged.mrc": Node("DensityMap.mrc.relion.tomo.map.reconstruct", 1, "average of all particles"),
        "half1.mrc": Node("DensityMap.mrc.relion.tomo.halfmap.reconstruct", 99, "half map 1"),
        "half2.mrc": Node("DensityMap.mrc.relion.tomo.halfmap.reconstruct", 99, "half map 2"),
        "optimisation_set.star": Node("TomoOptimisationSet.star.relion.tomo.reconstruct", 1, "inputs"),
    }

    binning: float = param(
        1.0, title="Binning factor", tab="Average", relion="binning", flag="--bin", ge=1, le=1000,
        help="The map's pixel is this many tilt-image pixels.",
    )  # fmt: skip
    box_size_px: int = param(
        128, title="Box size", unit="binned px", tab="Average", relion="box_size", flag="--b", gt=0,
        help="Edge of the window cut around each particle; even. Take it about twice the particle, so that "
        "signal spread by the CTF comes back, and cut the map with the cropped box size.",
    )  # fmt: skip
    crop_size_px: int | None = param(
        None, title="Cropped box size", unit="binned px", tab="Average", relion="crop_size", flag="--crop",
        help="Edge of the maps that are written; even, at most the box size. Empty: the box size.",
    )  # fmt: skip
    wiener_snr: float = param(
        0.0, title="Wiener SNR constant", tab="Average", relion="snr", flag="--SNR", ge=0,
        help="If positive, divide by weight + 1/SNR. 0: divide by the weight, kept above a thousandth of its "
        "radial mean.",
    )  # fmt: skip
    symmetry: str = param(
        "C1", title="Symmetry", tab="Average", relion="sym_name", flag="--sym",
        help="Point group, its axes as in RELION: C1, C6, D2, T, O, I1 to I4.",
    )  # fmt: skip
    apply_ctf: bool = param(
        True, title="Apply CTF and dose weights", tab="Average", flag="--no_ctf", advanced=True,
        help="No: images are only turned in contrast, and every frequency counts the same.",
    )  # fmt: skip
    merged_only: bool = param(
        False, title="Merged map only", tab="Average", advanced=True,
        help="Yes: ignore half sets and write one map. Needed where particles have no rlnRandomSubset.",
    )  # fmt: skip

    @field_validator("crop_size_px", mode="before")
    @classmethod
    def _minus_one_is_empty(cls, value: Any) -> Any:
        # RELION writes "not cropped" as -1.
        return None if str(value).strip() in {"-1", "-1.0"} else value

    @field_validator("symmetry")
    @classmethod
    def _known_symmetry(cls, value: str) -> str:
        return check_symmetry(value)

    @model_validator(mode="after")
    def _even_boxes(self) -> Self:
        check_boxes(self.box_size_px, self.crop_size_px)
        return self

    def check(self) -> None:
        """Read the particle set and the tilt series tables."""
        self._checked_inputs()

    def warnings(self) -> list[str]:
        """Say what of the inputs looks odd."""
        return list(self.load().warnings)

    def run(self, context: Context) -> RunSteps:
        """Insert every particle, then make the maps."""
        import numpy as np

        from napari_sta.kernels.devices import surely_cpu
        from napari_sta.kernels.windows import load_kernels

        inputs = self._checked_inputs()
        particles, n_images = inputs.particles, 0
        halves = [0] if self.merged_only else [1, 2]
        # Compiled kernels insert on a CPU, torch on GPUs.
        devices = [None] if surely_cpu(context.device) else context.devices()
        if devices[0] is None or devices[0].type == "cpu":
            devices = [None]
        sums: dict[Any, Any] = {
            (half, device): _no_sums(self.box_size_px, device) for half in halves for device in devices
        }
        first = inputs.tilt_series[next(n for n in inputs.tilt_series if n in set(particles.tomogram))]
        window = window_px(self.box_size_px, self.binning)
        pixel_size = first.pixel_size_angst * window / self.box_size_px
        if abs(pixel_size - first.pixel_size_angst * self.binning) > 1e-6:
            context.log.warning(
                "binning %g of a box of %d px needs %g tilt-image pixels; %d are taken, so the pixel size of "
                "the maps is %.4f Å", self.binning, self.box_size_px, self.binning * self.box_size_px,
                window, pixel_size,
            )  # fmt: skip
        total = sum(inputs.tilt_series[name].n_tilts for name in particles.tomograms)
        shape = (self.box_size_px + 1, self.box_size_px // 2 + 3, 3)
        most = max(context.threads, _SLICES_BYTES // (4 * int(np.prod(shape))))
        visits = (len(one) * inputs.tilt_series[one.tomogram[0]].n_tilts for one in particles.by_tomogram())
        room = np.empty((min(most, max(visits, default=0)) if devices == [None] else 0, *shape), np.float32)
        if devices == [None]:
            # One core loads the compiled kernels, a second of pure Python; another meets the memory first.
            with ThreadPoolExecutor(1) as other:
                filling = [other.submit(one.fill, 0) for one in (room, *sums.values())]
                load_kernels()
            for one in filling:
                one.result()
            # What makes the maps is imported while particles are inserted.
            Thread(target=_load_fft, daemon=True).start()
        done = 0
        for group in particles.by_tomogram():
            series = inputs.tilt_series[group.tomogram[0]]
            inserter = _Inserter(self, group, series, inputs.trajectories, pixel_size, context)
            steps = inserter.on_cpu(sums, room) if devices == [None] else inserter.on_gpus(sums, devices)
            for n_tilts, n_inserted in steps:
                done += n_tilts
                n_images += n_inserted
                yield Progress(done, total + len(halves) + 1, f"inserting {series.name}")
        if n_images == 0:
            raise InputError(
                f"no particle of {inputs.particles_path} lies at least box_size_px/2 = {self.box_size_px // 2} "
                "pixels inside any tilt image; take a smaller box, or check coordinates and alignment"
            )

        record: dict[str, Any] = {"n_particles": len(particles), "n_images": n_images}
        record |= {"pixel_size_angst": pixel_size, "box_size_px": self.crop_size_px or self.box_size_px}
        record["symmetry"] = self.symmetry
        del room
        summed = {half: _summed([sums.pop((half, device)) for device in devices]) for half in halves}
        maps: dict[str, Any] = {}
        for tag in self._made(summed, maps, pixel_size, context):
            yield Progress(total + len(maps), total + len(halves) + 1, f"{tag} made")
        inputs.write_set(context.out / "optimisation_set.star", inputs.particles_path)
        if not self.merged_only:
            from napari_sta.kernels.shells import correlate_shells, resolution_angst

            curve = correlate_shells(maps["half1"], maps["half2"], context.threads)
            curve[0] = 1.0  # the taper leaves no mean
            record["resolution_angst"] = round(resolution_angst(curve, len(maps["half1"]), pixel_size), 3)
        return record

    def _made(
        self, sums: dict[int, Any], maps: dict[str, Any], pixel_size_angst: float, context: Context
    ) -> Iterator[str]:
        """Turn sums of half sets into maps, and write them while the next are made; yields names."""
        import numpy as np

        from napari_sta.data.volume import Volume
        from napari_sta.io.mrc import write_volume
        from napari_sta.kernels import reconstruction
        from napari_sta.kernels.rotations import symmetry_operators_zyx

        operators = symmetry_operators_zyx(self.symmetry)
        crop, threads = self.crop_size_px or self.box_size_px, context.threads

        def write(name: str, data: NDArray[np.float32]) -> None:
            write_volume(context.out / f"{name}.mrc", Volume(data, pixel_size_angst))

        with ThreadPoolExecutor(2) as writers:
            writing: list[Future[None]] = []

            def make(tag: str, one: Any, data: Any = None) -> Any:
                before = writing.copy()
                writing.append(
                    writers.submit(write, f"weight_{tag}", reconstruction.full_weight(one, threads))
                )
                data = reconstruction.real_space_data(one, threads) if data is None else data
                writing.append(writers.submit(write, f"data_{tag}", data))
                found = reconstruction.divided_by_weight(data, one, self.wiener_snr, threads)
                maps[tag] = reconstruction.crop_centre(found, crop)
                reconstruction.taper(maps[tag], _TAPER_PX, threads)
                writing.append(writers.submit(write, tag, maps[tag]))
                if crop < self.box_size_px:
                    writing.append(writers.submit(write, f"{tag}_full", found))
                # No more waits to be written than one set of maps.
                for one in before:
                    one.result()
                del writing[: len(before)]
                return data

            room, merged, merged_data = None, None, None
            for half in sorted(sums):
                one = sums.pop(half)
                turned = reconstruction.symmetrise(one, operators, threads, room)
                # What held the sums takes those of the next half set.
                room = one if turned is not one else None
                tag = f"half{half}" if half else "merged"
                data = make(tag, turned)
                yield tag
                if half:
                    merged = turned if merged is None else np.add(merged, turned, out=merged)
                    # The first half set's are written by now.
                    merged_data = data if merged_data is None else np.add(merged_data, data, out=merged_data)
            if merged is not None:
                del room
                make("merged", merged, merged_data)
                yield "merged"
            for one in writing:
                one.result()

    def relion_command(self, out: str) -> str | None:
        """Return the ``relion_tomo_reconstruct_particle`` line."""
        words = ["relion_tomo_reconstruct_particle", *self.sta_flags(), "--theme classic", f"--o {out}"]
        words += [f"--b {self.box_size_px}", f"--bin {self.binning:g}", f"--sym {self.symmetry}"]
        if self.crop_size_px:
            words.append(f"--crop {self.crop_size_px}")
        if self.wiener_snr > 0:
            words.append(f"--SNR {self.wiener_snr:g}")
        if not self.apply_ctf:
            words.append("--no_ctf")
        return " ".join(words)

    def _checked_inputs(self) -> StaInputs:
        import numpy as np

        inputs = self.load()
        halves = inputs.particles.half_set
        if halves is None and not self.merged_only:
            raise InputError(
                f"{inputs.particles_path} has no rlnRandomSubset, so there are no half sets; add the column, or "
                "use --merged_only Yes for one map without half maps"
            )
        if halves is not None and not self.merged_only and set(np.unique(halves)) != {1, 2}:
            raise InputError(
                f"{inputs.particles_path}: all particles are in one half set (rlnRandomSubset); both 1 and 2 "
                "are needed, or --merged_only Yes"
            )
        check_window(inputs, self.box_size_px, self.binning)
        # Sums of Fourier components and weights, of each half set; other than maps they cannot be made smaller.
        n_halves = 1 if self.merged_only else 2
        check_memory(
            n_halves * 8.0 * self.box_size_px**3,
            f"--box_size_px {self.box_size_px}",
            "take a smaller one, or bin more",
        )
        return inputs


class _Inserter:
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
        from napari_sta.kernels.crop import cut_windows, window_corners
        from napari_sta.kernels.devices import to_device

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


def _load_fft() -> None:
    import scipy.fft  # noqa: F401


def _no_sums(size: int, device: Any) -> Any:
    """Make an empty volume for slices, an array or on a GPU."""
    from napari_sta.kernels.reconstruction import new_sums

    if device is None:
        return new_sums(size)
    import torch

    return torch.zeros((size, size, size // 2 + 1, 4), dtype=torch.float32, device=device)


def _summed(parts: list[Any]) -> NDArray[np.float32]:
    """Add up what was inserted on each device."""
    import numpy as np

    arrays = [part if isinstance(part, np.ndarray) else part.cpu().numpy() for part in parts]
    for other in arrays[1:]:
        arrays[0] += other
    return arrays[0]
