"""What is said of a job that runs or has ended: time, result, details of a failure."""

from __future__ import annotations

import traceback

from napari_sta.widgets.run_queue import Ticket

UNITS = {"_angst": "Å", "_angst2": "Å²", "_px": "px", "_deg": "°"}


def span(seconds: float) -> str:
    """Say a time in seconds, minutes or hours."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"


def result_words(ticket: Ticket) -> str:
    """Say the result in a line: the job's own summary, else the plain numbers of its record."""
    record = ticket.record
    if record.get("converged") is False:
        return (
            f"It stopped after iteration {record.get('iterations')}, as it was told to, before it had "
            "converged. “Continue” makes a new job that goes on from there."
        )
    if isinstance(record.get("summary"), str):
        return str(record["summary"])
    words = []
    for key, value in record.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or key == "seconds":
            continue
        suffix = next((s for s in sorted(UNITS, key=len, reverse=True) if key.endswith(s)), "")
        label = key.removesuffix(suffix).removeprefix("n_").replace("_", " ")
        words.append(f"{label} {value:.5g} {UNITS.get(suffix, '')}".strip())
    return " · ".join(words[:6])


def failure_details(ticket: Ticket) -> str:
    """Return the end of the traceback of what nobody foresaw; an error of ours says all in its sentence."""
    cause = ticket.error.__cause__ if ticket.error is not None else None
    if cause is None or "unexpectedly" not in str(ticket.error):
        return ""
    return "\n".join(line.rstrip() for line in traceback.format_exception(cause)[-6:])
