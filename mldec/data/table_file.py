"""Tables on disk as rows: CSV, TSV, JSONL and Parquet behind one small interface."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mldec.data import parquet_file
from mldec.data.text_rows import csv_rows
from mldec.errors import DataError, shortened
from mldec.files import replacing
from mldec.labels import repeated_names
from mldec.untrusted import open_text, parse_json


@dataclass(frozen=True)
class TableFile:
    """A table on disk.

    Attributes:
        path: the file.
        columns: names of its columns; of JSONL, the keys of the first row.
        rows: iterates over (line number, {column: value}) from the beginning, each time it is called; given names of
            columns, over at least these.
    """

    path: str
    columns: tuple[str, ...]
    rows: Callable[..., Iterator[tuple[int, dict[str, Any]]]]


def open_table_file(path: str) -> TableFile:
    """Open a table by its suffix: .csv, .tsv, .jsonl (or .ndjson), .parquet.

    Raises:
        DataError: another suffix, no readable header, a repeated column name; iterating raises it for broken rows.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in _OPENERS:
        raise DataError(f"{path}: tables end in {', '.join(_OPENERS)}; found {suffix or 'no suffix'}")
    table = _OPENERS[suffix](path)
    if repeated := repeated_names(table.columns):
        raise DataError(
            f"{path}: column names must differ; found more than once: {', '.join(name[:80] for name in repeated[:5])}"
        )
    return table


def write_table_file(source: TableFile, rows: Sequence[int], path: str) -> None:
    """Write the rows of `source` with these numbers (from 0, ascending) to a table of the same kind, whole or not."""
    suffix = os.path.splitext(source.path)[1].lower()
    if suffix == ".parquet":
        with _naming_parquet(source.path), replacing(path) as partial:
            parquet_file.write_rows(source.path, rows, partial)
        return
    chosen = set(rows)
    content = (row for number, (_, row) in enumerate(source.rows()) if number in chosen)
    # In JSON, a backslash also stands before half a character, which a column that is no label may hold.
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        if suffix in (".csv", ".tsv"):
            writer = csv.DictWriter(file, source.columns, delimiter="\t" if suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(content)
        else:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in content)


def _open_csv(path: str) -> TableFile:
    delimiter = "\t" if path.lower().endswith(".tsv") else None
    first = next(csv_rows(path, delimiter), None)
    if first is None:
        raise DataError(f"{path}: is empty; the first line must name the columns, such as path,labels")
    columns = tuple(cell.strip() for cell in first[1])

    def rows(wanted: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, cells in itertools.islice(csv_rows(path, delimiter), 1, None):
            if len(cells) != len(columns):
                raise DataError(
                    f"{path} line {number}: {len(cells)} cells, the header has {len(columns)} "
                    f"({', '.join(columns[:5])}{', …' if len(columns) > 5 else ''}); quote cells with commas in them"
                )
            yield number, dict(zip(columns, cells, strict=True))

    return TableFile(path, columns, rows)


def _open_jsonl(path: str) -> TableFile:
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
                    yield number, row
        except (OSError, ValueError) as error:
            raise DataError(f"{path} line {number}: cannot be read as JSON: {error}") from None

    first = next(rows(), None)
    if first is None:
        raise DataError(f'{path}: is empty; a line is an object such as {{"path": "a.jpg", "labels": ["cat"]}}')
    return TableFile(path, tuple(first[1]), rows)


def _open_parquet(path: str) -> TableFile:
    with _naming_parquet(path):
        columns = parquet_file.column_names(path)

    def rows(wanted: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, Any]]]:
        number = 0
        with _naming_parquet(path):
            for batch in parquet_file.read_batches(path, wanted or None):
                for number, row in enumerate(batch.to_pylist(), start=number + 1):  # noqa: B020 (continues counting)
                    yield number, row

    return TableFile(path, columns, rows)


@contextlib.contextmanager
def _naming_parquet(path: str) -> Iterator[None]:
    """What pyarrow raises in the block becomes a DataError: OverflowError for dates that Python does not have."""
    arrow, _ = parquet_file.import_pyarrow()
    try:
        yield
    except (OSError, ValueError, OverflowError, arrow.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {shortened(error, 300)}") from None


_OPENERS = {
    ".csv": _open_csv,
    ".tsv": _open_csv,
    ".jsonl": _open_jsonl,
    ".ndjson": _open_jsonl,
    ".parquet": _open_parquet,
}
