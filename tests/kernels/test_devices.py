"""Devices and threads."""

from __future__ import annotations

import threading

import pytest
import torch

from napari_sta.kernels import devices
from napari_sta.kernels.devices import available_threads, choose_devices, run_in_threads, run_interleaved


@pytest.fixture
def gpus(monkeypatch):
    """Say that the machine has this many CUDA devices."""

    def say(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return say


@pytest.mark.parametrize(
    ("count", "wish", "found"),
    [
        pytest.param(0, "auto", ["cpu"], id="auto without CUDA"),
        pytest.param(2, "auto", ["cuda:0", "cuda:1"], id="auto takes every CUDA device"),
        pytest.param(2, "cpu", ["cpu"], id="cpu though there is CUDA"),
        pytest.param(3, "cuda", ["cuda:0", "cuda:1", "cuda:2"], id="all"),
        pytest.param(3, "cuda:2,0", ["cuda:2", "cuda:0"], id="in the order given"),
    ],
)
def test_devices(gpus, count, wish, found):
    gpus(count)
    assert [str(d) for d in choose_devices(wish)] == found


@pytest.mark.parametrize(
    ("count", "wish", "words"),
    [
        pytest.param(0, "cuda", "no CUDA device was found; use cpu or auto", id="no CUDA"),
        pytest.param(1, "cuda:0,1", "there is no cuda:1; found 1 CUDA device", id="one too many"),
        pytest.param(1, "cuda:first", "expected device numbers as in cuda:0,1", id="no number"),
        pytest.param(1, "gpu", "expected auto, cpu, cuda or cuda:0,1", id="unknown word"),
    ],
)
def test_wishes_that_cannot_be_met(gpus, count, wish, words):
    gpus(count)
    with pytest.raises(ValueError, match=words):
        choose_devices(wish)


@pytest.mark.parametrize("threads", [1, 2, 3, 7, 50])
def test_every_item_is_done_once(threads):
    done: list[int] = []
    lock = threading.Lock()

    def slices(first: int, last: int) -> None:
        with lock:
            done.extend(range(first, last))

    run_in_threads(slices, 11, threads)
    assert sorted(done) == list(range(11))
    done.clear()

    def planes(first: int, step: int) -> None:
        with lock:
            done.extend(range(first, 11, step))

    run_interleaved(planes, threads)
    assert sorted(done) == list(range(11))


def test_an_error_in_a_thread_comes_out():
    def fail(first: int, last: int) -> None:
        if first:
            raise MemoryError("no memory left")

    with pytest.raises(MemoryError, match="no memory left"):
        run_in_threads(fail, 4, 2)
    with pytest.raises(MemoryError, match="no memory left"):
        run_interleaved(fail, 2)


def test_threads_of_this_process(monkeypatch):
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda _: {3, 5, 6}, raising=False)
    assert available_threads() == 3
