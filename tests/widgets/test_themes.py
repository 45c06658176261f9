"""Everything can be read on every theme, also after the theme has changed."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtGui import QImage
from qtpy.QtWidgets import QLabel, QPushButton

from napari_sta.widgets.themes import (
    LINE_CONTRAST,
    LINES,
    TEXT_CONTRAST,
    WORDS,
    colours_of,
    contrast,
    mark,
    on_theme,
    readable,
)

THEMES = {  # background, foreground, text, line
    "dark": ("#23242b", "#2e333e", "#f0f1f2", "#424a54"),
    "light": ("#ebe7e6", "#dddad8", "#1e1e21", "#c5c3c1"),
    "black": ("#000000", "#111111", "#ffffff", "#333333"),
    "white": ("#ffffff", "#f0f0f0", "#000000", "#cccccc"),
    "blue": ("#0b2545", "#13315c", "#eef4ed", "#8da9c4"),
    "sepia": ("#f4ecd8", "#e8dcc0", "#5b4636", "#cbbf9f"),
}


def test_contrast_is_that_of_the_web_guidelines():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    assert contrast("#123456", "#123456") == 1


@pytest.mark.parametrize("theme", THEMES)
def test_every_colour_can_be_read(theme):
    background, foreground, _, field = THEMES[theme]
    colours = on_theme(*THEMES[theme])
    for name in (*WORDS, "text"):
        assert min(contrast(colours[name], one) for one in (background, foreground)) >= TEXT_CONTRAST, name
    for name in LINES:
        assert contrast(colours[name], background) >= LINE_CONTRAST, name
    assert contrast(colours["button_text"], colours["button"]) >= TEXT_CONTRAST
    assert contrast(colours["placeholder"], field) >= TEXT_CONTRAST
    assert len({colours[name] for name in LINES}) == len(LINES)


def test_a_colour_that_can_be_read_stays():
    assert readable("#101014", ["#ffffff"], 4.5) == "#101014"
    assert contrast(readable("#7ad1ff", ["#ffffff"], 3.0), "#ffffff") >= 3


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def pixels(widget) -> np.ndarray:
    image = widget.grab().toImage().convertToFormat(QImage.Format.Format_RGB32)
    data = np.frombuffer(image.constBits(), np.uint8).reshape(image.height(), image.width(), 4)
    return data[..., 2::-1].copy()  # the image goes away


def has(widget, colour: str, *, near: int = 12) -> bool:
    """Whether some pixel has just this colour."""
    return bool((np.abs(pixels(widget).astype(int) - rgb(colour)).max(axis=2) <= near).any())


def docks(viewer, qtbot):
    from napari_sta.widgets.align_dock import AlignDock
    from napari_sta.widgets.inspect_dock import InspectDock
    from napari_sta.widgets.job_dock import JobDock
    from napari_sta.widgets.project_dock import ProjectDock

    for kind in (AlignDock, InspectDock, JobDock, ProjectDock):
        dock = kind(viewer)
        viewer.window.add_dock_widget(dock)
        yield dock


@pytest.mark.usefixtures("real_window")
def test_docks_wear_the_theme_and_follow_it(viewer, qtbot, wait):
    made = list(docks(viewer, qtbot))
    for theme in ("light", "dark"):
        viewer.theme = theme
        colours = colours_of(viewer)
        for dock in made:
            card = dock.card
            card.tell("error", "Title", "text")
            card.ensurePolished()
            label = card._title
            label.ensurePolished()
            assert label.palette().windowText().color().name() == colours["error"]
            for quiet in dock.findChildren(QLabel):
                if quiet.property("sta") == "quiet":
                    quiet.ensurePolished()
                    assert quiet.palette().windowText().color().name() == colours["quiet"]
            for button in dock.findChildren(QPushButton):
                if button.property("sta") == "go":
                    button.setEnabled(True)
                    button.ensurePolished()
                    assert has(button, colours["button"]), dock
                    assert has(button, colours["button_text"], near=70), dock
    align, inspect, job, _ = made
    viewer.theme = "light"
    colours = colours_of(viewer)
    assert colours["good"] in job.checks.text() or colours["error"] in job.checks.text()
    for plot in (align.plot, inspect.fsc, inspect.guinier):
        background = plot.figure.get_facecolor()
        assert tuple(round(255 * v) for v in background[:3]) == rgb(colours["background"])
    from matplotlib.colors import to_hex

    assert to_hex(align.plot._map_line.get_color()) == colours["blue"]
    assert contrast(to_hex(inspect.fsc._other_line.get_color()), colours["background"]) >= LINE_CONTRAST
    legend = align.plot.panes[0].get_legend()
    assert to_hex(legend.get_frame().get_facecolor()) == colours["background"]
    assert {to_hex(text.get_color()) for text in legend.get_texts()} == {colours["text"]}
    drawn = [to_hex(handle.get_color()) for handle in legend.get_lines()]
    assert drawn == [colours["blue"], colours["pink"]]


def test_no_other_file_has_colours_of_its_own():
    import re
    from pathlib import Path

    import napari_sta.widgets.themes as themes

    for path in Path(themes.__file__).parent.glob("*.py"):
        if path.name != "themes.py":
            found = re.findall(r"#[0-9a-fA-F]{6}\b|color=\"(?:white|black)\"", path.read_text())
            assert not found, (path.name, found)


def test_a_role_can_change(qtbot):
    label = QLabel("x")
    qtbot.addWidget(label)
    label.setStyleSheet('QLabel[sta="good"] { color: #00ff00; } QLabel[sta="error"] { color: #ff0000; }')
    for role, colour in (("good", "#00ff00"), ("error", "#ff0000")):
        mark(label, role)
        label.ensurePolished()
        assert label.palette().windowText().color().name() == colour


@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.usefixtures("real_window")
def test_what_stands_in_an_empty_field_can_be_read(viewer, theme):
    from napari_sta.widgets.job_dock import JobDock

    viewer.theme = theme
    dock = JobDock(viewer)
    viewer.window.add_dock_widget(dock)
    dock.fill("postprocess", {})
    number, path = (dock.form.rows[name].widget.native for name in ("lowpass_angst", "in_mask"))
    for line in (number.lineEdit(), path.combo.lineEdit()):
        assert line.placeholderText()
        shades = ["#" + "".join(f"{v:02x}" for v in one) for one in pixels(line).reshape(-1, 3)]
        field = max(set(shades), key=shades.count)
        assert max(contrast(shade, field) for shade in set(shades)) >= TEXT_CONTRAST
