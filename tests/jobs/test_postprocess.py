"""Postprocess: planted resolution and B-factor, RELION's tables, and what is refused."""

from __future__ import annotations

import logging
import shutil

import numpy as np
import pytest
import torch

from napari_sta.data.errors import InputError
from napari_sta.data.volume import Volume
from napari_sta.io.mrc import read_volume, write_volume
from napari_sta.io.star import read_star, table, write_star
from napari_sta.jobs._job import job_named
from napari_sta.kernels import fourier
from napari_sta.kernels.filters import fsc_weight
from tiny_project import finish

SIZE, PIXEL, BFACTOR = 48, 2.0, 180.0


def ball(radius: float, edge: float = 4.0) -> np.ndarray:
    index = np.arange(SIZE) - SIZE // 2
    r = np.sqrt(index[:, None, None] ** 2 + index[:, None] ** 2 + index**2)
    return np.clip((radius + edge - r) / edge, 0, 1).astype(np.float32)


def write_halves(root, noise):
    """White signal inside a ball, damped by B = 180 Å², with white noise."""
    rng = np.random.default_rng(6)
    k = fourier.radius_px((SIZE,) * 3) / (SIZE * PIXEL)
    signal = torch.fft.rfftn(torch.from_numpy(rng.normal(size=(SIZE,) * 3) * ball(14)))
    signal = torch.fft.irfftn(signal * torch.exp(-BFACTOR / 4 * k * k), s=(SIZE,) * 3).numpy()
    for half in (1, 2):
        noisy = signal + noise * rng.normal(size=signal.shape)
        write_volume(root / f"half{half}.mrc", Volume(noisy.astype(np.float32), PIXEL))
    write_volume(root / "mask.mrc", Volume(ball(15), PIXEL))
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_halves(tmp_path_factory.mktemp("halves"), 0.25)


def postprocess(folder, out, **values):
    given = {"in_half_map": str(folder / "half1.mrc"), "in_mask": str(folder / "mask.mrc"), **values}
    job = job_named("postprocess").from_text({k: v for k, v in given.items() if v is not None})
    job.check()
    return finish(job, out)


@pytest.fixture(scope="module")
def result(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return postprocess(folder, out, auto_bfactor_lowest_resolution_angst=12), out


def test_files(result):
    _, out = result
    names = {p.name for p in out.iterdir()}
    assert {
        "postprocess.mrc", "postprocess_masked.mrc", "postprocess.star", "postprocess_fsc.xml", "logfile.pdf"
    } <= names  # fmt: skip
    whole, masked = (read_volume(out / name).data for name in ("postprocess.mrc", "postprocess_masked.mrc"))
    np.testing.assert_allclose(masked, whole * ball(15), rtol=1e-6)


def test_planted_bfactor(tmp_path):
    """The fit finds what damped the signal where noise does not hide it."""
    folder = write_halves(tmp_path, 0.02)
    record = postprocess(folder, tmp_path / "out", auto_bfactor_lowest_resolution_angst=12)
    assert record["bfactor_angst2"] == pytest.approx(-BFACTOR, rel=0.15)
    assert record["pixel_size_angst"] == PIXEL
    assert record["nyquist_angst"] == 4.0


def test_tables_hold_together(result):
    record, out = result
    tables = read_star(out / "postprocess.star")
    general, curves, plot = tables["general"].row(), tables["fsc"], tables["guinier"]
    column = {label: curves[label].astype(float) for label in curves.columns}
    assert float(general["rlnFinalResolution"]) == pytest.approx(record["resolution_angst"], abs=1e-3)
    assert float(general["rlnBfactorUsedForSharpening"]) == pytest.approx(
        4 * float(general["rlnFittedSlopeGuinierPlot"]), rel=1e-4
    )
    corrected = column["rlnFourierShellCorrelationCorrected"]
    masked = column["rlnFourierShellCorrelationMaskedMaps"]
    randomised = column["rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps"]
    unmasked = column["rlnFourierShellCorrelationUnmaskedMaps"]
    start = int(np.flatnonzero(unmasked[1:] < 0.8)[0]) + 1
    assert float(general["rlnRandomiseFrom"]) == pytest.approx(SIZE * PIXEL / start, rel=1e-5)
    tail = slice(start + 2, None)
    np.testing.assert_allclose(
        corrected[tail], (masked[tail] - randomised[tail]) / (1 - randomised[tail]), atol=3e-6
    )
    np.testing.assert_allclose(corrected[: start + 2], masked[: start + 2])
    # The share of the box that protein would fill, as cisTEM estimates it.
    fraction = 0.476 / (ball(15) > 0.5).mean()
    part = column["rlnFourierShellCorrelationParticleMaskFraction"]
    np.testing.assert_allclose(part, fraction * unmasked / (1 + (fraction - 1) * unmasked), atol=3e-6)
    below = int(np.flatnonzero(corrected < 0.143)[0])
    assert record["resolution_angst"] == pytest.approx(SIZE * PIXEL / (below - 1), abs=1e-3)
    assert column["rlnResolution"][0] == pytest.approx(1 / 999, rel=1e-3)
    assert column["rlnAngstromResolution"][5] == pytest.approx(SIZE * PIXEL / 5)
    assert plot["rlnResolutionSquared"].astype(float)[6] == pytest.approx((6 / (SIZE * PIXEL)) ** 2, rel=1e-4)
    # Weighted amplitudes are the original ones times the FSC weight.
    weight = fsc_weight(torch.from_numpy(corrected)).numpy()
    seen = weight > 0
    gain = plot["rlnLogAmplitudesWeighted"].astype(float) - plot["rlnLogAmplitudesOriginal"].astype(float)
    np.testing.assert_allclose(gain[seen], np.log(weight[seen]), atol=2e-5)


def test_the_map_is_the_mean_filtered(folder, tmp_path):
    """An ad-hoc B-factor and low-pass, no FSC weights: every step by hand."""
    record = postprocess(
        folder, tmp_path, adhoc_bfactor_angst2=-100, skip_fsc_weighting="Yes", lowpass_angst=9
    )
    assert record["bfactor_angst2"] == -100
    mean = (read_volume(folder / "half1.mrc").data.astype(float) + read_volume(folder / "half2.mrc").data) / 2
    axes = [np.fft.fftfreq(SIZE, 1 / SIZE), np.fft.fftfreq(SIZE, 1 / SIZE), np.fft.rfftfreq(SIZE, 1 / SIZE)]
    r = np.sqrt(sum(g * g for g in np.meshgrid(*axes, indexing="ij")))
    spectrum = np.fft.rfftn(mean) * np.exp(100 / 4 * (r / (SIZE * PIXEL)) ** 2) * (r <= SIZE / 2)
    shell = round(SIZE * PIXEL / 9)
    edge = 0.5 + 0.5 * np.cos(np.pi * (r - (shell - 1)) / 2)
    spectrum *= np.where(r < shell - 1, 1, np.where(r > shell + 1, 0, edge))
    expected = np.fft.irfftn(spectrum, s=(SIZE,) * 3)
    np.testing.assert_allclose(
        read_volume(tmp_path / "postprocess.mrc").data, expected, atol=1e-5 * np.abs(expected).max()
    )


def test_either_half_gives_the_same(folder, tmp_path):
    postprocess(folder, tmp_path / "a", adhoc_bfactor_angst2=-50)
    postprocess(folder, tmp_path / "b", adhoc_bfactor_angst2=-50, in_half_map=str(folder / "half2.mrc"))
    a, b = (read_volume(tmp_path / f"{x}/postprocess.mrc").data for x in "ab")
    np.testing.assert_array_equal(a, b)
    general = read_star(tmp_path / "b/postprocess.star")["general"].row()
    assert general["rlnUnfilteredMapHalf1"].endswith("half1.mrc")
    assert general["rlnUnfilteredMapHalf2"].endswith("half2.mrc")


def test_without_mask(folder, tmp_path):
    postprocess(folder, tmp_path, in_mask=None, auto_bfactor="No")
    tables = read_star(tmp_path / "postprocess.star")
    assert "rlnFourierShellCorrelationUnmaskedMaps" in tables["fsc"]
    assert "rlnFourierShellCorrelationMaskedMaps" not in tables["fsc"]
    assert "rlnMaskName" not in tables["general"]
    assert not (tmp_path / "postprocess_masked.mrc").exists()


def test_mtf(folder, tmp_path):
    rho = np.linspace(0, 0.5, 51)
    write_star(tmp_path / "mtf.star", [table("", {"rlnResolutionInversePixel": rho, "rlnMtfValue": 1 - rho})])
    options = {"auto_bfactor": "No", "skip_fsc_weighting": "Yes"}
    postprocess(folder, tmp_path / "plain", **options)
    postprocess(
        folder, tmp_path / "mtf", mtf_file=str(tmp_path / "mtf.star"), mtf_pixel_size_angst=PIXEL, **options
    )
    plain, divided = (
        np.fft.rfftn(read_volume(tmp_path / f"{x}/postprocess.mrc").data) for x in ("plain", "mtf")
    )
    assert divided[0, 0, 12] / plain[0, 0, 12] == pytest.approx(1 / 0.75, rel=0.02)
    assert divided[0, 0, 2] / plain[0, 0, 2] == pytest.approx(1 / (1 - 2 / 48), rel=0.02)


def test_a_useless_mask_is_ignored_and_said_so(folder, tmp_path, caplog):
    """A mask beside the density: the unmasked FSC reaches further and is taken, unless forced."""
    beside = np.roll(ball(6, 2.0), (16, 14), (0, 1))
    write_volume(tmp_path / "beside.mrc", Volume(beside, PIXEL))
    with caplog.at_level(logging.WARNING):
        record = postprocess(
            folder, tmp_path / "a", in_mask=str(tmp_path / "beside.mrc"), adhoc_bfactor_angst2=0
        )
    assert "the mask was ignored" in caplog.text
    bare = postprocess(folder, tmp_path / "b", in_mask=None, adhoc_bfactor_angst2=0)
    assert record["resolution_angst"] == bare["resolution_angst"]
    options = {"in_mask": str(tmp_path / "beside.mrc"), "adhoc_bfactor_angst2": 0, "force_mask": "Yes"}
    assert postprocess(folder, tmp_path / "c", **options)["resolution_angst"] > record["resolution_angst"]


def test_a_mask_on_another_grid_is_resampled(folder, tmp_path):
    index = (np.arange(36) - 18) * 3.0
    r = np.sqrt(index[:, None, None] ** 2 + index[:, None] ** 2 + index**2)
    write_volume(tmp_path / "coarse.mrc", Volume(np.clip((38 - r) / 8, 0, 1).astype(np.float32), 3.0))
    options = {"in_mask": str(tmp_path / "coarse.mrc"), "adhoc_bfactor_angst2": 0}
    coarse = postprocess(folder, tmp_path / "a", **options)
    [said] = job_named("postprocess")(in_half_map=str(folder / "half1.mrc"), **options).warnings()
    assert "coarse.mrc (36 px at 3 Å) is resampled to the grid of the map (48 px at 2 Å)" in said
    fine = postprocess(folder, tmp_path / "b", adhoc_bfactor_angst2=0)
    assert coarse["resolution_angst"] == pytest.approx(fine["resolution_angst"], rel=0.12)


def test_pixel_size_given_by_hand(folder, tmp_path):
    record = postprocess(folder, tmp_path, pixel_size_angst=2.2, in_mask=None, adhoc_bfactor_angst2=0)
    assert record["nyquist_angst"] == 4.4
    assert read_volume(tmp_path / "postprocess.mrc").pixel_size_angst == pytest.approx(2.2)
    header = postprocess(folder, tmp_path / "x", pixel_size_angst=-1, in_mask=None, adhoc_bfactor_angst2=0)
    assert header["pixel_size_angst"] == PIXEL


@pytest.fixture
def spoilt(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "spoilt")


def refused(folder, out, **values) -> str:
    with pytest.raises(InputError) as error:
        postprocess(folder, out, **values)
    assert not list(out.glob("*.mrc"))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_partner_missing(spoilt, tmp_path):
    (spoilt / "half2.mrc").unlink()
    assert f"{spoilt / 'half2.mrc'} is missing; both half maps must be in the folder" in refused(
        spoilt, tmp_path / "o"
    )


def test_name_without_half(spoilt, tmp_path):
    said = refused(spoilt, tmp_path / "o", in_half_map=str(spoilt / "mask.mrc"))
    assert "must contain half1 or half2" in said


def test_identical_halves(spoilt, tmp_path):
    shutil.copy(spoilt / "half1.mrc", spoilt / "half2.mrc")
    assert "hold the same map; two independent halves are needed" in refused(spoilt, tmp_path / "o")


def test_halves_that_agree_everywhere(spoilt, tmp_path):
    first = read_volume(spoilt / "half1.mrc")
    write_volume(spoilt / "half2.mrc", Volume(first.data * 1.01, PIXEL))
    assert "the unmasked FSC never falls below 0.8" in refused(spoilt, tmp_path / "o")


@pytest.mark.parametrize(
    ("shape", "words"),
    [((40, 40, 40), "differ in box size"), ((48, 48, 50), "needs a cubic map")],
)
def test_halves_of_different_boxes(spoilt, tmp_path, shape, words):
    write_volume(spoilt / "half2.mrc", Volume(np.ones(shape, np.float32), PIXEL))
    assert words in refused(spoilt, tmp_path / "o")


def test_odd_boxes(spoilt, tmp_path):
    for half in (1, 2):
        data = np.random.default_rng(half).normal(size=(31, 31, 31)).astype(np.float32)
        write_volume(spoilt / f"half{half}.mrc", Volume(data, PIXEL))
    assert "has an odd box (31 px)" in refused(spoilt, tmp_path / "o")


def test_not_a_number(spoilt, tmp_path):
    raw = np.memmap(spoilt / "half2.mrc", np.float32, "r+", offset=1024, shape=(SIZE,) * 3)
    raw[3, 4, 5] = np.nan
    raw.flush()
    said = refused(spoilt, tmp_path / "o")
    assert "half2.mrc holds 1 voxels that are not finite numbers" in said


def test_truncated(spoilt, tmp_path):
    with open(spoilt / "half2.mrc", "r+b") as file:
        file.truncate(50_000)
    assert "half2.mrc is truncated" in refused(spoilt, tmp_path / "o")


def test_mask_values(spoilt, tmp_path):
    write_volume(spoilt / "mask.mrc", Volume(ball(15) * 1.1 - 0.05, PIXEL))
    said = refused(spoilt, tmp_path / "o")
    assert "must lie between 0 and 1, these run from -0.05 to 1.05" in said
    assert (
        postprocess(spoilt, tmp_path / "c", clamp_mask="Yes", adhoc_bfactor_angst2=0)["resolution_angst"] < 20
    )


def test_empty_mask(spoilt, tmp_path):
    write_volume(spoilt / "mask.mrc", Volume(np.zeros((SIZE,) * 3, np.float32), PIXEL))
    assert "is empty: all voxels are 0" in refused(spoilt, tmp_path / "o")


def test_fit_without_shells(folder, tmp_path, caplog):
    record = postprocess(folder, tmp_path / "o", auto_bfactor_lowest_resolution_angst=4.05)
    assert record["bfactor_angst2"] == 0
    assert "not sharpened, because no B-factor can be fitted" in caplog.text


def test_mtf_that_is_none(folder, tmp_path):
    write_star(
        tmp_path / "bad.star",
        [table("", {"rlnResolutionInversePixel": [0, 0.2, 0.4], "rlnMtfValue": [1, 0, 0.1]})],
    )
    assert "values above 0" in refused(folder, tmp_path / "o", mtf_file=str(tmp_path / "bad.star"))
    write_star(tmp_path / "none.star", [table("", {"rlnVoltage": [300]})])
    assert "none.star" in refused(folder, tmp_path / "o", mtf_file=str(tmp_path / "none.star"))


def test_command_of_relion():
    values = {
        "in_half_map": "R/half1.mrc",
        "in_mask": "m.mrc",
        "pixel_size_angst": 2.7,
        "auto_bfactor_lowest_resolution_angst": 15,
    }
    expected = "relion_postprocess --i R/half1.mrc --o P/postprocess --mask m.mrc --angpix 2.7 --auto_bfac --autob_lowres 15"
    assert job_named("postprocess").from_text(values).relion_command("P/") == expected
