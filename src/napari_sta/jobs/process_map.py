"""Map operations: filter, shift, symmetrise, rescale, rebox or mirror a map."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import field_validator, model_validator

from napari_sta.data.errors import InputError
from napari_sta.data.memory import check_memory
from napari_sta.data.progress import Progress
from napari_sta.jobs._job import Context, Job, Node, RunSteps, param
from napari_sta.jobs._params import check_symmetry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_CUBIC = ("bfactor_angst2", "lowpass_angst", "highpass_angst", "symmetry", "rescale_pixel_size_angst")
"""What is done in Fourier space or turns the map, and needs a cubic box."""


class ProcessMap(Job):
    """Filter, shift, symmetrise, rescale, rebox, mirror or clamp a map or a mask.

    Whatever is given is done in this order: contrast, B-factor, low-pass, high-pass, hand, shift, symmetry,
    pixel size, box, clamping. The centre is voxel n // 2 throughout. Odd boxes are welcome, so that they can be
    made even.
    """

    label: ClassVar[str] = "Map operations"
    order: ClassVar[int] = 35
    outputs: ClassVar[dict[str, Node]] = {"map.mrc": Node("DensityMap.mrc.relion", 1, "processed map")}

    in_3dref: str = param(title="Input 3D map", kind="file:map", flag="--i", help="Map or mask to process.")
    pixel_size_angst: float | None = param(
        None, title="Pixel size", unit="Å", flag="--angpix", ge=0.01, le=1000,
        help="Stated in the header instead of the input's. Empty: from the map's header.",
    )  # fmt: skip
    invert_contrast: bool = param(
        False, title="Invert contrast", tab="Filter", flag="--multiply_constant", help="Multiply by -1."
    )
    bfactor_angst2: float | None = param(
        None, title="B-factor", unit="Å²", tab="Filter", flag="--bfactor",
        ge=-1e5, le=1e5, help="Multiply amplitudes by exp(-B k² / 4) up to Nyquist; negative sharpens.",
    )  # fmt: skip
    lowpass_angst: float | None = param(
        None, title="Low-pass filter", unit="Å", tab="Filter", flag="--lowpass", gt=0,
        le=1e6, help="Take out what is finer, with an edge of two shells.",
    )  # fmt: skip
    highpass_angst: float | None = param(
        None, title="High-pass filter", unit="Å", tab="Filter", flag="--highpass", gt=0,
        le=1e6, help="Take out what is coarser, the mean too, with an edge of two shells.",
    )  # fmt: skip
    invert_hand: bool = param(
        False, title="Invert hand", tab="Move", flag="--invert_hand",
        help="Mirror along X about the centre voxel.",
    )  # fmt: skip
    shift_x_px: float = param(
        0.0, title="Shift along X", unit="px", tab="Move", flag="--shift_x",
        ge=-10_000, le=10_000, help="Move the content towards +X, in pixels of the input; fractions are exact. Zeros come in.",
    )  # fmt: skip
    shift_y_px: float = param(
        0.0,
        title="Shift along Y",
        unit="px",
        tab="Move",
        flag="--shift_y",
        ge=-10_000,
        le=10_000,
        help="The same along Y.",
    )
    shift_z_px: float = param(
        0.0,
        title="Shift along Z",
        unit="px",
        tab="Move",
        flag="--shift_z",
        ge=-10_000,
        le=10_000,
        help="The same along Z.",
    )
    symmetry: str = param(
        "C1", title="Symmetry", tab="Move", flag="--sym",
        help="Average over this point group about the centre: C2, D3, T, O, I1 and so on.",
    )  # fmt: skip
    rescale_pixel_size_angst: float | None = param(
        None, title="Rescale to pixel size", unit="Å", tab="Grid", flag="--rescale_angpix", ge=0.01,
        le=1000, help="Resample to about this pixel size: the box becomes an even number of pixels, the header states "
        "what that makes exactly. Grey values stay.",
    )  # fmt: skip
    box_size_px: int | None = param(
        None, title="New box size", unit="px", tab="Grid", flag="--new_box", ge=2,
        le=10_000, help="Cut or pad with zeros about the centre, after rescaling; even.",
    )  # fmt: skip
    clamp_low: float | None = param(
        None, title="Lowest value", tab="Grid", flag="--threshold_below",
        ge=-1e15, le=1e15, help="Lower values become this; 0 for a mask that was rescaled.",
    )  # fmt: skip
    clamp_high: float | None = param(
        None, title="Highest value", tab="Grid", flag="--threshold_above",
        ge=-1e15, le=1e15, help="Higher values become this; 1 for a mask that was rescaled.",
    )  # fmt: skip

    @field_validator("symmetry")
    @classmethod
    def _known_symmetry(cls, value: str) -> str:
        return check_symmetry(value)

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if not self.operations():
            raise ValueError(
                "nothing to do: give at least one operation, for example --box_size_px, --lowpass_angst or --symmetry"
            )
        if self.box_size_px is not None and self.box_size_px % 2:
            raise ValueError(
                f"box_size_px {self.box_size_px} is odd, and the centre of an odd box is no voxel; take "
                f"{self.box_size_px + 1}"
            )
        if None not in (self.clamp_low, self.clamp_high) and self.clamp_low > self.clamp_high:  # type: ignore[operator]
            raise ValueError(
                f"--clamp_low {self.clamp_low:g} is above --clamp_high {self.clamp_high:g}; give a smaller one"
            )
        return self

    def operations(self) -> list[str]:
        """Return the fields that ask for something, in the order in which it is done."""
        order = (
            "pixel_size_angst", "invert_contrast", "bfactor_angst2", "lowpass_angst", "highpass_angst", "invert_hand",
            "shift_x_px", "shift_y_px", "shift_z_px", "symmetry", "rescale_pixel_size_angst", "box_size_px", "clamp_low",
            "clamp_high",
        )  # fmt: skip
        fields = type(self).model_fields
        return [name for name in order if getattr(self, name) != fields[name].default]

    def check(self) -> None:
        """Read the map, and see whether the result can be held in memory."""
        from napari_sta.io.mrc import read_volume
        from napari_sta.jobs._maps import check_values

        self._grid([])
        check_values(read_volume(self.in_3dref), constant=True)

    def warnings(self) -> list[str]:
        """Say what is assumed of the map, and where the pixel size cannot be met exactly."""
        said: list[str] = []
        _, pixel, new_size = self._grid(said)
        wanted = self.rescale_pixel_size_angst
        if wanted is None or new_size is None or pixel is None or abs(pixel / wanted - 1) <= 1e-3:
            return said
        said.append(
            f"the pixel size becomes {pixel:.6g} Å, not {wanted:g} Å, because the box must be an even number of "
            f"pixels ({new_size}); pad with --box_size_px in a job before this one to come nearer"
        )
        return said

    def run(self, context: Context) -> RunSteps:
        """Apply the operations and write the map."""
        import numpy as np

        from napari_sta.data.volume import Volume
        from napari_sta.io.mrc import read_volume, write_volume
        from napari_sta.kernels import volumes
        from napari_sta.kernels.rotations import symmetry_operators_zyx

        header_pixel, pixel, new_size = self._grid([])
        data = read_volume(self.in_3dref).data
        before = data.shape
        yield Progress(0, 5, "map read")
        if self.invert_contrast:
            data = -data
        if header_pixel is not None:  # without, nothing is to be filtered
            data = self._filtered(data, header_pixel)
        if self.invert_hand:
            data = volumes.invert_hand(data)
        yield Progress(1, 5, "filtered")
        shift = (self.shift_z_px, self.shift_y_px, self.shift_x_px)
        if any(shift):
            data = volumes.shift_volume(data, shift)
        yield Progress(2, 5, "moved")
        if self.symmetry != "C1":
            operators = symmetry_operators_zyx(self.symmetry)
            steps = volumes.symmetrise_in_steps(data, operators, context.threads)
            while True:
                try:
                    done = next(steps)
                except StopIteration as end:
                    data = end.value
                    break
                yield Progress(2, 5, f"{self.symmetry}: {done} of {len(operators)} rotations")
        yield Progress(3, 5, "symmetrised" if self.symmetry != "C1" else "moved")
        if new_size is not None:
            data = volumes.rescale(data, new_size)
        if self.box_size_px is not None:
            data = volumes.rebox(data, self.box_size_px)
        if self.clamp_low is not None or self.clamp_high is not None:
            data = np.clip(data, self.clamp_low, self.clamp_high)
        yield Progress(4, 5, "on the new grid")
        write_volume(context.out / "map.mrc", Volume(np.ascontiguousarray(data, np.float32), pixel))
        yield Progress(5, 5, "written")
        size = " x ".join(str(n) for n in data.shape[::-1])
        return {
            "operations": self.operations(),
            "box_size_px": data.shape[0],
            "pixel_size_angst": None if pixel is None else round(pixel, 6),
            "summary": f"{len(self.operations())} operations; {size} px"
            + ("" if pixel is None else f" at {pixel:.6g} Å")
            + ("." if data.shape == before else f", before {' x '.join(str(n) for n in before[::-1])} px."),
        }

    def relion_command(self, out: str) -> str | None:
        """Return the ``relion_image_handler`` line; None where RELION would lose a step.

        Its mirroring starts again from the input, and filters and contrast are lost.
        """
        lost = {"invert_contrast", "bfactor_angst2", "lowpass_angst", "highpass_angst"}
        if self.invert_hand and lost & set(self.operations()):
            return None
        words = [f"relion_image_handler --i {self.in_3dref} --o {out}map.mrc"]
        given = self.operations()
        switches = {"invert_contrast": "--multiply_constant -1", "invert_hand": "--invert_hand"}
        flags = {
            "bfactor_angst2": "--bfactor", "lowpass_angst": "--lowpass", "highpass_angst": "--highpass",
            "shift_x_px": "--shift_x", "shift_y_px": "--shift_y", "shift_z_px": "--shift_z",
            "rescale_pixel_size_angst": "--rescale_angpix", "box_size_px": "--new_box",
            "clamp_low": "--threshold_below", "clamp_high": "--threshold_above",
        }  # fmt: skip
        if self.pixel_size_angst is not None:
            words.append(f"--angpix {self.pixel_size_angst:g}")
            if self.rescale_pixel_size_angst is None:
                words.append(f"--force_header_angpix {self.pixel_size_angst:g}")
        words += [text for name, text in switches.items() if name in given]
        words += [f"{flag} {getattr(self, name):g}" for name, flag in flags.items() if name in given]
        if "symmetry" in given:
            words.append(f"--sym {self.symmetry}")
        return " ".join(words)

    def _grid(self, said: list[str]) -> tuple[float | None, float | None, int | None]:
        """Pixel size of the input and of the result (None: unknown), and the box after rescaling (None: as before)."""
        from napari_sta.io.mrc import read_header
        from napari_sta.jobs._filter_limits import check_bfactor, check_lowpass
        from napari_sta.jobs._maps import pixel_size_if_needed
        from napari_sta.kernels.volumes import rescaled_size

        header = read_header(self.in_3dref)
        shape = header.shape_zyx
        if header.is_image:
            raise InputError(f"{self.in_3dref} holds 2D images; a 3D map is needed")
        asked = [name for name in self.operations() if name in _CUBIC]
        if len(set(shape)) != 1 and asked:
            raise InputError(
                f"{self.in_3dref} is {shape[2]} x {shape[1]} x {shape[0]} voxels; --{asked[0]} needs a cubic map, "
                "make it one with --box_size_px in a job before this one"
            )
        needed = bool(set(asked) - {"symmetry"})
        pixel = pixel_size_if_needed(self.in_3dref, self.pixel_size_angst, said, needed=needed)
        if self.box_size_px is not None:
            check_memory(8.0 * self.box_size_px**3, f"--box_size_px {self.box_size_px}")
        if pixel is None:
            return None, None, None
        check_bfactor("bfactor_angst2", self.bfactor_angst2, pixel)
        check_lowpass(self.lowpass_angst, shape[0] * pixel)
        for name in ("lowpass_angst", "highpass_angst"):
            value = getattr(self, name)
            if value is not None and value < 2 * pixel:
                raise InputError(
                    f"--{name} {value:g} is finer than the map's Nyquist limit, {2 * pixel:.4g} Å; take a larger one"
                )
        if self.rescale_pixel_size_angst is None:
            return pixel, pixel, None
        size = rescaled_size(shape[0], pixel, self.rescale_pixel_size_angst)
        if size < 2:
            raise InputError(
                f"--rescale_pixel_size_angst {self.rescale_pixel_size_angst:g} leaves no pixels of the map's "
                f"{shape[0] * pixel:.4g} Å; take a smaller one"
            )
        option = f"--rescale_pixel_size_angst {self.rescale_pixel_size_angst:g}"
        if size > 10_000:
            raise InputError(
                f"{option} makes the box {size} px, and 10000 px are the most; take a larger one"
            )
        check_memory(24.0 * size**3, option, "take a larger one")
        return pixel, shape[0] * pixel / size, size

    def _filtered(self, data: NDArray[np.float32], pixel_size_angst: float) -> NDArray[np.float32]:
        """Apply B-factor, low-pass and high-pass in one go."""
        import torch

        from napari_sta.kernels import filters

        n = data.shape[0]
        factors = []
        if self.bfactor_angst2 is not None:
            factors.append(filters.bfactor_factor(n, pixel_size_angst, self.bfactor_angst2))
        if self.lowpass_angst is not None:
            factors.append(filters.lowpass_factor(n, pixel_size_angst, self.lowpass_angst))
        if self.highpass_angst is not None:
            factors.append(1 - filters.lowpass_factor(n, pixel_size_angst, self.highpass_angst))
        if not factors:
            return data
        spectrum = torch.fft.rfftn(torch.from_numpy(data).to(torch.float64))
        for factor in factors:
            spectrum *= factor
        filtered: NDArray[np.float32] = torch.fft.irfftn(spectrum, s=data.shape).to(torch.float32).numpy()
        return filtered
