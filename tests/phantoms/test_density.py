"""The hexamer: six-fold, and of one hand."""

from __future__ import annotations

from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from napari_sta.phantoms.density import hexamer


def test_hexamer_is_six_fold_and_has_no_mirror():
    xyz = hexamer().centre_zyx_angst[:, ::-1]
    turned = Rotation.from_euler("Z", [60], degrees=True).apply(xyz)
    assert cKDTree(xyz).query(turned)[0].max() < 1e-9
    twelve = Rotation.from_euler("Z", [30], degrees=True).apply(xyz)
    assert cKDTree(xyz).query(twelve)[0].mean() > 2
    assert cKDTree(xyz).query(xyz * [1, 1, -1])[0].mean() > 2
    assert cKDTree(xyz).query(xyz * [1, -1, 1])[0].mean() > 1
