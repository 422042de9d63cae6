"""Rows of a table with a column for each class, whose cells are states."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from mldec.data.index import ABSENT, PRESENT, UNKNOWN, Ragged
from mldec.data.own.columns import Columns, refuse_other_cells
from mldec.data.own.row_collector import RowCollector
from mldec.data.own.rows import Rows, ragged
from mldec.data.own.values import (
    MINUS_ONE,
    ask_minus_one,
    ask_nothing,
    choosing_labels,
    is_minus_one,
    is_score,
    state_of,
)
from mldec.data.table_file import MISSING, TableFile
from mldec.errors import DataError, counted, printable_name
from mldec.labels import from_cell

MAX_KEPT = 2**16  # patterns of states that are kept: rows mostly repeat them


def read_states(
    base: Rows,
    table: TableFile,
    columns: Columns,
    *,
    ignore: Sequence[str] | None,
    minus_one: Literal["absent", "unknown"] | None,
) -> Rows:
    """`base` with the rows of a table of class columns.

    Args:
        ignore, minus_one: as in `TableSettings`.

    Raises DataError for cells that are no states, and for columns of 1 and -1 alone, and where no class
    has 0 or -1 but 1 and empty cells, unless `minus_one` is set.
    """
    rows, classes = RowCollector(table, columns), columns.classes
    if late := [name for name in classes if name in table.late]:  # a misspelt key in JSONL must not become a class
        raise none_of_columns(table, late[0], table.late[late[0]])
    kept: dict[tuple[str, ...], tuple[np.ndarray, ...]] = {}
    seen = np.zeros((4, len(classes)), bool)  # of which classes a cell is -1, nothing, 0 or 1
    values, ends = [array("i"), array("i"), array("i")], [array("q", [0]), array("q", [0]), array("q", [0])]
    bad: dict[str, tuple[int, Any]] = {}
    nothing = 0
    names = set(table.columns)
    for line, cells in rows.rows():
        if table.format == "JSONL" and any(cell is MISSING for cell in cells):
            found = next(row for number, row in table.rows() if number == line)
            if strange := sorted(found.keys() - names):
                raise none_of_columns(table, strange[0], line)
        key = tuple(map(str, cells))
        states = kept.get(key)
        if states is None:
            found_states = [_state(cell) for cell in cells]
            if None in found_states:
                for name, cell, state in zip(classes, cells, found_states, strict=True):
                    if state is None:
                        bad.setdefault(name, (line, cell))
            codes = np.array([UNKNOWN if state is None else state for state in found_states], np.int8)
            for number, state in enumerate((MINUS_ONE, UNKNOWN, ABSENT, PRESENT)):
                seen[number] |= codes == state
            states = tuple(np.flatnonzero(codes == state) for state in (PRESENT, MINUS_ONE, UNKNOWN))
            if len(kept) * len(classes) < MAX_KEPT * 64:
                kept[key] = states
        nothing += len(states[2]) - cells.count("") - cells.count(MISSING) if len(states[2]) else 0
        for out, end, group in zip(values, ends, states, strict=True):
            out.extend(group.tolist())
            end.append(len(out))
    if bad:
        error = refuse_other_cells(base.path, bad, ignore or _ignored(columns, table))
        scores = columns.path == "path" and all(is_score(cell) for _, cell in bad.values())
        raise DataError(f"{error}. If they are scores: {choosing_labels(base.path)}") if scores else error
    only = np.flatnonzero(seen[0] & seen[3] & ~seen[2])
    if minus_one is None and len(only):
        raise ask_minus_one(base.path, "columns", [classes[i] for i in only], len(classes))
    blank = not (seen[0] | seen[2]).any() and (seen[1] & seen[3]).any()  # no 0 and no -1, but 1 beside nothing
    if minus_one is None and blank:
        raise ask_nothing(base.path, "column", len(classes))
    what = f"{counted(nothing, 'cell')} of classes with nan, None, NA or null {'is' if nothing == 1 else 'are'} unknown"
    decisions = [what] if nothing > 0 else []
    lists = [ragged(end, out) for end, out in zip(ends, values, strict=True)]
    if minus_one == "absent":
        unknown = Ragged.empty(len(rows.ids)) if blank else lists[2]
    else:
        unknown = _joined(lists[1], lists[2])
    if blank:
        decisions = [f"empty cells of classes are {minus_one}, as no class has 0 or -1"]
    return rows.finish(
        base,
        present=lists[0],
        absent=Ragged.empty(len(rows.ids)),
        unknown=unknown,
        labels=tuple(map(from_cell, classes)),
        ordered=True,
        columns=True,
        decisions=decisions,
    )


def _state(cell: Any) -> int | None:
    if cell is MISSING:
        return UNKNOWN
    return MINUS_ONE if is_minus_one(cell) else state_of(cell)


def none_of_columns(table: TableFile, name: str, line: int) -> DataError:
    """The error for a key of JSONL that may be a class, but that the first line lacks."""
    first = [column for column in table.columns if column not in table.late]
    return DataError(
        f"{table.path} line {line}: {printable_name(name)} is none of the columns, which are the keys of the first "
        f"line ({', '.join(map(printable_name, first[:3]))}{', …' if len(first) > 3 else ''}); give every line all "
        "classes, or leave out keys that are none with dataset.ignore"
    )


def _ignored(columns: Columns, table: TableFile) -> list[str]:
    """The columns that are left out without having been set."""
    known = {columns.path, columns.split, *columns.classes}
    return [name for name in table.columns if name not in known]


def _joined(first: Ragged, second: Ragged) -> Ragged:
    """Lists of both, row by row, in ascending order."""
    if not len(first.values) or not len(second.values):
        return first if len(first.values) else second
    rows = np.concatenate([np.repeat(np.arange(len(one)), one.counts) for one in (first, second)])
    values = np.concatenate([first.values, second.values])
    order = np.lexsort((values, rows))
    return Ragged.from_rows(rows[order], values[order], len(first))
