"""Rows of a table whose labels stand in one column, as text with separators or as lists."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from mldec.data.index import UNKNOWN, Ragged
from mldec.data.own.columns import Columns
from mldec.data.own.label_cells import is_list, labels_of, refuse_states
from mldec.data.own.row_collector import RowCollector
from mldec.data.own.rows import Rows, ragged
from mldec.data.own.separators import Separator, find_separator_beside, refuse_joined, unquoted
from mldec.data.own.values import choosing_labels, is_nothing, is_score
from mldec.data.table_file import MISSING, UNLABELLED, TableFile
from mldec.errors import DataError, counted, printable_name, shortened
from mldec.labels import from_cell


def read_lists(
    base: Rows, table: TableFile, columns: Columns, separator: Separator | None, named: Collection[str] | None
) -> Rows:
    """`base` with the rows of a table that has a column of labels.

    Args:
        separator: between labels; None: found in the column.
        named: the labels, if a file names them; others of these names are no states and no `nan`.

    Raises DataError, naming file and line, for cells that are no labels, and where it cannot be decided what separates
    them.
    """
    rows = RowCollector(table, columns)
    numbers: dict[Any, int] = {}  # of the different cells
    cells: list[Any] = []
    cell_ids, first_lines = array("q"), array("q")
    for line, (cell,) in rows.rows():
        if cell is MISSING:  # a misspelt key in JSONL must not become an image without labels
            found = next(row for number, row in table.rows() if number == line)
            raise DataError(
                f"{rows.where(line)}: no {columns.labels} among {', '.join(map(printable_name, found))}; an image "
                "without labels has an empty list"
            )
        if columns.path == "path" and isinstance(cell, dict) and cell and all(map(is_score, cell.values())):
            raise DataError(f"{rows.where(line)}: labels with scores, {shortened(cell)}; {choosing_labels(base.path)}")
        key = cell if isinstance(cell, str) else UNKNOWN if cell is UNLABELLED else repr(cell)[: 2**16]
        number = numbers.setdefault(key, len(cells))
        if number == len(cells):
            cells.append(cell)
            first_lines.append(line)
        cell_ids.append(number)
    is_plain = [isinstance(cell, str) and not is_nothing(cell) and not is_list(cell) for cell in cells]
    texts_of = {
        cell: cell if columns.escaped else unquoted(cell) for cell, plain in zip(cells, is_plain, strict=True) if plain
    }
    quoted = sum(cell != text for cell, text in texts_of.items())
    lists = [
        [texts_of[cell]] if plain else labels_of(cell, Separator(""), rows.where(line))
        for cell, plain, line in zip(cells, is_plain, first_lines, strict=True)
    ]
    known = table.names.get(columns.labels or "")
    decisions: list[str] = []
    options: dict[str, str] = {}
    check = separator is None and named is None and known is None and not columns.escaped

    def where(name: str) -> str:
        places = (place for place, names in enumerate(lists) if any(name in text for text in names))
        return next((f" line {first_lines[place]}" for place in places), "")

    if columns.escaped:
        separator = Separator("")  # a row for each label
    elif separator is None:
        inside = dict.fromkeys(
            name for plain, names in zip(is_plain, lists, strict=True) if not plain for name in names
        )
        texts = list(texts_of.values())
        separator = find_separator_beside(base.path, texts, inside, where)
        decisions, options = list(separator.decisions), dict(separator.options)
    codes: dict[str, int] = {name: code for code, name in enumerate(dict.fromkeys(known or ()))}
    ends, values = array("q", [0]), array("i")
    divided = (
        [] if isinstance(cell, dict) else _parts(texts, separator) for cell, texts in zip(cells, lists, strict=True)
    )
    refuse_states(divided, f"{base.path}: column {printable_name(columns.labels or '')}")
    meant, counts, nothing = set(named or known or ()), Counter(cell_ids), 0
    for number, (cell, texts) in enumerate(zip(cells, lists, strict=True)):
        says_nothing = cell is None or (isinstance(cell, str) and cell != "" and is_nothing(cell))
        for name in dict.fromkeys(_parts(texts, separator)):
            name = from_cell(name) if columns.escaped else name
            if (code := codes.get(name)) is None:
                if is_nothing(name) and name not in meant:
                    says_nothing = True
                    continue
                code = codes[name] = len(codes)
            values.append(code)
        nothing += counts[number] * says_nothing
        ends.append(len(values))
    if check:
        refuse_joined(base.path, list(codes), separator, where)
    if quoted:
        decisions.append(f"without the single quotes around {counted(quoted, 'different cell')}")
    if nothing:
        no_labels = "is no label" if nothing == 1 else "are no labels"
        decisions.append(f"{counted(nothing, 'cell')} with nan, None, NA or null, which {no_labels}")
    present, order = ragged(ends, values), np.array(cell_ids, np.int64)
    unknown = Ragged.empty(len(order))
    if UNKNOWN in numbers:
        hidden = np.flatnonzero(order == numbers[UNKNOWN])
        decisions.append(f"{counted(len(hidden), 'row')} with -1 for no label: all labels are unknown there")
        columns_of_all = np.tile(np.arange(len(codes), dtype=np.int32), len(hidden))
        unknown = Ragged.from_rows(np.repeat(hidden, len(codes)), columns_of_all, len(order))
    return rows.finish(
        base,
        present=present.gather(order),
        absent=Ragged.empty(len(order)),
        unknown=unknown,
        labels=tuple(codes),
        ordered=known is not None,
        decisions=decisions,
        options={**base.options, **options},
    )


def _parts(texts: Sequence[str], separator: Separator) -> list[str]:
    return [part for text in texts for part in separator.split(text)]
