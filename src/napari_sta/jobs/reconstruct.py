"""Reconstruct particle: average a particle set into half maps and a merged map."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from threading import Thread
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import field_validator, model_validator

from napari_sta.data.errors import InputError
from napari_sta.jobs._job import Context, Node, Progress, RunSteps, param
from napari_sta.jobs._params import StaInputsJob, check_boxes, check_symmetry, check_window, window_px

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from napari_sta.data.particles import Particles
    from napari_sta.data.tilt_series import TiltSeries, Trajectories
    from napari_sta.io.relion import StaInputs

_FFT_BATCH = 32  # windows that a GPU takes at once
_PIECE = 16  # windows that a thread takes at once
_SLICES_BYTES = (
    64 * 2**20
)  # slices inserted at once: the more, the less often the volume passes through the cores
_IMAGES_BYTES = 192 * 2**20  # tilt images held while their windows become slices, one at least
_TAPER_PX = 10.0
_SMALL_BOX_PX = 256


class Reconstruct(StaInputsJob):
    """Average particles straight from their tilt images into half maps and a merged map.

    Each particle is cut out of every tilt image that shows it, weighted by its CTF and dose, and inserted
    in Fourier space at its pose. Extracted subtomograms are not needed and not read.
    """

    label: ClassVar[str] = "Reconstruct particle"
    folder: ClassVar[str] = "Reconstruct"
    relion_type: ClassVar[str] = "relion.reconstructparticletomo"
    order: ClassVar[int] = 20
    uses_torch: ClassVar[bool] = False  # not before particles are inserted; importing it takes a second
    outputs: ClassVar[dict[str, Node]] = {
        "merged.mrc": Node("DensityMap.mrc.relion.tomo.map.reconstruct", 1, "average of all particles"),
        "half1.mrc": Node("DensityMap.mrc.relion.tomo.halfmap.reconstruct", 99, "half map 1"),
        "half2.mrc": Node("DensityMap.mrc.relion.tomo.halfmap.reconstruct", 99, "half map 2"),
        "optimisation_set.star": Node("TomoOptimisationSet.star.relion.tomo.reconstruct", 1, "inputs"),
    }

    binning: float = param(
        1.0, title="Binning factor", tab="Average", relion="binning", flag="--bin", ge=1,
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

        from napari_sta.data.volume import Volume
        from napari_sta.io.mrc import write_volume
        from napari_sta.kernels.devices import surely_cpu
        from napari_sta.kernels.rotations import symmetry_operators_zyx

        inputs = self._checked_inputs()
        particles, n_images = inputs.particles, 0
        halves = [0] if self.merged_only else [1, 2]
        # Compiled kernels insert on a CPU; torch, which makes the maps, is imported meanwhile.
        torch_import = Thread(target=importlib.import_module, args=("torch",))
        torch_import.start()
        devices = [None] if surely_cpu(context.device) else context.devices()
        if devices[0] is None or devices[0].type == "cpu":
            devices = [None]
        shape = (self.box_size_px, self.box_size_px, self.box_size_px // 2 + 1, 3)
        sums: dict[Any, Any] = {
            (half, device): np.zeros(shape, np.float32) if device is None else _zeros_on(device, shape)
            for half in halves
            for device in devices
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
        done = 0
        for group in particles.by_tomogram():
            series = inputs.tilt_series[group.tomogram[0]]
            inserter = _Inserter(self, group, series, inputs.trajectories, pixel_size, context)
            steps = inserter.on_cpu(sums) if devices == [None] else inserter.on_gpus(sums, devices)
            for n_tilts, n_inserted in steps:
                done += n_tilts
                n_images += n_inserted
                yield Progress(done, total + len(halves) + 1, f"inserting {series.name}")
        if n_images == 0:
            raise InputError(
                f"no particle of {inputs.particles_path} lies at least box_size_px/2 = {self.box_size_px // 2} "
                "pixels inside any tilt image; take a smaller box, or check coordinates and alignment"
            )

        torch_import.join()
        import torch

        from napari_sta.kernels import fourier, fsc, reconstruction

        torch.set_num_threads(context.threads)
        operators = symmetry_operators_zyx(self.symmetry)
        record: dict[str, Any] = {"n_particles": len(particles), "n_images": n_images}
        crop = self.crop_size_px or self.box_size_px
        merged, written = None, {}
        for step, half in enumerate(halves):
            total_sum = _on_first_device([torch.as_tensor(sums.pop((half, device))) for device in devices])
            total_sum = reconstruction.symmetrise(total_sum, operators, context.threads)
            merged = total_sum if merged is None else merged + total_sum
            if half:
                written[f"half{half}"] = total_sum
            yield Progress(total + step, total + len(halves) + 1, "applying symmetry")
        assert merged is not None
        maps: dict[str, Tensor] = {}

        def save(name: str, data: Tensor) -> None:
            volume = Volume(data.cpu().numpy().astype(np.float32, copy=False), pixel_size)
            write_volume(context.out / name, volume)

        def finish(tag: str, volume: Tensor) -> str:
            result = reconstruction.reconstruct_map(volume, self.wiener_snr)
            save(f"data_{tag}.mrc", result.data)
            save(f"weight_{tag}.mrc", result.weight)
            if crop < self.box_size_px:
                save(f"{tag}_full.mrc", result.map)
            maps[tag] = reconstruction.taper(fourier.crop_centre(result.map, crop), _TAPER_PX)
            save(f"{tag}.mrc", maps[tag])
            return tag

        # Two maps at a time, so that one is written while the other is computed; one where memory matters.
        at_once = min(2, context.threads) if self.box_size_px <= _SMALL_BOX_PX else 1
        with ThreadPoolExecutor(at_once) as pool:
            finishing = [
                pool.submit(finish, tag, volume) for tag, volume in [*written.items(), ("merged", merged)]
            ]
            for n_finished, one in enumerate(as_completed(finishing), start=1):
                yield Progress(total + n_finished, total + len(halves) + 1, f"{one.result()} written")
        inputs.write_set(context.out / "optimisation_set.star", inputs.particles_path)
        if not self.merged_only:
            curve = fsc.fourier_shell_correlation(maps["half1"], maps["half2"])
            curve[0] = 1.0  # the taper leaves no mean
            record["resolution_angst"] = round(fsc.resolution_angst(curve, crop, pixel_size), 3)
        record |= {"pixel_size_angst": pixel_size, "box_size_px": crop, "symmetry": self.symmetry}
        return record

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
        return inputs


class _Inserter:
    """Inserts the particles of one tomogram."""

    def __init__(
        self, job: Reconstruct, particles: Particles, series: TiltSeries, trajectories: Trajectories | None,
        pixel_size_angst: float, context: Context,
    ) -> None:  # fmt: skip
        import numpy as np

        from napari_sta.io.mrc import image_size_yx_px
        from napari_sta.jobs._geometry import tilt_geometry
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
        self.halves: NDArray[np.int64] = halves
        ky = (np.arange(self.size) - self.size // 2) / (self.size * self.own_pixel)
        kx = np.arange(self.half_box) / (self.size * self.own_pixel)
        self.aberrations: dict[int, tuple[Any, Any]] = {}
        for group in particles.optics:
            even, odd = (
                zernike_phase(coefficients, ky, kx, odd=is_odd) if any(coefficients) else None
                for coefficients, is_odd in ((group.even_zernike, False), (group.odd_zernike, True))
            )
            self.aberrations[group.number] = even, odd

    def _tilt(self, tilt: int, at_once: int) -> tuple[Any, Any, list[tuple[int, int, NDArray[np.int64]]]]:
        """Return envelope and ends of one tilt image, and its particles: (half, optics group, members)."""
        import numpy as np

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
        seen = np.flatnonzero(self.visible[:, tilt])
        if not len(seen) or x_end[self.size // 2] == 0:
            return envelope, x_end, []
        halves, groups = self.halves[seen], self.particles.optics_group[seen]
        batches = [
            (int(half), int(number), mine[first : first + at_once])
            for half in np.unique(halves)
            for number in np.unique(groups)
            for mine in [seen[(halves == half) & (groups == number)]]
            for first in range(0, len(mine), at_once)
        ]
        return envelope, x_end, batches

    def _coefficients(self, tilt: int, members: NDArray[np.int64]) -> NDArray[np.float64] | None:
        from napari_sta.jobs._geometry import ctf_coefficients

        if not self.job.apply_ctf:
            return None
        return ctf_coefficients(self.series, tilt, self.geometry.depth_angst[members, tilt])

    def on_cpu(self, sums: dict[Any, Any]) -> Iterator[tuple[int, int]]:
        """Insert everything; yields the number of tilt images and of windows done.

        Windows of several tilt images become slices a thread each, then all threads insert them together, in an
        order that does not depend on the number of threads.
        """
        import numpy as np

        from napari_sta.io.mrc import read_images
        from napari_sta.kernels.windows import Contrast, add_slices, weighed_slices

        shape = (self.size + 1, self.half_box + 1, 3)
        images_at_once = max(1, _IMAGES_BYTES // (4 * self.image_size[0] * self.image_size[1]))
        most = max(_PIECE, _SLICES_BYTES // (4 * int(np.prod(shape))))
        threads = max(1, self.context.threads)
        room = np.empty((0, *shape), np.float32)

        def weigh(piece: tuple[Any, ...]) -> None:
            image, tilt, envelope, x_end, number, members, place = piece
            weighed_slices(
                image, self.geometry.position_yx_px[members, tilt], self.window, self.size,
                Contrast(self._coefficients(tilt, members), envelope, *self.aberrations[number]),
                self.own_pixel, x_end, room[place : place + len(members)],
            )  # fmt: skip

        with ThreadPoolExecutor(threads) as pool:
            tilt = 0
            while tilt < self.series.n_tilts:
                # As many tilt images as there is room for slices, one at least.
                first_tilt, count = tilt, 0
                pieces: list[tuple[Any, ...]] = []
                while tilt < self.series.n_tilts:
                    envelope, x_end, batches = self._tilt(tilt, _PIECE)
                    n = sum(len(members) for *_, members in batches)
                    if pieces and (count + n > most or tilt - first_tilt == images_at_once):
                        break
                    if batches:
                        pixels = read_images([self.series.images[tilt]])[0]
                        image = np.ascontiguousarray(pixels.T)
                    pieces += [(image, tilt, envelope, x_end, *batch) for batch in batches]
                    count, tilt = count + n, tilt + 1
                n_tilts = tilt - first_tilt
                # Half set by half set, and no more at once than there is room for.
                pieces.sort(key=lambda piece: piece[4])
                while pieces:
                    half, place, now = pieces[0][4], 0, []
                    while pieces and pieces[0][4] == half and place + len(pieces[0][-1]) <= most:
                        image, at, envelope, x_end, _, number, members = pieces.pop(0)
                        now.append((image, at, envelope, x_end, number, members, place))
                        place += len(members)
                    if len(room) < place:
                        room = np.empty((place, *shape), np.float32)
                    list(pool.map(weigh, now))
                    matrices = np.concatenate([self.matrices[piece[5], piece[1]] for piece in now])
                    radii = np.concatenate(
                        [np.full(len(piece[5]), float(piece[3][self.size // 2])) for piece in now]
                    )
                    add_slices(room[:place], matrices, radii, sums[(half, None)], threads)
                yield n_tilts, count

    def on_gpus(self, sums: dict[Any, Any], devices: list[Any]) -> Iterator[tuple[int, int]]:
        """Insert everything; yields the number of tilt images and of windows done."""
        import torch

        from napari_sta.io.mrc import read_images
        from napari_sta.kernels import slices
        from napari_sta.kernels.crop import cut_windows, window_corners
        from napari_sta.kernels.devices import to_device

        scale = 1 / (self.window * self.binning)  # unitary transform, mean-preserving binning
        for tilt in range(self.series.n_tilts):
            device = devices[tilt % len(devices)]
            envelope, x_end, batches = self._tilt(tilt, _FFT_BATCH)
            if batches:
                image = to_device(read_images([self.series.images[tilt]])[0], device)
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


def _zeros_on(device: Any, shape: tuple[int, ...]) -> Tensor:
    import torch

    return torch.zeros(shape, dtype=torch.float32, device=device)


def _on_first_device(parts: list[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total += part.to(total.device)
    return total
