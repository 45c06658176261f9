"""``info``: words for every kind of file, and its problems."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from napari_sta.data.errors import InputError
from napari_sta.data.volume import Volume
from napari_sta.io.describe import describe
from napari_sta.io.mrc import write_stack, write_volume
from napari_sta.io.project import JobStar, write_job_star
from napari_sta.io.star import Table, read_star, text_column, write_star


@pytest.fixture
def project(data, tmp_path, monkeypatch) -> Path:
    shutil.copytree(data / "project", tmp_path / "project")
    for name in ("TS_01", "TS_03"):
        write_stack(tmp_path / f"project/tilt_stacks/{name}.mrc", np.ones((21, 8, 8), np.float32), 2.7)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (
            "Extract/job024/particles.star",
            ["12 particles in 2 tomograms (TS_01 6, TS_03 6)", "2D stacks, 96 px"],
        ),
        ("Extract/job030/particles.star", ["3D pseudo-subtomograms, 48 px, 5.4 Å/px"]),
        ("Select/job023/particles.star", ["not extracted yet", "half sets: 6 in 1, 6 in 2"]),
        ("Refine3D/job016/run_it003_data.star", ["refined: Pmax"]),
        (
            "Tomograms/job007/tomograms.star",
            ["RELION 5 layout", "TS_03: 21 tilts from -60 to 60°", "hand -1"],
        ),
        ("Tomograms/job007/tilt_series/TS_01.star", ["tilt series TS_01, 21 tilt images"]),
        ("Extract/job024/optimisation_set.star", ["the parts fit together"]),
        ("Polish/job020/motion.star", ["trajectory set of 12 particles over 21 tilts"]),
        ("PostProcess/job037/postprocess.star", ["final resolution: 10.368 Å", "B-factor: -620.378 Å²"]),
        ("default_pipeline.star", ["pipeline file", "Extract/job024/: relion.pseudosubtomo, succeeded"]),
        ("Extract/job013/Subtomograms/TS_03/6_stack2d.mrcs", ["stack of 20 images, 48 x 48 px, float16"]),
        ("Extract/job024", ["job folder"]),
        (".", ["RELION project", "the next one gets number 38"]),
    ],
)
def test_words(project, file, words):
    text = str(describe(file))
    for one in words:
        assert one in text


def test_sound_files_have_no_problems(project):
    for file in (
        "Tomograms/job007/tomograms.star",
        "Extract/job024/optimisation_set.star",
        "Select/job023/particles.star",
        "Polish/job020/motion.star",
        "Tomograms/job007/tilt_series/TS_01.star",
    ):
        assert describe(file).problems == [], file
        assert str(describe(file)).endswith("No problems found.")


def test_problems_of_particles(project):
    path = Path("Extract/job024/particles.star")
    assert "12 of 12 subtomogram files" in describe(path).problems[0]
    path.write_text(path.read_text().replace("   223.979334", "          nan"))
    assert any(
        "'nan' in column rlnCenteredCoordinateXAngst" in problem for problem in describe(path).problems
    )
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert any("CR+LF" in problem for problem in describe(path).problems)


def test_problems_of_tomograms(project):
    shutil.rmtree("tilt_stacks")
    assert any(
        "image files are missing" in one for one in describe("Tomograms/job007/tomograms.star").problems
    )
    path = Path("Tomograms/job007/tilt_series/TS_01.star")
    path.write_text(
        path.read_text().replace("_rlnTomoYTilt", "_rlnOther").replace("_rlnDefocusU", "_rlnNoCtf")
    )
    problems = describe(path).problems
    assert any("not aligned yet: rlnTomoYTilt missing" in one for one in problems)
    assert any("no CTF estimate yet" in one for one in problems)
    assert any("no alignment" in one for one in describe("Tomograms/job007/tomograms.star").problems)


def test_problems_of_sets(project):
    shutil.rmtree("Tomograms")
    problems = describe("Extract/job024/optimisation_set.star").problems
    assert problems == ["the tomogram set Tomograms/job007/tomograms.star does not exist"]


def test_problems_of_maps(tmp_path):
    write_volume(
        tmp_path / "mask.mrc", Volume(np.linspace(-0.1, 1.2, 64, dtype=np.float32).reshape(4, 4, 4), 2.7)
    )
    assert "clamp it to 0…1" in describe(tmp_path / "mask.mrc").problems[0]
    write_volume(tmp_path / "map.mrc", Volume(np.zeros((4, 4, 4), np.float32), 1.0))
    assert describe(tmp_path / "map.mrc").problems == ["all values are 0"]  # we mean the 1 Å that we write
    write_volume(tmp_path / "map.mrc", Volume(np.zeros((4, 4, 4), np.float32), None))
    problems = describe(tmp_path / "map.mrc").problems
    assert any("it states no pixel size" in one for one in problems)
    assert any("all values are 0" in one for one in problems)
    (tmp_path / "map.mrc").write_bytes((tmp_path / "map.mrc").read_bytes()[:-8])
    assert any("truncated: 8 bytes" in one for one in describe(tmp_path / "map.mrc").problems)


def test_headers_of_other_programs(tmp_path):
    """What is said of an order of axes, of stacks that are none, of compressed and of damaged files."""
    path = tmp_path / "map.mrc"
    write_volume(path, Volume(np.arange(64, dtype=np.float32).reshape(4, 4, 4), 2.7))
    sound = path.read_bytes()

    def with_words(**words):
        raw = bytearray(sound)
        for name, value in words.items():
            raw[4 * int(name[1:]) : 4 * int(name[1:]) + 4] = int(value).to_bytes(4, "little")
        path.write_bytes(bytes(raw))
        return describe(path)

    said = with_words(w16=3, w18=1)
    assert "stored with columns along z, rows along y, sections along x" in str(said)
    assert said.problems == []
    said = with_words(w22=0, w9=1)
    assert "map.mrc: map, 4 x 4 x 4 voxels" in str(said)
    assert "its header calls it a stack of images (ISPG 0, mz 1)" in str(said)
    assert "extended header of that length" in with_words(w23=5760).problems[0]
    (tmp_path / "emd_1.map.gz").write_bytes(b"\x1f\x8b\x08\0" + bytes(100))
    with pytest.raises(InputError, match=r"compressed \(gzip\): gunzip it first"):
        describe(tmp_path / "emd_1.map.gz")


def test_job_folder(project):
    folder = Path("Reconstruct/job038")
    write_job_star(folder / "job.star", JobStar("relion.reconstructparticletomo", {"binning": "2"}))
    (folder / "RELION_JOB_EXIT_FAILURE").touch()
    (folder / ".map.mrc.123.sta-tmp").touch()
    description = describe(folder)
    assert (
        description.lines[0]
        == "Reconstruct/job038/: job folder of type relion.reconstructparticletomo, failed"
    )
    assert "1 half-written file" in description.problems[1]
    assert "binning = 2" in str(describe(folder / "job.star"))


def test_what_is_nothing_we_know(project, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        describe("nope.star")
    (tmp_path / "x.pdf").touch()
    with pytest.raises(InputError, match="neither a STAR nor an MRC file"):
        describe(tmp_path / "x.pdf")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="neither a RELION project nor a job folder"):
        describe(tmp_path / "empty")
    (tmp_path / "other.star").write_text("data_x\n\nloop_\n_rlnA #1\n1\n2\n")
    assert "data_x: 2 rows x 1 columns" in str(describe(tmp_path / "other.star"))


PARTICLES = Path("Extract/job024/particles.star")


def _with(label: str, text: str, row: int, table: str = "particles") -> None:
    tables = read_star(PARTICLES)
    columns = dict(tables[table].columns)
    columns[label] = columns.get(label, text_column(["0"] * len(tables[table]))).copy()
    columns[label][row] = text
    write_star(PARTICLES, tables | {table: Table(table, columns)})


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("rlnOriginXAngst", "<NA>"),
        ("rlnAngleTilt", "nan"),
        ("rlnAngleTiltPrior", "ten"),
        ("rlnOriginXPriorAngst", "inf"),
        ("rlnOriginXPriorAngst", "1e300"),
        ("rlnAnglePsiPrior", "-1e30"),
        ("rlnMaxValueProbDistribution", "<NA>"),
        ("rlnTomoVisibleFrames", "[1,1"),
        ("rlnTomoVisibleFrames", "1"),
    ],
)
def test_what_jobs_would_stumble_over_is_a_problem(project, label, text):
    before = describe(PARTICLES).problems
    _with("rlnTomoVisibleFrames", "[1]", slice(None))
    _with(label, text, 3)
    new = [one for one in describe(PARTICLES).problems if one not in before]
    assert len(new) == 1
    assert label in new[0]
    assert "row 4" in new[0]


def test_priors_that_lack_are_counted(project):
    _with("rlnAngleTiltPrior", "<NA>", 3)
    description = describe(PARTICLES)
    assert "rlnAngleTiltPrior: 1 particle of 12 without this prior" in description.lines
    assert len(description.problems) == 1  # the images are not part of the excerpt


def test_an_unnamed_particle_table_is_a_particle_set(project):
    PARTICLES.write_text(PARTICLES.read_text().replace("data_particles", "data_"))
    description = describe(PARTICLES)
    assert "particle set, 12 particles" in description.lines[0]
    assert "rename data_ to data_particles" in description.problems[0]


@pytest.mark.parametrize("name", ["images", "", "particles # of mine", "Particles"])
def test_a_particle_table_of_another_name_is_told_of(project, name):
    more = "\ndata_\n\n_rlnFirst 1\n" if name == "" else ""
    text = PARTICLES.read_text().replace("data_particles", f"data_{name or 'x'}")
    PARTICLES.write_text(text + more)
    assert f"rename data_{name or 'x'} to data_particles" in describe(PARTICLES).problems[0]


@pytest.mark.parametrize("value", ["<NA>", "nan", "1e300"])
@pytest.mark.parametrize(
    "label", ["rlnTomoXTilt", "rlnTomoXShiftAngst", "rlnDefocusAngle", "rlnCtfScalefactor", "rlnPhaseShift"]
)
def test_every_number_of_a_tilt_series_is_looked_at(project, label, value):
    path = Path("Tomograms/job007/tilt_series/TS_01.star")
    tables = read_star(path)
    columns = dict(tables["TS_01"].columns)
    columns[label] = columns.get(label, text_column(["0"] * 21)).copy()
    columns[label][4] = value
    write_star(path, [Table("TS_01", columns)])
    found = [describe(path), describe("Tomograms/job007/tomograms.star")]
    for one in found:
        assert any(f"row 5: '{value}' in column {label}" in problem for problem in one.problems)


@pytest.mark.parametrize(
    ("name", "a_mask"),
    [
        ("mask.mrc", True),
        ("Mask_2.mrc", True),
        ("run_solvent_mask.mrc", True),
        ("postprocess_masked.mrc", False),
        ("map_unmasked.mrc", False),
        ("MASKED.mrc", False),
    ],
)
def test_a_masked_map_is_no_mask(tmp_path, name, a_mask):
    data = np.random.default_rng(0).normal(size=(8, 8, 8)).astype(np.float32)
    write_volume(tmp_path / name, Volume(data, 2.7))
    said = describe(tmp_path / name)
    assert any("values of a mask" in problem for problem in said.problems) == a_mask
    assert (f"{name}: mask" in said.lines[0]) == a_mask


def test_a_box_that_the_images_do_not_have(project):
    name = read_star(PARTICLES)["particles"]["rlnImageName"][0]
    write_stack(name, np.zeros((3, 8, 8), np.float32), 2.7)
    assert any(f"{name} has a box of 8 px, but rlnImageSize" in one for one in describe(PARTICLES).problems)


def test_placeholders_of_warp_are_no_problem(project, data):
    path = Path("tomograms.star")
    text = (data / "relion4/tomograms.star").read_text()
    for name in ("TS_01", "TS_03"):
        text = text.replace(f"tilt_stacks/{name}.mrc", "dummy_tiltseries.mrc")
    path.write_text(text)
    assert "dummy_tiltseries" in text
    write_stack("dummy_tiltseries.mrc", np.ones((2, 2, 2), np.float32), 1.0)
    description = describe(path)
    assert "Warp's placeholder" in str(description)
    assert description.problems == []


@pytest.mark.parametrize(
    "content",
    [
        "data_general\n\nloop_\n_rlnFinalResolution #1\n\n\ndata_fsc\n\nloop_\n_rlnResolution #1\n\n",
        "data_model_general\n\nloop_\n_rlnPixelSize #1\n\n",
        "data_optimiser_general\n\n",
        "data_sampling_general\n\nloop_\n_rlnPsiStep #1\n\n",
        "data_TS_01\n\nloop_\n_rlnMicrographPreExposure #1\n_rlnTomoYTilt #2\n\n",
        "data_TS_01\n\nloop_\n_rlnMicrographPreExposure #1\n_rlnTomoYTilt #2\n<NA> x\n\n",
        "data_particles\n\nloop_\n_rlnTomoName #1\n_rlnCoordinateX #2\n\n",
        "data_global\n\nloop_\n_rlnTomoName #1\n\n",
        "data_general\n\nloop_\n_rlnParticleNumber #1\n\n",
        "data_job\n\n\ndata_joboptions_values\n\n",
        "data_pipeline_general\n\n",
        "data_output_nodes\n\n",
        "data_\n\nloop_\n_rlnTomoParticlesFile #1\n\n",
    ],
)
def test_tables_without_rows_are_told_of(tmp_path, content):
    (tmp_path / "x.star").write_text(content)
    with suppress(InputError):
        assert str(describe(tmp_path / "x.star"))


def test_names_in_another_encoding_can_be_printed(project):
    PARTICLES.write_bytes(PARTICLES.read_bytes().replace(b"TS_01 ", b"TS_\xe9 "))
    assert "TS_\ufffd" in str(describe(PARTICLES))
    str(describe(PARTICLES)).encode("utf-8")


def test_a_path_that_no_file_can_have():
    with pytest.raises(InputError, match="does not exist"):
        describe("x" * 300 + ".star")
