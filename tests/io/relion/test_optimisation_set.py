"""Optimisation sets of all dialects."""

from __future__ import annotations

from pathlib import Path

from napari_sta.io.relion.inputs import load_sta_inputs
from napari_sta.io.relion.optimisation_set import read_optimisation_set
from napari_sta.io.relion.particles import write_particles
from star_edits import edit


def test_sets_of_all_dialects(project):
    for path, particles in (
        ("Extract/job024/optimisation_set.star", "Extract/job024/particles.star"),  # RELION
        ("Extract/job024/optimisation_set2.75.star", "Extract/job024/particles2.75.star"),  # by hand
        ("Select/job023/optimisation_set.star", "Select/job023/particles.star"),  # starfile, named table
        ("Refine3D/job016/run_it003_optimisation_set.star", "Refine3D/job016/run_it003_data.star"),  # with ""
    ):
        assert read_optimisation_set(path) == {
            "rlnTomoParticlesFile": particles,
            "rlnTomoTomogramsFile": "Tomograms/job007/tomograms.star",
        }
        assert load_sta_inputs(path).trajectories is None


def test_set_keeps_what_we_do_not_use(project):
    edit(
        Path("Extract/job024/optimisation_set.star"),
        ("_rlnTomoTomogramsFile", "_rlnTomoReferenceMaskFile masks/mask.mrc\n_rlnTomoTomogramsFile"),
    )
    Path("masks").mkdir()
    Path("masks/mask.mrc").touch()
    inputs = load_sta_inputs("Extract/job024/optimisation_set.star")
    write_particles("Recenter/job040/particles.star", inputs.particles)
    inputs.write_set("Recenter/job040/optimisation_set.star", "Recenter/job040/particles.star")
    assert read_optimisation_set("Recenter/job040/optimisation_set.star") == {
        "rlnTomoParticlesFile": "Recenter/job040/particles.star",
        "rlnTomoTomogramsFile": "Tomograms/job007/tomograms.star",
        "rlnTomoReferenceMaskFile": "masks/mask.mrc",
    }
    inputs.write_set(project.parent / "elsewhere/set.star", "Recenter/job040/particles.star")
    entries = read_optimisation_set(project.parent / "elsewhere/set.star")
    assert entries["rlnTomoReferenceMaskFile"] == str(project / "masks/mask.mrc")


def test_set_outside_the_project_can_be_read_from_anywhere(project, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    inputs = load_sta_inputs(project / "Extract/job024/optimisation_set.star")
    out = tmp_path / "elsewhere"
    write_particles(out / "particles.star", inputs.particles)
    inputs.write_set(out / "optimisation_set.star", out / "particles.star")
    entries = read_optimisation_set(out / "optimisation_set.star")
    assert entries["rlnTomoTomogramsFile"] == str(project / "Tomograms/job007/tomograms.star")
    assert len(load_sta_inputs(out / "optimisation_set.star").particles) == 12
