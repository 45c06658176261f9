"""Apply an offset: recentre a particle set by it, reconstruct again, take both back."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QCheckBox, QGridLayout, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_sta.data.errors import InputError, StaError
from napari_sta.jobs._job import Job, job_named
from napari_sta.widgets._background import in_background
from napari_sta.widgets.cards import Card
from napari_sta.widgets.command_line import CommandLine
from napari_sta.widgets.fields import PathCombo
from napari_sta.widgets.of_viewer import lies_in
from napari_sta.widgets.run_queue import Ticket
from napari_sta.widgets.themes import mark
from napari_sta.widgets.words import in_plain_words
from napari_sta.widgets.workbench import Workbench


@dataclass(frozen=True)
class Recentring:
    """What is to be applied.

    Attributes
    ----------
    map_path, mask_path
        Of the two that were compared.
    offset_zyx_px
        The density at this offset becomes the centre; map pixels.
    pixel_size_angst, box_px, symmetry
        Of the map.
    """

    map_path: str
    mask_path: str
    offset_zyx_px: tuple[float, float, float]
    pixel_size_angst: float
    box_px: int
    symmetry: str

    @property
    def words(self) -> str:
        """Say the offset along Z in pixels and Å."""
        z = self.offset_zyx_px[0]
        return f"{z:+.2f} px ({z * self.pixel_size_angst:+.2f} Å)"


@dataclass(frozen=True)
class Before:
    """What was chosen when recentring was applied: where Undo goes back to.

    Attributes
    ----------
    recentring
        The two files and their offset.
    particles
        Kind and path.
    """

    recentring: Recentring
    particles: tuple[str, str]


class RecentrePanel(QWidget):
    """Which particles, whether to reconstruct, *Apply* and *Undo*, and the command line of it.

    Parameters
    ----------
    bench
        Runs the jobs.
    card
        Tells how it went.
    wanted
        Returns what is to be applied as things stand, or raises an InputError that says why nothing can be.

    Attributes
    ----------
    settings
        How the map was made, in our field names; empty if nobody knows.
    reconstructed
        There is a map of the recentred particles (argument: its path).
    undone
        Folders that are gone, and what was chosen before (:class:`Before`, or None).
    """

    reconstructed = Signal(str)
    undone = Signal(object, object)

    def __init__(self, bench: Workbench, card: Card, wanted: Callable[[], Recentring]) -> None:
        super().__init__()
        self.bench = bench
        self.card = card
        self.settings: dict[str, str] = {}
        self._wanted = wanted
        self._applied: Ticket | None = None
        self._applying = False
        self._before: Before | None = None
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(5)
        box.addLayout(self._what())
        box.addLayout(self._buttons())
        self.command = CommandLine()
        box.addWidget(self.command)
        self.particles.currentIndexChanged.connect(lambda _: self.replan())
        self.again.toggled.connect(lambda _: self.replan())
        self.apply_button.clicked.connect(self.apply)
        self.undo_button.clicked.connect(self.undo)

    def _what(self) -> QGridLayout:
        self.particles = PathCombo()
        self.again = QCheckBox("Then reconstruct")
        self.again.setChecked(True)
        self.again_how = QLabel()
        mark(self.again_how, "quiet")
        grid = QGridLayout()
        grid.addWidget(QLabel("Particles"), 0, 0)
        grid.addWidget(self.particles, 0, 1)
        grid.addWidget(self.again, 1, 0)
        grid.addWidget(self.again_how, 1, 1)
        grid.setColumnStretch(1, 1)
        return grid

    def _buttons(self) -> QHBoxLayout:
        self.apply_button = QPushButton("Apply recentring")
        mark(self.apply_button, "go")
        self.apply_button.setEnabled(False)
        self.undo_button = QPushButton("Undo")
        self.undo_button.setToolTip("Move the recentring job to the Trash")
        self.undo_button.setEnabled(False)
        row = QHBoxLayout()
        row.addWidget(self.apply_button, 3)
        row.addWidget(self.undo_button, 1)
        return row

    # -- the particle set --------------------------------------------------------------------------

    def fill_particles(self, *, fresh: bool = False, wanted: tuple[str, str] | None = None) -> None:
        """List the particle sets; choose the one the map was made from (``fresh``: whatever was chosen)."""
        view = self.bench.view
        chosen = None if fresh else self.particles.currentData()
        with QSignalBlocker(self.particles):
            self.particles.clear()
            self.particles.addItem("choose a particle set …", ("", ""))
            if view is not None:
                for kind in ("optimisation_set", "particles"):
                    for path in view.files[kind]:
                        self.particles.addItem(str(Path(path).relative_to(view.root)), (kind, path))
            if wanted is None:
                wanted = self._source_of_map() if not chosen or not chosen[1] else chosen
            for i in range(self.particles.count()):
                if self.particles.itemData(i) == wanted:
                    self.particles.setCurrentIndex(i)
        self.replan()

    def _source_of_map(self) -> tuple[str, str]:
        """Return the set that the map was reconstructed from: what has to be recentred."""
        view = self.bench.view
        if view is not None:
            for key, kind in (("in_optimisation_set", "optimisation_set"), ("in_parts", "particles")):
                named = self.settings.get(key)
                if named:
                    return kind, str(view.root / named)
        return "", ""

    # -- the jobs ----------------------------------------------------------------------------------

    def jobs_to_run(self) -> tuple[Job, dict[str, Any] | None]:
        """Return the recentring job and the values of the reconstruction after it (None: not wanted).

        Raises
        ------
        InputError
            If what is on the canvas is not what would be applied, or a particle set has not been chosen.
        """
        recentring = self._wanted()
        kind, path = self.particles.currentData() or ("", "")
        if not path:
            raise InputError("Choose the particle set to recentre.")
        z, y, x = recentring.offset_zyx_px
        job = job_named("recenter").from_text(
            {
                "in_optimisation_set" if kind == "optimisation_set" else "in_parts": path,
                "center_z_px": z,
                "center_y_px": y,
                "center_x_px": x,
                "pixel_size_angst": round(recentring.pixel_size_angst, 6),
            }
        )
        return job, self._reconstruct_values(recentring) if self.again.isChecked() else None

    def _reconstruct_values(self, recentring: Recentring) -> dict[str, Any]:
        """Return the settings of the map's own reconstruction, or what its header allows to say."""
        keys = ("binning", "box_size_px", "crop_size_px", "wiener_snr")
        values: dict[str, Any] = {k: self.settings[k] for k in keys if self.settings.get(k)}
        if "box_size_px" not in values:
            values |= {"box_size_px": 2 * recentring.box_px, "crop_size_px": recentring.box_px}
        values["symmetry"] = recentring.symmetry
        return values

    def replan(self) -> None:
        """Say what Apply would do now, or why it cannot."""
        try:
            job, after = self.jobs_to_run()
        except StaError as error:
            self.apply_button.setEnabled(False)
            self.apply_button.setToolTip(in_plain_words(str(error), root=self.bench.root))
            self.command.set("", None)
            self.again_how.setText("")
            return
        if after is not None:
            words = [f"binning {after['binning']}"] if "binning" in after else []
            words += [f"box {after['box_size_px']}"]
            words += [f"crop {after['crop_size_px']}"] if after.get("crop_size_px") else []
            words += [str(after["symmetry"])]
            known = self.settings.get("box_size_px")
            origin = "as the map was made" if known else "from the map's header"
            self.again_how.setText(", ".join(words))
            self.again_how.setToolTip(f"Settings {origin}")
        moved = any(self._wanted().offset_zyx_px)
        self.apply_button.setEnabled(moved and not self._applying)
        reason = "Its last run is not finished yet" if self._applying else "The offset is 0: nothing to apply"
        self.apply_button.setToolTip("" if moved and not self._applying else reason)
        self.command.set(job.command_line(), job.relion_command("External/jobNNN/"))

    def apply(self) -> None:
        """Run the recentring as a job of its own, then the reconstruction if wanted."""
        try:
            job, after = self.jobs_to_run()
        except StaError as error:
            self.card.tell("error", "Not applied", str(error))
            return
        recentring = self._wanted()
        if self._applying or not any(recentring.offset_zyx_px):
            return
        before = Before(recentring, self.particles.currentData())
        self._set_applying(True)
        words = recentring.words
        self.card.tell("info", "Recentring …", f"Z {words}, as a job of its own; inputs are not changed.")

        def ended(ticket: Ticket) -> None:
            if ticket.state == "stopped":
                self._set_applying(False)
                self.card.tell("info", "Recentring stopped", "Nothing was changed.")
                return
            if ticket.state != "done":
                self._set_applying(False)
                retry = [("Retry", self.apply)]
                self.card.tell("error", "Recentring failed", str(ticket.error), actions=retry)
                return
            self._applied, self._before = ticket, before
            if after is None:
                self._set_applying(False)
                self.card.tell("good", f"Recentred by {words}", f"New particle set in {ticket.title}.")
            else:
                self._reconstruct(ticket, after, words)

        self.bench.queue.run(job, done=ended)

    def _set_applying(self, applying: bool) -> None:
        """Neither apply again nor take away what is being made."""
        self._applying = applying
        self.undo_button.setEnabled(
            not applying and self._applied is not None and self.bench.view is not None
        )
        self.replan()

    def _reconstruct(self, recentred: Ticket, values: Mapping[str, Any], words: str) -> None:
        assert recentred.out is not None
        source = recentred.out / "optimisation_set.star"
        try:
            job = job_named("reconstruct").from_text({**values, "in_optimisation_set": str(source)})
        except StaError as error:
            self._set_applying(False)
            self.card.tell("error", "The reconstruction could not start", str(error))
            return
        self.card.tell(
            "info", f"Recentred by {words}: {recentred.title}",
            "Reconstructing from the recentred particles …",
            actions=[("Stop", self.bench.queue.stop_all)],
        )  # fmt: skip

        def ended(ticket: Ticket) -> None:
            self._set_applying(False)
            if ticket.state == "done" and ticket.out is not None:
                self.reconstructed.emit(str(ticket.out / "merged.mrc"))
                self.card.tell(
                    "good", f"Recentred by {words}",
                    f"{recentred.title} holds the particles, {ticket.title} the new map, shown here.",
                )  # fmt: skip
            elif ticket.state == "failed":
                self.card.tell("error", "The reconstruction failed", str(ticket.error))
            else:
                self.card.tell(
                    "info", "The reconstruction was stopped",
                    f"{recentred.title} holds the recentred particles; Undo takes them back.",
                )  # fmt: skip

        self.bench.queue.run(job, done=ended)

    def undo(self) -> None:
        """Move the recentring job (and its reconstruction, if nothing else stops it) to the Trash."""
        ticket, view = self._applied, self.bench.view
        if ticket is None or view is None:
            return
        name = ticket.name or f"{ticket.out.parent.name}/{ticket.out.name}" if ticket.out else ticket.name

        def trash() -> list[str]:
            gone = []
            for user in view.project.downstream(name):
                view.project.trash_job(user)
                gone.append(user.rstrip("/"))
            view.project.trash_job(name)
            return [name.rstrip("/"), *gone]

        def done(gone: list[str]) -> None:
            self._applied = None
            self.undo_button.setEnabled(False)
            before, self._before = self._before, None
            self.undone.emit([view.root / job for job in gone], before)
            self.bench.refresh()
            self.card.tell(
                "info", "Recentring undone", f"{html.escape(' and '.join(gone))} moved to the Trash."
            )
            self.replan()

        in_background(self, trash, done=done, failed=lambda e: self.card.tell("error", "Not undone", str(e)))

    def choose_again(self, gone: list[Path], before: Before | None) -> None:
        """Choose what was chosen before if the chosen set lies in folders that are gone."""
        if lies_in((self.particles.currentData() or ("", ""))[1], gone):
            self.fill_particles(fresh=True, wanted=before.particles if before is not None else None)
