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
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @classmethod
    def join(cls) -> Ranks:
        """Meet the other processes, if torchrun started several; gloo between CPUs, NCCL between GPUs."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size <= 1:
            return cls()
        import torch.distributed as dist

        if not dist.is_initialized():
            dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        return cls(dist.get_rank(), dist.get_world_size())

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

        dist.reduce(torch.from_numpy(np.ascontiguousarray(values)), 0)

    def add_up_everywhere(self, values: NDArray[np.float64]) -> None:
        """Add what all processes have, in place, in every process."""
        if self.size == 1:
            return
        import torch.distributed as dist

        dist.all_reduce(torch.from_numpy(values))

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
