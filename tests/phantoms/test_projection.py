"""The simulator against closed forms and RELION's printed numbers, not against our own reconstructor."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from laws import assert_inputs_untouched
from napari_sta.data.tilt_series import TiltSeries
from napari_sta.phantoms.density import Blobs, density_map, hexamer
from napari_sta.phantoms.projection import project_particles, project_shells, projection_matrices

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


def test_true_poses_explain_the_images(phantom):
    series = phantom.series[1]
    _, first = np.unique(phantom.true_index, return_index=True)
    rows = first[phantom.particles.tomogram[first] == series.name]
    images = project_particles(
        series,
        hexamer(),
        phantom.true_position_zyx_angst[rows],
        phantom.true_angles_deg[rows],
        phantom.spec.image_size_yx_px,
    )
    np.testing.assert_allclose(images, phantom.images[series.name], atol=1e-5 * np.abs(images).max())
