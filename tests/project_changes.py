"""What tests of projects change in them."""

from __future__ import annotations

import json
import os
from pathlib import Path

from napari_sta.io.project.project import Project
from napari_sta.io.project.tables import PipelineNode

MAP = PipelineNode("merged.mrc", "DensityMap.mrc.relion.tomo.map.reconstruct", 1)
HALF = PipelineNode("half1.mrc", "DensityMap.mrc.relion.tomo.halfmap.reconstruct", 99)
SET = PipelineNode("Extract/job024/optimisation_set.star", "TomoOptimisationSet.star")


def tree(folder: Path) -> dict[str, object]:
    """Everything below a folder: bytes of files, targets of links, names of folders; links not followed."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        kind = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(folder))] = kind
    return found


def edit(project: Project, *changes: tuple[str, str]) -> None:
    path = project.root / "default_pipeline.star"
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


DEAD = 2**30


def put_record(folder: Path, **record: object) -> None:
    (folder / "job.json").write_text(
        json.dumps({"job": "practise", "values": {}, "status": "Running"} | record)
    )
