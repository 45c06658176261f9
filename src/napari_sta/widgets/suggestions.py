"""The offsets that a score curve suggests, to jump to, and how much they are to be trusted."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QToolButton, QVBoxLayout, QWidget

from napari_sta.widgets.align_pair import Pair, confidence_words


class Suggestions(QWidget):
    """Buttons of the best offsets, and a line of words.

    Attributes
    ----------
    chosen
        An offset, map pixels along +Z.
    """

    chosen = Signal(float)

    def __init__(self) -> None:
        super().__init__()
        self._pair: Pair | None = None
        self.suggest_button = QPushButton("Suggest")
        self.suggest_button.setToolTip("Jump to the best offset; nothing is written")
        self.candidates = QHBoxLayout()
        self.candidates.setSpacing(3)
        self.reset_button = QPushButton("Reset")
        self.reset_button.setToolTip("Back to 0")
        self.confidence = QLabel()
        self.confidence.setWordWrap(True)
        row = QHBoxLayout()
        row.addWidget(self.suggest_button)
        row.addLayout(self.candidates, 1)
        row.addWidget(self.reset_button)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(5)
        box.addLayout(row)
        box.addWidget(self.confidence)
        self.suggest_button.clicked.connect(self.suggest)
        self.reset_button.clicked.connect(lambda: self.chosen.emit(0.0))

    def show_pair(self, pair: Pair | None) -> None:
        """Offer what stands out in a pair's score; None: nothing is compared."""
        self._pair = pair
        while self.candidates.count():
            item = self.candidates.takeAt(0)
            if item.widget() is not None:
                item.widget().hide()
                item.widget().deleteLater()
        self.suggest_button.setEnabled(False)
        self.confidence.setText("" if pair is None else confidence_words(pair.curve))
        maxima = pair.maxima() if pair is not None else []
        self.suggest_button.setEnabled(bool(maxima) and pair is not None and not pair.curve.at_end)
        for i, (offset_px, score) in enumerate(maxima[:3], start=1):
            button = QToolButton()
            button.setText(f"{i}: {offset_px:+.2f}")
            button.setToolTip(f"Offset {offset_px:+.2f} px, score {score:.3f}")
            button.clicked.connect(lambda _checked=False, px=offset_px: self.chosen.emit(px))
            self.candidates.addWidget(button)
        self.candidates.addStretch(1)

    def suggest(self) -> None:
        """Jump to the best offset; nothing is written."""
        if self._pair is not None and not self._pair.curve.at_end:
            for offset_px, _ in self._pair.maxima()[:1]:
                self.chosen.emit(offset_px)
