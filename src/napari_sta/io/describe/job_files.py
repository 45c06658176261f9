"""Small files of jobs: their options, and what they made."""

from __future__ import annotations

from pathlib import Path

from napari_sta.io.describe.description import Description, count
from napari_sta.io.project.job_star import read_job_star
from napari_sta.io.star import Table


def describe_job_star(found: Description, path: Path, tables: dict[str, Table]) -> None:
    """Tell the options of a job."""
    job = read_job_star(path)
    given = {name: value for name, value in job.options.items() if value}
    found.lines.append(
        f"{path.name}: settings of a {job.type_label} job, {count(len(given), 'option')} given"
    )
    found.lines += [f"  {name} = {value}" for name, value in sorted(given.items())]


def describe_output_nodes(found: Description, path: Path, tables: dict[str, Table]) -> None:
    """Tell which files a job made."""
    table = tables["output_nodes"]
    found.lines.append(f"{path.name}: {count(len(table), 'file')} that a job made")
    found.lines += [f"  {name}" for name in table.columns.get("rlnPipeLineNodeName", ())]
