"""The first sheet of an Excel workbook that holds something, as rows of text."""

from __future__ import annotations

import itertools
import operator
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mldec.data.own.text_table import is_image_path
from mldec.errors import DataError, printable_name, shortened
from mldec.untrusted import check_regular

MAX_UNPACKED = 2**30  # bytes of all parts of a workbook
MAX_ROWS = 2**20  # of a sheet, as Excel allows
MAX_CELLS = MAX_UNPACKED // 8  # with the empty ones before the last of each row; one that is written takes more bytes
_EMPTY_ROW = 8  # cells that a row costs besides its own

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
        cells = 0
        try:
            for sheet in book.worksheets:
                rows = _Rows(path, sheet, cells)
                yield sheet.title, iter(rows)
                cells = rows.cells
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
    """Write a workbook of one sheet, all cells as text: `=1+1` is no formula. Raises DataError without openpyxl."""
    openpyxl = _import_openpyxl()
    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet()
    for texts in itertools.chain([columns], rows):
        cells = [openpyxl.cell.WriteOnlyCell(sheet, text) for text in texts]
        for cell in cells:
            cell.data_type = "s"
        sheet.append(cells)
    book.save(path)


class _Rows:
    """The rows of a sheet that hold something, as (line, cells) without empty cells at their end.

    The size that a sheet states may be wrong, so it is not used: rows end with the last cell that is written.

    Attributes:
        cells: how many were read by now of this sheet and those before, MAX_CELLS at most.
    """

    def __init__(self, path: str, sheet: Any, cells: int) -> None:
        self.path, self.sheet, self.cells = path, sheet, cells

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        """Raises DataError for what cannot be read, and for more rows or cells than are allowed."""
        before = 0
        try:
            for line, written in self._written():
                columns = [cell["column"] for cell in written]
                if line <= before or any(map(operator.ge, columns, columns[1:])):
                    raise DataError(
                        f"{self.path} line {line}: rows or cells are there twice, or not in the order of their "
                        "numbers; open the file in a spreadsheet program and save it again, or save it as CSV"
                    )
                if line > MAX_ROWS:
                    raise DataError(f"{self.path}: a sheet has more than {MAX_ROWS:,} rows, which Excel does not allow")
                self.cells += columns[-1] if columns else 0
                self.cells += (line - before) * _EMPTY_ROW
                before = line
                if self.cells > MAX_CELLS:
                    raise DataError(
                        f"{self.path} line {line}: more than {MAX_CELLS:,} cells, with the empty ones; save it as CSV"
                    )
                texts = {cell["column"]: _text(cell["value"]) for cell in written}
                end = max((column for column, text in texts.items() if text), default=0)
                if end:
                    yield line, [texts.get(column, "") for column in range(1, end + 1)]
        except (ValueError, KeyError, TypeError, SyntaxError, OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{self.path}: cannot be read as an Excel workbook: {shortened(error, 200)}") from None

    def _written(self) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """(line, cells) of each row as it is written; openpyxl's `iter_rows` leaves out what is not in order."""
        from openpyxl.worksheet._reader import WorkSheetParser

        book = self.sheet.parent
        with self.sheet._get_source() as source:
            yield from WorkSheetParser(
                source,
                self.sheet._shared_strings,
                data_only=True,
                epoch=book.epoch,
                date_formats=book._date_formats,
                timedelta_formats=book._timedelta_formats,
            ).parse()


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
