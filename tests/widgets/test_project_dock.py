"""The tree, what can be done with a job, and what can be dropped."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from qtpy.QtCore import QMimeData, QPoint, Qt, QUrl
from qtpy.QtGui import QDropEvent, QGuiApplication

from napari_sta.io.project import PipelineNode, Project
from napari_sta.widgets.project_dock import ProjectDock
from napari_sta.widgets.project_files import next_values, read_project, settings_of


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
        for group in dock._top_items()
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


def test_no_project_is_a_card(dock, bench, tmp_path, wait):
    dock.open(tmp_path)
    wait(dock.card.isVisible)
    assert "no RELION project" in dock.card.text
    assert bench.view is None


def test_next_fills_the_job_form(opened, bench, small_project):
    opened.select("Reconstruct/job003")
    opened._fill_next()
    words = [a.text() for a in opened.next_menu.actions() if a.text()]
    assert words[0] == "Align & recentre …"
    assert {"Mask creation", "Post-processing"} <= set(words)
    asked = []
    bench.open_dock = lambda key: None
    bench.fill_job.connect(lambda name, values: asked.append((name, values)))
    next(a for a in opened.next_menu.actions() if a.text() == "Post-processing").trigger()
    [(name, values)] = asked
    assert name == "postprocess"
    assert values["in_half_map"].endswith("Reconstruct/job003/half1.mrc")
    assert values["in_mask"].endswith("mask_fsc.mrc")


def test_set_is_preferred_to_its_parts(project):
    from napari_sta.jobs._job import job_named

    view = read_project(project)
    values = next_values(job_named("reconstruct"), view.by_job["Select/job002"], view.files)
    assert list(values) == ["in_optimisation_set"]


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
    wait(lambda: opened.note.toPlainText() == "picked by hand")
    opened.note_edit.setText("the good ones")
    opened.note_edit.returnPressed.emit()
    wait(lambda: "the good ones" in opened.note.toPlainText())
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
