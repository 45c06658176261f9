"""The house's rules that no linter knows: module sizes, tests of every module's name, arrows that can be seen."""

from __future__ import annotations

import ast
import re
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src/napari_sta"
MODULES = sorted(path for path in SOURCE.rglob("*.py") if path.name != "__init__.py")
MOST_LINES, MEDIAN_LINES = 700, 180


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_a_long_module_says_why():
    """Its docstring has a sentence that begins with "One module because"."""
    for path in (one for one in MODULES if lines_of(one) > MOST_LINES):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        assert re.search(r"\bOne module because \w", text), f"{name_of(path)} has {lines_of(path)} lines"


def test_modules_are_short():
    assert statistics.median(map(lines_of, MODULES)) <= MEDIAN_LINES


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "path",
    [p for p in MODULES if p.relative_to(SOURCE).parts[0] in ("engine", "kernels", "widgets")],
    ids=name_of,
)
def test_every_module_has_the_test_file_of_its_name(path):
    inside = path.relative_to(SOURCE)
    mirror = ROOT / "tests" / inside.parent / f"test_{inside.stem.lstrip('_')}.py"
    assert mirror.exists(), f"{name_of(path)} has no {mirror.relative_to(ROOT)}"
    assert "def test_" in mirror.read_text(encoding="utf-8")


def text_imports(tree: ast.AST) -> list[ast.Call]:
    """Calls and mentions of import_module or __import__."""
    return [
        node
        for node in ast.walk(tree)
        if (isinstance(node, ast.Name) and node.id in ("import_module", "__import__"))
        or (isinstance(node, ast.Attribute) and node.attr in ("import_module", "__import__"))
    ]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_module_of_ours_is_imported_by_its_name_as_text(path):
    """What import-linter cannot see. Jobs alone are found by listing their folder; other libraries are not ours."""
    source = path.read_text(encoding="utf-8")
    for node in text_imports(ast.parse(source)):
        line = source.splitlines()[node.lineno - 1]
        assert "napari_sta" not in line or "jobs.{module_info.name}" in line, (
            f"{name_of(path)}:{node.lineno}: {line}"
        )
        assert '"' in line or "'" in line, f"{name_of(path)}:{node.lineno}: which module? {line}"
