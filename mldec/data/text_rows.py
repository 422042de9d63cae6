"""Text files as rows: lines, and the cells of CSV files of any size."""

from __future__ import annotations

import csv
import itertools
import logging
import os
import time
from collections.abc import Iterator

from mldec.errors import DataError
from mldec.untrusted import MAX_LIST, open_regular, open_text

logger = logging.getLogger(__name__)

LOG_SECONDS = 15.0  # between two lines of progress


def read_lines(path: str) -> list[str]:
    """The lines of a text file in UTF-8, without the empty ones and without spaces at their ends.

    Raises DataError if it cannot be read, or is larger than MAX_LIST; names it.
    """
    try:
        open_regular(path, most=MAX_LIST).close()
        with open_text(path) as file:
            return [line.strip() for line in file if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None


def csv_rows(path: str, delimiter: str | None = ",") -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of each row that is not empty, the header included; logs its progress now and then.

    Args:
        delimiter: between cells; None: whichever of comma, semicolon and tab the first line has most of. Spreadsheets
            write semicolons where the comma is the decimal sign.

    Raises:
        DataError: the file cannot be read, is not UTF-8, or has a quoted cell without an end; names it.
    """
    logged = time.monotonic()
    try:
        with open_text(path, newline="") as file:
            header = file.readline()
            chosen = delimiter or max(",;\t", key=header.count)
            reader = csv.reader(itertools.chain([header], file), delimiter=chosen, strict=True)
            for cells in reader:
                if cells:
                    yield reader.line_num, cells
                if reader.line_num % 2**16 == 0 and time.monotonic() - logged >= LOG_SECONDS:
                    logged = time.monotonic()
                    logger.info("reading %s: %.0f %%", path, 100 * file.done / os.path.getsize(path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        kind = "TSV" if delimiter == "\t" else "CSV"
        raise DataError(f"{path}: cannot be read as {kind} in UTF-8: {error}") from None


def csv_columns(path: str, names: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells of the columns `names`) of each row below the header. Raises DataError as `csv_rows` does,
    for a header without one of them, and for a row without one of their cells."""
    rows = csv_rows(path)
    _, header = next(rows, (1, []))
    if not set(names) <= set(header):
        found = ",".join(header)[:80] or "nothing"
        raise DataError(f"{path}: its first line must name {', '.join(names)}; found {found}")
    columns = [header.index(name) for name in names]
    for line, cells in rows:
        if len(cells) <= max(columns):
            raise DataError(f"{path} line {line}: {len(cells)} cells, expected {len(header)}")
        yield line, [cells[column] for column in columns]
