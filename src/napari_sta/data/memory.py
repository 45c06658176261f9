"""What fits into the memory of this computer."""

from __future__ import annotations

import os

from napari_sta.data.errors import InputError


def check_memory(n_bytes: float, what: str, cure: str = "take a smaller box") -> None:
    """Refuse what cannot fit into the memory of this computer, before anything is asked for.

    Parameters
    ----------
    what
        The option or file, for the message.

    Raises
    ------
    InputError
        One sentence with both sizes and the cure.
    """
    try:
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return
    if 0 < there < n_bytes:
        raise InputError(
            f"{what} needs {n_bytes / 2**30:,.0f} GiB of memory, and this computer has "
            f"{there / 2**30:.0f} GiB; {cure}"
        )
