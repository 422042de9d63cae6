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


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('<c r="A2"', '<c r="C2"'),  # behind it comes B2
        ('<c r="B2"', '<c r="A2"'),
        ('<row r="3"', '<row r="2"'),
        ('<row r="3"', '<row r="1"'),
    ],
)
def test_cells_out_of_order_are_not_lost(tmp_path: Path, old: str, new: str) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (["path", "labels", "note"], ["a.jpg", "cat"], ["b.jpg", "dog"]):
        book.active.append(row)
    book.save(tmp_path / "good.xlsx")
    path = tmp_path / "t.xlsx"
    with zipfile.ZipFile(tmp_path / "good.xlsx") as good, zipfile.ZipFile(path, "w") as changed:
        for name in good.namelist():
            text = good.read(name)
            if name.endswith("sheet1.xml"):
                assert old.encode() in text
                text = text.replace(old.encode(), new.encode())
            changed.writestr(name, text)
    assert len(list(open_table_file(str(tmp_path / "good.xlsx")).rows())) == 2
    with pytest.raises(DataError, match=r"t\.xlsx line \d: rows or cells are there twice, or not in the order"):
        list(open_table_file(str(path)).rows())


def test_empty_rows_and_cells_cost_no_more_than_those_that_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append(["path", "labels"])
    for row in range(100):
        sheet.append([f"{row}.jpg", "cat"])
    sheet.cell(1000, 1).font = openpyxl.styles.Font(bold=True)  # Excel keeps cells that are formatted
    path = tmp_path / "t.xlsx"
    book.save(path)
    cells = 101 * 2 + 1 + 1000 * 8
    monkeypatch.setattr(xlsx, "MAX_CELLS", cells)
    table = open_table_file(str(path))
    assert [line for line, _ in table.rows()] == list(range(2, 102))
    monkeypatch.setattr(xlsx, "MAX_CELLS", cells - 1)
    with pytest.raises(DataError, match="line 1000: more than 8,202 cells, with the empty ones; save it as CSV"):
        list(table.rows())
    monkeypatch.setattr(xlsx, "MAX_ROWS", 999)
    with pytest.raises(DataError, match="more than 999 rows"):
        list(table.rows())


def test_the_size_that_a_sheet_states_is_not_used(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (["path", "cat", "dog"], ["a.jpg", 1, 0], ["b.jpg", 0, 1]):
        book.active.append(row)
    book.save(tmp_path / "whole.xlsx")
    for stated in ("A1", "A1:XFD1048576"):
        with (
            zipfile.ZipFile(tmp_path / "whole.xlsx") as whole,
            zipfile.ZipFile(tmp_path / "t.xlsx", "w") as changed,
        ):
            for name in whole.namelist():
                changed.writestr(name, whole.read(name).replace(b'ref="A1:C3"', f'ref="{stated}"'.encode()))
        table = open_table_file(str(tmp_path / "t.xlsx"))
        assert [row for _, row in table.rows()] == [
            {"path": "a.jpg", "cat": "1", "dog": "0"},
            {"path": "b.jpg", "cat": "0", "dog": "1"},
        ]


def test_text_that_looks_like_a_formula_is_written_as_text(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    texts = ['=HYPERLINK("http://example.org","x")', "=1+1", "#N/A", "007", ""]
    names = ["path", "=A1", "c", "d", "e"]
    xlsx.write_xlsx(tmp_path / "t.xlsx", names, [texts])
    header, row = openpyxl.load_workbook(tmp_path / "t.xlsx").active.iter_rows()
    assert [cell.value for cell in header] == names
    assert [cell.value or "" for cell in row] == texts
    assert {cell.data_type for cell in (*header, *row[:4])} == {"s"}
