"""``job_pipeline.star``, the pipeline of one job, and ``RELION_OUTPUT_NODES.star``, what it made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from napari_sta.data.errors import InputError
from napari_sta.io.project.folders import JOB_NAME, own_folder
from napari_sta.io.project.tables import (
    TABLES,
    PipelineNode,
    general_table,
    is_sound,
    nodes_of,
    rows_of,
    slashed,
)
from napari_sta.io.star import Table, read_star, text_column, write_star

JOB_PIPELINE = "job_pipeline.star"

OUTPUT_NODES = "RELION_OUTPUT_NODES.star"


def outputs_told(root: Path, name: str) -> list[PipelineNode]:
    """Return what a job says it wrote in ``RELION_OUTPUT_NODES.star``, paths from its folder."""
    folder = own_folder(root, name)
    path = folder / OUTPUT_NODES if folder is not None else None
    if path is None or path.is_symlink() or not path.is_file():
        return []
    try:
        table = read_star(path).get("output_nodes")
    except InputError:
        return []
    nodes = nodes_of({"pipeline_nodes": table}) if table is not None else []
    return [
        node._replace(path=node.path.removeprefix(name))
        for node in nodes
        if node.path.startswith(name) and is_sound(node)
    ]


def told_by(path: Path, name: str) -> OwnPipeline:
    """Return what a job's own pipeline file says of it that can be used."""
    if path.is_symlink() or not path.is_file():
        return OwnPipeline()
    try:
        told = own_pipeline(read_star(path), name)
    except InputError:
        return OwnPipeline()
    return told._replace(
        inputs=[node for node in told.inputs if is_sound(node)],
        outputs=[node for node in told.outputs if node.path.startswith(name) and is_sound(node)],
    )


class OwnPipeline(NamedTuple):
    """What a ``job_pipeline.star`` says of its job; no status if it does not say anything."""

    alias: str = ""
    type_label: str = ""
    status: str | None = None
    inputs: list[PipelineNode] = []  # noqa: RUF012
    outputs: list[PipelineNode] = []  # noqa: RUF012


def own_pipeline(tables: Mapping[str, Table], name: str) -> OwnPipeline:
    """Return what the tables of a ``job_pipeline.star`` say of this job."""
    row = next((row for row in rows_of(tables, "pipeline_processes") if slashed(row[0]) == name), None)
    if row is None:
        return OwnPipeline()
    nodes = {node.path: node for node in nodes_of(tables)}
    read = [node for node, one in rows_of(tables, "pipeline_input_edges") if slashed(one) == name]
    written = [node for one, node in rows_of(tables, "pipeline_output_edges") if slashed(one) == name]
    return OwnPipeline(
        alias="" if row[1] == "None" else row[1],
        type_label=row[2],
        status=row[3],
        inputs=[nodes.get(path, PipelineNode(path, "")) for path in dict.fromkeys(read)],
        outputs=[nodes.get(path, PipelineNode(path, "")) for path in dict.fromkeys(written)],
    )


def write_job_pipeline(
    folder: Path,
    name: str,
    type_label: str,
    status: str,
    inputs: Sequence[PipelineNode],
    outputs: Sequence[PipelineNode],
) -> None:
    """Write ``job_pipeline.star``, the pipeline of this one job; paths of outputs count from its folder."""
    own = [PipelineNode(name + node.path, node.label, node.depth) for node in outputs]
    write_own_pipeline(folder / JOB_PIPELINE, name, type_label, status, inputs, own)


def write_own_pipeline(
    path: Path,
    name: str,
    type_label: str,
    status: str,
    inputs: Sequence[PipelineNode],
    outputs: Sequence[PipelineNode],
    alias: str = "",
) -> None:
    """Write the pipeline of one job; all paths count from the project."""
    number = JOB_NAME.search(name)
    counter = int(number.group(1)) + 1 if number else 1
    rows: dict[str, list[tuple[str, ...]]] = {
        "pipeline_processes": [(name, alias or "None", type_label, status)],
        "pipeline_nodes": [(node.path, node.label, str(node.depth)) for node in [*inputs, *outputs]],
        "pipeline_input_edges": [(node.path, name) for node in inputs],
        "pipeline_output_edges": [(name, node.path) for node in outputs],
    }
    tables = [general_table(counter)]
    for table_name, labels in TABLES.items():
        if rows[table_name]:
            columns = zip(labels, zip(*rows[table_name], strict=True), strict=True)
            tables.append(Table(table_name, {label: text_column(values) for label, values in columns}))
    write_star(path, tables)


def write_output_nodes(folder: Path, name: str, outputs: Sequence[PipelineNode]) -> None:
    """Write ``RELION_OUTPUT_NODES.star``, from which RELION learns what the job made."""
    columns = {
        "rlnPipeLineNodeName": text_column([name + node.path for node in outputs]),
        "rlnPipeLineNodeTypeLabel": text_column([node.label for node in outputs]),
        "rlnPipeLineNodeTypeLabelDepth": text_column([str(node.depth) for node in outputs]),
    }
    write_star(folder / OUTPUT_NODES, [Table("output_nodes", columns)])
