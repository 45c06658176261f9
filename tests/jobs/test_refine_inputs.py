"""What a refinement starts from: what is wrong is said before, maps and masks are brought to the particles' grid."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_sta.cli import main
from napari_sta.data.errors import InputError
from napari_sta.data.volume import Volume
from napari_sta.io.mrc import read_images, read_volume, write_stack, write_volume
from napari_sta.io.star import Table, text_column
from napari_sta.jobs._refine_folder import checkpoint_path, read_checkpoint_of
from napari_sta.jobs._refine_inputs import prepare
from refine_project import (
    PIXEL_ANGST,
    Refinable,
    edited,
    job_of,
    prepared,
    refine,
    with_particles,
    words_of,
)


@pytest.fixture(scope="module")
def project(refinable: Refinable) -> Refinable:
    return refinable


def half_missing(project: Refinable, folder: Path) -> dict[str, Any]:
    shutil.copy(project.reference, folder / "half1.mrc")
    return project.inputs() | {"in_3dref": folder / "half1.mrc"}


def not_extracted(project: Refinable, folder: Path) -> dict[str, Any]:
    return project.inputs() | {"in_optimisation_set": project.picks}


def an_image_too_few(project: Refinable, folder: Path) -> dict[str, Any]:
    def edit(tables: dict[str, Table]) -> None:
        columns = tables["particles"].columns
        images = read_images([(str(columns["rlnImageName"][4]), image) for image in range(6)])
        write_stack(folder / "six.mrcs", images, PIXEL_ANGST)
        columns["rlnImageName"][4] = str(folder / "six.mrcs")

    return with_particles(project, edited(project, folder / "few.star", edit))


def mixed_halves(project: Refinable, folder: Path) -> dict[str, Any]:
    def edit(tables: dict[str, Table]) -> None:
        tables["particles"].columns["rlnRandomSubset"][3] = "0"

    return with_particles(project, edited(project, folder / "mixed.star", edit))


def a_tilt_too_many(project: Refinable, folder: Path) -> dict[str, Any]:
    def edit(tables: dict[str, Table]) -> None:
        column = tables["particles"].columns["rlnTomoVisibleFrames"]
        column[2] = column[2].replace("]", ",0]")

    return with_particles(project, edited(project, folder / "tilt.star", edit))


def half_premultiplied(project: Refinable, folder: Path) -> dict[str, Any]:
    def edit(tables: dict[str, Table]) -> None:
        optics = tables["optics"].columns
        for label in list(optics):
            optics[label] = np.concatenate([optics[label][:1]] * 2)
        optics["rlnOpticsGroup"][:] = ["1", "2"]
        optics["rlnOpticsGroupName"][:] = ["a", "b"]
        optics["rlnCtfDataAreCtfPremultiplied"][:] = ["1", "0"]
        tables["particles"].columns["rlnOpticsGroup"][::2] = "2"

    return with_particles(project, edited(project, folder / "mixed_ctf.star", edit))


def one_half_only(project: Refinable, folder: Path) -> dict[str, Any]:
    def edit(tables: dict[str, Table]) -> None:
        tables["particles"].columns["rlnRandomSubset"][:] = "1"

    return with_particles(project, edited(project, folder / "one.star", edit))


def values(**changes: Any) -> Callable[[Refinable, Path], dict[str, Any]]:
    return lambda project, folder: project.inputs() | changes


def with_text(table: str, label: str, text: str) -> Callable[[Refinable, Path], dict[str, Any]]:
    """Put a text into a column, which is made if it is not there, in one row or the only one."""

    def make(project: Refinable, folder: Path) -> dict[str, Any]:
        def edit(tables: dict[str, Table]) -> None:
            columns = tables[table].columns
            if label not in columns:
                columns[label] = text_column(["0"] * len(tables[table]))
            columns[label][min(3, len(tables[table]) - 1)] = text

        return with_particles(project, edited(project, folder / "text.star", edit))

    return make


WRONG = [
    *(
        pytest.param(with_text("particles", "rlnTomoVisibleFrames", text), "row 4", id=f"frames {text}")
        for text in ("1", "[1,1", "[a,b]", "<NA>")
    ),
    *(
        pytest.param(with_text("optics", "rlnImageSize", text), "rlnImageSize", id=f"box {text}")
        for text in ("-2", "5000", "100000", "1e18", "nan")
    ),
    *(
        pytest.param(with_text("particles", label, text), "row 4 (particle", id=f"{label} {text}")
        for label, text in (
            ("rlnAngleTiltPrior", "ten"),
            ("rlnOriginXPriorAngst", "[1"),
            ("rlnOriginXAngst", "<NA>"),
        )
    ),
    pytest.param(
        with_text("general", "rlnTomoSubTomosAre2DStacks", "0"),
        "images are 2D stacks; set it to 1",
        id="kind",
    ),
    pytest.param(
        values(mask_diameter_angst=97), "mask_diameter_angst 97 is larger than the box", id="diameter"
    ),
    pytest.param(values(initial_lowpass_angst=8), "not coarser than the Nyquist limit", id="low-pass"),
    pytest.param(
        values(initial_lowpass_angst=99_999), "leaves nothing of a map", id="low-pass beyond the box"
    ),
    pytest.param(values(in_3dref="no/such.mrc"), "no/such.mrc", id="no reference"),
    pytest.param(values(initial_sampling_deg="5"), "initial_sampling_deg", id="sampling"),
    pytest.param(values(symmetry="Q7"), "Q7", id="symmetry"),
    pytest.param(
        values(continue_from="run_it003_optimiser.star"), "run_it003_optimiser.star", id="no optimiser"
    ),
    pytest.param(half_missing, "half2.mrc", id="no half2"),
    pytest.param(not_extracted, "extract the particles first", id="not extracted"),
    pytest.param(an_image_too_few, "six.mrcs holds 6 images", id="stack too short"),
    pytest.param(a_tilt_too_many, "counts 8 tilts, its tilt series 7", id="tilts changed"),
    pytest.param(half_premultiplied, "extract all particles in the same way", id="mixed premultiplication"),
    pytest.param(mixed_halves, "row 4: rlnRandomSubset is 0", id="mixed half sets"),
    pytest.param(one_half_only, "rlnRandomSubset must hold 1 and 2", id="one half set"),
]


@pytest.mark.parametrize(("make", "says"), WRONG)
def test_what_is_wrong_is_said_before_work_starts(project, tmp_path, capsys, make, says):
    words = ["refine"]
    for name, value in make(project, tmp_path).items():
        words += [f"--{name}", str(value)]
    assert main([*words, "--o", str(tmp_path / "out"), "--quiet"]) == 2
    said = capsys.readouterr().err.strip()
    assert says in said
    assert said.count("\n") == 0
    assert not (tmp_path / "out").exists()


def test_nothing_to_start_from(project, tmp_path, capsys):
    words = ["refine", "--in_optimisation_set", str(project.optimisation_set), "--o", str(tmp_path / "out")]
    assert main(words) == 2
    assert "--in_3dref (Reference map) must be given" in capsys.readouterr().err


def test_the_reference_is_resized(project, three, tmp_path, capsys):
    """A map of another box and pixel size (40 px of 3 Å) does the same; without resizing it is refused."""
    from napari_sta.kernels.filters import resample_to_grid

    volume = read_volume(project.reference)
    large = resample_to_grid(np.array(volume.data), PIXEL_ANGST, 40, 3.0)
    write_volume(tmp_path / "large.mrc", Volume(np.asarray(large, np.float32), 3.0))
    refine(project, tmp_path / "run", in_3dref=tmp_path / "large.mrc", max_iterations=1)
    ours, theirs = (read_checkpoint_of(checkpoint_path(one, 1)).state for one in (tmp_path / "run", three))
    moved = np.linalg.norm(ours.offset_zyx_angst - theirs.offset_zyx_angst, axis=1)
    assert np.median(moved) < 0.3
    words = words_of(project, in_3dref=tmp_path / "large.mrc", resize_reference="No")
    assert main([*words, "--o", str(tmp_path / "no"), "--quiet"]) == 2
    assert "use --resize_reference Yes" in capsys.readouterr().err


def test_what_is_assumed_of_reference_and_mask_is_said_before(project, tmp_path):
    """Pixel sizes, grids and values of maps and masks: what is changed is said, what cannot be meant is refused."""
    from napari_sta.kernels.filters import resample_to_grid

    def write(name: str, data: Any, pixel: float | None) -> str:
        write_volume(tmp_path / name, Volume(np.asarray(data, np.float32), pixel))
        return str(tmp_path / name)

    truth = read_volume(project.reference).data
    ball = np.asarray(truth > 0.2 * truth.max(), np.float32)

    def looked_at(**values: Any) -> list[str]:
        job = job_of({**project.inputs(), **values})
        job.check()
        return [one for one in job.warnings() if str(tmp_path) in one and "starts both half sets" not in one]

    assert looked_at() == []
    silent = write("silent.mrc", truth, None)
    [said] = looked_at(in_3dref=silent)
    assert said.startswith(f"{silent} states no pixel size")
    assert said.endswith("taken to be that of the particles (24 px at 4 Å), whose box it has")
    # It is not rescaled.
    references = prepared(project, in_3dref=silent).references
    np.testing.assert_array_equal(references[0].numpy(), truth)
    large = write("large.mrc", resample_to_grid(truth, PIXEL_ANGST, 40, 3.0), 3.0)
    assert looked_at(in_3dref=large) == [f"{large} is resampled from 40 px at 3 Å to 24 px at 4 Å"]
    mask, coarse = (
        write("mask.mrc", ball, None),
        write("coarse.mrc", resample_to_grid(ball, 4.0, 16, 6.0), 6.0),
    )
    assert "states no pixel size" in looked_at(in_mask=mask)[0]
    assert (
        "coarse.mrc (16 px at 6 Å) is resampled to the grid of the particles" in looked_at(in_mask=coarse)[0]
    )
    ringing = write("ringing.mrc", 1.1 * ball - 0.05, 4.0)
    assert "are cut off to 0…1" in looked_at(in_mask=ringing)[0]
    for values, words in (
        (
            {"in_3dref": write("other.mrc", truth[2:-2, 2:-2, 2:-2], None)},
            "its box is 20 px, not that of the particles",
        ),
        ({"in_3dref": write("huge.mrc", 3e38 * ball, 4.0)}, "which cannot be computed with"),
        ({"in_3dref": write("zero.mrc", 0 * ball, 4.0)}, "holds nothing: all voxels are 0"),
        (
            {"in_mask": write("map.mrc", 7 * ball - 3, 4.0)},
            "must lie between 0 and 1, these run from -3 to 4",
        ),
        ({"in_mask": write("stack.mrc", ball[:21], 4.0)}, "a mask is a cube"),
        ({"in_mask": write("small.mrc", np.ones((12, 12, 12)), 4.0)}, "reaches the edge of its own box"),
    ):
        with pytest.raises(InputError) as error:
            looked_at(**values)
        assert words in str(error.value)


@pytest.mark.parametrize("names", ["half{}.mrc 1 2", "map_half_{}.mrc A B", "emd_1_half_map_{}.map 1 2"])
def test_half_maps_as_reference(project, tmp_path, names):
    """Each half set starts from its own, however the two are named; they must belong together."""
    pattern, *which = names.split()
    truth = read_volume(project.reference).data
    paths = [tmp_path / pattern.format(one) for one in which]
    for factor, path in enumerate(paths, start=1):
        write_volume(path, Volume(truth * np.float32(factor), PIXEL_ANGST))
    for path in paths:
        job = job_of({**project.inputs(), "in_3dref": path})
        references = prepare(job, logging.getLogger("test"), 1).references
        for factor, one in enumerate(references, start=1):
            np.testing.assert_array_equal(one.numpy(), truth * np.float32(factor))
    write_volume(paths[1], Volume(truth, PIXEL_ANGST * 1.1))
    with pytest.raises(InputError, match="differ in pixel size"):
        job.check()
    write_volume(paths[1], Volume(truth, None))
    job.check()
    assert any(
        f"{paths[1]} states no pixel size" in one and "taken to be that of" in one for one in job.warnings()
    )
    paths[1].unlink()
    with pytest.raises(InputError, match=rf"{paths[1].name} is missing; .* rename a map that is none of two"):
        job_of({**project.inputs(), "in_3dref": paths[0]}).check()
