"""The simulator against closed forms and RELION's printed numbers, not against our own reconstructor."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from laws import assert_inputs_untouched
from napari_sta.data.errors import InputError
from napari_sta.data.tilt_series import TiltSeries
from napari_sta.io.mrc import read_images, read_volume
from napari_sta.io.relion import load_sta_inputs
from napari_sta.phantoms import (
    Blobs,
    PhantomSpec,
    density_map,
    dose_symmetric,
    hexamer,
    make_practice_project,
    project_particles,
    project_shells,
    projection_matrices,
    simulate,
    sphere_lattice,
    write_project,
)

BEAD = Blobs(np.zeros((1, 3)), np.array([50.0]), 5.0)


def series_with(**changes: object) -> TiltSeries:
    """One untilted image; sizes odd and even, everything off its default."""
    t = np.size(changes.get("dose_e_per_angst2", [0.0]))
    plain = TiltSeries(
        name="TS",
        images=tuple(("x.mrc", i) for i in range(t)),
        pixel_size_angst=2.0,
        voltage_kv=300.0,
        spherical_aberration_mm=2.7,
        amplitude_contrast=0.1,
        hand=-1.0,
        size_zyx_px=(101, 140, 153),
        dose_e_per_angst2=np.zeros(t),
        defocus_u_angst=np.full(t, 20_000.0),
        defocus_v_angst=np.full(t, 20_000.0),
        defocus_angle_deg=np.zeros(t),
        phase_shift_deg=np.zeros(t),
        ctf_scale=np.ones(t),
        bfactor_angst2=np.zeros(t),
        angles_xyz_deg=np.zeros((t, 3)),
        shift_yx_angst=np.zeros((t, 2)),
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def centroid_yx(image: np.ndarray) -> tuple[float, float]:
    y, x = np.indices(image.shape)
    return float((y * image).sum() / image.sum()), float((x * image).sum() / image.sum())


def test_a_bead_is_dark_has_its_mass_and_lies_where_relion_says():
    # formats.md 8.12: tomogram 4000 x 4000 x 1200, image 3838 x 3710, particle at (540, -270, 135) with
    # origin and subtomogram angles lands on (2148.146866, 2129.913053).
    series = series_with(
        pixel_size_angst=1.35,
        size_zyx_px=(1200, 4000, 4000),
        angles_xyz_deg=np.array([[0.0, -30.0, 85.0]]),
        shift_yx_angst=np.array([[-8.25, 12.5]]),
    )
    relion_xyz = np.array(
        [
            [0.075479, -0.996195, -0.043578, 3795.837204],
            [0.862730, 0.087156, -0.498097, 247.975981],
            [0.500000, 0.000000, 0.866025, -1519.615242],
            [0, 0, 0, 1],
        ]
    )
    np.testing.assert_allclose(
        projection_matrices(series, (3710, 3838))[0][[2, 1, 0, 3]][:, [2, 1, 0, 3]], relion_xyz, atol=6e-7
    )
    x_px = np.array([2400.164085, 1805.442002, 694.866025])
    position = ((x_px - [2000, 2000, 600]) * 1.35)[None, ::-1]
    image = project_particles(series, BEAD, position, np.zeros((1, 3)), (3710, 3838), with_ctf=False)[0]
    assert image.min() < 0
    assert image.sum() == pytest.approx(-50.0, rel=1e-4)
    window = image[2100:2160, 2120:2180]
    v, u = centroid_yx(window)
    assert (u + 2120, v + 2100) == pytest.approx((2148.146866, 2129.913053), abs=2e-4)


def test_the_blur_of_a_bead_is_its_sigma():
    image = -project_particles(
        series_with(), BEAD, np.zeros((1, 3)), np.zeros((1, 3)), (140, 153), with_ctf=False
    )[0]
    # Tomogram centre in x is 76.5 px, the matrix turns about 76 and the image centre is 76: half a pixel.
    v, u = centroid_yx(image)
    assert (v, u) == pytest.approx((70.0, 76.5), abs=5e-4)
    y, x = np.indices(image.shape)
    exact = 50 * 4 / (2 * np.pi * 25) * np.exp(-(((y - 70) ** 2 + (x - 76.5) ** 2) * 4) / (2 * 25))
    np.testing.assert_allclose(image, exact, atol=1e-4 * exact.max())


@pytest.mark.parametrize(
    ("angles_deg", "blob_zyx", "expected_yx"),
    [
        # E(rot, 0, 0) is Rz(-rot): +x of the reference goes to -y at rot 90.
        pytest.param((90.0, 0.0, 0.0), (0.0, 0.0, 20.0), (-10.0, 0.0), id="rot turns x to -y"),
        # Row 1 of E(0, 90, 0) is (0, 0, -1): +z of the reference goes to -x.
        pytest.param((0.0, 90.0, 0.0), (20.0, 0.0, 0.0), (0.0, -10.0), id="tilt turns z to -x"),
        pytest.param((0.0, 90.0, 90.0), (20.0, 0.0, 0.0), (10.0, 0.0), id="psi turns on to y"),
    ],
)
def test_reference_points_follow_relions_euler_angles(angles_deg, blob_zyx, expected_yx):
    blob = Blobs(np.array([blob_zyx]), np.array([1.0]), 4.0)
    image = -project_particles(
        series_with(size_zyx_px=(100, 140, 140)), blob, np.zeros((1, 3)), np.array([angles_deg]), (140, 140),
        with_ctf=False,
    )[0]  # fmt: skip
    v, u = centroid_yx(image)
    assert (v - 70, u - 70) == pytest.approx(expected_yx, abs=1e-3)


def radial_spectrum(image: np.ndarray, pixel: float, blob: Blobs) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies along +x and the real spectrum there of a centred bead's image, over the bead's own."""
    n = image.shape[0]
    ft = np.fft.rfft2(np.fft.ifftshift(image))[0].real
    k = np.fft.rfftfreq(n, pixel)
    return k, ft / (blob.mass[0] * np.exp(-2 * (np.pi * blob.sigma_angst * k) ** 2))


def test_ctf_has_relions_values_and_zeros():
    # formats.md 8.12: U 25000, V 24000, angle 40 deg: CTF(0.02, 0) = 0.650618, CTF(0) = 0.1.
    series = series_with(
        pixel_size_angst=2.5,
        size_zyx_px=(100, 400, 400),
        defocus_u_angst=np.array([25_000.0]),
        defocus_v_angst=np.array([24_000.0]),
        defocus_angle_deg=np.array([40.0]),
    )
    bead = BEAD._replace(sigma_angst=2.0)
    image = project_particles(series, bead, np.zeros((1, 3)), np.zeros((1, 3)), (400, 400))[0]
    k, spectrum = radial_spectrum(image, 2.5, bead)
    assert -spectrum[0] == pytest.approx(0.1, abs=1e-3)
    assert k[20] == pytest.approx(0.02)
    assert -spectrum[20] == pytest.approx(0.650618, abs=4e-3)
    along_y = np.fft.fft2(np.fft.ifftshift(image))[20, 0].real
    expected = 0.647350 * 50 * np.exp(-2 * (np.pi * 2.0 * 0.02) ** 2)
    assert -along_y == pytest.approx(expected, rel=1e-2)
    # Zero where gamma = -pi: the first sign change along x.
    wavelength, cs = 0.0196876, 2.7e7
    u_x = 25_000 * np.cos(np.deg2rad(40)) ** 2 + 24_000 * np.sin(np.deg2rad(40)) ** 2
    fine = np.linspace(0.01, 0.1, 20_001)
    gamma = -np.pi * wavelength * u_x * fine**2 + np.pi / 2 * cs * wavelength**3 * fine**4 - np.arcsin(0.1)
    first_zero = fine[np.argmax(gamma < -np.pi)]
    crossing = np.argmax(-spectrum[1:] < 0) + 1
    assert k[crossing - 1] < first_zero < k[crossing]


def fitted_defocus(image: np.ndarray, pixel: float, blob: Blobs) -> float:
    k, spectrum = radial_spectrum(image, pixel, blob)
    inside = (k > 0.01) & (k < 0.09)
    k, spectrum = k[inside], -spectrum[inside]
    wavelength = 0.0196876
    candidates = np.arange(15_000, 26_000, 25.0)
    gamma = (
        -np.pi * wavelength * candidates[:, None] * k**2
        + np.pi / 2 * 2.7e7 * wavelength**3 * k**4
        - np.arcsin(0.1)
    )
    return float(candidates[((-np.sin(gamma) - spectrum) ** 2).sum(axis=1).argmin()])


@pytest.mark.parametrize(("hand", "expected"), [(-1.0, 19_500.0), (1.0, 20_500.0)])
def test_defocus_follows_depth_with_the_hand(hand, expected):
    # Untilted, a particle 500 A up in z lies 500 A deeper along the beam; with hand -1 it is less defocused.
    series = series_with(size_zyx_px=(400, 300, 300), hand=hand)
    bead = BEAD._replace(sigma_angst=2.0)
    position = np.array([[500.0, 0.0, 0.0]])
    image = project_particles(series, bead, position, np.zeros((1, 3)), (300, 300))[0]
    assert fitted_defocus(image, 2.0, bead) == pytest.approx(expected, abs=50)


def test_tilting_turns_x_into_depth():
    # Ry(tilt): depth = -sin(tilt) x; at -30 deg and x = +400 A the depth is +200 A.
    series = series_with(size_zyx_px=(100, 600, 600), angles_xyz_deg=np.array([[0.0, -30.0, 0.0]]), hand=1.0)
    bead = BEAD._replace(sigma_angst=2.0)
    position = np.array([[0.0, 0.0, 400.0]])
    image = project_particles(series, bead, position, np.zeros((1, 3)), (600, 600))[0]
    u = 300 + 200 * np.cos(np.deg2rad(30))
    centred = np.roll(image, -round(u - 300), axis=1)[150:450, 150:450]
    # The rest of the shift is below a pixel and only turns phases; use magnitudes with the known sign.
    ky = np.fft.rfftfreq(300, 2.0)
    ft = -np.fft.fft2(np.fft.ifftshift(centred))[:151, 0].real  # along y nothing is shifted
    spectrum = ft / (50 * np.exp(-2 * (np.pi * 2.0 * ky) ** 2))
    inside = (ky > 0.01) & (ky < 0.09)
    errors = []
    for defocus in (20_000, 20_200, 19_800):
        gamma = -np.pi * 0.0196876 * defocus * ky**2 + np.pi / 2 * 2.7e7 * 0.0196876**3 * ky**4
        errors.append(((-np.sin(gamma - np.arcsin(0.1)) - spectrum)[inside] ** 2).sum())
    assert int(np.argmin(errors)) == 1


def test_dose_and_scale_weaken_as_relion_says():
    # formats.md 8.10: D = 30 e/A2: weight 0.678915 at 1/20 A, 0.346128 at 1/10 A.
    bare = series_with(size_zyx_px=(100, 200, 200))
    damaged = replace(bare, dose_e_per_angst2=np.array([30.0]), ctf_scale=np.array([0.5]))
    args = (BEAD._replace(sigma_angst=2.0), np.zeros((1, 3)), np.zeros((1, 3)), (200, 200))
    fresh = np.fft.rfft2(project_particles(bare, *args, with_dose=False)[0])[0]
    old = np.fft.rfft2(project_particles(damaged, *args)[0])[0]
    ratio = (old / fresh).real
    assert ratio[20] == pytest.approx(0.5 * 0.678915, rel=2e-3)
    assert ratio[40] == pytest.approx(0.5 * 0.346128, rel=2e-3)


def test_particles_add_up_and_may_hang_over_the_edge():
    series = series_with(size_zyx_px=(100, 120, 120))
    where = np.array([[0.0, 10.0, -30.0], [5.0, -118.0, 117.0]])
    angles = np.array([[10.0, 20.0, 30.0], [-50.0, 70.0, 5.0]])
    blobs = hexamer()
    both = assert_inputs_untouched(project_particles, series, blobs, where, angles, (120, 120))
    each = [project_particles(series, blobs, where[i : i + 1], angles[i : i + 1], (120, 120)) for i in (0, 1)]
    np.testing.assert_allclose(both, each[0] + each[1], atol=1e-5 * np.abs(both).max())
    assert np.abs(each[1]).max() > 0.01 * np.abs(each[0]).max()


def test_projection_is_the_sum_of_the_map_along_z():
    blobs = hexamer()._replace(sigma_angst=4.0)  # nothing left at Nyquist, so nothing rings
    n, pixel = 64, 3.0
    volume = density_map(blobs, n, pixel)
    series = series_with(pixel_size_angst=pixel, size_zyx_px=(60, n, n))
    image = project_particles(series, blobs, np.zeros((1, 3)), np.zeros((1, 3)), (n, n), with_ctf=False)[0]
    np.testing.assert_allclose(-image, volume.data.sum(axis=0), atol=2e-5 * np.abs(image).max())


def test_shell_projects_to_its_closed_form():
    # A shell of radius R and mass s per A2 projects to 2 s R / sqrt(R2 - r2) inside R.
    series = series_with(pixel_size_angst=4.0, size_zyx_px=(200, 220, 230))
    image = -project_shells(series, np.zeros(3), [200.0], 0.01, (220, 230), sigma_angst=5.0, with_ctf=False)[
        0
    ]
    assert image.sum() == pytest.approx(0.01 * 4 * np.pi * 200**2, rel=1e-4)
    assert image[110, 115] == pytest.approx(2 * 0.01 * 16, rel=5e-3)
    assert image[110, 115 + 30] == pytest.approx(2 * 0.01 * 16 * 200 / np.sqrt(200**2 - 120**2), rel=1e-2)
    assert abs(image[110, 115 + 60]) < 1e-3


def test_hexamer_is_six_fold_and_has_no_mirror():
    xyz = hexamer().centre_zyx_angst[:, ::-1]
    turned = Rotation.from_euler("Z", [60], degrees=True).apply(xyz)
    assert cKDTree(xyz).query(turned)[0].max() < 1e-9
    twelve = Rotation.from_euler("Z", [30], degrees=True).apply(xyz)
    assert cKDTree(xyz).query(twelve)[0].mean() > 2
    assert cKDTree(xyz).query(xyz * [1, 1, -1])[0].mean() > 2
    assert cKDTree(xyz).query(xyz * [1, -1, 1])[0].mean() > 1


def test_lattice_covers_the_sphere_without_overlap():
    at, rotation = sphere_lattice(330.0, 86.0)
    np.testing.assert_allclose(np.linalg.norm(at, axis=1), 330.0)
    np.testing.assert_allclose(rotation.apply([0, 0, 1]), at / 330.0, atol=1e-12)
    nearest = cKDTree(at).query(at, k=2)[0][:, 1]
    assert nearest.min() > 0.84 * 86
    assert len(at) > 0.85 * 4 * np.pi * 330**2 / (86**2 * np.sqrt(0.75)) * 0.9
    # The neighbour along a lattice line lies where x of the particle points.
    centre = int(np.argmax(at[:, 2]))
    towards = at[centre] + 86.0 * rotation[centre].apply([1, 0, 0])
    assert cKDTree(at).query(towards)[0] < 86.0 * 0.15


def test_dose_symmetric_goes_outwards_from_zero():
    assert dose_symmetric(9.0, 3.0) == (0.0, 3.0, -3.0, -6.0, 6.0, 9.0, -9.0)


SMALL = PhantomSpec(
    seed=5,
    n_tomograms=2,
    image_size_yx_px=(150, 160),
    tomogram_size_zyx_px=(150, 160, 150),
    sphere_radius_angst=170.0,
    tilts_deg=(0.0, 20.0, -20.0),
    x_tilt_deg=2.0,
    snr=np.inf,
    membrane_strength=0.0,
    hidden_offset_px=-1.5,
)


@pytest.fixture(scope="module")
def phantom():
    return simulate(SMALL)


def test_a_spec_decides_everything(phantom):
    again = simulate(SMALL)
    other = simulate(replace(SMALL, seed=6))
    for name, stack in phantom.images.items():
        np.testing.assert_array_equal(again.images[name], stack)
        assert not np.array_equal(other.images[name], stack)
    np.testing.assert_array_equal(
        again.particles.coordinate_zyx_angst, phantom.particles.coordinate_zyx_angst
    )


def xyz_rotation(angles_deg: np.ndarray) -> Rotation:
    return Rotation.from_euler("ZYZ", angles_deg, degrees=True).inv()


def test_picks_are_off_by_what_the_spec_says(phantom):
    p = phantom.particles
    subtomogram = xyz_rotation(p.subtomogram_angles_deg)
    position_xyz = p.coordinate_zyx_angst[:, ::-1] - subtomogram.apply(p.origin_zyx_angst[:, ::-1])
    true = xyz_rotation(phantom.true_angles_deg)
    in_own_frame = true.inv().apply(position_xyz - phantom.true_position_zyx_angst[:, ::-1])
    # The average shows the particle at +offset, so picks lie at -offset of the particle: here +6 A.
    n = len(p)
    np.testing.assert_allclose(in_own_frame.mean(axis=0), [0, 0, 6.0], atol=4 * 2.0 / np.sqrt(n))
    np.testing.assert_allclose(in_own_frame.std(axis=0), 2.0, rtol=0.25)
    picked = subtomogram * xyz_rotation(p.angles_deg)
    sixfold = Rotation.from_euler("Z", 60.0 * np.arange(6)[:, None], degrees=True)
    off = np.min([(true.inv() * picked * turn).magnitude() for turn in sixfold], axis=0)
    # Three axes of 2 deg each: the mean length of such a vector is 2 sqrt(8 / pi).
    assert np.rad2deg(off).mean() == pytest.approx(2.0 * np.sqrt(8 / np.pi), rel=0.15)
    assert np.abs(p.angles_deg[:, 1] - 90).max() < 12  # a sphere picker's convention
    grid = p.coordinate_zyx_angst / (3 * 4.0)
    np.testing.assert_allclose(grid, np.round(grid), atol=1e-6)
    assert np.abs(p.origin_zyx_angst).max() > 1
    assert np.bincount(p.half_set)[1:] == pytest.approx([n / 2, n / 2], abs=1)


def test_twice_picked_particles_share_their_index(phantom):
    values, counts = np.unique(phantom.true_index, return_counts=True)
    assert counts.max() == 2
    twice = values[counts == 2][0]
    rows = np.flatnonzero(phantom.true_index == twice)
    np.testing.assert_array_equal(*phantom.true_position_zyx_angst[rows])
    assert not np.array_equal(*phantom.particles.angles_deg[rows])
    assert len(values) == values.max() + 1


def test_true_poses_explain_the_images(phantom):
    series = phantom.series[1]
    _, first = np.unique(phantom.true_index, return_index=True)
    rows = first[phantom.particles.tomogram[first] == series.name]
    images = project_particles(
        series,
        hexamer(),
        phantom.true_position_zyx_angst[rows],
        phantom.true_angles_deg[rows],
        SMALL.image_size_yx_px,
    )
    np.testing.assert_allclose(images, phantom.images[series.name], atol=1e-5 * np.abs(images).max())


def test_table_is_sorted_by_angle_and_keeps_its_dose(phantom):
    series = phantom.series[0]
    np.testing.assert_allclose(series.angles_xyz_deg[:, 1], [-20, 0, 20])
    np.testing.assert_allclose(series.dose_e_per_angst2, [5.2, 0.0, 2.6])
    unsorted = simulate(replace(SMALL, sort_by_angle=False, n_tomograms=1)).series[0]
    np.testing.assert_allclose(unsorted.angles_xyz_deg[:, 1], [0, 20, -20])
    np.testing.assert_allclose(unsorted.dose_e_per_angst2, [0.0, 2.6, 5.2])


def test_noise_has_the_asked_variance(phantom):
    noisy = simulate(replace(SMALL, snr=0.25))
    name = phantom.series[0].name
    noise = noisy.images[name] - phantom.images[name]
    signal = phantom.images[name][1].std()  # the image of zero dose
    assert noise.std() == pytest.approx(signal / np.sqrt(0.25), rel=0.02)


def test_membrane_lies_outside_the_particles():
    with_membrane = simulate(replace(SMALL, membrane_strength=1.0, n_tomograms=1, image_size_yx_px=(170, 170),
                                     tomogram_size_zyx_px=(170, 170, 170)))  # fmt: skip
    data = with_membrane.lattice_map.data
    z = np.arange(64) - 32
    profile = data[:, 30:34, 30:34].mean(axis=(1, 2))
    assert profile[z == 17] > 0.5 * profile[z == 18]  # 70 A = 17.5 px above the centre
    assert profile[z == 12] < 0.05 * profile[z == 18]
    assert with_membrane.mask_align.data[32 + 17].max() < 0.05


def test_masks_are_soft_and_centred(phantom):
    for mask in (phantom.mask_align.data, phantom.mask_fsc.data):
        assert mask.min() == 0
        assert mask.max() == 1
        assert ((mask > 0.01) & (mask < 0.99)).mean() > 0.005
    n = phantom.mask_fsc.data.shape[0]
    inside = np.indices((n, n, n))[:, phantom.mask_fsc.data > 0.5].mean(axis=1) - n // 2
    assert np.abs(inside[1:]).max() < 0.2
    # All of the particle's density lies in the tight mask.
    truth = phantom.truth_map.data
    assert (truth * phantom.mask_fsc.data).sum() == pytest.approx(truth.sum(), rel=0.02)


def test_a_written_project_reads_back(phantom, tmp_path):
    paths = write_project(phantom, tmp_path / "project")
    inputs = load_sta_inputs(paths.optimisation_set)
    np.testing.assert_array_equal(
        inputs.particles.coordinate_zyx_angst, phantom.particles.coordinate_zyx_angst
    )
    np.testing.assert_array_equal(inputs.particles.origin_zyx_angst, phantom.particles.origin_zyx_angst)
    np.testing.assert_array_equal(inputs.particles.angles_deg, phantom.particles.angles_deg)
    assert not inputs.warnings
    for series in phantom.series:
        found = inputs.tilt_series[series.name]
        for name in ("angles_xyz_deg", "shift_yx_angst", "defocus_u_angst", "ctf_scale", "dose_e_per_angst2"):
            np.testing.assert_array_equal(getattr(found, name), getattr(series, name), err_msg=name)
        assert found.size_zyx_px == series.size_zyx_px
        assert found.hand == series.hand
        stack = read_images(found.images)
        scale = np.abs(phantom.images[series.name]).max()
        np.testing.assert_allclose(stack, phantom.images[series.name], atol=1e-3 * scale)
    assert read_volume(paths.mask_align).pixel_size_angst == pytest.approx(4.0)
    text = (tmp_path / "project/Select/job002/optimisation_set.star").read_text()
    assert " Select/job002/particles.star" in text  # relative to the project, as RELION wants it
    spec = json.loads((tmp_path / "project/truth/phantom.json").read_text())
    assert spec["hidden_offset_px"] == -1.5
    with pytest.raises(InputError, match="already holds a RELION project"):
        write_project(phantom, tmp_path / "project")


def test_a_sphere_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        simulate(replace(SMALL, sphere_radius_angst=400.0))


def test_practice_map_is_off_by_the_hidden_offset(tmp_path):
    practice = make_practice_project(tmp_path / "practice", seed=1)
    assert 1.5 <= abs(practice.hidden_offset_px) <= 4.0
    data = read_volume(practice.map_path).data
    # The particle alone, raised by the offset, fits best there: brute force in twentieths of a pixel.
    n = data.shape[0]
    ft = np.fft.rfftn(data)
    kz = np.fft.fftfreq(n)[:, None, None]
    truth = np.fft.rfftn(density_map(hexamer(), n, 4.0).data)
    offsets = np.arange(-6, 6.01, 0.05)
    product = (ft * truth.conj()).sum(axis=(1, 2), keepdims=True)
    scores = [(product * np.exp(2j * np.pi * kz * d)).real.sum() for d in offsets]
    assert offsets[int(np.argmax(scores))] == pytest.approx(practice.hidden_offset_px, abs=0.11)
    other = make_practice_project(tmp_path / "other", seed=2)
    assert other.hidden_offset_px != practice.hidden_offset_px
    half = read_volume(practice.map_path.parent / "half1.mrc").data
    assert 0.5 < np.corrcoef(half.ravel(), data.ravel())[0, 1] < 0.999
