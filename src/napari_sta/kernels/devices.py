"""Which processors the kernels run on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


def choose_devices(wish: str) -> list[torch.device]:
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


def available_threads() -> int:
    """Return how many CPU threads this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_in_threads(work: Callable[[int, int], object], n_items: int, threads: int) -> None:
    """Call ``work(first, last)`` on slices of ``range(n_items)``, one slice a thread.

    The kernels called here release the GIL. Every item belongs to exactly one slice, so results do
    not depend on the number of threads as long as items are independent.
    """
    threads = max(1, min(threads, n_items))
    if threads == 1:
        work(0, n_items)
        return
    bounds = [round(i * n_items / threads) for i in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, bounds[:-1], bounds[1:]))


def run_interleaved(work: Callable[[int, int], object], threads: int) -> None:
    """Call ``work(first, step)`` once a thread: thread i takes items i, i + threads, ..."""
    if threads <= 1:
        work(0, 1)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads), [threads] * threads))


@contextmanager
def one_thread_each(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Give a pool of workers in each of which torch uses one thread; torch's setting is restored after."""
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(max(1, workers), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)
