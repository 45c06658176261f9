"""Reconstruct particle: average a particle set into half maps and a merged map."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import field_validator, model_validator

from napari_sta.data.errors import InputError
from napari_sta.jobs._job import Context, Node, Progress, RunSteps, param
from napari_sta.jobs._params import StaInputsJob, check_boxes, check_symmetry, check_window, window_px

if TYPE_CHECKING:
    from torch import Tensor

    from napari_sta.data.particles import Particles
    from napari_sta.data.tilt_series import TiltSeries, Trajectories
    from napari_sta.io.relion import StaInputs

_FFT_BATCH = 32  # transforms of this many windows stay in cache; whole batches are up to 4 times slower
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
        from napari_sta.kernels import fourier, fsc, reconstruction
        from napari_sta.kernels.rotations import symmetry_operators_zyx

        inputs = self._checked_inputs()
        particles, n_images = inputs.particles, 0
        devices = context.devices()
        halves = [0] if self.merged_only else [1, 2]
        sums = {
            (half, device): reconstruction.new_accumulator(self.box_size_px, device)
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
            for n_inserted in self._insert_tomogram(
                group, series, inputs.trajectories, pixel_size, sums, devices, context.threads, context.log
            ):
                done += 1
                n_images += n_inserted
                yield Progress(done, total + len(halves) + 1, f"inserting {series.name}")
        if n_images == 0:
            raise InputError(
                f"no particle of {inputs.particles_path} lies at least box_size_px/2 = {self.box_size_px // 2} "
                "pixels inside any tilt image; take a smaller box, or check coordinates and alignment"
            )

        operators = symmetry_operators_zyx(self.symmetry)
        record: dict[str, Any] = {"n_particles": len(particles), "n_images": n_images}
        crop = self.crop_size_px or self.box_size_px
        merged, written = None, {}
        for step, half in enumerate(halves):
            total_sum = _on_first_device([sums.pop((half, device)) for device in devices])
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

    def _insert_tomogram(
        self,
        particles: Particles,
        series: TiltSeries,
        trajectories: Trajectories | None,
        pixel_size_angst: float,
        sums: dict[Any, Tensor],
        devices: list[Any],
        threads: int,
        log: logging.Logger,
    ) -> Iterator[int]:
        """Insert one tomogram's particles; yields the number of images inserted, tilt by tilt."""
        import numpy as np
        import torch

        from napari_sta.io.mrc import image_size_yx_px, read_images
        from napari_sta.jobs._geometry import ctf_coefficients, tilt_geometry
        from napari_sta.kernels import ctf, reconstruction, slices
        from napari_sta.kernels.crop import cut_windows, window_corners
        from napari_sta.kernels.devices import one_thread_each
        from napari_sta.kernels.projection import is_visible

        size, half_box = self.box_size_px, self.box_size_px // 2 + 1
        image_size = image_size_yx_px(series.images[0][0])
        geometry = tilt_geometry(particles, series, trajectories, image_size)
        # RELION compares the binned half box with unbinned pixels here; kept, it decides who takes part.
        visible = is_visible(geometry.position_yx_px, image_size, size / 2)
        unseen = int((~visible.any(axis=1)).sum())
        if unseen:
            log.warning("%d of %d particles of %s lie in no tilt image", unseen, len(particles), series.name)
        window = window_px(self.box_size_px, self.binning)
        binning = window / size
        own_pixel = series.pixel_size_angst * binning
        matrices = geometry.slice_matrices_zyx * (own_pixel / pixel_size_angst)
        scale = 1 / (window * binning)  # unitary transform, mean-preserving binning
        halves = np.zeros(len(particles), int) if self.merged_only else particles.half_set
        assert halves is not None
        ky = (np.arange(size) - size // 2) / (size * own_pixel)
        kx = np.arange(half_box) / (size * own_pixel)
        aberrations: dict[int, tuple[Any, Any]] = {}
        for group in particles.optics:
            aberrations[group.number] = tuple(
                ctf.zernike_phase(coefficients, ky, kx, odd=odd) if any(coefficients) else None
                for coefficients, odd in ((group.even_zernike, False), (group.odd_zernike, True))
            )  # type: ignore[assignment]
        for tilt in range(series.n_tilts):
            device = devices[tilt % len(devices)]
            if self.apply_ctf:
                envelope, x_end = reconstruction.tilt_envelope(
                    size, own_pixel, series.dose_e_per_angst2[tilt], series.ctf_scale[tilt],
                    series.bfactor_angst2[tilt], series.bfactor_per_dose,
                )  # fmt: skip
            else:
                envelope, x_end = np.ones((size, half_box), np.float32), np.full(size, half_box)
            radius = float(x_end[size // 2])
            seen = np.flatnonzero(visible[:, tilt])
            if not len(seen) or radius == 0:
                yield 0
                continue
            image = torch.from_numpy(read_images([series.images[tilt]])[0]).to(device)
            batches = [
                (int(half), int(number), mine[first : first + _FFT_BATCH])
                for half in np.unique(halves[seen])
                for number in np.unique(particles.optics_group[seen])
                for mine in [seen[(halves[seen] == half) & (particles.optics_group[seen] == number)]]
                for first in range(0, len(mine), _FFT_BATCH)
            ]

            def weigh(
                half: int, number: int, batch: Any, image: Tensor = image, tilt: int = tilt,
                envelope: Any = envelope, x_end: Any = x_end,
            ) -> Tensor:  # fmt: skip
                corner, offset = window_corners(geometry.position_yx_px[batch, tilt], window)
                windows = cut_windows(image, corner, window)
                coefficients = (
                    ctf_coefficients(series, tilt, geometry.depth_angst[batch, tilt])
                    if self.apply_ctf
                    else None
                )
                return slices.weigh_transforms(
                    torch.fft.rfft2(windows), offset / binning, size, scale, coefficients, own_pixel, envelope,
                    x_end, *aberrations[number],
                )  # fmt: skip

            # Batches are prepared a thread each, then inserted one after the other by all threads, so that
            # the sums do not depend on the number of threads.
            together = 2 * threads if device.type == "cpu" else 1
            for start in range(0, len(batches), together):
                some = batches[start : start + together]
                with one_thread_each(threads if device.type == "cpu" else 1) as pool:
                    prepared = list(pool.map(weigh, *zip(*some, strict=True)))
                for (half, _, batch), weighed in zip(some, prepared, strict=True):
                    slices.gather_slices(
                        weighed, matrices[batch, tilt], radius, sums[(half, device)], threads
                    )
            yield len(seen)


def _on_first_device(parts: list[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total += part.to(total.device)
    return total
