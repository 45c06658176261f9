"""Reconstruct tomograms: particles are dark where they are, the set that is written, halves, refusals."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from napari_sta.data.errors import InputError
from napari_sta.io.mrc import read_volume
from napari_sta.io.relion.tilt_series import read_tilt_series_set
from napari_sta.io.star import read_star, table, write_star
from napari_sta.jobs._job import job_named
from tiny_project import finish

PIXEL_ANGST = 9.0


def job(project, **values):
    star = next(project.rglob("tomograms.star"))
    values = {"in_tomograms": str(star), "binned_pixel_size_angst": PIXEL_ANGST} | values
    return job_named("reconstruct_tomograms")(**values)


@pytest.fixture
def project(tiny, tmp_path, monkeypatch):
    root = shutil.copytree(tiny.paths.root, tmp_path / "project")
    monkeypatch.chdir(root)
    return root


@pytest.mark.parametrize("changes", [{}, {"correct_ctf": False, "float16": False}, {"dose_weighting": False}])
def test_particles_are_dark_where_they_are(tiny, project, changes):
    out = project / "Tomograms/job050"
    record = finish(job(project, **changes), out, threads=2)
    assert record["n_tomograms"] == 6
    series = read_tilt_series_set(out / "tomograms.star")
    particles = tiny.phantom.particles
    for name in ("TS_01", "TS_02"):
        volume = read_volume(out / f"tomograms/rec_{name}.mrc")
        assert volume.pixel_size_angst == pytest.approx(PIXEL_ANGST)
        # RELION rounds sizes in the plane and cuts the thickness.
        assert volume.data.shape == (int(90 * 4 / 9), int(100 * 4 / 9 + 0.5), int(100 * 4 / 9 + 0.5))
        mine = particles.tomogram == name
        centre = series[name].centre_zyx_px
        place = (particles.coordinate_zyx_angst[mine] / 4 + centre) * 4 / PIXEL_ANGST
        at_particles = map_coordinates(volume.data.astype(float), place.T, order=1)
        z = (volume.data.mean() - at_particles) / volume.data.std()
        assert z.mean() > 3
        # And nowhere else: the mirror image of the places is empty.
        mirrored = place.copy()
        mirrored[:, 0] = volume.data.shape[0] - mirrored[:, 0]
        elsewhere = map_coordinates(volume.data.astype(float), mirrored.T, order=1)
        assert ((volume.data.mean() - elsewhere) / volume.data.std()).mean() < 0.5 * z.mean()


def test_the_set_says_what_was_made(project):
    out = project / "Tomograms/job050"
    source = job(project).in_tomograms
    finish(job(project, size_z_px=80, tilt_angle_offset_deg=2.5), out)
    row = read_star(out / "tomograms.star")["global"].row(0)
    assert float(row["rlnTomoTomogramBinning"]) == pytest.approx(9 / 4)
    assert row["rlnTomoReconstructedTomogram"] == "Tomograms/job050/tomograms/rec_TS_01.mrc"
    assert [row[f"rlnTomoSize{axis}"] for axis in "XYZ"] == ["100", "100", "80"]
    before, after = (read_tilt_series_set(star)["TS_01"] for star in (source, out / "tomograms.star"))
    np.testing.assert_allclose(after.angles_xyz_deg, before.angles_xyz_deg + np.array([0, 2.5, 0]), atol=1e-5)
    assert after.size_zyx_px == (80, 100, 100)
    assert after.images == before.images


def test_a_set_of_before_the_tomograms(project):
    star = next(project.rglob("tomograms.star"))
    overall = read_star(star)["global"]
    columns = {label: column for label, column in overall.columns.items() if "rlnTomoSize" not in label}
    write_star(star, [table("global", columns)])
    with pytest.raises(InputError, match="how thick the tomogram is; give --size_z_px"):
        job(project).check()
    out = project / "Tomograms/job050"
    finish(job(project, size_z_px=90, tomogram_name="TS_02"), out)
    assert [path.name for path in (out / "tomograms").iterdir()] == ["rec_TS_02.mrc"]
    assert read_tilt_series_set(out / "tomograms.star", ["TS_02"])["TS_02"].size_zyx_px == (90, 100, 100)


def test_two_halves_of_the_tilts(project):
    out = project / "Tomograms/job050"
    finish(job(project, split=True, tomogram_name="TS_01"), out)
    row = read_star(out / "tomograms.star")["global"].row(0)
    halves = [read_volume(project / row[f"rlnTomoReconstructedTomogramHalf{k}"]).data for k in (1, 2)]
    assert "rlnTomoReconstructedTomogram" not in row
    correlation = np.corrcoef(halves[0].ravel(), halves[1].ravel())[0, 1]
    assert 0.05 < correlation < 0.999


def test_what_is_finished_is_kept(project, tmp_path):
    from napari_sta.jobs._run import JobRun
    from napari_sta.jobs._run_options import RunOptions

    out = tmp_path / "out"
    for _ in JobRun(job(project, tomogram_name="TS_01"), RunOptions(out=out, threads=1)).steps():
        pass
    first = out / "tomograms/rec_TS_01.mrc"
    before = first.stat().st_mtime_ns
    os.remove(out / "tomograms.star")
    for _ in JobRun(job(project, tomogram_name="TS_01"), RunOptions(out=out, threads=1)).steps():
        pass
    assert first.stat().st_mtime_ns == before
    assert (out / "tomograms.star").exists()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"binned_pixel_size_angst": 3.0}, "is finer than the tilt images of TS_01"),
        ({"tomogram_name": "TS_99"}, "TS_99 is not in"),
        ({"binned_pixel_size_angst": 4.0, "size_x_px": 100_000, "size_y_px": 100_000}, "GiB of memory"),
    ],
)
def test_what_is_refused(project, values, sentence):
    with pytest.raises(InputError, match=sentence):
        job(project, **values).check()


def test_relion_is_told_all_it_asks_for(project):
    """Its GUI knows no empty size, and its program does the same."""
    from napari_sta.jobs._job_star import job_star

    wanted = job(project, size_z_px=80)
    options = job_star(wanted).options
    assert [options[f"{axis}dim"] for axis in "xyz"] == ["100", "100", "80"]
    assert options["do_proj"] == options["do_fourier"] == "No"
    assert options["binned_angpix"] == "9"
    command = wanted.relion_command("Tomograms/job050/")
    assert "--w 100 --h 100 --d 80 --binned_angpix 9" in command
    assert job_star(job(project, in_tomograms="not/there.star")).options["xdim"] == ""


def test_check_warnings_and_run_share_what_was_read(project, tmp_path, monkeypatch):
    from napari_sta.io.relion import tilt_series
    from napari_sta.jobs._run import JobRun
    from napari_sta.jobs._run_options import RunOptions

    reads = []
    plain = tilt_series.read_tilt_series_set
    monkeypatch.setattr(
        tilt_series, "read_tilt_series_set", lambda *a, **k: reads.append(a) or plain(*a, **k)
    )
    for _ in JobRun(job(project, tomogram_name="TS_01"), RunOptions(out=tmp_path / "out", threads=1)).steps():
        pass
    assert len(reads) == 2  # once more for RELION's command line, that of a copy with absolute paths
