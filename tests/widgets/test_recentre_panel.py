"""What would be applied is said; what cannot be is refused with its reason."""

from __future__ import annotations

import pytest

from napari_sta.data.errors import InputError
from napari_sta.widgets.cards import Card
from napari_sta.widgets.recentre_panel import RecentrePanel, Recentring


@pytest.fixture
def panel(bench, qtbot, project, wait):
    """Its answer to what is to be applied can be set: `panel.asked`."""
    bench.open_project(project)
    wait(lambda: bench.view is not None)

    def wanted() -> Recentring:
        if isinstance(made.asked, str):
            raise InputError(made.asked)
        return made.asked

    made = RecentrePanel(bench, Card(), wanted)
    qtbot.addWidget(made)
    made.asked = Recentring("map.mrc", "mask.mrc", (2.5, 0.0, -1.0), 4.0, 64, "C6")
    made.fill_particles()
    made.particles.setCurrentIndex(1)
    return made


def test_jobs_are_those_of_offset_and_map(panel):
    job, after = panel.jobs_to_run()
    assert (job.center_z_px, job.center_y_px, job.center_x_px) == (2.5, 0.0, -1.0)
    assert job.pixel_size_angst == 4.0
    assert after == {"box_size_px": 128, "crop_size_px": 64, "symmetry": "C6"}
    panel.settings = {"box_size_px": "80", "crop_size_px": "64", "binning": "2", "symmetry": "C1"}
    _, after = panel.jobs_to_run()
    assert after == {"box_size_px": "80", "crop_size_px": "64", "binning": "2", "symmetry": "C6"}
    panel.again.setChecked(False)
    assert panel.jobs_to_run()[1] is None
    assert panel.asked.words == "+2.50 px (+10.00 Å)"


def test_button_tells_why_it_is_off(panel):
    panel.replan()
    assert panel.apply_button.isEnabled()
    assert "recenter" in panel.command.text()
    panel.asked = "Choose a map and a mask."
    panel.replan()
    assert not panel.apply_button.isEnabled()
    assert "Choose a map and a mask" in panel.apply_button.toolTip()
    assert panel.command.text() == ""
    panel.apply()
    assert "Choose a map and a mask" in panel.card.text
    panel.asked = Recentring("map.mrc", "mask.mrc", (0.0, 0.0, 0.0), 4.0, 64, "C6")
    panel.replan()
    assert not panel.apply_button.isEnabled()
    assert "offset is 0" in panel.apply_button.toolTip()
    panel.particles.setCurrentIndex(0)
    assert "Choose the particle set" in panel.apply_button.toolTip()


def test_particles_are_applied_and_taken_back(panel, bench, project, wait):
    panel.again.setChecked(False)
    panel.asked = Recentring("map.mrc", "mask.mrc", (2.5, 0.0, 0.0), 4.0, 64, "C6")
    gone = []
    panel.undone.connect(lambda folders, before: gone.append((folders, before)))
    panel.apply()
    assert not panel.apply_button.isEnabled()
    wait(lambda: panel.undo_button.isEnabled(), 60)
    [ticket] = bench.queue.tickets
    assert (ticket.out / "particles.star").is_file()
    assert f"New particle set in {ticket.title}" in panel.card.text
    panel.undo()
    wait(lambda: bool(gone))
    [(folders, before)] = gone
    assert folders == [ticket.out]
    assert before.recentring == panel.asked
    assert not ticket.out.exists()
    assert not panel.undo_button.isEnabled()
