"""Reconstruct tomograms: a binned volume of every tilt series, to look at and to pick in."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import model_validator

from napari_sta.data.errors import InputError
from napari_sta.data.memory import check_memory
from napari_sta.data.progress import Progress
from napari_sta.io.files import inside
from napari_sta.jobs._job import Context, Job, Node, RunSteps, param
from napari_sta.jobs._params import read_once

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from napari_sta.data.tilt_series import TiltSeries

    _Tomogram = tuple[str, str, list[tuple[str, int]], NDArray[np.int64]]

_SLAB = 8
"""Sections that a thread does at a time."""


class ReconstructTomograms(Job):
    """Back-project every tilt series into a binned tomogram.

    Tilt images are binned in Fourier space, weighed by dose, corrected for the CTF at the middle of the tomogram
    and for the overlap of their slices by a Wiener filter, and back-projected with the alignment of the set.
    Contrast stays as in the images: protein is dark. The new tomogram set states size, binning and files.
    """

    label: ClassVar[str] = "Reconstruct tomograms"
    folder: ClassVar[str] = "Tomograms"
    relion_type: ClassVar[str] = "relion.reconstructtomograms"
    order: ClassVar[int] = 5
    outputs: ClassVar[dict[str, Node]] = {
        "tomograms.star": Node("TomogramGroupMetadata.star.relion.tomo.tomograms", 1, "tomogram set"),
    }

    in_tomograms: str = param(
        title="Input tomogram set", relion="in_tiltseries", flag="--t", kind="file:tomograms",
        help="Aligned tilt series with CTF parameters: a tomograms.star or aligned_tilt_series.star.",
    )  # fmt: skip
    tomogram_name: str | None = param(
        None, title="Reconstruct only this tomogram", relion="tomo_name", flag="--tn",
        help="Name of one tomogram. Empty: all of the set.",
    )  # fmt: skip
    split: bool = param(
        False, title="Generate tomograms for denoising?", relion="generate_split_tomograms",
        flag="--generate_split_tomograms",
        help="Yes: two of each, from the even and the odd frames where the set names them, else from every other tilt.",
    )  # fmt: skip
    size_x_px: int | None = param(
        None, title="Tomogram X size", unit="px", tab="Reconstruct", relion="xdim", flag="--w", ge=2, le=100_000,
        help="In unbinned pixels. Empty: as the set says, or as large as the tilt images.",
    )  # fmt: skip
    size_y_px: int | None = param(
        None, title="Tomogram Y size", unit="px", tab="Reconstruct", relion="ydim", flag="--h", ge=2, le=100_000,
        help="The same along Y.",
    )  # fmt: skip
    size_z_px: int | None = param(
        None, title="Tomogram Z size", unit="px", tab="Reconstruct", relion="zdim", flag="--d", ge=2, le=100_000,
        help="In unbinned pixels. Empty: as the set says.",
    )  # fmt: skip
    binned_pixel_size_angst: float = param(
        10.0, title="Binned pixel size", unit="Å", tab="Reconstruct", relion="binned_angpix", flag="--binned_angpix",
        ge=0.1, le=1000, help="Of the tomogram; not finer than the tilt images.",
    )  # fmt: skip
    tilt_angle_offset_deg: float = param(
        0.0, title="Tilt angle offset", unit="deg", tab="Reconstruct", relion="tiltangle_offset",
        flag="--tiltangle_offset", ge=-90, le=90,
        help="Added to every rlnTomoYTilt, also in the set that is written, so that the specimen lies flat.",
    )  # fmt: skip
    correct_ctf: bool = param(
        True, title="Correct the CTF?", tab="Filter", flag="--noctf",
        help="Divide by the CTF where it passes anything, with its sign; as defocused at the middle of the tomogram.",
    )  # fmt: skip
    keep_first_peak: bool = param(
        True, title="Ignore CTFs until first peak?", tab="Filter", relion="ctf_intact_first_peak",
        flag="--ctf_intact_first_peak", help="Coarse contrast stays as it is in the images: better to look at.",
    )  # fmt: skip
    dose_weighting: bool = param(
        True, title="Weigh by dose?", tab="Filter", help="Late images count less at high resolution."
    )
    snr: float = param(
        10.0, title="Signal-to-noise ratio", tab="Filter", flag="--SNR", gt=0, le=1e6,
        help="Of the Wiener filter; lower is smoother.", advanced=True,
    )  # fmt: skip
    float16: bool = param(True, title="Write output in float16?", tab="Filter", help="Half the disk space.")

    @model_validator(mode="before")
    @classmethod
    def _all_is_empty(cls, values: Any) -> Any:
        # RELION's program says * where it means all of them.
        if isinstance(values, dict) and str(values.get("tomogram_name", "")).strip() == "*":
            return {key: value for key, value in values.items() if key != "tomogram_name"}
        return values

    def check(self) -> None:
        """Read the set, and see where names lead and what fits into memory."""
        for series in self._load().values():
            inside("x", f"tomograms/rec_{series.name}.mrc", f"{self.in_tomograms}, rlnTomoName")
            if self.split:
                self._halves(series)
            z, y, x = self._shape_zyx(series)
            what = f"a tomogram of {x} x {y} x {z} voxels and {series.n_tilts} tilt images of its size"
            check_memory(
                4.0 * x * y * (z + 2 * series.n_tilts), what, "give a larger --binned_pixel_size_angst"
            )

    def warnings(self) -> list[str]:
        """Say what of the alignment is left out."""
        deformed = [name for name, series in self._load().items() if series.deformation is not None]
        if not deformed:
            return []
        many = "" if len(deformed) == 1 else f" and {len(deformed) - 1} others"
        return [f"the deformations of the tilt images of {deformed[0]}{many} are not applied"]

    def run(self, context: Context) -> RunSteps:
        """Reconstruct series by series, then write the set."""
        import numpy as np

        from napari_sta.io.files import path_for
        from napari_sta.io.mrc import is_complete
        from napari_sta.io.star import format_number
        from napari_sta.io.tilt_series_set import write_tilt_series_set

        todo = self._load()
        star = context.out / "tomograms.star"
        in_set: dict[str, dict[str, str]] = {}
        per_tilt: dict[str, Any] = {}
        lacking: dict[str, Any] = {}
        done = 0
        for name, series in todo.items():
            volumes = self._volumes(series)
            shape = self._shape_zyx(series)
            in_set[name] = {
                f"rlnTomoSize{axis}": str(n) for axis, n in zip("ZYX", series.size_zyx_px, strict=True)
            }
            in_set[name]["rlnTomoTomogramBinning"] = format_number([self._binning(series)])[0]
            for part, (label, file, images, tilts) in enumerate(volumes):
                path = context.out / file
                path.parent.mkdir(parents=True, exist_ok=True)
                in_set[name][label] = path_for(path, star)
                if file in context.kept and is_complete(path, shape):
                    continue
                for share in self._reconstruct(series, images, tilts, path, context):
                    whole = int(100 * (part + share) / len(volumes))
                    yield Progress(100 * done + whole, 100 * len(todo), name)
            if series.angles_xyz_deg is not None:
                tilted_deg = series.angles_xyz_deg[:, 1]
                if self.tilt_angle_offset_deg:
                    per_tilt[name] = {"rlnTomoYTilt": format_number(tilted_deg)}
                lacking[name] = {"rlnCtfScalefactor": format_number(np.cos(np.deg2rad(tilted_deg)))}
            done += 1
        write_tilt_series_set(star, self.in_tomograms, in_set, per_tilt, lacking)
        yield Progress(100 * done, 100 * done, "tomogram set written")
        context.log.info(
            "%d tomogram%s at %g Å.", done, "" if done == 1 else "s", self.binned_pixel_size_angst
        )
        return {"n_tomograms": done, "pixel_size_angst": self.binned_pixel_size_angst}

    def relion_command(self, out: str) -> str | None:
        """Return the command of RELION's program that makes such tomograms."""
        z, y, x = self._largest_zyx_px()
        words = [
            "relion_tomo_reconstruct_tomogram", "--t", self.in_tomograms, "--o", out, "--w", str(x), "--h", str(y),
            "--d", str(z), "--binned_angpix", f"{self.binned_pixel_size_angst:g}", "--SNR", f"{self.snr:g}",
        ]  # fmt: skip
        words += ["--tn", self.tomogram_name] if self.tomogram_name else []
        words += ["--generate_split_tomograms"] if self.split else []
        words += [] if self.correct_ctf else ["--noctf"]
        words += ["--ctf_intact_first_peak"] if self.correct_ctf and self.keep_first_peak else []
        if self.tilt_angle_offset_deg:
            words += ["--tiltangle_offset", f"{self.tilt_angle_offset_deg:g}"]
        return shlex.join(words)

    def relion_switches(self) -> dict[str, str]:
        """State the size, which RELION's GUI must be told, and that its other ways are not taken."""
        switches = {"do_proj": "No", "do_fourier": "No"}
        try:
            sizes = zip("zyx", self._largest_zyx_px(), strict=True)
        except InputError:
            return switches  # a form that is still being filled
        return switches | {f"{axis}dim": str(n) for axis, n in sizes}

    # ---- what is made

    def _largest_zyx_px(self) -> tuple[int, int, int]:
        sizes = [series.size_zyx_px for series in self._load().values()]
        z, y, x = (max(size[axis] for size in sizes) for axis in range(3))
        return z, y, x

    def _load(self) -> dict[str, TiltSeries]:
        """Return the series to do, with the size and the tilts that they are reconstructed with."""
        return read_once(self, "tilt series", self._read)

    def _read(self) -> dict[str, TiltSeries]:
        from napari_sta.io.relion.tilt_series import read_tilt_series_set

        names = None if self.tomogram_name is None else [self.tomogram_name]
        found = read_tilt_series_set(self.in_tomograms, names, may_lack_size=True)
        if not found:
            known = ", ".join(list(read_tilt_series_set(self.in_tomograms, may_lack_size=True))[:5])
            raise InputError(
                f"--tomogram_name {self.tomogram_name} is not in {self.in_tomograms}, which has {known or 'none'}"
            )
        return {name: self._as_wanted(series) for name, series in found.items()}

    def _as_wanted(self, series: TiltSeries) -> TiltSeries:
        from napari_sta.io.mrc import image_size_yx_px

        where = f"{self.in_tomograms}, tomogram {series.name}"
        height, width = image_size_yx_px(series.images[0][0])
        wanted = (self.size_z_px, self.size_y_px, self.size_x_px)
        size = tuple(
            given or stated or other
            for given, stated, other in zip(wanted, series.size_zyx_px, (0, height, width), strict=True)
        )
        if not size[0]:
            raise InputError(f"{where}: the set does not say how thick the tomogram is; give --size_z_px")
        if self._binning(series) < 1:
            raise InputError(
                f"--binned_pixel_size_angst {self.binned_pixel_size_angst:g} is finer than the tilt images of "
                f"{series.name} ({series.pixel_size_angst:g} Å); give at least that"
            )
        if series.angles_xyz_deg is None:
            if size != series.size_zyx_px or self.tilt_angle_offset_deg:
                raise InputError(
                    f"{where}: its projection matrices hold for the size that it states; leave size and tilt angle "
                    "offset empty"
                )
            return series
        angles_deg = series.angles_xyz_deg.copy()
        angles_deg[:, 1] += self.tilt_angle_offset_deg
        return replace(series, size_zyx_px=(size[0], size[1], size[2]), angles_xyz_deg=angles_deg)

    def _binning(self, series: TiltSeries) -> float:
        return self.binned_pixel_size_angst / series.pixel_size_angst

    def _shape_zyx(self, series: TiltSeries) -> tuple[int, int, int]:
        """Return the size of the tomogram in voxels, rounded as RELION does."""
        z, y, x = (n / self._binning(series) for n in series.size_zyx_px)
        return max(1, int(z)), max(1, int(y + 0.5)), max(1, int(x + 0.5))

    def _volumes(self, series: TiltSeries) -> list[_Tomogram]:
        """Return column, file, images and tilts of each volume of a series."""
        import numpy as np

        stem, label = f"tomograms/rec_{series.name}", "rlnTomoReconstructedTomogram"
        every = np.arange(series.n_tilts)
        if not self.split:
            return [(label, f"{stem}.mrc", list(series.images), every)]
        return [
            (f"{label}Half{number}", f"{stem}_half{number}.mrc", images, tilts)
            for number, (images, tilts) in enumerate(self._halves(series), 1)
        ]

    def _halves(self, series: TiltSeries) -> list[tuple[list[tuple[str, int]], NDArray[np.int64]]]:
        import numpy as np

        from napari_sta.io.tilt_series_set import split_images

        every = np.arange(series.n_tilts)
        by_frames = split_images(self.in_tomograms, series.name)
        if by_frames is not None:
            return [(images, every) for images in by_frames]
        return [([series.images[i] for i in every[first::2]], every[first::2]) for first in (0, 1)]

    def _reconstruct(
        self,
        series: TiltSeries,
        images: list[tuple[str, int]],
        tilts: NDArray[np.int64],
        path: Path,
        context: Context,
    ) -> Iterator[float]:
        """Make and write one volume; yields the share that is done."""
        import numpy as np
        import torch

        from napari_sta.data.volume import Volume
        from napari_sta.engine.geometry import matrices_zyx, tilt_coefficients
        from napari_sta.io.mrc import image_size_yx_px, read_images, write_volume
        from napari_sta.kernels import backprojection

        image_size = image_size_yx_px(images[0][0])
        matrices = matrices_zyx(series, image_size)[tilts]
        size, binning = backprojection.binned_size(image_size, self._binning(series)), self._binning(series)
        step = np.array(image_size) / np.array(size)
        dose, bfactor = series.dose_e_per_angst2[tilts], series.bfactor_per_dose
        ctf = tilt_coefficients(series, tilts, np.zeros(len(tilts)))
        weighting = backprojection.Weighting(
            rotations_zyx=matrices[:, :3, :3],
            thickness_angst=series.size_zyx_px[0] * series.pixel_size_angst,
            dose_e_per_angst2=dose if self.dose_weighting else None,
            ctf=ctf if self.correct_ctf else None,
            snr=self.snr, keep_first_peak=self.keep_first_peak, bfactor_per_dose=bfactor,
        )  # fmt: skip
        device = context.devices()[0]
        pixel_yx = (float(step[0]) * series.pixel_size_angst, float(step[1]) * series.pixel_size_angst)
        filters = backprojection.filters(weighting, size, pixel_yx, device)
        filtered = torch.empty((len(images), *size), device=device)
        for place, (image, weights) in enumerate(zip(images, filters, strict=True)):
            pixels = torch.from_numpy(read_images([image])[0]).to(device)
            spectrum = backprojection.binned(backprojection.faded(pixels), size)
            filtered[place] = torch.fft.irfft2(spectrum * weights, s=size)
            yield 0.5 * (place + 1) / len(images)
        # So that the projection of the tomogram is what the images show.
        shape = self._shape_zyx(series)
        filtered /= shape[0]
        volume = torch.zeros(shape, device=device)
        to_pixels = backprojection.voxel_matrices(matrices, binning, step)
        slabs = [(z, min(z + _SLAB, shape[0])) for z in range(0, shape[0], _SLAB)]
        n_threads = context.threads if device.type == "cpu" else 1
        with ThreadPoolExecutor(max(1, n_threads)) as pool:
            jobs = [
                pool.submit(backprojection.back_project, filtered, to_pixels, volume, *slab) for slab in slabs
            ]
            try:
                for number, one in enumerate(jobs, 1):
                    one.result()
                    yield 0.5 + 0.5 * number / len(jobs)
            finally:
                pool.shutdown(cancel_futures=True)
        write_volume(path, Volume(volume.cpu().numpy(), self.binned_pixel_size_angst), self.float16)
