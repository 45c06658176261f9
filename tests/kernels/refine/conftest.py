"""One particle to refine, as images and as a volume, and where it is done."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_sta.kernels.refine.pixels import make_pixel_list
from napari_sta.kernels.refine.voxels import make_voxel_list
from toy_refinement import RADIUS, SIZE, blob_map, random_rotations, toy_particle, toy_volume


@pytest.fixture(scope="module")
def toy():
    pixels = make_pixel_list(SIZE, RADIUS)
    rotation, shift = random_rotations(1, 5)[0], np.array([0.4, -0.7, 1.2])
    projector, particle = toy_particle(blob_map(), pixels, rotation, shift, scale=1.2)
    return pixels, projector, particle, rotation, shift


@pytest.fixture(scope="module")
def solid():
    pixels = make_voxel_list(SIZE, RADIUS, part=150)
    rotation, shift = random_rotations(1, 5)[0], np.array([0.4, -0.7, 1.2])
    projector, particle = toy_volume(pixels, rotation, shift, scale=1.2)
    return pixels, projector, particle, rotation, shift


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return request.param
