"""The first sheet of an Excel workbook that holds something, as rows of text."""

from __future__ import annotations

import itertools
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mldec.data.own.text_table import is_image_path
from mldec.errors import DataError, printable_name, shortened
from mldec.untrusted import check_regular

MAX_UNPACKED = 2**30  # bytes of all parts of a workbook; a sheet has at most 1,048,576 rows
MAX_ROWS = 2**20  # of a sheet, as Excel allows; openpyxl knows no more than 18,278 columns
MAX_CELLS = 2**26  # of a sheet, empty ones before the last of their row among them

Content = Callable[[], Iterator[tuple[int, list[str]]]]


def open_xlsx(path: str) -> tuple[tuple[str, ...], Content, tuple[str, ...]]:
    """Names of the columns, the rows as (line, cells), and what was decided.

    Raises DataError if openpyxl is not installed, or the file is no workbook, unpacks to too much, or is empty.
    """
    openpyxl = _import_openpyxl()
    _check_size(path)

    def sheets() -> Iterator[tuple[str, Iterator[tuple[int, list[str]]]]]:
        try:
            book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        except (OSError, ValueError, KeyError, TypeError, SyntaxError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: cannot be read as an Excel workbook: {shortened(error, 200)}") from None
        try:
            for sheet in book.worksheets:
                yield sheet.title, _rows(path, sheet)
        finally:
            book.close()

    first = next(((title, row) for title, rows in sheets() if (row := next(rows, None))), None)
    if first is None:
        raise DataError(f"{path}: is empty; the first row must name the columns, such as path and labels")
    title, (_, cells) = first
    count, header = sum(1 for _ in sheets()), not any(map(is_image_path, cells))
    decisions = [f"sheet {printable_name(title)}, the first of {count}"] if count > 1 else []
    if header:
        columns = [cell or f"Unnamed: {number}" for number, cell in enumerate(cells)]
    else:
        columns = [f"column_{number}" for number in range(1, len(cells) + 1)]
        decisions.append("no header line, as the first one names an image")

    def content() -> Iterator[tuple[int, list[str]]]:
        for name, rows in sheets():
            if name != title:
                continue
            for line, cells in itertools.islice(rows, int(header), None):
                if len(cells) > len(columns):
                    raise DataError(f"{path} line {line}: {len(cells)} cells, the header has {len(columns)}")
                yield line, cells + [""] * (len(columns) - len(cells))
            return

    return tuple(columns), content, tuple(decisions)


def write_xlsx(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a workbook of one sheet; all cells are text, also what looks like a formula.

    Raises DataError if openpyxl is not installed.
    """
    book = _import_openpyxl().Workbook(write_only=True)
    sheet = book.create_sheet()
    for cells in itertools.chain([columns], rows):
        sheet.append([_text_cell(sheet, text) for text in cells])
    book.save(path)


def _text_cell(sheet: Any, text: str) -> Any:
    from openpyxl.cell import WriteOnlyCell

    cell = WriteOnlyCell(sheet, text)
    cell.data_type = "s"
    return cell


def _rows(path: str, sheet: Any) -> Iterator[tuple[int, list[str]]]:
    """The rows that hold something, without empty cells at their end."""
    count = 0
    sheet.reset_dimensions()  # which the file states, and which may be wrong
    try:
        for line, values in enumerate(sheet.iter_rows(values_only=True, max_row=MAX_ROWS), start=1):
            count += len(values)
            if count > MAX_CELLS:
                raise DataError(f"{path}: more than {MAX_CELLS:,} cells; save it as CSV")
            cells = [_text(value) for value in values]
            while cells and not cells[-1]:
                cells.pop()
            if cells:
                yield line, cells
    except (ValueError, KeyError, TypeError, SyntaxError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read as an Excel workbook: {shortened(error, 200)}") from None


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _check_size(path: str) -> None:
    try:
        check_regular(path)
        with zipfile.ZipFile(path) as archive:
            size = sum(part.file_size for part in archive.infolist())
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read as an Excel workbook: {shortened(error, 200)}") from None
    if size > MAX_UNPACKED:
        raise DataError(f"{path}: unpacks to {size:,} bytes; at most {MAX_UNPACKED:,} are read. Save it as CSV")


def _import_openpyxl() -> Any:
    try:
        import openpyxl
    except ImportError:
        raise DataError(
            "Excel workbooks need openpyxl, which is not installed; use: pip install 'mldec[xlsx]', or save it as CSV"
        ) from None
    return openpyxl
