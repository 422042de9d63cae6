"""Tables on disk as rows: CSV, TSV, xlsx, JSONL and Parquet behind one small interface."""

from __future__ import annotations

import csv
import functools
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mldec.data import parquet_file
from mldec.data.own.documents import LABEL_KEYS
from mldec.data.own.parquet_images import ImagesInside, class_names, find_images_inside, shards_of
from mldec.data.own.text_table import Dialect, find_dialect, read_records, suffix_of
from mldec.data.own.xlsx import open_xlsx, write_xlsx
from mldec.data.parquet_file import naming_parquet
from mldec.errors import SURROGATE, DataError, printable_name, shortened
from mldec.files import replacing
from mldec.labels import repeated_names
from mldec.untrusted import open_text, parse_json

SAMPLE = 200  # rows by which columns are known
MISSING = object()  # the cell of a row that lacks this column, as rows of JSONL may
UNLABELLED: list[str] = []  # itself, not any empty list, is the cell of a row of which no label is known


@dataclass(frozen=True)
class TableFile:
    """A table on disk.

    Attributes:
        path: the file.
        columns: names of its columns; of JSONL, the keys of the first rows.
        records: iterates over (line, cells of the named columns) from the beginning, each time it is called.
        rows: iterates over (line number, {column: value}) from the beginning, each time it is called; given names of
            columns, over at least these.
        format: its name for people.
        dialect: of text.
        decisions, options: what was decided in opening it, and the options that mean the same.
        files: of a Parquet file, all whose rows it has.
        inside: the images that it holds, whose column has the numbers of the rows for cells.
        names: all names of the labels, in order, of columns that are known to hold these alone.
        late: of JSONL, the keys that the first row lacks, with the line of the first row that has them.
        unseen: of JSONL, the same of keys that none of the first rows has, as far as `records` or `rows` were read.
    """

    path: str
    columns: tuple[str, ...]
    records: Callable[[Sequence[str]], Iterator[tuple[int, Sequence[Any]]]]
    rows: Callable[..., Iterator[tuple[int, dict[str, Any]]]]
    format: str
    dialect: Dialect | None = None
    decisions: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    files: Sequence[str] = ()
    inside: ImagesInside | None = None
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    late: dict[str, int] = field(default_factory=dict)
    unseen: dict[str, int] = field(default_factory=dict)

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.columns)}

    def sample(self, wanted: Sequence[str]) -> dict[str, list[Any]]:
        """The cells of the first rows, by columns: those that are wanted, since others may be huge."""
        if self.dialect is not None:
            places = {name: self._numbers[name] for name in wanted}
            return {n: [row[i] for row in self.dialect.sample if i < len(row)] for n, i in places.items()}
        rows = [cells for _, (_, cells) in zip(range(SAMPLE), self.records(wanted), strict=False)]
        return {name: [row[i] for row in rows if row[i] is not MISSING] for i, name in enumerate(wanted)}


def open_table_file(
    path: str,
    *,
    encoding: str | None = None,
    delimiter: str | None = None,
    header: bool | None = None,
    image_column: str | None = None,
) -> TableFile:
    """Open a table by its suffix: .csv, .tsv, .txt, .xlsx, .jsonl (or .ndjson), .parquet.

    Args:
        encoding, delimiter, header: of text, as far as they are not to be found.
        image_column: of Parquet that holds images in several columns.

    Raises:
        DataError: another suffix, no readable header, a repeated column name; iterating raises it for broken rows.
    """
    suffix = suffix_of(path)
    if suffix in _TEXT:
        dialect = find_dialect(path, encoding=encoding, delimiter=delimiter, header=header)
        table = _open_text_table(path, dialect)
    elif suffix == ".parquet":
        table = _open_parquet(path, image_column)
    elif suffix in _OPENERS:
        table = _OPENERS[suffix](path)
    else:
        raise DataError(f"{path}: tables end in {', '.join(SUFFIXES)}; found {suffix or 'no suffix'}")
    if repeated := repeated_names(table.columns):
        raise DataError(
            f"{path}: column names must differ; found more than once: {', '.join(name[:80] for name in repeated[:5])}"
        )
    return table


def write_table_file(
    source: TableFile, rows: Sequence[int], path: str, *, without: str | None = None, instead: str = ""
) -> None:
    """Write the rows of `source` with these numbers (from 0, ascending) to a table of the same kind, whole or not.

    Text keeps its encoding, its delimiter, and its header if there is one, so that the same options read it.

    Args:
        without: a column to leave out. Without a header its cells become `instead`: other columns keep their numbers.
    """
    with replacing(path) as partial:
        if path.lower().endswith(".parquet"):
            with naming_parquet(source.path):
                parquet_file.write_rows(source.files, rows, partial, without=without)
            return
        chosen = set(rows)
        if source.format == "JSONL":
            lines = (row for number, (_, row) in enumerate(source.rows()) if number in chosen)
            _write_lines([{key: row[key] for key in row if key != without} for row in lines], partial)
            return
        headed = source.dialect is None or source.dialect.header
        columns = [name for name in source.columns if name != without or not headed]
        records = source.records(columns)
        content = [list(cells) for number, (_, cells) in enumerate(records) if number in chosen]
        if without is not None and not headed:
            for cells in content:
                cells[columns.index(without)] = instead
        if source.dialect is None:
            write_xlsx(partial, columns, content)
        else:
            _write_text(source.dialect, columns, content, partial)


def _write_text(dialect: Dialect, columns: Sequence[str], content: Iterable[Sequence[str]], partial: Path) -> None:
    with open(partial, "w", newline="", encoding=dialect.encoding.name.removesuffix("-sig")) as file:
        writer = csv.writer(file, delimiter=dialect.delimiter)
        if dialect.header:
            writer.writerow(columns)
        writer.writerows(content)


def _write_lines(content: list[dict[str, Any]], partial: Path) -> None:
    with open(partial, "w", newline="", encoding="utf-8") as file:
        # Escaped as ASCII, half a character in a column that is no label stays what it is.
        file.writelines(json.dumps(row, ensure_ascii=not _is_text(row)) + "\n" for row in content)


def _open_text_table(path: str, dialect: Dialect) -> TableFile:
    def records(wanted: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
        numbers = {name: number for number, name in enumerate(dialect.columns)}
        places = [numbers[name] for name in wanted]
        if places == list(range(len(dialect.columns))):
            yield from read_records(path, dialect)
            return
        for line, cells in read_records(path, dialect):
            yield line, [cells[place] for place in places]

    def rows(wanted: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, Any]]]:
        for line, cells in read_records(path, dialect):
            yield line, dict(zip(dialect.columns, cells, strict=True))

    name = "TSV" if dialect.delimiter == "\t" else "CSV"
    return TableFile(path, dialect.columns, records, rows, name, dialect, dialect.decisions, dialect.options)


def _open_sheet(path: str) -> TableFile:
    columns, content, decisions = open_xlsx(path)

    def records(wanted: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
        numbers = {name: number for number, name in enumerate(columns)}
        places = [numbers[name] for name in wanted]
        for line, cells in content():
            yield line, [cells[place] for place in places]

    def rows(wanted: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, Any]]]:
        for line, cells in content():
            yield line, dict(zip(columns, cells, strict=True))

    return TableFile(path, columns, records, rows, "Excel workbook", None, decisions)


def _open_jsonl(path: str) -> TableFile:
    keys: dict[str, int] = {}
    unseen: dict[str, int] = {}

    def rows(wanted: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, Any]]]:
        number = 0
        try:
            with open_text(path) as file:
                for number, line in enumerate(file, start=1):
                    if not line.strip():
                        continue
                    row = parse_json(line)
                    if not isinstance(row, dict):
                        raise ValueError(f"expected an object {{…}}, found {line.strip()[:40]}")
                    if not row.keys() <= keys.keys():
                        unseen.update({key: number for key in row if key not in keys and key not in unseen})
                    yield number, row
        except (OSError, ValueError) as error:
            raise DataError(f"{path} line {number}: cannot be read as JSON: {error}") from None

    first = 0
    for line, row in itertools.islice(rows(), SAMPLE):
        first = first or line
        for key in row:
            keys.setdefault(key, line)
    unseen.clear()
    if not first:
        raise DataError(f'{path}: is empty; a line is an object such as {{"path": "a.jpg", "labels": ["cat"]}}')
    late = {key: line for key, line in keys.items() if line != first}
    return TableFile(path, tuple(keys), _records_of(rows), rows, "JSONL", late=late, unseen=unseen)


def _open_parquet(path: str, image_column: str | None = None) -> TableFile:
    inside = find_images_inside(path, image_column)
    files = shards_of(path)
    with naming_parquet(path):
        schemas = {file: parquet_file.read_schema(file) for file in files}
    columns = tuple(schemas[files[0]].names)
    if strange := [file for file, schema in schemas.items() if tuple(schema.names) != columns]:
        raise DataError(f"{strange[0]}: has other columns than {files[0]}")
    names_of = {file: class_names(schema) for file, schema in schemas.items()}
    with naming_parquet(path):
        found = {field.name: parquet_file.inner_leaf(files[0], field, LABEL_KEYS) for field in schemas[files[0]]}
    boxes = {name: one for name, one in found.items() if one is not None}
    leaves = {name: leaf for name, (_, leaf) in boxes.items()}
    names = {
        column: tuple(dict.fromkeys(name for own in names_of.values() for name in own.get(column, ())))
        for column in names_of[files[0]]
    }

    def rows(wanted: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, Any]]]:
        number = 0
        image = inside.column if inside else None
        needed = [name for name in wanted or columns if name != image]
        for file in files:
            with naming_parquet(file):
                if not needed:
                    count = parquet_file.count_rows(file)
                    contents: Iterable[dict[str, Any]] = ({} for _ in range(count))
                else:
                    of_some = needed if wanted or image else None
                    batches = parquet_file.read_batches(file, of_some, leaves if of_some else None)
                    contents = (row for batch in batches for row in batch.to_pylist())
                for number, row in enumerate(contents, start=number + 1):  # noqa: B020 (continues counting)
                    own = names_of[file]
                    for name in boxes.keys() & row.keys() if needed else ():
                        row[name] = _of_boxes(row[name], boxes[name][0])
                    for name in own.keys() & row.keys():
                        row[name] = _named(row[name], own[name], f"{path} row {number}: column {printable_name(name)}")
                    yield number, row | ({image: str(number)} if image else {})

    decisions = (f"{len(files):,} files as one table",) if len(files) > 1 else ()
    kind = "Parquet with images" if inside else "Parquet"
    return TableFile(path, columns, _records_of(rows), rows, kind, None, decisions, {}, files, inside, names)


def _of_boxes(cell: Any, key: str) -> list[Any]:
    """The values of a field of one struct, or of a list of structs, each as one list."""
    values = [box[key] for box in (cell if isinstance(cell, list) else [cell]) if box is not None]
    lists = [value if isinstance(value, list) else [value] for value in values]
    return [one for value in lists for one in value if one is not None]


def _named(cell: Any, names: Sequence[str], where: str) -> Any:
    """The names of labels that are numbers of Hugging Face's ClassLabel. Raises DataError for other numbers.

    -1 is UNLABELLED, as in test sets whose labels are held back, and in a list of labels nothing.
    """
    if cell is None:
        return None
    if isinstance(cell, list):
        return [_named(one, names, where)[0] for one in cell if one is not None and one != -1]
    if cell == -1:
        return UNLABELLED
    if not isinstance(cell, int) or not 0 <= cell < len(names):
        raise DataError(
            f"{where} holds {shortened(cell)}; its {len(names):,} names have the numbers 0 to {len(names) - 1}"
        )
    return [names[cell]]


def _records_of(rows: Callable[..., Iterator[tuple[int, dict[str, Any]]]]) -> Any:
    def records(wanted: Sequence[str]) -> Iterator[tuple[int, Sequence[Any]]]:
        for line, row in rows(wanted):
            yield line, [row.get(name, MISSING) for name in wanted]

    return records


def _is_text(row: dict[str, Any]) -> bool:
    """Whether all text in a row can be written in UTF-8."""
    return SURROGATE.search(json.dumps(row, ensure_ascii=False)) is None


_TEXT = (".csv", ".tsv", ".txt")
_OPENERS: dict[str, Callable[[str], TableFile]] = {
    ".jsonl": _open_jsonl,
    ".ndjson": _open_jsonl,
    ".xlsx": _open_sheet,
}
#: The suffixes of tables.
SUFFIXES = (*_TEXT, *_OPENERS, ".parquet")


def is_table(path: str) -> bool:
    """Whether a file is a table by its suffix."""
    return os.path.splitext(path)[1].lower() in SUFFIXES
