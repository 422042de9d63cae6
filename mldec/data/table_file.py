"""Tables on disk as rows: CSV, TSV, JSONL and Parquet behind one small interface."""

from __future__ import annotations

import csv
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mldec.errors import SURROGATE, DataError
from mldec.files import replacing
from mldec.labels import repeated_names
from mldec.untrusted import check_regular, open_text

MAX_ROW_GROUP = 4 * 2**30  # bytes that a row group of Parquet may unpack to
PARQUET_ROWS = 2**13  # that are in memory at a time


@dataclass(frozen=True)
class Table:
    """A table on disk.

    Attributes:
        path: the file.
        columns: names of its columns; of JSONL, the keys of the first row.
        rows: iterates over (line number, {column: value}) from the beginning, each time it is called.
    """

    path: str
    columns: tuple[str, ...]
    rows: Callable[[], Iterator[tuple[int, dict[str, Any]]]]


def open_table(path: str) -> Table:
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


def write_table(source: Table, rows: Sequence[int], path: str) -> None:
    """Write the rows of `source` with these numbers (from 0, ascending) to a table of the same kind, whole or not."""
    chosen = set(rows)
    content = [row for number, (_, row) in enumerate(source.rows()) if number in chosen]
    with replacing(path) as partial:
        _write_rows(source, content, path, partial)


def _write_rows(source: Table, content: list[dict[str, Any]], path: str, partial: Path) -> None:
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".parquet":
        arrow, parquet = import_pyarrow()
        parquet.write_table(arrow.Table.from_pylist(content), str(partial))
        return
    with open(partial, "w", newline="", encoding="utf-8") as file:
        if suffix in (".csv", ".tsv"):
            writer = csv.DictWriter(file, source.columns, delimiter="\t" if suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(content)
        else:
            # Escaped as ASCII, half a character in a column that is no label stays what it is.
            file.writelines(json.dumps(row, ensure_ascii=not _is_text(row)) + "\n" for row in content)


def _open_csv(path: str) -> Table:
    tabs = path.lower().endswith(".tsv")

    def lines() -> Iterator[tuple[int, list[str]]]:
        try:
            with open_text(path, newline="") as file:
                header = file.readline()
                # Spreadsheets write semicolons where the comma is the decimal sign.
                delimiter = "\t" if tabs else max(",;\t", key=header.count)
                reader = csv.reader(itertools.chain([header], file), delimiter=delimiter, strict=True)
                for cells in reader:
                    if cells:
                        yield reader.line_num, cells
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path}: cannot be read as {'TSV' if tabs else 'CSV'} in UTF-8: {error}") from None

    first = next(lines(), None)
    if first is None:
        raise DataError(f"{path}: is empty; the first line must name the columns, such as path,labels")
    columns = tuple(cell.strip() for cell in first[1])

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        content = lines()
        next(content)
        for number, cells in content:
            if len(cells) != len(columns):
                raise DataError(
                    f"{path} line {number}: {len(cells)} cells, the header has {len(columns)} "
                    f"({', '.join(columns[:5])}{', …' if len(columns) > 5 else ''}); quote cells with commas in them"
                )
            yield number, dict(zip(columns, cells, strict=True))

    return Table(path, columns, rows)


def _open_jsonl(path: str) -> Table:
    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        number = 0
        try:
            with open_text(path) as file:
                for number, line in enumerate(file, start=1):
                    if not line.strip():
                        continue
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise ValueError(f"expected an object {{…}}, found {line.strip()[:40]}")
                    yield number, row
        except RecursionError:
            raise DataError(f"{path} line {number}: is nested too deeply to be read as JSON") from None
        except (OSError, ValueError) as error:
            raise DataError(f"{path} line {number}: cannot be read as JSON: {error}") from None

    first = next(rows(), None)
    if first is None:
        raise DataError(f'{path}: is empty; a line is an object such as {{"path": "a.jpg", "labels": ["cat"]}}')
    return Table(path, tuple(first[1]), rows)


def _open_parquet(path: str) -> Table:
    arrow, parquet = import_pyarrow()
    check_regular(path)
    try:
        with parquet.ParquetFile(path) as file:
            columns = tuple(file.schema_arrow.names)
            for number in range(file.metadata.num_row_groups):
                size = file.metadata.row_group(number).total_byte_size
                if not 0 <= size <= MAX_ROW_GROUP:
                    raise DataError(
                        f"{path}: row group {number} unpacks to {size:,} bytes; at most {MAX_ROW_GROUP:,} are read. "
                        "Write it in smaller row groups, and images as files beside it"
                    )
    except (OSError, ValueError, arrow.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {_one_line(error)}") from None

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        number = 0
        try:
            with parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=PARQUET_ROWS):
                    for row in batch.to_pylist():
                        number += 1
                        yield number, row
        except (OSError, ValueError, arrow.ArrowException) as error:
            raise DataError(f"{path} row {number + 1}: cannot be read as Parquet: {_one_line(error)}") from None

    return Table(path, columns, rows)


def _is_text(row: dict[str, Any]) -> bool:
    """Whether all text in a row can be written in UTF-8."""
    return SURROGATE.search(json.dumps(row, ensure_ascii=False)) is None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def import_pyarrow() -> Any:
    """pyarrow and pyarrow.parquet. Raises DataError if they are not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            "Parquet tables need pyarrow, which is not installed; type: pip install 'mldec[parquet]'"
        ) from None
    return pyarrow, pyarrow.parquet


_OPENERS = {
    ".csv": _open_csv,
    ".tsv": _open_csv,
    ".jsonl": _open_jsonl,
    ".ndjson": _open_jsonl,
    ".parquet": _open_parquet,
}
