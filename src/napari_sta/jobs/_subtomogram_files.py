"""Files of subtomograms, written while the next batch is computed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Writer:
    """Writes the files of one batch while the next is computed, across tomograms, and owns their memory.

    Memory that is given back and taken anew for every batch comes back in pieces: the job would grow.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(max(1, threads))
        self._writing: list[Any] = []
        self._rooms: list[Any] = [None, None]
        self._store: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._rooms = [None, None]

    def get_ready(self, n_floats: int) -> None:
        """Meet the memory for two batches while the compiled kernels, a second of pure Python, are loaded."""
        import numpy as np

        from napari_sta.kernels.windows import load_kernels

        self._rooms = [np.empty(n_floats, np.float32) for _ in self._rooms]
        filling = [self._pool.submit(room.fill, 0) for room in self._rooms]
        load_kernels()
        for one in filling:
            one.result()

    def take(self, calls: list[tuple[Any, ...]]) -> int:
        """Start to write a batch; return how many files of the one before are there now."""
        n_finished = self.finish()
        self._writing = [self._pool.submit(*call) for call in calls]
        self._rooms.reverse()
        return n_finished

    def store(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Give room for the tilt images of one tomogram, the same for all of one size."""
        import numpy as np

        if self._store is None or self._store.shape != shape:
            self._store = None
            self._store = np.empty(shape, np.float32)
        store: NDArray[np.float32] = self._store
        return store

    def room(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Give room for the next batch: the same memory over and over, while the other half is being written."""
        import numpy as np

        size = int(np.prod(shape))
        if self._rooms[0] is None or len(self._rooms[0]) < size:
            self._rooms[0] = None  # before the new one, not after
            self._rooms[0] = np.empty(size, np.float32)
        room: NDArray[np.float32] = self._rooms[0][:size].reshape(shape)
        return room

    def finish(self) -> int:
        """Wait for the batch that is being written; the first failure is raised here."""
        for one in self._writing:
            one.result()
        n_finished, self._writing = len(self._writing), []
        return n_finished


def weights_path(path: Path) -> Path:
    """Return the file of the weights that belong to the data of a 3D subtomogram."""
    return path.with_name(path.name.removesuffix("_data.mrc") + "_weights.mrc")


def write_subtomogram(
    path: Path,
    data: NDArray[np.float32],
    weight: NDArray[np.float32],
    multiplicity: NDArray[np.float32],
    pixel_size_angst: float,
    float16: bool,
) -> None:
    """Write weights first: a data file that is there says that its weights are too."""
    import numpy as np

    from napari_sta.data.volume import Volume
    from napari_sta.io.mrc import write_volume

    both = np.concatenate([weight, multiplicity])
    write_volume(weights_path(path), Volume(both, 1 / pixel_size_angst))
    write_volume(path, Volume(data, pixel_size_angst), float16)
