"""Slices of single particles into pseudo-subtomograms."""

from __future__ import annotations

import numpy as np

from napari_sta.kernels.compiled.jit import fast


@fast
def scatter_slices(  # type: ignore[no-untyped-def]
    first, last, spectra, weights, axes, x_end, data, weight, multiplicity
):
    """Spread the slices of particles [first, last) into one half volume each, trilinearly.

    Parameters
    ----------
    spectra, weights
        (n, t, s, h, 2) and (n, t, s, h) float32 in FFTW order; all tilts of a particle.
    axes
        (n, t, 2, 3) float64: where steps along v and u of the image go in the volume, zyx.
    x_end
        (n, t, s) columns from here on are left out; 0 for tilts that are not there.
    data, weight, multiplicity
        (n, c, c, c / 2 + 1[, 2]) float32 in FFTW order, added to.

    Notes
    -----
    Neighbours outside the volume are skipped; on its x = 0 plane the Friedel mate is added too.
    """
    n_tilts, size = spectra.shape[1], spectra.shape[2]
    crop = data.shape[1]
    half_crop = crop // 2
    for i in range(first, last):
        for t in range(n_tilts):
            vz, vy, vx = axes[i, t, 0, 0], axes[i, t, 0, 1], axes[i, t, 0, 2]
            uz, uy, ux = axes[i, t, 1, 0], axes[i, t, 1, 1], axes[i, t, 1, 2]
            area = np.sqrt((vz * vz + vy * vy + vx * vx) * (uz * uz + uy * uy + ux * ux))
            for row in range(size):
                y = row if row < size // 2 else row - size
                for x in range(0 if row < size // 2 else 1, x_end[i, t, row]):
                    pz, py, px = vz * y + uz * x, vy * y + uy * x, vx * y + ux * x
                    re, im = spectra[i, t, row, x, 0], spectra[i, t, row, x, 1]
                    w = weights[i, t, row, x]
                    if px < 0:
                        pz, py, px, im = -pz, -py, -px, -im
                    z0, y0, x0 = int(np.floor(pz)), int(np.floor(py)), int(px)
                    fz, fy, fx = pz - z0, py - y0, px - x0
                    for dz in range(2):
                        gz = z0 + dz
                        mz = (fz if dz else 1.0 - fz) * area
                        if gz < -half_crop or gz >= half_crop:
                            continue
                        for dy in range(2):
                            gy = y0 + dy
                            mzy = mz * (fy if dy else 1.0 - fy)
                            if gy < -half_crop or gy >= half_crop:
                                continue
                            for dx in range(2):
                                gx = x0 + dx
                                if gx > half_crop:
                                    continue
                                m = np.float32(mzy * (fx if dx else 1.0 - fx))
                                iz, iy = gz % crop, gy % crop
                                data[i, iz, iy, gx, 0] += m * re
                                data[i, iz, iy, gx, 1] += m * im
                                weight[i, iz, iy, gx] += m * w
                                multiplicity[i, iz, iy, gx] += m
                                if gx == 0:
                                    iz, iy = -gz % crop, -gy % crop
                                    data[i, iz, iy, 0, 0] += m * re
                                    data[i, iz, iy, 0, 1] -= m * im
                                    weight[i, iz, iy, 0] += m * w
                                    multiplicity[i, iz, iy, 0] += m
