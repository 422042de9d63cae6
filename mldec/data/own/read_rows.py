"""A table as rows: which images it lists and which labels each has, whatever its columns and cells look like."""

from __future__ import annotations

import dataclasses
import os
from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mldec.data.index import ABSENT, PRESENT, UNKNOWN, Ragged
from mldec.data.own import arrow_rows
from mldec.data.own.columns import Chosen, Columns, find_columns, refuse_other_cells
from mldec.data.own.label_cells import is_list, labels_of, refuse_states
from mldec.data.own.rows import SPLITS, Rows, ragged
from mldec.data.own.separators import Separator, find_separator_beside, parse_separator, refuse_joined
from mldec.data.own.values import MINUS_ONE, ask_minus_one, is_minus_one, is_nothing, split_of, state_of
from mldec.data.table_file import MISSING, TableFile, open_table_file
from mldec.errors import DataError, counted, option, printable_name, setting, shortened
from mldec.labels import from_cell

MAX_KEPT = 2**16  # patterns of states that are kept: rows mostly repeat them


@dataclass(frozen=True, kw_only=True)
class TableSettings:
    """How a table is read, as far as a user sets it.

    Attributes:
        encoding: of text, such as utf-8, utf-16 or cp1252; null: found in the file.
        delimiter: between cells: comma, semicolon, tab, pipe or space; null: found in the file.
        header: whether the first line names the columns; null: unless it names an image.
        path_column: the column with the images' paths; null: the one named path, image, file, filename, …
        label_column: the column with the labels; null: the one named labels, label, tags, classes, …, or if there is
            none, every other column is a class. Of Label Studio's JSON, a control, or predictions.
        split_column: the column with train, val or test; null: the one named split, set, fold, is_valid, …, if there
            is one and neither `val` nor `test` is set.
        separator: between the labels of a cell, and of a text in a list: semicolon, comma, pipe, slash, space, another
            sign, or several as semicolon+comma; none: it is one label; null: decided over the whole column.
        ignore: columns, and keys of JSON, that are not classes; null: columns of usual names, such as age and id,
            unless they hold 0 and 1.
        minus_one: what -1 in a class column or key means, absent or unknown; null: unknown, but one with 1 and -1 alone
            is an error.
    """

    encoding: str | None = None
    delimiter: str | None = None
    header: bool | None = None
    path_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    separator: str | None = None
    ignore: tuple[str, ...] | None = None
    minus_one: Literal["absent", "unknown"] | None = None

    def __post_init__(self) -> None:
        if self.separator is not None:
            parse_separator(self.separator)
        if self.delimiter is not None and self.delimiter not in (
            *",;|\t ",
            "comma",
            "semicolon",
            "tab",
            "pipe",
            "space",
        ):
            raise ValueError(f"delimiter={self.delimiter!r}: comma, semicolon, tab, pipe and space are allowed")


def read_table_rows(
    path: str,
    settings: TableSettings,
    *,
    fast: bool = True,
    cache: str | None = None,
    named: Collection[str] | None = None,
) -> Rows:
    """The rows of a table. Images in it are unpacked, and the rows have their paths.

    Args:
        cache: the folder to unpack into.
        fast: read with pyarrow what needs nothing else; the result is the same.
        named: names of a file with which labels will be compared, so that none is checked for being several.

    Raises DataError, naming file and line, for what cannot be read or decided.
    """
    table = open_as_set(path, settings)
    columns = table_columns(table, settings)
    separator = None if settings.separator is None else parse_separator(settings.separator)
    if separator is None and table.dialect is not None and table.dialect.uneven:
        separator = Separator(table.dialect.delimiter)
    base = Rows(
        path=path,
        format=table.format,
        folder=os.path.dirname(os.path.abspath(path)),
        names=[],
        name_ids=np.empty(0, np.int64),
        lines=np.empty(0, np.int64),
        present=Ragged.empty(0),
        absent=Ragged.empty(0),
        unknown=Ragged.empty(0),
        labels=(),
        files=(path,),
        decisions=(*table.decisions, *columns.decisions),
        options={**table.options, **columns.options},
    )
    if fast and (rows := arrow_rows.read(base, table, columns, separator, named is not None)) is not None:
        return rows
    if columns.labels is not None:
        rows = _read_lists(base, table, columns, separator, named)
    else:
        rows = _read_states(base, table, columns, settings)
    if table.inside is None:
        return rows
    names = table.inside.unpack(cache)
    own = [names[int(number) - 1] for number in rows.names or ()]
    return dataclasses.replace(rows, names=own, folder=table.inside.folder(cache), files=tuple(table.files))


def open_as_set(path: str, settings: TableSettings) -> TableFile:
    """The table of these settings. Raises DataError as `open_table_file` does."""
    return open_table_file(
        path,
        encoding=settings.encoding,
        delimiter=settings.delimiter,
        header=settings.header,
        image_column=settings.path_column,
    )


def table_columns(table: TableFile, settings: TableSettings) -> Columns:
    """What the columns of a table are. Raises DataError, naming the file, for what cannot be decided."""
    path_column = table.inside.column if table.inside else settings.path_column
    label_column = settings.label_column
    if label_column is None and table.dialect is not None and table.dialect.uneven:
        label_column = table.columns[-1]
    chosen = Chosen(path_column, label_column, settings.split_column, settings.ignore)
    return find_columns(table.path, table.columns, table.sample, chosen)


def splits_of_table(path: str, settings: TableSettings) -> tuple[str, ...] | None:
    """The splits that a column of a table names, of train, val and test; None without such a column."""
    table = open_as_set(path, settings)
    column = table_columns(table, settings).split
    if column is None:
        return None
    cells = {str(cell) for _, (cell,) in table.records([column])}
    found = {split_of(cell, column) for cell in cells}
    return tuple(split for split in SPLITS if split in found)


class _Collector:
    """What rows with lists and rows with states have in common: path, line and split of each."""

    def __init__(self, table: TableFile, columns: Columns) -> None:
        self.table, self.columns = table, columns
        self.names: dict[str, int] = {}
        self.ids, self.lines, self.splits = array("q"), array("q"), array("b")
        self._numbers: dict[str, int] = {}

    def rows(self) -> Iterator[tuple[int, Sequence[Any]]]:
        """(line, cells of labels or classes) of each row, whose path and split are collected; to be called once."""
        first = 2 if self.columns.split else 1
        for line, cells in self.table.records(self.columns.needed):
            name = cells[0]
            if not isinstance(name, str) or not name.strip():
                raise DataError(f"{self.where(line)}: no path of an image")
            name = name.strip()
            if self.columns.escaped:
                name = from_cell(name)
            if first == 2:
                self.splits.append(self._split(cells[1], line))
            self.ids.append(self.names.setdefault(name, len(self.names)))
            self.lines.append(line)
            yield line, cells[first:]

    def where(self, line: int) -> str:
        return f"{self.table.path} line {line}"

    def finish(self, base: Rows, **more: Any) -> Rows:
        repeated = len(self.ids) - len(self.names)
        decisions = [*base.decisions, *more.pop("decisions", ())]
        if repeated:
            decisions.append(f"rows of the same image joined ({repeated:,} more rows than images)")
        return dataclasses.replace(
            base,
            names=list(self.names),
            name_ids=np.array(self.ids, np.int64),
            lines=np.array(self.lines, np.int64),
            splits=np.array(self.splits, np.int8) if self.columns.split else None,
            decisions=tuple(decisions),
            **more,
        )

    def _split(self, cell: Any, line: int) -> int:
        text = str(cell)
        if text not in self._numbers:
            column = self.columns.split or ""
            split = split_of(text, column)
            if split is None:
                raise DataError(
                    f"{self.where(line)}: column {column} holds '{shortened(text)}'; allowed are train, val and test. "
                    f"If it does not divide the images: {setting('dataset.ignore', (column,))}"
                )
            self._numbers[text] = SPLITS.index(split)
        return self._numbers[text]


def _read_lists(
    base: Rows, table: TableFile, columns: Columns, separator: Separator | None, named: Collection[str] | None
) -> Rows:
    rows = _Collector(table, columns)
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
        if columns.path == "path" and isinstance(cell, dict) and cell and all(map(_is_score, cell.values())):
            raise DataError(f"{rows.where(line)}: labels with scores, {shortened(cell)}; {_choosing(base.path)}")
        key = cell if isinstance(cell, str) else repr(cell)[: 2**16]
        number = numbers.setdefault(key, len(cells))
        if number == len(cells):
            cells.append(cell)
            first_lines.append(line)
        cell_ids.append(number)
    is_plain = [isinstance(cell, str) and not is_nothing(cell) and not is_list(cell) for cell in cells]
    lists = [
        [cell] if plain else labels_of(cell, Separator(""), rows.where(line))
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
        texts = [cell for cell, plain in zip(cells, is_plain, strict=True) if plain]
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
        says_nothing = isinstance(cell, str) and cell != "" and is_nothing(cell)
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
    if nothing:
        no_labels = "is no label" if nothing == 1 else "are no labels"
        decisions.append(f"{counted(nothing, 'cell')} with nan, None, NA or null, which {no_labels}")
    present, order = ragged(ends, values), np.array(cell_ids, np.int64)
    return rows.finish(
        base,
        present=present.gather(order),
        absent=Ragged.empty(len(order)),
        unknown=Ragged.empty(len(order)),
        labels=tuple(codes),
        ordered=known is not None,
        decisions=decisions,
        options={**base.options, **options},
    )


def _parts(texts: Sequence[str], separator: Separator) -> list[str]:
    return [part for text in texts for part in separator.split(text)]


def _read_states(base: Rows, table: TableFile, columns: Columns, settings: TableSettings) -> Rows:
    rows, classes = _Collector(table, columns), columns.classes
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
                raise DataError(
                    f"{rows.where(line)}: {strange[0]} is none of the columns, which are the keys of the first line "
                    f"({', '.join(map(printable_name, table.columns[:3]))}{', …' if len(table.columns) > 3 else ''})"
                )
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
        error = refuse_other_cells(base.path, bad, settings.ignore or _ignored(columns, table))
        scores = columns.path == "path" and all(_is_score(cell) for _, cell in bad.values())
        raise DataError(f"{error}. If they are scores: {_choosing(base.path)}") if scores else error
    minus_one = settings.minus_one
    only = np.flatnonzero(seen[0] & seen[3] & ~seen[2])
    if minus_one is None and len(only):
        raise ask_minus_one(base.path, "columns", [classes[i] for i in only], len(classes))
    what = f"{counted(nothing, 'cell')} of classes with nan, None, NA or null {'is' if nothing == 1 else 'are'} unknown"
    decisions = [what] if nothing > 0 else []
    lists = [ragged(end, out) for end, out in zip(ends, values, strict=True)]
    unknown = lists[2] if minus_one == "absent" else _joined(lists[1], lists[2])
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


def _is_score(value: Any) -> bool:
    """Whether a value is a number from 0 to 1, as the scores of `mldec predict` are."""
    try:
        return not isinstance(value, bool) and 0 <= float(value) <= 1
    except (TypeError, ValueError, OverflowError):
        return False


def _choosing(path: str) -> str:
    """How labels are chosen by their scores in a file of `mldec predict`."""
    return (
        f"choose the labels first: mldec data export {option('predictions', path)} threshold=0.5 format=csv "
        "output=labels.csv"
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
