"""The form of every job gives back the job it was given."""

from __future__ import annotations

import random
import typing

import annotated_types
import numpy as np
import pytest
from pydantic import ValidationError

from napari_sta.data.errors import InputError
from napari_sta.jobs._job import Job, all_jobs, extra_of, job_named, param
from napari_sta.widgets.fields import NumberField
from napari_sta.widgets.form import Fold, JobForm, is_file, label_of, plain_type
from napari_sta.widgets.job_dock import JobDock

JOBS = list(all_jobs().values())


def legal_numbers(info, whole: bool) -> list:
    low, high = -1000.0, 1000.0
    for item in info.metadata:
        if isinstance(item, annotated_types.Gt | annotated_types.Ge):
            low = float(getattr(item, "gt", getattr(item, "ge", low)))
        if isinstance(item, annotated_types.Lt | annotated_types.Le):
            high = float(getattr(item, "lt", getattr(item, "le", high)))
    span = min(high, low + 500) - low
    if whole:
        return [int(low) + k for k in (2, 4, 12, 64, 100) if int(low) + k < high]
    return [low + f * span for f in (0.5, 0.0123456789, 0.25)]


def options_of(name: str, info, rng: random.Random) -> list:
    kind, _ = plain_type(info.annotation)
    choices = extra_of(info).get("choices")
    if typing.get_origin(kind) is typing.Literal and not choices:
        choices = {v: v for v in typing.get_args(kind)}
    if choices:
        return list(choices)
    if kind is bool:
        return [True, False]
    if kind in (int, float):
        return legal_numbers(info, kind is int)
    if is_file(info):
        return [f"Extract/job0{rng.randint(10, 99)}/{name}.star"]
    return ["C6", "D2", "C3"] if "symmetry" in name else ["text with blanks"]


def examples(job_class: type[Job], seed: int) -> Job:
    """Draw values for all fields until the job's own rules accept them; leave out more and more of them."""
    rng = random.Random(seed)
    for attempt in range(3000):
        keep = 1.0 - attempt / 3000
        values = {
            name: rng.choice(options_of(name, info, rng))
            for name, info in job_class.model_fields.items()
            if info.is_required() or is_file(info) or rng.random() < keep
        }
        try:
            return job_class(**values)
        except ValidationError:
            continue
    raise AssertionError(f"no legal example of {job_class.name()}")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("job_class", JOBS, ids=lambda j: j.name())
def test_form_gives_back_the_equal_job(qtbot, job_class, seed):
    job = examples(job_class, seed)
    form = JobForm(job_class)
    qtbot.addWidget(form)
    form.set_value(job)
    assert form.value() == job


@pytest.mark.parametrize("job_class", JOBS, ids=lambda j: j.name())
def test_every_field_has_a_row_with_words(qtbot, job_class):
    form = JobForm(job_class)
    qtbot.addWidget(form)
    assert list(form.rows) == list(job_class.model_fields)
    for row in form.rows.values():
        assert row.label.text()
        assert row.info.description
        assert f"--{row.name}" in row.widget.native.toolTip()
    assert form.changed_fields == []


class Sample(Job):
    """A job with one field of every kind."""

    in_parts: str = param(title="Particles", help="A set.", kind="file:particles")
    size_px: int = param(128, title="Box size", help="Edge.", unit="px", gt=0)
    radius_angst: float | None = param(None, title="Radius", help="Of it.", unit="Å", ge=0.0)
    fast: bool = param(True, title="Fast", help="Or not.")
    rule: str = param("relion", title="Rule", help="Which.", choices={"relion": "RELION's", "own": "Ours"})
    note: str = param("", title="Note", help="Free text.", advanced=True, tab="Other")


@pytest.fixture
def form(qtbot):
    made = JobForm(Sample)
    qtbot.addWidget(made)
    return made


def test_dots_mark_what_differs_from_the_default(form):
    form.rows["size_px"].set(256)
    form.rows["rule"].set("own")
    form.rows["in_parts"].set("a.star")
    assert sorted(form.changed_fields) == ["rule", "size_px"]
    form.reset()
    assert form.changed_fields == []


def test_changed_is_told_once_per_edit_and_once_for_many(form, qtbot):
    with qtbot.waitSignal(form.changed, timeout=1000):
        form.rows["size_px"].widget.native.set_value(64)
    told = []
    form.changed.connect(lambda: told.append(1))
    form.set_values({"size_px": 32, "fast": False, "rule": "own", "unknown": 3})
    assert told == [1]
    assert form.rows["fast"].get() is False


def test_missing_and_illegal_values_say_which(form):
    with pytest.raises(InputError, match=r"in_parts \(Particles\) must be given"):
        form.value()
    form.set_values({"in_parts": "a.star", "size_px": 0})
    with pytest.raises(InputError, match="size_px 0"):
        form.value()


def test_empty_optional_number_is_not_given(form, qtbot):
    form.set_values({"in_parts": "a.star", "radius_angst": 12.5})
    assert form.value().radius_angst == 12.5
    form.rows["radius_angst"].widget.native.set_value(None)
    assert form.value().radius_angst is None
    assert form.rows["radius_angst"].widget.native.lineEdit().placeholderText() == "none"


@pytest.mark.parametrize(
    ("help", "words"),
    [
        ("Low-pass it. Negative: at the resolution found. Empty or 0: none.", "none"),
        ("Empty: from the map's header.", "from the map's header"),
        ("Empty or negative: from the half maps' header.", "from the half maps' header"),
        ("Size of it. Empty: the particles' size, or that of the tilt series.", "the particles' size"),
        ("Empty: iterate until it has converged. A job stopped can go on.", "iterate until it has converged"),
        ("Negative sharpens.", "none"),
        ("An empty box. Of a sphere.", "none"),
    ],
)
@pytest.mark.parametrize("kind", ["number", "file", "text"])
def test_an_empty_field_says_what_it_stands_for(qtbot, help, words, kind):
    """The ad-hoc low-pass said "automatic", and meant none."""
    annotation = {"number": float | None, "file": str | None, "text": str | None}[kind]

    class Open(Job):
        """A job with a field that may be left open."""

        value: annotation = param(None, title="Value", help=help, kind="file:map" if kind == "file" else "")  # type: ignore[valid-type]

    form = JobForm(Open)
    qtbot.addWidget(form)
    native = form.rows["value"].widget.native
    line = {
        "number": lambda: native.lineEdit(),
        "file": lambda: native.combo.lineEdit(),
        "text": lambda: native,
    }
    assert line[kind]().placeholderText() == words


@pytest.mark.parametrize("job_class", JOBS, ids=lambda j: j.name())
def test_no_optional_field_calls_itself_automatic_without_saying_so(qtbot, job_class):
    form = JobForm(job_class)
    qtbot.addWidget(form)
    for row in form.rows.values():
        if isinstance(row.widget.native, NumberField) and row.optional:
            words = row.widget.native.lineEdit().placeholderText()
            assert words == "none" or words in row.info.description


@pytest.mark.usefixtures("real_window")
def test_the_mark_of_a_changed_field_is_seen(viewer, qtbot):
    """It was cut off: as wide as nothing."""

    from napari_sta.widgets.themes import colours_of

    dock = JobDock(viewer, {"sample": Sample})
    viewer.window.add_dock_widget(dock)
    dock.resize(380, 600)
    form = dock.form
    row = form.rows["size_px"]
    colour = colours_of(viewer)["warning"]

    def coloured() -> int:
        image = row.dot.grab().toImage()
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        found = [
            image.pixelColor(x, y).getRgb()[:3] for x in range(image.width()) for y in range(image.height())
        ]
        return int((np.abs(np.array(found) - wanted).max(axis=1) < 40).sum())

    assert coloured() == 0
    row.set(256)
    assert coloured() >= 12
    assert row.dot.width() >= row.dot.minimumSizeHint().width()
    form.reset()
    assert coloured() == 0


def test_labels_carry_units():
    assert label_of(Sample.model_fields["size_px"]) == "Box size (px)"
    assert label_of(Sample.model_fields["fast"]) == "Fast"


def test_form_has_relions_tabs_in_order_and_choices_in_words(qtbot):
    form = JobForm(job_named("refine"))
    qtbot.addWidget(form)
    folds = [fold._button for fold in form.findChildren(Fold)]
    assert [button.text() for button in folds] == [
        "I/O", "Reference", "CTF", "Optimisation", "Auto-sampling", "More options",
    ]  # fmt: skip
    assert [button.isChecked() for button in folds] == [True] * 5 + [False]
    box = form.rows["initial_sampling_deg"].widget.native
    assert [box.itemText(i) for i in range(box.count())][:3] == ["30 degrees", "15 degrees", "7.5 degrees"]
    assert box.currentText() == "7.5 degrees"
    assert form.rows["initial_sampling_deg"].label.text() == "Initial angular sampling"
    assert form.rows["absolute_greyscale"].widget.native.currentText() == "fit it to the images"
    assert "fit it to the images" in form.rows["absolute_greyscale"].dot.toolTip()
    assert form.rows["padding"].widget.native.currentText() == "twice the box"
    assert form.rows["tilt_prior_width_deg"].widget.native.lineEdit().placeholderText() == "no prior"


def test_what_equals_the_default_is_not_given(qtbot):
    """A continued refinement takes over everything that is not given: defaults must not override it."""
    form = JobForm(job_named("refine"))
    qtbot.addWidget(form)
    form.set_values(
        {"continue_from": "Refine3D/job016/run_it003_optimiser.star", "symmetry": "C6", "padding": 1}
    )
    job = form.value()
    assert job.model_fields_set == {"continue_from", "symmetry", "padding"}
    assert job.padding == 1
