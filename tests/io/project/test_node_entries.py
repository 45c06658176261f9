"""The empty files below ``.Nodes``."""

from __future__ import annotations

import pytest

from napari_sta.data.errors import InputError
from project_changes import tree


@pytest.mark.parametrize("place", [".Nodes/ParticleGroupMetadata", ".Nodes/ParticleGroupMetadata/Extract"])
@pytest.mark.parametrize("where", ["victim", "project"])
def test_links_among_the_nodes_are_not_followed(project, victim, tmp_path, place, where):
    target = victim if where == "victim" else project.root
    (project.root / "Extract/job024/particles.star").write_bytes(b"")
    (victim / "Extract/job024/particles.star").write_bytes(b"")
    (project.root / place).parent.mkdir(parents=True, exist_ok=True)
    (project.root / place).symlink_to(target if place.endswith("Metadata") else target / "Extract")
    before = tree(tmp_path)
    with pytest.raises(InputError, match="through a link"):
        project.trash_job("Extract/job024")
    assert tree(tmp_path) == before


def test_only_empty_files_are_taken_for_nodes(project):
    entry = project.root / ".Nodes/ParticleGroupMetadata/Extract/job024/particles.star"
    other = entry.with_name("optimisation_set.star")
    entry.parent.mkdir(parents=True)
    other = project.root / ".Nodes/TomoOptimisationSet/Extract/job024/optimisation_set.star"
    other.parent.mkdir(parents=True)
    entry.touch()
    other.write_text("not RELION's")
    project.trash_job("Extract/job024")
    assert not entry.exists()
    assert other.exists()
