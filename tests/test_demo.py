"""The demo runs, finds what was hidden, and says so if it does not."""

from __future__ import annotations

import logging
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from napari_sta import demo
from napari_sta.data.errors import InputError, JobError
from napari_sta.io.star import read_star

GOOD = {
    "root": "x",
    "offset_px": 2.7,
    "hidden_offset_px": 2.75,
    "angle_error_before_deg": 3.9,
    "angle_error_deg": 2.2,
    "position_error_before_angst": 3.8,
    "position_error_angst": 2.4,
}
WORSE = {"truth_mean_fsc": 0.1}
BETTER = {"truth_mean_fsc": 0.7}
BEST = {"truth_mean_fsc": 0.8}


def small_spec():
    return replace(
        demo.demo_spec(seed=5),
        n_tomograms=1,
        tilts_deg=tuple(float(t) for t in range(-60, 61, 10)),
        snr=0.2,
        hidden_offset_px=-2.3,
    )


@pytest.mark.slow
def test_the_demo_finds_the_hidden_offset_and_improves_the_map(tmp_path, capsys):
    out = tmp_path / "demo"
    record = demo.run_demo(out, headless=True, threads=2, spec=small_spec())
    assert record["offset_px"] == pytest.approx(-2.3, abs=0.25)
    assert record["truth_resolution_recentred_angst"] < 13
    assert record["truth_resolution_before_angst"] > 1.5 * record["truth_resolution_recentred_angst"]
    assert record["truth_resolution_angst"] < record["truth_resolution_recentred_angst"]
    assert record["resolution_angst"] < 12
    assert record["angle_error_deg"] < 0.8 * record["angle_error_before_deg"]
    assert record["position_error_angst"] < 0.8 * record["position_error_before_angst"]
    assert record["n_duplicates"] > 5
    said = capsys.readouterr().out
    assert "hidden was -2.30 px" in said
    for step in range(1, 11):
        assert f"\n{step}. " in "\n" + said
    # The last line opens the result; nothing looks like a fault.
    *_, title, command = said.strip().splitlines()
    assert title == "Look at it with"
    program, verb, folder = shlex.split(command)
    assert Path(program).name.startswith("napari-sta")
    assert (verb, Path(folder)) == ("open", out)
    assert "warning" not in said.lower()
    pipeline = read_star(out / "default_pipeline.star")
    assert set(pipeline["pipeline_processes"]["rlnPipeLineProcessStatusLabel"]) == {"Succeeded"}
    assert len(pipeline["pipeline_processes"]) == 2 + len(record["jobs"]) == 11
    with pytest.raises(InputError, match="is not empty"):
        demo.run_demo(out, headless=True, spec=small_spec())


def test_a_wrong_offset_fails_the_demo():
    demo._judge(GOOD, WORSE, BETTER, BEST)
    with pytest.raises(JobError, match=r"0\.30 px from the hidden one"):
        demo._judge({**GOOD, "offset_px": 2.45}, WORSE, BETTER, BEST)


def test_what_did_not_improve_fails_the_demo():
    with pytest.raises(JobError, match="recentring did not improve"):
        demo._judge(GOOD, WORSE, WORSE, BEST)
    with pytest.raises(JobError, match="refinement did not improve"):
        demo._judge(GOOD, WORSE, BETTER, BETTER)
    with pytest.raises(JobError, match=r"angle error from 3\.90 to 3\.95 deg"):
        demo._judge({**GOOD, "angle_error_deg": 3.95}, WORSE, BETTER, BEST)
    with pytest.raises(JobError, match=r"position error from 3\.80 to 4\.00 angst"):
        demo._judge({**GOOD, "position_error_angst": 4.0}, WORSE, BETTER, BEST)


@pytest.mark.parametrize("on_path", [True, False])
def test_command_that_opens_the_result_can_be_pasted(tmp_path, monkeypatch, on_path):
    bin_folder = tmp_path / "a venv/bin"
    bin_folder.mkdir(parents=True)
    for name in ("python", "napari-sta"):
        (bin_folder / name).touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo.sys, "executable", str(bin_folder / "python"))
    monkeypatch.setenv("PATH", str(bin_folder) if on_path else "/nowhere")
    command = demo._command_to_open(tmp_path / "my demo")
    program = "napari-sta" if on_path else "'a venv/bin/napari-sta'"
    assert command == f"{program} open 'my demo'"


def test_what_the_demo_says_itself_is_no_warning(caplog):
    log, heard = logging.getLogger("napari_sta"), []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())
    log.addHandler(handler)
    try:
        with demo._without_warnings("resampled"):
            logging.getLogger("napari_sta.run.1").warning("%s is resampled", "/x/mask.mrc")
            logging.getLogger("napari_sta.run.1").warning("something else")
        logging.getLogger("napari_sta.run.1").warning("resampled, and after the demo")
    finally:
        log.removeHandler(handler)
    assert heard == ["something else", "resampled, and after the demo"]
