"""Windows that no image has."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from napari_sta.data.errors import InputError
from napari_sta.jobs._job import job_named
from napari_sta.jobs._params import (
    check_window,
    keep_beside,
    keep_inputs,
    read_once,
    release_inputs,
    window_px,
)


@pytest.mark.parametrize("binning", [1e5, 1e308, float("inf")])
def test_absurd_binning_has_a_sentence(binning):
    with pytest.raises(InputError, match="larger than any tilt image"):
        window_px(24, binning)
    assert window_px(24, 2.02) == 48


def test_placeholders_of_warp_are_called_by_their_name(tmp_path):
    series = SimpleNamespace(images=((str(tmp_path / "dummy_tiltseries.mrc"), 0),))
    inputs = SimpleNamespace(particles=SimpleNamespace(tomograms=["TS_01"]), tilt_series={"TS_01": series})
    with pytest.raises(
        InputError, match=r"dummy_tiltseries\.mrc of tomogram TS_01 is the placeholder that Warp"
    ):
        check_window(inputs, 24, 1.0)


@pytest.mark.parametrize("field", ["tilt_prior_width_deg", "initial_lowpass_angst", "offset_range_px"])
def test_whole_numbers_beyond_any_float_are_refused(field):
    with pytest.raises(InputError, match=field):
        job_named("refine").from_text({"in_3dref": "x.mrc", field: 10**400})


def test_what_a_running_job_reads_is_read_once():
    job, other = (job_named("recenter").from_text({"in_parts": name}) for name in ("a.star", "b.star"))
    reads: list[str] = []

    def read() -> str:
        reads.append("read")
        return "table"

    def read_both() -> None:
        for one in (job, other, job):
            assert read_once(one, "table", read) == "table"

    read_both()
    assert len(reads) == 3, "nobody said that it runs"
    keep_inputs(job)
    keep_beside(job, job)
    keep_beside(job, other)
    read_both()
    assert len(reads) == 5
    assert read_once(job, "another table", read) == "table"
    assert len(reads) == 6
    release_inputs(job)
    read_both()
    assert len(reads) == 9
    keep_beside(job, other)
    read_both()
    assert len(reads) == 12
