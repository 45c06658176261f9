"""MRC files: maps, masks and image stacks.

The pixel size is cell / m, and unknown where the header gives none: RELION takes 1 Å then. Unlike RELION we
put axes in the order that the header gives (mapc, mapr, maps), so that arrays are zyx always. Origin words
are ignored on reading and written as 0.
"""

from __future__ import annotations

import codecs
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import napari_sta
from napari_sta.data.errors import InputError, JobError
from napari_sta.data.memory import check_memory
from napari_sta.data.volume import NO_PIXEL_SIZE, Volume
from napari_sta.io.files import check_is_file, replacing

MODES = {0: "int8", 1: "int16", 2: "float32", 6: "uint16", 12: "float16"}
"""MRC modes that we read, as RELION does."""

LARGEST_VALUE = 1e15
"""Larger voxels are damage: their squares, summed over a box, leave the range of float32."""

_UNREAD_MODES = {3: "complex integers", 4: "complex numbers", 16: "colours", 101: "4-bit integers"}
_STACK_SUFFIXES = {".mrcs", ".st"}
_HEADER_BYTES = 1024
_MOST_PX = 10**7
_IMOD_STAMP = 1146047817
_PIXEL_SIZES_ANGST = (1e-3, 1e6)
"""What lies outside is a damaged header."""

_MAGIC = {
    b"\x1f\x8b": "compressed (gzip): gunzip it first",
    b"BZh": "compressed (bzip2): bunzip2 it first",
    b"\xfd7zXZ": "compressed (xz): unxz it first",
    b"\x28\xb5\x2f\xfd": "compressed (zstd): unzstd it first",
    b"PK\3\4": "a zip archive: unzip it first",
    b"\x89HDF\r\n": "an HDF5 file: convert it to MRC, for example with e2proc3d.py",
    b"II*\0": "a TIFF file: convert it to MRC, for example with tif2mrc",
    b"MM\0*": "a TIFF file: convert it to MRC, for example with tif2mrc",
    b"II+\0": "a TIFF file: convert it to MRC, for example with tif2mrc",
    b"\x89PNG": "a PNG picture: name the map it shows",
    b"\xff\xd8\xff": "a JPEG picture: name the map it shows",
    b"%PDF": "a PDF document: name the map it shows",
    b"\x93NUMPY": "a numpy array: convert it to MRC, for example with mrcfile.write",
}


@dataclass(frozen=True)
class MrcHeader:
    """What an MRC header says.

    Attributes
    ----------
    shape_zyx
        Slices, rows, columns, whatever order the file keeps them in.
    mode
        0, 1, 2, 6 or 12; see :data:`MODES`.
    pixel_size_zyx_angst
        Cell / m along each axis, as written; 0 where the header has none.
    data_offset
        Bytes before the first voxel.
    missing_bytes
        By how much the file is shorter than the header says; 0 if complete.
    minimum, maximum, mean, rms
        As written in the header, not computed.
    labels
        Text lines.
    says_stack
        Whether the header, other than the file's ending, declares a stack of 2D images (ISPG 0, mz 1).
    stored_axes
        For z, y and x, which axis of the stored array it is; (0, 1, 2) in almost every file.
    """

    path: str
    shape_zyx: tuple[int, int, int]
    mode: int
    dtype: np.dtype[np.generic]
    pixel_size_zyx_angst: tuple[float, float, float]
    data_offset: int
    missing_bytes: int
    minimum: float
    maximum: float
    mean: float
    rms: float
    labels: tuple[str, ...]
    says_stack: bool = False
    stored_axes: tuple[int, int, int] = (0, 1, 2)

    @property
    def pixel_size_angst(self) -> float | None:
        """Å per pixel; None where the header does not tell (see :attr:`why_no_pixel_size`)."""
        return None if self.why_no_pixel_size else self.pixel_size_zyx_angst[2]

    @property
    def why_no_pixel_size(self) -> str:
        """Why the header gives no pixel size: words that follow the file's name; empty if it gives one.

        Exactly 1 Å is what many programs write where nothing was set, and what RELION reads where there is
        nothing; in our own files it is meant.
        """
        z, y, x = self.pixel_size_zyx_angst
        # Images have no pixel size along z, whatever is written there.
        sizes = (y, x) if self.is_image else (z, y, x)
        if not all(math.isfinite(one) and one >= 0 for one in sizes):
            return f"states a pixel size that cannot be ({x:.4g} x {y:.4g} x {z:.4g} Å)"
        if x == 0 or (all(one == 0 or abs(one - 1) < 1e-6 for one in sizes) and not self.is_ours):
            return NO_PIXEL_SIZE
        if not _PIXEL_SIZES_ANGST[0] <= x <= _PIXEL_SIZES_ANGST[1]:
            return f"states a pixel size that cannot be ({x:.4g} Å)"
        if any(one > 0 and abs(one / x - 1) > 1e-3 for one in sizes):
            return f"states pixel sizes that differ (x {x:.4g}, y {y:.4g}, z {z:.4g} Å), but voxels are cubes"
        return ""

    @property
    def is_ours(self) -> bool:
        """Whether napari-sta wrote it."""
        return bool(self.labels) and self.labels[0].startswith("napari-sta ")

    @property
    def is_stack(self) -> bool:
        """Whether it is a stack of 2D images: by its ending, as in RELION, or by its header.

        A cube is a map even where its header calls it a stack: no stack of images is one by chance, and maps
        get such headers when they are written over a stack's.
        """
        return Path(self.path).suffix in _STACK_SUFFIXES or (self.says_stack and len(set(self.shape_zyx)) > 1)

    @property
    def is_image(self) -> bool:
        """Whether it holds 2D images, one or a stack."""
        return self.is_stack or self.shape_zyx[0] == 1

    @property
    def why_incomplete(self) -> str:
        """What is missing of the file: words that follow its name; empty if nothing is."""
        if not self.missing_bytes:
            return ""
        extended = self.data_offset - _HEADER_BYTES
        if self.missing_bytes == extended:
            return (
                f"is {extended} bytes too short: its header announces an extended header of that length, so "
                "it was probably copied without it from another file; set the header's nsymbt to 0 if so"
            )
        return (
            f"is truncated: {self.missing_bytes} bytes are missing; copy it again or re-run the job that "
            "wrote it"
        )

    @property
    def stored_shape(self) -> tuple[int, int, int]:
        """Sections, rows and columns as the file keeps them."""
        first, second, third = (self.shape_zyx[self.stored_axes.index(axis)] for axis in range(3))
        return first, second, third


def is_called_mask(path: str | Path) -> bool:
    """Whether a file is named as a mask, and not as something masked (``postprocess_masked.mrc``)."""
    return re.search("mask(?!ed)", Path(path).stem, re.IGNORECASE) is not None


def what_else(head: bytes) -> str:
    """Say what a file is that is no MRC file, from its first bytes; empty if we cannot tell."""
    for magic, words in _MAGIC.items():
        if head.startswith(magic):
            return words
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head[:256])
    except UnicodeDecodeError:
        return ""
    if not text or any(letter < " " and letter not in "\t\n\r" for letter in text):
        return ""
    if b"_rln" in head or text.startswith("data_"):
        return "text, a STAR file: name the map, not the table"
    begin = text.splitlines()[0][:20]
    return f"text, not an image (it begins with {begin!r}): name a map or a stack (.mrc, .mrcs)"


def read_header(path: str | Path) -> MrcHeader:
    """Read the header of an MRC file.

    Raises
    ------
    InputError
        If the file is missing or no regular file, is no MRC file, has a mode that we do not read, or a
        header that contradicts itself.
    """
    size = check_is_file(path).st_size
    try:
        with open(path, "rb") as file:
            head = file.read(_HEADER_BYTES)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror or error}); check its permissions"
        ) from error
    if other := what_else(head):
        raise InputError(f"{path} is no MRC file but {other}")
    if len(head) < _HEADER_BYTES:
        raise InputError(
            f"{path} is no MRC file: it has {len(head)} bytes, and an MRC header {_HEADER_BYTES}; copy "
            "it again or name another file"
        )
    order = _byte_order(head)
    words = np.frombuffer(head, np.dtype("i4").newbyteorder(order)).tolist()
    reals = np.frombuffer(head, np.dtype("f4").newbyteorder(order)).tolist()
    stored = (words[2], words[1], words[0])
    mode = words[3]
    if not all(1 <= n <= _MOST_PX for n in stored):
        raise InputError(
            f"{path} is no MRC file: its header says {stored[2]} x {stored[1]} x {stored[0]} voxels; "
            "name a map or a stack (.mrc, .mrcs)"
        )
    if mode not in MODES:
        what = f" ({_UNREAD_MODES[mode]})" if mode in _UNREAD_MODES else ""
        raise InputError(
            f"{path} has MRC mode {mode}{what}, which is not read; convert it to mode 2 (float32) or 12 "
            "(float16)"
        )
    extended = words[23]
    if extended < 0:
        raise InputError(
            f"{path} has a damaged header: its extended header would be {extended} bytes long (nsymbt); copy "
            "it again, or set nsymbt to 0 if it has none"
        )
    dtype = np.dtype(MODES[mode]).newbyteorder(order)
    if mode == 0 and words[38] == _IMOD_STAMP and not words[39] & 1:
        dtype = np.dtype(np.uint8)  # IMOD's bytes are signed only if it says so
    axes = _stored_axes(path, words[16:19])
    z, y, x = (stored[axis] for axis in axes)
    offset = _HEADER_BYTES + extended
    return MrcHeader(
        path=str(path),
        shape_zyx=(z, y, x),
        mode=mode,
        dtype=dtype,
        # Cell and m are along x, y and z in any order of axes.
        pixel_size_zyx_angst=(
            _quotient(reals[12], words[9]), _quotient(reals[11], words[8]), _quotient(reals[10], words[7])
        ),
        data_offset=offset,
        missing_bytes=max(0, offset + math.prod(stored) * dtype.itemsize - size),
        minimum=reals[19],
        maximum=reals[20],
        mean=reals[21],
        rms=reals[54],
        labels=tuple(
            head[224 + 80 * i : 304 + 80 * i].decode("latin-1").strip(" \0")
            for i in range(max(0, min(10, words[55])))
        ),
        says_stack=words[22] == 0 and words[9] == 1 and z > 1,
        stored_axes=axes,
    )  # fmt: skip


def _byte_order(head: bytes) -> Literal["<", ">"]:
    """Tell the byte order by what makes sense; the machine stamp decides where both do."""

    def sensible(order: Literal["<", ">"]) -> bool:
        first = np.frombuffer(head[:16], np.dtype("i4").newbyteorder(order)).tolist()
        return all(1 <= n <= _MOST_PX for n in first[:3]) and 0 <= first[3] <= 200

    little, big = sensible("<"), sensible(">")
    if little == big:
        return ">" if head[212] == 0x11 else "<"
    return "<" if little else ">"


def _quotient(cell_angst: float, steps: int) -> float:
    return cell_angst / steps if cell_angst and steps else 0.0


def _stored_axes(path: str | Path, columns_rows_sections: Sequence[int]) -> tuple[int, int, int]:
    """Return, for z, y and x, which axis of (sections, rows, columns) it is."""
    named = tuple(columns_rows_sections)
    if named == (0, 0, 0):  # old files
        return 0, 1, 2
    if sorted(named) != [1, 2, 3]:
        raise InputError(
            f"{path} has a damaged header: its axis order (mapc, mapr, maps) is "
            f"{', '.join(map(str, named))}, which must name each of 1, 2 and 3 once; set it to 1, 2, 3 if "
            "the map is in the usual order"
        )
    z, y, x = (2 - named.index(axis) for axis in (3, 2, 1))
    return z, y, x


def check_complete(header: MrcHeader) -> None:
    """Refuse a file that is shorter than its header says.

    Raises
    ------
    InputError
        With the likely cause.
    """
    if header.why_incomplete:
        raise InputError(f"{header.path} {header.why_incomplete}")


def _check_images(header: MrcHeader) -> None:
    """Refuse what cannot be read image by image."""
    check_complete(header)
    if header.stored_axes != (0, 1, 2):
        raise InputError(
            f"{header.path} keeps its axes in another order than images do (mapc, mapr, maps must be 1, 2, "
            "3); write it again in that order"
        )


def open_stack(path: str | Path) -> NDArray[np.generic]:
    """Map a stack into memory: a slider reads one image at a time, however large the file.

    Raises
    ------
    InputError
        If the file is missing, truncated, no MRC file, or keeps its axes in another order.
    """
    header = read_header(path)
    _check_images(header)
    return np.memmap(
        header.path, dtype=header.dtype, mode="r", offset=header.data_offset, shape=header.shape_zyx
    )


def sections(header: MrcHeader) -> Iterator[NDArray[np.generic]]:
    """Read a file section by section, in the order in which it is stored.

    The array is used again for the next section. Reading, unlike mapping, survives a file that another
    program makes shorter meanwhile.

    Raises
    ------
    InputError
        If the file is truncated.
    """
    check_complete(header)
    section = np.empty(header.stored_shape[1:], header.dtype)
    with _opened(header) as file:
        for _ in range(header.stored_shape[0]):
            _fill(section, file, header)
            yield section


def _opened(header: MrcHeader) -> Any:
    try:
        file = open(header.path, "rb", buffering=0)  # noqa: SIM115
        file.seek(header.data_offset)
    except OSError as error:
        raise InputError(
            f"{header.path} cannot be read ({error.strerror or error}); check its permissions"
        ) from error
    return file


def _fill(array: NDArray[np.generic], file: Any, header: MrcHeader) -> None:
    """Read an array from where the file stands."""
    wanted = memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
    while wanted:
        try:
            count = file.readinto(wanted)
        except OSError as error:
            raise InputError(
                f"{header.path} cannot be read ({error.strerror or error}); check its disk"
            ) from error
        if not count:
            raise InputError(f"{header.path} became shorter while it was read; copy it again")
        wanted = wanted[count:]


def read_volume(path: str | Path) -> Volume:
    """Read a map or a mask.

    Returns
    -------
    volume
        float32, C-contiguous, zyx whatever order of axes the file has.

    Raises
    ------
    InputError
        If the file is missing, truncated, no MRC file, a 2D image or a stack, or holds values that are
        not finite.
    """
    header = read_header(path)
    if header.is_stack:
        why = "" if Path(path).suffix in _STACK_SUFFIXES else " by its header (ISPG 0, mz 1)"
        raise InputError(f"{path} is a stack of 2D images{why}; a 3D map (.mrc) is needed")
    if header.shape_zyx[0] == 1:
        raise InputError(f"{path} is a single 2D image; a 3D map is needed")
    check_complete(header)
    check_memory(5.0 * math.prod(header.shape_zyx), str(path))
    data = np.empty(header.stored_shape, np.float32)
    if header.dtype == data.dtype:
        with _opened(header) as file:
            _fill(data, file, header)
    else:
        for section, values in zip(data, sections(header), strict=True):
            section[:] = values
    data = np.ascontiguousarray(data.transpose(header.stored_axes))
    bad = data.size - int(np.isfinite(data).sum())
    if bad:
        raise InputError(
            f"{path} holds {bad} voxels that are not finite numbers (NaN or infinity); re-run the job that "
            "wrote it"
        )
    return Volume(data, header.pixel_size_angst, str(path), header.why_no_pixel_size)


def is_complete(path: str | Path, shape_zyx: tuple[int, int, int]) -> bool:
    """Whether a file is there with this shape and all its bytes; for jobs that are resumed."""
    if not os.path.exists(path):
        return False
    try:
        header = read_header(path)
    except InputError:
        return False
    return not header.missing_bytes and header.shape_zyx == shape_zyx


def image_size_yx_px(path: str | Path) -> tuple[int, int]:
    """Return rows and columns of the images in a file, from its header."""
    return read_header(path).shape_zyx[1:]


def check_images(files: Sequence[tuple[str | Path, int]]) -> tuple[int, int]:
    """Look at the headers and sizes of image files without reading them; return rows and columns.

    Raises
    ------
    InputError
        As :func:`read_images`, but for values that are not finite.
    """
    headers, size = _headers_of(files)
    for header in headers.values():
        _check_images(header)
    return size or (0, 0)


def _headers_of(
    files: Sequence[tuple[str | Path, int]],
) -> tuple[dict[str | Path, MrcHeader], tuple[int, int] | None]:
    headers = {path: read_header(path) for path in dict.fromkeys(path for path, _ in files)}
    sizes = {header.shape_zyx[1:] for header in headers.values()}
    if len(sizes) > 1:
        said = "; ".join(
            f"{path} {header.shape_zyx[2]} x {header.shape_zyx[1]}" for path, header in headers.items()
        )
        raise InputError(f"tilt images of one tilt series differ in size ({said[:300]}); they must be equal")
    for path, number in files:
        if not 0 <= number < headers[path].shape_zyx[0]:
            raise InputError(
                f"{path} has {headers[path].shape_zyx[0]} images, so there is no image number {number + 1}"
            )
    return headers, sizes.pop() if sizes else None


def read_images(files: Sequence[tuple[str | Path, int]]) -> NDArray[np.float32]:
    """Read 2D images out of stacks, touching no more of each file than asked for.

    Parameters
    ----------
    files
        Per image the file and its slice, counted from 0.

    Returns
    -------
    images
        (t, h, w) float32.

    Raises
    ------
    InputError
        If a file is missing or truncated, a slice is not in it, images differ in size, or a value is not
        finite.
    """
    headers, size = _headers_of(files)
    if not size:
        return np.empty((0, 0, 0), dtype=np.float32)
    for header in headers.values():
        _check_images(header)
    images = np.empty((len(files), *size), dtype=np.float32)
    for path, header in headers.items():
        _read_slices(header, [(i, number) for i, (one, number) in enumerate(files) if one == path], images)
    for (path, slice_number), image in zip(files, images, strict=True):
        if not np.isfinite(image).all():
            raise InputError(
                f"{path}, image {slice_number + 1} holds values that are not finite numbers (NaN or "
                "infinity); exclude this tilt image or repair it"
            )
    return images


def _read_slices(header: MrcHeader, wanted: Sequence[tuple[int, int]], images: NDArray[np.float32]) -> None:
    """Read slices into images, neighbours in one go; ``wanted`` holds (image, slice)."""
    step = math.prod(header.shape_zyx[1:]) * header.dtype.itemsize
    with _opened(header) as file:
        done = 0
        while done < len(wanted):
            image, number = wanted[done]
            run = 1
            while done + run < len(wanted) and wanted[done + run] == (image + run, number + run):
                run += 1
            target = images[image : image + run]
            file.seek(header.data_offset + number * step)
            if header.dtype == images.dtype:
                _fill(target, file, header)
            else:
                stored = np.empty(target.shape, header.dtype)
                _fill(stored, file, header)
                target[:] = stored
            done += run


def write_volume(path: str | Path, volume: Volume, float16: bool = False) -> None:
    """Write a map in one step, with the header that RELION would give it.

    Parameters
    ----------
    float16
        Write MRC mode 12 instead of mode 2.

    Raises
    ------
    ValueError
        If the data are not 3D.
    JobError
        If values are not finite or too large for float16, or the disk is full.
    """
    if volume.data.ndim != 3:
        raise ValueError(f"a volume has three axes, not {volume.data.ndim}")
    # 0 is how a header says that it does not know.
    _write(path, volume.data, volume.stated_pixel_size_angst or 0.0, float16, is_stack=False)


def write_stack(
    path: str | Path, array: NDArray[np.floating], pixel_size_angst: float, float16: bool = False
) -> None:
    """Write a stack of 2D images (``.mrcs``) in one step; arguments and errors as :func:`write_volume`."""
    if array.ndim != 3:
        raise ValueError(f"a stack has three axes, not {array.ndim}")
    _write(path, array, pixel_size_angst, float16, is_stack=True)


def _as_float16(data: NDArray[np.float32]) -> tuple[NDArray[np.float16], tuple[float, float, float, float]]:
    """Round to float16; also return minimum, maximum, mean and standard deviation of what is read back."""
    kernels = _compiled(data)
    if kernels is None:
        half = data.astype("<f2")
        return half, _statistics(half.astype("<f4"))
    half = np.empty(data.shape, np.float16)
    bits = half.reshape(-1).view(np.uint16)
    return half, _from_sums(kernels.round_to_half(data.reshape(-1), bits), data.size)


def _compiled(data: NDArray[np.float32]) -> Any:
    """Return the compiled kernels, ten times faster, where numba is: who writes much has it loaded."""
    if "numba" not in sys.modules or sys.byteorder != "little" or not data.size:
        return None
    from napari_sta.kernels.compiled import float16

    return float16


def _from_sums(sums: tuple[float, float, float, float], count: int) -> tuple[float, float, float, float]:
    low, high, total, square = sums
    mean = total / count
    return low, high, mean, max(0.0, square / count - mean * mean) ** 0.5


def _statistics(data: NDArray[np.float32]) -> tuple[float, float, float, float]:
    """Return minimum, maximum, mean and standard deviation as headers state them."""
    if not data.size:
        return 0.0, 0.0, 0.0, -1.0
    kernels = _compiled(data)
    if kernels is not None:
        return _from_sums(kernels.sum_up(data.reshape(-1)), data.size)
    return (
        float(data.min()), float(data.max()), float(data.mean(dtype=np.float64)),
        float(data.std(dtype=np.float64)),
    )  # fmt: skip


def _write(
    path: str | Path, array: NDArray[np.floating], pixel_size_angst: float, float16: bool, *, is_stack: bool
) -> None:
    import mrcfile.dtypes

    data = np.ascontiguousarray(array, dtype="<f4")
    statistics = _statistics(data)
    low, high = statistics[:2]
    if not np.isfinite(statistics).all():
        raise JobError(
            f"{path} was not written: the result holds values that are not finite (NaN or infinity)"
        )
    stored: NDArray[np.floating] = data
    if float16:
        if max(-low, high) > np.finfo(np.float16).max:
            raise JobError(
                f"{path} was not written: values up to {max(-low, high):.3g} do not fit float16; write "
                "float32"
            )
        stored, statistics = _as_float16(data)
    header = np.zeros((), dtype=mrcfile.dtypes.HEADER_DTYPE.newbyteorder("<"))
    d, h, w = data.shape
    header["nx"], header["ny"], header["nz"] = w, h, d
    header["mx"], header["my"], header["mz"] = w, h, d
    header["mode"] = 12 if float16 else 2
    # RELION gives stacks no pixel size along z: there it reads as 1.
    header["cella"] = (
        w * pixel_size_angst,
        h * pixel_size_angst,
        d * (1.0 if is_stack else pixel_size_angst),
    )
    header["cellb"] = (90.0, 90.0, 90.0)
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    header["dmin"], header["dmax"], header["dmean"], header["rms"] = statistics
    header["ispg"] = 0 if is_stack else 1
    header["map"] = b"MAP "
    header["machst"] = (0x44, 0x44, 0, 0)
    header["nversion"] = 20140
    header["nlabl"] = 1
    header["label"][0] = f"napari-sta {napari_sta.__version__}".ljust(80).encode()
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(header.tobytes())
        # Not by tofile, which does not notice that the disk is full while it writes the last block.
        file.write(stored.reshape(-1).view(np.uint8).data)
