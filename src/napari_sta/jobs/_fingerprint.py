"""Fingerprints: whether what lies in a job's folder was made of the same values and inputs.

The one rule by which unfinished work is kept or made again, for every job.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from napari_sta.data.errors import InputError
from napari_sta.io.files import resolve, sha256
from napari_sta.jobs._job import Job, extra_of

_LARGE_FILE_BYTES = 50 * 2**20


def of_inputs(job: Job) -> dict[str, Any]:
    """Say what each input of a job is now, for ``job.json``; every file is read once.

    Returns
    -------
    inputs
        Path as given to what the file is: SHA-256, or size and date where that would take long. The
        members of an optimisation set are there too, and what the job reads besides
        (:meth:`Job.read_besides`).
    """
    from napari_sta.io.relion.optimisation_set import read_optimisation_set

    found: dict[str, Any] = {}
    for field_name, value in job.input_files().items():
        path = resolve(value)
        found[value] = _of_file(path)
        kind = extra_of(type(job).model_fields[field_name])["kind"]
        if kind == "file:optimisation_set":
            for member in read_optimisation_set(path).values():
                with contextlib.suppress(InputError):
                    found[member] = _of_file(resolve(member, path))
    return found | dict(job.read_besides())


def of_job(job: Job, inputs: Mapping[str, Any]) -> str:
    """Return the fingerprint of a job's values and inputs, however their paths are spelled."""
    values = _numbers(job, job.model_dump(mode="json"))
    given = {name: bool(job.input_files().get(name)) for name in _file_fields(job)}
    text = json.dumps([job.name(), job.edition, values, given, list(inputs.values())], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def difference(job: Job, inputs: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """Say in words what differs from the job of a record; empty if only its inputs' content does."""
    before = record.get("values")
    if not isinstance(before, dict):
        return "its record is damaged"
    now = job.model_dump(mode="json")
    for name, value in _numbers(job, now).items():
        if name in before and before[name] != value:
            return f"--{name} was {_told(before[name])} and is {_told(value)} now"
    for name in _file_fields(job):
        if bool(before.get(name)) != bool(now[name]):
            return f"--{name} was {_told(before.get(name))} and is {_told(now[name])} now"
    return ""


def changed_input(inputs: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """Say which input is no longer what a record says."""
    before = record.get("inputs")
    held = list(before.values()) if isinstance(before, dict) else []
    for (name, what), old in zip(inputs.items(), held, strict=False):
        if what != old:
            # A file, or things that are told apart by their sizes and dates or by what they hold.
            return f"{name} {'has' if isinstance(what, dict) else 'have'} changed since"
    if len(held) != len(inputs):
        return "it had other inputs"
    return "its record was edited, or another version of napari-sta wrote it"


def of_table(*things: object) -> str:
    """Return the SHA-256 of numbers and words that were read, such as tilt series."""
    digest = hashlib.sha256()
    for thing in things:
        _feed(digest, thing)
    return digest.hexdigest()


def of_files(paths: Iterable[str | Path]) -> str:
    """Return one SHA-256 of the sizes and dates of many files, in their order."""
    seen: dict[str, os.stat_result | None] = {}
    digest = hashlib.sha256()
    for path in paths:
        name = str(path)
        if name in seen:
            continue
        try:
            seen[name] = found = os.stat(name)
        except OSError:
            seen[name] = None
            digest.update(b"-")
            continue
        digest.update(f"{found.st_size} {found.st_mtime_ns};".encode())
    return digest.hexdigest()


def _feed(digest: Any, thing: object) -> None:
    """Feed what a value holds; every value ends, so that neighbours do not run together."""
    if isinstance(thing, np.ndarray) and thing.dtype != object:
        digest.update(f"{thing.dtype}{thing.shape}".encode())
        digest.update(np.ascontiguousarray(thing).tobytes())
    elif is_dataclass(thing):
        for field in fields(thing):
            value = getattr(thing, field.name)
            # Where images lie, and words that are carried along, change no number.
            if field.name != "text":
                _feed(digest, [number for _, number in value] if field.name == "images" else value)
    elif isinstance(thing, Mapping):
        _feed(digest, list(thing))
        _feed(digest, list(thing.values()))
    elif isinstance(thing, (list, tuple)):
        digest.update(f"({len(thing)}".encode())
        for one in thing:
            _feed(digest, one)
    else:
        digest.update(repr(thing).encode())
    digest.update(b";")


def _file_fields(job: Job) -> list[str]:
    return [
        name for name, info in type(job).model_fields.items() if extra_of(info)["kind"].startswith("file:")
    ]


def _numbers(job: Job, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that change what a job computes; files count by what they hold."""
    return {name: value for name, value in values.items() if name not in (*_file_fields(job), *job.may_grow)}


def _told(value: object) -> str:
    return "not given" if value in (None, "") else f"{value}"


def _of_file(path: Path) -> dict[str, Any]:
    stat = path.stat()
    if stat.st_size > _LARGE_FILE_BYTES and path.suffix != ".star":
        return {"bytes": stat.st_size, "modified": datetime.fromtimestamp(stat.st_mtime).isoformat()}
    return {"bytes": stat.st_size, "sha256": sha256(path)}
