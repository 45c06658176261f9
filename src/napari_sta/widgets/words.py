"""Say a message of the command line in the words of the docks."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path

from napari_sta.jobs._job import Job, all_jobs

_COMMON = {"device": "Device", "j": "CPU threads", "threads": "CPU threads"}
"""Options of every command that napari's preferences hold."""


def in_plain_words(text: str, job: type[Job] | None = None, root: Path | None = None) -> str:
    """Translate a message for people who look at a form, not at a command line.

    Parameters
    ----------
    text
        As an error or a warning says it.
    job
        The job it is about, whose labels are meant; by default any job's.
    root
        The project; files in it are named from there.

    Returns
    -------
    words
        Options by the labels of their fields, files from the project folder, and neither the folders that
        were searched nor the numbers that a wrong kind of file has where a header should be.
    """
    titles = _titles(job)
    for folder in _names_of(root):
        text = text.replace(f"{folder}/", "")
    text = re.sub(r" \(looked in [^()]*\)", "", text)
    text = text.replace(", so run there or correct the path", ": correct the path")
    text = re.sub(
        r"(is no MRC file): its header says [\d x]+ voxels; name a map or a stack \(\.mrc, \.mrcs\)",
        r"\1; choose a map or mask (.mrc)",
        text,
    )
    text = re.sub(r";? ?see napari-sta (?:\S+ --help|info \S+)", "", text)
    text = _other_jobs(text)
    text = re.sub(r"\bwith --device cpu\b", "on the CPU", text)
    text = re.sub(r"choose another output folder with --o\b", "make the project folder writable", text)

    def option(match: re.Match[str]) -> str:
        name = match["name"].replace("-", "_")
        title = titles.get(name) or _COMMON.get(name)
        if title is None:
            return match[0]
        in_brackets = f" ({title})"  # "--in_3dref (Reference map) must be given" has the label already
        rest = match["rest"]
        return f"“{title}”" + (rest.removeprefix(in_brackets) if rest.startswith(in_brackets) else rest)

    text = re.sub(r"(?<![\w-])--(?P<name>[A-Za-z]\w*(?:-\w+)*)(?P<rest>(?: \([^()]*\))?)", option, text)
    # Names without dashes are told from words by their underscore; as a part of a path they stay.
    return re.sub(
        r"(?<![\w/.“-])(?P<name>[a-z0-9]+(?:_[a-z0-9]+)+)(?P<rest>)(?![\w/-]|\.\w)",
        lambda match: option(match) if match["name"] in titles else match[0],
        text,
    )


def _other_jobs(text: str) -> str:
    """Name other jobs, as in ``process_map --lowpass_angst 20``, and their options by their labels."""

    def said(match: re.Match[str]) -> str:
        job = all_jobs()[match["job"]]
        options = re.findall(rf"--(\w+)(?: ({value}))?", match["options"])
        words = [f"“{_titles(job).get(name, name)}” {number}".strip() for name, number in options]
        return f"“{job.label}”" + (f" ({', '.join(words)})" if words else "")

    names, value = "|".join(all_jobs()), r"[\d.]*\d|Yes|No"
    options = rf"(?P<options>(?: --\w+(?: (?:{value}))?)+)"
    text = re.sub(rf"(?<![\w/.-])(?:napari-sta )?(?P<job>{names}){options}", said, text)
    return re.sub(rf"\bnapari-sta (?P<job>{names})(?P<options>)\b", said, text)


@lru_cache(maxsize=64)
def _titles(job: type[Job] | None) -> dict[str, str]:
    titles: dict[str, str] = {}
    for one in [job] if job is not None else reversed(list(all_jobs().values())):
        titles |= {name: info.title or name for name, info in one.model_fields.items()}
    return titles


def _names_of(root: Path | None) -> list[str]:
    """Return how the project folder may be called in a message, the longest name first."""
    if root is None:
        return []
    names = {str(root), os.path.realpath(root)}
    return sorted((name for name in names if len(name) > 1), key=len, reverse=True)
