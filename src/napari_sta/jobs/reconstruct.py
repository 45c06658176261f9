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
from napari_sta.jobs._params import StaInputsJob, check_boxes, check_symmetry, check_window, window_px

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_sta.io.relion.inputs import StaInputs


# Slices inserted at once: the more, the less often the volume passes through the cores.
_SLICES_BYTES = 64 * 2**20

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

        from napari_sta.jobs._inserter import Inserter
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
            inserter = Inserter(self, group, series, inputs.trajectories, pixel_size, context)
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
