"""MRC files: maps, masks and image stacks.

As RELION: x runs fastest, the pixel size is cell / mx (1 if either is 0), origin words are ignored on
reading and written as 0.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import napari_sta
from napari_sta.data.errors import InputError, JobError
from napari_sta.data.volume import Volume
from napari_sta.io.files import replacing

MODES = {0: "int8", 1: "int16", 2: "float32", 6: "uint16", 12: "float16"}
"""MRC modes that we read, as RELION does."""

_STACK_SUFFIXES = {".mrcs", ".st"}


@dataclass(frozen=True)
class MrcHeader:
    """What an MRC header says.

    Attributes
    ----------
    shape_zyx
        Slices, rows, columns.
    mode
        0, 1, 2, 6 or 12; see :data:`MODES`.
    pixel_size_zyx_angst
        Å per voxel along each axis; 1 where the header has none.
    data_offset
        Bytes before the first voxel.
    missing_bytes
        By how much the file is shorter than the header says; 0 if complete.
    minimum, maximum, mean, rms
        As written in the header, not computed.
    labels
        Text lines.
    says_stack
        Whether the header, other than the file's ending, declares a stack of 2D images.
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

    @property
    def pixel_size_angst(self) -> float:
        """Å per pixel along x, which RELION takes for all axes."""
        return self.pixel_size_zyx_angst[2]

    @property
    def is_stack(self) -> bool:
        """Whether RELION reads the file as a stack of 2D images, by its ending."""
        return Path(self.path).suffix in _STACK_SUFFIXES


def read_header(path: str | Path) -> MrcHeader:
    """Read the header of an MRC file.

    Raises
    ------
    InputError
        If the file is missing, is no MRC file, or has a mode that we do not read.
    """
    import mrcfile

    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder; name the MRC file in it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd map words and the like, which do no harm
            with mrcfile.mrcfile.MrcFile(str(path), mode="r", permissive=True, header_only=True) as file:
                header = file.header.copy()
        size = path.stat().st_size
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; check the path") from None
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror or error}); check its permissions"
        ) from error
    except (ValueError, TypeError, AttributeError):
        raise InputError(f"{path} is no MRC file: its first 1024 bytes are not an MRC header") from None
    shape = (int(header.nz), int(header.ny), int(header.nx))
    mode = int(header.mode)
    if min(shape) < 1 or max(shape) > 10**7:
        raise InputError(
            f"{path} is no MRC file: its header says {shape[2]} x {shape[1]} x {shape[0]} voxels"
        )
    if mode not in MODES:
        raise InputError(
            f"{path} has MRC mode {mode}, which is not read; convert it to mode 2 (float32) or 12 (float16)"
        )
    dtype = np.dtype(MODES[mode]).newbyteorder(header.nx.dtype.byteorder)
    cell = (float(header.cella.z), float(header.cella.y), float(header.cella.x))
    steps = (int(header.mz), int(header.my), int(header.mx))
    pixel = tuple(length / n if length > 0 and n > 0 else 1.0 for length, n in zip(cell, steps, strict=True))
    offset = 1024 + max(int(header.nsymbt), 0)
    labels = tuple(
        bytes(label).decode("latin-1").strip(" \0")
        for label in header.label[: max(0, min(10, int(header.nlabl)))]
    )
    return MrcHeader(
        path=str(path),
        shape_zyx=shape,
        mode=mode,
        dtype=dtype,
        pixel_size_zyx_angst=(pixel[0], pixel[1], pixel[2]),
        data_offset=offset,
        missing_bytes=max(0, offset + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize - size),
        minimum=float(header.dmin),
        maximum=float(header.dmax),
        mean=float(header.dmean),
        rms=float(header.rms),
        labels=labels,
        says_stack=int(header.ispg) == 0 and int(header.mz) == 1 and shape[0] > 1,
    )


def _mapped(header: MrcHeader) -> NDArray[np.generic]:
    if header.missing_bytes:
        raise InputError(
            f"{header.path} is truncated: {header.missing_bytes} bytes are missing; copy it again or re-run "
            "the "
            "job that wrote it"
        )
    return np.memmap(
        header.path, dtype=header.dtype, mode="r", offset=header.data_offset, shape=header.shape_zyx
    )


def read_volume(path: str | Path) -> Volume:
    """Read a map or a mask.

    Returns
    -------
    volume
        float32, C-contiguous, zyx.

    Raises
    ------
    InputError
        If the file is missing, truncated, no MRC file, a 2D image or a stack, or holds values that are
        not finite.
    """
    header = read_header(path)
    if header.is_stack:
        raise InputError(f"{path} is a stack of 2D images; a 3D map (.mrc) is needed")
    if header.shape_zyx[0] == 1:
        raise InputError(f"{path} is a single 2D image; a 3D map is needed")
    data = np.array(_mapped(header), dtype=np.float32, order="C")
    bad = data.size - int(np.isfinite(data).sum())
    if bad:
        raise InputError(
            f"{path} holds {bad} voxels that are not finite numbers (NaN or infinity); re-run the job that "
            "wrote it"
        )
    return Volume(data=data, pixel_size_angst=header.pixel_size_angst, path=str(path))


def is_complete(path: str | Path, shape_zyx: tuple[int, int, int]) -> bool:
    """Whether a file is there with this shape and all its bytes; for jobs that are resumed."""
    if not Path(path).exists():
        return False
    try:
        header = read_header(path)
        _mapped(header)
    except InputError:
        return False
    return header.shape_zyx == shape_zyx


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
        _mapped(header)
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
    stacks = {path: _mapped(header) for path, header in headers.items()}
    images = np.empty((len(files), *size), dtype=np.float32)
    for index, (path, slice_number) in enumerate(files):
        stack = stacks[path]
        images[index] = stack[slice_number]
        if not np.isfinite(images[index]).all():
            raise InputError(
                f"{path}, image {slice_number + 1} holds values that are not finite numbers (NaN or "
                "infinity); "
                "exclude this tilt image or repair it"
            )
    return images


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
    _write(path, volume.data, volume.pixel_size_angst, float16, is_stack=False)


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
        stored.tofile(file)
