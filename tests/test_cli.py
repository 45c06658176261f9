"""The command line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import napari_sta.jobs
from napari_sta.cli import main
from napari_sta.io.project.markers import status_of
from napari_sta.jobs._job import all_jobs

EXTRA = Path(__file__).parent / "jobs/extra"


@pytest.fixture(autouse=True)
def _extra_job(monkeypatch):
    monkeypatch.setattr(napari_sta.jobs, "__path__", [*napari_sta.jobs.__path__, str(EXTRA)])


def test_overview_lists_jobs_in_workflow_order_without_torch(capsys):
    code = (
        "import sys; from napari_sta.cli import main; main(['--help'])\n"
        "print('torch' in sys.modules, 'pandas' in sys.modules)"
    )
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert text.splitlines()[-1] == "False False"
    assert main([]) == 0
    out = capsys.readouterr().out
    places = [out.index(f"\n  {name} ") for name in all_jobs()]
    assert places == sorted(places)
    assert "practise" in out
    assert "Count steps, and fail when asked to." in out


def test_importing_the_package_is_cheap():
    code = (
        "import sys, napari_sta\n"
        "print([m for m in ('torch', 'pandas', 'qtpy', 'numpy', 'pydantic') if m in sys.modules])"
    )
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert text == "[]\n"


def test_help_of_every_job_tells_all(capsys):
    for name, job_class in all_jobs().items():
        with pytest.raises(SystemExit) as leave:
            main([name, "--help"])
        assert leave.value.code == 0
        text = " ".join(capsys.readouterr().out.split())
        for field, info in job_class.model_fields.items():
            assert f"--{field}" in text
            assert info.title in text
    assert "Delay (s). Between steps, 100 % patience. [default 0]" in text
    assert "Needed (Å). Has no default. [required]" in text
    assert "Choices: well: finish; memory: run out of memory" in text
    assert "RELION --n" in text
    assert "Counting:" in text
    assert "default Yes" in text


def test_a_run(tmp_path, capsys):
    out = tmp_path / "out"
    assert (
        main(
            [
                "practise",
                "--needed-angst",
                "-2.5e-1",
                "--n_steps=2",
                "--careful",
                "No",
                "--j",
                "2",
                "--o",
                str(out),
            ]
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert printed.startswith("counted 2\n")
    assert str(out / "map.mrc") in printed
    record = json.loads((out / "job.json").read_text())
    assert record["values"]["needed_angst"] == -0.25
    assert record["values"]["careful"] is False
    assert record["threads"] == 2


def test_json_is_the_only_thing_on_stdout(tmp_path, capsys):
    assert main(["practise", "--needed_angst", "0", "--json", "--o", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    record = json.loads(captured.out)
    assert record["summary"] == "counted 3"
    assert record["curve"] == [0, 1, 2]
    assert record["warnings"] == ["a zero looks odd"]
    assert "warning: a zero looks odd" in captured.err


def test_quiet(tmp_path, capsys):
    assert main(["practise", "--needed_angst", "0", "--quiet", "--o", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out == "counted 3\n"


def test_in_a_project_folder(data, tmp_path, monkeypatch, capsys):
    shutil.copytree(data / "project", tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    assert main(["practise", "--needed_angst", "1"]) == 0
    assert "External/job038/: done" in capsys.readouterr().out
    assert status_of("External/job038") == "Succeeded"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["practice"], "practice is no job or command; did you mean practise?"),
        (["xyz"], "xyz is no job or command; see napari-sta --help"),
        (
            ["practise", "--n_step", "3"],
            "--n_step is no option of napari-sta practise; did you mean --n_steps?",
        ),
        (
            ["practise", "--needed_angst", "1", "stray"],
            "stray is no value expected here of napari-sta practise",
        ),
        (["practise"], "--needed_angst (Needed) must be given"),
        (["practise", "--needed_angst", "ten"], "--needed_angst ten: "),
        (
            ["practise", "--needed_angst", "1", "--n_steps", "0"],
            "--n_steps 0: input should be greater than 0",
        ),
        (["practise", "--needed_angst"], "argument --needed_angst: expected one argument"),
        (["practise", "--needed_angst", "1", "--careful", "maybe"], "--careful maybe: "),
        (["practise", "--needed_angst", "1", "--j", "two"], "--j two: give the number of threads"),
        (
            ["practise", "--needed_angst", "1", "--j", "100000"],
            "--j 100000 is more threads than help on this computer",
        ),
        (["practise", "--needed_angst", "1", "--j", "9" * 5000], "more threads than help"),
        (["practise", "--needed_angst", "1", "--j", "-1"], "--j -1: give the number of threads"),
        (["practise", "--needed_angst", "1", "--device", "tpu"], "--device tpu: choose auto, cpu"),
        (["practise", "--needed_angst", "1", "--o", "out", "--in_mask", "no.mrc"], "no.mrc does not exist"),
        (["practise", "--needed_angst", "5000"], "--needed_angst 5000 is too large"),
        (["info", "nope.star"], "nope.star does not exist"),
        (["info"], "the following arguments are required: PATH"),
        (["open", "nope.star"], "nope.star does not exist"),
        (["resume", "nowhere"], "nowhere holds no job of napari-sta"),
        (["resume", "nowhere", "--o", "x"], "leave --o out"),
    ],
)
def test_wrong_input_is_one_sentence_and_status_2(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("napari-sta: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"RANK": "abc"}, "RANK"),
        ({"RANK": "-1"}, "RANK"),
        ({"RANK": "1.5"}, "RANK"),
        ({"RANK": "9" * 5000}, "RANK"),
        ({"RANK": "3"}, "RANK"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "WORLD_SIZE"),
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "x"}, "LOCAL_RANK"),
        ({"LOCAL_WORLD_SIZE": "²"}, "LOCAL_WORLD_SIZE"),
    ],
)
def test_an_environment_that_torchrun_did_not_make(tmp_path, monkeypatch, capsys, variables, named):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main(["practise", "--needed_angst", "1", "--o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert "unset" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("variables", [{"RANK": ""}, {"RANK": "0"}, {"WORLD_SIZE": "1"}])
def test_an_empty_environment_is_one_process(tmp_path, monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main(["practise", "--needed_angst", "1", "--quiet", "--o", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (b"", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b"{" * 100_000, "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"[]", "is no record of a job"),
        (b'{"job": "practise", "values": []}', "is no record of a job"),
        (b'{"job": "practise", "values": 3}', "is no record of a job"),
        (b'{"job": ["practise"], "values": {}}', "is no record of a job"),
        (b'{"job": "practise", "values": {}}', "--needed_angst (Needed) must be given"),
        (b'{"job": "unknown", "values": {}}', "there is no job named unknown"),
        (b'{"job": "practise", "values": {"needed_angst": {"a": 1}}}', "--needed_angst"),
        (b'{"job": "practise", "values": {"needed_angst": 1, "in_mask": "a\\u0000b"}}', "in_mask"),
    ],
)
def test_resume_of_a_strange_record(tmp_path, capsys, record, says):
    (tmp_path / "job.json").write_bytes(record)
    assert main(["resume", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("given", [{"threads": "many"}, {"threads": [2]}, {"threads": 1e300}, {"threads": -4}, {"device": 3}, {"folder": 7}, {"process": "x", "host": None}])  # fmt: skip
def test_resume_bears_what_it_does_not_need(tmp_path, given):
    record = {"job": "practise", "values": {"needed_angst": 1}, "status": "Running"}
    (tmp_path / "job.json").write_text(json.dumps(record | given))
    assert main(["resume", str(tmp_path), "--quiet"]) == 0


def test_resume_of_a_folder_without_a_record(tmp_path, capsys):
    """What a kill in the very first moment leaves."""
    assert main(["resume", str(tmp_path)]) == 2
    assert "it has no job.json; start the job again" in capsys.readouterr().err


def test_a_failed_job_is_status_1(tmp_path, capsys):
    assert main(["practise", "--needed_angst", "1", "--end", "memory", "--o", str(tmp_path / "out")]) == 1
    assert "ran out of memory" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_is_status_130_and_can_be_resumed(tmp_path, capsys, number):
    out = tmp_path / "out"
    code = (
        f"import sys, napari_sta.jobs; napari_sta.jobs.__path__.append({str(EXTRA)!r})\n"
        "from napari_sta.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    words = ["practise", "--needed_angst", "1", "--n_steps", "400", "--delay_s", "0.01", "--o", str(out)]
    process = subprocess.Popen([sys.executable, "-c", code, *words], stderr=subprocess.PIPE, text=True)
    while not (out / "run.out").exists() or "step 2" not in (out / "run.out").read_text():
        assert process.poll() is None
    process.send_signal(number)
    assert process.wait(20) == 130
    assert process.stderr is not None
    assert process.stderr.read().rstrip().endswith("napari-sta: stopped")
    assert status_of(out) == "Aborted"
    record = json.loads((out / "job.json").read_text())
    record["values"]["n_steps"] = 4
    (out / "job.json").write_text(json.dumps(record))
    assert main(["resume", str(out), "--j", "1"]) == 0
    assert status_of(out) == "Succeeded"
    assert main(["resume", str(out)]) == 2
    assert "has already finished" in capsys.readouterr().err


def test_info(data, capsys):
    path = data / "project/PostProcess/job037/postprocess.star"
    assert main(["info", str(path)]) == 0
    assert "final resolution: 10.368 Å" in capsys.readouterr().out
    assert main(["info", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "result of post-processing" in told["lines"][0]
    assert told["problems"]


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"napari-sta {napari_sta.__version__}\n"


def test_waiting_threads_sleep():
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    code = "import os, napari_sta.cli; print(os.environ['OMP_WAIT_POLICY'])"
    text = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert text.stdout == "passive\n"


def test_open_without_the_viewer(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "napari_sta.widgets", None)
    assert main(["open", str(tmp_path)]) == 2
    assert "pip install 'napari-sta[all]'" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["info", ""], ["resume", ""], ["open", "a.mrc", ""]])
def test_an_empty_path_is_not_the_current_folder(words, capsys):
    """A variable of the shell that is not set."""
    assert main(words) == 2
    assert "is empty; name a file or folder" in capsys.readouterr().err
