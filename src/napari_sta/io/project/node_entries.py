"""The empty files below ``.Nodes`` by which RELION's file choosers find what jobs made."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from napari_sta.data.errors import InputError
from napari_sta.io.files import inside
from napari_sta.io.project.folders import touch
from napari_sta.io.project.pipeline_file import PIPELINE_FILE
from napari_sta.io.project.tables import LABEL, PipelineNode, slashed

_NODES = ".Nodes"


def node_entries(root: Path, node: PipelineNode, name: str = "", alias: str = "") -> list[Path]:
    """Return the empty files by which RELION's file choosers find a node.

    Raises
    ------
    InputError
        If its label or path leads out of ``.Nodes``.
    """
    if not node.label:
        return []
    if not LABEL.fullmatch(node.label):
        raise InputError(
            f"{PIPELINE_FILE}, rlnPipeLineNodeTypeLabel: {node.label[:80]!r} of {node.path[:80]!r} is no "
            "type of a file; correct it"
        )
    root = root / _NODES
    if root.is_symlink():
        raise InputError(f"{root} is a link, which is not followed; remove it, RELION makes it anew")
    parts = node.label.split(".")
    folders = [parts[0]]
    if node.depth > 1:
        folders.append(".".join(parts[: node.depth]))
    paths = [node.path]
    if alias and name and node.path.startswith(name):
        paths.append(slashed(alias) + node.path.removeprefix(name))
    what = f"{PIPELINE_FILE}, rlnPipeLineNodeName"
    return [inside(root, f"{folder}/{path}", what) for folder in folders for path in paths]


def touch_nodes(root: Path, nodes: Sequence[PipelineNode]) -> None:
    # RELION's GUI can make them again: none is worth a failed job.
    """Make the entries of nodes, as far as that can be done."""
    for node in nodes:
        with suppress(InputError, OSError):
            for entry in node_entries(root, node):
                entry.parent.mkdir(parents=True, exist_ok=True)
                touch(entry)


def remove_empty_file(path: Path) -> None:
    """Remove a file if it is one, and empty."""
    with suppress(OSError):
        found = path.lstat()
        if stat.S_ISREG(found.st_mode) and found.st_size == 0:
            path.unlink()
