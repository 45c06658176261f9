"""Nouns ↔ napari layer tuples; what a layer of ours looks like is written in ``docs/layers.md``.

No Qt and no napari here: a layer is a tuple (data, keywords, type), so it can be made in any thread
and by any program.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sta.data.errors import InputError
from napari_sta.data.particles import Particles
from napari_sta.data.volume import Volume

LayerData = tuple[Any, dict[str, Any], str]

UNITS = ("angstrom", "angstrom", "angstrom")
AXES = ("z", "y", "x")
MAP_SUFFIXES = (".mrc", ".map", ".mrcs", ".rec", ".st")
MASK_COLOUR = "magenta"
CONTOUR_COLOUR = "#ff9be8"
NO_PIXEL_SIZE = "pixel size unknown"
"""Ends the name of a layer whose file states none; its scale is 1."""
_ITERATION_FILE = re.compile(r"run_it(\d{3,})_(.+)\.(?:mrc|star)")
MAX_TOMOGRAMS = 16
"""Particle layers are made for at most this many tomograms at once."""
ARROW_ANGST = 60.0
POINT_ANGST = 30.0


def _common(name: str, kind: str, path: str, pixel_size_angst: float | None, **more: Any) -> dict[str, Any]:
    return {
        "name": name if pixel_size_angst is not None else f"{name} · {NO_PIXEL_SIZE}",
        "units": UNITS if pixel_size_angst is not None else ("pixel",) * 3,
        "axis_labels": AXES,
        "metadata": {
            "napari_sta": {"kind": kind, "path": path, "pixel_size_angst": pixel_size_angst, **more}
        },
    }


def _grid(shape: Sequence[int], pixel_size_angst: float | None) -> dict[str, Any]:
    scale = pixel_size_angst or 1.0
    return {
        "scale": (scale,) * 3,
        "translate": tuple(-(n // 2) * scale for n in shape),
    }


def layer_name(path: str | Path) -> str:
    """Return a short name: ``Reconstruct/job025 · merged`` for a job's file, else the bare file name."""
    path = Path(path)
    folder = path.parent
    stem = path.stem
    if match := _ITERATION_FILE.fullmatch(path.name):
        # run_it003_half1_class001: an iteration of a refinement, of the only class there is.
        stem = f"it{match.group(1)} {match.group(2).replace('_class001', '').replace('_', ' ')}"
    if folder.name.startswith("job") and folder.name[3:].isdigit():
        return f"{folder.parent.name}/{folder.name} · {stem}"
    return stem


def iteration_of(path: str | Path) -> int | None:
    """Return the iteration that a refinement's file belongs to; None for any other file."""
    match = _ITERATION_FILE.fullmatch(Path(path).name)
    return int(match.group(1)) if match else None


def newest_iteration_only(paths: Sequence[Path]) -> list[Path]:
    """Drop the files of all iterations of a refinement but its last, which come after the final files."""
    numbers = [iteration_of(path) for path in paths]
    newest = max((n for n in numbers if n is not None), default=None)
    kept = [path for path, n in zip(paths, numbers, strict=True) if n is None]
    return kept + [path for path, n in zip(paths, numbers, strict=True) if n is not None and n == newest]


def map_layer(volume: Volume, *, name: str | None = None, kind: str = "map", **more: Any) -> LayerData:
    """Show a map as an Image: grey on slices, an isosurface in 3D, RELION's origin at world 0.

    Parameters
    ----------
    volume
        The map.
    name
        Layer name; by default made from the path.
    kind
        ``map`` or ``half``.
    more
        Further entries of ``metadata["napari_sta"]``.
    """
    low, high, level = display_range(volume.data)
    pixel = volume.stated_pixel_size_angst
    meta = _common(name or layer_name(volume.path), kind, volume.path, pixel, **more)
    meta |= _grid(volume.data.shape, pixel)
    meta |= {
        "colormap": "gray",
        "contrast_limits": (low, high),
        "rendering": "iso",
        "iso_threshold": level,
        "interpolation2d": "linear",
    }
    return volume.data, meta, "image"


def display_range(data: NDArray[np.floating[Any]]) -> tuple[float, float, float]:
    """Return the lower and upper contrast limit and the isosurface level that suit a map.

    The level is three standard deviations above the mean: a start that shows protein, not solvent.
    """
    sample = np.asarray(data[:: max(1, data.shape[0] // 48), ::2, ::2], dtype=np.float32)
    sample = sample[np.isfinite(sample)]
    if sample.size == 0 or float(sample.min()) == float(sample.max()):
        base = float(sample.flat[0]) if sample.size else 0.0
        return base, base + 1.0, base + 0.5
    low, high = (float(v) for v in np.percentile(sample, (50.0, 99.9)))
    if high <= low:
        low, high = float(sample.min()), float(sample.max())
    level = float(sample.mean() + 3 * sample.std())
    if not low < level < high:
        level = low + 0.6 * (high - low)
    return low, high, level


def mask_layers(volume: Volume, *, name: str | None = None, **more: Any) -> list[LayerData]:
    """Show a mask as a translucent coloured Image, and its 0.5 contour as Labels for slices.

    A layer's keywords can give Labels their colour but not make them a line: the contour comes hidden,
    and :class:`napari_sta.widgets.workbench.Workbench` makes it a line and shows it. Without it nothing
    covers the map.
    """
    name, pixel = name or layer_name(volume.path), volume.stated_pixel_size_angst
    body = _common(name, "mask", volume.path, pixel, **more)
    body |= _grid(volume.data.shape, pixel)
    body |= {
        "colormap": MASK_COLOUR,
        "blending": "additive",
        "opacity": 0.3,
        "contrast_limits": (0.0, 1.0),
        "rendering": "iso",
        "iso_threshold": 0.5,
        "interpolation2d": "linear",
    }
    edge = _common(f"{name} · contour", "contour", volume.path, pixel, **more)
    edge |= _grid(volume.data.shape, pixel)
    edge |= {
        "opacity": 0.9,
        "blending": "translucent_no_depth",
        "colormap": {None: "transparent", 0: "transparent", 1: CONTOUR_COLOUR},
        "visible": False,
    }
    return [(volume.data, body, "image"), ((volume.data >= 0.5).astype(np.uint8), edge, "labels")]


def tilt_layer(images: Any, pixel_size_angst: float | None, path: str, name: str) -> LayerData:
    """Show a tilt series as 2D images with a slider of their own: the number of a tilt is no length.

    Parameters
    ----------
    images
        (tilts, y, x); what a slider asks for is read, one image at a time.
    pixel_size_angst
        Along y and x; None where nobody knows.
    path, name
        File, and name of the layer.

    Returns
    -------
    layer
        An Image (tilts, 1, y, x): the first axis counts tilts, the others lie in Å about the image's centre.
    """
    meta = _common(name, "tilt_series", path, pixel_size_angst)
    scale = pixel_size_angst or 1.0
    _, h, w = images.shape
    middle = np.asarray(images[images.shape[0] // 2, ::4, ::4], dtype=np.float32)
    middle = middle[np.isfinite(middle)]
    low, high = (float(v) for v in np.percentile(middle, (0.5, 99.5))) if middle.size else (0.0, 1.0)
    meta |= {
        "units": ("dimensionless", *(UNITS if pixel_size_angst else ("pixel",) * 3)),
        "scale": (1.0, *(scale,) * 3),
        "translate": (0.0, 0.0, -(h / 2) * scale, -(w / 2) * scale),
        "axis_labels": ("tilt", *AXES),
        "colormap": "gray",
        "contrast_limits": (low, max(high, low + 1e-6)),
        "interpolation2d": "linear",
    }
    return images[:, None], meta, "image"


def particle_layers(
    particles: Particles, path: str = "", *, pixel_size_angst: float = 1.0
) -> list[LayerData]:
    """Show particles as Points with an arrow along each particle's Z axis, a pair per tomogram.

    Parameters
    ----------
    particles
        The set; positions have the origin applied (position = coordinate - R_subtomogram · origin).
    path
        File it came from.
    pixel_size_angst
        Noted in the metadata; coordinates are in Å, so the layers' scale is 1.

    Returns
    -------
    layers
        Points and Vectors of each tomogram, those of the first one visible.
    """
    from napari_sta.io.star import printable

    pairs: list[list[LayerData]] = []
    names = particles.tomograms[:MAX_TOMOGRAMS]
    stem = layer_name(path) if path else "particles"
    for i, tomogram in enumerate(names):
        rows = np.flatnonzero(particles.tomogram == tomogram)
        part = particles[rows]
        position, axis = positions_and_axes(part)
        more = {"tomogram": tomogram, "n_particles": len(particles), "n_tomograms": len(particles.tomograms)}
        shown = printable(tomogram)
        points = _common(f"{stem} · {shown}", "particles", path, pixel_size_angst, **more)
        points["metadata"]["napari_sta"]["star_rows"] = rows
        points["metadata"]["napari_sta"]["particles"] = part
        points |= {
            "features": features(part),
            "size": POINT_ANGST,
            "face_color": "#f0b429",
            "border_width": 0.0,
            "opacity": 0.9,
            "visible": i == 0,
        }
        arrows = _common(f"{stem} · {shown} · Z", "vectors", path, pixel_size_angst, **more)
        arrows |= {
            "edge_color": "#7ad1ff",
            "edge_width": 5.0,
            "length": ARROW_ANGST,
            "vector_style": "line",
            "visible": i == 0,
        }
        pairs.append([(position, points, "points"), (np.stack([position, axis], axis=1), arrows, "vectors")])
    return [layer for pair in pairs for layer in pair]


def positions_and_axes(particles: Particles) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return positions (n, 3) in Å from the tomogram's centre and unit vectors (n, 3) of the particles' Z."""
    from napari_sta.kernels.rotations import euler_to_matrix_zyx

    subtomogram = euler_to_matrix_zyx(particles.subtomogram_angles_deg)
    position = particles.coordinate_zyx_angst - np.einsum(
        "nij,nj->ni", subtomogram, particles.origin_zyx_angst
    )
    rotation = subtomogram @ euler_to_matrix_zyx(particles.angles_deg)
    return position, rotation[:, :, 0]  # first column: where the reference's z goes


def features(particles: Particles) -> Any:
    """Return every column of the set as a table: numbers as numbers, words and classes as categories."""
    import pandas as pd

    from napari_sta.io.relion import numbers_of
    from napari_sta.io.star import printable, text_column

    table: dict[str, Any] = {}
    for label, column in particles.text.items():
        column = column if "".join(column).isprintable() else text_column(map(printable, column))
        label = printable(label)  # of the file, too
        if label in ("rlnTomoName", "rlnOpticsGroup", "rlnRandomSubset", "rlnClassNumber"):
            table[label] = pd.Categorical(column)
            continue
        numbers = numbers_of(column)
        table[label] = np.asarray(column, dtype=object) if numbers is None else numbers
    if "rlnTomoName" not in table:
        table["rlnTomoName"] = pd.Categorical(list(map(printable, particles.tomogram)))
    return pd.DataFrame(table)


def particles_from_layer(data: NDArray[np.float64], meta: Mapping[str, Any]) -> Particles:
    """Return the particles a Points layer stands for, moved to where its points are now.

    A moved point changes the coordinate; origin, angles and every other column stay as in the file.

    Raises
    ------
    InputError
        If the layer is not one of ours, or rows were added that no particle belongs to.
    """
    from dataclasses import replace

    ours = meta.get("metadata", {}).get("napari_sta", {})
    particles = ours.get("particles")
    if not isinstance(particles, Particles):
        raise InputError(f"layer {meta.get('name', '')} was not read from a particle set.")
    if len(data) != len(particles):
        raise InputError(
            f"layer {meta.get('name', '')} has {len(data)} points but its particle set has {len(particles)}; "
            "undo the points that were added or removed."
        )
    position, _ = positions_and_axes(particles)
    return replace(particles, coordinate_zyx_angst=particles.coordinate_zyx_angst + (data - position))


def volume_from_layer(data: Any, meta: Mapping[str, Any]) -> Volume:
    """Return the volume an Image or Labels layer stands for; Å per voxel from its scale.

    A scale of 1 is no pixel size in a layer of which none is known, be it ours (its metadata say None) or
    anybody's: that is napari's own default.

    Raises
    ------
    InputError
        If the layer is not a volume with one pixel size.
    """
    array = np.asarray(data)
    if array.ndim != 3:
        raise InputError(f"layer {meta.get('name', '')} has {array.ndim} dimensions; a map has 3.")
    scale = np.asarray(meta.get("scale", (1.0, 1.0, 1.0)), dtype=np.float64)[-3:]
    if np.ptp(scale) > 1e-4 * scale[0]:
        raise InputError(f"layer {meta.get('name', '')} has voxels that are not cubes; a map's are.")
    ours = meta.get("metadata", {}).get("napari_sta", {})
    pixel = None if scale[0] == 1 and ours.get("pixel_size_angst") is None else float(scale[0])
    return Volume(array.astype(np.float32, copy=False), pixel, ours.get("path", ""))


def read_layers(path: str | Path) -> list[LayerData]:
    """Read any file or job folder we know and return its layers.

    Parameters
    ----------
    path
        A map, mask or tilt stack, a particle set, tomogram set, optimisation set or postprocess.star, a
        job folder or a project folder.

    Raises
    ------
    InputError
        If there is nothing in it to show, or it cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if path.suffix.lower() in MAP_SUFFIXES:
        return _read_mrc(path)
    if path.suffix.lower() == ".star":
        return _read_star(path)
    raise InputError(f"{path} is neither a map (.mrc), a table (.star) nor a job folder{_but(path)}.")


def _but(path: Path) -> str:
    from napari_sta.io.mrc import what_else

    if not path.is_file():
        return ""
    with open(path, "rb") as file:
        other = what_else(file.read(1024))
    return f" but {other}" if other else ""


# -- reading ---------------------------------------------------------------------------------------

HEADLINES = (
    "merged.mrc",
    "mask.mrc",
    "postprocess_masked.mrc",
    "postprocess.mrc",
    "run_class001.mrc",
    "half1.mrc",
    "half2.mrc",
    "particles.star",
    "run_data.star",
    "tomograms.star",
)
"""Outputs of a job in the order in which a user wants to see them."""


def is_job_folder(folder: Path) -> bool:
    """Whether a folder is one of RELION's ``<Type>/jobNNN``, or the alias of one."""
    from napari_sta.io.files import is_job_folder

    return folder.is_dir() and is_job_folder(folder)


def is_project_folder(folder: Path) -> bool:
    """Whether a folder holds RELION jobs."""
    if (folder / "default_pipeline.star").is_file():
        return True
    return any(is_job_folder(job) for job in folder.glob("*/job[0-9][0-9][0-9]*"))


def viewable_outputs(folder: Path) -> list[Path]:
    """Return a job's files that can be shown, the one to look at first in front.

    Of a refinement's iterations only the last: the *Inspect* dock leafs through the others.
    """
    found = [folder / name for name in HEADLINES if (folder / name).is_file()]
    more = [p for p in sorted(folder.glob("*.mrc")) if p not in found and not _is_fourier(p)]
    if any(iteration_of(path) is not None for path in more):
        more = newest_iteration_only(more)
        more.sort(key=lambda path: (is_mask(path), "unfil" in path.stem, iteration_of(path) is not None))
    stars = [p for p in sorted(folder.glob("particles*.star")) if p not in found]
    return found + more + stars


def _is_fourier(path: Path) -> bool:
    return path.stem.startswith(("data_", "weight_"))


def is_mask(path: str | Path, volume: Volume | None = None) -> bool:
    """Whether a volume is a mask: by its name, or because it runs exactly from 0 to 1."""
    from napari_sta.io.mrc import is_called_mask

    if is_called_mask(path):
        return True
    if volume is None or "masked" in Path(path).stem.lower():
        return False
    return float(volume.data.min()) == 0.0 and float(volume.data.max()) == 1.0


def _read_mrc(path: Path) -> list[LayerData]:
    from napari_sta.io.mrc import open_stack, read_header, read_volume

    header = read_header(path)
    if header.is_image:
        return [tilt_layer(open_stack(path), header.pixel_size_angst, str(path), layer_name(path))]
    volume = read_volume(path)
    if is_mask(path, volume):
        return mask_layers(volume)
    return [map_layer(volume, kind="half" if "half" in path.stem else "map")]


def star_kind(path: Path) -> str:
    """Return what a STAR file holds by reading its head only; empty if it is not for us.

    Returns
    -------
    kind
        ``optimisation_set``, ``tomograms``, ``postprocess``, ``optimiser``, ``particles``, ``trajectories``
        or ``""``.
    """
    words = _words_of(path)
    if "rlnTomoParticlesFile" in words:
        return "optimisation_set"
    if "rlnFinalResolution" in words and "data_fsc" in words:
        return "postprocess"
    if "data_optimiser_general" in words and "rlnModelStarFile2" in words:
        return "optimiser"
    if "data_global" in words and "rlnTomoName" in words:
        return "tomograms"
    # A set of a picker that has not named its table is one too.
    placed = not words.isdisjoint({"rlnCenteredCoordinateXAngst", "rlnCoordinateX"})
    if "rlnTomoName" in words and ("data_particles" in words or ("data_" in words and placed)):
        return "particles"
    if "rlnTomoParticleName" in words and "rlnCenteredCoordinateXAngst" in words:
        return "particles"
    return ""


def _words_of(path: Path) -> set[str]:
    """Return labels and table names in the head of a STAR file; none if it cannot be read."""
    from napari_sta.io.files import check_is_file

    try:
        check_is_file(path)
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            head = file.read(1 << 16)
    except (OSError, InputError):
        return set()
    return {word.lstrip("_") for word in head.split() if word.startswith(("_rln", "data_"))}


def _read_star(path: Path) -> list[LayerData]:
    kind = star_kind(path)
    if kind == "particles":
        return _particles_of(path)
    if kind == "optimisation_set":
        from napari_sta.io.files import resolve
        from napari_sta.io.relion import PARTICLES_FILE, TOMOGRAMS_FILE, read_optimisation_set

        members = read_optimisation_set(path)
        if PARTICLES_FILE not in members:
            raise InputError(f"{path} names no particle set ({PARTICLES_FILE}), so there is nothing to show.")
        tomograms = members.get(TOMOGRAMS_FILE)
        particles = resolve(members[PARTICLES_FILE], path)
        return _particles_of(particles, path if tomograms else None)
    if kind == "postprocess":
        return _read_folder(path.parent)
    if kind == "tomograms":
        return _tilt_series_of(path)
    if kind == "optimiser":
        maps = sorted(path.parent.glob(path.name.replace("optimiser.star", "half[12]_class001.mrc")))
        if maps:
            return [layer for one in maps for layer in _read_mrc(one)]
        raise InputError(f"{path}: the half maps of its iteration are gone, so there is nothing to show.")
    raise InputError(
        f"{path} is no table that can be shown; particle sets, tomogram sets, optimisation sets and "
        "postprocess.star can."
    )


def _particles_of(path: Path, optimisation_set: Path | None = None) -> list[LayerData]:
    from napari_sta.io.relion import read_particles, read_tilt_series_set

    series = None
    words = _words_of(path)
    if "rlnCoordinateX" in words and "rlnCenteredCoordinateXAngst" not in words:
        tomograms = _tomograms_of(path, optimisation_set)
        series = read_tilt_series_set(tomograms, check_images=False)
    particles = read_particles(path, series)
    pixel = particles.optics[0].pixel_size_angst if particles.optics else 1.0
    return particle_layers(particles, str(path), pixel_size_angst=pixel)


def _tomograms_of(path: Path, optimisation_set: Path | None) -> Path:
    """Find the tomogram set of particles whose coordinates count from the tomogram's corner in pixels.

    The one that an optimisation set names, the given one or one beside the particles that names them; else a
    tomogram set beside them.
    """
    from napari_sta.io.files import resolve
    from napari_sta.io.relion import PARTICLES_FILE, TOMOGRAMS_FILE, read_optimisation_set

    beside = [one for one in sorted(path.parent.glob("*.star")) if one != path]
    kinds = {one: star_kind(one) for one in beside}
    sets = [one for one in beside if kinds[one] == "optimisation_set"]
    for one in [optimisation_set] if optimisation_set else sets:
        try:
            members = read_optimisation_set(one)
            named = resolve(members.get(PARTICLES_FILE, ""), one)
            if TOMOGRAMS_FILE in members and os.path.realpath(named) == os.path.realpath(path):
                return resolve(members[TOMOGRAMS_FILE], one)
        except InputError:
            if optimisation_set:
                raise
    for one in beside:
        if kinds[one] == "tomograms":
            return one
    raise InputError(
        f"{path} has coordinates in pixels (rlnCoordinateX/Y/Z), which only the sizes of its tomograms turn "
        "into Å: put the tomogram set (tomograms.star) beside it, or open an optimisation set of both."
    )


def _tilt_series_of(path: Path) -> list[LayerData]:
    from napari_sta.io.mrc import open_stack
    from napari_sta.io.relion import read_tilt_series_set

    layers = []
    for i, series in enumerate(list(read_tilt_series_set(path).values())[:MAX_TOMOGRAMS]):
        files = {file for file, _ in series.images}
        if len(files) != 1:
            continue  # one file per tilt: nothing that can be mapped as a stack
        file = files.pop()
        name = f"tilts · {series.name}"
        data, meta, kind = tilt_layer(open_stack(file), series.pixel_size_angst, file, name)
        meta["visible"] = i == 0
        layers.append((data, meta, kind))
    if not layers:
        raise InputError(f"{path}: its tilt series are not kept as stacks, so they cannot be shown.")
    return layers


def _read_folder(folder: Path) -> list[LayerData]:
    if not is_job_folder(folder) and is_project_folder(folder):
        jobs = sorted(folder.glob("*/job[0-9][0-9][0-9]*"), key=lambda j: int(j.name[3:] or 0), reverse=True)
        for job in jobs:
            if any(p.suffix == ".mrc" for p in viewable_outputs(job)):
                return _read_folder(job)
        raise InputError(f"{folder}: none of its jobs has a map to show yet.")
    shown = viewable_outputs(folder)
    if not shown:
        raise InputError(f"{folder} holds no map, mask or particle set to show.")
    if (folder / "postprocess.mrc").is_file():
        layers = []
        for path in (folder / "postprocess.mrc", folder / "postprocess_masked.mrc"):
            if path.is_file():
                layers += _read_mrc(path)
        if len(layers) == 2:
            layers[0][1]["visible"] = False
        return layers
    return read_layers(shown[0])


# -- what the manifest points to ---------------------------------------------------------------------


def get_reader(path: str | Sequence[str]) -> Callable[[str | Sequence[str]], list[LayerData]] | None:
    """Return a reader if every path is ours, else None, fast: only a file's head is looked at."""
    paths = [Path(path)] if isinstance(path, str | Path) else [Path(p) for p in path]
    if not paths or not all(_is_ours(p) for p in paths):
        return None
    return _read_all


def _is_ours(path: Path) -> bool:
    if path.is_dir():
        return is_job_folder(path) or is_project_folder(path)
    suffix = path.suffix.lower()
    if suffix in MAP_SUFFIXES:
        return True
    return suffix == ".star" and star_kind(path) != ""


def _read_all(path: str | Sequence[str]) -> list[LayerData]:
    paths = [path] if isinstance(path, str | Path) else path
    return [layer for p in paths for layer in read_layers(p)]


def write_map(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Write an Image layer as a float32 map; the pixel size is the layer's scale."""
    from napari_sta.io.mrc import write_volume

    write_volume(path, volume_from_layer(data, meta))
    return [path]


def write_mask(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Write a Labels layer as a mask: 1 inside any label, 0 outside."""
    from dataclasses import replace

    from napari_sta.io.mrc import write_volume

    volume = volume_from_layer(data, meta)
    write_volume(path, replace(volume, data=(volume.data > 0).astype(np.float32)))
    return [path]


def practice_project() -> list[LayerData]:
    """Simulate a small project with a hidden offset and return its map and mask as layers.

    It is written to a new folder below the user's own temporary folder; the layers' metadata name it.
    """
    import tempfile

    from napari_sta.phantoms.practice import make_practice_project

    project = make_practice_project(Path(tempfile.mkdtemp(prefix="napari-sta-practice-")) / "project")
    layers = read_layers(project.map_path) + read_layers(project.mask_path)
    for _, meta, _ in layers:
        meta["metadata"]["napari_sta"]["project"] = str(project.root)
    return layers
