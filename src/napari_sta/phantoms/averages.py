"""What a perfect average of a phantom looks like, and the masks that go with it."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_edt

from napari_sta.data.volume import Volume
from napari_sta.phantoms.density import Blobs, density_map
from napari_sta.phantoms.lattice import sphere_lattice
from napari_sta.phantoms.spec import PhantomSpec


def leaflet_mass(spec: PhantomSpec, blobs: Blobs) -> float:
    """Mass per Å² of one leaflet."""
    area = spec.lattice_spacing_angst**2 * np.sqrt(0.75)
    return float(spec.membrane_strength * blobs.mass.sum() / area / 2)


def _lattice_blobs(spec: PhantomSpec, blobs: Blobs) -> Blobs:
    """Return the particle and its neighbours on the sphere, as far as they reach into the box."""
    position, rotation = sphere_lattice(spec.sphere_radius_angst, spec.lattice_spacing_angst)
    from_top = position - [0.0, 0.0, spec.sphere_radius_angst]
    distance = np.linalg.norm(from_top, axis=1)
    near = distance < spec.map_box_px * spec.pixel_size_angst / 2 + spec.lattice_spacing_angst / 2
    copies = [rotation[i].apply(blobs.centre_zyx_angst[:, ::-1]) + from_top[i] for i in np.flatnonzero(near)]
    xyz = np.concatenate(copies)
    half = spec.map_box_px * spec.pixel_size_angst / 2 - 3 * blobs.sigma_angst
    inside = (np.abs(xyz) < half).all(axis=1)
    mass = np.tile(blobs.mass, len(copies))[inside]
    return Blobs(np.ascontiguousarray(xyz[inside, ::-1]), mass, blobs.sigma_angst)


def lattice_maps(spec: PhantomSpec, blobs: Blobs, offset_px: float) -> tuple[Volume, Volume]:
    """Return the lattice with its membrane, raised by an offset, and the mask of the unraised lattice."""
    pixel, n = spec.pixel_size_angst, spec.map_box_px
    lattice = _lattice_blobs(spec, blobs)
    raised = lattice.centre_zyx_angst + np.array([offset_px * pixel, 0.0, 0.0])
    density = density_map(lattice._replace(centre_zyx_angst=raised), n, pixel).data
    along = (np.arange(n) - n // 2) * pixel
    z, y, x = along[:, None, None], along[None, :, None], along[None, None, :]
    if spec.membrane_strength > 0:
        r = np.sqrt((z - offset_px * pixel + spec.sphere_radius_angst) ** 2 + y**2 + x**2)
        profile = sum(
            np.exp(-((r - spec.sphere_radius_angst - h) ** 2) / (2 * 6.0**2)) for h in spec.membrane_angst
        ) / (np.sqrt(2 * np.pi) * 6.0)
        density = density + (leaflet_mass(spec, blobs) * pixel**3 * profile).astype(np.float32)
    mask = soft_mask(lattice, spec, threshold=0.4, grow_angst=5.4, soft_angst=13.5).data
    # The lattice goes on sideways: users cut it with a soft cylinder, inside the taper of averages.
    radius = min(108.0, (n / 2 - 10) * pixel)
    cylinder = np.clip((radius - np.hypot(y, x)) / 13.5 + 0.5, 0, 1)
    mask = mask * (0.5 - 0.5 * np.cos(np.pi * cylinder))
    return Volume(density.astype(np.float32), pixel), Volume(mask.astype(np.float32), pixel)


def soft_mask(
    blobs: Blobs, spec: PhantomSpec, *, threshold: float, grow_angst: float, soft_angst: float
) -> Volume:
    """Soft mask round a density blurred to about 18 Å; the threshold is relative to its maximum."""
    pixel = spec.pixel_size_angst
    blurred = density_map(blobs._replace(sigma_angst=6.0), spec.map_box_px, pixel).data
    distance = distance_transform_edt(blurred < threshold * blurred.max()) * pixel - grow_angst
    mask = 0.5 + 0.5 * np.cos(np.pi * np.clip(distance / soft_angst, 0, 1))
    return Volume(mask.astype(np.float32), pixel)
