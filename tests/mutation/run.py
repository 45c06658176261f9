"""Mutation tests: is every small change of a module noticed by the test file of its name?

    python tests/mutation/run.py                       engine, kernels/refine and io/star: 4 mutants a module
    python tests/mutation/run.py io/star --each 60     some modules, more mutants
    python tests/mutation/run.py kernels/refine/noise --each 0    all mutants

Cosmic Ray makes the mutants (``pip install cosmic-ray``); this draws some of them by seed, and runs the mirrored test
file on each, in a copy of the repository, on one core. Cosmic Ray alone would run one command for all modules, in
place; mutmut rewrites functions so that numba cannot compile them. What is left out cannot be seen by any test:
annotations, which are never evaluated, and whether a dataclass is frozen.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}

# Libraries are imported once, for all test runs; nothing of ours is.
import beartype  # noqa: F401
import jaxtyping  # noqa: F401
import numba
import pytest
import scipy.fft
import scipy.ndimage
import scipy.spatial.transform  # noqa: F401
import torch  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = ("engine", "kernels/refine", "io/star")
LIMIT_S = 180
"""A test file that takes longer on a mutant than this has noticed it (or hangs)."""
MOST_SURVIVORS = 0.10


def main() -> int:
    """Run; the exit status says whether too many mutants survive."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("modules", nargs="*", default=DEFAULT, help="modules or folders below src/napari_sta")
    parser.add_argument("--each", type=int, default=4, help="mutants drawn of each module; 0: all")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    counts: dict[str, tuple[int, int]] = {}
    with tempfile.TemporaryDirectory(prefix="napari-sta-mutants-") as folder:
        tree = copy_of_repository(Path(folder))
        for module in modules_of(options.modules):
            counts[module] = mutate(tree, module, options.each, options.seed)
    print(f"\n{'module':40s} mutants  survived")
    for module, (tried, survived) in counts.items():
        print(f"{module:40s} {tried:7d}  {survived:8d}")
    tried, survived = (sum(column) for column in zip(*counts.values(), strict=True))
    print(f"{'all':40s} {tried:7d}  {survived:8d}  ({100 * survived / max(tried, 1):.1f} %)")
    return int(survived > MOST_SURVIVORS * tried)


def copy_of_repository(folder: Path) -> Path:
    """Copy what tests need, compiled code included."""
    for name in ("src", "tests", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("images", "stress"))
    shutil.copy2(ROOT / "pyproject.toml", folder)
    return folder


def modules_of(wanted: list[str]) -> Iterator[str]:
    """Names below src/napari_sta, without ``.py``, of modules that hold code and have a test file."""
    source = ROOT / "src/napari_sta"
    for name in wanted:
        folder = source / name
        paths = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
        for path in paths:
            module = path.relative_to(source).with_suffix("").as_posix()
            if path.name == "__init__.py":
                continue
            if mirrored(module).exists():
                yield module
            else:
                print(f"{module}: no {mirrored(module).relative_to(ROOT)}", flush=True)


def mirrored(module: str, root: Path = ROOT) -> Path:
    """Test file of a module's name."""
    place = Path(module)
    return root / "tests" / place.parent / f"test_{place.name}.py"


def mutate(tree: Path, module: str, each: int, seed: int) -> tuple[int, int]:
    """Try some mutants of a module; return how many, and how many survived."""
    from cosmic_ray.commands import init
    from cosmic_ray.mutating import use_mutation
    from cosmic_ray.plugins import get_operator
    from cosmic_ray.work_db import use_db

    path = tree / "src/napari_sta" / f"{module}.py"
    source = path.read_text()
    with use_db(str(tree / "session.sqlite")) as session:
        init([path], session, {})
        mutations = [item.mutations[0] for item in session.work_items]
    mutations = [one for one in mutations if is_visible(one, source)]
    mutations.sort(key=lambda one: (one.operator_name, one.occurrence))
    if each:
        mutations = random.Random(f"{seed} {module}").sample(mutations, min(each, len(mutations)))
    if not passes(tree, module):
        raise SystemExit(f"{mirrored(module)} fails without any change")
    survived = 0
    for number, mutation in enumerate(mutations, start=1):
        start = time.monotonic()
        operator = get_operator(mutation.operator_name)(**mutation.operator_args)
        with use_mutation(path, operator, mutation.occurrence) as (before, after):
            alive = passes(tree, module)
        survived += alive
        print(
            f"{'SURVIVED' if alive else 'noticed '} {module}:{mutation.start_pos[0]} {mutation.operator_name}"
            f" #{mutation.occurrence} ({number} of {len(mutations)}, {time.monotonic() - start:.0f} s)",
            flush=True,
        )
        if alive:
            changed = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
            print("\n".join(f"    {line}" for line in list(changed)[3:]), flush=True)
    return len(mutations), survived


def passes(tree: Path, module: str) -> bool:
    """Whether the mirrored test file passes, in a process of its own that has its libraries imported already.

    numba keeps machine code by file: of what calls a mutant elsewhere the old code would run. Mutants of compiled
    loops get an empty cache each.
    """
    shutil.rmtree(tree / "numba", ignore_errors=True)
    child = os.fork()
    if not child:
        os.setpgrp()
        os.chdir(tree)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nowhere, stream)
        sys.path.insert(0, str(tree / "src"))
        sys.dont_write_bytecode = True
        os.environ.update(PYTHONPATH=sys.path[0], PYTHONDONTWRITEBYTECODE="1")
        if "compiled" in module:
            numba.config.CACHE_DIR = str(tree / "numba")
        words = ["-q", "-x", "-p", "no:warnings", "-p", "no:cacheprovider", "--rootdir", str(tree)]
        os._exit(int(pytest.main([*words, str(mirrored(module, tree))])))
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def is_visible(mutation: object, source: str) -> bool:
    """Whether a test can see a mutation at all."""
    line = mutation.start_pos[0]
    if "frozen=True" in source.splitlines()[line - 1]:
        return False
    return not any(
        first <= mutation.start_pos and mutation.end_pos <= last for first, last in annotations(source)
    )


def annotations(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where the annotations of a module begin and end: (line, column) each."""
    found = []
    for node in ast.walk(ast.parse(source)):
        for name in ("annotation", "returns"):
            of_node = getattr(node, name, None)
            if isinstance(of_node, ast.AST):
                found.append(
                    ((of_node.lineno, of_node.col_offset), (of_node.end_lineno, of_node.end_col_offset))
                )
    return found


if __name__ == "__main__":
    sys.exit(main())
