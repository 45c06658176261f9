"""What an iteration, and a whole refinement, came to: for logs, docks and ``--json``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_sta.engine.state import State
    from napari_sta.kernels.refine.control import Rules


def report(state: State, rules: Rules, seconds: float) -> dict[str, Any]:
    """Say what an iteration brought: for logs, docks and ``--json``."""
    control = state.control
    resolution = 1 / max(control.resolution_inv_angst, 1e-6)
    known = control.accuracy_deg < 900
    sentence = (
        f"iteration {state.iteration}: {resolution:.2f} Å, Pmax {state.p_max.mean():.2f}, sampling "
        f"{control.fine_step_deg(rules):.2g}°, changes {state.changes_deg:.2f}° and {state.changes_angst:.2f} Å"
    )
    if known:
        sentence += f", accuracy {control.accuracy_deg:.2f}° and {control.accuracy_angst:.2f} Å"
    return {
        "iteration": state.iteration,
        "phase": "done",
        "sentence": sentence + (", converged" if state.converged else ""),
        "resolution_angst": round(resolution, 4),
        "fsc": [round(float(value), 5) for value in state.fsc],
        "edge_angst": rules.edge_angst,
        "accuracy_deg": control.accuracy_deg if known else None,
        "accuracy_angst": control.accuracy_angst if known else None,
        "p_max": round(float(state.p_max.mean()), 5),
        "sampling_deg": control.fine_step_deg(rules),
        "offset_step_angst": control.fine_offset_step_angst(rules),
        "image_size_px": state.current_size_px,
        "changes_deg": state.changes_deg,
        "changes_angst": state.changes_angst,
        "temperature": [round(images.temperature, 3) for images in state.images],
        "converged": state.converged,
        "seconds": seconds,
    }


def result(state: State, rules: Rules, history: list[dict[str, Any]]) -> dict[str, Any]:
    """Say what a refinement came to: the job's result record."""
    control = state.control
    resolution = 1 / max(control.resolution_inv_angst, 1e-6)
    return {
        "iterations": state.iteration,
        "converged": state.converged,
        "resolution_angst": round(resolution, 3),
        "accuracy_deg": round(control.accuracy_deg, 3),
        "accuracy_angst": round(control.accuracy_angst, 3),
        "p_max": round(float(state.p_max.mean()), 4),
        "sampling_deg": round(control.fine_step_deg(rules), 4),
        "n_particles": len(state.p_max),
        "history": history,
        "summary": f"{'converged after' if state.converged else 'stopped at'} iteration {state.iteration}: "
        f"{resolution:.2f} Å, poses accurate to {control.accuracy_deg:.2f}° and {control.accuracy_angst:.2f} Å",
    }
