"""3D auto-refine: gold-standard refinement of poses against half maps."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from napari_sta.data.progress import Progress
from napari_sta.io.files import resolve, sha256
from napari_sta.jobs import _refine_relion
from napari_sta.jobs._job import Context, Node, RunSteps
from napari_sta.jobs._params import keep_beside, read_once
from napari_sta.jobs._refine_options import MOST_ITERATIONS, RefineOptions

if TYPE_CHECKING:
    from collections.abc import Generator

    from napari_sta.engine.state import State
    from napari_sta.io.refinement.optimiser import Optimiser
    from napari_sta.jobs._refine_files import Writer
    from napari_sta.jobs._refine_inputs import Prepared

_SURE_FIT = 8.0
"""Standard errors by which the fitted grey scale must differ from 0 to be believed."""


class Refine(RefineOptions):
    """Refine orientations and positions of extracted particles against two independent half maps.

    Starts from 2D stacks or 3D subtomograms, of napari-sta or RELION, a reference map and a mask; each half set
    is refined on its own, sampling gets finer by itself, and the job ends when neither resolution nor poses change. Every
    iteration is written with RELION's names, and an interrupted job can be resumed.
    """

    label: ClassVar[str] = "3D auto-refine"
    folder: ClassVar[str] = "Refine3D"
    relion_type: ClassVar[str] = "relion.refine3d"
    order: ClassVar[int] = 60
    uses_ranks: ClassVar[bool] = True
    may_grow: ClassVar[frozenset[str]] = frozenset({"max_iterations"})
    is_long: ClassVar[bool] = True
    outputs: ClassVar[dict[str, Node]] = {
        "run_class001.mrc": Node("DensityMap.mrc.relion.refine3d", 1, "refined map"),
        "run_half1_class001_unfil.mrc": Node("DensityMap.mrc.relion.halfmap.refine3d", 1, "half map 1"),
        "run_data.star": Node("ParticleGroupMetadata.star.relion.refine3d", 1, "refined particles"),
        "run_optimisation_set.star": Node("TomoOptimisationSet.star.relion.refine3d", 1, "refined set"),
        "run_optimiser.star": Node("OptimiserData.star.relion.refine3d", 1, "optimiser"),
    }

    # ---- before

    def check(self) -> None:
        """Read everything but the images' pixels."""
        import logging

        from napari_sta.jobs._refine_inputs import prepare

        unheard = logging.getLogger("napari_sta.check")
        unheard.disabled = True  # the run says it again
        prepare(self.complete(), unheard, 1, check_files=True)

    def warnings(self) -> list[str]:
        """Say what looks odd but does not stop the job."""
        from napari_sta.jobs._refine_inputs import warnings_of

        return warnings_of(self.complete())

    def read_besides(self) -> dict[str, Any]:
        """Add tilt series, the particles' images, and what was refined before."""
        from napari_sta.jobs._fingerprint import of_files, of_table

        job, optimiser = self.with_continued()
        inputs = job.load()
        images = (
            resolve(str(name).rpartition("@")[2], inputs.particles_path)
            for label in ("rlnImageName", "rlnCtfImage")
            for name in inputs.particles.text.get(label, ())
        )
        found: dict[str, Any] = {
            "tilt series": of_table(inputs.tilt_series),
            "sizes or dates of particle images": of_files(images),
        }
        if optimiser is not None:
            # The particle set that is gone on with, and reference and mask taken over, are named in no field.
            taken = [inputs.particles_path, job.in_3dref, job.in_mask]
            found["particles, reference or mask taken over"] = [
                sha256(resolve(path)) if path else "" for path in taken
            ]
        return found

    def stays(self, out: Path, written: frozenset[str]) -> frozenset[str]:
        """Keep the iterations that the job continues, where it does so in the same folder."""
        from napari_sta.jobs._refine_continued import kept_iteration
        from napari_sta.jobs._refine_folder import iterations

        last = kept_iteration(self, out, self.with_continued()[1])
        again = {"run_history.json", "run_solvent_mask.mrc"}  # are written anew without loss
        gone = iterations(written, after=last) - again
        return written - gone if last >= 0 else frozenset()

    def complete(self) -> Refine:
        """Return the job with what it takes over from the one it continues."""
        return self.with_continued()[0]

    def with_continued(self) -> tuple[Refine, Optimiser | None]:
        """Return the job with what it takes over from the one it continues, and the file it goes on from."""
        from napari_sta.jobs._refine_continued import with_continued

        def read() -> tuple[Refine, Optimiser | None]:
            whole, optimiser = with_continued(self)
            keep_beside(self, whole)
            return whole, optimiser

        return read_once(self, "continued", read)

    # ---- the run

    def run(self, context: Context) -> RunSteps:
        """Iterate until it has converged."""
        from napari_sta.data.volume import Volume
        from napari_sta.engine.loop import iterate
        from napari_sta.engine.ranks import Ranks
        from napari_sta.io.mrc import write_volume
        from napari_sta.jobs._refine_files import Writer
        from napari_sta.jobs._refine_folder import write_history
        from napari_sta.jobs._refine_inputs import prepare
        from napari_sta.jobs._refine_report import report, result

        job = self.complete()
        yield Progress(0, 0, "reading")
        ranks = Ranks.join()
        devices = [device for device in context.devices() if device.type != "cpu"]
        if devices and ranks.size > 1:  # a device a process
            devices = [devices[ranks.local % len(devices)]]
        prepared = prepare(job, context.log, context.threads, ranks, devices)
        run = prepared.run
        writer = Writer(
            out=context.out, inputs=prepared.inputs, run=run, start=prepared.start, has_mask=bool(job.in_mask),
            command=self.command_line(str(context.out)), fingerprint=context.fingerprint,
        )  # fmt: skip
        state, history = yield from self._first_state(job, prepared, writer, context)
        if ranks.is_first and job.in_mask:
            mask = Volume(run.mask.numpy().astype("f4"), run.pixel_size_angst)
            write_volume(context.out / "run_solvent_mask.mrc", mask)
        most = job.max_iterations or MOST_ITERATIONS
        while not state.converged and state.iteration < most:
            began = time.monotonic()
            before = state
            state, maps = yield from iterate(run, state)
            record = report(state, run.rules, round(time.monotonic() - began, 2))
            if ranks.is_first:
                history.append(record)
                write_history(context.out, history)  # before the checkpoint that says the iteration is done
                writer.write(state, maps, before)
            context.log.info("%s", record["sentence"])
            yield Progress(len(run.source), len(run.source), record["sentence"], record)
        if not state.converged:
            return result(state, run.rules, history) | {
                "summary": f"stopped after iteration {state.iteration}, before it converged; go on with "
                f"--continue_from {writer.named(context.out)}/run_it{state.iteration:03d}_optimiser.star"
            }
        return result(state, run.rules, history)

    def _first_state(
        self, job: Refine, prepared: Prepared, writer: Writer, context: Context
    ) -> Generator[Progress, None, tuple[State, list[dict[str, Any]]]]:
        """State to go on from, and the history up to it: of this run, of another one, or of the beginning."""
        from napari_sta.io.refinement.history import read_history
        from napari_sta.jobs._refine_continued import continued_state, kept_iteration
        from napari_sta.jobs._refine_folder import latest_checkpoint, remove_iterations, write_history

        out, ranks = context.out, prepared.run.ranks
        saved = ranks.from_first(
            latest_checkpoint(out, context.kept, context.fingerprint) if ranks.is_first else None
        )
        if saved is not None and not saved.state.converged:
            state, history = saved.state, []
            if ranks.is_first:
                history = [step for step in read_history(out) if step["iteration"] <= state.iteration]
                remove_iterations(out, context.kept, after=state.iteration)
                write_history(out, history)  # it may be stopped again before an iteration ends
            context.log.info("continuing after iteration %d", state.iteration)
            return state, history
        optimiser = self.with_continued()[1]
        if optimiser is not None:
            state = continued_state(self, optimiser, prepared, context.log)
        if ranks.is_first:
            remove_iterations(out, context.kept, after=kept_iteration(self, out, optimiser))
        if optimiser is None:
            state = yield from self._begin(job, prepared, context)
            if ranks.is_first:
                writer.write(state, None)
        return state, []

    def _begin(self, job: Refine, prepared: Prepared, context: Context) -> Generator[Progress, None, State]:
        """Prepare iteration 0: grey scale and noise."""
        from napari_sta.engine.start import initial_state

        run, references = prepared.run, prepared.references
        assert references is not None
        progress = Progress(0, len(run.source), "grey scale and noise at the input poses")
        yield progress
        auto = job.absolute_greyscale == "Auto"
        state, fit = yield from run.workers.in_background(
            lambda: initial_state(run, references, prepared.start, prepared.half_set, fit_scale=auto),
            progress,
        )
        if auto and fit.significance < _SURE_FIT:
            context.log.warning(
                "the images do not match the reference at the input poses (%.1f standard errors), so its grey scale "
                "cannot be fitted; the first iteration uses cross-correlation", fit.significance,
            )  # fmt: skip
            state = replace(state, first_cc=True)
        elif auto:
            context.log.info(
                "grey scale: the reference is multiplied by %.4g (%.0f standard errors)", fit.scale,
                fit.significance,
            )  # fmt: skip
        return state

    # ---- RELION

    def relion_command(self, out: str) -> str | None:
        """Return the ``relion_refine_mpi`` line."""
        return _refine_relion.command_line(self, out)

    def relion_switches(self) -> dict[str, str]:
        """Return RELION's options that have another form than ours."""
        return _refine_relion.switches(self)

    @classmethod
    def switched_on(cls, options: Mapping[str, str]) -> dict[str, str]:
        """Translate RELION's options that have another form than ours."""
        return _refine_relion.switched_on(options)
