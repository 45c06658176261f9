"""Several processes on one refinement: what they share out, add up and tell each other.

Started by ``torchrun``, which sets RANK, WORLD_SIZE and where to meet. One process alone never touches
``torch.distributed``.
"""

from __future__ import annotations

import os
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

Thing = TypeVar("Thing")


class Ranks:
    """The processes of one run, seen from one of them.

    Attributes
    ----------
    rank, size
        Number of this process, from 0, and how many there are.
    device
        Where sums travel: the process's own GPU (NCCL), or the CPU (gloo).
    """

    def __init__(self, rank: int = 0, size: int = 1, device: str = "cpu") -> None:
        self.rank, self.size, self.device = rank, size, torch.device(device)

    @classmethod
    def join(cls) -> Ranks:
        """Meet the other processes, if torchrun started several.

        Where every process of a computer has a GPU of its own, sums travel by NCCL, else by gloo.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size <= 1:
            return cls()
        import torch.distributed as dist

        here = int(os.environ.get("LOCAL_WORLD_SIZE", str(size)))
        local = int(os.environ.get("LOCAL_RANK", "0"))
        on_gpus = dist.is_nccl_available() and torch.cuda.device_count() >= here
        if not dist.is_initialized():
            dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo")
        if on_gpus:
            torch.cuda.set_device(local)
        return cls(dist.get_rank(), dist.get_world_size(), f"cuda:{local}" if on_gpus else "cpu")

    @property
    def local(self) -> int:
        """Number of this process on its own computer."""
        return int(os.environ.get("LOCAL_RANK", "0"))

    @property
    def is_first(self) -> bool:
        """Whether this process does what only one may do."""
        return self.rank == 0

    def share(self, rows: NDArray[np.int64], cost: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return this process's rows: a stretch of them whose cost is that of the others'.

        Parameters
        ----------
        rows
            Particles, those of a tilt series side by side.
        cost
            (n,) seconds that each took last time, or anything in proportion.
        """
        if self.size == 1:
            return rows
        ends = np.cumsum(np.maximum(cost, 1e-12))
        edges = np.searchsorted(ends, ends[-1] * np.arange(self.size + 1) / self.size, side="left")
        edges[0], edges[-1] = 0, len(rows)
        return rows[edges[self.rank] : edges[self.rank + 1]]

    def add_up(self, values: NDArray[np.float64]) -> None:
        """Add what all processes have, in place; only the first holds the sum afterwards."""
        if self.size == 1:
            return
        import torch.distributed as dist

        there = torch.from_numpy(values).to(self.device)
        dist.reduce(there, 0)
        if self.is_first:
            values[...] = there.cpu().numpy()

    def add_up_everywhere(self, values: NDArray[np.float64]) -> None:
        """Add what all processes have, in place, in every process."""
        if self.size == 1:
            return
        import torch.distributed as dist

        there = torch.from_numpy(values).to(self.device)
        dist.all_reduce(there)
        values[...] = there.cpu().numpy()

    def collect(self, mine: Thing) -> list[Thing]:
        """Gather one thing of every process in all of them, in the order of their numbers."""
        if self.size == 1:
            return [mine]
        import torch.distributed as dist

        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, mine)
        return found

    def from_first(self, thing: Thing) -> Thing:
        """Return the first process's thing in every process."""
        if self.size == 1:
            return thing
        import torch.distributed as dist

        box: list[Any] = [thing if self.is_first else None]
        dist.broadcast_object_list(box, 0)
        return box[0]
