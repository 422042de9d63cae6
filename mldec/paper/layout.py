"""The content of a table in plain text, for Markdown and LaTeX: columns, rows, footnotes and a legend."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from mldec.paper.tables import SOURCES, UNVERIFIED, PaperTable, Scale
from mldec.paper.values import MARK, SPREAD, ResultValue, RowResult, difference, obtained, published, result_values

#: Titles of the columns of a figure.
PARTS: dict[str, dict[str, str]] = {
    "paper": {"published": "published", "obtained": "obtained", "difference": "difference"},
    "desk": {"published": "in the paper (other data)", "obtained": "obtained at desk scale"},
}

_OBTAINED = (
    "Obtained: mean ± sample standard deviation over seeds (number of seeds).",
    "Without a number of seeds: counted on the network, hence without spread.",
)
READING: dict[str, tuple[str, ...]] = {
    "paper": (
        *_OBTAINED,
        "Difference: obtained minus published; (within) the spread of the seeds if it is at most "
        f"{SPREAD:g} standard deviations, else (outside); a single seed has no spread.",
    ),
    "desk": (*_OBTAINED, "At desk scale the paper's values are of other data and networks; no difference is shown."),
}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A table in plain text.

    Attributes:
        caption: `Table 5. MS-COCO, compared …`, with the scale.
        cells: titles of the first columns.
        figures: title of each figure and those of its columns, which follow the cells.
        rows: one text per column each.
        marks: for each row the numbers of its footnotes.
        notes: the footnotes, from 1.
        legend: sentences about this table's marks and sources.
        reading: sentences about all tables of the scale.
    """

    caption: str
    cells: tuple[str, ...]
    figures: tuple[tuple[str, tuple[str, ...]], ...]
    rows: tuple[tuple[str, ...], ...]
    marks: tuple[tuple[int, ...], ...]
    notes: tuple[str, ...]
    legend: tuple[str, ...]
    reading: tuple[str, ...]


def lay_out(table: PaperTable, results: Sequence[RowResult], scale: Scale) -> Layout:
    """The table in plain text. A figure that the paper has for none of the rows is only shown as obtained."""
    values = [result_values(table, result, scale) for result in results]
    compared = {figure: any(row[figure].given for row in values) for figure in table.figures}
    parts = {f: tuple(p for p in PARTS[scale] if p == "obtained" or compared[f]) for f in table.figures}
    tags = _tags(values)
    show: dict[str, Callable[[ResultValue], str]] = {
        "published": lambda value: published(value, tags=len(tags) > 1),
        "obtained": obtained,
        "difference": difference,
    }
    notes: list[str] = []
    marks = []
    for result, row in zip(results, values, strict=True):
        own = _notes(table, result, row)
        notes += [note for note in own if note not in notes]
        marks.append(tuple(notes.index(note) + 1 for note in own))
    return Layout(
        caption=caption(table, scale),
        cells=tuple(table.cells.values()),
        figures=tuple((title, tuple(PARTS[scale][p] for p in parts[f])) for f, title in table.figures.items()),
        rows=tuple(
            (
                *(cell_text(result, name) for name in table.cells),
                *(show[p](value) for f, value in _status_once(result, row).items() for p in parts[f]),
            )
            for result, row in zip(results, values, strict=True)
        ),
        marks=tuple(marks),
        notes=tuple(notes),
        legend=tuple(_legend(values)),
        reading=READING[scale],
    )


def caption(table: PaperTable, scale: Scale) -> str:
    """`Table 5. MS-COCO, compared with other methods`, with "at desk scale" where it is."""
    return f"{table.name}{' at desk scale' if scale == 'desk' else ''}. {table.title}"


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


def _tags(values: Sequence[Mapping[str, ResultValue]]) -> tuple[str, ...]:
    """The tags of the published values that are shown, in the order of SOURCES."""
    found = {value.source for row in values for value in row.values() if value.published is not None}
    return tuple(tag for tag in SOURCES if tag in found)


def _notes(table: PaperTable, result: RowResult, values: Mapping[str, ResultValue]) -> list[str]:
    notes = [result.row.note.strip()] if result.row.note.strip() else []
    if ":" in result.status:
        notes.append(" ".join(result.status.split()))
    short = sum(record.outcome == "out_of_memory" for record in result.records)
    if short and any(value.seeds for value in values.values()):
        notes.append(f"{short} of {len(result.records)} seeds ran out of memory.")
    return notes


def _legend(values: Sequence[Mapping[str, ResultValue]]) -> list[str]:
    shown = [value for row in values for value in row.values()]
    tags = _tags(values)
    sentences = []
    if len(tags) == 1:
        sentences.append(f"Published values are from: {SOURCES[tags[0]]} ({tags[0]}).")
    elif tags:
        sentences.append("Published values are from: " + "; ".join(f"[{tag}] {SOURCES[tag]}" for tag in tags) + ".")
    if doubtful := [tag for tag in tags if tag in UNVERIFIED]:
        origins = {"M": "from memory", "?": "of unknown source"}
        sentences.append(f"{MARK} {' or '.join(origins[tag] for tag in doubtful)}, unverified.")
    if any(value.given and value.published is None and value.source != "?" for value in shown):
        sentences.append("NA: the paper prints none.")
    return sentences
