"""Words of a job: its command line, and what it is at."""

from __future__ import annotations

import pytest

from napari_sta.cli import job_parser
from napari_sta.data.progress import Progress
from napari_sta.jobs._job import job_named
from napari_sta.jobs._words import step_words, words_of


def test_steps_are_said_in_plain_words():
    data = {"iteration": 3, "phase": "expectation", "last": False}
    assert step_words(Progress(4, 9, "iteration 3: expectation", data)) == "iteration 3, aligning particles"
    last = data | {"last": True, "phase": "maximisation"}
    assert step_words(Progress(9, 9, "x", last)) == "iteration 3 (the last), reconstructing"
    assert step_words(Progress(0, 0, "reading")) == "reading"


@pytest.mark.parametrize(
    ("out", "threads", "device", "rest"),
    [
        ("", 0, "auto", []),
        ("-out of it", 3, "cuda:0", ["--o=-out of it", "--j=3", "--device=cuda:0"]),
    ],
)
def test_the_command_line_gives_the_job_back(out, threads, device, rest):
    values = {"in_3dref": "-my map.mrc", "lowpass_angst": 12.5}
    job = job_named("make_mask").from_text(values)
    words = words_of(job, out, threads, device)
    assert words == ["make_mask", "--in_3dref=-my map.mrc", "--lowpass_angst=12.5", *rest]
    found = vars(job_parser(type(job)).read(words[1:]))
    assert type(job).from_text({name: found[name] for name in values}) == job
