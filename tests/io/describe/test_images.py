"""Maps, stacks, masks and headers of other programs."""

from __future__ import annotations

import numpy as np
import pytest

from napari_sta.data.errors import InputError
from napari_sta.data.volume import Volume
from napari_sta.io.describe import describe
from napari_sta.io.mrc import write_volume


def test_problems_of_maps(tmp_path):
    write_volume(
        tmp_path / "mask.mrc", Volume(np.linspace(-0.1, 1.2, 64, dtype=np.float32).reshape(4, 4, 4), 2.7)
    )
    assert "clamp it to 0…1" in describe(tmp_path / "mask.mrc").problems[0]
    write_volume(tmp_path / "map.mrc", Volume(np.zeros((4, 4, 4), np.float32), 1.0))
    assert describe(tmp_path / "map.mrc").problems == ["all values are 0"]  # we mean the 1 Å that we write
    write_volume(tmp_path / "map.mrc", Volume(np.zeros((4, 4, 4), np.float32), None))
    problems = describe(tmp_path / "map.mrc").problems
    assert any("it states no pixel size" in one for one in problems)
    assert any("all values are 0" in one for one in problems)
    (tmp_path / "map.mrc").write_bytes((tmp_path / "map.mrc").read_bytes()[:-8])
    assert any("truncated: 8 bytes" in one for one in describe(tmp_path / "map.mrc").problems)


def test_headers_of_other_programs(tmp_path):
    """What is said of an order of axes, of stacks that are none, of compressed and of damaged files."""
    path = tmp_path / "map.mrc"
    write_volume(path, Volume(np.arange(64, dtype=np.float32).reshape(4, 4, 4), 2.7))
    sound = path.read_bytes()

    def with_words(**words):
        raw = bytearray(sound)
        for name, value in words.items():
            raw[4 * int(name[1:]) : 4 * int(name[1:]) + 4] = int(value).to_bytes(4, "little")
        path.write_bytes(bytes(raw))
        return describe(path)

    said = with_words(w16=3, w18=1)
    assert "stored with columns along z, rows along y, sections along x" in str(said)
    assert said.problems == []
    said = with_words(w22=0, w9=1)
    assert "map.mrc: map, 4 x 4 x 4 voxels" in str(said)
    assert "its header calls it a stack of images (ISPG 0, mz 1)" in str(said)
    assert "extended header of that length" in with_words(w23=5760).problems[0]
    (tmp_path / "emd_1.map.gz").write_bytes(b"\x1f\x8b\x08\0" + bytes(100))
    with pytest.raises(InputError, match=r"compressed \(gzip\): gunzip it first"):
        describe(tmp_path / "emd_1.map.gz")


@pytest.mark.parametrize(
    ("name", "a_mask"),
    [
        ("mask.mrc", True),
        ("Mask_2.mrc", True),
        ("run_solvent_mask.mrc", True),
        ("postprocess_masked.mrc", False),
        ("map_unmasked.mrc", False),
        ("MASKED.mrc", False),
    ],
)
def test_a_masked_map_is_no_mask(tmp_path, name, a_mask):
    data = np.random.default_rng(0).normal(size=(8, 8, 8)).astype(np.float32)
    write_volume(tmp_path / name, Volume(data, 2.7))
    said = describe(tmp_path / name)
    assert any("values of a mask" in problem for problem in said.problems) == a_mask
    assert (f"{name}: mask" in said.lines[0]) == a_mask
