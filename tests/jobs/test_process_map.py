"""Map operations: what each does to a known density, in which order, and what is refused."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from napari_sta.cli import main
from napari_sta.data.errors import InputError
from napari_sta.data.volume import Volume
from napari_sta.io.mrc import read_header, read_volume, write_stack, write_volume
from napari_sta.jobs._job import job_named
from napari_sta.kernels.rotations import symmetry_operators_zyx
from tiny_project import finish

PIXEL = 2.0


def blob(n, at_zyx_angst, pixel=PIXEL, sigma=5.0) -> np.ndarray:
    """A Gaussian at a place in Å from voxel n // 2."""
    index = (np.arange(n) - n // 2) * pixel
    z, y, x = np.meshgrid(index, index, index, indexing="ij")
    cz, cy, cx = at_zyx_angst
    return np.exp(-((z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2) / (2 * sigma**2)).astype(np.float32)


def job(path, **values):
    return job_named("process_map").from_text({"in_3dref": str(path), **values})


def process(path, out, **values):
    return finish(job(path, **values), out)


def result(out) -> Volume:
    return read_volume(out / "map.mrc")


@pytest.fixture
def lopsided(tmp_path):
    """Two Gaussians in a box of 32 at 2 Å."""
    path = tmp_path / "lopsided.mrc"
    data = blob(32, (4.0, -9.0, 11.0)) + 0.5 * blob(32, (-8.0, 3.0, -6.0))
    write_volume(path, Volume(data, PIXEL))
    return path


def test_shift(lopsided, tmp_path):
    record = process(lopsided, tmp_path / "out", shift_x_px=1.5, shift_y_px=-0.25, shift_z_px=2)
    expected = blob(32, (8.0, -9.5, 14.0)) + 0.5 * blob(32, (-4.0, 2.5, -3.0))
    np.testing.assert_allclose(result(tmp_path / "out").data, expected, atol=2e-3)
    assert record["operations"] == ["shift_x_px", "shift_y_px", "shift_z_px"]
    assert (record["box_size_px"], record["pixel_size_angst"]) == (32, 2.0)


def test_hand(lopsided, tmp_path):
    process(lopsided, tmp_path / "out", invert_hand="Yes")
    expected = blob(32, (4.0, -9.0, -11.0)) + 0.5 * blob(32, (-8.0, 3.0, 6.0))
    np.testing.assert_allclose(result(tmp_path / "out").data, expected, atol=1e-3)


def test_symmetry(lopsided, tmp_path):
    process(lopsided, tmp_path / "out", symmetry="d2")
    expected = sum(
        blob(32, turn @ [4.0, -9.0, 11.0]) + 0.5 * blob(32, turn @ [-8.0, 3.0, -6.0])
        for turn in symmetry_operators_zyx("D2")
    )
    np.testing.assert_allclose(result(tmp_path / "out").data, expected / 4, atol=1e-3)


def test_symmetry_leaves_corners_alone(tmp_path):
    write_volume(tmp_path / "flat.mrc", Volume(np.full((16,) * 3, 3.0, np.float32), PIXEL))
    process(tmp_path / "flat.mrc", tmp_path / "out", symmetry="C5")
    np.testing.assert_allclose(result(tmp_path / "out").data, 3.0, rtol=1e-6)


@pytest.mark.parametrize(("wanted", "size", "pixel"), [(4.0, 16, 4.0), (1.0, 64, 1.0), (3.0, 20, 3.2)])
def test_rescaling(lopsided, tmp_path, wanted, size, pixel):
    """The density stays where it is in Å and as high; the header says what an even box makes of the size."""
    one = job(lopsided, rescale_pixel_size_angst=wanted)
    finish(one, tmp_path / "out")
    found = result(tmp_path / "out")
    assert found.box_px == size
    assert found.pixel_size_angst == pytest.approx(pixel, rel=1e-6)
    expected = blob(size, (4.0, -9.0, 11.0), pixel) + 0.5 * blob(size, (-8.0, 3.0, -6.0), pixel)
    np.testing.assert_allclose(found.data, expected, atol=0.02 if wanted == 4 else 5e-3)
    said = one.warnings()
    assert bool(said) == (wanted == 3.0)
    if said:
        assert "becomes 3.2 Å, not 3 Å" in said[0]


@pytest.mark.parametrize("old", [31, 32])
def test_an_odd_box_becomes_even(tmp_path, old):
    write_volume(tmp_path / "in.mrc", Volume(blob(old, (4.0, -9.0, 11.0)), PIXEL))
    process(tmp_path / "in.mrc", tmp_path / "cut", box_size_px=26)
    np.testing.assert_allclose(result(tmp_path / "cut").data, blob(26, (4.0, -9.0, 11.0)), atol=1e-6)
    process(tmp_path / "in.mrc", tmp_path / "scaled", rescale_pixel_size_angst=2.4, box_size_px=40)
    found = result(tmp_path / "scaled")
    assert found.box_px == 40
    inner = slice(9, 31)
    expected = blob(40, (4.0, -9.0, 11.0), found.pixel_size_angst)
    np.testing.assert_allclose(found.data[inner, inner, inner], expected[inner, inner, inner], atol=5e-3)


def test_a_cubic_box_of_a_slab(tmp_path):
    data = np.arange(6 * 8 * 10, dtype=np.float32).reshape(6, 8, 10)
    write_volume(tmp_path / "slab.mrc", Volume(data, PIXEL))
    process(tmp_path / "slab.mrc", tmp_path / "out", box_size_px=8)
    found = result(tmp_path / "out").data
    np.testing.assert_array_equal(found[1:7], data[:, :, 1:9])
    assert not found[0].any()
    assert not found[7].any()
    with pytest.raises(InputError, match="10 x 8 x 6 voxels; --symmetry needs a cubic map"):
        job(tmp_path / "slab.mrc", symmetry="C2", box_size_px=8).check()


def wave(n, shell):
    return np.broadcast_to(np.cos(2 * np.pi * shell * np.arange(n) / n), (n, n, n)).astype(np.float32)


@pytest.mark.parametrize(
    ("values", "shell", "factor"),
    [
        # 40 px of 1.35 Å: 15 Å is shell 4 (54 / 15 = 3.6).
        pytest.param({"lowpass_angst": 15}, 3, 1.0, id="below a low-pass"),
        pytest.param({"lowpass_angst": 15}, 4, 0.5, id="at a low-pass"),
        pytest.param({"lowpass_angst": 15}, 5, 0.0, id="above a low-pass"),
        pytest.param({"highpass_angst": 15}, 3, 0.0, id="below a high-pass"),
        pytest.param({"highpass_angst": 15}, 4, 0.5, id="at a high-pass"),
        pytest.param({"highpass_angst": 15}, 9, 1.0, id="above a high-pass"),
        pytest.param({"bfactor_angst2": 50}, 8, np.exp(-50 / 4 * (8 / 54) ** 2), id="blurring"),
        pytest.param({"bfactor_angst2": -50}, 8, np.exp(50 / 4 * (8 / 54) ** 2), id="sharpening"),
        pytest.param({"invert_contrast": "Yes"}, 8, -1.0, id="contrast"),
        pytest.param({"lowpass_angst": 15, "bfactor_angst2": -90, "invert_contrast": "Yes"}, 4,
                     -0.5 * np.exp(90 / 4 * (4 / 54) ** 2), id="all of it"),
        pytest.param({"lowpass_angst": 7.5, "pixel_size_angst": 0.675}, 4, 0.5, id="pixel size by hand"),
    ],
)  # fmt: skip
def test_filters(tmp_path, values, shell, factor):
    before = wave(40, shell)
    write_volume(tmp_path / "in.mrc", Volume(before, 1.35))
    process(tmp_path / "in.mrc", tmp_path / "out", **values)
    np.testing.assert_allclose(result(tmp_path / "out").data, factor * before, atol=1e-5)


def test_the_order_of_operations(lopsided, tmp_path):
    """All at once is one after another: contrast, filters, hand, shift, symmetry, pixel size, box, clamping."""
    steps = (
        {"invert_contrast": "Yes"}, {"bfactor_angst2": -20}, {"lowpass_angst": 9}, {"highpass_angst": 60},
        {"invert_hand": "Yes"}, {"shift_x_px": 2.5, "shift_z_px": -1}, {"symmetry": "C3"},
        {"rescale_pixel_size_angst": 2.5}, {"box_size_px": 20}, {"clamp_low": -0.6, "clamp_high": 0.05},
    )  # fmt: skip
    together = {key: value for step in steps for key, value in step.items()}
    record = process(lopsided, tmp_path / "together", **together)
    path = lopsided
    for i, step in enumerate(steps):
        process(path, tmp_path / f"{i}", **step)
        path = tmp_path / f"{i}/map.mrc"
    np.testing.assert_allclose(
        result(tmp_path / "together").data, read_volume(path).data, atol=2e-5, err_msg="order"
    )
    assert record["operations"] == list(together)
    assert read_header(path).pixel_size_angst == pytest.approx(64 / 26)


def test_clamping(lopsided, tmp_path):
    before = read_volume(lopsided).data
    process(lopsided, tmp_path / "both", clamp_low=0.1, clamp_high=0.7)
    np.testing.assert_array_equal(
        result(tmp_path / "both").data, np.clip(before, 0.1, 0.7).astype(np.float32)
    )
    process(lopsided, tmp_path / "one", clamp_high=0)
    assert result(tmp_path / "one").data.max() == 0


def test_a_mask_of_another_pixel_size(tmp_path):
    """Rescaling rings beyond 0...1; clamping takes that off, and the mask fits its map."""
    mask = (blob(32, (0, 0, 0), sigma=9.0) > 0.3).astype(np.float32)
    write_volume(tmp_path / "mask.mrc", Volume(mask, PIXEL))
    process(tmp_path / "mask.mrc", tmp_path / "raw", rescale_pixel_size_angst=4, box_size_px=24)
    assert result(tmp_path / "raw").data.min() < -0.01
    process(
        tmp_path / "mask.mrc", tmp_path / "ok",
        rescale_pixel_size_angst=4, box_size_px=24, clamp_low=0, clamp_high=1,
    )  # fmt: skip
    found = result(tmp_path / "ok")
    assert (found.data.min(), found.data.max()) == (0.0, 1.0)
    assert found.data.sum() * 4.0**3 == pytest.approx(mask.sum() * 2.0**3, rel=0.1)


def test_the_pixel_size_alone_is_an_operation(lopsided, tmp_path):
    process(lopsided, tmp_path / "out", pixel_size_angst=2.1)
    found = result(tmp_path / "out")
    assert found.pixel_size_angst == pytest.approx(2.1)
    np.testing.assert_array_equal(found.data, read_volume(lopsided).data)


def test_progress_is_told_while_symmetrising(lopsided, tmp_path):
    from napari_sta.jobs._job import Context

    (tmp_path / "out").mkdir()
    steps = list(job(lopsided, symmetry="I1").run(Context(tmp_path / "out")))
    assert len(steps) > 60
    assert any("30 of 60" in step.message for step in steps)
    assert all(a.done <= b.done for a, b in pairwise(steps))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        pytest.param({}, "nothing to do: give at least one operation", id="nothing"),
        pytest.param({"symmetry": "C1"}, "nothing to do", id="C1 is nothing"),
        pytest.param({"symmetry": "Q2"}, "unknown symmetry Q2", id="symmetry"),
        pytest.param({"box_size_px": 25}, "box_size_px 25 is odd.*take 26", id="odd box"),
        pytest.param({"box_size_px": 0}, "--box_size_px 0", id="no box"),
        pytest.param({"clamp_low": 2, "clamp_high": 1}, "--clamp_low 2 is above --clamp_high 1", id="clamps"),
        pytest.param({"lowpass_angst": 0}, "--lowpass_angst 0", id="low-pass at 0"),
        pytest.param({"lowpass_angst": 3}, "--lowpass_angst 3 is finer than the map's Nyquist limit, 4 Å", id="Nyquist"),
        pytest.param({"highpass_angst": 3}, "--highpass_angst 3 is finer", id="high-pass beyond Nyquist"),
        pytest.param({"rescale_pixel_size_angst": 500}, "leaves no pixels of the map's 64 Å", id="too coarse"),
        pytest.param({"shift": 3}, "--shift is no option", id="typing error"),
    ],
)  # fmt: skip
def test_refused(lopsided, tmp_path, values, words):
    with pytest.raises(InputError, match=words) as error:
        process(lopsided, tmp_path / "out", **values)
    assert not (tmp_path / "out/map.mrc").exists()
    assert "\n" not in str(error.value)


def test_maps_that_cannot_be_used(tmp_path):
    write_stack(tmp_path / "stack.mrcs", np.ones((4, 8, 8), np.float32), PIXEL)
    with pytest.raises(InputError, match="holds 2D images"):
        job(tmp_path / "stack.mrcs", invert_hand="Yes").check()
    with pytest.raises(InputError, match=r"none\.mrc"):
        job(tmp_path / "none.mrc", invert_hand="Yes").check()


def test_wrong_input_on_the_command_line(lopsided, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["process_map", "--in_3dref", "lopsided.mrc", "--o", "out/"]) == 2
    assert "nothing to do" in capsys.readouterr().err
    assert main(["process_map", "--in_3dref", "lopsided.mrc", "--box_size_px", "33", "--o", "out/"]) == 2
    assert not (tmp_path / "out/map.mrc").exists()
    assert (
        main(["process_map", "--in_3dref", "lopsided.mrc", "--box_size_px", "24", "--o", "out/", "--quiet"])
        == 0
    )
    assert result(tmp_path / "out").box_px == 24


def test_relions_command_line(lopsided):
    one = job(
        lopsided, lowpass_angst=12, shift_z_px=-2.75, symmetry="c6", rescale_pixel_size_angst=4, box_size_px=16,
        invert_contrast="Yes", clamp_low=0,
    )  # fmt: skip
    assert one.relion_command("External/job004/") == (
        f"relion_image_handler --i {lopsided} --o External/job004/map.mrc --multiply_constant -1 --lowpass 12 "
        "--shift_z -2.75 --rescale_angpix 4 --new_box 16 --threshold_below 0 --sym C6"
    )
    # RELION's mirror starts again from the input: a filter before it would be lost.
    assert job(lopsided, invert_hand="Yes", lowpass_angst=12).relion_command("x/") is None
    assert (
        job(lopsided, invert_hand="Yes", box_size_px=16)
        .relion_command("x/")
        .endswith("--invert_hand --new_box 16")
    )
    assert (
        job(lopsided, pixel_size_angst=2.1)
        .relion_command("x/")
        .endswith("--angpix 2.1 --force_header_angpix 2.1")
    )
