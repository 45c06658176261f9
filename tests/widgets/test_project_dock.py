"""The tree, what can be done with a job, and what can be dropped."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time

import numpy as np
import pytest
from fake_jobs import Fine
from qt_loop import settle
from qtpy.QtCore import QMimeData, QPoint, Qt, QUrl
from qtpy.QtGui import QColor, QDropEvent, QGuiApplication

from napari_sta.data.progress import Progress
from napari_sta.io.project.project import Project
from napari_sta.io.project.tables import PipelineNode
from napari_sta.widgets.project_dock import ProjectDock
from napari_sta.widgets.project_files import settings_of


@pytest.fixture
def dock(viewer, qtbot, bench):
    made = ProjectDock(viewer)
    qtbot.addWidget(made)
    made.show()
    return made


@pytest.fixture
def opened(dock, bench, project, wait):
    dock.open(project)
    wait(lambda: bench.view is not None)
    return dock


def drop(widget, *paths) -> None:
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
    left, none = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    widget.dropEvent(QDropEvent(QPoint(5, 5), Qt.DropAction.CopyAction, mime, left, none))


def tree_of(dock) -> dict[str, list[str]]:
    return {
        group.text(0): [
            group.child(i).text(0) for i in range(group.childCount()) if not group.child(i).isHidden()
        ]
        for group in dock.tree._groups()
        if not group.isHidden()
    }


def test_tree_lists_jobs_by_type_with_their_files(opened):
    assert tree_of(opened) == {"Tomograms": ["job001"], "Select": ["job002"], "Reconstruct": ["job003"]}
    opened.select("Reconstruct/job003")
    item = opened.tree.currentItem()
    assert item.child(0).text(0) == "merged.mrc"
    assert item.toolTip(1) == "Succeeded"
    assert "Reconstruct/job003" in opened.details.text()


def test_tree_lists_the_optimisation_set_of_an_external_job(opened, bench, project, wait):
    made = Project(project)
    name = made.add_job("External", "relion.external", [], [PipelineNode("particles.star", "X.star")])
    for file in ("particles.star", "optimisation_set.star"):
        shutil.copy(project / "Select/job002" / file, project / name / file)
    made.finish_job(name, "Succeeded")
    bench.refresh()
    wait(lambda: "External" in tree_of(opened))
    opened.select("External/job004")
    item = opened.tree.currentItem()
    files = [item.child(i).text(0) for i in range(item.childCount())]
    assert files == ["particles.star", "optimisation_set.star"]


def test_filter_finds_numbers_types_and_files(opened):
    opened.filter.setText("003")
    assert tree_of(opened) == {"Reconstruct": ["job003"]}
    opened.filter.setText("particles.star")
    assert tree_of(opened) == {"Select": ["job002"]}
    opened.filter.setText("")
    assert len(tree_of(opened)) == 3


def test_double_click_shows_layers_and_twice_does_not_double_them(opened, viewer, wait):
    opened.select("Reconstruct/job003")
    for _ in range(2):
        opened.tree.itemDoubleClicked.emit(opened.tree.currentItem(), 0)
        wait(lambda: len(viewer.layers) == 1)
    assert viewer.layers[0].name == "Reconstruct/job003 · merged"
    opened.tree.setCurrentItem(opened.tree.currentItem().child(1))
    opened.show_button.click()
    wait(lambda: len(viewer.layers) == 2)


def test_running_job_is_in_the_tree_at_once_however_slowly_it_starts(opened, bench, wait):
    class Slow(Fine):
        """Does nothing for long."""

        def run(self, context):
            while not go.is_set():
                yield Progress(0, 1, "reading")
                time.sleep(0.02)
            return {}

        def check(self):
            time.sleep(2)  # longer than a single look after a while would wait

    go = threading.Event()
    ticket = bench.queue.run(Slow())
    wait(lambda: "External" in tree_of(opened), 8)
    assert ticket.state == "running"
    opened.select("External/job004")
    assert opened.tree.currentItem().toolTip(1) == "Running"
    go.set()
    wait(lambda: opened.tree.currentItem().toolTip(1) == "Succeeded")
    assert opened.selected_job == "External/job004"


def test_what_others_do_in_the_project_is_seen(opened, bench, project, wait):
    """RELION's GUI, a command line, a detached job."""
    bench._clock.setInterval(200)
    opened.select("Reconstruct/job003")
    opened.tree.setCurrentItem(opened.tree.currentItem().child(1))
    settle(lambda: bench._trace is not None, 5)
    made = Project(project)
    name = made.add_job("Extract", "relion.pseudosubtomo", [], [])
    wait(lambda: "Extract" in tree_of(opened), 10)
    # The tree is filled anew; who looks at a file goes on looking at it.
    assert opened.selected_job == "Reconstruct/job003"
    assert opened.tree.currentItem().text(0) != "job003"
    assert opened.tree.currentItem().parent().isExpanded()
    settle(lambda: False, 0.6)
    (project / name / "RELION_JOB_EXIT_FAILURE").touch()  # RELION notes it in its pipeline when its GUI looks
    wait(lambda: any(j.name == name and j.status == "Failed" for j in bench.view.jobs), 10)


def test_unchanged_project_is_not_shown_anew(opened, bench, wait):
    shown = []
    bench.project_changed.connect(shown.append)
    bench.refresh()
    settle(lambda: bool(shown), 1.5)
    assert shown == []


@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.usefixtures("real_window")
def test_link_is_readable_on_both_themes(viewer, bench, project, wait, theme):
    viewer.theme = theme
    dock = bench.open_dock("project")
    folder = project / "Refine3D/job004"
    folder.mkdir(parents=True)
    (folder / "job.json").write_text(json.dumps({"job": "refine", "values": {}, "status": "Aborted"}))
    for name in ("RELION_JOB_EXIT_ABORTED", "run_it000_half1_model.star", "run_it001_checkpoint.npz"):
        (folder / name).touch()
    dock.open(project)
    wait(lambda: bench.view is not None and bench.view.interrupted)
    dock.select("Refine3D/job004")
    settle(lambda: False, 0.2)
    [colour] = re.findall(r"<a href='resume' style='color:(#[0-9a-f]{6})'", dock.details.text())
    background = QColor(napari_theme(theme).background.as_hex())
    assert contrast(QColor(colour), background) > 4.5
    viewer.theme = {"dark": "light", "light": "dark"}[theme]
    wait(lambda: colour not in dock.details.text())


def napari_theme(name: str):
    from napari.utils.theme import get_theme

    return get_theme(name)


def contrast(a: QColor, b: QColor) -> float:
    """Ratio of luminances as WCAG counts it."""

    def luminance(colour: QColor) -> float:
        parts = [colour.redF(), colour.greenF(), colour.blueF()]
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_no_project_is_a_card(dock, bench, tmp_path, wait):
    dock.open(tmp_path)
    wait(dock.card.isVisible)
    assert "no RELION project" in dock.card.text
    assert bench.view is None


def test_next_fills_the_job_form(opened, bench, small_project):
    opened.select("Reconstruct/job003")
    opened._fill_next()
    words = [a.text() for a in opened.next_menu.actions() if a.text()]
    assert words[0] == "Align && recentre …"  # a single & would underline what follows it
    assert {"Mask creation", "Post-processing"} <= set(words)
    asked = []
    bench.open_dock = lambda key: None
    bench.fill_job.connect(lambda name, values: asked.append((name, values)))
    next(a for a in opened.next_menu.actions() if a.text() == "Post-processing").trigger()
    [(name, values)] = asked
    assert name == "postprocess"
    assert values["in_half_map"].endswith("Reconstruct/job003/half1.mrc")
    assert values["in_mask"].endswith("mask_fsc.mrc")


def test_command_of_the_note_is_copied(opened, project):
    opened.select("Reconstruct/job003")
    opened.copy_command()
    assert "no command" in opened.card.text
    (project / "Reconstruct/job003/note.txt").write_text(
        " ++++ Executing new job on today\n ++++ with the following command(s): \n"
        "relion_tomo_reconstruct_particle --i Select/job002/optimisation_set.star --b 80 --sym C6\n ++++ \n"
    )
    opened.copy_command()
    assert QGuiApplication.clipboard().text().startswith("relion_tomo_reconstruct_particle --i")
    (project / "Reconstruct/job003/job.star").unlink()
    assert settings_of(project / "Reconstruct/job003") == {
        "in_optimisation_set": "Select/job002/optimisation_set.star", "box_size_px": "80", "symmetry": "C6",
    }  # fmt: skip


def test_note_is_shown_and_added_to(opened, project, wait):
    (project / "Select/job002/note.txt").write_text("picked by hand\n")
    opened.select("Select/job002")
    wait(lambda: opened.note.text.toPlainText() == "picked by hand")
    opened.note.edit.setText("the good ones")
    opened.note.edit.returnPressed.emit()
    wait(lambda: "the good ones" in opened.note.text.toPlainText())
    assert (project / "Select/job002/note.txt").read_text().endswith("the good ones\n")


def test_trash_and_undo(opened, bench, project, wait):
    made = Project(project)
    name = made.add_job("External", "relion.external", [], [PipelineNode("a.star", "X.star")])
    made.finish_job(name, "Succeeded")
    bench.refresh()
    wait(lambda: "External" in tree_of(opened))
    opened.select("External/job004")
    opened.trash()
    wait(lambda: "in the Trash" in opened.card.text)
    wait(lambda: "External" not in tree_of(opened))
    opened.card.button("Undo").click()
    wait(lambda: "is back" in opened.card.text)
    wait(lambda: "External" in tree_of(opened))
    assert Project(project).job(name).outputs == ("External/job004/a.star",)


def test_job_in_use_is_not_trashed(opened, wait):
    opened.select("Select/job002")
    opened.trash()
    wait(opened.card.isVisible)
    assert "cannot be discarded" in opened.card.text
    assert "Reconstruct/job003/" in opened.card.text


@pytest.mark.parametrize("what", ["project", "job", "star", "map"])
def test_dropped_things_open(dock, bench, viewer, project, wait, what):
    path = {
        "project": project,
        "job": project / "Reconstruct/job003",
        "star": project / "Select/job002/particles.star",
        "map": project / "masks/mask_align.mrc",
    }[what]
    drop(dock, path)
    wait(lambda: bench.view is not None and bench.view.root == project, 20)
    if what == "project":
        assert len(viewer.layers) == 0
    else:
        wait(lambda: len(viewer.layers) > 0)
        kinds = {layer.metadata["napari_sta"]["kind"] for layer in viewer.layers}
        expected = {"job": {"map"}, "star": {"particles", "vectors"}, "map": {"mask", "contour"}}[what]
        assert kinds == expected
        assert {str(u) for layer in viewer.layers for u in layer.units} == {"angstrom"}


def test_broken_map_is_a_card(dock, tmp_path, wait):
    (tmp_path / "broken.mrc").write_bytes(np.zeros(600, np.uint8).tobytes())
    drop(dock, tmp_path / "broken.mrc")
    wait(dock.card.isVisible)
    assert "broken.mrc" in dock.card.text


def test_practice_project_opens_and_knows_its_answer(dock, bench, wait):
    bench.open_dock = lambda key: None
    dock.practice_button.click()
    assert not dock.practice_button.isEnabled()
    wait(lambda: bench.view is not None, 30)
    dock.card.button("Show the answer").click()
    assert "hidden offset is" in dock.card.text
