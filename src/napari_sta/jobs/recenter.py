"""Recentre: make another point of the reference the centre of every particle."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from napari_sta.data.errors import InputError
from napari_sta.data.progress import Progress
from napari_sta.jobs._job import Context, Node, RunSteps, param
from napari_sta.jobs._params import StaInputsJob


class Recenter(StaInputsJob):
    """Make another point of the reference the centre of every particle.

    Origins move by the point turned into each particle's pose; coordinates and all other columns stay. A
    map reconstructed from the result has that point in its centre.
    """

    label: ClassVar[str] = "Recentre particles"
    folder: ClassVar[str] = "External"
    order: ClassVar[int] = 50
    uses_torch: ClassVar[bool] = False
    outputs: ClassVar[dict[str, Node]] = {
        "particles.star": Node("ParticleGroupMetadata.star.relion.tomo", 1, "recentred particles"),
        "optimisation_set.star": Node("TomoOptimisationSet.star.relion.tomo", 1, "recentred set"),
    }

    center_x_px: float = param(
        0.0, title="Centre on X", unit="px", tab="Centre", flag="--center_X",
        help="X of the new centre, from the centre of the reference map. With Cn symmetry only Z may differ "
        "from 0.",
    )  # fmt: skip
    center_y_px: float = param(
        0.0, title="Centre on Y", unit="px", tab="Centre", flag="--center_Y",
        help="Y of the new centre, from the centre of the reference map.",
    )  # fmt: skip
    center_z_px: float = param(
        0.0, title="Centre on Z", unit="px", tab="Centre", flag="--center_Z",
        help="Z of the new centre, from the centre of the reference map: density at this Z becomes the centre.",
    )  # fmt: skip
    pixel_size_angst: float | None = param(
        None, title="Pixel size of the reference", unit="Å", tab="Centre", gt=0,
        help="Size of the pixels above. Empty: the particles' image pixel size, or that of the tilt series "
        "before extraction.",
    )  # fmt: skip

    @classmethod
    def needs_tomograms(cls) -> bool:
        """Only the particle table changes."""
        return False

    def check(self) -> None:
        """Read the particle set."""
        self._moved()

    def warnings(self) -> list[str]:
        """Say where the shift is large."""
        found = list(self.load().warnings)
        box = min((g.image_size_px or 0 for g in self.load().particles.optics), default=0)
        if not (self.center_x_px or self.center_y_px or self.center_z_px):
            found.append("the new centre is the old one (0, 0, 0): origins stay as they are")
        largest = max(abs(self.center_x_px), abs(self.center_y_px), abs(self.center_z_px))
        if box and largest > box / 4:
            found.append(
                f"{largest:g} px is more than a quarter of the subtomograms' box ({box} px); extract again after "
                "recentring"
            )
        return found

    def run(self, context: Context) -> RunSteps:
        """Write the recentred particle set and its optimisation set."""
        from napari_sta.io.relion.particles import write_particles

        inputs, moved, shift_angst = self._moved()
        yield Progress(1, 2, f"{len(moved)} particles")
        path = context.out / "particles.star"
        write_particles(path, moved)
        if inputs.tomograms_path is not None:
            inputs.write_set(context.out / "optimisation_set.star", path)
        else:
            context.log.warning("no tomogram set was given, so no optimisation_set.star is written")
        yield Progress(2, 2, "written")
        centre_px = [self.center_x_px, self.center_y_px, self.center_z_px]
        words = ", ".join(f"{axis}={v:+g}" for axis, v in zip("XYZ", centre_px, strict=True) if v)
        return {
            "n_particles": len(moved),
            "center_xyz_px": centre_px,
            "center_xyz_angst": shift_angst,
            "summary": f"Density at {words} px becomes the centre of {len(moved)} particles."
            if words
            else f"{len(moved)} particles written; their centre stays.",
        }

    def relion_command(self, out: str) -> str | None:
        """Return the ``relion_star_handler`` line."""
        particles = self.particles_name()
        flags = "".join(
            f" --center_{axis} {value:g}"
            for axis, value in zip("XYZ", (self.center_x_px, self.center_y_px, self.center_z_px), strict=True)
            if value
        )
        return f"relion_star_handler --i {particles} --o {out}particles.star --center{flags}"

    def _moved(self) -> tuple[Any, Any, list[float]]:
        import numpy as np

        from napari_sta.kernels.rotations import euler_to_matrix_zyx

        inputs = self.load()
        particles = inputs.particles
        if len(particles) == 0:
            raise InputError(f"{inputs.particles_path} has no particles")
        pixel = (
            np.full(len(particles), self.pixel_size_angst)
            if self.pixel_size_angst
            else particles.per_particle("working_pixel_size_angst")
        )
        centre_zyx = np.array([self.center_z_px, self.center_y_px, self.center_x_px])
        # RELION: the particle's own rotation only; the subtomogram frame is where origins live.
        move = euler_to_matrix_zyx(particles.angles_deg) @ centre_zyx * pixel[:, None]
        moved = replace(particles, origin_zyx_angst=particles.origin_zyx_angst - move)
        moved = _move_priors(moved, move)
        return inputs, moved, [round(float(v * pixel[0]), 6) for v in centre_zyx[::-1]]


def _move_priors(particles: Any, move_zyx_angst: Any) -> Any:
    """Keep priors on the origin where they were relative to it; RELION leaves them behind."""
    import numpy as np

    from napari_sta.io.relion.axes import ORIGIN_PRIORS
    from napari_sta.io.relion.numbers import particle_numbers
    from napari_sta.io.relion.particles import with_text
    from napari_sta.io.star import format_number

    old = particle_numbers(particles, ORIGIN_PRIORS, may_lack=True)
    for axis, label in enumerate(ORIGIN_PRIORS):
        if label in particles.text:
            there = np.isfinite(old[:, axis])
            column = particles.text[label].copy()
            column[there] = format_number((old - move_zyx_angst)[there, axis])
            particles = with_text(particles, **{label: column})
    return particles
