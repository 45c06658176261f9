"""Failures in words, of jobs and of what the docks let run besides."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_sta.data.errors import InputError, JobError
from napari_sta.jobs._failures import in_words
from napari_sta.jobs._job import job_named

GPU = RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be reported later")
CASES = [
    pytest.param(MemoryError(), "out of memory on this computer; close other", "The computer ran out of memory", id="memory"),
    pytest.param(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "memory on this computer",
                 "The computer ran out", id="torch on the CPU"),
    pytest.param(RuntimeError("CUDA out of memory. Tried"), "out of memory on the GPU; run it with --device cpu",
                 "The GPU ran out of memory", id="GPU memory"),
    pytest.param(GPU, "lost the GPU (CUDA error: unspecified launch failure); run it again", "unexpectedly: CUDA error", id="GPU"),
    pytest.param(OSError(28, "No space", "a.mrc"), "a.mrc could not be written: the disk is full", "The disk is full", id="disk"),
    pytest.param(OSError(28, "No space"), "job could not be written: the disk is full", "The disk is full", id="no name"),
    pytest.param(PermissionError(13, "No", "a.mrc"), "a.mrc could not be written: no permission", "a.mrc cannot be opened", id="permission"),
    pytest.param(FileNotFoundError(2, "No", "a.mrc"), "a.mrc could not be written: No", "a.mrc is not there", id="no file"),
    pytest.param(OSError(5, "Input/output error", "a.mrc"), "a.mrc could not be written: Input/output", "unexpectedly", id="disk fault"),
    pytest.param(KeyError("surprise"), "failed unexpectedly (KeyError: 'surprise')", "unexpectedly: 'surprise' (KeyError)", id="fault"),
    pytest.param(ValueError(), "(ValueError: no message)", "unexpectedly: ValueError (ValueError)", id="no message"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "of_a_job", "elsewhere"), CASES)
def test_a_sentence_for_each_cause(error, of_a_job, elsewhere):
    job = job_named("make_mask").from_text({"in_3dref": "a.mrc"})
    told = in_words(error, job, Path("job"))
    assert of_a_job in str(told)
    assert elsewhere in str(in_words(error))
    for one in (told, in_words(error)):
        assert isinstance(one, JobError)
        assert one.__cause__ is error


def test_ours_pass_through():
    error = InputError("a.star has no rlnTomoName.")
    assert in_words(error) is error


def test_torch_out_of_memory_is_told_as_such():
    import torch

    assert "GPU ran out of memory" in str(in_words(torch.OutOfMemoryError("Tried to allocate")))
