#!/usr/bin/env python3
"""Draw which package imports which, from the imports themselves, into docs/architecture.md.

With --check only say whether the drawing is current. Boxes are the layers of the contract in pyproject.toml
and the packages within ``kernels``; an arrow is an import by any module, also one within a function. Arrows
that follow from others are left out; those that point upwards are dashed.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from itertools import product
from pathlib import Path

import grimp

ROOT = Path(__file__).parent.parent
PAGE = Path(__file__).parent / "architecture.md"
BEGIN, END = "<!-- drawn by docs/gen_architecture.py -->", "<!-- end of the drawing -->"
WITHIN = "kernels"
ASIDE = {"napari_sta.kernels.warm_up"}
"""It calls one of everything, from above."""


def main() -> int:
    """Write the page or, with --check, compare it."""
    before = PAGE.read_text(encoding="utf-8")
    head, rest = before.split(BEGIN)
    page = head + BEGIN + "\n" + drawing() + "\n" + END + rest.split(END)[1]
    if "--check" in sys.argv[1:]:
        if page != before:
            print("docs/architecture.md is not current; run python docs/gen_architecture.py", file=sys.stderr)
        return int(page != before)
    PAGE.write_text(page, encoding="utf-8")
    return 0


def drawing() -> str:
    """Return the drawing as a mermaid block."""
    rank = {name: number for number, layer in enumerate(layers()) for name in layer}
    below, upwards = set(), set()
    for importer, imported in arrows(set(rank)):
        (below if rank[importer.split(".")[0]] <= rank[imported.split(".")[0]] else upwards).add(
            (importer, imported)
        )
    lines = ["```mermaid", "flowchart TD"]
    boxes = sorted(
        {name for arrow in below for name in arrow}, key=lambda name: (rank[name.split(".")[0]], name)
    )
    for name in boxes:
        if "." not in name:
            lines.append(f'  {box_id(name)}["<b>{name}</b><br/>{caption(name)}"]')
    lines.append(f"  subgraph {WITHIN}_parts[{WITHIN}, within]")
    lines += [f'    {box_id(name)}["<b>{name}</b><br/>{caption(name)}"]' for name in boxes if "." in name]
    lines.append("  end")
    lines += [
        f"  {box_id(a)} --> {box_id(b)}"
        for a, b in sorted(reduced(below), key=lambda arrow: [boxes.index(n) for n in arrow])
    ]
    lines += [f"  {box_id(a)} -.-> {box_id(b)}" for a, b in sorted(upwards)]
    return "\n".join([*lines, "```"])


def box_id(name: str) -> str:
    """Return the name of a box within the drawing."""
    return name.strip("_").replace(".", "_")


def layers() -> list[list[str]]:
    """Return the layers of the contract, highest first."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (contract,) = (one for one in contracts if one["type"] == "layers")
    return [[name.strip() for name in layer.split("|")] for layer in contract["layers"]]


def arrows(names: set[str]) -> set[tuple[str, str]]:
    """Return which box imports from which."""
    graph = grimp.build_graph("napari_sta", exclude_type_checking_imports=True, cache_dir=None)

    def box(module: str) -> str:
        top, *parts = module.split(".")[1:] or [""]
        deeper = top == WITHIN and parts and f"napari_sta.{top}.{parts[0]}" in packages
        return f"{top}.{parts[0]}" if deeper else top

    packages = {name for name in graph.modules if graph.find_children(name)}
    found = {
        (box(importer), box(imported))
        for importer in graph.modules - ASIDE
        for imported in graph.find_modules_directly_imported_by(importer)
    }
    return {(a, b) for a, b in found if a != b and {a.split(".")[0], b.split(".")[0]} <= names}


def reduced(found: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Leave out arrows between boxes that others connect already; circles are kept as they are."""
    reach = set(found)
    names = {name for arrow in found for name in arrow}
    for middle, a, b in product(sorted(names), repeat=3):
        if (a, middle) in reach and (middle, b) in reach:
            reach.add((a, b))
    return {
        (a, b)
        for a, b in found
        if not any(
            (a, c) in reach and (c, b) in reach and c not in (a, b) and (c, a) not in reach for c in names
        )
    }


def caption(name: str) -> str:
    """Return the first clause of what a package says of itself."""
    path = ROOT / "src/napari_sta" / name.replace(".", "/")
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    for stop in (".", ":", ";", ", and nothing"):
        text = text.split(stop)[0]
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main())
