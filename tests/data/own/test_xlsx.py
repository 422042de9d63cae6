"""Properties: a workbook is read as the table that it shows."""

import zipfile
from pathlib import Path

import pytest

from mldec.data.own import xlsx
from mldec.data.table import TableConfig, read_table
from mldec.data.table_file import open_table_file, write_table_file
from mldec.errors import DataError


def test_a_workbook_is_a_table(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    sheet = book.create_sheet("images")
    for row in (["File Name", "cat", "dog", None], [], ["a.jpg", 1, 0.0], ["b.jpg", None, True], [None, None]):
        sheet.append(row)
    path = tmp_path / "t.xlsx"
    book.save(path)
    index = read_table(TableConfig(name="table", train=str(path)), "train")
    assert index.labels.names == ("cat", "dog")
    assert index.targets([0, 1]).tolist() == [[1, 0], [-1, 1]]
    write_table_file(open_table_file(str(path)), [1], str(tmp_path / "part.xlsx"))
    part = read_table(TableConfig(name="table", train=str(tmp_path / "part.xlsx")), "train")
    assert list(part.names()) == ["b.jpg"]


def test_what_is_no_workbook_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.xlsx"
    path.write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"t\.xlsx: cannot be read as an Excel workbook|needs? openpyxl"):
        open_table_file(str(path))
    pytest.importorskip("openpyxl")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/sheet1.xml", bytes(2**20))
    monkeypatch.setattr(xlsx, "MAX_UNPACKED", 2**19)
    with pytest.raises(DataError, match="unpacks to 1,048,576 bytes"):
        open_table_file(str(path))
