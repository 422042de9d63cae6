"""A measured figure, and tables of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal


@dataclass(frozen=True)
class Figure:
    """One measurement.

    Attributes:
        name: what was measured. It is stable between versions, so that files can be compared; `subject: quantity` where
            several subjects have the same quantities.
        value: in `unit`, the median where it was measured repeatedly; None: it could not be measured, `note` says why.
        unit: s, MB, x (a ratio), %, …
        target: upper bound, or lower bound where higher is better; None: no target.
        note: sizes and circumstances.
        better: which direction is better.
        samples: the values of which `value` is the median, in the order of measurement.
    """

    name: str
    value: float | None
    unit: str
    target: float | None = None
    note: str = ""
    better: Literal["lower", "higher"] = "lower"
    samples: Sequence[float] = ()

    @classmethod
    def of_samples(cls, name: str, samples: Sequence[float], unit: str, **more: Any) -> Figure:
        """What was measured repeatedly: its value is the median of `samples`."""
        return cls(name, median(samples), unit, samples=tuple(samples), **more)

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.target is None:
            return None
        if self.value is None:
            return False
        return self.value >= self.target if self.better == "higher" else self.value <= self.target


def markdown_table(rows: Sequence[Sequence[str]], left: int | None = None) -> str:
    """A Markdown table of escaped cells.

    Args:
        rows: the head, then the body.
        left: how many columns are aligned left, the others being aligned right; None: all.
    """
    rule = ["---" if left is None else ":---" if column < left else "---:" for column in range(len(rows[0]))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (rows[0], rule, *rows[1:]))


def as_table(figures: Sequence[Figure]) -> str:
    """A Markdown table, one row per figure."""
    rows = [["what", "figure", "target", "", "of"]]
    for figure in figures:
        bound = "at least" if figure.better == "higher" else "at most"
        target = "" if figure.target is None else f"{bound} {_shown(figure.target)} {figure.unit}"
        verdict = {None: "", True: "met", False: "missed"}[figure.met]
        rows.append([figure.name, as_cell(figure), target, verdict, figure.note])
    return markdown_table(rows)


def as_grid(figures: Sequence[Figure]) -> str:
    """A Markdown table of figures `subject: quantity`, a row per subject and a column per quantity; then the others.

    The median is followed by the range of the samples where they differ. A note shared by a whole column is shown once.
    """
    grid: dict[str, dict[str, Figure]] = {}
    columns: dict[str, list[Figure]] = {}
    for figure in figures:
        subject, separator, quantity = figure.name.rpartition(": ")
        if separator:
            grid.setdefault(subject, {})[quantity] = figure
            columns.setdefault(quantity, []).append(figure)
    units = {quantity: f" [{found[0].unit}]" * bool(found[0].unit) for quantity, found in columns.items()}
    rows = [["", *(quantity + unit for quantity, unit in units.items())]]
    for subject, cells in grid.items():
        rows.append([subject, *(_cell(cells[quantity]) if quantity in cells else "" for quantity in columns)])
    notes = []
    for quantity, found in columns.items():
        shared = len({figure.note for figure in found}) == 1
        notes += [(quantity, found[0].note)] if shared else [(figure.name, figure.note) for figure in found]
    others = [figure for figure in figures if ": " not in figure.name]
    lines = [f"* {name}: {note}" for name, note in notes if note]
    lines += [f"* {figure.name}: {as_cell(figure)}{f', {figure.note}' * bool(figure.note)}" for figure in others]
    return markdown_table(rows) + "\n\n" + "\n".join(lines)


def _cell(figure: Figure) -> str:
    if figure.value is None:
        return "-"
    samples = figure.samples or (figure.value,)
    shown, low, high = map(_shown, (figure.value, min(samples), max(samples)))
    return shown if low == high else f"{shown} ({low} to {high})"


def as_cell(figure: Figure) -> str:
    """The value with its unit, and the range of its samples."""
    return "-" if figure.value is None else f"{_cell(figure)} {figure.unit}"


def _shown(value: float) -> str:
    return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
