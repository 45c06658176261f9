"""The one place for colours: what each thing looks like on the viewer's theme, and that it can be read there.

A colour has a name (``warning``, ``amber``), a wanted shade on dark and on light themes, and a least contrast
against what it stands on. Any theme, also one that we have never seen, gets shades that reach it.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from qtpy.QtWidgets import QWidget

TEXT_CONTRAST = 4.5
"""WCAG 2 level AA: the least contrast of text."""
LINE_CONTRAST = 3.0
"""The same for lines and marks."""

# Name: wanted on a dark theme, on a light theme.
WORDS = {
    "error": ("#ef7a72", "#b3261e"),
    "warning": ("#d9a43b", "#7a5200"),
    "good": ("#5fbd7a", "#1f6e3a"),
    "info": ("#7fabe6", "#1f5fae"),
    "quiet": ("#a9b1ba", "#505860"),
}
LINES = {
    "blue": ("#7ad1ff", "#0072b2"),
    "pink": ("#ff9be8", "#b0308f"),
    "amber": ("#f0b429", "#b35c00"),
    "green": ("#7ee2a8", "#00795a"),
    "violet": ("#c9a6ff", "#6a3fb5"),
    "grey": ("#9aa3ad", "#6b7280"),
    "strong": ("#ffffff", "#101014"),
}
BUTTON = ("#2f6f4f", "#1f6e46")


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours (``#rrggbb``), 1 to 21, as WCAG 2 defines it."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in _rgb(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


def readable(colour: str, backgrounds: Sequence[str], least: float) -> str:
    """Return the shade nearest to a colour that has the least contrast against every background."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*_rgb(colour))
    lighter = sum(_luminance(one) for one in backgrounds) / len(backgrounds) < 0.18
    for step in range(101):
        moved = lightness + (1 - lightness if lighter else -lightness) * step / 100
        shade = "#" + "".join(f"{round(255 * v):02x}" for v in colorsys.hls_to_rgb(hue, moved, saturation))
        if all(contrast(shade, one) >= least for one in backgrounds):
            return shade
    return "#ffffff" if lighter else "#000000"


def colours_of(viewer: Any) -> Mapping[str, str]:
    """Return the colours that suit the viewer's theme as ``#rrggbb``.

    Returns
    -------
    colours
        ``background``, ``text`` and ``line`` of the theme; the names of :data:`WORDS` and :data:`LINES`;
        ``placeholder`` for what stands in an empty field; ``button`` and ``button_text`` for the button that
        starts something.
    """
    from napari.utils.theme import get_theme

    theme = get_theme(viewer.theme)
    shades = (theme.background, theme.foreground, theme.text, theme.primary)
    return on_theme(*(shade.as_hex(format="long")[:7] for shade in shades))


@lru_cache(maxsize=16)
def on_theme(background: str, foreground: str, text: str, line: str) -> Mapping[str, str]:
    """Return what :func:`colours_of` does for a theme of these colours."""
    light = _luminance(background) > 0.18
    behind = (background, foreground)  # docks; lists and fields in them
    colours = {"background": background, "text": readable(text, behind, TEXT_CONTRAST), "line": line}
    colours |= {name: readable(shades[light], behind, TEXT_CONTRAST) for name, shades in WORDS.items()}
    colours |= {name: readable(shades[light], behind, LINE_CONTRAST) for name, shades in LINES.items()}
    colours["placeholder"] = readable(WORDS["quiet"][light], [line], TEXT_CONTRAST)  # fields stand out by it
    return colours | {"button": BUTTON[light], "button_text": "#ffffff"}


def style_sheet(colours: Mapping[str, str]) -> str:
    """Return the rules for a dock: how the roles given with :func:`mark` look."""
    rules = []
    for name in WORDS:
        rules.append(f'QLabel[sta="{name}"] {{ color: {colours[name]}; }}')
        rules.append(
            f'QFrame#sta_card[sta="{name}"] {{ border: 1px solid {colours[name]}; '
            f"border-left: 4px solid {colours[name]}; }}"
        )
    rules.append(f"QLineEdit {{ placeholder-text-color: {colours['placeholder']}; }}")
    rules.append(f'QLabel[sta="changed"] {{ color: {colours["warning"]}; font-size: 14pt; padding: 0; }}')
    rules.append(
        f'QPushButton[sta="go"]:enabled {{ font-weight: bold; color: {colours["button_text"]}; '
        f"background-color: {colours['button']}; }}"
    )
    rules.append(f'QPushButton[sta="go"]:enabled:hover {{ border: 1px solid {colours["text"]}; }}')
    return "\n".join(rules)


def mark(widget: QWidget, role: str) -> None:
    """Give a widget inside a dock a role, which says how it looks.

    Parameters
    ----------
    widget
        A label, a card or a button.
    role
        A name of :data:`WORDS`; ``go`` for the button that starts something; ``changed`` for the mark beside
        a field.
    """
    if widget.property("sta") == role:
        return
    widget.setProperty("sta", role)
    widget.style().unpolish(widget)  # a rule is looked up when a widget is polished
    widget.style().polish(widget)
