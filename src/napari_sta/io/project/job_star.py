"""``job.star``: the type of a job and its options."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from napari_sta.data.errors import InputError
from napari_sta.io.project.folders import own_folder
from napari_sta.io.star import Table, read_star, text_column, write_star

FOLDER_TYPES = {
    "Import": "relion.importtomo",
    "MotionCorr": "relion.motioncorr",
    "CtfFind": "relion.ctffind",
    "ExcludeTiltImages": "relion.excludetilts",
    "AlignTiltSeries": "relion.aligntiltseries",
    "Tomograms": "relion.reconstructtomograms",
    "Denoise": "relion.denoisetomo",
    "Picks": "relion.picktomo",
    "Extract": "relion.pseudosubtomo",
    "InitialModel": "relion.initialmodel",
    "Class3D": "relion.class3d",
    "Refine3D": "relion.refine3d",
    "Reconstruct": "relion.reconstructparticletomo",
    "CtfRefine": "relion.ctfrefinetomo",
    "Polish": "relion.framealigntomo",
    "Select": "relion.select",
    "JoinStar": "relion.joinstar",
    "Subtract": "relion.subtract",
    "MaskCreate": "relion.maskcreate",
    "PostProcess": "relion.postprocess",
    "LocalRes": "relion.localres",
    "External": "relion.external",
}
"""RELION's job folders and the type labels of the jobs in them."""


def type_of(root: Path, name: str) -> str:
    """Return the type of a job by its ``job.star``, or by its folder."""
    folder = own_folder(root, name)
    if folder is not None and (folder / "job.star").is_file():
        with suppress(InputError):
            return read_job_star(folder / "job.star").type_label
    return FOLDER_TYPES.get(name.partition("/")[0], "")


@dataclass(frozen=True)
class JobStar:
    """What a ``job.star`` says: the job's type and its options as text."""

    type_label: str
    options: Mapping[str, str]
    is_continue: bool = False
    is_tomo: bool = True


def read_job_star(path: str | Path) -> JobStar:
    """Read a ``job.star``.

    Raises
    ------
    InputError
        If it is none.
    """
    tables = read_star(path)
    if not tables.get("job") or "joboptions_values" not in tables:
        raise InputError(f"{path} is no job.star: it lacks the table data_job or data_joboptions_values")
    head = tables["job"].row()
    values = tables["joboptions_values"]
    options = {}
    if "rlnJobOptionVariable" in values and "rlnJobOptionValue" in values:
        options = dict(zip(values["rlnJobOptionVariable"], values["rlnJobOptionValue"], strict=True))
    return JobStar(
        type_label=head.get("rlnJobTypeLabel", ""),
        options=options,
        is_continue=head.get("rlnJobIsContinue", "0") == "1",
        is_tomo=head.get("rlnJobIsTomo", "0") == "1",
    )


def write_job_star(path: str | Path, job: JobStar) -> None:
    """Write a ``job.star`` as RELION's GUI does, options in alphabetical order."""
    names = sorted(job.options)
    head = {
        "rlnJobTypeLabel": text_column([job.type_label]),
        "rlnJobIsContinue": text_column(["1" if job.is_continue else "0"]),
        "rlnJobIsTomo": text_column(["1" if job.is_tomo else "0"]),
    }
    values = {
        "rlnJobOptionVariable": text_column(names),
        "rlnJobOptionValue": text_column([job.options[name] for name in names]),
    }
    write_star(path, [Table("job", head, is_loop=False), Table("joboptions_values", values)])
