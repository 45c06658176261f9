"""A job for the tests of the runner and the command line; they put this folder on the jobs' path."""

from __future__ import annotations

import time
from typing import ClassVar

import numpy as np

from napari_sta.data.errors import InputError, JobError
from napari_sta.data.progress import Progress
from napari_sta.data.volume import Volume
from napari_sta.io.mrc import write_volume
from napari_sta.jobs._job import Context, Job, Node, RunSteps, param


class Practise(Job):
    """Count steps, and fail when asked to.

    A second paragraph.
    """

    label: ClassVar[str] = "Practise"
    uses_torch: ClassVar[bool] = False
    outputs: ClassVar[dict[str, Node]] = {
        "map.mrc": Node("DensityMap.mrc.practise", 1, "map"),
        "never.mrc": Node("DensityMap.mrc.practise", 1, "not written"),
    }

    in_mask: str | None = param(None, title="Mask", help="A mask.", kind="file:mask")
    in_3dref: str | None = param(None, title="Map", help="A map.", kind="file:map")
    n_steps: int = param(3, title="Steps", help="How many.", tab="Counting", gt=0, flag="--n")
    delay_s: float = param(
        0.0, title="Delay", unit="s", help="Between steps, 100 % patience.", tab="Counting"
    )
    careful: bool = param(True, title="Careful", help="Yes or no.", tab="Counting")
    end: str = param(
        "well",
        title="End",
        help="How to end.",
        tab="Counting",
        choices={
            "well": "finish",
            "memory": "run out of memory",
            "runtime": "a fault",
            "disk": "a full disk",
        },
    )
    needed_angst: float = param(title="Needed", unit="Å", help="Has no default.")
    p1: str = param("", title="p1", help="p1")
    p2: str = param("", title="p2", help="p2")
    p3: str = param("", title="p3", help="p3")
    p4: str = param("", title="p4", help="p4")
    p5: str = param("", title="p5", help="p5")
    p6: str = param("", title="p6", help="p6")

    def check(self) -> None:
        if self.needed_angst > 1000:
            raise InputError(f"--needed_angst {self.needed_angst:g} is too large; take 1000 or less")

    def warnings(self) -> list[str]:
        return ["a zero looks odd"] if self.needed_angst == 0 else []

    def run(self, context: Context) -> RunSteps:
        for step in range(self.n_steps):
            yield Progress(step, self.n_steps, f"step {step}")
            time.sleep(self.delay_s)
        if self.end == "memory":
            raise MemoryError
        if self.end == "runtime":
            raise RuntimeError("CUDA error: device-side assert triggered\nmore lines")
        if self.end == "fault":
            raise KeyError("surprise")
        if self.end == "disk":
            raise OSError(28, "No space left on device", str(context.out / "map.mrc"))
        if self.end == "known":
            raise JobError("it cannot be done; try less")
        write_volume(context.out / "map.mrc", Volume(np.full((2, 2, 2), self.needed_angst, np.float32), 1.5))
        return {"summary": f"counted {self.n_steps}", "threads": context.threads, "curve": np.arange(3)}
