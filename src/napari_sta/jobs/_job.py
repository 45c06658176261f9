"""Job, Context, param: what every job gets for free.

A job is one file in this folder: a frozen pydantic model with a ``run`` method. Its form, its
subcommand, its job.star, its JSON record and its reference page all come from that one class.
"""

from __future__ import annotations

import importlib
import logging
import pkgutil
import re
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from napari_sta.data.errors import InputError
from napari_sta.data.progress import Progress

# Whatever lies beyond is a slip of the keyboard or another unit; no computer could work on it either.
_LIMITS = {"Å": 1e6, "Å²": 1e6, "e/Å²": 1e6, "px": 1e5, "binned px": 1e5}
_SMALLEST_ANGST = 0.01


class Node(NamedTuple):
    """An output file as RELION's pipeline names it: type label, depth of the label, words for people."""

    label: str
    depth: int = 1
    title: str = ""


@dataclass(frozen=True)
class Context:
    """Where and with what a job runs; kernels see the arrays, never this.

    Attributes
    ----------
    out
        Output folder; exists when ``run`` is called.
    threads
        CPU threads to use.
    device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:0,1``.
    log
        Lines for run.out; warnings reach the user's card.
    fingerprint
        Of values and inputs (``_fingerprint``), for parts that can be gone on from.
    kept
        Names of files in ``out``, seen from there, that an earlier run of this job wrote with the same
        values and inputs: those that are whole need not be made again. No other file there is the job's.
    """

    out: Path
    threads: int = 1
    device: str = "auto"
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("napari_sta"))
    fingerprint: str = ""
    kept: frozenset[str] = frozenset()

    def devices(self) -> list[Any]:
        """Return the torch devices to use, best first.

        Raises
        ------
        InputError
            If a CUDA device is asked for that is not there.
        """
        from napari_sta.kernels.devices import choose_devices

        try:
            return choose_devices(self.device)
        except ValueError as error:
            raise InputError(f"--device {self.device}: {error}") from error


RunSteps = Generator[Progress, None, dict[str, Any]]
"""What ``Job.run`` is: yields :class:`~napari_sta.data.progress.Progress`, returns the result record."""


def param(
    default: Any = ...,
    *,
    title: str,
    help: str,
    unit: str = "",
    tab: str = "I/O",
    relion: str = "",
    flag: str = "",
    kind: str = "",
    choices: Mapping[Any, str] | None = None,
    advanced: bool = False,
    **bounds: Any,
) -> Any:
    """Declare one parameter of a job.

    Parameters
    ----------
    default
        Left out: the parameter must be given.
    title, help, unit
        Label, tooltip and unit (a label shows the unit in brackets).
    tab
        Group of the form.
    relion, flag
        Name of RELION's GUI option (job.star) and of the RELION program's flag, where there is one.
    kind
        ``file:<what>`` for a path that must exist, ``<what>`` one of particles, tomograms,
        trajectories, optimisation_set, optimiser, map, mask, star.
    choices
        Value to words, where only some values are legal.
    advanced
        Folded away in the form.
    bounds
        ``gt``, ``ge``, ``lt``, ``le`` as in :func:`pydantic.Field`. No length may be absurd, whatever its bounds.
    """
    extra: dict[str, Any] = {
        "unit": unit, "tab": tab, "relion": relion, "flag": flag, "kind": kind,
        "choices": dict(choices) if choices else None, "advanced": advanced,
    }  # fmt: skip
    return Field(default, title=title, description=help, json_schema_extra=extra, **bounds)


class Job(BaseModel):
    """Base of every job: values in, :meth:`run` out.

    Class attributes
    ----------------
    label
        What RELION's GUI calls the job.
    folder
        Project folder of its runs (``Reconstruct``).
    relion_type
        ``rlnJobTypeLabel``; ``relion.external`` where RELION has no such job.
    outputs
        File name to :class:`Node`.
    order
        Place in the workflow, for menus.
    uses_torch
        Whether ``run`` needs torch; the runner sets its threads then.
    uses_ranks
        Whether several processes, started by torchrun, can share the work.
    edition
        Raised when the same values give other numbers than before: work half done is made again then.
    may_grow
        Fields that say how far to go, not what is computed: with another value a job goes on.
    is_long
        Whether what is half done may be the work of days: it is not deleted for other values or inputs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True, allow_inf_nan=False)

    label: ClassVar[str] = ""
    folder: ClassVar[str] = "External"
    relion_type: ClassVar[str] = "relion.external"
    outputs: ClassVar[dict[str, Node]] = {}
    order: ClassVar[int] = 100
    uses_torch: ClassVar[bool] = True
    uses_ranks: ClassVar[bool] = False
    edition: ClassVar[int] = 1
    may_grow: ClassVar[frozenset[str]] = frozenset()
    is_long: ClassVar[bool] = False

    @model_validator(mode="before")
    @classmethod
    def _empty_means_default(cls, values: Any) -> Any:
        # Forms and job.star write "not given" as an empty string.
        if isinstance(values, dict):
            return {k: v for k, v in values.items() if not (isinstance(v, str) and not v.strip())}
        return values

    @model_validator(mode="after")
    def _no_absurd_length(self) -> Self:
        for field_name, info in type(self).model_fields.items():
            value, unit = getattr(self, field_name), extra_of(info)["unit"]
            if unit not in _LIMITS or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if abs(value) > _LIMITS[unit] or (unit == "Å" and 0 < abs(value) < _SMALLEST_ANGST):
                # A whole number may be too large for a float.
                shown = f"{value:.4g}" if isinstance(value, float) else str(value)[:20]
                raise ValueError(
                    f"--{field_name} {shown} {unit} ({info.title}) cannot be meant; give it in {unit}, between "
                    f"{f'{_SMALLEST_ANGST:g}' if unit == 'Å' else '0'} and {_LIMITS[unit]:,.0f}"
                )
        return self

    @classmethod
    def name(cls) -> str:
        """Return the subcommand: the name of the file that declares the job."""
        return cls.__module__.rsplit(".", 1)[-1]

    def check(self) -> None:
        """Look for what can be known to be wrong before any long work.

        Raises
        ------
        InputError
            One sentence: file, column or option, and the cure.
        """

    def warnings(self) -> list[str]:
        """Return what looks odd but does not stop the job."""
        return []

    def read_besides(self) -> dict[str, Any]:
        """Say what else is read, by name: something that changes when it does (``_fingerprint``)."""
        return {}

    def complete(self) -> Job:
        """Return the job with the values that it takes over from another one."""
        return self

    def stays(self, out: Path, written: frozenset[str]) -> frozenset[str]:
        """Return which files of an earlier run in the folder stay although values or inputs changed."""
        return frozenset()

    def run(self, context: Context) -> RunSteps:
        """Do the work: yield progress, write files below ``context.out``, return the result record."""
        raise TypeError(f"{type(self).__name__} declares no run()")

    def relion_command(self, out: str) -> str | None:
        """Return the RELION command line that does the same, or None where RELION has none."""
        return None

    def relion_switches(self) -> dict[str, str]:
        """Return options of RELION's GUI that no field of ours carries (switches that turn fields on)."""
        return {}

    @classmethod
    def switched_on(cls, options: Mapping[str, str]) -> dict[str, str]:
        """Return RELION's options without those that its own switches turn off."""
        return dict(options)

    def input_files(self) -> dict[str, str]:
        """Return field name to path, for every given path."""
        found = {}
        for field_name, info in type(self).model_fields.items():
            value = getattr(self, field_name)
            if extra_of(info)["kind"].startswith("file:") and value:
                found[field_name] = str(value)
        return found

    def as_text(self, *, only_given: bool = False) -> dict[str, str]:
        """Return every value as the text that a command line or a job.star takes.

        Parameters
        ----------
        only_given
            Leave out what equals its default.
        """
        text = {}
        for field_name, info in type(self).model_fields.items():
            value = getattr(self, field_name)
            if only_given and not info.is_required() and value == info.get_default():
                continue
            text[field_name] = value_as_text(value)
        return text

    def command_line(self, out: str | None = None) -> str:
        """Return the equivalent ``napari-sta`` command line."""
        import shlex

        words = ["napari-sta", self.name()]
        for key, value in self.as_text(only_given=True).items():
            words += [f"--{key}", value]
        if out:
            words += ["--o", out]
        return shlex.join(words)

    @classmethod
    def from_text(cls, values: Mapping[str, Any]) -> Job:
        """Build the job from text values, with errors a user can act on.

        Raises
        ------
        InputError
            If a name is unknown, a value is missing or out of range.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            raise InputError(_sentence(cls, error)) from error


def extra_of(info: FieldInfo) -> dict[str, Any]:
    """Return what :func:`param` stored with a field."""
    extra = info.json_schema_extra
    return dict(extra) if isinstance(extra, dict) else {}


def value_as_text(value: Any) -> str:
    """Write a value as RELION does: Yes/No, empty for None, shortest exact number."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "Yes" if value else "No"
    if isinstance(value, float):
        return f"{value:.10g}"
    return str(value)


def _sentence(cls: type[Job], error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        field_name = str(item["loc"][0]) if item["loc"] else ""
        given = item.get("input")
        info = cls.model_fields.get(field_name)
        if item["type"] == "missing":
            what = f" ({info.title})" if info else ""
            lines.append(f"--{field_name}{what} must be given")
        elif item["type"] == "extra_forbidden":
            import difflib

            near = difflib.get_close_matches(field_name, list(cls.model_fields), n=1)
            hint = f"; did you mean --{near[0]}?" if near else f"; see napari-sta {cls.name()} --help"
            lines.append(f"--{field_name} is no option of {cls.name()}{hint}")
        else:
            reason = re.sub(r"^(Value error|Assertion failed), ", "", item["msg"])
            reason = reason[0].lower() + reason[1:]
            lines.append(f"--{field_name} {value_as_text(given)}: {reason}" if field_name else reason)
    return "; ".join(lines)


def all_jobs() -> dict[str, type[Job]]:
    """Return every job by its name, in workflow order; found by listing this folder."""
    import napari_sta.jobs as package

    found: dict[str, type[Job]] = {}
    for module_info in pkgutil.iter_modules(package.__path__):
        if module_info.name.startswith("_"):
            continue
        module = importlib.import_module(f"napari_sta.jobs.{module_info.name}")
        for thing in vars(module).values():
            if isinstance(thing, type) and issubclass(thing, Job) and thing.__module__ == module.__name__:
                found[thing.name()] = thing
    return dict(sorted(found.items(), key=lambda item: (item[1].order, item[0])))


def job_named(name: str) -> type[Job]:
    """Return the job class with this name; dashes may stand for underscores.

    Raises
    ------
    InputError
        If there is none.
    """
    jobs = all_jobs()
    try:
        return jobs[name.replace("-", "_")]
    except KeyError:
        raise InputError(f"there is no job named {name}; the jobs are {', '.join(jobs)}") from None
