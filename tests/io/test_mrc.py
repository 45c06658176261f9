"""MRC files."""

from __future__ import annotations

import errno
import os
import sys

import numpy as np
import pytest

from napari_sta.data.errors import InputError, JobError
from napari_sta.data.volume import Volume
from napari_sta.io import mrc

mrcfile = pytest.importorskip("mrcfile")


@pytest.fixture
def volume(rng) -> Volume:
    return Volume(rng.normal(2, 3, (4, 5, 6)).astype(np.float32), 1.35)


@pytest.mark.parametrize("float16", [False, True])
def test_round_trip_and_a_valid_header(tmp_path, volume, float16):
    path = tmp_path / "map.mrc"
    mrc.write_volume(path, volume, float16=float16)
    back = mrc.read_volume(path)
    assert back.data.dtype == np.float32
    assert back.data.flags.c_contiguous
    assert back.data.shape == (4, 5, 6)
    np.testing.assert_allclose(back.data, volume.data, rtol=1e-3 if float16 else 0)
    assert back.pixel_size_angst == pytest.approx(1.35, rel=1e-6)
    assert mrcfile.validate(path)
    header = mrc.read_header(path)
    assert header.mode == (12 if float16 else 2)
    assert header.minimum == pytest.approx(back.data.min())
    assert header.mean == pytest.approx(back.data.mean(), abs=1e-5)
    assert header.rms == pytest.approx(back.data.std(), rel=1e-5)
    assert header.labels[0].startswith("napari-sta ")
    with mrcfile.open(path) as file:
        assert int(file.header.ispg) == 1
        assert [int(file.header[name]) for name in ("nxstart", "nystart", "nzstart")] == [0, 0, 0]
        assert file.header.origin.tolist() == (0, 0, 0)


def test_compiled_rounding_writes_the_same_file(tmp_path, monkeypatch, rng):
    """With and without the kernel that is there when many stacks are written."""
    import numba  # noqa: F401

    stack = (rng.normal(2, 3, (3, 40, 50)) * rng.choice([1, 1e-6, 100], (3, 40, 50))).astype(np.float32)
    stack[1] = 0
    mrc.write_stack(tmp_path / "compiled.mrcs", stack, 1.35, float16=True)
    monkeypatch.delitem(sys.modules, "numba")
    mrc.write_stack(tmp_path / "plain.mrcs", stack, 1.35, float16=True)
    one, two = ((tmp_path / f"{name}.mrcs").read_bytes() for name in ("compiled", "plain"))
    assert one[1024:] == two[1024:]
    np.testing.assert_array_equal(np.frombuffer(two[1024:], "<f2"), stack.astype("<f2").ravel())
    headers = [mrc.read_header(tmp_path / f"{name}.mrcs") for name in ("compiled", "plain")]
    for name in ("minimum", "maximum", "mean", "rms"):
        assert getattr(headers[0], name) == pytest.approx(getattr(headers[1], name), rel=1e-6)


@pytest.mark.parametrize(
    ("dtype", "mode"),
    [(np.int8, 0), (np.int16, 1), (np.float32, 2), (np.uint16, 6), (np.float16, 12)],
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_modes_and_byte_orders_of_other_programs(tmp_path, dtype, mode, order):
    data = np.arange(24).reshape(2, 3, 4).astype(np.dtype(dtype).newbyteorder(order))
    with mrcfile.new(tmp_path / "x.mrc") as file:
        file.set_data(data)
    assert mrc.read_header(tmp_path / "x.mrc").mode == mode
    np.testing.assert_array_equal(mrc.read_volume(tmp_path / "x.mrc").data, np.arange(24).reshape(2, 3, 4))


def test_extended_header_is_skipped(tmp_path):
    data = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    with mrcfile.new(tmp_path / "x.mrc") as file:
        file.set_data(data)
        file.set_extended_header(np.frombuffer(b"x" * 320, dtype="V1"))
    assert mrc.read_header(tmp_path / "x.mrc").data_offset == 1024 + 320
    np.testing.assert_array_equal(mrc.read_volume(tmp_path / "x.mrc").data, data)


def test_relions_own_stack(data):
    path = data / "project/Extract/job013/Subtomograms/TS_03/6_stack2d.mrcs"
    header = mrc.read_header(path)
    assert header.shape_zyx == (20, 48, 48)
    assert header.mode == 12
    assert header.is_stack
    assert header.pixel_size_angst == pytest.approx(5.4)
    # RELION sets no z pixel size for stacks.
    assert header.pixel_size_zyx_angst[0] == pytest.approx(1.0)
    images = mrc.read_images([(path, 3), (path, 0)])
    with mrcfile.open(path) as file:
        np.testing.assert_array_equal(images, file.data[[3, 0]].astype(np.float32))
    assert images.dtype == np.float32
    assert mrc.image_size_yx_px(path) == (48, 48)
    with pytest.raises(InputError, match="stack of 2D images"):
        mrc.read_volume(path)


def test_our_stacks_have_relions_pixel_sizes(tmp_path, rng):
    mrc.write_stack(tmp_path / "x.mrcs", rng.normal(size=(3, 4, 6)), 2.7, float16=True)
    header = mrc.read_header(tmp_path / "x.mrcs")
    assert header.pixel_size_zyx_angst == pytest.approx((1.0, 2.7, 2.7))
    assert mrc.image_size_yx_px(tmp_path / "x.mrcs") == (4, 6)


def test_images_from_several_files_keep_their_order(tmp_path):
    for number in range(3):
        mrc.write_stack(
            tmp_path / f"{number}.mrcs", np.full((2, 3, 4), number) + np.arange(2)[:, None, None] / 2, 1.0
        )
    images = mrc.read_images([(tmp_path / "2.mrcs", 1), (tmp_path / "0.mrcs", 0), (tmp_path / "2.mrcs", 0)])
    assert images[:, 0, 0].tolist() == [2.5, 0, 2]


def test_missing_truncated_and_foreign_files(tmp_path, volume):
    with pytest.raises(InputError, match=r"nope\.mrc does not exist"):
        mrc.read_volume(tmp_path / "nope.mrc")
    path = tmp_path / "map.mrc"
    mrc.write_volume(path, volume)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"map\.mrc is truncated: 100 bytes are missing"):
        mrc.read_volume(path)
    with pytest.raises(InputError, match="100 bytes are missing"):
        mrc.read_images([(path, 0)])
    path.write_bytes(b"hello")
    with pytest.raises(InputError, match="no MRC file"):
        mrc.read_volume(path)
    path.write_bytes(b"data_optics\n\nloop_\n" * 200)
    with pytest.raises(InputError, match="MRC"):
        mrc.read_volume(path)
    with pytest.raises(InputError, match="is a folder"):
        mrc.read_header(tmp_path)


def test_values_that_are_no_numbers(tmp_path, volume):
    data = volume.data.copy()
    data[1, 2, 3], data[0, 0, 0] = np.nan, np.inf
    with mrcfile.new(tmp_path / "bad.mrc") as file:
        file.set_data(data)
    with pytest.raises(InputError, match=r"bad\.mrc holds 2 voxels"):
        mrc.read_volume(tmp_path / "bad.mrc")
    with pytest.raises(InputError, match=r"bad\.mrc, image 2 holds values"):
        mrc.read_images([(tmp_path / "bad.mrc", 1)])
    with pytest.raises(JobError, match="not finite"):
        mrc.write_volume(tmp_path / "new.mrc", Volume(data, 1.0))
    with pytest.raises(JobError, match="do not fit float16"):
        mrc.write_volume(tmp_path / "new.mrc", Volume(volume.data * 1e6, 1.0), float16=True)
    assert not (tmp_path / "new.mrc").exists()


def test_wrong_shapes(tmp_path, volume):
    with mrcfile.new(tmp_path / "image.mrc") as file:
        file.set_data(volume.data[0])
    with pytest.raises(InputError, match="single 2D image"):
        mrc.read_volume(tmp_path / "image.mrc")
    mrc.write_stack(tmp_path / "a.mrcs", np.zeros((2, 3, 4)), 1.0)
    mrc.write_stack(tmp_path / "b.mrcs", np.zeros((2, 3, 5)), 1.0)
    with pytest.raises(InputError, match="differ in size"):
        mrc.read_images([(tmp_path / "a.mrcs", 0), (tmp_path / "b.mrcs", 0)])
    with pytest.raises(InputError, match=r"2 images, so there is no image number 3"):
        mrc.read_images([(tmp_path / "a.mrcs", 2)])
    with pytest.raises(ValueError, match="three axes"):
        mrc.write_volume(tmp_path / "x.mrc", Volume(volume.data[0], 1.0))


def test_full_disk_leaves_the_old_file(tmp_path, volume, monkeypatch):
    path = tmp_path / "map.mrc"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(JobError, match=r"map\.mrc could not be written: the disk is full"):
        mrc.write_volume(path, volume)
    assert path.read_bytes() == b"old"
    assert [one.name for one in tmp_path.iterdir()] == ["map.mrc"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_really_full_device(tmp_path, volume, monkeypatch):
    from contextlib import contextmanager

    from napari_sta.io import files

    original = files.replacing

    @contextmanager
    def onto_full_device(path):
        with original(path) as temporary:
            os.symlink("/dev/full", temporary)
            yield temporary

    monkeypatch.setattr(mrc, "replacing", onto_full_device)
    with pytest.raises(JobError, match="disk is full"):
        mrc.write_volume(tmp_path / "map.mrc", Volume(np.zeros((64, 64, 64), np.float32), 1.0))
    assert list(tmp_path.iterdir()) == []
