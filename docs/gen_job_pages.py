#!/usr/bin/env python3
"""Write docs/jobs/*.md from the job classes; with --check only say whether they are current."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

from napari_sta.jobs._job import Job, all_jobs, extra_of, value_as_text

FOLDER = Path(__file__).parent / "jobs"


def pages() -> dict[str, str]:
    """Return file name to text of every page."""
    jobs = all_jobs()
    made = {f"{name}.md": job_page(job) for name, job in jobs.items()}
    made["index.md"] = index_page(jobs)
    return made


def index_page(jobs: dict[str, type[Job]]) -> str:
    rows = [f"| [{name}]({name}.md) | {job.label} | {first_line(job)} |" for name, job in jobs.items()]
    return "\n".join(
        [
            "# Jobs",
            "",
            "Generated from the job classes by `docs/gen_job_pages.py`. Every job is a subcommand "
            "(`napari-sta JOB --field value … --o DIR`), a form in the *Job* dock and a RELION External job.",
            "",
            "| job | in RELION's GUI | what it does |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def job_page(job: type[Job]) -> str:
    lines = [f"# {job.name()}", "", inspect.getdoc(job) or "", ""]
    lines += [
        f"RELION job: **{job.label}** (`{job.relion_type}`), run in `{job.folder}/jobNNN/` of a project.",
        "",
        "```",
        f"napari-sta {job.name()} {example_arguments(job)}--o {job.folder}/job042",
        "```",
        "",
    ]
    tabs: dict[str, list[str]] = {}
    for field_name, info in job.model_fields.items():
        tabs.setdefault(extra_of(info)["tab"], []).append(parameter_row(field_name, info))
    for tab, rows in tabs.items():
        lines += [
            f"## {tab}",
            "",
            "| option | label | unit | default | allowed | RELION | meaning |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    lines += ["## Output", "", "| file | what it is | node label |", "|---|---|---|"]
    lines += [f"| `{file}` | {node.title} | `{node.label}` |" for file, node in job.outputs.items()]
    lines += [
        "",
        "Beside these: `job.star`, `job.json`, `note.txt`, `run.out`, `run.err` and an exit marker.",
        "",
    ]
    return "\n".join(lines)


def first_line(job: type[Job]) -> str:
    return (inspect.getdoc(job) or "").splitlines()[0]


def example_arguments(job: type[Job]) -> str:
    words = []
    for field_name, info in job.model_fields.items():
        if info.is_required() or field_name == "in_optimisation_set":
            words.append(f"--{field_name} … ")
    return "".join(words)


def parameter_row(field_name: str, info: Any) -> str:
    extra = extra_of(info)
    default = "required" if info.is_required() else value_as_text(info.get_default()) or "–"
    cells = [
        f"`--{field_name}`",
        info.title or "",
        extra["unit"],
        default,
        allowed(info),
        " ".join(f"`{text}`" for text in (extra["relion"], extra["flag"]) if text),
        info.description or "",
    ]
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def allowed(info: Any) -> str:
    choices = extra_of(info)["choices"]
    if choices:
        return ", ".join(
            f"`{value}` ({words})" if words else f"`{value}`" for value, words in choices.items()
        )
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    bounds = [
        f"{sign} {value_as_text(getattr(item, name))}"
        for item in info.metadata
        for name, sign in signs.items()
        if getattr(item, name, None) is not None
    ]
    return ", ".join(bounds)


def main() -> int:
    wanted = pages()
    stale = [
        name
        for name, text in wanted.items()
        if not (FOLDER / name).exists() or (FOLDER / name).read_text(encoding="utf-8") != text
    ]
    orphans = [path.name for path in FOLDER.glob("*.md") if path.name not in wanted]
    if "--check" in sys.argv[1:]:
        for name in [*stale, *orphans]:
            print(f"docs/jobs/{name} is not current; run python docs/gen_job_pages.py")
        return int(bool(stale or orphans))
    FOLDER.mkdir(exist_ok=True)
    for name in orphans:
        (FOLDER / name).unlink()
    for name in stale:
        (FOLDER / name).write_text(wanted[name], encoding="utf-8", newline="\n")
        print(f"docs/jobs/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
