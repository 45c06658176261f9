"""Jobs by type with their files; filling it anew disturbs nobody."""

from __future__ import annotations

import pytest

from napari_sta.widgets.project_files import read_project
from napari_sta.widgets.project_tree import NAME, PATH, ProjectTree
from napari_sta.widgets.themes import colours_of


@pytest.fixture
def colours(viewer):
    return colours_of(viewer)


@pytest.fixture
def tree(qtbot, small_project, colours):
    made = ProjectTree()
    qtbot.addWidget(made)
    made.fill(read_project(small_project.root), colours)
    return made


def seen(tree) -> list[str]:
    return [item.data(0, NAME) for item in tree.job_items() if not item.isHidden()]


def test_every_job_is_listed_with_its_files(tree, small_project):
    view = read_project(small_project.root)
    assert sorted(seen(tree)) == sorted(job.name.rstrip("/") for job in view.jobs)
    item = next(one for one in tree.job_items() if one.data(0, NAME) == "Reconstruct/job003")
    files = [item.child(i).data(0, PATH) for i in range(item.childCount())]
    assert files == [str(path) for path in view.outputs["Reconstruct/job003"]]
    assert item.toolTip(1) == "Succeeded"


def test_filter_stays_when_it_is_filled_anew(tree, small_project, colours):
    tree.filter("job003")
    assert seen(tree) == ["Reconstruct/job003"]
    tree.fill(read_project(small_project.root), colours)
    assert seen(tree) == ["Reconstruct/job003"]
    tree.filter(" PARTICLES.star")
    assert "Select/job002" in seen(tree)
    tree.filter("")
    assert len(seen(tree)) > 1


def test_selection_and_folds_stay_when_it_is_filled_anew(tree, small_project, colours):
    tree.select("Reconstruct/job003/")
    assert tree.selected_job == "Reconstruct/job003"
    tree.setCurrentItem(tree.currentItem().child(1))
    path = tree.currentItem().data(0, PATH)
    tree.topLevelItem(0).setExpanded(False)
    tree.fill(read_project(small_project.root), colours)
    assert tree.currentItem().data(0, PATH) == path
    assert tree.selected_job == "Reconstruct/job003"
    assert tree.currentItem().parent().isExpanded()
    assert not tree.topLevelItem(0).isExpanded()
