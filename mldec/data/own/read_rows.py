"""A table as rows: which images it lists and which labels each has, whatever its columns and cells look like."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mldec.data.dataset import name_some
from mldec.data.index import Ragged
from mldec.data.own import arrow_rows
from mldec.data.own.columns import Chosen, Columns, find_columns, is_no_class
from mldec.data.own.list_rows import read_lists
from mldec.data.own.rows import SPLITS, Rows
from mldec.data.own.separators import Separator, parse_separator
from mldec.data.own.state_rows import none_of_columns, read_states
from mldec.data.own.text_table import name_of
from mldec.data.own.values import SPLIT_NAMES, no_split, simple, split_of
from mldec.data.table_file import MISSING, TableFile, open_table_file
from mldec.errors import DataError, shortened


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
        minus_one: what -1 in a class column or key means, absent or unknown, and an empty cell where no class column
            has 0 or -1; null: unknown, but a column with 1 and -1 alone, or a table with 1 and empty cells alone, is
            an error.
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
    table = open_with_settings(path, settings)
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
        rows = read_lists(base, table, columns, separator, named)
    else:
        rows = read_states(base, table, columns, ignore=settings.ignore, minus_one=settings.minus_one)
    if unseen := {name: line for name, line in table.unseen.items() if name not in (settings.ignore or ())}:
        rows = dataclasses.replace(rows, decisions=(*rows.decisions, _not_used(table, columns, unseen)))
    if table.inside is None:
        return rows
    names = table.inside.unpack(cache)
    own = [names[int(number) - 1] for number in rows.names or ()]
    return dataclasses.replace(rows, names=own, folder=table.inside.folder(cache), files=tuple(table.files))


def _not_used(table: TableFile, columns: Columns, unseen: Mapping[str, int]) -> str:
    """A sentence about keys of JSONL that come after the rows by which columns are known, with their first lines.

    Raises DataError for one that may be a class, or divide the images.
    """
    for name, line in unseen.items():
        if columns.split is None and simple(name) in SPLIT_NAMES:
            raise no_split(f"{table.path} line 1", name)
        if columns.labels is None and not is_no_class(name):
            raise none_of_columns(table, name, line)
    shown = (f"{name} from line {line:,}" for name, line in unseen.items())
    return f"keys not used: {name_some(shown, len(unseen))}"


def open_with_settings(path: str, settings: TableSettings) -> TableFile:
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
    dialect = table.dialect
    if label_column is None and dialect is not None and dialect.mixed and settings.separator is None:
        sign = name_of(dialect.delimiter) if dialect.uneven else "comma"
        raise DataError(
            f"{table.path}: what follows a path ({'; '.join(map(shortened, dialect.mixed[:5]))}) may be labels, or "
            f"other values such as boxes, scores or states; use dataset.separator={sign} if each is a label, or write "
            "a first line that names the columns, such as path,labels"
        )
    if label_column is None and dialect is not None and dialect.uneven:
        label_column = table.columns[-1]
    elif label_column is None and dialect is not None and dialect.boxes:
        label_column = dialect.boxes
    chosen = Chosen(path_column, label_column, settings.split_column, settings.ignore)
    return find_columns(table.path, table.columns, table.sample, chosen)


def splits_of_table(path: str, settings: TableSettings) -> tuple[str, ...] | None:
    """The splits that a column of a table names, of train, val and test; None without such a column."""
    table = open_with_settings(path, settings)
    column = table_columns(table, settings).split
    if column is None:
        return None
    cells = set[str]()
    for line, (cell,) in table.records([column]):
        if cell is MISSING:
            raise no_split(f"{path} line {line}", column)
        cells.add(str(cell))
    found = {split_of(cell, column) for cell in cells}
    return tuple(split for split in SPLITS if split in found)
