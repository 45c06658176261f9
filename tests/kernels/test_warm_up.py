"""Everything that is compiled is compiled at set-up."""

from __future__ import annotations

import subprocess
import sys

COLD = """
import importlib, pkgutil, sys
from napari_sta.kernels import compiled
from napari_sta.kernels.warm_up import warm_up
from numba.core.dispatcher import Dispatcher
warm_up()
cold = []
for module in pkgutil.iter_modules(compiled.__path__):
    for name, loop in vars(importlib.import_module(f"{compiled.__name__}.{module.name}")).items():
        called_by_python = isinstance(loop, Dispatcher) and not name.startswith("_")
        if called_by_python and loop.targetoptions.get("nogil") and loop.__module__.endswith(module.name):
            cold += [] if loop.signatures or name in INNER else [name]
sys.exit(", ".join(cold) or 0)
"""
INNER = ("factors_of", "transform_rows", "untangle", "tangle", "transpose")
"""Called by other loops only, with which they are compiled."""


def test_no_loop_is_left_to_the_first_user():
    result = subprocess.run(
        [sys.executable, "-c", f"INNER = {INNER}\n{COLD}"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
