"""Qt and napari: docks and forms; no maths.

Importing this package loads neither: napari reads the names in the manifest long before a dock opens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def open_viewer(paths: Sequence[str | Path] = ()) -> None:
    """Start napari with the docks, show what was given, and return when the window is closed.

    Parameters
    ----------
    paths
        Project folders, job folders, ``.star`` and ``.mrc`` files.
    """
    import napari

    viewer = napari.Viewer(title="napari-sta")
    bench = add_docks(viewer, paths)
    try:
        napari.run()
    finally:
        bench.queue.wind_up()  # where the program ends without its window being closed


def add_docks(viewer: Any, paths: Sequence[str | Path] = ()) -> Any:
    """Tab the docks at the right of a viewer, open the paths, and return the workbench they share."""
    from napari_sta.widgets.workbench import DOCKS, Workbench

    bench = Workbench.of(viewer)
    for key in DOCKS:
        bench.open_dock(key)
    bench.open_dock("project")
    for path in paths:
        bench.take(Path(path).absolute())
    return bench


def get_reader(path: str | Sequence[str]) -> Callable[[str | Sequence[str]], list[Any]] | None:
    """Return a reader for what is ours, else None; see :func:`napari_sta.layers.get_reader`.

    With a viewer open, a project folder opens the *Project* dock instead of adding layers.
    """
    from napari_sta.layers import get_reader as reader_for
    from napari_sta.layers.outputs import is_job_folder

    read = reader_for(path)
    if read is None:
        return None

    def into_viewer(path: str | Sequence[str]) -> list[Any]:
        import napari

        viewer = napari.current_viewer()
        if viewer is None:
            return read(path)
        from napari_sta.widgets._napari_private import open_viewers
        from napari_sta.widgets.workbench import Workbench

        # Nobody says which viewer it is for; each has to know what to make of our layers.
        for each in open_viewers(viewer):
            Workbench.of(each)
        bench = Workbench.of(viewer)
        paths = [Path(path)] if isinstance(path, str | Path) else [Path(p) for p in path]
        projects = [p for p in paths if p.is_dir() and not is_job_folder(p)]
        for project in projects:
            bench.open_dock("project")
            bench.open_project(project)
        files = [str(p) for p in paths if p not in projects]
        return read(files) if files else [(None,)]

    return into_viewer


def practice_project() -> list[Any]:
    """Make the practice project, open it in the docks, and return its map and mask as layers.

    It is simulated in a thread: napari waits for it, but goes on drawing and answering meanwhile.

    Raises
    ------
    StaError
        If it cannot be made, or the viewer was closed before it was ready.
    """
    import napari

    from napari_sta import layers

    viewer = napari.current_viewer()
    if viewer is None:
        return layers.practice_project()
    from napari_sta.widgets._background import awaited
    from napari_sta.widgets.workbench import Workbench

    bench = Workbench.of(viewer)
    viewer.status = "Simulating the practice project …"
    tuples = awaited(bench, layers.practice_project)
    if bench.closed:
        from napari_sta.data.errors import Stopped

        raise Stopped("The viewer was closed before the practice project was ready.")
    bench.open_dock("align")
    bench.open_project(tuples[0][1]["metadata"]["napari_sta"]["project"])
    return list(tuples)
