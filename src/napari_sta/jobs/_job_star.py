"""``job.star``: what RELION says of a job, and the job that it describes."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from napari_sta.data.errors import InputError
from napari_sta.io.project.job_star import JobStar
from napari_sta.jobs._job import Job, all_jobs, extra_of, job_named, value_as_text

# Our field to RELION's slot of External jobs; the other fields become param1…param10, then other_args.
_EXTERNAL_SLOTS = {"in_parts": "in_part", "in_3dref": "in_3dref", "in_mask": "in_mask"}


def job_star(job: Job, threads: int = 1, found: Job | None = None) -> JobStar:
    """Return what RELION's ``job.star`` says of a job: its own options, or those of an External job.

    Parameters
    ----------
    found
        The job with its files where they are, for options that are read from them.
    """
    text = job.as_text()
    options = {"nr_threads": str(threads), "do_queue": "No", "min_dedicated": "1", "queuename": "openmpi"}
    options |= {"qsub": "sbatch", "qsubscript": ""}
    rest: list[str] = []
    if job.relion_type == "relion.external":
        options |= {"fn_exe": f"napari-sta {job.name()}", "in_mov": "", "in_mic": "", "in_coords": ""}
        options |= dict.fromkeys(_EXTERNAL_SLOTS.values(), "")
        params = []
        for name, value in text.items():
            if name in _EXTERNAL_SLOTS:
                options[_EXTERNAL_SLOTS[name]] = value
            elif value:
                params.append((name, value))
        for number in range(1, 11):
            name, value = params[number - 1] if number <= len(params) else ("", "")
            options |= {f"param{number}_label": name, f"param{number}_value": value}
        for name, value in params[10:]:
            rest += [f"--{name}", value]
    else:
        for name, info in type(job).model_fields.items():
            relion = extra_of(info)["relion"]
            if relion:
                options[relion] = text[name]
            elif text[name] and text[name] != _default_text(job, name):
                rest += [f"--{name}", text[name]]
        named = (
            {}
            if found is None
            else dict(zip(found.input_files().values(), job.input_files().values(), strict=True))
        )
        options |= {key: named.get(value, value) for key, value in (found or job).relion_switches().items()}
        if "in_optimisation" in options:
            options["use_direct_entries"] = "Yes" if options.get("in_particles") else "No"
    options["other_args"] = shlex.join(rest)
    return JobStar(type_label=job.relion_type, options=options)


def job_from_star(star: JobStar) -> Job:
    """Build the job that a ``job.star``, ours or RELION's, describes.

    Raises
    ------
    InputError
        If we have no such job, or a value is out of range.
    """
    if star.type_label.startswith("relion.external"):
        values = _other_arguments(star.options)
        words = star.options.get("fn_exe", "").split()
        if len(words) < 2 or not words[0].endswith("napari-sta"):
            raise InputError(
                f"the External job runs {' '.join(words) or 'nothing'}, which is no job of napari-sta"
            )
        job_class = job_named(words[1])
        values |= {field: star.options.get(slot, "") for field, slot in _EXTERNAL_SLOTS.items()}
        for number in range(1, 11):
            if star.options.get(f"param{number}_label"):
                values[star.options[f"param{number}_label"]] = star.options.get(f"param{number}_value", "")
        return job_class.from_text({key: value for key, value in values.items() if value})
    job_class = _job_of_type(star.type_label)
    options = job_class.switched_on(star.options)
    values = _other_arguments(options)
    direct = options.get("use_direct_entries", "Yes") == "Yes"
    for name, info in job_class.model_fields.items():
        relion = extra_of(info)["relion"]
        if relion in ("in_particles", "in_tomograms", "in_trajectories") and not direct:
            continue
        if relion and options.get(relion):
            values[name] = options[relion]
    known = {name: value for name, value in values.items() if name in job_class.model_fields and value}
    return job_class.from_text(known)


def _other_arguments(options: Mapping[str, str]) -> dict[str, str]:
    text = options.get("other_args", "")
    try:
        rest = shlex.split(text)
    except ValueError as error:
        raise InputError(
            f"other_args of the job.star, {text[:80]!r}, cannot be read ({error}); correct it"
        ) from None
    return {
        name.lstrip("-").replace("-", "_"): value for name, value in zip(rest[::2], rest[1::2], strict=False)
    }


def _job_of_type(type_label: str) -> type[Job]:
    # Labels may carry further levels; RELION strips them from the end until it knows the type.
    label = type_label
    while label:
        for job_class in all_jobs().values():
            if job_class.relion_type == label != "relion.external":
                return job_class
        label = label.rpartition(".")[0]
    raise InputError(f"napari-sta has no job for RELION's {type_label}")


def _default_text(job: Job, name: str) -> str | None:
    info = type(job).model_fields[name]
    return None if info.is_required() else value_as_text(info.get_default())
