"""A measured figure, and tables of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter


@dataclass(frozen=True)
class Figure:
    """One measurement.

    Attributes:
        name: what was measured; stays the same from version to version, so that files can be compared.
        value: in `unit`, the median where it was measured repeatedly.
        unit: s, MB, x (a ratio), %, …
        target: what it should be at most; None: no target.
        note: sizes and circumstances.
    """

    name: str
    value: float
    unit: str
    target: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        return None if self.target is None else self.value <= self.target


def seconds(work: Callable[[], object], repeats: int, before: Callable[[], object] = lambda: None) -> float:
    """Median duration of `work`, with `before` called ahead of each time and not counted."""
    durations = []
    for _ in range(repeats):
        before()
        began = perf_counter()
        work()
        durations.append(perf_counter() - began)
    return median(durations)


def as_table(figures: Sequence[Figure], earlier: Sequence[Figure] = ()) -> str:
    """A Markdown table; with `earlier` figures, a column of ratios to those of the same name."""
    before = {figure.name: figure.value for figure in earlier}
    header = ["what", "figure", "target", "", "of"] + (["against earlier"] if earlier else [])
    rows = [header, ["---"] * len(header)]
    for figure in figures:
        target = "" if figure.target is None else f"at most {_shown(figure.target, figure.unit)}"
        verdict = {None: "", True: "met", False: "missed"}[figure.met]
        row = [figure.name, _shown(figure.value, figure.unit), target, verdict, figure.note]
        if earlier:
            row.append(f"{figure.value / before[figure.name]:.2f} x" if before.get(figure.name) else "new")
        rows.append(row)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _shown(value: float, unit: str) -> str:
    return f"{value:,.3g} {unit}" if abs(value) < 1000 else f"{value:,.0f} {unit}"
