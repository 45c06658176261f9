"""Fast CPU paths, compiled by numba; each has a plain torch twin in the module that calls it.

All kernels are serial and release the GIL: the caller gives each thread its own share
(:func:`napari_sta.kernels.devices.run_in_threads`), so results do not depend on the thread count.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_SIN_3, _SIN_5, _SIN_7, _SIN_9 = (
    np.float32(-5.16771278), np.float32(2.55016404), np.float32(-0.59926453), np.float32(0.08214588),
)  # fmt: skip
_PI = np.float32(np.pi)


@njit(inline="always")
def _contrast_row(g, end, y, ky, kx, i, coefficients, envelope, extra_phase):  # type: ignore[no-untyped-def]
    """Fill ``g[:end]`` with -CTF·envelope of one row of image ``i``.

    ``coefficients`` (n, 5) in half turns, or (0, 5): no CTF. The phase in half turns t: subtracting the
    nearest whole turn in float64 keeps float32 exact after it, and sin(pi t) = sin(pi (t mod 2)) is an odd
    polynomial.
    """
    if coefficients.shape[0] == 0:
        for x in range(end):
            g[x] = np.float32(-1)
    else:
        use_extra = extra_phase.shape[0] > 0
        yx, xx = coefficients[i, 1], coefficients[i, 2]
        quartic = coefficients[i, 3]
        base = coefficients[i, 0] * ky[y] * ky[y] + coefficients[i, 4]
        square_y = ky[y] * ky[y]
        for x in range(end):
            square = square_y + kx[x] * kx[x]
            t = base + (yx * ky[y] + xx * kx[x]) * kx[x] + quartic * square * square
            if use_extra:
                t += extra_phase[y, x]
            r = np.float32(t - 2.0 * np.floor(t * 0.5 + 0.5))  # [-1, 1)
            folded = min(max(r, -np.float32(1) - r), np.float32(1) - r)  # same sine, in [-1/2, 1/2]
            f2 = folded * folded
            poly = ((_SIN_9 * f2 + _SIN_7) * f2 + _SIN_5) * f2 + _SIN_3
            g[x] = folded * (_PI + f2 * poly) * envelope[y, x]  # -CTF = +sin(gamma)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
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


@njit(nogil=True, cache=True, error_model="numpy")
def symmetrise_planes(first, step, volume, operators, out):  # type: ignore[no-untyped-def]
    """Average a half-transform volume over rotations, for every ``step``-th plane.

    ``volume`` and ``out`` (s, s, h, 3) as in :func:`gather_into_planes`; ``operators`` (n, 3, 3) zyx, the
    identity first. Trilinear; indices are clamped at Nyquist.
    """
    size = volume.shape[0]
    half_size = size // 2
    last = size - 1
    n = len(operators)
    for plane in range(first, size, step):
        z = plane - half_size
        for row in range(size):
            y = row - half_size
            for x in range(half_size + 1):
                re, im, w = volume[plane, row, x, 0], volume[plane, row, x, 1], volume[plane, row, x, 2]
                for o in range(1, n):
                    zz = operators[o, 0, 0] * z + operators[o, 0, 1] * y + operators[o, 0, 2] * x
                    yy = operators[o, 1, 0] * z + operators[o, 1, 1] * y + operators[o, 1, 2] * x
                    xx = operators[o, 2, 0] * z + operators[o, 2, 1] * y + operators[o, 2, 2] * x
                    sign = np.float32(1)
                    if xx <= 0:
                        zz, yy, xx, sign = -zz, -yy, -xx, np.float32(-1)
                    zz = min(max(zz + half_size, 0.0), float(last))
                    yy = min(max(yy + half_size, 0.0), float(last))
                    xx = min(xx, float(half_size))
                    iz, iy, ix = int(zz), int(yy), int(xx)
                    fz, fy, fx = np.float32(zz - iz), np.float32(yy - iy), np.float32(xx - ix)
                    jz, jy, jx = min(iz + 1, last), min(iy + 1, last), min(ix + 1, half_size)
                    for a in range(2):
                        wz, kz = (fz, jz) if a else (np.float32(1) - fz, iz)
                        for b in range(2):
                            wzy, ky = (wz * fy, jy) if b else (wz * (np.float32(1) - fy), iy)
                            w0, w1 = wzy * (np.float32(1) - fx), wzy * fx
                            re += w0 * volume[kz, ky, ix, 0] + w1 * volume[kz, ky, jx, 0]
                            im += sign * (w0 * volume[kz, ky, ix, 1] + w1 * volume[kz, ky, jx, 1])
                            w += w0 * volume[kz, ky, ix, 2] + w1 * volume[kz, ky, jx, 2]
                out[plane, row, x, 0] = re / n
                out[plane, row, x, 1] = im / n
                out[plane, row, x, 2] = w / n


@njit(inline="always")
def _deposit(volume, plane, row, x, slices, i, near, u, v):  # type: ignore[no-untyped-def]
    """Add the bilinear value of slice ``i`` at (v, u), times ``near``, to one voxel."""
    size = volume.shape[0]
    half_size = size // 2
    sign = np.float32(1)
    if u < 0:
        u, v, sign = -u, -v, np.float32(-1)
    v += half_size
    if v < 0:
        v += size
    elif v >= size:
        v -= size
    iu, iv = np.uint32(u), np.uint32(v)
    fu, fv = np.float32(u - iu), np.float32(v - iv)
    iu = min(iu, np.uint32(half_size))
    ju, jv = iu + np.uint32(1), iv + np.uint32(1)
    w11 = near * fv * fu
    w10 = near * fv - w11
    w01 = near * fu - w11
    w00 = near - near * fv - w01
    volume[plane, row, x, 0] += (
        w00 * slices[i, iv, iu, 0] + w01 * slices[i, iv, ju, 0]
        + w10 * slices[i, jv, iu, 0] + w11 * slices[i, jv, ju, 0]
    )  # fmt: skip
    volume[plane, row, x, 1] += sign * (
        w00 * slices[i, iv, iu, 1] + w01 * slices[i, iv, ju, 1]
        + w10 * slices[i, jv, iu, 1] + w11 * slices[i, jv, ju, 1]
    )  # fmt: skip
    volume[plane, row, x, 2] += (
        w00 * slices[i, iv, iu, 2] + w01 * slices[i, iv, ju, 2]
        + w10 * slices[i, jv, iu, 2] + w11 * slices[i, jv, ju, 2]
    )  # fmt: skip


@njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
def gather_into_planes(first, step, slices, matrices, radii, volume):  # type: ignore[no-untyped-def]
    """Add central slices to every ``step``-th plane of a half-transform volume, voxel by voxel.

    Parameters
    ----------
    slices
        (n, s + 1, h + 1, 3) float32 from :func:`napari_sta.kernels.windows.weighed_slices`.
    matrices
        (n, 3, 3) float64, zyx: voxel frequency to image frequency (depth, v, u).
    radii
        (n,) float64 largest radius in voxels that receives data (may exceed s / 2 by one).
    volume
        (s, s, h, 3) float32: re, im, weight; rows and planes from -s/2 upwards.

    Notes
    -----
    The voxels of one plane that lie within one voxel of a slice form a strip. It is walked along the
    axis on which its runs are longest, because starting a run costs as much as three voxels.
    """
    size = volume.shape[0]
    half_size = size // 2
    for plane in range(first, size, step):
        z = plane - half_size
        for i in range(len(slices)):
            room_z = radii[i] * radii[i] - z * z
            if room_z < 0:
                continue
            most = int(np.sqrt(room_z))
            x_most = min(most, half_size)
            y_top = min(most, half_size - 1)
            y_bottom = max(-most, -half_size)
            dz, dy, dx = matrices[i, 0, 0], matrices[i, 0, 1], matrices[i, 0, 2]
            vz, vy, vx = matrices[i, 1, 0], matrices[i, 1, 1], matrices[i, 1, 2]
            uz, uy, ux = matrices[i, 2, 0], matrices[i, 2, 1], matrices[i, 2, 2]
            depth_z = dz * z
            if abs(dx) <= abs(dy):
                # Runs along x. |depth_z + dy y + dx x| < 1 with 0 <= x <= most bounds y, then x.
                low = -1.0 - depth_z - max(0.0, dx * x_most)
                high = 1.0 - depth_z - min(0.0, dx * x_most)
                y_first, y_last = y_bottom, y_top
                if dy > 1e-9:
                    y_first = max(y_first, int(np.ceil(low / dy)))
                    y_last = min(y_last, int(np.floor(high / dy)))
                elif dy < -1e-9:
                    y_first = max(y_first, int(np.ceil(high / dy)))
                    y_last = min(y_last, int(np.floor(low / dy)))
                elif low > 0 or high < 0:
                    continue
                inverse = 1.0 / dx if abs(dx) > 1e-9 else 0.0
                for y in range(y_first, y_last + 1):
                    depth_0 = depth_z + dy * y
                    x_first, x_last = 0, min(int(np.sqrt(room_z - y * y)), half_size)
                    if inverse != 0.0:
                        a, b = (-1.0 - depth_0) * inverse, (1.0 - depth_0) * inverse
                        if a > b:
                            a, b = b, a
                        if b < 0 or a > x_last:
                            continue
                        x_first = max(x_first, int(np.ceil(a)))
                        x_last = min(x_last, int(np.floor(b)))
                    v_0 = vz * z + vy * y
                    u_0 = uz * z + uy * y
                    for x in range(x_first, x_last + 1):
                        near = np.float32(1.0 - abs(depth_0 + dx * x))
                        if near > 0:
                            _deposit(
                                volume, plane, y + half_size, x, slices, i, near, u_0 + ux * x, v_0 + vx * x
                            )
            else:
                # Runs along y.
                reach = abs(dy) * most
                a, b = (-1.0 - depth_z - reach) / dx, (1.0 - depth_z + reach) / dx
                if a > b:
                    a, b = b, a
                if b < 0 or a > x_most:
                    continue
                inverse = 1.0 / dy if abs(dy) > 1e-9 else 0.0
                for x in range(max(0, int(np.ceil(a))), min(x_most, int(np.floor(b))) + 1):
                    depth_0 = depth_z + dx * x
                    room = int(np.sqrt(room_z - x * x))
                    y_first, y_last = max(-room, y_bottom), min(room, y_top)
                    if inverse != 0.0:
                        a, b = (-1.0 - depth_0) * inverse, (1.0 - depth_0) * inverse
                        if a > b:
                            a, b = b, a
                        if b < y_first or a > y_last:
                            continue
                        y_first = max(y_first, int(np.ceil(a)))
                        y_last = min(y_last, int(np.floor(b)))
                    v_0 = vz * z + vx * x
                    u_0 = uz * z + ux * x
                    for y in range(y_first, y_last + 1):
                        near = np.float32(1.0 - abs(depth_0 + dy * y))
                        if near > 0:
                            _deposit(
                                volume, plane, y + half_size, x, slices, i, near, u_0 + uy * y, v_0 + vy * y
                            )


@njit(nogil=True, cache=True)
def additive_generator(state, count):  # type: ignore[no-untyped-def]
    """Continue x[i] = x[i - 31] + x[i - 3] mod 2^32 from its last 31 values (uint32)."""
    values = np.empty(31 + count, np.uint32)
    values[:31] = state
    for i in range(31, 31 + count):
        values[i] = values[i - 31] + values[i - 3]
    return values[31:]
