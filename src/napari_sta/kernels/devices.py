"""Which processors the kernels run on, sharing work out among threads, and copies to and from GPUs."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from numpy import ndarray


def choose_devices(wish: str) -> list[Any]:
    """Turn a wish into torch devices.

    Parameters
    ----------
    wish
        ``auto`` (every CUDA device if there is one, else the CPU), ``cpu``, ``cuda`` (all of them) or
        ``cuda:0,1``.

    Raises
    ------
    ValueError
        If the wish cannot be read or names a device that is not there.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wish == "auto":
        return [torch.device("cuda", i) for i in range(count)] or [torch.device("cpu")]
    if wish == "cpu":
        return [torch.device("cpu")]
    kind, _, numbers = wish.partition(":")
    if kind != "cuda":
        raise ValueError("expected auto, cpu, cuda or cuda:0,1")
    if count == 0:
        raise ValueError("no CUDA device was found; use cpu or auto")
    if not numbers:
        return [torch.device("cuda", i) for i in range(count)]
    try:
        wanted = [int(n) for n in numbers.split(",")]
    except ValueError:
        raise ValueError("expected device numbers as in cuda:0,1") from None
    missing = [n for n in wanted if not 0 <= n < count]
    if missing:
        raise ValueError(f"there is no cuda:{missing[0]}; found {count} CUDA device(s)")
    return [torch.device("cuda", n) for n in wanted]


def surely_cpu(wish: str) -> bool:
    """Whether a wish can only mean the CPU, found out without importing torch (which takes a second).

    False leaves the question to :func:`choose_devices`.
    """
    if wish != "auto":
        return wish == "cpu"
    specification = importlib.util.find_spec("torch")
    folders = [] if specification is None else specification.submodule_search_locations or []
    libraries = {path.name for folder in folders for path in Path(folder, "lib").glob("*torch_*")}
    if not any("torch_cpu" in name for name in libraries):
        return False  # an installation that we do not know
    if not any("torch_cuda" in name or "torch_hip" in name for name in libraries):
        return True
    # Linux: a driver shows itself as a device file (NVIDIA, AMD, Windows' subsystem for Linux).
    drivers = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd", "/dev/dxg")
    return sys.platform == "linux" and not any(os.path.exists(path) for path in drivers)


def available_threads() -> int:
    """Return how many CPU threads this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_each(work: Callable[[Any], object], items: Iterable[Any], threads: int) -> None:
    """Call ``work(item)`` for every item; a thread that is done takes the next.

    The kernels called here release the GIL. Items are independent, so results do not depend on the number of
    threads; what fails in a thread comes out.
    """
    if threads <= 1:
        for item in items:
            work(item)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, items))


def run_interleaved(work: Callable[[int, int], object], threads: int) -> None:
    """Call ``work(first, step)`` once a thread: thread i takes items i, i + threads, ..."""
    step = max(1, threads)
    run_each(lambda first: work(first, step), range(step), threads)


def to_device(array: ndarray, device: Any) -> Any:
    """Put an array on a torch device; on a GPU through page-locked memory, without waiting for it.

    torch keeps the page-locked copy until the GPU has read it.
    """
    import torch

    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class HostCopies:
    """Bring results of a GPU back while it works on the next ones, through a few page-locked buffers.

    Parameters
    ----------
    device
        Where the results are; those of the CPU are copied at once.
    depth
        How many copies may be under way.

    Notes
    -----
    A context manager: at its end every copy has arrived. For one thread.
    """

    def __init__(self, device: Any, depth: int = 3) -> None:
        self.device, self.depth = device, depth
        self._free: list[Any] = []
        self._under_way: deque[tuple[Any, Any, ndarray, ndarray]] = deque()

    def __enter__(self) -> HostCopies:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        while self._under_way:
            self._arrive(wanted=kind is None)

    def copy(self, tensor: Any, target: ndarray, slots: ndarray) -> None:
        """Copy ``tensor[i]`` to ``target[slots[i]]``, now or later."""
        if self.device.type == "cpu":
            target[slots] = tensor.numpy()
            return
        if len(self._under_way) == self.depth:
            self._arrive()
        room = next((free for free in self._free if free.shape[1:] == tensor.shape[1:]), None)
        if room is None or len(room) < len(tensor):
            room = self._new_buffer(tensor)
        else:
            self._free = [free for free in self._free if free is not room]
        self._under_way.append((self._start(room[: len(tensor)], tensor), room, target, slots))

    def _arrive(self, *, wanted: bool = True) -> None:
        event, room, target, slots = self._under_way.popleft()
        event.synchronize()
        if wanted:
            target[slots] = room[: len(slots)].numpy()
        self._free.append(room)
        self._free = self._free[-self.depth :]

    def _new_buffer(self, tensor: Any) -> Any:
        import torch

        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)

    def _start(self, room: Any, tensor: Any) -> Any:
        """Start one copy; return what tells that it is over."""
        import torch

        # The GPU's memory is used again only by what it does after this copy: all is in one stream.
        room.copy_(tensor, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(tensor.device))
        return event
