"""Any file or job folder we know, as layers: a reader per kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from napari_sta.data.errors import InputError
from napari_sta.layers.keywords import LayerData, layer_name
from napari_sta.layers.outputs import is_job_folder, is_mask, is_project_folder, viewable_outputs
from napari_sta.layers.star_files import particles_of, star_kind, tilt_series_of
from napari_sta.layers.tomograms import tomogram_of_file, tomograms_of
from napari_sta.layers.volumes import map_layer, mask_layers, tilt_layer

MAP_SUFFIXES = (".mrc", ".map", ".mrcs", ".rec", ".st")


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


def read_all(path: str | Sequence[str]) -> list[LayerData]:
    """Read one path or several, as napari gives them."""
    paths = [path] if isinstance(path, str | Path) else path
    return [layer for p in paths for layer in read_layers(p)]


def is_ours(path: Path) -> bool:
    """Whether a file or folder is for us; of a file only the head is looked at."""
    if path.is_dir():
        return is_job_folder(path) or is_project_folder(path)
    suffix = path.suffix.lower()
    if suffix in MAP_SUFFIXES:
        return True
    return suffix == ".star" and star_kind(path) != ""


def _read_mrc(path: Path) -> list[LayerData]:
    from napari_sta.io.mrc import open_stack, read_header, read_volume

    header = read_header(path)
    if header.is_image:
        return [tilt_layer(open_stack(path), header.pixel_size_angst, str(path), layer_name(path))]
    tomogram = tomogram_of_file(path)
    if tomogram is not None:
        return [tomogram]
    volume = read_volume(path)
    if is_mask(path, volume):
        return mask_layers(volume)
    return [map_layer(volume, kind="half" if "half" in path.stem else "map")]


def _read_star(path: Path) -> list[LayerData]:
    kind = star_kind(path)
    if kind == "particles":
        return particles_of(path)
    if kind == "optimisation_set":
        from napari_sta.io.files import resolve
        from napari_sta.io.relion.optimisation_set import (
            PARTICLES_FILE,
            TOMOGRAMS_FILE,
            read_optimisation_set,
        )

        members = read_optimisation_set(path)
        if PARTICLES_FILE not in members:
            raise InputError(f"{path} names no particle set ({PARTICLES_FILE}), so there is nothing to show.")
        tomograms = members.get(TOMOGRAMS_FILE)
        particles = resolve(members[PARTICLES_FILE], path)
        return particles_of(particles, path if tomograms else None)
    if kind == "postprocess":
        return _read_folder(path.parent)
    if kind == "tomograms":
        return tomograms_of(path) or tilt_series_of(path)
    if kind == "optimiser":
        maps = sorted(path.parent.glob(path.name.replace("optimiser.star", "half[12]_class001.mrc")))
        if maps:
            return [layer for half in maps for layer in _read_mrc(half)]
        raise InputError(f"{path}: the half maps of its iteration are gone, so there is nothing to show.")
    raise InputError(
        f"{path} is no table that can be shown; particle sets, tomogram sets, optimisation sets and "
        "postprocess.star can."
    )


def _but(path: Path) -> str:
    from napari_sta.io.mrc import what_else

    if not path.is_file():
        return ""
    with open(path, "rb") as file:
        other = what_else(file.read(1024))
    return f" but {other}" if other else ""


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
