"""The program as a process: nothing is imported from the current folder, signals count from the start."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from napari_sta.data.volume import Volume
from napari_sta.io.mrc import write_volume
from napari_sta.io.project.markers import status_of
from napari_sta.jobs._job import job_named
from napari_sta.jobs._words import words_of

SOURCE = str(Path(__file__).parents[1] / "src")
# What the console script that an installation makes holds.
SCRIPT = "import sys\nfrom napari_sta.__main__ import start\nsys.exit(start())\n"
TRAPS = (
    "tqdm", "torch", "numpy", "scipy", "numba", "pydantic", "json", "argparse", "logging", "difflib", "signal",
    "napari", "matplotlib", "mrcfile", "pandas", "sitecustom", "shlex", "socket", "hashlib", "secrets",
)  # fmt: skip


@pytest.fixture
def trapped(tmp_path) -> Path:
    """A project of anybody's: Python files that tell when they are imported."""
    folder = tmp_path / "project"
    (folder / "Mask").mkdir(parents=True)
    code = f"open({str(tmp_path / 'sprung')!r}, 'a').write(__name__ + '\\n')\nraise ImportError('sprung')\n"
    for name in TRAPS:
        if name in ("numpy", "scipy"):
            (folder / name).mkdir()
            (folder / name / "__init__.py").write_text(code)
        else:
            (folder / f"{name}.py").write_text(code)
    (folder / ".numba_config.yaml").write_text("cache_dir: ./cache\n")
    index = np.indices((16,) * 3) - 8
    write_volume(folder / "map.mrc", Volume(np.exp(-(index**2).sum(axis=0) / 9).astype(np.float32), 4.0))
    return folder


def environment(**changes: str) -> dict[str, str]:
    found = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    return found | {"PYTHONPATH": SOURCE} | changes


WORDS = ["make_mask", "--in_3dref", "map.mrc", "--threshold", "0.5", "--quiet", "--o", "out", "--j", "1"]


def as_module(folder: Path) -> tuple[list[str], dict[str, str]]:
    return [sys.executable, "-m", "napari_sta", *WORDS], environment()


def as_safe_module(folder: Path) -> tuple[list[str], dict[str, str]]:
    return [sys.executable, "-m", "napari_sta", *WORDS], environment(PYTHONSAFEPATH="1")


def as_script(folder: Path) -> tuple[list[str], dict[str, str]]:
    script = folder.parent / "napari-sta"
    script.write_text(SCRIPT)
    # An empty part of PYTHONPATH, which many have, is the current folder.
    return [sys.executable, str(script), *WORDS], environment(PYTHONPATH=f"{SOURCE}:")


def detached(folder: Path) -> tuple[list[str], dict[str, str]]:
    job = job_named("make_mask").from_text({"in_3dref": "map.mrc", "threshold": "0.5"})
    return [sys.executable, "-P", "-m", "napari_sta", *words_of(job, "out", threads=1)], environment()


@pytest.mark.parametrize("start", [as_module, as_safe_module, as_script, detached])
def test_no_python_file_of_the_current_folder_is_imported(trapped, start):
    words, variables = start(trapped)
    said = subprocess.run(words, cwd=trapped, env=variables, capture_output=True, text=True, timeout=120)
    sprung = trapped.parent / "sprung"
    assert not sprung.exists(), sprung.read_text()
    assert said.returncode == 0, said.stderr
    assert (trapped / "out/mask.mrc").exists()
    assert not (trapped / "cache").exists()


def test_the_words_give_the_job_back():
    job = job_named("recenter").from_text({"in_parts": "-a b.star", "center_z_px": "-3"})
    words = words_of(job, "-out", threads=3, device="cuda:0")
    assert words[0] == "recenter"
    assert {"--in_parts=-a b.star", "--center_z_px=-3"} <= set(words)
    assert words[-3:] == ["--o=-out", "--j=3", "--device=cuda:0"]


SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def launch(folder: Path, *more: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", SCRIPT, *WORDS, *more]
    return subprocess.Popen(words, cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_signal_at_any_moment_ends_it_with_130(trapped):
    """From the first 0.1 s on, through imports, checks and the run: no traceback, and a marker if there is a folder."""
    rng = random.Random(5)
    for moment in range(10):
        out = trapped / "out"
        process = launch(trapped)
        time.sleep(0.1 + 0.18 * moment + rng.uniform(0, 0.1))
        process.send_signal(SIGNALS[moment % 3])
        said = process.communicate(timeout=30)[1]
        assert "Traceback" not in said
        if process.returncode == 0:  # it was faster
            break
        assert process.returncode == 130, (moment, said)
        assert said.rstrip().endswith("napari-sta: stopped")
        if out.exists():
            assert status_of(out) in ("Aborted", "Succeeded"), moment
            assert json.loads((out / "job.json").read_text())["status"] == status_of(out)
            assert not list(out.rglob("*.sta-tmp"))
    assert (trapped / "out").exists()


RUNNING = """
import sys, threading, time
from napari_sta import _interrupt
with _interrupt.handled(at_once=True):
    try:
        with _interrupt.running():
            try:
                print("ready", flush=True)
                {work}
            finally:
                time.sleep(0.5)
                print("tidy", flush=True)
    except KeyboardInterrupt:
        _interrupt.leave("stopped")
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_does_not_break_tidying_up(number):
    code = RUNNING.format(work="time.sleep(60)")
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    for _ in range(5):
        process.send_signal(number)
        time.sleep(0.05)
    assert process.wait(20) == 130
    assert process.stdout.read() == "tidy\n"


def test_ignored_signals_stay_ignored():
    """``nohup`` and a shell's background jobs ask for it."""
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + RUNNING.format(
        work="time.sleep(0.5)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    assert process.wait(20) == 0


def test_it_does_not_wait_for_threads():
    code = RUNNING.format(work="threading.Thread(target=time.sleep, args=(60,)).start(); time.sleep(60)")
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 130
    assert time.monotonic() - began < 5
