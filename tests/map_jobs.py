"""The jobs that take maps, and maps for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_sta.data.errors import InputError
from napari_sta.data.volume import Volume
from napari_sta.io.mrc import write_volume
from napari_sta.jobs._job import job_named

BOX, PIXEL = 32, 2.7


def ball(box: int = BOX, radius: float = 8.0, centre: float = 0.0) -> np.ndarray:
    index = np.arange(box) - box // 2
    r = np.sqrt((index - centre)[:, None, None] ** 2 + index[:, None] ** 2 + index**2)
    return np.clip((radius + 3 - r) / 3, 0, 1).astype(np.float32)


def noise(seed: int, box: int = BOX) -> np.ndarray:
    return (4 * ball(box) + np.random.default_rng(seed).normal(size=(box,) * 3)).astype(np.float32)


def write(path: Path, data: np.ndarray, pixel: float | None = PIXEL) -> str:
    write_volume(path, Volume(data, pixel))
    return str(path)


def jobs_with(files: dict[str, str], **values: object) -> dict[str, object]:
    """Jobs that take a map and a mask, but for refinement, whose own tests say the same of it."""
    return {
        "postprocess": job_named("postprocess").from_text(
            {"in_half_map": files["half1"], "in_mask": files["mask"], **values}
        ),
        "measure_offset": job_named("measure_offset").from_text(
            {"in_3dref": files["half1"], "in_mask": files["mask"], "range_px": 5, **values}
        ),
    }


def refused(job) -> str:
    with pytest.raises(InputError) as error:
        job.check()
    assert "\n" not in str(error.value)
    return str(error.value)
