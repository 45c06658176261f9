"""Any Job class as a form: ``value()``, ``set_value()``, ``changed``.

The form holds no knowledge of its own: labels, units, help, choices, bounds and grouping all come from
the job's declaration, so a job that gains a field gains it here.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import annotated_types
from magicgui.widgets import CheckBox, ComboBox, LineEdit
from magicgui.widgets.bases import ValueWidget
from pydantic.fields import FieldInfo
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QFrame,
    QGridLayout,
    QLabel,
    QScrollArea,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_sta.jobs._job import Job, extra_of, value_as_text
from napari_sta.widgets.fields import NumberEdit, NumberField, PathEdit, PathField, WheelGuard
from napari_sta.widgets.themes import mark

MARK_PX = 14


def plain_type(annotation: Any) -> tuple[Any, bool]:
    """Strip Annotated and Optional: return the type underneath and whether None is allowed."""
    optional = False
    while True:
        origin = typing.get_origin(annotation)
        if origin is typing.Annotated:
            annotation = typing.get_args(annotation)[0]
        elif origin in (typing.Union, types.UnionType):
            members = [a for a in typing.get_args(annotation) if a is not type(None)]
            optional = optional or len(members) < len(typing.get_args(annotation))
            if len(members) != 1:
                return str, optional
            annotation = members[0]
        else:
            return annotation, optional


def label_of(info: FieldInfo) -> str:
    """Return the label with its unit: ``Box size (px)``.

    A title that ends in its unit is left alone, and so is one whose choices say theirs.
    """
    title = info.title or ""
    extra = extra_of(info)
    unit = "" if extra.get("choices") else extra.get("unit", "")
    return f"{title} ({unit})" if unit and f"({unit})" not in title else title


def is_file(info: FieldInfo) -> bool:
    """Whether the field holds a path that must exist."""
    return str(extra_of(info).get("kind", "")).startswith("file:")


class _Row:
    """One field: its label, dot and magicgui widget, and how its value is read."""

    def __init__(self, name: str, info: FieldInfo, guard: WheelGuard) -> None:
        self.name = name
        self.info = info
        self.kind, self.optional = plain_type(info.annotation)
        self.required = info.is_required()
        self.default = None if self.required else info.get_default(call_default_factory=True)
        self.widget = self._make()
        native = self.widget.native
        native.setToolTip(self._tip())
        for child in (native, *native.findChildren(QWidget)):
            child.installEventFilter(guard)
        if not isinstance(native, QCheckBox):
            native.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.label = QLabel(label_of(info))
        self.label.setWordWrap(True)
        self.label.setToolTip(self._tip())
        self.label.setBuddy(native)
        self.dot = QLabel("")
        self.dot.setFixedWidth(MARK_PX)
        self.dot.setAlignment(Qt.AlignmentFlag.AlignCenter)
        mark(self.dot, "changed")
        self.dot.setToolTip(f"Changed; the default is {self._default_text()}")

    def _default_text(self) -> str:
        if self.required:
            return "none: it must be given"
        choices = extra_of(self.info).get("choices") or {}
        return choices.get(self.default) or value_as_text(self.default) or "empty"

    def _when_empty(self) -> str:
        """Return what an empty field stands for: what its help says after "Empty:", else nothing at all."""
        match = re.search(r"\bEmpty(?: or [^:.]+)?: ([^.;,:(]+)", self.info.description or "")
        return match.group(1).strip() if match else "none"

    def _tip(self) -> str:
        extra = extra_of(self.info)
        lines = [f"<b>{label_of(self.info)}</b>", self.info.description or ""]
        lines.append(f"<i>Default:</i> {self._default_text()}")
        lines.append(f"<i>Command line:</i> --{self.name}")
        if extra.get("flag"):
            lines.append(f"<i>RELION:</i> {extra['flag']}")
        return "<qt>" + "<br>".join(line for line in lines if line) + "</qt>"

    def _make(self) -> ValueWidget:
        extra = extra_of(self.info)
        choices = extra.get("choices")
        if typing.get_origin(self.kind) is Literal and not choices:
            choices = {str(v): str(v) for v in typing.get_args(self.kind)}
        if choices:
            options: list[tuple[str, str]] = [
                (words or self._as_choice(value), self._as_choice(value)) for value, words in choices.items()
            ]
            if self.optional and "" not in choices:
                options.insert(0, ("—", ""))
            default = "" if self.default is None else self._as_choice(self.default)
            return ComboBox(choices=options, value=default if default else options[0][1])
        if self.kind is bool:
            return CheckBox(value=bool(self.default), text="")
        if is_file(self.info):
            path = PathEdit()
            field: PathField = path.native
            field.kind = str(extra["kind"]).split(":", 1)[1]
            placeholder = "choose or drop a file" if self.required else self._when_empty()
            field.combo.lineEdit().setPlaceholderText(placeholder)
            if self.default:
                field.set_value(self.default)
            return path
        if self.kind in (int, float):
            number = NumberEdit()
            native: NumberField = number.native
            limits = {}
            for item in self.info.metadata:
                for key in ("gt", "ge", "lt", "le"):
                    if isinstance(item, getattr(annotated_types, key.capitalize())):
                        limits[key] = getattr(item, key)
            native.configure(
                integer=self.kind is int,
                optional=self.optional,
                placeholder=self._when_empty() if self.optional else "",
                **limits,
            )
            native.set_value(self.default)
            return number
        line = LineEdit(value=value_as_text(self.default))
        if not self.required and not self.default:
            line.native.setPlaceholderText(self._when_empty())
        return line

    def _as_choice(self, value: Any) -> str:
        return value_as_text(value)

    def get(self) -> Any:
        """Return the value to hand to the model; None means not given."""
        native = self.widget.native
        value = native.value() if isinstance(native, (NumberField, PathField)) else self.widget.value
        return None if value == "" else value

    def set(self, value: Any) -> None:
        """Show a value of the model."""
        native = self.widget.native
        if isinstance(native, (NumberField, PathField)):
            native.set_value(value)
        elif isinstance(self.widget, ComboBox):
            text = "" if value is None else self._as_choice(value)
            choices = list(self.widget.choices)
            self.widget.value = text if text in choices else choices[0]
        elif isinstance(self.widget, CheckBox):
            self.widget.value = bool(value)
        else:
            self.widget.value = value_as_text(value)

    @property
    def given(self) -> bool:
        """Whether the value differs from the default."""
        value = self.get()
        if self.required:
            return value is not None
        if isinstance(self.widget, ComboBox):
            return bool((value or "") != ("" if self.default is None else self._as_choice(self.default)))
        return bool(value != (self.default if self.default != "" else None))


class Fold(QWidget):
    """A heading that folds what is under it."""

    def __init__(self, title: str, *, opened: bool = True, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._button = QToolButton()
        self._button.setText(title)
        self._button.setCheckable(True)
        self._button.setChecked(opened)
        self._button.setAutoRaise(True)
        self._button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self._button.setStyleSheet("QToolButton { border: none; background: none; font-weight: bold; }")
        self.body = QWidget()
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(2)
        box.addWidget(self._button)
        box.addWidget(self.body)
        self._button.toggled.connect(self._toggle)
        self._toggle(opened)

    def _toggle(self, opened: bool) -> None:
        self._button.setArrowType(Qt.ArrowType.DownArrow if opened else Qt.ArrowType.RightArrow)
        self.body.setVisible(opened)


class JobForm(QWidget):
    """The form of one job.

    Parameters
    ----------
    job_class
        Any job; its fields become rows, grouped by tab, advanced ones folded away.

    Attributes
    ----------
    changed
        Emitted after every edit.
    """

    changed = Signal()

    def __init__(self, job_class: type[Job], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.job_class = job_class
        self.root: Path | None = None
        self._quiet = False
        self._guard = WheelGuard(self)
        self.rows = {n: _Row(n, info, self._guard) for n, info in job_class.model_fields.items()}

        content = QWidget()
        column = QVBoxLayout(content)
        column.setContentsMargins(2, 2, 8, 2)
        column.setSpacing(4)
        tabs: dict[str, list[_Row]] = {}
        folded: list[_Row] = []
        for row in self.rows.values():
            if extra_of(row.info).get("advanced"):
                folded.append(row)
            else:
                tabs.setdefault(extra_of(row.info).get("tab") or "Options", []).append(row)
        for title, rows in tabs.items():
            column.addWidget(self._group(title, rows, opened=True))
        if folded:
            column.addWidget(self._group("More options", folded, opened=False))
        column.addStretch(1)
        self.scroll = QScrollArea()
        self.scroll.setWidgetResizable(True)
        self.scroll.setFrameShape(QFrame.Shape.NoFrame)
        self.scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.scroll.setWidget(content)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.addWidget(self.scroll)
        for row in self.rows.values():
            row.widget.changed.connect(self._edited)
        self._refresh_dots()

    def _group(self, title: str, rows: list[_Row], *, opened: bool) -> QWidget:
        fold = Fold(title, opened=opened)
        grid = QGridLayout(fold.body)
        grid.setContentsMargins(6, 0, 0, 2)
        grid.setHorizontalSpacing(6)
        grid.setVerticalSpacing(2)
        grid.setColumnStretch(0, 45)
        grid.setColumnStretch(1, 55)
        line = 0
        for row in rows:
            if isinstance(row.widget, PathEdit):  # paths are long: the whole width, under their label
                grid.addWidget(row.label, line, 0, 1, 2)
                grid.addWidget(row.widget.native, line + 1, 0, 1, 2)
                grid.addWidget(row.dot, line + 1, 2)
                line += 2
                continue
            align = Qt.AlignmentFlag.AlignLeft if isinstance(row.widget, CheckBox) else Qt.AlignmentFlag(0)
            grid.addWidget(row.label, line, 0)
            grid.addWidget(row.widget.native, line, 1, align)
            grid.addWidget(row.dot, line, 2)
            line += 1
        return fold

    def set_files(self, files: Mapping[str, list[str]], root: Path | None) -> None:
        """Offer files in the path fields.

        Parameters
        ----------
        files
            Kind (``particles``, ``map`` …) to paths, newest first.
        root
            Project folder that relative paths start from.
        """
        self.root = root
        for row in self.rows.values():
            if isinstance(row.widget, PathEdit):
                field: PathField = row.widget.native
                field.set_choices(list(files.get(field.kind, [])), root)

    def values(self) -> dict[str, Any]:
        """Return every given value by field name, unchecked."""
        values: dict[str, Any] = {}
        for name, row in self.rows.items():
            value = row.get()
            if value is None and not row.optional:
                continue
            values[name] = value
        return values

    def value(self) -> Job:
        """Return the job as filled in; what equals its default counts as not given.

        Raises
        ------
        InputError
            If a value is missing or illegal, in a sentence for the user.
        """
        given = {name: value for name, value in self.values().items() if self.rows[name].given}
        return self.job_class.from_text(given)

    def set_value(self, job: Job) -> None:
        """Show a job's values."""
        self.set_values({name: getattr(job, name) for name in self.rows})

    def set_values(self, values: Mapping[str, Any]) -> None:
        """Show some values; names the job does not have are ignored, other fields stay."""
        self._quiet = True
        try:
            for name, value in values.items():
                if name in self.rows:
                    self.rows[name].set(value)
        finally:
            self._quiet = False
        self._edited()

    def reset(self) -> None:
        """Put every field back to its default."""
        self.set_values({name: row.default for name, row in self.rows.items()})

    def _edited(self, *_: object) -> None:
        if self._quiet:
            return
        self._refresh_dots()
        self.changed.emit()

    def _refresh_dots(self) -> None:
        for row in self.rows.values():
            # A required field that is filled in is no deviation from a default.
            row.dot.setText("•" if row.given and not row.required else "")

    @property
    def changed_fields(self) -> list[str]:
        """Names of the fields that carry the "changed" dot."""
        return [name for name, row in self.rows.items() if row.dot.text()]
