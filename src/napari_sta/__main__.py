"""The program: ``napari-sta``, and ``python -P -m napari_sta``, for ``torchrun`` among others."""

from __future__ import annotations

import os
import sys

import napari_sta


def start() -> int:
    """Run the command line as a process of its own; returns the exit status.

    Ctrl-C counts from here on, and nothing is imported from the current folder.
    """
    _forget_current_folder()
    from napari_sta import _interrupt  # only now: it imports from the standard library

    with _interrupt.handled(at_once=True):
        from napari_sta.cli import main

        status = main()
        if status == _interrupt.STOPPED:
            # It has been told and all is tidy; threads at work must not hold it up.
            _interrupt.leave("")
        return status


def _forget_current_folder() -> None:
    """Import nothing from the folder that the user is in: it may be a project of anybody's.

    It is on the path with ``python -m``, and with an empty part of PYTHONPATH.
    """
    try:
        here = os.getcwd()
    except OSError:
        here = ""
    own = os.path.dirname(os.path.dirname(os.path.abspath(napari_sta.__file__)))
    sys.path[:] = [one for one in sys.path if one == own or one not in ("", here)]


if __name__ == "__main__":
    sys.exit(start())
