"""What is told of long work while it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Progress(NamedTuple):
    """One step of a running job.

    Attributes
    ----------
    done, total
        Units of work; ``total`` 0 means not known yet.
    message
        What is being worked on, for people.
    data
        Live values for docks and ``--json`` (numbers, small lists, paths).
    """

    done: int
    total: int
    message: str = ""
    data: Mapping[str, Any] = {}
