#!/usr/bin/env python3
"""Set up napari-sta on a fresh machine, then run its demo or its tests.

    python3 bootstrap.py demo     the demo; opens napari on the result if there is a screen
    python3 bootstrap.py test     linters, type checks and all tests, as CI runs them

Needs nothing but Python 3.11 or newer: everything goes into the folder ``.venv`` beside this file.
The CPU build of torch is taken unless an NVIDIA GPU is there. System libraries that Qt needs on Debian
and Ubuntu are installed when this runs as root or in CI, else asked for. A second run reuses it all.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent
TORCH = "torch==2.13.0"  # the release that the tests run with; any from 2.6 on will do
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
SILENCE_S = 15  # a step that says nothing for so long is said to be still at work
TEST_LIMIT_S = 1500  # for pytest; a hang must not eat CI's half hour
TEST_PROCESSES = 2  # side by side; files stay whole, because what their tests share is made once a process

# Debian's names; where a release renamed one, any of the names will do.
SCREEN_LIBRARIES = (
    ("libegl1",), ("libgl1",), ("libgl1-mesa-dri",), ("libxkbcommon-x11-0",), ("libdbus-1-3",),
    ("libxcb-cursor0",), ("libxcb-icccm4",), ("libxcb-image0",), ("libxcb-keysyms1",), ("libxcb-randr0",),
    ("libxcb-render-util0",), ("libxcb-shape0",), ("libxcb-xinerama0",), ("libxcb-xkb1",),
    ("libfontconfig1",), ("libglib2.0-0", "libglib2.0-0t64"),
)  # fmt: skip
VIRTUAL_SCREEN = (("xvfb",), ("xauth",))


class BootstrapError(Exception):
    """Something is missing; the message says what and how to get it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the two commands and return the exit status."""
    if sys.version_info < (3, 11):  # noqa: UP036  (whoever has an old one should read why)
        print(f"napari-sta needs Python 3.11 or newer; this is {sys.version.split()[0]}", file=sys.stderr)
        return 2
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["demo", "test"])
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="virtual environment to use")
    parser.add_argument("--no-input", action="store_true", help="never ask; print what is missing and stop")
    parser.add_argument("--headless", action="store_true", help="demo: do not open napari")
    parser.add_argument("--o", type=Path, help="demo: folder of the project it makes (napari-sta-demo)")
    options = parser.parse_args(arguments)
    ask = not options.no_input and sys.stdin is not None and sys.stdin.isatty()
    start = time.monotonic()
    try:
        if options.command == "demo":
            screen = has_screen() and not options.headless
            ensure_system_libraries(SCREEN_LIBRARIES if screen else (), ask)
            python = ensure_environment(options.venv.absolute(), "all", ask)
            out = options.o or free_folder(Path("napari-sta-demo"))
            status = demo(python, screen, out)
            if status == 0:
                say_how_to_go_on(python, out)
            return status
        needed = SCREEN_LIBRARIES if has_screen() else SCREEN_LIBRARIES + VIRTUAL_SCREEN
        ensure_system_libraries(needed, ask)
        python = ensure_environment(options.venv.absolute(), "all,dev", ask)
        say(f"set up in {time.monotonic() - start:.0f} s")
        status = test(python)
        say_how_to_go_on(python)
        return status
    except BootstrapError as error:
        print(f"bootstrap: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def say(text: str) -> None:
    """Print a heading at once, also into a pipe."""
    print(f"==> {text}", flush=True)


def run(
    command: Sequence[str | Path], digest: Callable[[str], str | None] | None = None, **options: object
) -> None:
    """Run a command, showing it.

    Parameters
    ----------
    command
        Words of the command line.
    digest
        Makes of each line of its output what is printed instead (None: nothing); if it fails, the end of its
        output is printed as it was.
    options
        For subprocess.

    Raises
    ------
    BootstrapError
        If it fails.
    """
    words = [str(word) for word in command]
    print("  $ " + " ".join(words), flush=True)
    if digest is None:
        status = subprocess.run(words, stdin=subprocess.DEVNULL, **options).returncode  # type: ignore[call-overload]
    else:
        status = run_digested(words, digest)
    if status:
        raise BootstrapError(f"'{' '.join(words[:6])} …' ended with status {status}; its output is above")


def run_digested(words: Sequence[str], digest: Callable[[str], str | None]) -> int:
    """Run a command, print what ``digest`` makes of its lines, and a sign of life in long silences."""
    began = last = time.monotonic()
    ended = threading.Event()
    tail: deque[str] = deque(maxlen=40)
    child = subprocess.Popen(
        list(words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace",
    )  # fmt: skip

    def live() -> None:
        nonlocal last
        while not ended.wait(0.5):
            if time.monotonic() - last >= SILENCE_S:
                last = time.monotonic()
                print(f"    … at work for {last - began:.0f} s", flush=True)

    threading.Thread(target=live, daemon=True).start()
    try:
        assert child.stdout is not None
        for line in child.stdout:
            tail.append(line)
            said = digest(line.strip())
            if said is not None:
                last = time.monotonic()
                print(f"    {said}", flush=True)
        status = child.wait()
    except BaseException:
        child.terminate()
        raise
    finally:
        ended.set()
    if status:
        print("".join(tail), flush=True)
    return status


def digest_of_pip(line: str) -> str | None:
    """Say in few words which package pip fetches, and when it installs; None for its other lines."""
    found = re.match(r"(?:Downloading|Using cached) (?:\S*/)?([\w.]+)-(\d[^-\s]*)\S* \((.+?)\)", line)
    if found and ".metadata" not in line:
        return f"{found[1].replace('_', '-')} {found[2].removesuffix('.tar.gz')} ({found[3]})"
    if line.startswith("Installing collected packages:"):
        return f"installing {line.count(',') + 1} packages"
    return None


# --- the system --------------------------------------------------------------------------------------


def has_screen() -> bool:
    """Return whether a window can be opened."""
    if sys.platform.startswith("linux"):
        return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return True


def is_debian() -> bool:
    """Return whether packages are Debian's."""
    return bool(shutil.which("dpkg-query") and shutil.which("apt-get"))


def is_root() -> bool:
    """Return whether apt-get may be called directly."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def installed_packages() -> set[str]:
    """Return the names of Debian's installed packages."""
    listing = subprocess.run(
        ["dpkg-query", "-W", "-f", "${db:Status-Abbrev} ${Package}\n"], capture_output=True, text=True
    ).stdout
    return {line.split()[-1] for line in listing.splitlines() if line.startswith("ii")}


def ensure_system_libraries(needed: Sequence[tuple[str, ...]], ask: bool) -> None:
    """Install missing system libraries on Debian and Ubuntu, or say which they are."""
    if not needed or not sys.platform.startswith("linux"):
        return
    if not is_debian():
        say("not Debian or Ubuntu: make sure that the libraries of Qt 6 for X11 and OpenGL are installed")
        return
    missing = missing_libraries(needed)
    if missing:
        install_packages(missing, "system libraries that Qt and OpenGL need", ask)


def missing_libraries(needed: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return those of Debian's packages that are not installed; none where packages are not Debian's."""
    if not sys.platform.startswith("linux") or not is_debian():
        return []
    there = installed_packages()
    return [names for names in needed if not there.intersection(names)]


def install_line(missing: Sequence[tuple[str, ...]]) -> str:
    """Return the line that installs Debian packages by hand."""
    line = f"apt-get install -y --no-install-recommends {' '.join(names[0] for names in missing)}"
    return line if is_root() else f"sudo {line}"


def install_packages(missing: Sequence[tuple[str, ...]], what: str, ask: bool) -> None:
    """Install Debian packages if allowed to, else print the line that does.

    Raises
    ------
    BootstrapError
        If they may not be installed here, or apt-get fails.
    """
    by_hand = install_line(missing)
    say(f"missing {what}: {' '.join(names[0] for names in missing)}")
    in_ci = os.environ.get("CI", "").lower() in ("1", "true", "yes")
    allowed = is_root() or in_ci
    if not allowed and ask:
        allowed = input(f"Install them now with sudo? ({by_hand}) [y/N] ").strip().lower() in ("y", "yes")
    if not allowed:
        raise BootstrapError(f"{what} are missing; install them with\n    {by_hand}\nand run this again")
    apt = ["apt-get"] if is_root() else ["sudo", *([] if ask else ["-n"]), "apt-get"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run([*apt, "update", "-qq"], env=environment)
    known = [next((n for n in names if is_known_package(n)), names[0]) for names in missing]
    run([*apt, "install", "-y", "-qq", "--no-install-recommends", *known], env=environment)


def is_known_package(name: str) -> bool:
    """Return whether apt can install a package of this name."""
    result = subprocess.run(["apt-cache", "policy", name], capture_output=True, text=True)
    return "Candidate:" in result.stdout and "Candidate: (none)" not in result.stdout


def has_nvidia_gpu() -> bool:
    """Return whether the NVIDIA driver lists a GPU."""
    tool = shutil.which("nvidia-smi")
    if not tool:
        return False
    try:
        result = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return result.returncode == 0 and "GPU" in result.stdout


# --- the virtual environment -------------------------------------------------------------------------


def ensure_environment(venv: Path, extras: str, ask: bool) -> Path:
    """Make the virtual environment with everything in it, and return its Python."""
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    wanted = fingerprint(extras)
    stamp = venv / f"napari-sta-{extras.replace(',', '-')}.txt"
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        say(f"using the environment in {venv}")
        return python
    if not python.exists():
        make_environment(venv, ask)
    install_torch(python)
    say(f"installing napari-sta[{extras}] and what it needs (a few minutes)")
    run([*pip(python), "-e", f"{ROOT}[{extras}]"], digest=digest_of_pip)
    say("compiling the program and its kernels (once)")
    run([str(python), "-m", "compileall", "-q", str(ROOT / "src")])
    run([str(python), "-m", "napari_sta.kernels.warm_up"])
    stamp.write_text(wanted)
    return python


def fingerprint(extras: str) -> str:
    """Return a text that changes when the environment must be installed anew."""
    digest = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    return f"{ROOT} [{extras}] {digest}\n"


def make_environment(venv: Path, ask: bool) -> None:
    """Create the virtual environment; Debian keeps what that takes in a package of its own."""
    if importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
        if not is_debian():
            raise BootstrapError(
                f"{sys.executable} has no venv or ensurepip module; install Python from python.org, or "
                "the package of your system that holds them, and run this again"
            )
        version = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
        install_packages([(version, "python3-venv")], "what Python needs for virtual environments", ask)
    say(f"making a virtual environment in {venv}")
    run([sys.executable, "-m", "venv", venv])


def pip(python: Path) -> list[str | Path]:
    """Return the command with which pip of an environment installs."""
    general = ["--disable-pip-version-check", "--no-input"]
    return [python, "-m", "pip", *general, "install", "--progress-bar", "off"]


def install_torch(python: Path) -> None:
    """Install torch: plainly for a GPU, else the build that brings no CUDA packages."""
    has_it = [python, "-c", "import importlib.metadata as m; m.version('torch')"]
    if subprocess.run([str(word) for word in has_it], capture_output=True).returncode == 0:
        return
    if has_nvidia_gpu():
        say("an NVIDIA GPU is there: installing torch with CUDA")
        run([*pip(python), "torch"], digest=digest_of_pip)
        return
    drags_cuda = torch_drags_cuda(python)
    if drags_cuda:
        say("no NVIDIA GPU: installing the CPU build of torch from PyTorch's own index")
        run([*pip(python), TORCH, "--index-url", TORCH_CPU_INDEX], digest=digest_of_pip)
    else:
        say("no NVIDIA GPU: installing torch")
        run([*pip(python), TORCH], digest=digest_of_pip)


def torch_drags_cuda(python: Path) -> bool:
    """Ask pip whether a plain install of torch would bring gigabytes of CUDA packages with it."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [*pip(python), "-q", "--dry-run", "--report", report, TORCH]
        result = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        if result.returncode or not report.exists():
            return sys.platform.startswith("linux")  # the index for CPUs may still have it
        names = [item["metadata"]["name"].lower() for item in json.loads(report.read_text())["install"]]
    return any(name.startswith(("nvidia-", "cuda-", "triton")) for name in names)


# --- the two commands --------------------------------------------------------------------------------


def environment_for_runs() -> dict[str, str]:
    """Return the process environment for demo and tests."""
    # libgomp's threads must sleep at barriers: where a core is shared, spinning costs a factor of 40.
    chosen = {"OMP_WAIT_POLICY": "passive", "QT_API": "pyside6", "PYTHONUNBUFFERED": "1"}
    if not has_screen():
        chosen["LIBGL_ALWAYS_SOFTWARE"] = "1"
    return {**os.environ, **chosen}


def demo(python: Path, screen: bool, out: Path) -> int:
    """Run ``napari-sta demo``."""
    command = [str(python), "-m", "napari_sta.cli", "demo"]
    if not screen:
        command.append("--headless")
    command += ["--o", str(out)]
    say("running the demo" + ("" if screen else " (no screen: headless)"))
    return subprocess.run(command, env=environment_for_runs()).returncode


def say_how_to_go_on(python: Path, result: Path | None = None) -> None:
    """Print the lines that start the program in this shell, and what it still needs for a window.

    Parameters
    ----------
    python
        Of the virtual environment.
    result
        A project to open with it.
    """
    opened = shlex.quote(short(result)) if result is not None else "my_project"
    activate = short(python.parent / "activate")
    activate = activate if os.name == "nt" else f"source {shlex.quote(activate)}"
    say("to start napari-sta in this shell:")
    print(f"    {activate}\n    napari-sta open {opened}\n    napari-sta --help", flush=True)
    missing = missing_libraries(SCREEN_LIBRARIES)
    if missing:
        say("before it can open a window here, install the system libraries that Qt and OpenGL need:")
        print(f"    {install_line(missing)}", flush=True)


def short(path: Path) -> str:
    """Return a path from the current folder where it lies below it, else as it is."""
    path, here = path.absolute(), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def free_folder(wish: Path) -> Path:
    """Return the wished name, or that name with the first number that is not taken."""
    names = [wish, *(wish.with_name(f"{wish.name}-{number}") for number in range(2, 1000))]
    return next(name for name in names if not name.exists())


def test(python: Path) -> int:
    """Run linters, type checks and tests; all of them, whatever fails."""
    scripts = python.parent
    under_xvfb = []
    if sys.platform.startswith("linux") and not has_screen():
        if not shutil.which("xvfb-run"):
            raise BootstrapError("xvfb-run is missing; install your system's Xvfb and run this again")
        under_xvfb = ["xvfb-run", "-a", "-s", "-screen 0 1366x768x24"]
    steps: dict[str, list[str]] = {
        "ruff check": [str(python), "-m", "ruff", "check", "."],
        "ruff format": [str(python), "-m", "ruff", "format", "--check", "."],
        "mypy": [str(python), "-m", "mypy"],
        "lint-imports": [str(scripts / "lint-imports")],
        "pytest": [
            *under_xvfb,
            str(python),
            "-m",
            "pytest",
            "-q",
            "--timeout",
            "300",
            "--durations",
            "15",
            *("-n", str(TEST_PROCESSES), "--dist", "loadfile"),
        ],
    }
    results = {}
    for name, command in steps.items():
        say(name)
        start = time.monotonic()
        try:
            status = subprocess.run(
                command,
                cwd=ROOT,
                env=environment_for_runs(),
                stdin=subprocess.DEVNULL,
                timeout=TEST_LIMIT_S,
            ).returncode
        except subprocess.TimeoutExpired:
            print(f"{name} was stopped after {TEST_LIMIT_S} s", file=sys.stderr)
            status = 124
        results[name] = (status, time.monotonic() - start)
    say("summary")
    for name, (status, seconds) in results.items():
        print(f"  {'ok    ' if status == 0 else 'FAILED'} {name:<14} {seconds:6.1f} s")
    return int(any(status for status, _ in results.values()))


if __name__ == "__main__":
    sys.exit(main())
