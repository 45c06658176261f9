"""Messages of the command line, in the words of the docks."""

from __future__ import annotations

import re

import pytest

from napari_sta.data.errors import InputError
from napari_sta.jobs._job import all_jobs, job_named
from napari_sta.widgets.words import in_plain_words


@pytest.mark.parametrize("job", list(all_jobs().values()), ids=lambda job: job.name())
def test_every_option_of_every_job_is_said_by_its_label(job):
    for name, info in job.model_fields.items():
        title = info.title
        assert in_plain_words(f"--{name} 3: too small", job) == f"“{title}” 3: too small"
        assert in_plain_words(f"give --{name}.", job) == f"give “{title}”."
        assert in_plain_words(f"--{name} ({title}) must be given", job) == f"“{title}” must be given"
        assert in_plain_words(f"--{name.replace('_', '-')} is odd", job) == f"“{title}” is odd"
        assert f"--{name}" not in in_plain_words(f"use --{name} Yes, or --{name} No")
        if "_" in name:
            assert in_plain_words(f"{name} 3 is odd; take 4", job) == f"“{title}” 3 is odd; take 4"


@pytest.mark.parametrize("job", [None, job_named("refine")])
def test_other_jobs_are_called_by_their_labels(job):
    for said, expected in (
        ("state it with process_map --pixel_size_angst, so", "state it with “Map operations” (“Pixel size”), so"),
        ("process_map --clamp_low 0 --clamp_high 1 cuts", "“Map operations” (“Lowest value” 0, “Highest value” 1) cuts"),
        ("extract them first (napari-sta extract)", "extract them first (“Extract subtomos”)"),
        ("has no job x; see napari-sta info /a/b", "has no job x"),
        ("lies in refine/extract --", "lies in refine/extract --"),
    ):  # fmt: skip
        assert in_plain_words(said, job) == expected


@pytest.mark.parametrize(
    "same",
    [
        "masks/in_mask.mrc is not cubic",
        "in_mask/a.mrc is not cubic",
        "run_it003_optimiser.star does not exist",
        "the threshold is too high",
        "relion --center_Z 2.75",
        "Extract/job003 -- no threshold",
        "",
    ],
)
def test_what_is_no_option_stays(same):
    assert in_plain_words(same) == same


def test_paths_are_named_from_the_project(tmp_path):
    root = tmp_path / "project"
    root.mkdir()
    link = tmp_path / "link"
    link.symlink_to(root)
    for name in (root, link):
        said = in_plain_words(f"{name}/masks/a.mrc is a stack (named in {name}/b.star)", root=link)
        assert said == "masks/a.mrc is a stack (named in b.star)"
    assert str(tmp_path / "other/a.mrc") in in_plain_words(f"{tmp_path}/other/a.mrc is", root=root)


def test_folders_searched_and_numbers_of_a_wrong_header_are_left_out(tmp_path):
    from napari_sta.io.files import resolve
    from napari_sta.io.mrc import read_header

    with pytest.raises(InputError) as error:
        resolve("Extract/job001/particles.star", tmp_path / "a/b/c.star")
    said = in_plain_words(str(error.value), root=tmp_path)
    assert "looked in" not in said
    assert str(tmp_path) not in said
    assert "run there" not in said
    path = tmp_path / "particles.star"
    path.write_text("\ndata_particles\n\nloop_\n_rlnTomoName #1\n" + "TS_01\n" * 300)
    with pytest.raises(InputError) as error:
        read_header(path)
    said = in_plain_words(str(error.value), root=tmp_path)
    assert said.startswith("particles.star is no MRC file")
    assert not re.search(r"\d{4,}", said)


def test_general_options_are_said_as_in_the_preferences():
    assert in_plain_words("run it with --device cpu, or take a smaller box") == (
        "run it on the CPU, or take a smaller box"
    )
    assert "--" not in in_plain_words("no permission; choose another output folder with --o")
    assert "--" not in in_plain_words("--device cuda:7: there is no such GPU")
    assert "--" not in in_plain_words("--x is no option of extract; see napari-sta extract --help").replace(
        "--x", ""
    )
