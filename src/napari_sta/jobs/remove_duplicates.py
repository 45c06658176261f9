"""Subset selection: keep one particle where several sit on the same spot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from napari_sta.data.errors import InputError
from napari_sta.data.progress import Progress
from napari_sta.jobs._job import Context, Node, RunSteps, param
from napari_sta.jobs._params import StaInputsJob

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_sta.data.particles import Particles
    from napari_sta.io.relion.inputs import StaInputs


class DuplicatePreview(NamedTuple):
    """What removing duplicates would do; rows count in file order.

    Attributes
    ----------
    keep
        (n,) survivors.
    pairs, distance_angst
        (p, 2) close pairs and their distances.
    n_straddling
        How many pairs have one particle in each half set: they make half maps agree where they should not.
    """

    keep: NDArray[np.bool_]
    pairs: NDArray[np.int64]
    distance_angst: NDArray[np.float64]
    n_straddling: int


class RemoveDuplicates(StaInputsJob):
    """Keep one particle where several sit on the same spot.

    Particles of one tomogram closer than the minimum distance are taken to be the same one, picked or
    refined onto the same place more than once.
    """

    label: ClassVar[str] = "Subset selection"
    folder: ClassVar[str] = "Select"
    relion_type: ClassVar[str] = "relion.select.removeduplicates"
    order: ClassVar[int] = 70
    uses_torch: ClassVar[bool] = False
    outputs: ClassVar[dict[str, Node]] = {
        "particles.star": Node("ParticleGroupMetadata.star.relion", 1, "particles without duplicates"),
        "optimisation_set.star": Node("TomoOptimisationSet.star.relion.tomo", 1, "set without duplicates"),
    }

    min_distance_angst: float = param(
        30.0, title="Minimum inter-particle distance", unit="Å", tab="Duplicates", relion="duplicate_threshold",
        flag="--remove_duplicates", gt=0, help="Particles closer than this are taken to be the same one.",
    )  # fmt: skip
    rule: Literal["relion", "geometric"] = param(
        "relion", title="Rule", tab="Duplicates",
        choices={"relion": "as RELION", "geometric": "true positions, best score stays"},
        help="RELION subtracts origins without turning them by the subtomogram angles, and keeps the last of a "
        "chain in file order. The geometric rule turns them and keeps the best score of each cluster.",
    )  # fmt: skip
    score_column: str = param(
        "rlnMaxValueProbDistribution", title="Score", tab="Duplicates", advanced=True,
        help="Column that says which particle is best under the geometric rule; without it the first stays.",
    )  # fmt: skip

    def relion_switches(self) -> dict[str, str]:
        """Return what tells RELION's Subset selection to remove duplicates."""
        return {"do_remove_duplicates": "Yes", "fn_data": self.particles_name()}

    @classmethod
    def switched_on(cls, options: Mapping[str, str]) -> dict[str, str]:
        """Take the particle set from RELION's own slot."""
        kept = dict(options)
        # Ours repeats there what its own slots say, because RELION asks for it.
        if kept.get("fn_data") and not (kept.get("in_optimisation") or kept.get("in_particles")):
            kept["in_particles"] = kept["fn_data"]
        return kept

    @classmethod
    def needs_tomograms(cls) -> bool:
        """Only the particle table is read."""
        return False

    def check(self) -> None:
        """Read the particle set."""
        self._loaded()

    def warnings(self) -> list[str]:
        """Say what looks odd."""
        return list(self.load().warnings)

    def preview(self) -> DuplicatePreview:
        """Find duplicates without writing anything."""
        return self._preview(self._loaded().particles)

    def run(self, context: Context) -> RunSteps:
        """Write the survivors, what was removed, and the optimisation set."""
        from napari_sta.io.relion.particles import write_particles

        inputs = self._loaded()
        particles = inputs.particles
        yield Progress(0, 2, f"{len(particles)} particles")
        found = self._preview(particles)
        if self.rule == "geometric" and self.score_column not in particles.text:
            context.log.warning("no column %s: of each cluster the first particle stays", self.score_column)
        yield Progress(1, 2, f"{len(found.pairs)} close pairs")
        path = context.out / "particles.star"
        write_particles(path, particles[found.keep])
        write_particles(context.out / "particles_removed.star", particles[~found.keep])
        if inputs.tomograms_path is not None:
            inputs.write_set(context.out / "optimisation_set.star", path)
        else:
            context.log.warning("no tomogram set was given, so no optimisation_set.star is written")
        yield Progress(2, 2, "written")
        n_removed = int((~found.keep).sum())
        words = f"{n_removed} of {len(particles)} particles removed ({len(found.pairs)} pairs closer than "
        words += f"{self.min_distance_angst:g} Å"
        if found.n_straddling:
            words += f", {found.n_straddling} of them across half sets"
        return {
            "n_particles": len(particles) - n_removed,
            "n_removed": n_removed,
            "n_pairs": len(found.pairs),
            "n_pairs_across_half_sets": found.n_straddling,
            "summary": words + ").",
        }

    def relion_command(self, out: str) -> str | None:
        """Return the ``relion_star_handler`` line; RELION has only its own rule."""
        if self.rule != "relion":
            return None
        particles = self.particles_name()
        return (
            f"relion_star_handler --i {particles} --o {out}particles.star --remove_duplicates "
            f"{self.min_distance_angst:g}"
        )

    def _loaded(self) -> StaInputs:
        inputs = self.load()
        if len(inputs.particles) == 0:
            raise InputError(f"{inputs.particles_path} has no particles")
        self._score(inputs.particles)
        return inputs

    def _score(self, particles: Particles) -> NDArray[np.float64]:
        from napari_sta.io.relion.numbers import particle_numbers

        columns = [self.score_column] if self.rule == "geometric" else []
        try:
            return particle_numbers(particles, columns).sum(axis=1)
        except InputError as error:
            raise InputError(f"{error}, or choose another column with --score_column") from None

    def _preview(self, particles: Particles) -> DuplicatePreview:
        import numpy as np

        from napari_sta.kernels import neighbours
        from napari_sta.kernels.rotations import euler_to_matrix_zyx

        origin = particles.origin_zyx_angst
        if self.rule == "geometric":
            origin = np.einsum("nij,nj->ni", euler_to_matrix_zyx(particles.subtomogram_angles_deg), origin)
        position = particles.coordinate_zyx_angst - origin
        score = self._score(particles)
        keep = np.ones(len(particles), dtype=bool)
        all_pairs: list[Any] = [np.zeros((0, 2), np.int64)]
        all_distances: list[Any] = [np.zeros(0)]
        # RELION reads the distance in single precision.
        distance = self.min_distance_angst
        distance = float(np.float32(distance)) if self.rule == "relion" else distance
        _, first, number = np.unique(particles.tomogram.astype(str), return_index=True, return_inverse=True)
        in_order = np.argsort(number, kind="stable")
        members = np.split(in_order, np.cumsum(np.bincount(number))[:-1])
        for tomogram in np.argsort(first):
            rows = members[tomogram]
            pairs, apart = neighbours.close_pairs(position[rows], distance)
            keep[rows] = (
                neighbours.keep_last(pairs, len(rows))
                if self.rule == "relion"
                else neighbours.keep_best(pairs, score[rows])
            )
            all_pairs.append(rows[pairs])
            all_distances.append(apart)
        pairs = np.concatenate(all_pairs)
        halves = particles.half_set
        straddling = 0 if halves is None else int((halves[pairs[:, 0]] != halves[pairs[:, 1]]).sum())
        return DuplicatePreview(keep, pairs, np.concatenate(all_distances), straddling)
