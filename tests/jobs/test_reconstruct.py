"""Reconstruct: planted densities come back from every geometry, and wrong input is told in a sentence."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from napari_sta.data.errors import InputError
from napari_sta.data.tilt_series import Trajectories
from napari_sta.data.volume import Volume
from napari_sta.engine.geometry import ctf_coefficients
from napari_sta.io.mrc import read_volume, write_stack
from napari_sta.io.relion.optimisation_set import read_optimisation_set, write_optimisation_set
from napari_sta.io.relion.particles import read_particles, write_particles
from napari_sta.io.relion.trajectories import write_trajectories
from napari_sta.io.star import read_star, table, write_star
from napari_sta.jobs._job import Context, job_named
from napari_sta.kernels.optics import Defocus, Microscope, phase_coefficients
from napari_sta.kernels.rotations import euler_to_matrix_zyx
from napari_sta.phantoms.project import write_project
from napari_sta.phantoms.projection import project_particles, projection_matrices
from napari_sta.phantoms.simulation import simulate
from tiny_project import LOPSIDED, Project, finish, likeness, make_project, reconstruct, tiny_spec


@pytest.mark.parametrize(
    ("changes", "options", "bound"),
    [
        pytest.param({"hand": 1.0}, {}, 0.98, id="hand +1"),
        pytest.param({"x_tilt_deg": 9.0}, {}, 0.98, id="x tilt"),
        pytest.param({"tilt_axis_deg": 0.0}, {}, 0.98, id="tilt axis 0"),
        pytest.param({"tilt_axis_deg": 135.0}, {}, 0.98, id="tilt axis 135"),
        pytest.param({"tilt_axis_deg": 200.0}, {}, 0.98, id="tilt axis 200"),
        pytest.param({"tilt_axis_deg": 310.0}, {}, 0.98, id="tilt axis 310"),
        pytest.param(
            {"image_size_yx_px": (101, 107), "tomogram_size_zyx_px": (91, 103, 99)}, {}, 0.98, id="odd sizes"
        ),
        pytest.param({"image_size_yx_px": (100, 132)}, {}, 0.98, id="wide images"),
        pytest.param({"image_size_yx_px": (132, 100)}, {}, 0.98, id="high images"),
        pytest.param({"sort_by_angle": False}, {}, 0.98, id="tilts as acquired"),
        pytest.param({"pick_grid_px": 0.0}, {}, 0.98, id="origins all zero"),
        pytest.param({"phase_shift_deg": 60.0}, {}, 0.98, id="phase plate"),
        pytest.param({"astigmatism_angst": 4000.0}, {}, 0.98, id="astigmatic"),
        pytest.param(
            {"tilts_deg": (0.0,), "n_tomograms": 40, "particles_per_tomogram": 4}, {}, 0.97, id="one tilt"
        ),
        pytest.param({}, {"wiener_snr": 5.0}, 0.97, id="Wiener"),
    ],
)
def test_planted_density_comes_back(tmp_path, changes, options, bound):
    project = make_project(tmp_path / "project", **changes)
    record = reconstruct(project, tmp_path / "out", **options)
    assert record["n_particles"] == len(project.phantom.particles)
    found = likeness(tmp_path / "out/merged.mrc")
    assert found.correlation > bound
    assert 0.75 < found.scale < 1.05


def test_plain(tiny, tmp_path):
    """Tilt axis 85 deg, hand -1, bin 1: files, sizes, and what the record says."""
    record = reconstruct(tiny, tmp_path / "out")
    names = {p.name for p in (tmp_path / "out").iterdir()}
    tags = ("merged", "half1", "half2")
    assert names == {"optimisation_set.star"} | {
        f"{kind}{tag}.mrc" for tag in tags for kind in ("", "data_", "weight_")
    }
    assert record["n_images"] == len(tiny.phantom.particles) * 9
    assert (record["box_size_px"], record["pixel_size_angst"], record["symmetry"]) == (32, 4.0, "C1")
    assert record["resolution_angst"] < 12
    for tag in tags:
        volume = read_volume(tmp_path / f"out/{tag}.mrc")
        assert volume.data.shape == (32, 32, 32)
        assert volume.pixel_size_angst == pytest.approx(4.0)
        assert likeness(volume).correlation > 0.97
    weight = read_volume(tmp_path / "out/weight_merged.mrc").data
    assert weight[16, 16, 16] > 0
    mates = weight[1:, 1:, 1:]
    np.testing.assert_allclose(mates, mates[::-1, ::-1, ::-1], rtol=2e-2, atol=1e-2 * weight.max())
    given = read_optimisation_set(tmp_path / "out/optimisation_set.star")
    assert given["rlnTomoParticlesFile"].endswith("particles.star")
    assert given["rlnTomoTomogramsFile"].endswith("tomograms.star")


def test_grey_scale(tmp_path):
    """Without CTF the map is sqrt(box) times the density whose projections are the images."""
    project = make_project(tmp_path / "p", with_ctf=False, with_dose=False, cosine_scale=False)
    reconstruct(project, tmp_path / "out", apply_ctf="No")
    found = likeness(tmp_path / "out/merged.mrc")
    assert found.correlation > 0.998
    assert found.scale == pytest.approx(1.0, abs=0.03)


def test_a_larger_box_scales_by_its_root(tiny, tmp_path):
    reconstruct(tiny, tmp_path / "a")
    reconstruct(tiny, tmp_path / "b", box_size_px=48, crop_size_px=32)
    small, large = (read_volume(tmp_path / f"{x}/merged.mrc") for x in "ab")
    assert large.box_px == 32
    assert read_volume(tmp_path / "b/merged_full.mrc").box_px == 48
    assert likeness(large).correlation > 0.98
    ratio = likeness(large).scale / likeness(small).scale
    assert ratio == pytest.approx(np.sqrt(48 / 32), rel=0.06)
    full, cut = read_volume(tmp_path / "b/merged_full.mrc").data[8:40, 8:40, 8:40], large.data
    assert np.corrcoef(full[10:22, 10:22, 10:22].ravel(), cut[10:22, 10:22, 10:22].ravel())[0, 1] > 0.9999


@pytest.mark.parametrize("binning", [1.5, 2.0])
def test_binning(tmp_path, binning):
    """The map's pixel grows; projections keep their mean, so densities fall by binning squared."""
    blobs = LOPSIDED._replace(centre_zyx_angst=LOPSIDED.centre_zyx_angst, sigma_angst=9.0)
    project = make_project(
        tmp_path / "p", density=blobs, image_size_yx_px=(120, 120), tomogram_size_zyx_px=(110, 120, 120)
    )
    record = reconstruct(project, tmp_path / "out", binning=binning)
    assert record["pixel_size_angst"] == pytest.approx(4.0 * binning)
    found = likeness(tmp_path / "out/merged.mrc", blobs, 50.0)
    assert found.correlation > 0.97
    assert found.scale == pytest.approx(1 / binning**2, rel=0.25)


def test_symmetry(tmp_path):
    """A C6 particle: averaging over C6 keeps it, averaging over C4 does not."""
    turns = Rotation.from_euler("z", 60.0 * np.arange(6)[:, None], degrees=True).as_matrix()[:, ::-1, ::-1]
    unit = np.array([[14.0, 0, 24], [-12, 8, 14], [2, -9, 26]])
    ring = LOPSIDED._replace(
        centre_zyx_angst=np.concatenate([unit @ turn.T for turn in turns]), mass=np.tile([1.0, 1.3, 0.8], 6)
    )
    project = make_project(tmp_path / "p", density=ring)
    found = {}
    for name in ("C1", "c6", "C4", "C2"):
        reconstruct(project, tmp_path / name, symmetry=name)
        found[name.upper()] = likeness(tmp_path / name / "merged.mrc", ring).correlation
    assert found["C1"] > 0.97
    assert found["C6"] > 0.97
    assert found["C2"] > 0.97
    assert found["C4"] < 0.9
    volume = read_volume(tmp_path / "c6/merged.mrc").data
    half_turn = np.roll(np.rot90(volume, 2, (1, 2)), (1, 1), (1, 2))
    assert np.corrcoef(volume[8:24, 8:24, 8:24].ravel(), half_turn[8:24, 8:24, 8:24].ravel())[0, 1] > 0.9999


def test_depth_changes_the_defocus():
    """Hand -1: what lies 282 px deeper is 381.0219 Å less underfocused (the format's worked example)."""
    series = replace(
        simulate(tiny_spec(n_tomograms=1)).series[0],
        pixel_size_angst=1.35,
        hand=-1.0,
        defocus_angle_deg=np.full(9, 40.0),
    )
    depth = np.array([282.238430 * 1.35])
    found = ctf_coefficients(series, 3, depth)
    shifted = Defocus(
        series.defocus_u_angst[3:4] - 381.0219,
        series.defocus_v_angst[3:4] - 381.0219,
        np.array([40.0]),
        np.zeros(1),
    )
    np.testing.assert_allclose(found, phase_coefficients(Microscope(300.0, 2.7, 0.1), shifted), rtol=1e-7)
    opposite = ctf_coefficients(replace(series, hand=1.0), 3, -depth)
    np.testing.assert_allclose(found, opposite)
    doubled = ctf_coefficients(replace(series, defocus_slope=2.0), 3, depth / 2)
    np.testing.assert_allclose(found, doubled)


@pytest.mark.parametrize("hand", [-1.0, 1.0])
def test_hand_and_slope_of_the_file_are_used(tmp_path, hand):
    """Images whose defocus changes sixty times as fast with depth: sharp only if the file says so."""
    phantom = simulate(tiny_spec(hand=hand))
    images = {}
    for series in phantom.series:
        mine = phantom.particles.tomogram == series.name
        images[series.name] = project_particles(
            replace(series, defocus_slope=60.0),
            LOPSIDED,
            phantom.true_position_zyx_angst[mine],
            phantom.true_angles_deg[mine],
            (100, 100),
        )
    paths = write_project(replace(phantom, images=images), tmp_path / "p")
    columns = read_star(paths.tomograms)["global"].columns
    found = {}
    for name, sign, slope in (("right", hand, 60), ("wrong hand", -hand, 60), ("wrong slope", hand, 1)):
        n = len(columns["rlnTomoName"])
        said = {"rlnTomoHand": [f"{sign:g}"] * n, "rlnTomoDefocusSlope": [str(slope)] * n}
        write_star(paths.tomograms, [table("global", {**columns, **said})])
        reconstruct(paths, tmp_path / name)
        found[name] = likeness(tmp_path / name / "merged.mrc").correlation
    assert found["right"] > 0.97
    assert found["right"] > found["wrong slope"] + 0.01
    assert found["wrong slope"] > found["wrong hand"] + 0.01


def test_trajectories(tiny, tmp_path):
    """Particles that drift from image to image: sharp with their trajectories, blurred without."""
    phantom = tiny.phantom
    rng = np.random.default_rng(3)
    position = phantom.true_position_zyx_angst
    n_tilts = phantom.series[0].n_tilts
    motion = np.cumsum(rng.normal(size=(len(position), n_tilts, 3)) * 6.0, axis=1)
    images = {}
    for series in phantom.series:
        mine = phantom.particles.tomogram == series.name
        stack = []
        for t in range(n_tilts):
            one = replace(
                series,
                images=series.images[t : t + 1],
                **{
                    field: getattr(series, field)[t : t + 1]
                    for field in (
                        "dose_e_per_angst2", "defocus_u_angst", "defocus_v_angst", "defocus_angle_deg", "phase_shift_deg",
                        "ctf_scale", "bfactor_angst2", "angles_xyz_deg", "shift_yx_angst",
                    )
                },
            )  # fmt: skip
            at = position[mine] + motion[mine, t]
            stack.append(project_particles(one, LOPSIDED, at, phantom.true_angles_deg[mine], (100, 100))[0])
        images[series.name] = np.array(stack)
    paths = write_project(replace(phantom, images=images), tmp_path / "p")
    drift = Trajectories(dict(zip(phantom.particles.name.tolist(), motion, strict=True)))
    write_trajectories(tmp_path / "p/motion.star", drift)
    reconstruct(paths, tmp_path / "still")
    reconstruct(paths, tmp_path / "moving", in_trajectories=str(tmp_path / "p/motion.star"))
    still, moving = (likeness(tmp_path / name / "merged.mrc").correlation for name in ("still", "moving"))
    assert moving > 0.98
    assert still < 0.9
    # The set that is written names them, so the next job follows.
    entries = read_optimisation_set(tmp_path / "moving/optimisation_set.star")
    assert entries["rlnTomoTrajectoriesFile"].endswith("motion.star")
    # And a set may bring them along.
    write_optimisation_set(
        tmp_path / "set.star",
        particles=paths.particles,
        tomograms=paths.tomograms,
        trajectories=tmp_path / "p/motion.star",
    )
    reconstruct(paths, tmp_path / "by_set", in_optimisation_set=str(tmp_path / "set.star"))
    np.testing.assert_array_equal(
        read_volume(tmp_path / "by_set/merged.mrc").data, read_volume(tmp_path / "moving/merged.mrc").data
    )


def test_relion_4_layout(tiny, tmp_path):
    """One file with projection matrices, coordinates in pixels: the same map to rounding."""
    phantom, root = tiny.phantom, tmp_path / "p4"
    (root / "tilt_stacks").mkdir(parents=True)
    (root / "default_pipeline.star").write_text("")
    tables = []
    for series in phantom.series:
        shutil.copy(tiny.paths.root / series.images[0][0], root / series.images[0][0])
        zyx = projection_matrices(series, (100, 100))
        xyz = zyx[:, [2, 1, 0, 3]][:, :, [2, 1, 0, 3]]
        columns = {
            f"rlnTomoProj{axis}": ["[" + ",".join(f"{v:.12g}" for v in row) + "]" for row in xyz[:, i]]
            for i, axis in enumerate("XYZW")
        }
        columns |= {
            "rlnDefocusU": series.defocus_u_angst, "rlnDefocusV": series.defocus_v_angst,
            "rlnDefocusAngle": series.defocus_angle_deg, "rlnCtfScalefactor": series.ctf_scale,
            "rlnMicrographPreExposure": series.dose_e_per_angst2,
        }  # fmt: skip
        tables.append(table(series.name, columns))
    old = read_star(tiny.paths.tomograms)["global"]
    kept = {
        k: v
        for k, v in old.columns.items()
        if k not in ("rlnTomoTiltSeriesStarFile", "rlnMicrographOriginalPixelSize")
    }
    write_star(root / "tomograms.star", [table("global", kept), *tables])
    particles = read_star(tiny.paths.particles)
    rows = dict(particles["particles"].columns)
    for axis, size in zip("XYZ", (100, 100, 90), strict=True):
        centred = rows.pop(f"rlnCenteredCoordinate{axis}Angst").astype(float)
        rows[f"rlnCoordinate{axis}"] = [f"{v:.9f}" for v in centred / 4.0 + size / 2]
    write_star(root / "particles.star", [particles["optics"], table("particles", rows)])
    job = job_named("reconstruct").from_text(
        {
            "in_parts": str(root / "particles.star"),
            "in_tomograms": str(root / "tomograms.star"),
            "box_size_px": 32,
        }
    )
    finish(job, tmp_path / "four")
    reconstruct(tiny, tmp_path / "five")
    four, five = (read_volume(tmp_path / name / "merged.mrc").data for name in ("four", "five"))
    assert np.abs(four - five).max() < 2e-3 * five.std()


def test_half_maps_come_from_their_own_half(tiny, tmp_path):
    """Turning every particle of half set 2 wrong changes half 2 and the merged map, not a bit of half 1."""
    root = shutil.copytree(tiny.paths.root, tmp_path / "p")
    path = root / "Select/job002/particles.star"
    particles = read_particles(path)
    assert particles.half_set is not None
    angles = particles.angles_deg.copy()
    angles[particles.half_set == 2] += 50.0
    write_particles(path, replace(particles, angles_deg=angles))
    reconstruct(tiny, tmp_path / "a")
    reconstruct(tiny, tmp_path / "b", in_optimisation_set=str(root / "Select/job002/optimisation_set.star"))
    maps = {
        (x, tag): read_volume(tmp_path / f"{x}/{tag}.mrc").data
        for x in "ab"
        for tag in ("half1", "half2", "merged")
    }
    np.testing.assert_array_equal(maps["a", "half1"], maps["b", "half1"])
    assert np.corrcoef(maps["a", "half2"].ravel(), maps["b", "half2"].ravel())[0, 1] < 0.9
    assert not np.array_equal(maps["a", "merged"], maps["b", "merged"])
    data = [read_volume(tmp_path / f"b/data_{tag}.mrc").data for tag in ("half1", "half2", "merged")]
    np.testing.assert_allclose(data[0] + data[1], data[2], atol=1e-5 * np.abs(data[2]).max())


def test_threads_change_no_bit(tiny, tmp_path):
    for threads in (1, 2, 5):
        reconstruct(tiny, tmp_path / str(threads), threads=threads, symmetry="C2")
    for tag in ("half1", "half2", "merged", "weight_half2"):
        one, two, five = (read_volume(tmp_path / f"{n}/{tag}.mrc").data for n in (1, 2, 5))
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, five)


def test_the_path_of_gpus_gives_the_same_maps(tiny, tmp_path, monkeypatch):
    """On the CPU here, and as if there were two devices: tilts are dealt out and summed at the end."""
    import torch

    import napari_sta.jobs._inserter as module

    options = {"binning": 1.5, "box_size_px": 22, "crop_size_px": 18}
    reconstruct(tiny, tmp_path / "compiled", **options)
    by_torch = module.Inserter.on_gpus
    cpu = torch.device("cpu")

    class Second:
        type, index = "cpu", 1

    def on_cpu(self, sums, room):
        assert len(room)
        parts = {half: {cpu: torch.from_numpy(sums[(half, None)]), Second: None} for half, _ in list(sums)}
        both = {
            (half, device): torch.zeros_like(part[cpu]) for half, part in parts.items() for device in part
        }
        monkeypatch.setattr(
            "napari_sta.kernels.devices.to_device", lambda array, device: torch.from_numpy(array)
        )
        yield from by_torch(self, both, [cpu, Second])
        assert all(value.any() for value in both.values())
        for (half, _), value in both.items():
            sums[(half, None)][:] += value.numpy()

    monkeypatch.setattr(module.Inserter, "on_cpu", on_cpu)
    reconstruct(tiny, tmp_path / "torch", **options)
    for tag in ("half1", "merged", "data_half2", "weight_half1"):
        one, two = (read_volume(tmp_path / f"{n}/{tag}.mrc").data for n in ("compiled", "torch"))
        np.testing.assert_allclose(two, one, atol=3e-5 * np.abs(one).max())


@pytest.mark.parametrize(("room", "images"), [(1, 10**9), (20_000, 10**9), (10**9, 10**9), (10**9, 1)])
def test_how_many_slices_go_in_at_once_changes_nothing(tiny, tmp_path, monkeypatch, room, images):
    """Parts of one image, images, whole tilt series; and one image at a time where images are large."""
    import napari_sta.jobs._inserter as module
    import napari_sta.jobs.reconstruct as job_module
    from napari_sta.kernels import windows

    plain = {"box_size_px": 22, "symmetry": "C2"}
    reconstruct(tiny, tmp_path / "plain", **plain)
    monkeypatch.setattr(job_module, "_SLICES_BYTES", room)
    monkeypatch.setattr(module, "_IMAGES_BYTES", images)
    at_once = []
    add = windows.add_slices
    monkeypatch.setattr(windows, "add_slices", lambda *a: at_once.append(len(a[0])) or add(*a))
    monkeypatch.setattr(module, "_PIECE", 3)
    record = reconstruct(tiny, tmp_path / "other", threads=2, **plain)
    assert record["n_images"] > 0
    assert sum(at_once) == record["n_images"]
    n_tilts = sum(series.n_tilts for series in tiny.phantom.series)
    if images == 1:
        assert len(at_once) == 2 * n_tilts  # a half set each
    elif room == 10**9:
        assert len(at_once) == 2 * len(tiny.phantom.series)
    else:
        assert max(at_once) <= max(3, room // (4 * 23 * 14 * 3))
    for tag in ("half1", "weight_half2", "merged"):
        one, two = (read_volume(tmp_path / f"{n}/{tag}.mrc").data for n in ("plain", "other"))
        np.testing.assert_allclose(two, one, atol=2e-6 * np.abs(one).max())


def test_progress_counts_every_tilt_image_once(tiny, tmp_path):
    job = job_named("reconstruct").from_text(
        {"in_optimisation_set": str(tiny.paths.optimisation_set), "box_size_px": "22"}
    )
    (tmp_path / "out").mkdir()
    told = list(job.run(Context(tmp_path / "out", threads=2, device="cpu")))
    done = [p.done for p in told]
    assert done == sorted(done)
    n_tilts = sum(series.n_tilts for series in tiny.phantom.series)
    assert max(p.done for p in told if p.message.startswith("inserting")) == n_tilts
    assert told[-1].done == told[-1].total == n_tilts + 3


def test_merged_only(tiny, tmp_path):
    """One map of all particles, also where nothing says which half they are in."""
    root = shutil.copytree(tiny.paths.root, tmp_path / "p")
    path = root / "Select/job002/particles.star"
    tables = read_star(path)
    rows = dict(tables["particles"].columns)
    del rows["rlnRandomSubset"]
    write_star(path, [tables["optics"], table("particles", rows)])
    given = {"in_optimisation_set": str(root / "Select/job002/optimisation_set.star")}
    with pytest.raises(InputError, match=r"has no rlnRandomSubset.*--merged_only Yes"):
        job_named("reconstruct").from_text({**given, "box_size_px": 32}).check()
    record = reconstruct(tiny, tmp_path / "one", merged_only="Yes", **given)
    assert not (tmp_path / "one/half1.mrc").exists()
    assert "resolution_angst" not in record
    reconstruct(tiny, tmp_path / "halves")
    one, halves = (read_volume(tmp_path / name / "merged.mrc").data for name in ("one", "halves"))
    np.testing.assert_allclose(one, halves, atol=1e-4 * np.abs(halves).max())


def test_direct_entries_take_the_place_of_members(tiny, tmp_path):
    few = read_particles(tiny.paths.particles)[np.arange(10)]
    write_particles(tmp_path / "few.star", few)
    record = reconstruct(tiny, tmp_path / "out", in_parts=str(tmp_path / "few.star"))
    assert record["n_particles"] == 10
    entries = read_optimisation_set(tmp_path / "out/optimisation_set.star")
    assert entries["rlnTomoParticlesFile"].endswith("few.star")


def test_wiener_constant_damps(tiny, tmp_path):
    maps = {}
    for snr in (0.0, 1.0, 0.01):
        reconstruct(tiny, tmp_path / f"{snr}", wiener_snr=snr)
        maps[snr] = likeness(tmp_path / f"{snr}/merged.mrc").scale
    assert maps[0.0] > maps[1.0] > 2 * maps[0.01] > 0


def test_density_at_c_moves_to_the_centre(tiny, tmp_path):
    """Recentring by +c and averaging again moves the density by -c: the sign that matters."""
    c_px = np.array([3.0, -2.0, 4.0])  # xyz
    job = job_named("recenter").from_text(
        {
            "in_optimisation_set": str(tiny.paths.optimisation_set),
            "center_x_px": c_px[0],
            "center_y_px": c_px[1],
            "center_z_px": c_px[2],
        }
    )
    finish(job, tmp_path / "moved")
    reconstruct(tiny, tmp_path / "before", box_size_px=40)
    reconstruct(
        tiny,
        tmp_path / "after",
        box_size_px=40,
        in_optimisation_set=str(tmp_path / "moved/optimisation_set.star"),
    )
    shifted = LOPSIDED._replace(centre_zyx_angst=LOPSIDED.centre_zyx_angst - 4.0 * c_px[::-1])
    after = read_volume(tmp_path / "after/merged.mrc")
    assert likeness(tmp_path / "before/merged.mrc").correlation > 0.98
    assert likeness(after, shifted, 50.0).correlation > 0.97
    wrong = LOPSIDED._replace(centre_zyx_angst=LOPSIDED.centre_zyx_angst + 4.0 * c_px[::-1])
    assert likeness(after, wrong, 50.0).correlation < 0.7
    before = read_volume(tmp_path / "before/merged.mrc").data
    rolled = np.roll(before, (-4, 2, -3), (0, 1, 2))[12:28, 12:28, 12:28]
    assert np.corrcoef(rolled.ravel(), after.data[12:28, 12:28, 12:28].ravel())[0, 1] > 0.98


def test_a_pick_s_two_rotations_compose(tmp_path):
    """The same pose split differently between subtomogram and particle angles gives the same map."""
    project = make_project(tmp_path / "p", n_tomograms=3)
    particles = project.phantom.particles
    reconstruct(project, tmp_path / "split")
    pose = euler_to_matrix_zyx(particles.subtomogram_angles_deg) @ euler_to_matrix_zyx(particles.angles_deg)
    from napari_sta.kernels.rotations import matrix_zyx_to_euler

    move = np.einsum(
        "nij,nj->ni", euler_to_matrix_zyx(particles.subtomogram_angles_deg), particles.origin_zyx_angst
    )
    merged = replace(
        particles, angles_deg=matrix_zyx_to_euler(pose), subtomogram_angles_deg=np.zeros_like(particles.angles_deg),
        origin_zyx_angst=move,
    )  # fmt: skip
    write_particles(tmp_path / "one.star", merged)
    reconstruct(project, tmp_path / "one", in_parts=str(tmp_path / "one.star"))
    a, b = (read_volume(tmp_path / f"{name}/merged.mrc").data for name in ("split", "one"))
    assert np.abs(a - b).max() < 2e-3 * a.std()


# --- what cannot be done, in a sentence ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "words"),
    [
        pytest.param({"box_size_px": 33}, "box_size_px 33 is odd.*take 34", id="odd box"),
        pytest.param({"crop_size_px": 17}, "crop_size_px 17 must be even", id="odd crop"),
        pytest.param(
            {"crop_size_px": 40}, "crop_size_px 40 is larger than box_size_px 32", id="crop over box"
        ),
        pytest.param({"symmetry": "K9"}, "unknown symmetry K9", id="unknown symmetry"),
        pytest.param({"symmetry": "C6v"}, "mirror planes", id="mirrors"),
        pytest.param({"binning": 0.5}, "--binning 0.5: .*greater than or equal to 1", id="binning below 1"),
        pytest.param({"binning": "two"}, "--binning two", id="no number"),
        pytest.param(
            {"boxsize_px": 32}, "--boxsize_px is no option.*did you mean --box_size_px", id="typing error"
        ),
        pytest.param({"wiener_snr": -1}, "--wiener_snr -1", id="negative constant"),
    ],
)
def test_wrong_values(values, words):
    with pytest.raises(InputError, match=words):
        job_named("reconstruct").from_text({"in_optimisation_set": "set.star", "box_size_px": 32, **values})


def test_crop_as_relion_writes_none():
    job = job_named("reconstruct").from_text({"in_optimisation_set": "s.star", "crop_size_px": "-1"})
    assert job.crop_size_px is None


@pytest.mark.parametrize(
    ("values", "words"),
    [
        pytest.param({}, "no input: give an optimisation set", id="nothing"),
        pytest.param({"in_parts": "p.star"}, "does not say where the tilt images are", id="no tomograms"),
    ],
)
def test_no_input(values, words):
    with pytest.raises(InputError, match=words):
        job_named("reconstruct").from_text(values)


@pytest.fixture
def copy(tiny, tmp_path) -> Project:
    """A project to spoil."""
    root = shutil.copytree(tiny.paths.root, tmp_path / "copy")
    moved = {
        name: root / getattr(tiny.paths, name).relative_to(tiny.paths.root)
        for name in tiny.paths._fields
        if name != "root"
    }
    return Project(tiny.paths._replace(root=root, **moved), tiny.phantom)


def refused(project: Project, tmp_path, **values) -> str:
    """Run the job, see it refuse, and return its one sentence."""
    with pytest.raises(InputError) as error:
        reconstruct(project, tmp_path / "out", **values)
    written = list((tmp_path / "out").glob("*.mrc"))
    assert not written, "something was written under a final name"
    assert "\n" not in str(error.value)
    return str(error.value)


def test_box_larger_than_the_images(copy, tmp_path):
    said = refused(copy, tmp_path, box_size_px=64, binning=2)
    assert "box_size_px 64 at binning 2 is 128 px, larger than the tilt images" in said
    assert "100 x 100 px" in said


def test_particles_outside_every_image(copy, tmp_path):
    particles = copy.phantom.particles
    away = replace(particles, coordinate_zyx_angst=particles.coordinate_zyx_angst + np.array([0, 0, 4000.0]))
    write_particles(copy.paths.particles, away)
    assert "no particle of" in refused(copy, tmp_path)


def test_one_half_set(copy, tmp_path):
    particles = copy.phantom.particles
    write_particles(copy.paths.particles, replace(particles, half_set=np.ones(len(particles), np.int64)))
    assert "all particles are in one half set (rlnRandomSubset)" in refused(copy, tmp_path)


def test_nan_in_a_tilt_image(copy, tmp_path):
    series = copy.phantom.series[1]
    images = copy.phantom.images[series.name].copy()
    path = copy.paths.root / series.images[0][0]
    write_stack(path, images, 4.0)
    raw = np.memmap(path, np.float32, "r+", offset=1024, shape=images.shape)
    raw[4, 50, 50] = np.nan
    raw.flush()
    said = refused(copy, tmp_path)
    assert f"{path}, image 5 holds values that are not finite" in said


def test_truncated_stack(copy, tmp_path):
    path = copy.paths.root / copy.phantom.series[-1].images[0][0]
    with open(path, "r+b") as file:
        file.truncate(5000)
    assert f"{path} is truncated" in refused(copy, tmp_path)
    job = job_named("reconstruct").from_text(
        {"in_optimisation_set": str(copy.paths.optimisation_set), "box_size_px": 32}
    )
    with pytest.raises(InputError, match="is truncated"):
        job.check()  # found before any work


def test_missing_stack(copy, tmp_path):
    (copy.paths.root / copy.phantom.series[0].images[0][0]).unlink()
    assert "TS_01.mrc" in refused(copy, tmp_path)


def test_missing_column(copy, tmp_path):
    tables = read_star(copy.paths.particles)
    rows = dict(tables["particles"].columns)
    del rows["rlnCenteredCoordinateYAngst"]
    write_star(copy.paths.particles, [tables["optics"], table("particles", rows)])
    assert "no rlnCenteredCoordinateYAngst" in refused(copy, tmp_path)


def test_no_particles(copy, tmp_path):
    write_particles(copy.paths.particles, copy.phantom.particles[np.arange(0)])
    said = refused(copy, tmp_path)
    assert "particles.star" in said


def test_unknown_tomogram(copy, tmp_path):
    """All unknown: refused. Some: left out, and said."""
    particles = copy.phantom.particles
    renamed = np.array(["TS_99"] * len(particles), dtype=object)
    write_particles(copy.paths.particles, replace(particles, tomogram=renamed))
    assert "TS_99" in refused(copy, tmp_path)
    some = particles.tomogram.copy()
    some[particles.tomogram == "TS_02"] = "TS_99"
    write_particles(copy.paths.particles, replace(particles, tomogram=some))
    job = job_named("reconstruct").from_text(
        {"in_optimisation_set": str(copy.paths.optimisation_set), "box_size_px": 32}
    )
    assert any("TS_99" in line for line in job.warnings())
    assert reconstruct(copy, tmp_path / "some")["n_particles"] == (some != "TS_99").sum()


def test_relions_command_line():
    job = job_named("reconstruct").from_text(
        {
            "in_optimisation_set": "s.star",
            "binning": 2,
            "box_size_px": 96,
            "crop_size_px": 48,
            "symmetry": "c6",
            "wiener_snr": 0.1,
        }
    )
    words = job.relion_command("Reconstruct/job031/").split()
    assert words[0] == "relion_tomo_reconstruct_particle"
    for flag, value in {"--i": "s.star", "--o": "Reconstruct/job031/", "--b": "96", "--bin": "2", "--crop": "48",
                        "--sym": "C6", "--SNR": "0.1"}.items():  # fmt: skip
        assert words[words.index(flag) + 1] == value


def test_volumes_are_written_with_their_pixel_size(tiny, tmp_path):
    reconstruct(tiny, tmp_path / "out", box_size_px=24)
    volume = read_volume(tmp_path / "out/data_half1.mrc")
    assert isinstance(volume, Volume)
    assert volume.pixel_size_angst == pytest.approx(4.0)
