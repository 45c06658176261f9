"""What a job raises when it cannot go on, in words a user can act on."""

from __future__ import annotations


class StaError(Exception):
    """A failure with a cause and a cure; ``str()`` is the whole message for the user."""


class InputError(StaError):
    """The input is wrong: names the file, column or option and how to mend it. Exit status 2."""


class JobError(StaError):
    """The job failed while running (device lost, memory, disk): says what is kept and what to try."""


class Stopped(StaError):
    """The user stopped the job."""
