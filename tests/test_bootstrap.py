"""What bootstrap.py decides, without installing anything."""

from __future__ import annotations

import importlib.util
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def bootstrap(monkeypatch):
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "bootstrap.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.commands = []
    module.really_run = module.run
    monkeypatch.setattr(
        module, "run", lambda command, **options: module.commands.append([str(word) for word in command])
    )
    monkeypatch.delenv("CI", raising=False)
    return module


@pytest.fixture
def bare_debian(bootstrap, monkeypatch):
    monkeypatch.setattr(bootstrap.sys, "platform", "linux")
    monkeypatch.setattr(bootstrap, "is_debian", lambda: True)
    monkeypatch.setattr(bootstrap, "installed_packages", lambda: {"libegl1", "libglib2.0-0t64"})
    monkeypatch.setattr(bootstrap, "is_known_package", lambda name: True)
    return bootstrap


NEEDED = (("libegl1",), ("libxcb-cursor0",), ("libglib2.0-0", "libglib2.0-0t64"))


def test_a_user_who_is_not_asked_gets_the_exact_line(bare_debian, monkeypatch):
    monkeypatch.setattr(bare_debian, "is_root", lambda: False)
    with pytest.raises(
        bare_debian.BootstrapError,
        match=r"sudo apt-get install -y --no-install-recommends libxcb-cursor0\n",
    ):
        bare_debian.ensure_system_libraries(NEEDED, ask=False)
    assert bare_debian.commands == []


@pytest.mark.parametrize(("answer", "installs"), [("y", True), ("", False), ("no", False)])
def test_a_user_who_is_asked_decides(bare_debian, monkeypatch, answer, installs):
    monkeypatch.setattr(bare_debian, "is_root", lambda: False)
    monkeypatch.setattr("builtins.input", lambda question: answer)
    if installs:
        bare_debian.ensure_system_libraries(NEEDED, ask=True)
        assert [command[:3] for command in bare_debian.commands] == [
            ["sudo", "apt-get", "update"],
            ["sudo", "apt-get", "install"],
        ]
    else:
        with pytest.raises(bare_debian.BootstrapError):
            bare_debian.ensure_system_libraries(NEEDED, ask=True)


def test_root_installs_after_an_update_only_what_is_missing(bare_debian, monkeypatch):
    monkeypatch.setattr(bare_debian, "is_root", lambda: True)
    bare_debian.ensure_system_libraries(NEEDED, ask=False)
    update, install = bare_debian.commands
    assert update[:2] == ["apt-get", "update"]
    assert install[0] == "apt-get"
    assert install[-1] == "libxcb-cursor0"
    assert "libegl1" not in install


def test_ci_uses_sudo_without_asking(bare_debian, monkeypatch):
    monkeypatch.setattr(bare_debian, "is_root", lambda: False)
    monkeypatch.setenv("CI", "true")
    bare_debian.ensure_system_libraries(NEEDED, ask=False)
    assert bare_debian.commands[0][:3] == ["sudo", "-n", "apt-get"]


def test_renamed_packages_are_asked_for_by_the_name_this_release_has(bare_debian, monkeypatch):
    monkeypatch.setattr(bare_debian, "is_root", lambda: True)
    monkeypatch.setattr(bare_debian, "installed_packages", set)
    monkeypatch.setattr(bare_debian, "is_known_package", lambda name: name != "libglib2.0-0")
    bare_debian.ensure_system_libraries(NEEDED, ask=False)
    assert bare_debian.commands[-1][-1] == "libglib2.0-0t64"


def test_python_without_venv_names_its_package(bare_debian, monkeypatch, tmp_path):
    monkeypatch.setattr(bare_debian, "is_root", lambda: False)
    monkeypatch.setattr(bare_debian.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(bare_debian.BootstrapError, match=r"apt-get install .* python3\.\d+-venv"):
        bare_debian.make_environment(tmp_path / "venv", ask=False)


def answer_of_pip(*names: str):
    def pip(command, **options):
        assert "--dry-run" in command
        report = Path(command[command.index("--report") + 1])
        report.write_text(json.dumps({"install": [{"metadata": {"name": name}} for name in names]}))
        return subprocess.CompletedProcess(command, 0)

    return pip


@pytest.mark.parametrize(
    ("gpu", "would_install", "index", "requirement"),
    [
        pytest.param(False, ["torch", "nvidia-cublas-cu12", "triton"], True, "pinned", id="CPU, CUDA wheels"),
        pytest.param(False, ["torch", "sympy"], False, "pinned", id="CPU, plain wheel"),
        pytest.param(True, [], False, "torch", id="GPU"),
    ],
)
def test_torch_comes_without_cuda_unless_there_is_a_gpu(
    bootstrap, monkeypatch, gpu, would_install, index, requirement
):
    monkeypatch.setattr(bootstrap, "has_nvidia_gpu", lambda: gpu)

    def run(command, **options):
        if "--dry-run" in command:
            return answer_of_pip(*would_install)(command, **options)
        return subprocess.CompletedProcess(command, 1)  # torch is not installed yet

    monkeypatch.setattr(bootstrap.subprocess, "run", run)
    bootstrap.install_torch(Path("python"))
    (command,) = bootstrap.commands
    assert ("--index-url" in command) == index
    assert (bootstrap.TORCH if requirement == "pinned" else requirement) in command


def test_a_failed_step_fails_the_whole_but_all_run(bootstrap, monkeypatch, tmp_path):
    ran = []

    def run(command, **options):
        ran.append(" ".join(command))
        return subprocess.CompletedProcess(command, int("mypy" in command))

    monkeypatch.setattr(bootstrap.subprocess, "run", run)
    monkeypatch.setattr(bootstrap, "has_screen", lambda: True)
    assert bootstrap.test(tmp_path / "python") == 1
    for word in ("ruff check", "ruff format --check", "mypy", "lint-imports", "pytest"):
        assert any(word in line for line in ran), word
    monkeypatch.setattr(
        bootstrap.subprocess, "run", lambda command, **options: subprocess.CompletedProcess(command, 0)
    )
    assert bootstrap.test(tmp_path / "python") == 0


def test_every_demo_gets_a_folder_of_its_own(bootstrap, tmp_path):
    assert bootstrap.free_folder(tmp_path / "demo") == tmp_path / "demo"
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo-2").mkdir()
    assert bootstrap.free_folder(tmp_path / "demo") == tmp_path / "demo-3"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Downloading numpy-2.3.5-cp311-cp311-manylinux_2_27_x86_64.whl (16.9 MB)", "numpy 2.3.5 (16.9 MB)"),
        (
            "Downloading https://x.org/whl/torch-2.13.0%2Bcpu-cp311.whl (180 MB)",
            "torch 2.13.0%2Bcpu (180 MB)",
        ),
        ("Using cached some_thing-1.0.tar.gz (3 kB)", "some-thing 1.0 (3 kB)"),
        ("Downloading numpy-2.3.5-cp311-x86_64.whl.metadata (62 kB)", None),
        ("Collecting numpy>=2", None),
        ("Installing collected packages: a, b, c", "installing 3 packages"),
    ],
)
def test_pip_says_what_it_is_at(bootstrap, line, said):
    assert bootstrap.digest_of_pip(line) == said


def test_installing_is_never_silent_for_long(bootstrap, monkeypatch, capfd):
    monkeypatch.setattr(bootstrap, "SILENCE_S", 0.2)
    code = "import time; print('one', flush=True); time.sleep(1.5); print('two')"
    bootstrap.really_run([sys.executable, "-c", code], digest=lambda line: f"<{line}>")
    said = capfd.readouterr().out
    assert "<one>" in said
    assert "<two>" in said
    assert said.index("<one>") < said.index("… at work for") < said.index("<two>")


def test_failed_install_shows_what_it_said(bootstrap, capfd):
    with pytest.raises(bootstrap.BootstrapError, match="status 3"):
        bootstrap.really_run([sys.executable, "-c", "print('no space'); exit(3)"], digest=lambda line: None)
    assert "no space" in capfd.readouterr().out


def test_pip_runs_with_its_progress_shown(bootstrap, monkeypatch, tmp_path):
    shown = []
    monkeypatch.setattr(
        bootstrap, "run", lambda command, digest=None, **options: shown.append((command, digest))
    )
    monkeypatch.setattr(bootstrap, "install_torch", lambda python: None)
    bootstrap.ensure_environment(tmp_path, "all", ask=False)
    installs = [(command, digest) for command, digest in shown if "install" in command]
    assert installs
    for command, digest in installs:
        assert "-q" not in command
        assert digest is bootstrap.digest_of_pip


@pytest.mark.parametrize("folder", ["napari-sta-demo", "a folder of mine"])
def test_the_last_lines_say_how_to_start_the_program(bare_debian, monkeypatch, tmp_path, capsys, folder):
    """Also on a machine without a screen, where nothing has asked for the libraries of one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bare_debian, "is_root", lambda: False)
    monkeypatch.setattr(bare_debian, "has_screen", lambda: False)
    monkeypatch.setattr(bare_debian, "ensure_environment", lambda *given: tmp_path / ".venv/bin/python")
    ran = []
    monkeypatch.setattr(bare_debian, "demo", lambda python, screen, out: ran.append(out) or 0)
    assert bare_debian.main(["demo", "--o", folder]) == 0
    assert ran == [Path(folder)]
    said = capsys.readouterr().out.splitlines()
    lines = [line.strip() for line in said]
    assert "source .venv/bin/activate" in lines
    assert f"napari-sta open {shlex.quote(folder)}" in lines
    assert lines[-1].startswith("sudo apt-get install -y --no-install-recommends ")
    assert "libxcb-cursor0" in lines[-1]
    assert "libegl1 " not in lines[-1] + " "  # it is there

    monkeypatch.setattr(bare_debian, "demo", lambda *given: 1)
    assert bare_debian.main(["demo", "--o", folder]) == 1
    assert "source" not in capsys.readouterr().out


def test_nothing_is_missing_where_all_is_there(bare_debian, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(
        bare_debian,
        "installed_packages",
        lambda: {n for names in bare_debian.SCREEN_LIBRARIES for n in names},
    )
    bare_debian.say_how_to_go_on(tmp_path / "elsewhere/bin/python", None)
    said = capsys.readouterr().out
    assert f"source {tmp_path}/elsewhere/bin/activate" in said
    assert "apt-get" not in said


def test_pip_takes_the_words_it_is_given(bootstrap):
    """Its general options stand before the command, the others after it."""
    words = [str(word) for word in bootstrap.pip(Path(sys.executable))]
    done = subprocess.run([*words, "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "pip install" in done.stdout
