"""MRC files."""

from __future__ import annotations

import errno
import os
import sys
import time

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
    from napari_sta.kernels.compiled import float16

    rounded = []
    round_to_half = float16.round_to_half
    monkeypatch.setattr(float16, "round_to_half", lambda *given: rounded.append(1) or round_to_half(*given))
    stack = (rng.normal(2, 3, (3, 40, 50)) * rng.choice([1, 1e-6, 100], (3, 40, 50))).astype(np.float32)
    stack[1] = 0
    mrc.write_stack(tmp_path / "compiled.mrcs", stack, 1.35, float16=True)
    assert rounded == [1], "the compiled kernel wrote the first file"
    monkeypatch.delitem(sys.modules, "numba")
    mrc.write_stack(tmp_path / "plain.mrcs", stack, 1.35, float16=True)
    assert rounded == [1], "and not the second"
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


# ---- headers as they are out there


def write_raw(path, data, cell=(0.0, 0.0, 0.0), label=b"", **words):
    """Write an MRC file word by word; ``words`` are numbers of 4-byte words, counted from 0, as w22=0."""
    d, h, w = data.shape
    mode = {"int8": 0, "uint8": 0, "int16": 1, "float32": 2, "complex64": 4}[data.dtype.name]
    head = np.zeros(256, "<i4")
    head[:4] = w, h, d, mode
    head[7:10] = w, h, d
    head[10:13] = np.asarray(cell, "<f4").view("<i4")
    head[16:19] = 1, 2, 3
    head[22] = 1
    head[52:54] = np.frombuffer(b"MAP \x44\x44\0\0", "<i4")
    for name, value in words.items():
        head[int(name[1:])] = value
    raw = bytearray(head.tobytes())
    raw[224 : 224 + len(label)] = label
    if label:
        raw[220:224] = (1).to_bytes(4, "little")
    path.write_bytes(bytes(raw) + data.tobytes())
    return path


CUBE = np.arange(64, dtype=np.float32).reshape(4, 4, 4)


@pytest.mark.parametrize(
    ("cell", "label", "expected"),
    [
        ((0, 0, 0), b"", "states no pixel size"),
        ((4, 4, 4), b"", "states no pixel size"),  # 1 Å, which nobody may have set
        ((4, 4, 4), b"RELION", "states no pixel size"),
        ((4, 4, 4), b"napari-sta 9.9", 1.0),
        ((0, 0, 0), b"napari-sta 9.9", "states no pixel size"),
        ((10.8, 10.8, 10.8), b"", 2.7),
        ((10.8, 10.8, 0), b"", 2.7),
        ((10.8, 10.8003, 10.7998), b"", 2.7),
        ((0, 10.8, 10.8), b"", "states no pixel size"),
        ((10.8, 10.8, 21.6), b"", "pixel sizes that differ (x 2.7, y 2.7, z 5.4 Å)"),
        ((10.8, 10.9, 10.8), b"", "pixel sizes that differ"),
        ((10.8, 10.8, 4), b"", "pixel sizes that differ"),
        ((-10.8, -10.8, -10.8), b"", "a pixel size that cannot be"),
        ((np.nan, 10.8, 10.8), b"", "a pixel size that cannot be"),
        ((np.inf, np.inf, np.inf), b"", "a pixel size that cannot be"),
        ((1e-38, 1e-38, 1e-38), b"", "a pixel size that cannot be"),
        ((1e30, 1e30, 1e30), b"", "a pixel size that cannot be"),
    ],
)
def test_an_unknown_pixel_size_stays_unknown(tmp_path, cell, label, expected):
    path = write_raw(tmp_path / "map.mrc", CUBE, cell, label)
    header, volume = mrc.read_header(path), mrc.read_volume(path)
    if isinstance(expected, float):
        assert header.pixel_size_angst == pytest.approx(expected, rel=1e-4)
        assert volume.pixel_size_angst == header.pixel_size_angst
        return
    assert header.pixel_size_angst is None
    assert volume.stated_pixel_size_angst is None
    with pytest.raises(InputError, match=r"map\.mrc states .* --pixel_size_angst") as error:
        _ = volume.pixel_size_angst
    assert expected in str(error.value)
    # Written again it is still unknown, and RELION's 1 Å at the most.
    mrc.write_volume(tmp_path / "again.mrc", volume)
    assert mrc.read_header(tmp_path / "again.mrc").pixel_size_angst is None
    assert mrcfile.open(tmp_path / "again.mrc").voxel_size.x == 0


@pytest.mark.parametrize("order", ["123", "132", "213", "231", "312", "321"])
def test_axes_are_put_in_order(tmp_path, order):
    """A map with another extent and another content along each axis, stored in every order of axes."""
    zyx = np.zeros((4, 5, 6), np.float32)
    zyx[1, 1, 1:5] = 4  # along x
    zyx[1, 1:4, 1] += 2  # along y
    zyx[1:3, 1, 1] += 1  # along z: a tripod has a hand
    axis = {"1": 2, "2": 1, "3": 0}
    stored = np.ascontiguousarray(zyx.transpose([axis[letter] for letter in reversed(order)]))
    path = write_raw(
        tmp_path / "map.mrc", stored, (6 * 2.0, 5 * 2.0, 4 * 2.0),
        **{f"w{16 + i}": int(letter) for i, letter in enumerate(order)}, w7=6, w8=5, w9=4,
    )  # fmt: skip
    header = mrc.read_header(path)
    assert header.shape_zyx == (4, 5, 6)
    assert header.pixel_size_angst == pytest.approx(2.0)
    back = mrc.read_volume(path)
    np.testing.assert_array_equal(back.data, zyx)
    assert back.data.flags.c_contiguous
    pieces = np.array([section.copy() for section in mrc.sections(header)])
    np.testing.assert_array_equal(pieces, stored)
    if order == "123":
        np.testing.assert_array_equal(mrc.read_images([(path, 2)])[0], zyx[2])
    else:
        with pytest.raises(InputError, match="keeps its axes in another order"):
            mrc.read_images([(path, 0)])
        with pytest.raises(InputError, match="keeps its axes in another order"):
            mrc.open_stack(path)


def test_axis_orders_that_are_none(tmp_path):
    old = write_raw(tmp_path / "old.mrc", CUBE, w16=0, w17=0, w18=0)
    np.testing.assert_array_equal(mrc.read_volume(old).data, CUBE)
    for order in ((1, 1, 3), (1, 2, 4), (0, 1, 2), (-1, 2, 3)):
        path = write_raw(tmp_path / "bad.mrc", CUBE, **{f"w{16 + i}": n for i, n in enumerate(order)})
        with pytest.raises(InputError, match=r"bad\.mrc .*axis order .*set it to 1, 2, 3"):
            mrc.read_header(path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"w0": 2**22, "w1": 2**21, "w2": 2**21}, "bytes are missing"),
        ({"w0": -4}, "no MRC file: its header says -4 x 4 x 4"),
        ({"w0": 0}, "no MRC file"),
        ({"w23": -320}, "extended header would be -320 bytes"),
        ({"w23": 2**31 - 1}, "header announces an extended header of that length"),
        ({"w23": 57600}, "is 57600 bytes too short: its header announces an extended header"),
        ({"w3": 3}, "mode 3 (complex integers)"),
        ({"w3": 4}, "mode 4 (complex numbers)"),
        ({"w3": 101}, "mode 101 (4-bit integers)"),
        ({"w3": -2}, "mode -2"),
    ],
)
def test_damaged_headers(tmp_path, words, said):
    path = write_raw(tmp_path / "map.mrc", CUBE, (10.8,) * 3, **words)
    began = time.perf_counter()
    for read in (mrc.read_volume, lambda one: mrc.read_images([(one, 0)]), mrc.open_stack):
        with pytest.raises(InputError) as error:
            read(path)
        assert said in str(error.value)
    assert not mrc.is_complete(path, (4, 4, 4))
    assert time.perf_counter() - began < 0.5


def test_short_by_something_else_is_truncated(tmp_path):
    path = write_raw(tmp_path / "map.mrc", CUBE, w23=320)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError, match="truncated: 324 bytes are missing"):
        mrc.read_volume(path)


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"\x1f\x8b\x08\0", "gunzip"),
        (b"BZh91AY", "bunzip2"),
        (b"\xfd7zXZ\0", "unxz"),
        (b"\x28\xb5\x2f\xfd", "unzstd"),
        (b"PK\3\4", "zip"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"II*\0\x08\0\0\0", "TIFF"),
        (b"MM\0*\0\0\0\x08", "TIFF"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"data_optics\n\nloop_\n_rlnOpticsGroup #1\n" * 9, "text, a STAR file"),
        (b"\xef\xbb\xbf# version 50001\n\ndata_\n\nloop_\n_rlnTomoName\n" * 9, "text, a STAR file"),
        (b"x,y,z\r\n1,2,3\r\n" * 40, "text, not an image (it begins with 'x,y,z')"),
        (b"", "it has 0 bytes"),
        (b"\0" * 1000, "it has 1000 bytes"),
        (b"\xff" * 1024, "its header says -1 x -1 x -1"),
    ],
)
@pytest.mark.parametrize("length", [0, 4096])
def test_other_files_are_named(tmp_path, start, said, length):
    path = tmp_path / "map.mrc"
    rest = b"\x07\xf3" * ((length - len(start)) // 2) if length and start and start[:1] != b"\0" else b""
    path.write_bytes(start + rest)
    with pytest.raises(InputError, match=r"map\.mrc is no MRC file") as error:
        mrc.read_header(path)
    assert said in str(error.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_and_devices_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.mrc")
    for path in (tmp_path / "pipe.mrc", "/dev/zero"):
        with pytest.raises(InputError, match="no regular file"):
            mrc.read_volume(path)


@pytest.mark.parametrize(
    ("stamp", "flags", "unsigned"), [(0, 0, False), (1146047817, 1, False), (1146047817, 0, True)]
)
def test_bytes_of_imod(tmp_path, stamp, flags, unsigned):
    data = np.array([0, 1, 127, 128, 200, 255] * 2, np.uint8).reshape(3, 2, 2)
    path = write_raw(tmp_path / "map.mrc", data, w38=stamp, w39=flags)
    expected = data if unsigned else data.view(np.int8)
    np.testing.assert_array_equal(mrc.read_volume(path).data, expected)
    np.testing.assert_array_equal(mrc.read_images([(path, 1)])[0], expected[1])


@pytest.mark.parametrize("stamp", [b"\x44\x44\0\0", b"\x11\x11\0\0", b"\0\0\0\0"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_byte_order_is_what_makes_sense(tmp_path, order, stamp):
    """Whatever the machine stamp says, which some programs leave behind when they swap bytes."""
    path = write_raw(tmp_path / "map.mrc", CUBE, (10.8,) * 3)
    raw = np.frombuffer(path.read_bytes(), "<i4").astype(f"{order}i4").tobytes()
    path.write_bytes(raw[:208] + b"MAP " + stamp + raw[216:])
    assert mrc.read_header(path).pixel_size_angst == pytest.approx(2.7)
    np.testing.assert_array_equal(mrc.read_volume(path).data, CUBE)


def test_a_header_that_says_stack(tmp_path):
    """A cube is a map for everyone, whatever its header calls it; another shape is what the header says."""
    cube = write_raw(tmp_path / "cube.mrc", CUBE, (10.8, 10.8, 2.7), w22=0, w9=1)
    assert not mrc.read_header(cube).is_stack
    assert mrc.read_volume(cube).pixel_size_angst == pytest.approx(2.7)
    tilts = write_raw(tmp_path / "tilts.mrc", np.zeros((3, 4, 4), np.float32), (10.8, 10.8, 1), w22=0, w9=1)
    assert mrc.read_header(tilts).is_stack
    assert mrc.read_header(tilts).pixel_size_angst == pytest.approx(2.7)
    with pytest.raises(InputError, match=r"stack of 2D images by its header \(ISPG 0, mz 1\)"):
        mrc.read_volume(tilts)
    slab = write_raw(tmp_path / "slab.mrc", np.zeros((3, 4, 4), np.float32), w22=0, w9=3)
    assert not mrc.read_header(slab).is_stack


def test_a_file_that_shrinks_while_it_is_read(tmp_path, monkeypatch):
    """As when another program writes it anew: mapped memory would end the process."""
    path = write_raw(tmp_path / "map.mrc", np.zeros((64, 64, 64), np.float32))
    original = mrc.check_complete

    def then_cut(header):
        original(header)
        os.truncate(path, 200_000)

    monkeypatch.setattr(mrc, "check_complete", then_cut)
    whole = path.read_bytes()
    for read in (
        mrc.read_volume,
        lambda one: mrc.read_images([(one, 63)]),
        lambda one: list(mrc.sections(mrc.read_header(one))),
    ):
        path.write_bytes(whole)
        with pytest.raises(InputError, match="became shorter while it was read"):
            read(path)
