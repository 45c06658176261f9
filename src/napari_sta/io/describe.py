"""Say in words what a file or folder holds, and what is wrong with it (``napari-sta info``)."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from napari_sta.data.errors import InputError
from napari_sta.data.particles import Particles
from napari_sta.data.tilt_series import TiltSeries
from napari_sta.io import mrc
from napari_sta.io.files import check_is_file, project_root, resolve
from napari_sta.io.labels import LABELS
from napari_sta.io.project import JOB_NAME, Project, read_job_star, status_of
from napari_sta.io.relion.axes import (
    ANGLE_PRIORS,
    ANGLES,
    CENTRED,
    ORIGIN,
    ORIGIN_PRIORS,
    PIXEL,
    SUBTOMOGRAM_ANGLES,
    TILT_NUMBERS,
)
from napari_sta.io.relion.inputs import load_sta_inputs
from napari_sta.io.relion.numbers import is_number, number_column, numbers_of, particle_numbers
from napari_sta.io.relion.optimisation_set import PARTICLES_FILE, TOMOGRAMS_FILE, read_optimisation_set
from napari_sta.io.relion.particles import has_particles, named_particles, particles_in, repeated_names
from napari_sta.io.relion.subtomograms import check_subtomogram_kind, visible_frames
from napari_sta.io.relion.tilt_series import is_placeholder, read_tilt_series_set
from napari_sta.io.relion.trajectories import read_trajectories
from napari_sta.io.star import Table, first_table, printable, read_star


@dataclass
class Description:
    """What :func:`describe` found.

    Attributes
    ----------
    lines
        What the file holds, for people.
    problems
        What is wrong or looks odd, one sentence each.
    """

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        text = "\n".join(self.lines)
        if self.problems:
            count = f"{len(self.problems)} problem{'s' if len(self.problems) > 1 else ''}"
            text += f"\n{count}:\n" + "\n".join(f"  - {problem}" for problem in self.problems)
        else:
            text += "\nNo problems found."
        return printable(text)


def describe(path: str | Path) -> Description:
    """Explain a STAR or MRC file, a job folder or a project folder, and list its problems.

    Raises
    ------
    InputError
        If the path does not exist, or is nothing that we know.
    """
    path = Path(path)
    if not os.path.exists(path):
        raise InputError(f"{path} does not exist; check the path")
    if path.is_dir():
        return _describe_folder(path)
    if path.suffix.lower() in (".mrc", ".mrcs", ".map", ".st", ".rec", ".ccp4"):
        return _describe_mrc(path)
    if path.suffix == ".star" or path.name.endswith(".star"):
        return _describe_star(path)
    check_is_file(path)
    with open(path, "rb") as file:
        other = mrc.what_else(file.read(1024))
    raise InputError(
        f"{path.name} is neither a STAR nor an MRC file{f' but {other}' if other else ''}; info reads .star, "
        ".mrc, .mrcs and folders"
    )


# ----------------------------------------------------------------------------------------------------
# MRC


def _describe_mrc(path: Path) -> Description:
    header = mrc.read_header(path)
    d, h, w = header.shape_zyx
    kind = header.dtype.name
    found = Description()
    pixel = header.pixel_size_angst
    if header.is_stack:
        found.lines.append(f"{path.name}: stack of {d} images, {w} x {h} px, {kind}")
    elif d == 1:
        found.lines.append(f"{path.name}: one image, {w} x {h} px, {kind}")
    else:
        found.lines.append(f"{path.name}: {_volume_word(path, header)}, {w} x {h} x {d} voxels, {kind}")
        if header.says_stack:
            found.lines.append(
                "its header calls it a stack of images (ISPG 0, mz 1); a cube is read as a map"
            )
    if header.stored_axes != (0, 1, 2):
        columns, rows, sections = ("zyx"[header.stored_axes.index(axis)] for axis in (2, 1, 0))
        found.lines.append(
            f"stored with columns along {columns}, rows along {rows}, sections along {sections} (mapc, mapr, "
            "maps); read in the usual order, x, y, z. RELION ignores that, so there it is turned or mirrored"
        )
    if pixel is None:
        found.problems.append(f"it {header.why_no_pixel_size}: find out before measuring in Å")
    elif header.is_image:
        found.lines.append(f"pixel size {pixel:.4g} Å; field of view {w * pixel:.4g} x {h * pixel:.4g} Å")
    elif "Fourier" in _volume_word(path, header):
        found.lines.append(f"for a volume of {2 * (w - 1)} voxels a side, {1 / pixel:.4g} Å each")
    else:
        sides = " x ".join(f"{n * pixel:.4g}" for n in reversed(header.shape_zyx))
        found.lines.append(f"pixel size {pixel:.4g} Å; {sides} Å; Nyquist {2 * pixel:.4g} Å")
    if header.labels:
        found.lines.append("written by: " + " ".join(header.labels[0].split()))
    if header.why_incomplete:
        found.problems.append(f"it {header.why_incomplete}")
        return found
    _describe_values(found, path, header)
    return found


def _volume_word(path: Path, header: mrc.MrcHeader) -> str:
    name = path.name
    d, h, w = header.shape_zyx
    if name.endswith("_weights.mrc") and d == 2 * h and w == h // 2 + 1:
        return "weights of a 3D pseudo-subtomogram (CTF² over multiplicity, Fourier half)"
    if name.endswith("_data.mrc"):
        return "3D pseudo-subtomogram"
    if mrc.is_called_mask(path):
        return "mask"
    return f"volume, or stack of {d} images" if len({d, h, w}) > 1 else "map"


def _describe_values(found: Description, path: Path, header: mrc.MrcHeader) -> None:
    size = math.prod(header.shape_zyx)
    low, high, total, bad = np.inf, -np.inf, 0.0, 0
    for piece in mrc.sections(header):
        values = np.asarray(piece, dtype=np.float32)
        finite = np.isfinite(values)
        bad += int(values.size - finite.sum())
        if finite.any():
            low, high = min(low, float(values[finite].min())), max(high, float(values[finite].max()))
            total += float(values[finite].sum(dtype=np.float64))
    if bad == size:
        found.problems.append("no value is a finite number")
        return
    found.lines.append(f"values {low:.4g} to {high:.4g}, mean {total / (size - bad):.4g}")
    if bad:
        found.problems.append(f"{bad} values are not finite numbers (NaN or infinity)")
    if low == high:
        found.problems.append(f"all values are {low:g}")
    elif max(-low, high) > mrc.LARGEST_VALUE:
        found.problems.append(
            "values this large cannot be computed with; scale them down, or the file is damaged"
        )
    if mrc.is_called_mask(path) and header.shape_zyx[0] > 1 and (low < 0 or high > 1):
        found.problems.append(
            f"values of a mask must lie between 0 and 1, these go from {low:.3g} to {high:.3g} (rescaling "
            "does "
            "that); relion_postprocess refuses such a mask, clamp it to 0…1"
        )


# ----------------------------------------------------------------------------------------------------
# STAR


def _describe_star(path: Path) -> Description:
    as_written = read_star(path)
    tables = named_particles(as_written)
    found = Description()
    with open(path, "rb") as file:
        head = file.read(65536)
    if b"\r\n" in head:
        found.problems.append(
            "lines end in CR+LF (Windows), which RELION does not read; convert the line ends"
        )
    if "particles" in tables and "particles" not in as_written:
        found.problems.append(
            "the particle table has no name, so that RELION does not find it; rename data_ to data_particles"
        )
    kinds: list[
        tuple[Callable[[Mapping[str, Table]], bool], Callable[[Description, Path, dict[str, Table]], None]]
    ]
    kinds = [
        (lambda t: "particles" in t, _describe_particles),
        (lambda t: "global" in t and "rlnTomoName" in t["global"], _describe_tomograms),
        (lambda t: "job" in t and "joboptions_values" in t, _describe_job_star),
        (lambda t: "pipeline_general" in t, _describe_pipeline),
        (lambda t: "rlnParticleNumber" in t.get("general", ()), _describe_trajectories),
        (lambda t: "general" in t and "fsc" in t, _describe_postprocess),
        (lambda t: "model_general" in t, _describe_model),
        (lambda t: "optimiser_general" in t, _describe_optimiser),
        (lambda t: "sampling_general" in t, _describe_sampling),
        (lambda t: "output_nodes" in t, _describe_output_nodes),
        (_is_optimisation_set, _describe_optimisation_set),
        (_is_tilt_series, _describe_tilt_series),
    ]
    for matches, tell in kinds:
        if matches(tables):
            tell(found, path, tables)
            break
    else:
        found.lines.append(f"{path.name}: STAR file of a kind that napari-sta does not use")
        _describe_tables(found, tables)
        if any(map(has_particles, tables.values())):
            try:
                particles_in(path, tables)
            except InputError as error:
                found.problems.append(str(error))
    return found


def _is_optimisation_set(tables: Mapping[str, Table]) -> bool:
    return any(label in first_table(tables) for label in (PARTICLES_FILE, TOMOGRAMS_FILE))


def _is_tilt_series(tables: Mapping[str, Table]) -> bool:
    table = first_table(tables)
    return table.is_loop and ("rlnMicrographPreExposure" in table or "rlnTomoNominalStageTiltAngle" in table)


def _describe_tables(found: Description, tables: Mapping[str, Table]) -> None:
    for name, table in tables.items():
        shape = (
            f"{len(table)} rows x {len(table.columns)} columns"
            if table.is_loop
            else f"{len(table.columns)} values"
        )
        found.lines.append(f"  data_{name}: {shape}")


def _count(n: int, word: str) -> str:
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


def _named(counts: Mapping[str, int], most: int = 8) -> str:
    shown = [f"{name} {n}" for name, n in list(counts.items())[:most]]
    return ", ".join(shown) + (", …" if len(counts) > most else "")


def _describe_particles(found: Description, path: Path, tables: dict[str, Table]) -> None:
    table = tables["particles"]
    if "rlnTomoName" not in table:
        found.lines.append(f"{path.name}: single-particle set, {_count(len(table), 'particle')}")
        found.problems.append("no column rlnTomoName: napari-sta works on tomography particles only")
        return
    per_tomogram = Counter(table["rlnTomoName"].tolist())
    found.lines.append(
        f"{path.name}: particle set, {_count(len(table), 'particle')} in "
        f"{_count(len(per_tomogram), 'tomogram')} "
        f"({_named(per_tomogram)})"
    )
    if "optics" not in tables:
        picks = "rlnImageName" not in table
        found.lines.append(
            "no optics table: "
            + ("fresh picks; optics come from the tomogram set" if picks else "particles only")
        )
    in_px = not all(label in table for label in CENTRED)
    if in_px and all(label in table for label in PIXEL):
        found.lines.append(
            "coordinates in pixels from the tomogram corner (RELION 4): the tomogram set is needed"
        )
        # What else there is to say does not depend on where the corner is.
        as_if = {there: table[label] for there, label in zip(CENTRED, PIXEL, strict=True)}
        tables = {**tables, "particles": replace(table, columns={**table.columns, **as_if})}
    _number_problems(found, path, table)
    try:
        particles = particles_in(path, tables)
    except InputError as error:
        if not found.problems:
            found.problems.append(str(error))
        _describe_columns(found, table)
        return
    for group in particles.optics:
        text = f"optics group {group.number} ({group.name}): tilt images {group.pixel_size_angst:g} Å/px"
        if group.voltage_kv:
            text += f", {group.voltage_kv:g} kV"
        if group.image_pixel_size_angst:
            dimensions = {"2": "2D stacks", "3": "3D pseudo-subtomograms"}
            kind = dimensions.get(group.text.get("rlnImageDimensionality", ""), "images")
            box = f"{group.image_size_px} px, " if group.image_size_px else ""
            text += f"; extracted as {kind}, {box}{group.image_pixel_size_angst:g} Å/px"
        else:
            text += "; not extracted yet"
        found.lines.append(text)
    if particles.half_set is None:
        found.lines.append("half sets: none assigned")
    else:
        halves = Counter(particles.half_set.tolist())
        found.lines.append("half sets: " + ", ".join(f"{halves[n]} in {n}" for n in sorted(halves)))
        if set(halves) != {1, 2}:
            found.problems.append(
                "rlnRandomSubset should hold 1 and 2, and holds " + ", ".join(map(str, sorted(halves)))
            )
    shift = np.linalg.norm(particles.origin_zyx_angst, axis=1)
    if shift.max() > 0:
        found.lines.append(f"origins: {np.median(shift):.3g} Å median, {shift.max():.3g} Å at most")
    else:
        found.lines.append("origins: all zero")
    turned = np.abs(particles.subtomogram_angles_deg).max() > 0
    found.lines.append("subtomogram angles: " + ("given" if turned else "none (identity)"))
    if "rlnMaxValueProbDistribution" in table:
        pmax = numbers_of(table["rlnMaxValueProbDistribution"])
        if pmax is not None and np.isfinite(pmax).all():
            found.lines.append(f"refined: Pmax {pmax.mean():.3f} on average")
    _describe_columns(found, table)
    _particle_problems(found, path, table, particles)


def _describe_columns(found: Description, table: Table) -> None:
    unknown = [label for label in table.columns if label not in LABELS]
    if unknown:
        found.lines.append("columns without a meaning here, kept as they are: " + ", ".join(unknown))


_PRIORS = (*ANGLE_PRIORS, *ORIGIN_PRIORS)
_PARTICLE_NUMBERS = (
    *(*CENTRED, *PIXEL, *ORIGIN, *ANGLES, *SUBTOMOGRAM_ANGLES, *_PRIORS),
    "rlnMaxValueProbDistribution",
    "rlnLogLikeliContribution",
    "rlnNrOfSignificantSamples",
    "rlnNormCorrection",
)


def _number_problems(found: Description, path: Path, table: Table) -> None:
    """Look through the columns of numbers, one problem each at most."""
    for label in _PARTICLE_NUMBERS:
        if label not in table:
            continue
        try:
            values = number_column(table, label, path, may_lack=label in _PRIORS)
        except InputError as error:
            found.problems.append(str(error))
            continue
        lacking = int(np.isnan(values).sum())
        if lacking:
            found.lines.append(f"{label}: {_count(lacking, 'particle')} of {len(table)} without this prior")


def _particle_problems(found: Description, path: Path, table: Table, particles: Particles) -> None:
    repeated = repeated_names(particles)
    if repeated:
        found.problems.append(
            f"{_count(len(repeated), 'particle name')} given more than once in a tomogram "
            f"(rlnTomoParticleName {repeated[0]}): extract wants names of their own, other jobs go by rows"
        )
    found.problems += _stack_problems(path, particles)
    if "rlnMicrographName" in table and "rlnTomoVisibleFrames" in table:
        found.problems.append("rlnMicrographName in a 2D-stack particle set makes refine pair wrong images")
    positions = particles.coordinate_zyx_angst
    same = 0
    for name in particles.tomograms:
        rows = positions[particles.tomogram == name]
        same += len(rows) - len(np.unique(rows, axis=0))
    if same:
        found.problems.append(f"on exactly the same spot as another one: {_count(same, 'particle')}")
    if "rlnImageName" in table:
        missing = [name for name in table["rlnImageName"] if not _exists(name.rpartition("@")[2], path)]
        if missing:
            found.problems.append(
                f"{len(missing)} of {len(table)} subtomogram files (rlnImageName) are missing, such as "
                f"{missing[0]}; "
                "reconstruct does not need them, refine does"
            )
    if [g.number for g in particles.optics] != list(range(1, len(particles.optics) + 1)):
        found.problems.append(
            "optics groups are not numbered 1, 2, 3… in order; RELION's tomo programs mix them up"
        )


def _stack_problems(path: Path, particles: Particles, n_tilts: Mapping[str, int] | None = None) -> list[str]:
    """Compare what the set says of its subtomograms with itself, its tilt series and the first images."""
    problems = []
    try:
        check_subtomogram_kind(particles, path)
        if "rlnTomoVisibleFrames" in particles.text:
            visible_frames(particles, n_tilts)
    except InputError as error:
        problems.append(str(error))
    for group in particles.optics:
        rows = np.flatnonzero(particles.optics_group == group.number)
        if "rlnImageName" not in particles.text or group.image_size_px is None or not len(rows):
            continue
        name = particles.text["rlnImageName"][rows[0]]
        try:
            image = resolve(name.rpartition("@")[2], path)
        except InputError:
            continue
        try:
            found = mrc.read_header(image).shape_zyx[2]
        except InputError as error:
            problems.append(str(error))
            continue
        if found != group.image_size_px:
            problems.append(
                f"{name} has a box of {found} px, but rlnImageSize of optics group {group.number} is "
                f"{group.image_size_px}"
            )
    return problems


def _exists(name: str, hint: Path) -> bool:
    try:
        resolve(name, hint)
    except InputError:
        return False
    return True


def _describe_tomograms(found: Description, path: Path, tables: dict[str, Table]) -> None:
    table = tables["global"]
    layout = "RELION 5" if "rlnTomoTiltSeriesStarFile" in table else "RELION 4"
    found.lines.append(f"{path.name}: tomogram set ({layout} layout), {_count(len(table), 'tomogram')}")
    placeholders = 0
    for name in table["rlnTomoName"]:
        try:
            series = read_tilt_series_set(path, [name], check_images=False)[name]
        except InputError as error:
            found.lines.append(f"  {name}")
            found.problems.append(str(error))
            continue
        d, h, w = series.size_zyx_px
        found.lines.append(
            f"  {name}: {_count(series.n_tilts, 'tilt')}{_tilt_range(series)}, {series.pixel_size_angst:g} "
            "Å/px, "
            f"{w} x {h} x {d} px, hand {series.hand:+g}, {_defocus(series)}, dose up to "
            f"{series.dose_e_per_angst2.max():g} e/Å²"
        )
        if is_placeholder(series.images):
            placeholders += 1
        else:
            _tilt_series_problems(found, name, series)
    if placeholders:
        found.lines.append(
            f"{_count(placeholders, 'tomogram')} with Warp's placeholder for tilt images "
            "(dummy_tiltseries.mrc): refine works on particles that Warp has extracted; extract and "
            "reconstruct do not"
        )


def _tilt_range(series: TiltSeries) -> str:
    if series.angles_xyz_deg is None:
        return " (projection matrices)"
    tilt = series.angles_xyz_deg[:, 1]
    return f" from {tilt.min():.3g} to {tilt.max():.3g}°"


def _defocus(series: TiltSeries) -> str:
    mean = (series.defocus_u_angst + series.defocus_v_angst) / 2e4
    return f"defocus {mean.min():.2f} to {mean.max():.2f} µm"


def _tilt_series_problems(found: Description, name: str, series: TiltSeries) -> None:
    files = list(dict.fromkeys(file for file, _ in series.images))
    missing = [file for file in files if not os.path.exists(file)]
    if missing:
        found.problems.append(
            f"{name}: {len(missing)} of {len(files)} image files are missing, such as {missing[0]}"
        )
        return
    try:
        headers = {file: mrc.read_header(file) for file in files}
    except InputError as error:
        found.problems.append(f"{name}: {error}")
        return
    if len({header.shape_zyx[1:] for header in headers.values()}) > 1:
        found.problems.append(f"{name}: tilt images differ in size; they must be equal")
    for file, index in series.images:
        if index >= headers[file].shape_zyx[0]:
            found.problems.append(
                f"{name}: {file} has {headers[file].shape_zyx[0]} images, number {index + 1} is wanted"
            )
            break
    for file, header in headers.items():
        if header.why_incomplete:
            found.problems.append(f"{name}: {file} {header.why_incomplete}")
        pixel = header.pixel_size_angst
        if pixel is not None and abs(pixel - series.pixel_size_angst) > 1e-2:
            found.problems.append(
                f"{name}: {file} has a pixel size of {pixel:.4g} Å in its header, the "
                "tomogram set "
                f"says {series.pixel_size_angst:g}; the set counts"
            )
    if (series.defocus_u_angst < 0).any():
        found.problems.append(
            f"{name}: negative defocus (overfocus) in {int((series.defocus_u_angst < 0).sum())} tilts"
        )
    if (np.diff(np.sort(series.dose_e_per_angst2)) == 0).any():
        found.problems.append(
            f"{name}: two tilt images have the same dose; is rlnMicrographPreExposure cumulative?"
        )


def _describe_tilt_series(found: Description, path: Path, tables: dict[str, Table]) -> None:
    table = first_table(tables)
    found.lines.append(f"{path.name}: tilt series {table.name}, {_count(len(table), 'tilt image')}")
    if len(table) == 0:
        found.problems.append("no tilt images: the table has no rows")
        return
    told = ("rlnTomoYTilt", "rlnTomoZRot", "rlnDefocusU", "rlnMicrographPreExposure")
    for label in TILT_NUMBERS:
        if label in table:
            try:
                values = number_column(table, label, path)
            except InputError as error:
                found.problems.append(str(error))
                continue
            if label not in told:
                continue
            known = LABELS[label]
            found.lines.append(
                f"  {label} ({known.meaning}): {values.min():g} to {values.max():g} {known.unit}"
            )
    needed = ("rlnTomoYTilt", "rlnTomoZRot", "rlnTomoXShiftAngst", "rlnTomoYShiftAngst")
    lacking = [label for label in needed if label not in table]
    if lacking and "rlnTomoProjX" not in table:
        found.problems.append(f"not aligned yet: {', '.join(lacking)} missing")
    lacking = [one for one in ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle") if one not in table]
    if lacking:
        found.problems.append(f"no CTF estimate yet: {', '.join(lacking)} missing")
    if "rlnMicrographPreExposure" not in table:
        found.problems.append("rlnMicrographPreExposure (dose before each image) is missing")
    _describe_columns(found, table)


def _describe_trajectories(found: Description, path: Path, tables: dict[str, Table]) -> None:
    try:
        shifts = read_trajectories(path).shift_zyx_angst
    except InputError as error:
        found.lines.append(f"{path.name}: trajectory set")
        found.problems.append(str(error))
        return
    lengths = sorted({len(shift) for shift in shifts.values()})
    longest = max(
        (float(np.linalg.norm(shift, axis=1).max()) for shift in shifts.values() if len(shift)), default=0.0
    )
    found.lines.append(
        f"{path.name}: trajectory set of {_count(len(shifts), 'particle')} over "
        f"{' or '.join(map(str, lengths))} tilts; "
        f"largest shift {longest:.3g} Å"
    )


def _describe_optimisation_set(found: Description, path: Path, tables: dict[str, Table]) -> None:
    found.lines.append(f"{path.name}: optimisation set")
    try:
        entries = read_optimisation_set(path)
    except InputError as error:
        found.problems.append(str(error))
        return
    for label, value in entries.items():
        what = LABELS[label].meaning if label in LABELS else label
        found.lines.append(f"  {what}: {value}")
        if not _exists(value, path):
            found.problems.append(f"the {what} {value} does not exist")
    for label in (PARTICLES_FILE, TOMOGRAMS_FILE):
        if label not in entries:
            found.problems.append(f"no {LABELS[label].meaning} is named ({label})")
    if found.problems:
        return
    try:
        inputs = load_sta_inputs(path)
    except InputError as error:
        found.problems.append(str(error))
        return
    found.lines.append(
        f"{_count(len(inputs.particles), 'particle')} in {_count(len(inputs.tilt_series), 'tomogram')}; the "
        "parts fit "
        "together"
    )
    found.problems += inputs.warnings
    n_tilts = {name: one.n_tilts for name, one in inputs.tilt_series.items()}
    found.problems += _stack_problems(inputs.particles_path, inputs.particles, n_tilts)
    try:
        particle_numbers(inputs.particles, _PRIORS, may_lack=True)
    except InputError as error:
        found.problems.append(str(error))


def _describe_job_star(found: Description, path: Path, tables: dict[str, Table]) -> None:
    job = read_job_star(path)
    given = {name: value for name, value in job.options.items() if value}
    found.lines.append(
        f"{path.name}: settings of a {job.type_label} job, {_count(len(given), 'option')} given"
    )
    found.lines += [f"  {name} = {value}" for name, value in sorted(given.items())]


def _describe_pipeline(found: Description, path: Path, tables: dict[str, Table]) -> None:
    found.lines.append(f"{path.name}: pipeline file of a RELION project")
    if path.name == "default_pipeline.star" and project_root(path) == path.absolute().parent:
        _tell_jobs(found, Project(path.parent))
    else:
        _describe_tables(found, tables)


def _describe_postprocess(found: Description, path: Path, tables: dict[str, Table]) -> None:
    head = tables["general"].row()
    found.lines.append(f"{path.name}: result of post-processing, {len(tables['fsc'])} Fourier shells")
    for label, what, unit in (
        ("rlnFinalResolution", "final resolution", " Å"),
        ("rlnBfactorUsedForSharpening", "B-factor", " Å²"),
        ("rlnUnfilteredMapHalf1", "half map 1", ""),
        ("rlnUnfilteredMapHalf2", "half map 2", ""),
        ("rlnMaskName", "mask", ""),
        ("rlnPostprocessedMap", "sharpened map", ""),
        ("rlnRandomiseFrom", "phases randomised beyond", " Å"),
        ("rlnParticleBoxFractionSolventMask", "share of the box inside the mask", " %"),
    ):
        if label in head:
            value = head[label]
            text = f"{float(value):g}" if unit and is_number(value) else value
            found.lines.append(f"  {what}: {text}{unit}")
    for label in ("rlnUnfilteredMapHalf1", "rlnPostprocessedMap", "rlnMaskName"):
        if head.get(label) and not _exists(head[label], path):
            found.problems.append(f"{head[label]} ({label}) does not exist")


def _describe_model(found: Description, path: Path, tables: dict[str, Table]) -> None:
    head = tables["model_general"].row()
    found.lines.append(f"{path.name}: model of a refinement")
    for label, what, unit in (
        ("rlnCurrentResolution", "resolution", " Å"),
        ("rlnPixelSize", "pixel size", " Å"),
        ("rlnOriginalImageSize", "box", " px"),
        ("rlnCurrentImageSize", "image size in use", " px"),
        ("rlnAveragePmax", "average Pmax", ""),
        ("rlnNrClasses", "classes", ""),
    ):
        if is_number(head.get(label, "")):
            found.lines.append(f"  {what}: {float(head[label]):g}{unit}")
    classes = tables.get("model_classes")
    if classes is not None and len(classes):
        row = classes.row()
        for label, what, unit in (
            ("rlnReferenceImage", "map", ""),
            ("rlnAccuracyRotations", "estimated accuracy of rotations", "°"),
            ("rlnAccuracyTranslationsAngst", "estimated accuracy of translations", " Å"),
        ):
            if label in row:
                found.lines.append(f"  {what}: {row[label]}{unit}")


def _describe_optimiser(found: Description, path: Path, tables: dict[str, Table]) -> None:
    head = tables["optimiser_general"].row()
    found.lines.append(
        f"{path.name}: state of a refinement after iteration {head.get('rlnCurrentIteration', '?')}"
    )
    for label, what in (
        ("rlnExperimentalDataStarFile", "particles"),
        ("rlnModelStarFile", "model of half 1"),
        ("rlnModelStarFile2", "model of half 2"),
        ("rlnOrientSamplingStarFile", "sampling"),
        ("rlnTomoTomogramsFile", "tomogram set"),
        ("rlnSolventMaskName", "mask"),
    ):
        value = head.get(label, "")
        if value and value != "None":
            found.lines.append(f"  {what}: {value}")
            if not _exists(value, path):
                found.problems.append(f"{value} ({label}) does not exist")


def _describe_sampling(found: Description, path: Path, tables: dict[str, Table]) -> None:
    head = tables["sampling_general"].row()
    found.lines.append(f"{path.name}: orientations and shifts that a refinement searches")
    for label, what, unit in (
        ("rlnHealpixOrder", "HEALPix order", ""),
        ("rlnPsiStep", "in-plane step", "°"),
        ("rlnOffsetRange", "shift range", " Å"),
        ("rlnOffsetStep", "shift step", " Å"),
    ):
        if is_number(head.get(label, "")):
            found.lines.append(f"  {what}: {float(head[label]):g}{unit}")
    if "rlnSymmetryGroup" in head:
        found.lines.append(f"  symmetry: {head['rlnSymmetryGroup']}")


def _describe_output_nodes(found: Description, path: Path, tables: dict[str, Table]) -> None:
    table = tables["output_nodes"]
    found.lines.append(f"{path.name}: {_count(len(table), 'file')} that a job made")
    found.lines += [f"  {name}" for name in table.columns.get("rlnPipeLineNodeName", ())]


# ----------------------------------------------------------------------------------------------------
# Folders


def _describe_folder(path: Path) -> Description:
    found = Description()
    # A job's alias is a link to its folder.
    for folder in (path, path.resolve()):
        if JOB_NAME.search(str(folder.absolute())):
            _describe_job(found, folder)
            return found
    project = Project.find(path)
    if project is None or project.root != path.absolute():
        raise InputError(
            f"{path} is neither a RELION project nor a job folder: it has no default_pipeline.star and no "
            "<Type>/jobNNN folders"
        )
    found.lines.append(f"{path}: RELION project")
    if not (path / "default_pipeline.star").exists():
        found.lines.append("no default_pipeline.star: jobs are listed from their folders")
    _tell_jobs(found, project)
    return found


def _tell_jobs(found: Description, project: Project) -> None:
    try:
        jobs = project.jobs()
    except InputError as error:
        found.problems.append(str(error))
        return
    found.lines.append(f"{_count(len(jobs), 'job')}, the next one gets number {project.next_job}")
    for job in jobs:
        alias = f" ({job.alias})" if job.alias else ""
        status = "" if job.status == "Unknown" else f", {job.status.lower()}"
        found.lines.append(f"  {job.name}{alias}: {job.type_label or 'unknown type'}{status}")
        if job.in_pipeline and not os.path.isdir(project.root / job.name):
            found.problems.append(f"{job.name} is in the pipeline file but its folder is missing")
        if job.status == "Failed":
            found.problems.append(f"{job.name} failed; see {job.name}run.err")
    found.problems += project.problems()
    if (project.root / ".relion_lock").exists():
        found.problems.append(
            "the project is locked (.relion_lock); if no RELION is running, remove that folder"
        )


def _describe_job(found: Description, path: Path) -> None:
    status = status_of(path)
    kind = ""
    if (path / "job.star").exists():
        try:
            kind = read_job_star(path / "job.star").type_label
        except InputError as error:
            found.problems.append(str(error))
    name = f"{path.absolute().parent.name}/{path.absolute().name}/"
    state = {"Unknown": "no exit marker"}.get(status, status.lower())
    found.lines.append(f"{name}: job folder{f' of type {kind}' if kind else ''}, {state}")
    if (path / "job.json").exists():
        found.lines.append(
            "made by napari-sta (job.json); napari-sta resume continues it if it was interrupted"
        )
    if (path / "note.txt").exists():
        # Of the last run, the first command: ours, or RELION's own.
        last = (path / "note.txt").read_text(errors="replace").rpartition("++++ with the following")[2]
        commands = [line for line in last.splitlines()[1:] if line.strip() and not line.startswith(" ++++")]
        found.lines += [f"  command: {commands[0].strip()[:400]}"] if commands else []
    files = sorted(one for one in path.iterdir() if one.suffix in (".mrc", ".star", ".pdf", ".png"))
    shown = [
        one.name
        for one in files
        if one.name not in ("job.star", "job_pipeline.star", "default_pipeline.star")
    ]
    for file in shown[:20]:
        found.lines.append(f"  {file}")
    if len(shown) > 20:
        found.lines.append(f"  … and {len(shown) - 20} more")
    if status == "Failed":
        found.problems.append(f"the job failed; see {path / 'run.err'}")
    leftovers = list(path.rglob(".*.sta-tmp"))
    if leftovers:
        found.problems.append(
            f"{_count(len(leftovers), 'half-written file')} of a killed run; resume removes them"
        )
