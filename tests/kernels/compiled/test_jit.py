"""Every loop of this folder is compiled in one of the house's ways."""

from __future__ import annotations

import importlib
import pkgutil

import pytest
from numba.core.dispatcher import Dispatcher

from napari_sta.kernels import compiled
from napari_sta.kernels.compiled.jit import fast, inlined

LOOPS = {
    f"{module.name}.{name}": function
    for module in pkgutil.iter_modules(compiled.__path__)
    for name, function in vars(importlib.import_module(f"{compiled.__name__}.{module.name}")).items()
    if isinstance(function, Dispatcher)
}


@pytest.mark.parametrize("name", LOOPS)
def test_other_threads_run_meanwhile(name):
    """The caller shares work out among threads: a loop that holds the lock would make them wait."""
    options = LOOPS[name].targetoptions
    assert options.get("nogil") or options.get("inline") == "always"


def test_what_is_fast_is_kept_on_disk_and_what_is_inlined_is_not():
    def twice(x):
        return 2 * x

    assert fast(twice)(3) == inlined(twice)(3) == 6
    assert fast(twice).targetoptions["fastmath"] is True
    assert inlined(twice).targetoptions["inline"] == "always"
    assert type(fast(twice)._cache) is not type(inlined(twice)._cache)
