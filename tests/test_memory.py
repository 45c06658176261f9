"""What cannot fit into memory is refused before it is asked for."""

from __future__ import annotations

import pytest

from napari_sta.data.errors import InputError
from napari_sta.data.memory import check_memory


def test_what_cannot_fit_is_refused():
    with pytest.raises(InputError, match=r"--box_size_px 100000 needs .* GiB of memory.*take a smaller box"):
        check_memory(4.0 * 100_000**3, "--box_size_px 100000")
    check_memory(4.0 * 64**3, "a map")
