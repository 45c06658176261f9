"""How a 3D auto-refinement goes: its curves, and its half maps as layers, one iteration at a time."""

from __future__ import annotations

import html
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.compat import isalive
from qtpy.QtCore import QSignalBlocker, Qt, QTimer
from qtpy.QtWidgets import (
    QComboBox,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QSlider,
    QVBoxLayout,
    QWidget,
)

from napari_sta.widgets._background import Latest
from napari_sta.widgets.cards import Card
from napari_sta.widgets.command_line import CommandLine
from napari_sta.widgets.dock import in_sight
from napari_sta.widgets.plots import Picture
from napari_sta.widgets.refine_curves import draw_curves
from napari_sta.widgets.refine_history import Iteration, Refinement, half_map_layers, read_refinement
from napari_sta.widgets.run_queue import Ticket
from napari_sta.widgets.themes import mark
from napari_sta.widgets.workbench import Workbench

if TYPE_CHECKING:
    from napari_sta.data.errors import StaError

LOOK_AGAIN_MS = 4000
"""A job that another process runs is looked at this often."""
VIEWS = {"half1": "half map 1", "half2": "half map 2", "both": "both halves", "none": "no maps"}
BOTH_COLOURS = {1: "green", 2: "magenta"}


class RefineMonitor(QWidget):
    """Show one refinement: running here, running elsewhere, interrupted or done.

    The folder's files are its only source, so that all of these look the same.

    Parameters
    ----------
    bench
        Shared state; its viewer gets the half maps.
    banner
        Whether to say how the job ended, with what can be done about it. The Job dock has a card of its own
        for that.
    """

    def __init__(self, bench: Workbench, *, banner: bool = True) -> None:
        super().__init__()
        self.bench = bench
        self.run: Refinement | None = None
        self.ticket: Ticket | None = None
        self.shown: Iteration | None = None
        self._folder: Path | None = None
        self._seen: tuple[Any, ...] = ()
        self._drawn: tuple[Any, ...] = ()
        self._with_banner = banner
        self._reading = Latest(self, 0)
        self._mapping = Latest(self, 0)
        self._layers: dict[int, weakref.ref[Any]] = {}
        self._view_before = ""

        self.banner = Card()
        self.plot = Picture(bench.viewer, height=290)
        self.plot.setMinimumHeight(170)  # a card below it, with warnings, fits on a small screen
        self.command = CommandLine()
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(5)
        box.addWidget(self._headline())
        box.addWidget(self.banner)
        box.addWidget(self._warning())
        box.addWidget(self.plot, 1)
        box.addWidget(self._filler(), 1)
        box.addLayout(self._iteration_row())
        box.addWidget(self._about())
        box.addWidget(self._continue_button(), 0, Qt.AlignmentFlag.AlignLeft)
        box.addWidget(self.command)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)

        bench.monitors.add(self)
        self._clock = QTimer(self)
        self._clock.setInterval(LOOK_AGAIN_MS)
        self._connect()
        self._slid()
        self._show()

    def _headline(self) -> QLabel:
        self.headline = QLabel()
        self.headline.setWordWrap(True)
        self.headline.setTextFormat(Qt.TextFormat.RichText)
        self.headline.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        return self.headline

    def _warning(self) -> QLabel:
        self.warning = QLabel()
        self.warning.setWordWrap(True)
        mark(self.warning, "warning")
        self.warning.hide()
        return self.warning

    def _filler(self) -> QLabel:
        self.filler = QLabel("Curves and half maps appear here after every iteration.")
        self.filler.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.filler.setWordWrap(True)
        mark(self.filler, "quiet")
        return self.filler

    def _iteration_row(self) -> QHBoxLayout:
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setPageStep(1)
        self.slider.setRange(1, 1)
        self.slider.setToolTip("Show the half maps and the FSC of an earlier iteration")
        self.which = QLabel()
        self.which.setMinimumWidth(64)
        self.view = QComboBox()
        for key, words in VIEWS.items():
            self.view.addItem(words, key)
        self.view.setToolTip(
            "What is on the canvas; other maps and masks are hidden meanwhile.\n"
            "Both halves: half map 1 in green, half map 2 in magenta; white is where they agree (on slices)"
        )
        row = QHBoxLayout()
        row.addWidget(self.which)
        row.addWidget(self.slider, 1)
        row.addWidget(self.view)
        return row

    def _about(self) -> QLabel:
        self.about = QLabel()
        self.about.setWordWrap(True)
        mark(self.about, "quiet")
        return self.about

    def _continue_button(self) -> QPushButton:
        self.continue_button = QPushButton("Continue from here …")
        self.continue_button.setToolTip(
            "Fill the Job dock with a new refinement that starts from this iteration; nothing runs yet"
        )
        return self.continue_button

    def _connect(self) -> None:
        bench = self.bench
        self._clock.timeout.connect(self._look_again)
        self.slider.valueChanged.connect(lambda _: self._slid())
        self.view.currentIndexChanged.connect(lambda _: self._view_chosen())
        self.continue_button.clicked.connect(self._continue)
        bench.queue.started.connect(self._job_started)
        bench.queue.progressed.connect(self._progressed)
        bench.queue.ended.connect(self._ended)
        bench.stage.taken.connect(self._stage_taken)

    # -- what to show ------------------------------------------------------------------------------

    def follow(self, ticket: Ticket) -> None:
        """Show a job from its start; its folder becomes known with its first step."""
        if ticket.out is None or ticket.out != self._folder:  # else it is resumed
            self._forget()
        self.ticket = ticket
        self.banner.hide()
        self.command.set(ticket.job.command_line(), None)
        self._progressed(ticket)
        self._slid()
        self._show()

    def announce(self, on: bool) -> None:
        """Say how the job ended (see ``banner``), or leave that to somebody's card."""
        self._with_banner = on
        self._slid()
        self._show()

    def load(self, folder: str | Path) -> None:
        """Show the refinement in a folder."""
        folder = Path(folder)
        if folder != self._folder:
            self._forget()
            self._folder = folder
            self.command.set("", None)
            self._slid()
            self._show()
            running = self.bench.queue.running
            self.ticket = running if running is not None and running.out == folder else None
        elif self._view_before:  # it is asked for again
            self._set_view(self._view_before)
            self._view_chosen()
        self.refresh()
        self._clock.start()

    def _forget(self) -> None:
        self._clock.stop()
        self._reading.cancel()
        self._mapping.cancel()
        self.run, self.ticket, self.shown, self._folder = None, None, None, None
        self._seen = self._drawn = ()
        self._remove_layers()
        self._set_view(self._view_before)
        self.banner.hide()

    def refresh(self) -> None:
        """Read the folder again, in a thread."""
        folder = self._folder
        if folder is not None:
            self._reading.request(lambda: read_refinement(folder), done=self._arrived, failed=self._not_read)

    def _look_again(self) -> None:
        if self.ticket is None and in_sight(self):
            self.refresh()

    def _job_started(self, ticket: Ticket) -> None:
        if ticket.out is not None and ticket.out == self._folder:  # it is resumed
            self.ticket = ticket
            self.banner.hide()

    def _progressed(self, ticket: Ticket) -> None:
        if ticket is not self.ticket:
            return
        if self._folder is None and ticket.out is not None:
            self._folder = ticket.out
        if ticket.warnings:
            self.warning.setText(f"⚠ {self.banner.plain(ticket.warnings[-1], type(ticket.job))}")
        self.warning.setVisible(bool(ticket.warnings))
        data = ticket.progress.data if ticket.progress is not None else {}
        seen = (data.get("iteration"), data.get("phase"))
        # A step that follows closely on another is not told: look whenever anything but the count changed.
        if seen != self._seen:
            self._seen = seen
            self.refresh()

    def _ended(self, ticket: Ticket) -> None:
        if ticket is self.ticket:
            self.ticket = None
            if self._folder is None:
                self._folder = ticket.out
            self.refresh()

    def _not_read(self, error: StaError) -> None:
        self.banner.tell("error", "The refinement cannot be shown", str(error))

    def _arrived(self, run: Refinement) -> None:
        if self.bench.closed:
            return
        fresh = self.run is None or self.run.folder != run.folder
        was_last = self.slider.value() == self.slider.maximum()
        self.run = run
        if run.status not in ("Running", "Unknown"):
            self._clock.stop()
        if run.iterations:
            first, last = run.iterations[0].number, run.iterations[-1].number
            with QSignalBlocker(self.slider):
                self.slider.setRange(first, last)
                # Whoever looks at an earlier iteration is not pulled away from it.
                if fresh or was_last or self.shown is None:
                    self.slider.setValue(last)
        self._slid()
        self._show()

    # -- showing -----------------------------------------------------------------------------------

    def _draw(self) -> None:
        iterations = self.run.iterations if self.run is not None else ()
        chosen = self.shown.number if self.shown is not None else 0
        key = (self._folder, len(iterations), chosen)
        if iterations and key != self._drawn:
            self._drawn = key
            self.plot.show_figure(lambda figure, colours: draw_curves(figure, colours, iterations, chosen))

    def _slid(self) -> None:
        """Show the iteration that the slider is at."""
        iterations = self.run.iterations if self.run is not None else ()
        number = self.slider.value()
        self.shown = next((it for it in iterations if it.number == number), None)
        self.which.setText(f"Iteration {number}")
        for widget in (self.plot, self.which, self.slider, self.view, self.about):
            widget.setVisible(bool(iterations))
        self.filler.setVisible(not iterations)
        self.slider.setEnabled(len(iterations) > 1)
        self.about.setText(f"{self.shown.sentence()}" if self.shown else "")
        optimiser = self._optimiser()
        # The Job dock has a button for it on its card.
        self.continue_button.setVisible(optimiser is not None and self.ticket is None and self._with_banner)
        self.continue_button.setText(f"Continue from iteration {number} …")
        self._draw()
        self._show_maps()

    def _show(self) -> None:
        run, ticket = self.run, self.ticket
        if run is None or not run.iterations:
            name = ticket.title if ticket is not None else (run.name if run is not None else "")
            self.headline.setText(f"<b>{html.escape(name)}</b>: the first iteration is still to come")
        else:
            best = run.iterations[-1]
            words = (
                f"<b style='font-size:14pt'>{best.resolution_angst:.2f} Å</b> after iteration {best.number}"
            )
            if run.has_converged:
                words += " · converged"
            self.headline.setText(f"{words} · {html.escape(run.name)}")
        if run is not None and run.command:
            self.command.set(run.command, run.relion_command or None)
        self.command.setVisible(bool(self.command.text()))
        self._show_banner()

    def _show_banner(self) -> None:
        run = self.run
        if run is None or self.ticket is not None or not self._with_banner:
            self.banner.hide()
        elif run.can_resume and not run.has_converged:
            last = run.iterations[-1].number if run.iterations else 0
            self.banner.tell(
                "warning",
                f"{run.name} was interrupted in iteration {last + 1}",
                f"What was done up to iteration {last} is kept. Resume goes on from there, same options."
                if last
                else "Resume starts it again in the same folder, with the same options.",
                actions=[("Resume", lambda: self.bench.queue.resume(run.folder, failed=self._not_read))],
            )
        elif run.iterations and not run.has_converged and run.status not in ("Running",):
            number = run.iterations[-1].number
            earlier = ", or from an earlier one: choose it below" if number > 1 else ""
            self.banner.tell(
                "info",
                f"{run.name} ended before it had converged",
                f"A new job can go on from iteration {number}{earlier}.",
            )
        else:
            self.banner.hide()

    # -- continuing --------------------------------------------------------------------------------

    def _optimiser(self) -> Path | None:
        """Return the file from which a new job continues after the iteration on show."""
        if self.run is None or self.shown is None or self.shown.is_last or self.run.optimiser is None:
            return None
        return self.run.optimiser.with_name(f"run_it{self.shown.number:03d}_optimiser.star")

    def _continue(self) -> None:
        optimiser = self._optimiser()
        if optimiser is not None:
            self.bench.continue_from(optimiser)

    # -- maps --------------------------------------------------------------------------------------

    @property
    def layers(self) -> dict[int, Any]:
        """Half set to its layer, as far as it is in the viewer."""
        if self.bench.closed:
            return {}
        layers = {half: reference() for half, reference in self._layers.items()}
        return {half: layer for half, layer in layers.items() if layer in self.bench.viewer.layers}

    def _remove_layers(self) -> None:
        """Take the half maps out of the viewer, unless another monitor shows them too."""
        mine = list(self.layers.values())
        self._layers = {}
        self.bench.stage.leave(self)
        used = [layer for other in self.bench.monitors for layer in other.layers.values()]
        for layer in mine:
            if layer not in used:
                self.bench.viewer.layers.remove(layer)

    def _show_maps(self) -> None:
        shown, folder = self.shown, self._folder
        if shown is None or folder is None or self.view.currentData() == "none" or not shown.maps:
            return
        there = self.layers
        # Layers that the user has removed stay away; choosing a view brings them back.
        if self._layers and not there:
            return
        stale = [h for h, layer in there.items() if layer.metadata["napari_sta"]["iteration"] != shown.number]
        if self._layers and not stale:
            return
        self._mapping.request(
            lambda: half_map_layers(shown, folder), done=self._maps_arrived, failed=self._not_read
        )

    def _maps_arrived(self, tuples: list[Any]) -> None:
        if self.bench.closed:
            return
        if self._layers:  # the user may have removed one of them
            there = self.layers
            tuples = [half for half in tuples if half[1]["metadata"]["napari_sta"]["half"] in there]
        self._add_one_by_one(tuples)

    def _add_one_by_one(self, tuples: list[Any]) -> None:
        """Add a layer, let the event loop turn, add the next: each costs napari a noticeable while."""
        if not tuples or self.bench.closed or not isalive(self):
            return
        if tuples[0][1]["metadata"]["napari_sta"]["run"] != str(self._folder):
            return  # another refinement has been chosen meanwhile
        first, there = not self.bench.viewer.layers, self.layers
        [layer] = self.bench.shown.add(tuples[:1])
        self._layers[layer.metadata["napari_sta"]["half"]] = weakref.ref(layer)
        if layer not in there.values():
            self._arrange()
        if first:
            self.bench.viewer.fit_to_view()
            for axis in self.bench.viewer.dims.not_displayed:
                self.bench.viewer.dims.set_point(axis, 0.0)
        QTimer.singleShot(20, lambda: self._add_one_by_one(tuples[1:]))

    def _view_chosen(self) -> None:
        self._view_before = ""
        if self.view.currentData() != "none":
            if not self.layers:
                self._layers = {}
            self._show_maps()
        self._arrange()

    def _arrange(self) -> None:
        """Show one half map in grey, or both in two colours that add up to white; nothing covers them."""
        view = self.view.currentData()
        there = self.layers
        if view == "none":
            self.bench.stage.leave(self)
            for layer in there.values():
                layer.visible = self.bench.stage.shows(layer)
            return
        for half, layer in there.items():
            both = view == "both"
            layer.colormap = BOTH_COLOURS[half] if both else "gray"
            layer.blending = "additive" if both else "translucent"
        seen = [layer for half, layer in there.items() if view in ("both", f"half{half}")]
        if seen:
            self.bench.stage.take(self, seen)
        for layer in there.values():
            layer.visible = layer in seen

    def _stage_taken(self, owner: object) -> None:
        """Something else is to be seen: say so; choosing a view, or another refinement, brings them back."""
        if owner is not self and self.layers and self.view.currentData() != "none":
            self._view_before = str(self.view.currentData())
            self._set_view("none")

    def _set_view(self, key: str) -> None:
        if key:
            with QSignalBlocker(self.view):
                self.view.setCurrentIndex(self.view.findData(key))
