"""Jobs that behave badly in every way a real one can."""

from __future__ import annotations

import time
from typing import ClassVar

import numpy as np

from napari_sta.data.errors import InputError
from napari_sta.data.progress import Progress
from napari_sta.jobs._job import Context, Job, Node, RunSteps, param


class _Fake(Job):
    label: ClassVar[str] = "Fake"
    folder: ClassVar[str] = "External"

    @classmethod
    def name(cls) -> str:
        return cls.__name__.lower()


class Fine(_Fake):
    """Finish after some steps."""

    label: ClassVar[str] = "Fine"
    steps: int = param(5, title="Steps", help="How many.", ge=1)
    pause_s: float = param(0.0, title="Pause", help="Per step.", unit="s", ge=0)

    def run(self, context: Context) -> RunSteps:
        for i in range(self.steps):
            time.sleep(self.pause_s)
            yield Progress(i + 1, self.steps, f"step {i + 1}")
        return {"answer": 42}


class WritesMap(_Fake):
    """Write a map."""

    outputs: ClassVar[dict[str, Node]] = {"merged.mrc": Node("DensityMap.mrc")}

    def run(self, context: Context) -> RunSteps:
        from napari_sta.data.volume import Volume
        from napari_sta.io.mrc import write_volume

        yield Progress(0, 1, "writing")
        data = np.random.default_rng(0).normal(size=(16, 16, 16)).astype(np.float32)
        write_volume(context.out / "merged.mrc", Volume(data, 2.0))
        return {}


class Fails(_Fake):
    """Fail in the middle, as asked."""

    how: str = param("RuntimeError", title="How", help="What to raise.")

    def run(self, context: Context) -> RunSteps:
        yield Progress(1, 3, "about to fail")
        if self.how == "oom":
            import torch

            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        if self.how == "disk":
            raise OSError(28, "No space left on device", "x.mrc")
        raise {"RuntimeError": RuntimeError, "MemoryError": MemoryError, "KeyError": KeyError}[self.how](
            "bang"
        )


class Refuses(_Fake):
    """Refuse its input."""

    def check(self) -> None:
        raise InputError("particles.star has no rlnTomoName; is it from a single-particle job?")

    def run(self, context: Context) -> RunSteps:
        yield Progress(0, 0)
        return {}


class Heavy(_Fake):
    """Keep the processors and the interpreter busy."""

    seconds: float = param(3.0, title="Seconds", help="For how long.", gt=0)

    def run(self, context: Context) -> RunSteps:
        import torch

        end = time.monotonic() + self.seconds
        a = torch.rand(600, 600)
        n = 0
        while time.monotonic() < end:
            for _ in range(4):
                a = a @ a / a.norm()
            sum(i * i for i in range(20_000))  # python that holds the interpreter's lock
            n += 1
            yield Progress(n, 0, f"round {n}")
        return {"rounds": n}


FAKES = {job.name(): job for job in (Fine, WritesMap, Fails, Refuses, Heavy)}
