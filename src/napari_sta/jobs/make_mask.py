"""Mask creation: a soft mask from a map or a shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import model_validator

from napari_sta.data.errors import InputError
from napari_sta.data.progress import Progress
from napari_sta.jobs._job import Context, Job, Node, RunSteps, param

if TYPE_CHECKING:
    from napari_sta.data.volume import Volume


class MakeMask(Job):
    """Make a soft mask: from a map by threshold, or a sphere, cylinder or shell.

    A map is low-passed, thresholded, grown, and given a raised-cosine edge outside of that. A shape is
    placed on the grid of the map.
    """

    label: ClassVar[str] = "Mask creation"
    folder: ClassVar[str] = "MaskCreate"
    relion_type: ClassVar[str] = "relion.maskcreate"
    order: ClassVar[int] = 30
    outputs: ClassVar[dict[str, Node]] = {"mask.mrc": Node("Mask3D.mrc.relion", 1, "mask")}

    in_3dref: str = param(
        title="Input 3D map", kind="file:map", relion="fn_in", flag="--i",
        help="Map to threshold; for a shape, the map whose box and pixel size the mask gets.",
    )  # fmt: skip
    pixel_size_angst: float | None = param(
        None, title="Pixel size", unit="Å", relion="angpix", flag="--angpix", ge=0.01, le=1000,
        help="Empty: from the map's header.",
    )  # fmt: skip
    shape: Literal["map", "sphere", "cylinder", "shell"] = param(
        "map", title="Shape", tab="Mask",
        choices={"map": "from the map", "sphere": "sphere", "cylinder": "cylinder", "shell": "spherical shell"},
        help="From the map by threshold, or a shape about the box centre.",
    )  # fmt: skip
    lowpass_angst: float | None = param(
        15.0, title="Lowpass filter map", unit="Å", tab="Mask", relion="lowpass_filter", flag="--lowpass",
        le=1e6, help="Low-pass the map before thresholding; 0 or less: not at all.",
    )  # fmt: skip
    threshold: float = param(
        0.02, title="Initial binarisation threshold", tab="Mask", relion="inimask_threshold",
        flag="--ini_threshold", ge=-1e15, le=1e15, help="Voxels of the low-passed map at or above this are inside.",
    )  # fmt: skip
    extend_px: float = param(
        3.0, title="Extend binary map", unit="px", tab="Mask", relion="extend_inimask", flag="--extend_inimask",
        ge=-10_000, le=10_000, help="Grow the binary map by this distance; negative shrinks it.",
    )  # fmt: skip
    soft_edge_px: float = param(
        3.0, title="Soft edge", unit="px", tab="Mask", relion="width_mask_edge", flag="--width_soft_edge", ge=0,
        le=10_000, help="Width of the raised-cosine edge, added outside.",
    )  # fmt: skip
    radius_angst: float | None = param(
        None, title="Outer radius", unit="Å", tab="Shape", gt=0, le=1e6, help="Of sphere, shell or cylinder."
    )
    inner_radius_angst: float | None = param(
        None, title="Inner radius", unit="Å", tab="Shape", ge=0, le=1e6, help="Of shell or hollow cylinder."
    )
    height_angst: float | None = param(
        None, title="Height", unit="Å", tab="Shape", gt=0, le=1e6, help="Of the cylinder, along Z."
    )
    centre_x_px: float = param(
        0.0, title="Centre X", unit="px", tab="Shape", ge=-10_000, le=10_000, help="From the box centre."
    )
    centre_y_px: float = param(
        0.0, title="Centre Y", unit="px", tab="Shape", ge=-10_000, le=10_000, help="From the box centre."
    )
    centre_z_px: float = param(
        0.0, title="Centre Z", unit="px", tab="Shape", ge=-10_000, le=10_000, help="From the box centre."
    )
    invert: bool = param(
        False, title="Invert", tab="Mask", flag="--invert", help="Write 1 minus the mask.", advanced=True
    )

    @model_validator(mode="after")
    def _shape_is_complete(self) -> Self:
        if self.shape != "map" and self.radius_angst is None:
            raise ValueError(f"--radius_angst must be given for a {self.shape}")
        if self.shape == "cylinder" and self.height_angst is None:
            raise ValueError("--height_angst must be given for a cylinder")
        if self.shape == "shell" and not self.inner_radius_angst:
            raise ValueError("--inner_radius_angst must be given for a shell")
        if self.radius_angst and self.inner_radius_angst and self.inner_radius_angst >= self.radius_angst:
            raise ValueError("--inner_radius_angst must be smaller than --radius_angst")
        return self

    def check(self) -> None:
        """Read the map."""
        self._read([])

    def warnings(self) -> list[str]:
        """Say what is assumed of the map."""
        said: list[str] = []
        self._read(said)
        return said

    @property
    def _lowpass(self) -> float:
        """In Å; 0: none."""
        return max(self.lowpass_angst or 0.0, 0.0) if self.shape == "map" else 0.0

    def _read(self, said: list[str]) -> tuple[Volume, float | None]:
        """Read the map and its pixel size, which may stay unknown where nothing is measured in Å."""
        from napari_sta.io.mrc import read_volume
        from napari_sta.jobs._maps import check_values, pixel_size_if_needed

        needed = bool(self._lowpass) or self.shape != "map"
        volume = read_volume(self.in_3dref)
        if needed and len(set(volume.data.shape)) != 1:
            size = " x ".join(str(n) for n in reversed(volume.data.shape))
            raise InputError(
                f"{self.in_3dref} is {size} voxels; --lowpass_angst needs a cubic map, set it to 0"
                if self.shape == "map"
                else f"{self.in_3dref} is {size} voxels, which is not cubic; shapes are made on cubic grids"
            )
        if self.shape == "map":
            check_values(volume)
        return volume, pixel_size_if_needed(self.in_3dref, self.pixel_size_angst, said, needed=needed)

    def run(self, context: Context) -> RunSteps:
        """Make the mask and write it."""
        import numpy as np
        import torch

        from napari_sta.data.volume import Volume
        from napari_sta.io.mrc import write_volume
        from napari_sta.kernels import filters, masks

        reference, pixel = self._read([])
        yield Progress(0, 3, "map read")
        if self.shape == "map":
            density = torch.from_numpy(reference.data)
            if self._lowpass:
                assert pixel is not None
                # float64: a voxel within rounding of the threshold must not flip.
                density = filters.lowpass(density.to(torch.float64), pixel, self._lowpass)
            yield Progress(1, 3, "low-passed")
            values = density.numpy()
            if values.max() < self.threshold:
                raise InputError(
                    f"--threshold {self.threshold:g} is above every voxel of {self.in_3dref} after low-pass (they "
                    f"run from {values.min():.3g} to {values.max():.3g}); take a lower one"
                )
            mask = masks.soft_mask_from_map(values, self.threshold, self.extend_px, self.soft_edge_px)
            if mask.min() >= 1:
                raise InputError(
                    f"--threshold {self.threshold:g} puts the whole box inside the mask; take a higher one "
                    f"(voxels run from {values.min():.3g} to {values.max():.3g} after low-pass)"
                )
        else:
            centre = (self.centre_z_px, self.centre_y_px, self.centre_x_px)
            assert self.radius_angst is not None
            assert pixel is not None
            outer, inner = self.radius_angst / pixel, (self.inner_radius_angst or 0) / pixel
            if self.shape == "cylinder":
                assert self.height_angst is not None
                height = self.height_angst / pixel
                mask = masks.cylinder(reference.box_px, inner, outer, height, self.soft_edge_px, centre)
            else:
                inner = inner if self.shape == "shell" else 0.0
                mask = masks.shell(reference.box_px, inner, outer, self.soft_edge_px, centre)
        if not (mask > 0.5).any():
            raise InputError(
                f"nothing is left of the mask: --extend_px {self.extend_px:g} shrinks it away; take a larger value"
                if self.shape == "map"
                else "the shape lies outside the box or is thinner than a voxel; check its radius and centre"
            )
        if mask.min() >= 1:
            context.log.warning("the mask fills the whole box; check the radius, threshold and growth")
        if self.invert:
            mask = 1 - mask
        yield Progress(2, 3, "mask made")
        write_volume(context.out / "mask.mrc", Volume(mask.astype(np.float32), pixel))
        yield Progress(3, 3, "written")
        inside = float((mask > 0.5).mean())
        return {
            "box_size_px": reference.box_px,
            "pixel_size_angst": None if pixel is None else round(pixel, 6),
            "inside_fraction": round(inside, 5),
            "summary": f"{100 * inside:.1f} % of the box lies inside the mask.",
        }

    def relion_command(self, out: str) -> str | None:
        """Return the ``relion_mask_create`` line; RELION has no cylinders, and shapes need a pixel size."""
        if self.shape == "cylinder":
            return None
        words = [f"relion_mask_create --o {out}mask.mrc --width_soft_edge {self.soft_edge_px:g}"]
        if self.shape == "map":
            words.append(
                f"--i {self.in_3dref} --ini_threshold {self.threshold:g} --extend_inimask {self.extend_px:g}"
            )
            if self._lowpass:
                words.append(f"--lowpass {self._lowpass:g}")
            if self.pixel_size_angst:
                words.append(f"--angpix {self.pixel_size_angst:g}")
        else:
            from napari_sta.io.mrc import read_header

            header = read_header(self.in_3dref)
            pixel = self.pixel_size_angst or header.pixel_size_angst
            if pixel is None:
                return None
            assert self.radius_angst is not None
            words.append(
                f"--denovo --box_size {header.shape_zyx[0]} --angpix {pixel:g} --outer_radius "
                f"{self.radius_angst / pixel:g} --inner_radius {(self.inner_radius_angst or 0) / pixel:g} --center_x "
                f"{self.centre_x_px:g} --center_y {self.centre_y_px:g} --center_z {self.centre_z_px:g}"
            )
        if self.invert:
            words.append("--invert")
        return " ".join(words)
