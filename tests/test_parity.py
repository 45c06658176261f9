"""RELION's own numbers on a whole project.

The project is too large to be kept here. Point NAPARI_STA_RELION_PROJECT to it to run these tests.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_sta.io.mrc import read_header, read_images, read_volume
from napari_sta.io.star import read_star
from napari_sta.jobs._job import job_named
from napari_sta.kernels.devices import available_threads
from tiny_project import finish

ROOT = os.environ.get("NAPARI_STA_RELION_PROJECT", "")
pytestmark = pytest.mark.skipif(
    not ROOT, reason="set NAPARI_STA_RELION_PROJECT to a folder with RELION 5.0.1's jobs to compare with them"
)


@pytest.fixture
def root(monkeypatch) -> Path:
    monkeypatch.chdir(ROOT)
    return Path(ROOT)


def run(name: str, out: Path, **values: object) -> dict[str, object]:
    return finish(job_named(name).from_text(values), out, threads=min(available_threads(), 4))


def shell_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """FSC to Nyquist, with numpy alone."""
    n = len(a)
    fa, fb = np.fft.fftn(a), np.fft.fftn(b)
    k = np.fft.fftfreq(n, 1 / n)
    r = np.rint(np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)).astype(int)
    sums = [
        np.bincount(r.ravel(), weights=w.ravel())[: n // 2 + 1]
        for w in ((fa * fb.conj()).real, np.abs(fa) ** 2, np.abs(fb) ** 2)
    ]
    return sums[0] / np.sqrt(sums[1] * sums[2])


def assert_same_map(ours: Path, theirs: Path) -> None:
    a, b = read_volume(ours), read_volume(theirs)
    assert a.data.shape == b.data.shape
    assert a.pixel_size_angst == pytest.approx(b.pixel_size_angst, rel=1e-4)
    x, y = a.data.astype(np.float64), b.data.astype(np.float64)
    curve = shell_correlation(x, y)
    assert curve[1 : int(0.9 * len(x) / 2) + 1].min() >= 0.995
    assert np.corrcoef(x.ravel(), y.ravel())[0, 1] >= 0.999
    assert (x * y).sum() / (y * y).sum() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("reference", "given", "options"),
    [
        pytest.param(
            "Reconstruct/job025", "Extract/job024/optimisation_set.star",
            {"box_size_px": 192, "crop_size_px": 96, "symmetry": "C6"}, id="bin 1, C6, all particles",
        ),
        pytest.param(
            "Reconstruct/job031", "Select/job023/optimisation_set_p40.star",
            {"box_size_px": 96, "crop_size_px": 48, "binning": 2, "wiener_snr": 0.1}, id="bin 2, C1, Wiener",
        ),
    ],
)  # fmt: skip
def test_reconstruct(root, tmp_path, reference, given, options):
    run("reconstruct", tmp_path, in_optimisation_set=given, **options)
    for tag in ("merged", "half1", "half2"):
        assert_same_map(tmp_path / f"{tag}.mrc", root / reference / f"{tag}.mrc")


def test_recenter(root, tmp_path):
    run("recenter", tmp_path, in_parts="Extract/job024/particles.star", center_z_px=2.75)
    ours, theirs = (
        read_star(p)["particles"] for p in (tmp_path / "particles.star", "Extract/job024/particles2.75.star")
    )
    assert list(ours.columns) == list(theirs.columns)
    for label, column in theirs.columns.items():
        if label.startswith("rlnOrigin"):
            assert np.abs(ours[label].astype(float) - column.astype(float)).max() < 1e-3
        else:
            assert ours[label].tolist() == column.tolist(), label


def test_measure_offset(root, tmp_path):
    record = run(
        "measure_offset",
        tmp_path,
        in_3dref="Reconstruct/job025/merged.mrc",
        in_mask="masks/mask_align.mrc",
        symmetry="C6",
    )
    assert record["offset_px"] == pytest.approx(2.75, abs=0.25)


def test_make_mask(root, tmp_path):
    run("make_mask", tmp_path, in_3dref="truth/truth_map.mrc", lowpass_angst=15, threshold=0.04, extend_px=3, soft_edge_px=6,
        pixel_size_angst=2.7)  # fmt: skip
    ours, theirs = (read_volume(p).data for p in (tmp_path / "mask.mrc", "masks/mask_fsc.mrc"))
    assert np.abs(ours - theirs).max() <= 0.01


@pytest.mark.parametrize("mask", ["mask_align", "mask_fsc"])
def test_process_map(root, tmp_path, mask):
    """Rescaling and a new box, as relion_image_handler: RELION differs at the coarse grid's Nyquist limit only."""
    run("process_map", tmp_path, in_3dref=f"masks/{mask}.mrc", pixel_size_angst=2.7, rescale_pixel_size_angst=5.4,
        box_size_px=48)  # fmt: skip
    ours, theirs = read_volume(tmp_path / "map.mrc"), read_volume(f"masks/{mask}_bin2.mrc")
    assert ours.pixel_size_angst == pytest.approx(theirs.pixel_size_angst, rel=1e-5)
    below = np.abs(np.fft.fftfreq(48, 1 / 48)) < 24
    spectra = [np.fft.fftn(v.data.astype(np.float64))[np.ix_(below, below, below)] for v in (ours, theirs)]
    assert np.abs(spectra[0] - spectra[1]).max() < 1e-6 * np.abs(spectra[1]).max()


def test_postprocess(root, tmp_path):
    run("postprocess", tmp_path, in_half_map="Reconstruct/job026/half1.mrc", in_mask="masks/mask_fsc.mrc",
        pixel_size_angst=2.7, auto_bfactor_lowest_resolution_angst=15)  # fmt: skip
    ours, theirs = (
        read_star(p) for p in (tmp_path / "postprocess.star", "PostProcess/job037/postprocess.star")
    )
    for label, column in theirs["fsc"].columns.items():
        bound = 0.03 if "Randomized" in label else 0.01
        assert np.abs(ours["fsc"][label].astype(float) - column.astype(float)).max() <= bound, label
    a, b = (one["general"].row() for one in (ours, theirs))
    assert float(a["rlnFinalResolution"]) == pytest.approx(float(b["rlnFinalResolution"]), abs=1e-3)
    key = "rlnBfactorUsedForSharpening"
    assert float(a[key]) == pytest.approx(float(b[key]), rel=0.03)
    maps = [
        read_volume(p).data.ravel()
        for p in (tmp_path / "postprocess.mrc", "PostProcess/job037/postprocess.mrc")
    ]
    assert np.corrcoef(*maps)[0, 1] >= 0.999


def assert_same_star(ours: Path, theirs: Path) -> None:
    """Same tables, columns and values; image names from the job folder on."""
    a, b = read_star(ours), read_star(theirs)
    assert set(a) == set(b)
    for name, table in b.items():
        assert set(a[name].columns) == set(table.columns), name
        for label, column in table.columns.items():
            mine = a[name][label]
            if label in ("rlnImageName", "rlnCtfImage"):
                tails = [[str(v).split("Subtomograms/")[1] for v in c] for c in (mine, column)]
                assert tails[0] == tails[1], label
                continue
            try:
                x, y = mine.astype(float), column.astype(float)
            except ValueError:
                assert mine.tolist() == column.tolist(), label
            else:
                # RELION writes seven digits.
                np.testing.assert_allclose(x, y, rtol=2e-6, atol=6e-6, err_msg=label)


@pytest.mark.parametrize(
    ("reference", "options", "least"),
    [
        pytest.param("Extract/job024", {"box_size_px": 192, "crop_size_px": 96}, 6, id="bin 1"),
        pytest.param(
            "Extract/job013", {"box_size_px": 96, "crop_size_px": 48, "binning": 2}, 100, id="bin 2"
        ),
    ],
)
def test_extract(root, tmp_path, reference, options, least):
    run("extract", tmp_path, in_optimisation_set="Select/job023/optimisation_set.star", max_dose_e_per_angst2=50,
        float16=False, **options)  # fmt: skip
    assert_same_star(tmp_path / "particles.star", root / reference / "particles.star")
    stacks = sorted((root / reference).rglob("*_stack2d.mrcs"))
    assert len(stacks) >= least
    index = np.arange(options["crop_size_px"]) - options["crop_size_px"] // 2
    core = np.hypot(index[:, None], index) < len(index) / 2 - 5
    bias = []
    for path in stacks:
        mine = tmp_path / path.relative_to(root / reference)
        header = read_header(path)
        assert read_header(mine).shape_zyx == header.shape_zyx
        assert read_header(mine).pixel_size_angst == pytest.approx(header.pixel_size_angst, rel=1e-5)
        for i in range(header.shape_zyx[0]):
            a, b = (read_images([(p, i)])[0].astype(np.float64) for p in (mine, path))
            assert np.corrcoef(a.ravel(), b.ravel())[0, 1] >= 0.999999
            assert (a * b).sum() / (b * b).sum() == pytest.approx(1, abs=2e-4)
            # What is left is RELION's rounding to float16.
            assert np.abs(a - b).max() <= 2**-11 * np.abs(b).max() + 2e-3 * b.std()
            bias.append((a - b)[core].mean() / b[core].std())
    # Rounding averages out; a background that is two pixels off would leave 2e-4 at bin 2.
    assert np.sqrt(np.mean(np.square(bias))) < 3e-5


def test_extract_3d(root, tmp_path):
    run("extract", tmp_path, in_optimisation_set="Select/job023/optimisation_set_p40.star", max_dose_e_per_angst2=50,
        float16=False, stack2d=False, box_size_px=96, crop_size_px=48, binning=2)  # fmt: skip
    assert_same_star(tmp_path / "particles.star", root / "Extract/job030/particles.star")
    volumes = sorted((root / "Extract/job030").rglob("*.mrc"))
    assert len(volumes) >= 4
    for path in volumes:
        mine = tmp_path / path.relative_to(root / "Extract/job030")
        a, b = read_volume(mine), read_volume(path)
        assert a.pixel_size_angst == pytest.approx(b.pixel_size_angst, rel=1e-5)
        assert np.corrcoef(a.data.ravel(), b.data.ravel())[0, 1] >= 0.99999
        assert (a.data * b.data).sum() / (b.data**2).sum() == pytest.approx(1, abs=1e-3)


def test_remove_duplicates(root, tmp_path):
    """The same particles in the same order, kept and removed, every column as it was."""
    run("remove_duplicates", tmp_path, in_parts="Extract/job024/particles2.75.star", min_distance_angst=50)
    for name in ("particles.star", "particles_removed.star"):
        ours, theirs = (read_star(p)["particles"] for p in (tmp_path / name, f"Select/job028/{name}"))
        assert list(ours.columns) == list(theirs.columns)
        for label, column in theirs.columns.items():
            assert ours[label].tolist() == column.tolist(), label


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_reconstruct_on_cuda(root, tmp_path):
    from napari_sta.jobs._job import Context

    job = job_named("reconstruct").from_text(
        {"in_optimisation_set": "Select/job023/optimisation_set_p40.star", "box_size_px": 96, "crop_size_px": 48,
         "binning": 2, "wiener_snr": 0.1}
    )  # fmt: skip
    for _ in job.run(Context(tmp_path, device="cuda:0")):
        pass
    assert_same_map(tmp_path / "merged.mrc", root / "Reconstruct/job031/merged.mrc")
