"""The content of a table in plain text, for Markdown and LaTeX: columns, rows, footnotes and a legend."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from mldec.paper.tables import SOURCES, UNVERIFIED, PaperTable
from mldec.paper.values import MARK, SPREAD, ResultValue, RowResult, difference, obtained, published, result_values

#: Titles of the columns of a figure.
PARTS: dict[str, dict[str, str]] = {
    "paper": {"published": "published", "obtained": "obtained", "difference": "difference"},
    "probe": {"published": "in the paper (other data)", "obtained": "obtained at probe scale"},
    "desk": {"published": "in the paper (other data)", "obtained": "obtained at desk scale"},
}

_OBTAINED = (
    "Obtained: mean ± sample standard deviation over seeds (number of seeds).",
    "Without a number of seeds: counted on the network, or a time, hence without spread.",
)
READING: dict[str, tuple[str, ...]] = {
    "paper": (
        *_OBTAINED,
        "Difference: obtained minus published; (within) the spread of the seeds if it is at most "
        f"{SPREAD:g} standard deviations, else (outside); a single seed has no spread.",
    ),
    "probe": (
        *_OBTAINED,
        "Seconds: of a row's fastest run with cached tokens, training and evaluations, on one thread.",
        "The paper's values are of other data and networks; no difference is shown.",
    ),
    "desk": (*_OBTAINED, "At desk scale the paper's values are of other data and networks; no difference is shown."),
}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A table in plain text.

    Attributes:
        cells: titles of the first columns.
        figures: by the title of a figure those of its columns, which follow the cells.
        legend: sentences about this table's marks and sources.
        rows: one text per column each.
        marks: for each row the numbers of its footnotes.
        notes: the footnotes, from 1.
    """

    cells: tuple[str, ...]
    figures: dict[str, list[str]]
    legend: list[str]
    rows: list[list[str]] = field(default_factory=list)
    marks: list[list[int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def marked_rows(self, escape: Callable[[str], str], mark: str) -> list[list[str]]:
        """The rows as `escape` writes each cell in a format; `mark`, such as `<sup>{}</sup>`, takes footnotes' numbers.

        They follow the first cell of their row.
        """
        rows = []
        for row, marks in zip(self.rows, self.marks, strict=True):
            first, *rest = map(escape, row)
            rows.append([first + (mark.format(", ".join(map(str, marks))) if marks else ""), *rest])
        return rows


def lay_out(table: PaperTable, results: Sequence[RowResult]) -> Layout:
    """The table in plain text. A figure that the paper has for none of the rows is only shown as obtained."""
    values = [result_values(table, result) for result in results]
    every = [value for row in values for value in row.values()]
    titles = PARTS[table.scale]
    columns = {
        figure: [part for part in titles if part == "obtained" or any(row[figure].given for row in values)]
        for figure in table.figures
    }
    found = {value.source for value in every if value.published is not None}
    tags = [tag for tag in SOURCES if tag in found]
    show: dict[str, Callable[[ResultValue], str]]
    show = {"published": partial(published, tags=len(tags) > 1), "obtained": obtained, "difference": difference}
    layout = Layout(
        cells=tuple(table.cells.values()),
        figures={table.figures[figure]: [titles[part] for part in parts] for figure, parts in columns.items()},
        legend=_legend(tags, every),
    )
    for result, row in zip(results, values, strict=True):
        own = _notes(result, row)
        layout.notes.extend(note for note in own if note not in layout.notes)
        layout.marks.append([layout.notes.index(note) + 1 for note in own])
        shown = [cell_text(result, name) for name in table.cells]
        for figure, value in _status_once(result, row).items():
            shown += [show[part](value) for part in columns[figure]]
        layout.rows.append(shown)
    return layout


def cell_text(result: RowResult, name: str) -> str:
    """A cell of a row, empty where it has none."""
    value = result.row.cells.get(name)
    return "" if value is None else str(value)


def _status_once(result: RowResult, values: Mapping[str, ResultValue]) -> dict[str, ResultValue]:
    """The values of a row; a row without records shows each status only once."""
    shown: set[str] = set()
    once = {}
    for figure, value in values.items():
        again = not result.records and value.mean is None and value.status in shown
        once[figure] = replace(value, status="-") if again else value
        shown.add(value.status)
    return once


def _notes(result: RowResult, values: Mapping[str, ResultValue]) -> list[str]:
    notes = [result.row.note.strip()] if result.row.note.strip() else []
    if ":" in result.status:
        notes.append(" ".join(result.status.split()))
    short = sum(record.outcome == "out_of_memory" for record in result.records)
    if short and any(value.seeds for value in values.values()):
        notes.append(f"{short} of {len(result.records)} seeds ran out of memory.")
    return notes


def _legend(tags: Sequence[str], values: Sequence[ResultValue]) -> list[str]:
    """Sentences about the sources of the published values, whose tags are in the order of SOURCES, and their marks."""
    sentences = []
    if len(tags) == 1:
        sentences.append(f"Published values are from: {SOURCES[tags[0]]} ({tags[0]}).")
    elif tags:
        sentences.append("Published values are from: " + "; ".join(f"[{tag}] {SOURCES[tag]}" for tag in tags) + ".")
    if doubtful := [tag for tag in tags if tag in UNVERIFIED]:
        origins = {"M": "from memory", "?": "of unknown source"}
        sentences.append(f"{MARK} {' or '.join(origins[tag] for tag in doubtful)}, unverified.")
    if any(value.given and value.published is None and value.source != "?" for value in values):
        sentences.append("NA: the paper prints none.")
    return sentences
