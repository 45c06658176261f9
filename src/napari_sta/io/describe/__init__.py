"""Say in words what a file or folder holds, and what is wrong with it (``napari-sta info``).

:func:`describe` is the public face of this package; the other modules tell one kind of file each.
"""

from __future__ import annotations

import os
from pathlib import Path

from napari_sta.data.errors import InputError
from napari_sta.io import mrc
from napari_sta.io.describe.description import Description
from napari_sta.io.describe.images import describe_mrc
from napari_sta.io.describe.star_files import describe_star
from napari_sta.io.files import check_is_file


def describe(path: str | Path) -> Description:
    """Explain a STAR or MRC file, a job folder or a project folder, and list its problems.

    Raises
    ------
    InputError
        If the path does not exist, or is nothing that we know.
    """
    path = Path(path)
    if not os.path.exists(path):
        raise InputError(f"{path} does not exist; check the path")
    if path.is_dir():
        from napari_sta.io.describe.projects import describe_folder  # most that is told of is no project

        return describe_folder(path)
    if path.suffix.lower() in (".mrc", ".mrcs", ".map", ".st", ".rec", ".ccp4"):
        return describe_mrc(path)
    if path.suffix == ".star" or path.name.endswith(".star"):
        return describe_star(path)
    check_is_file(path)
    with open(path, "rb") as file:
        other = mrc.what_else(file.read(1024))
    raise InputError(
        f"{path.name} is neither a STAR nor an MRC file{f' but {other}' if other else ''}; info reads .star, "
        ".mrc, .mrcs and folders"
    )
