"""Devices and threads."""

from __future__ import annotations

import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from napari_sta.kernels import devices
from napari_sta.kernels.devices import (
    HostCopies,
    available_threads,
    choose_devices,
    run_each,
    run_interleaved,
    surely_cpu,
    to_device,
)


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


@pytest.mark.parametrize("threads", [0, 1, 2, 3, 7, 50])
def test_every_item_is_done_once(threads):
    done: list[int] = []
    lock = threading.Lock()

    def item(number: int) -> None:
        with lock:
            done.append(number)

    run_each(item, iter(range(11)), threads)
    assert sorted(done) == list(range(11))
    done.clear()

    def planes(first: int, step: int) -> None:
        with lock:
            done.extend(range(first, 11, step))

    run_interleaved(planes, threads)
    assert sorted(done) == list(range(11))


def test_threads_work_side_by_side():
    """Two items that wait for each other: one after the other they would wait for ever."""
    together = threading.Barrier(2, timeout=10)
    run_each(lambda _: together.wait(), range(2), 2)
    run_interleaved(lambda first, step: together.wait(), 2)


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_in_a_thread_comes_out(threads):
    def fail(first: int, step: int = 0) -> None:
        if first == threads - 1:
            raise MemoryError("no memory left")

    with pytest.raises(MemoryError, match="no memory left"):
        run_each(fail, range(4), threads)
    with pytest.raises(MemoryError, match="no memory left"):
        run_interleaved(fail, threads)


def test_threads_of_this_process(monkeypatch):
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda _: {3, 5, 6}, raising=False)
    assert available_threads() == 3


# --- without torch -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("libraries", "drivers", "platform", "sure"),
    [
        pytest.param(["libtorch_cpu.so"], [], "linux", True, id="torch for CPUs only"),
        pytest.param(["torch_cpu.dll"], [], "win32", True, id="the same on Windows"),
        pytest.param(["libtorch_cpu.so", "libtorch_cuda.so"], [], "linux", True, id="no driver"),
        pytest.param(
            ["libtorch_cpu.so", "libtorch_cuda.so"], ["/dev/nvidiactl"], "linux", False, id="NVIDIA"
        ),
        pytest.param(["libtorch_cpu.so", "libtorch_cuda.so"], ["/dev/dxg"], "linux", False, id="WSL"),
        pytest.param(["libtorch_cpu.so", "libtorch_hip.so"], ["/dev/kfd"], "linux", False, id="AMD"),
        pytest.param(
            ["torch_cpu.dll", "torch_cuda.dll"], [], "win32", False, id="no device files on Windows"
        ),
        pytest.param([], [], "linux", False, id="an installation we do not know"),
    ],
)
def test_what_can_only_be_a_cpu(tmp_path, monkeypatch, libraries, drivers, platform, sure):
    (tmp_path / "lib").mkdir()
    for name in libraries:
        (tmp_path / "lib" / name).touch()
    found = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: found)
    monkeypatch.setattr(devices.os.path, "exists", lambda path: path in drivers)
    monkeypatch.setattr(devices.sys, "platform", platform)
    assert surely_cpu("auto") is sure
    assert surely_cpu("cpu")
    assert not surely_cpu("cuda")
    assert not surely_cpu("cuda:1")


def test_it_agrees_with_torch_here():
    """Sure of a build for CPUs, never where torch finds a GPU."""
    for_cpus = torch.version.cuda is None and torch.version.hip is None
    found = {device.type for device in choose_devices("auto")}
    assert surely_cpu("auto") or not for_cpus
    assert found == {"cpu"} or not surely_cpu("auto")
    assert found == {"cpu"} or not for_cpus


def test_asking_does_not_import_torch():
    code = "import sys; from napari_sta.kernels.devices import surely_cpu; surely_cpu('auto'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- transfers ---------------------------------------------------------------------------------------------


class SlowCopies(HostCopies):
    """A GPU whose copies arrive only when they are waited for: what is read or reused too early is seen."""

    def __init__(self, depth: int) -> None:
        super().__init__(SimpleNamespace(type="cuda"), depth)
        self.buffers: list[torch.Tensor] = []
        self.most = self.now = 0

    def _new_buffer(self, tensor):
        self.buffers.append(torch.full(tensor.shape, torch.nan))
        return self.buffers[-1]

    def _start(self, room, tensor):
        room.fill_(torch.nan)
        self.now += 1
        self.most = max(self.most, self.now)

        def arrive() -> None:
            self.now -= 1
            room.copy_(tensor)

        return SimpleNamespace(synchronize=arrive)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("sizes", [[4] * 9, [5, 2, 5, 3, 5, 1, 5], [1, 2, 3, 4, 5, 6]])
def test_copies_arrive_whole_and_in_their_places(rng, depth, sizes):
    target = np.full((sum(sizes), 3, 2), -1.0, np.float32)
    places = rng.permutation(sum(sizes))
    values = rng.normal(size=(sum(sizes), 3, 2)).astype(np.float32)
    with SlowCopies(depth) as copies:
        first = 0
        for size in sizes:
            copies.copy(torch.from_numpy(values[first : first + size]), target, places[first : first + size])
            first += size
    np.testing.assert_array_equal(target[places], values)
    assert copies.most == min(depth, len(sizes))
    if len(set(sizes)) == 1:
        assert len(copies.buffers) <= depth  # rooms are used again
    assert copies.now == 0


def test_copies_of_two_shapes(rng):
    one, two = np.zeros((2, 4), np.float32), np.zeros((2, 5), np.float32)
    with SlowCopies(2) as copies:
        for i in range(2):
            copies.copy(torch.full((1, 4), 1.0 + i), one, np.array([i]))
            copies.copy(torch.full((1, 5), 3.0 + i), two, np.array([i]))
    assert one[:, 0].tolist() == [1, 2]
    assert two[:, 4].tolist() == [3, 4]


def test_nothing_is_left_under_way_after_an_error():
    target = np.zeros((1, 2), np.float32)
    copies = SlowCopies(2)

    def fail() -> None:
        with copies:
            copies.copy(torch.ones(1, 2), target, np.array([0]))
            raise MemoryError

    with pytest.raises(MemoryError):
        fail()
    assert copies.now == 0


def test_the_cpu_copies_at_once():
    target = np.zeros((2, 2), np.float32)
    with HostCopies(torch.device("cpu")) as copies:
        copies.copy(torch.ones(1, 2), target, np.array([1]))
        assert target.tolist() == [[0, 0], [1, 1]]


def test_to_a_gpu_through_page_locked_memory(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: calls.append("pinned") or self)
    plain = torch.Tensor.to
    monkeypatch.setattr(
        torch.Tensor, "to", lambda self, device, **options: calls.append(options) or plain(self, "cpu")
    )
    array = np.arange(3.0)
    assert to_device(array, SimpleNamespace(type="cuda")).tolist() == [0, 1, 2]
    assert calls == ["pinned", {"non_blocking": True}]
    calls.clear()
    assert to_device(array, torch.device("cpu")).tolist() == [0, 1, 2]
    assert calls == [{}]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_transfers_on_cuda(rng):
    device = torch.device("cuda", 0)
    values = rng.normal(size=(40, 64, 64)).astype(np.float32)
    target = np.zeros_like(values)
    with HostCopies(device) as copies:
        for i in range(0, 40, 4):
            copies.copy(2 * to_device(values[i : i + 4], device), target, np.arange(i, i + 4))
    np.testing.assert_array_equal(target, 2 * values)
