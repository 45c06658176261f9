"""The tables of a pipeline: what they hold, and rows put in and taken out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from napari_sta.data.errors import InputError
from napari_sta.io.files import inside
from napari_sta.io.star import Table, text_column

# The first parts of a label name folders below .Nodes.
LABEL = re.compile(r"[\w+-][\w.+-]*")

TABLES: dict[str, tuple[str, ...]] = {
    "pipeline_processes": (
        "rlnPipeLineProcessName",
        "rlnPipeLineProcessAlias",
        "rlnPipeLineProcessTypeLabel",
        "rlnPipeLineProcessStatusLabel",
    ),
    "pipeline_nodes": (
        "rlnPipeLineNodeName",
        "rlnPipeLineNodeTypeLabel",
        "rlnPipeLineNodeTypeLabelDepth",
    ),
    "pipeline_input_edges": ("rlnPipeLineEdgeFromNode", "rlnPipeLineEdgeProcess"),
    "pipeline_output_edges": ("rlnPipeLineEdgeProcess", "rlnPipeLineEdgeToNode"),
}


class PipelineNode(NamedTuple):
    """A file that RELION's pipeline knows: path from the project folder, type label, depth of the label."""

    path: str
    label: str
    depth: int = 1


def filled(tables: Mapping[str, Table]) -> dict[str, Table]:
    """Return tables in which what a pipeline lacks is empty."""
    general = tables.get("pipeline_general")
    made = {"pipeline_general": general if general else general_table(1)}
    for name, labels in TABLES.items():
        table = tables.get(name)
        if table is None or not table.columns:
            table = Table(name, {label: text_column([]) for label in labels})
        elif name == "pipeline_nodes" and "rlnPipeLineNodeTypeLabelDepth" not in table:
            ones = text_column(["1"] * len(table))
            table = Table(name, {**table.columns, "rlnPipeLineNodeTypeLabelDepth": ones})
        made[name] = table
    return made | {name: table for name, table in tables.items() if name not in made}


def alias_of(tables: Mapping[str, Table], name: str) -> str:
    """Return the alias of a job; empty without one."""
    for one, alias, *_ in rows_of(tables, "pipeline_processes"):
        if slashed(one) == name and alias not in ("", "None"):
            return alias
    return ""


def add_node(tables: dict[str, Table], node: PipelineNode) -> None:
    """Enter a file, unless it is there."""
    if node.path not in set(tables["pipeline_nodes"]["rlnPipeLineNodeName"]):
        add_row(tables, "pipeline_nodes", (node.path, node.label, str(node.depth)))


def add_outputs(tables: dict[str, Table], name: str, outputs: Sequence[PipelineNode]) -> list[PipelineNode]:
    """Enter what a job wrote (paths from its folder); return the nodes as the pipeline knows them."""
    edges = set(rows_of(tables, "pipeline_output_edges"))
    nodes = [PipelineNode(name + node.path, node.label, node.depth) for node in outputs]
    for node in nodes:
        add_node(tables, node)
        if (name, node.path) not in edges:
            add_row(tables, "pipeline_output_edges", (name, node.path))
    return nodes


def set_status(tables: dict[str, Table], name: str, status: str) -> bool:
    """Set the status of a job; return whether the pipeline lists it."""
    table = tables["pipeline_processes"]
    here = np.array([slashed(one) == name for one in table["rlnPipeLineProcessName"]], dtype=bool)
    if not here.any():
        return False
    column = table["rlnPipeLineProcessStatusLabel"].copy()
    column[here] = status
    columns = {**table.columns, "rlnPipeLineProcessStatusLabel": column}
    tables["pipeline_processes"] = Table(table.name, columns)
    return True


def slashed(name: str) -> str:
    """Return a job's name as RELION writes it, with one slash at its end; an empty name stays empty."""
    return name.rstrip("/") + "/" if name.rstrip("/") else ""


def stays_inside(name: str) -> bool:
    """Whether a name by itself, links aside, stays in the folder that it counts from."""
    try:
        inside("/", name, "")
    except InputError:
        return False
    return True


def is_sound(node: PipelineNode) -> bool:
    """Whether a node stays in the project, and its label can name a folder."""
    return stays_inside(node.path) and bool(LABEL.fullmatch(node.label))


def rows_of(tables: Mapping[str, Table], name: str) -> list[tuple[str, ...]]:
    """Return the rows of one of the pipeline's tables, with "" for columns that it lacks."""
    table = tables.get(name)
    if table is None:
        return []
    columns = [table[label] if label in table else text_column([""] * len(table)) for label in TABLES[name]]
    return list(zip(*columns, strict=True))


def nodes_of(tables: Mapping[str, Table]) -> list[PipelineNode]:
    """Return the files that a pipeline knows."""
    return [
        PipelineNode(path, label, int(depth) if re.fullmatch("[0-9]{1,4}", depth) else 1)
        for path, label, depth in rows_of(tables, "pipeline_nodes")
    ]


def written_by(tables: Mapping[str, Table], name: str) -> set[str]:
    """Return the files that a job wrote."""
    return {node for one, node in rows_of(tables, "pipeline_output_edges") if slashed(one) == name}


def general_table(counter: int) -> Table:
    """Return table ``pipeline_general`` with the number of the next job."""
    return Table("pipeline_general", {"rlnPipeLineJobCounter": text_column([str(counter)])}, is_loop=False)


def add_row(tables: dict[str, Table], name: str, values: Sequence[str]) -> None:
    """Put a row at the end of a table, with nothing in columns of others."""
    table = tables[name]
    given = dict(zip(TABLES[name], values, strict=True))
    tables[name] = Table(
        name, {label: text_column([*column, given.get(label, "")]) for label, column in table.columns.items()}
    )


def drop_rows(tables: dict[str, Table], name: str, label: str, values: set[str]) -> None:
    """Take out the rows that have one of these values under a label."""
    table = tables[name]
    keep = np.array([values.isdisjoint((value, slashed(value))) for value in table[label]], dtype=bool)
    tables[name] = Table(name, {one: column[keep] for one, column in table.columns.items()})
