"""A table as it is shown, in plain text, for Markdown and LaTeX: columns, rows, footnotes and what the signs mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from mldec.paper.tables import SOURCES, UNVERIFIED, Scale, Table
from mldec.paper.values import MARK, SPREAD, Line, Value, cell_values, difference, obtained, published

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
    "desk": (*_OBTAINED, "At desk scale the paper's values belong to other data and networks; no difference is taken."),
}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A table in plain text.

    Attributes:
        caption: `Table 5. MS-COCO, compared …`, with the scale.
        cells: titles of the first columns.
        figures: title of each figure and those of its columns, which follow the cells.
        rows: as many words each as there are columns.
        marks: for each row the numbers of its footnotes.
        notes: the footnotes, from 1.
        legend: sentences on this table's own signs and sources.
        reading: sentences on every table of the scale.
    """

    caption: str
    cells: tuple[str, ...]
    figures: tuple[tuple[str, tuple[str, ...]], ...]
    rows: tuple[tuple[str, ...], ...]
    marks: tuple[tuple[int, ...], ...]
    notes: tuple[str, ...]
    legend: tuple[str, ...]
    reading: tuple[str, ...]


def lay_out(table: Table, lines: Sequence[Line], scale: Scale) -> Layout:
    """The table in plain text. A figure that the paper has for none of the lines is only shown as obtained."""
    values = [cell_values(table, line, scale) for line in lines]
    compared = {figure: any(row[figure].given for row in values) for figure in table.figures}
    parts = {f: tuple(p for p in PARTS[scale] if p == "obtained" or compared[f]) for f in table.figures}
    tags = _tags(values)
    show: dict[str, Callable[[Value], str]] = {
        "published": lambda value: published(value, tags=len(tags) > 1),
        "obtained": obtained,
        "difference": difference,
    }
    notes: list[str] = []
    marks = []
    for line, row in zip(lines, values, strict=True):
        own = _notes(table, line, row)
        notes += [note for note in own if note not in notes]
        marks.append(tuple(notes.index(note) + 1 for note in own))
    return Layout(
        caption=caption(table, scale),
        cells=tuple(table.cells.values()),
        figures=tuple((title, tuple(PARTS[scale][p] for p in parts[f])) for f, title in table.figures.items()),
        rows=tuple(
            (
                *(cell_text(line, name) for name in table.cells),
                *(show[p](value) for f, value in _status_once(line, row).items() for p in parts[f]),
            )
            for line, row in zip(lines, values, strict=True)
        ),
        marks=tuple(marks),
        notes=tuple(notes),
        legend=tuple(_legend(values)),
        reading=READING[scale],
    )


def caption(table: Table, scale: Scale) -> str:
    """`Table 5. MS-COCO, compared with other methods`, and that it is at desk scale if it is."""
    return f"{table.name}{' at desk scale' if scale == 'desk' else ''}. {table.title}"


def cell_text(line: Line, name: str) -> str:
    """A cell of a row, nothing where it has none."""
    value = line.row.cells.get(name)
    return "" if value is None else str(value)


def _status_once(line: Line, values: Mapping[str, Value]) -> dict[str, Value]:
    """The values of a row, where a row without records says why in the first of its columns only."""
    said: set[str] = set()
    once = {}
    for figure, value in values.items():
        again = not line.records and value.mean is None and value.status in said
        once[figure] = replace(value, status="-") if again else value
        said.add(value.status)
    return once


def _tags(values: Sequence[Mapping[str, Value]]) -> tuple[str, ...]:
    """The tags of the published values that are shown, in the order of SOURCES."""
    found = {value.source for row in values for value in row.values() if value.published is not None}
    return tuple(tag for tag in SOURCES if tag in found)


def _notes(table: Table, line: Line, values: Mapping[str, Value]) -> list[str]:
    notes = [line.row.note.strip()] if line.row.note.strip() else []
    if ":" in line.status:
        notes.append(" ".join(line.status.split()))
    short = sum(record.outcome == "out_of_memory" for record in line.records)
    if short and any(value.seeds for value in values.values()):
        notes.append(f"{short} of {len(line.records)} seeds ran out of memory.")
    return notes


def _legend(values: Sequence[Mapping[str, Value]]) -> list[str]:
    shown = [value for row in values for value in row.values()]
    tags = _tags(values)
    sentences = []
    if len(tags) == 1:
        sentences.append(f"Published values are from: {SOURCES[tags[0]]} ({tags[0]}).")
    elif tags:
        sentences.append("Published values are from: " + "; ".join(f"[{tag}] {SOURCES[tag]}" for tag in tags) + ".")
    if doubtful := [tag for tag in tags if tag in UNVERIFIED]:
        words = {"M": "from memory", "?": "of unknown source"}
        sentences.append(f"{MARK} {' or '.join(words[tag] for tag in doubtful)}, unverified.")
    if any(value.given and value.published is None and value.source != "?" for value in shown):
        sentences.append("NA: the paper prints none.")
    return sentences
