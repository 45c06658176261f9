"""Layers against closed forms: where a voxel, a particle and its axis lie in the world."""

from __future__ import annotations

import os
import shutil
import time

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from napari_sta import layers
from napari_sta.data.errors import InputError
from napari_sta.data.particles import OpticsGroup, Particles
from napari_sta.data.volume import Volume
from napari_sta.io.mrc import read_volume, write_stack, write_volume
from napari_sta.io.relion.optimisation_set import write_optimisation_set
from napari_sta.io.relion.particles import read_particles
from napari_sta.io.relion.tilt_series import read_tilt_series_set
from napari_sta.jobs._job import job_named
from napari_sta.layers.keywords import iteration_of, layer_name
from napari_sta.layers.outputs import is_job_folder, is_project_folder, viewable_outputs
from napari_sta.layers.particles import particle_layers, particles_from_layer, positions_and_axes
from napari_sta.layers.read import read_layers
from napari_sta.layers.star_files import star_kind
from napari_sta.layers.volumes import display_range, map_layer, mask_layers, volume_from_layer
from tiny_project import finish, make_project


def world(meta: dict, index_zyx: tuple[float, float, float]) -> np.ndarray:
    return np.asarray(meta["translate"]) + np.asarray(meta["scale"]) * np.asarray(index_zyx)


@pytest.mark.parametrize(("shape", "pixel"), [((8, 8, 8), 2.7), ((7, 9, 11), 1.35), ((6, 7, 8), 5.4)])
def test_origin_of_relion_is_world_zero(shape, pixel, rng):
    volume = Volume(rng.normal(size=shape).astype(np.float32), pixel)
    for data, meta, kind in [map_layer(volume), *mask_layers(volume)]:
        assert kind in ("image", "labels")
        np.testing.assert_allclose(world(meta, tuple(n // 2 for n in data.shape)), 0, atol=1e-12)
        assert meta["units"] == ("angstrom",) * 3
        assert meta["axis_labels"] == ("z", "y", "x")
        assert meta["metadata"]["napari_sta"]["pixel_size_angst"] == pixel


def test_maps_of_different_box_and_pixel_register_in_angstrom():
    """The same Å position, put on three grids, comes out at one place of the world."""
    place_angst = np.array([10.8, -5.4, 16.2])
    for box, pixel in ((96, 2.7), (48, 5.4), (63, 1.35)):
        index = place_angst / pixel + box // 2
        meta = map_layer(Volume(np.zeros((box,) * 3, np.float32), pixel))[1]
        np.testing.assert_allclose(world(meta, index), place_angst, atol=0.01 * pixel)


def a_set(n: int = 5, seed: int = 4) -> Particles:
    rng = np.random.default_rng(seed)
    names = np.array(["TS_01"] * 3 + ["TS_02"] * (n - 3), dtype=object)
    column = np.array([f"{v:.3f}" for v in rng.uniform(size=n)], dtype=object)
    return Particles(
        tomogram=names,
        name=np.array([f"{t}/{i}" for i, t in enumerate(names)], dtype=object),
        coordinate_zyx_angst=rng.normal(scale=300, size=(n, 3)),
        origin_zyx_angst=rng.normal(scale=5, size=(n, 3)),
        angles_deg=rng.uniform(0, 180, size=(n, 3)),
        subtomogram_angles_deg=rng.uniform(0, 180, size=(n, 3)),
        optics_group=np.ones(n, dtype=np.int64),
        half_set=np.arange(n) % 2 + 1,
        optics=(OpticsGroup(1, "one", 2.7),),
        text={"rlnTomoName": names, "rlnMaxValueProbDistribution": column},
    )


def relion_matrix_xyz(angles_deg: np.ndarray) -> Rotation:
    return Rotation.from_euler("ZYZ", angles_deg, degrees=True).inv()


def test_particles_lie_where_relion_extracts_them():
    """Position = coordinate - R_subtomogram · origin; arrow = R_subtomogram · R_particle · z (by scipy)."""
    particles = a_set()
    made = particle_layers(particles, "x/particles.star")
    assert [kind for _, _, kind in made] == ["points", "vectors"] * 2
    position = np.concatenate([made[0][0], made[2][0]])
    vectors = np.concatenate([made[1][0], made[3][0]])
    subtomogram = relion_matrix_xyz(particles.subtomogram_angles_deg)
    shift_xyz = subtomogram.apply(particles.origin_zyx_angst[:, ::-1])
    expected = particles.coordinate_zyx_angst - shift_xyz[:, ::-1]
    np.testing.assert_allclose(position, expected, atol=1e-9)
    z = (subtomogram * relion_matrix_xyz(particles.angles_deg)).apply([0, 0, 1])[:, ::-1]
    np.testing.assert_allclose(vectors[:, 0], expected, atol=1e-9)
    np.testing.assert_allclose(vectors[:, 1], z, atol=1e-9)


def test_one_tomogram_is_shown_at_a_time():
    made = particle_layers(a_set())
    assert [meta["visible"] for _, meta, _ in made] == [True, True, False, False]
    assert made[0][1]["metadata"]["napari_sta"]["tomogram"] == "TS_01"
    table = made[0][1]["features"]
    assert len(table) == 3
    assert table["rlnMaxValueProbDistribution"].dtype == float


def test_particles_come_back_moved_and_otherwise_untouched():
    particles = a_set()
    data, meta, _ = particle_layers(particles)[0]
    same = particles_from_layer(data, meta)
    np.testing.assert_allclose(same.coordinate_zyx_angst, particles.coordinate_zyx_angst[:3], atol=1e-9)
    moved = particles_from_layer(data + np.array([0.0, 1.0, -2.0]), meta)
    np.testing.assert_allclose(
        moved.coordinate_zyx_angst - particles.coordinate_zyx_angst[:3], [[0, 1, -2]] * 3, atol=1e-9
    )
    np.testing.assert_array_equal(moved.origin_zyx_angst, particles.origin_zyx_angst[:3])
    assert moved.text["rlnMaxValueProbDistribution"].tolist() == (
        particles.text["rlnMaxValueProbDistribution"][:3].tolist()
    )
    with pytest.raises(InputError, match="2 points but its particle set has 3"):
        particles_from_layer(data[:2], meta)


def test_map_survives_layer_and_file(tmp_path, rng):
    volume = Volume(rng.normal(size=(6, 6, 6)).astype(np.float32), 3.21)
    data, meta, _ = map_layer(volume)
    layers.write_map(str(tmp_path / "out.mrc"), data, meta)
    back = read_volume(tmp_path / "out.mrc")
    np.testing.assert_array_equal(back.data, volume.data)
    assert back.pixel_size_angst == pytest.approx(3.21, abs=1e-6)


def test_labels_are_written_as_a_mask(tmp_path):
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[1, 2, 3] = 7
    meta = {"scale": (2.0,) * 3, "name": "drawn"}
    layers.write_mask(str(tmp_path / "mask.mrc"), labels, meta)
    back = read_volume(tmp_path / "mask.mrc")
    assert back.data.sum() == 1
    assert back.data[1, 2, 3] == 1
    with pytest.raises(InputError, match="not cubes"):
        layers.write_mask(str(tmp_path / "m.mrc"), labels, {"scale": (2.0, 2.0, 3.0), "name": "drawn"})


def test_an_unknown_pixel_size_is_shown_as_unknown(tmp_path, rng):
    """In the layer's name, its units and its metadata; scale 1 is written back as unknown, another is believed."""
    volume = Volume(rng.normal(size=(6, 6, 6)).astype(np.float32), None)
    write_volume(tmp_path / "silent.mrc", volume)
    write_volume(tmp_path / "silent_mask.mrc", Volume((volume.data > 0).astype(np.float32), None))
    made = read_layers(tmp_path / "silent.mrc") + read_layers(tmp_path / "silent_mask.mrc")
    assert len(made) == 3
    for _, meta, _ in made:
        assert meta["name"].endswith(" · pixel size unknown")
        assert meta["units"] == ("pixel",) * 3
        assert meta["scale"] == (1.0,) * 3
        assert meta["metadata"]["napari_sta"]["pixel_size_angst"] is None
    data, meta, _ = made[0]
    assert volume_from_layer(data, meta).stated_pixel_size_angst is None
    layers.write_map(str(tmp_path / "out.mrc"), data, meta)
    assert read_volume(tmp_path / "out.mrc").stated_pixel_size_angst is None
    layers.write_map(str(tmp_path / "out.mrc"), data, meta | {"scale": (2.7,) * 3})
    assert read_volume(tmp_path / "out.mrc").pixel_size_angst == pytest.approx(2.7)
    # Anybody's layer has scale 1 until somebody sets it; ours of 1 Å says so.
    assert volume_from_layer(data, {"name": "x"}).stated_pixel_size_angst is None
    one = map_layer(Volume(volume.data, 1.0))
    assert volume_from_layer(*one[:2]).pixel_size_angst == 1.0


def test_headers_count_in_the_viewer_as_they_do_in_jobs(tmp_path, rng):
    """A map stored in another order of axes is turned; what a header calls a stack is one, but for cubes."""
    zyx = rng.normal(size=(4, 5, 6)).astype(np.float32)
    write_volume(tmp_path / "turned.mrc", Volume(np.ascontiguousarray(zyx.transpose(2, 1, 0)), 2.7))
    write_volume(tmp_path / "tilts.mrc", Volume(zyx, 2.7))
    write_volume(tmp_path / "cube.mrc", Volume(np.ascontiguousarray(zyx[:, :4, :4]), 2.7))
    for name, words in (("turned", {16: 3, 18: 1}), ("tilts", {9: 1, 22: 0}), ("cube", {9: 1, 22: 0})):
        raw = bytearray((tmp_path / f"{name}.mrc").read_bytes())
        for word, value in words.items():
            raw[4 * word : 4 * word + 4] = value.to_bytes(4, "little")
        (tmp_path / f"{name}.mrc").write_bytes(raw)
    [(data, meta, _)] = read_layers(tmp_path / "turned.mrc")
    np.testing.assert_array_equal(data, zyx)
    assert meta["metadata"]["napari_sta"]["kind"] == "map"
    kinds = {
        name: read_layers(tmp_path / f"{name}.mrc")[0][1]["metadata"]["napari_sta"]["kind"]
        for name in ("tilts", "cube")
    }
    assert kinds == {"tilts": "tilt_series", "cube": "map"}


def test_display_range_shows_density_not_solvent(rng):
    data = rng.normal(size=(32, 32, 32)).astype(np.float32)
    data[12:20, 12:20, 12:20] += 20
    low, high, level = display_range(data)
    assert abs(low) < 0.2  # the solvent's level is black
    assert high > 15
    assert 2 < level < 18
    flat = display_range(np.full((4, 4, 4), 3.0, np.float32))
    assert flat[0] < flat[2] < flat[1]


FOREIGN = {
    "micrographs.star": "data_optics\n\nloop_\n_rlnOpticsGroup #1\n1\n\ndata_micrographs\n\nloop_\n"
    "_rlnMicrographName #1\na.mrc\n",
    "single.star": "data_particles\n\nloop_\n_rlnImageName #1\n_rlnAngleRot #2\n1@a.mrcs 3\n",
    "default_pipeline.star": "data_pipeline_general\n\n_rlnPipeLineJobCounter 3\n",
    "notes.star": "no table at all\n",
    "empty.star": "",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_star_is_left_to_others(tmp_path, name):
    (tmp_path / name).write_text(FOREIGN[name])
    assert layers.get_reader(str(tmp_path / name)) is None


def test_reader_takes_ours_and_refuses_the_rest_fast(tmp_path, small_project):
    assert layers.get_reader(str(tmp_path)) is None
    assert layers.get_reader(str(tmp_path / "missing.star")) is None
    assert layers.get_reader("picture.png") is None
    assert layers.get_reader([]) is None
    assert layers.get_reader([str(small_project.map_path), "picture.png"]) is None
    for path in (
        small_project.root, small_project.map_path.parent, small_project.map_path,
        small_project.particles_path, small_project.optimisation_set_path,
    ):  # fmt: skip
        assert layers.get_reader(str(path)) is not None
    big = tmp_path / "big.star"
    big.write_text("data_\n\nloop_\n_wrpOther #1\n" + "1\n" * 10_000_000)
    took = []
    for _ in range(5):
        began = time.perf_counter()
        assert layers.get_reader(str(big)) is None
        took.append(time.perf_counter() - began)
    assert min(took) < 0.05


def test_reader_makes_the_layers_of_a_project(small_project):
    read = layers.get_reader([str(small_project.map_path), str(small_project.mask_path)])
    names = [(meta["name"], kind) for _, meta, kind in read(
        [str(small_project.map_path), str(small_project.mask_path)]
    )]  # fmt: skip
    assert names == [
        ("Reconstruct/job003 · merged", "image"),
        ("mask_align", "image"),
        ("mask_align · contour", "labels"),
    ]
    [(data, _, kind)] = read_layers(small_project.root)
    assert kind == "image"
    np.testing.assert_array_equal(data, read_volume(small_project.map_path).data)
    from_set = read_layers(small_project.optimisation_set_path)
    direct = read_layers(small_project.particles_path)
    assert len(from_set) == len(direct) >= 2
    np.testing.assert_array_equal(from_set[0][0], direct[0][0])


@pytest.fixture
def in_pixels(data, tmp_path):
    """A set as of RELION 4 or Warp: coordinates in pixels; returns its folder and where the points are."""
    folder = tmp_path / "set"
    folder.mkdir()
    shutil.copy(data / "relion4/particles.star", folder / "mine.star")
    shutil.copy(data / "relion4/tomograms.star", folder / "their_tomograms.star")
    write_optimisation_set(
        folder / "mine_set.star", particles=folder / "mine.star", tomograms=folder / "their_tomograms.star"
    )
    series = read_tilt_series_set(folder / "their_tomograms.star", check_images=False)
    particles = read_particles(folder / "mine.star", series)
    first = particles[particles.tomogram == particles.tomogram[0]]
    return folder, positions_and_axes(first)[0]


@pytest.mark.parametrize(
    ("opened", "without"),
    [
        pytest.param("mine_set.star", [], id="optimisation set"),
        pytest.param("mine.star", [], id="particles, optimisation set beside"),
        pytest.param("mine.star", ["mine_set.star"], id="particles, tomograms beside"),
    ],
)
def test_sets_in_pixels_find_their_tomograms(in_pixels, opened, without):
    folder, where = in_pixels
    for name in without:
        (folder / name).unlink()
    (folder / "other_set.star").write_text("data_\n\n_rlnTomoParticlesFile gone.star\n")
    found = layers.get_reader(str(folder / opened))(str(folder / opened))
    np.testing.assert_allclose(found[0][0], where)


def test_sets_in_pixels_of_a_job_folder(in_pixels):
    folder, where = in_pixels
    job = folder.parent / "Extract/job003"
    job.parent.mkdir()
    folder.rename(job)
    (job / "mine.star").rename(job / "particles.star")
    (job / "mine_set.star").unlink()
    np.testing.assert_allclose(read_layers(job)[0][0], where)


def test_sets_in_pixels_without_tomograms_say_what_to_do(in_pixels):
    folder, _ = in_pixels
    for name in ("mine_set.star", "their_tomograms.star"):
        (folder / name).unlink()
    with pytest.raises(InputError, match=r"mine\.star has coordinates in pixels.*beside it") as error:
        read_layers(folder / "mine.star")
    assert "--" not in str(error.value)


def test_an_unnamed_particle_table_is_shown(in_pixels, tmp_path):
    folder, where = in_pixels
    path = folder / "mine.star"
    path.write_text("\ufeff" + path.read_text().replace("data_particles", "data_"), encoding="utf-8")
    assert layers.get_reader(str(path)) is not None
    np.testing.assert_allclose(read_layers(path)[0][0], where)


def test_a_set_without_particles_says_so(tmp_path):
    path = tmp_path / "set.star"
    path.write_text('data_\n\n_rlnTomoTomogramsFile t.star\n_rlnTomoParticlesFile ""\n')
    with pytest.raises(InputError, match="names no particle set"):
        read_layers(path)


def test_pipes_are_left_alone(tmp_path):
    os.mkfifo(tmp_path / "pipe.star")
    assert layers.get_reader(str(tmp_path / "pipe.star")) is None


def test_tilt_series_are_mapped_not_read(small_project):
    [star] = small_project.root.glob("Tomograms/*/tomograms.star")
    made = read_layers(star)
    data, meta, kind = made[0]
    assert kind == "image"
    assert isinstance(data, np.memmap)
    assert meta["axis_labels"] == ("tilt", "z", "y", "x")
    assert meta["units"] == ("dimensionless", *("angstrom",) * 3)
    assert meta["scale"][0] == 1.0  # the number of a tilt is no length
    assert [m["visible"] for _, m, _ in made] == [True] + [False] * (len(made) - 1)


def test_stack_of_images_is_no_map(tmp_path, rng):
    write_stack(tmp_path / "a.mrcs", rng.normal(size=(3, 8, 9)).astype(np.float32), 2.0)
    [(data, meta, _)] = read_layers(tmp_path / "a.mrcs")
    assert data.shape == (3, 1, 8, 9)
    assert meta["metadata"]["napari_sta"]["kind"] == "tilt_series"


def test_what_cannot_be_shown_says_why(tmp_path):
    (tmp_path / "job.star").write_text("data_job\n\n_rlnJobTypeLabel x\n")
    with pytest.raises(InputError, match="no table that can be shown"):
        read_layers(tmp_path / "job.star")
    with pytest.raises(InputError, match="neither a map"):
        read_layers(tmp_path / "x.txt")
    (tmp_path / "emd_1.map.gz").write_bytes(b"\x1f\x8b\x08\0")
    with pytest.raises(InputError, match=r"but compressed \(gzip\): gunzip it first"):
        read_layers(tmp_path / "emd_1.map.gz")
    (tmp_path / "Extract/job001").mkdir(parents=True)
    with pytest.raises(InputError, match="no map, mask or particle set"):
        read_layers(tmp_path / "Extract/job001")


def test_masks_are_told_from_maps(tmp_path, rng):
    ball = np.zeros((8, 8, 8), np.float32)
    ball[3:5, 3:5, 3:5] = 1
    write_volume(tmp_path / "solvent.mrc", Volume(ball, 2.0))
    write_volume(tmp_path / "postprocess_masked.mrc", Volume(rng.normal(size=(8, 8, 8)).astype("f4"), 2.0))
    kinds = [m["metadata"]["napari_sta"]["kind"] for _, m, _ in read_layers(tmp_path / "solvent.mrc")]
    assert kinds == ["mask", "contour"]
    [(_, meta, _)] = read_layers(tmp_path / "postprocess_masked.mrc")
    assert meta["metadata"]["napari_sta"]["kind"] == "map"


def test_practice_project_is_sample_data():
    made = layers.practice_project()
    assert [kind for _, _, kind in made] == ["image", "image", "labels"]
    folder = made[0][1]["metadata"]["napari_sta"]["project"]
    assert is_project_folder(layers.Path(folder))


def refinement_files(folder, iterations, *, final=False):
    folder.mkdir(parents=True)
    for number in range(iterations + 1):
        for half in (1, 2):
            for what in ("class001", "class001_unfil"):
                (folder / f"run_it{number:03d}_half{half}_{what}.mrc").touch()
    for name in ("run_class001.mrc", "run_half1_class001_unfil.mrc") if final else ():
        (folder / name).touch()
    (folder / "run_solvent_mask.mrc").touch()
    return folder


def test_of_a_refinement_the_last_iteration_is_offered(tmp_path):
    """Not the first, which comes first by name, nor dozens of them."""
    stopped = viewable_outputs(refinement_files(tmp_path / "Refine3D/job010", 3))
    assert [p.name for p in stopped] == [
        "run_it003_half1_class001.mrc", "run_it003_half2_class001.mrc", "run_it003_half1_class001_unfil.mrc",
        "run_it003_half2_class001_unfil.mrc", "run_solvent_mask.mrc",
    ]  # fmt: skip
    done = viewable_outputs(refinement_files(tmp_path / "Refine3D/job011", 11, final=True))
    assert done[0].name == "run_class001.mrc"
    assert {iteration_of(p) for p in done} == {None, 11}


def test_iterations_have_short_names():
    folder = "Refine3D/job016"
    assert layer_name(f"{folder}/run_it003_half1_class001.mrc") == f"{folder} · it003 half1"
    assert layer_name(f"{folder}/run_it003_half2_class001_unfil.mrc") == f"{folder} · it003 half2 unfil"
    assert layer_name(f"{folder}/run_class001.mrc") == f"{folder} · run_class001"
    assert iteration_of("run_it1024_data.star") == 1024
    assert iteration_of("run_data.star") is None


def test_optimiser_shows_the_half_maps_of_its_iteration(tmp_path, rng):
    folder = tmp_path / "Refine3D/job016"
    folder.mkdir(parents=True)
    maps = {}
    for number in (1, 2):
        for half in (1, 2):
            maps[number, half] = Volume(rng.normal(size=(8, 8, 8)).astype(np.float32), 3.0)
            write_volume(folder / f"run_it{number:03d}_half{half}_class001.mrc", maps[number, half])
    star = folder / "run_it001_optimiser.star"
    star.write_text("data_optimiser_general\n\n_rlnModelStarFile x\n_rlnModelStarFile2 y\n")
    assert star_kind(star) == "optimiser"
    made = read_layers(star)
    assert [meta["metadata"]["napari_sta"]["kind"] for _, meta, _ in made] == ["half", "half"]
    for half, (data, _, _) in enumerate(made, start=1):
        np.testing.assert_array_equal(data, maps[1, half].data)
    for path in folder.glob("*.mrc"):
        path.unlink()
    with pytest.raises(InputError, match="half maps of its iteration are gone"):
        read_layers(star)


def test_names_in_another_encoding_are_shown(in_pixels):
    folder, _ = in_pixels
    for path in (folder / "mine.star", folder / "their_tomograms.star"):
        path.write_bytes(path.read_bytes().replace(b"TS_01", b"TS_\xe9"))
    points, meta, _ = read_layers(folder / "mine.star")[0]
    meta["name"].encode("utf-8")
    assert meta["features"]["rlnTomoName"].iloc[0].encode("utf-8")
    assert len(points) == len(meta["features"])


def test_a_jobs_alias_opens_as_the_job(tmp_path):
    """RELION's alias is a link beside the folder, in which a copy of the pipeline file lies."""
    folder = tmp_path / "Extract/job024"
    folder.mkdir(parents=True)
    (folder / "default_pipeline.star").touch()
    (tmp_path / "Extract/good_ones").symlink_to("job024")
    assert is_job_folder(tmp_path / "Extract/good_ones")
    assert layers.get_reader(str(tmp_path / "Extract/good_ones")) is not None


@pytest.fixture(scope="module")
def reconstructed(tmp_path_factory):
    """A project with its tomograms reconstructed."""
    project = make_project(tmp_path_factory.mktemp("tomograms") / "project", n_tomograms=2)
    star = str(project.paths.tomograms)
    job = job_named("reconstruct_tomograms")(in_tomograms=star, binned_pixel_size_angst=9.0)
    finish(job, project.paths.root / "Tomograms/job050")
    return project


def test_particles_lie_in_their_tomogram(reconstructed):
    folder = reconstructed.paths.root / "Tomograms/job050"
    made = read_layers(folder)
    assert [meta["visible"] for _, meta, _ in made] == [True, False]
    particles = reconstructed.phantom.particles
    for (data, meta, kind), name in zip(made, ("TS_01", "TS_02"), strict=True):
        ours = meta["metadata"]["napari_sta"]
        assert (kind, ours["kind"], ours["tomogram"]) == ("image", "tomogram", name)
        assert isinstance(data, np.memmap)
        positions, _ = positions_and_axes(particles[particles.tomogram == name])
        index = (positions - meta["translate"]) / meta["scale"]
        dark = map_coordinates(np.asarray(data, float), index.T, order=1)
        assert (data.mean() - dark).mean() > 3 * data.std()
        assert meta["name"] == f"Tomograms/job050 · rec_{name}"


def test_a_tomogram_opened_alone_lies_there_too(reconstructed):
    folder = reconstructed.paths.root / "Tomograms/job050"
    [_, second] = read_layers(folder / "tomograms.star")
    [alone] = read_layers(folder / "tomograms/rec_TS_02.mrc")
    assert alone[1]["visible"]
    assert alone[1] | {"visible": False} == second[1]
    assert folder / "tomograms/rec_TS_02.mrc" in viewable_outputs(folder)


def test_a_volume_beside_a_harmed_set_is_a_map(reconstructed, tmp_path):
    (tmp_path / "tomograms").mkdir()
    shutil.copy(reconstructed.paths.root / "Tomograms/job050/tomograms/rec_TS_01.mrc", tmp_path / "tomograms")
    (tmp_path / "tomograms.star").write_text("data_global\n\n_rlnTomoName TS_01\n")
    [(_, meta, _)] = read_layers(tmp_path / "tomograms/rec_TS_01.mrc")
    assert meta["metadata"]["napari_sta"]["kind"] == "map"


def test_a_set_whose_tomograms_are_gone_shows_tilt_series(reconstructed, tmp_path):
    root = shutil.copytree(reconstructed.paths.root, tmp_path / "project")
    shutil.rmtree(root / "Tomograms/job050/tomograms")
    made = read_layers(root / "Tomograms/job050/tomograms.star")
    assert {meta["metadata"]["napari_sta"]["kind"] for _, meta, _ in made} == {"tilt_series"}
