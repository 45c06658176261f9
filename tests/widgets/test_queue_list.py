"""The jobs that wait are listed in the order in which they run."""

from __future__ import annotations

from fake_jobs import Fine
from qtpy.QtWidgets import QLabel, QPushButton

from napari_sta.widgets.queue_list import QueueList


def names(rows) -> list[str]:
    return [row.findChild(QLabel).text() for row in rows.rows]


def button(rows, row: int, sign: str) -> QPushButton:
    return next(b for b in rows.rows[row].findChildren(QPushButton) if b.text() == sign)


def test_rows_follow_the_queue(bench, qtbot, project, wait):
    bench.open_project(project)
    wait(lambda: bench.view is not None)
    rows = QueueList(bench.queue)
    qtbot.addWidget(rows)
    assert not rows.isVisibleTo(None)
    first = bench.queue.run(Fine(steps=10_000, pause_s=0.01))
    assert names(rows) == []
    for _ in range(5):
        bench.queue.run(Fine())
    assert names(rows) == ["Waiting: Fine"] + ["then: Fine"] * 4
    three = 3 * (rows.rows[0].sizeHint().height() + 1)
    assert rows.height() == three  # it scrolls
    last = bench.queue.queued[-1]
    assert not button(rows, 0, "↑").isEnabled()
    button(rows, 4, "↑").click()
    assert bench.queue.queued[-2] is last
    button(rows, 3, "×").click()
    assert last.state == "stopped"
    assert len(rows.rows) == 4
    bench.queue.stop_all()
    wait(lambda: first.state == "stopped")
    assert names(rows) == []
