"""Properties: every kind of table says the same; every mistake names its file and line."""

import json
from pathlib import Path

import pytest

from mldec.data.table import TableConfig
from mldec.data.table_file import open_table_file, write_table_file
from mldec.errors import DataError
from tests.tables import build, touch

ROWS = [("a.jpg", ["cat", "dog"]), ("sub/b ü.jpg", []), ("c,d.jpg", ["bird"])]
TARGETS = [[0, 1, 1], [0, 0, 0], [1, 0, 0]]  # bird, cat, dog


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    touch(tmp_path, *(name for name, _ in ROWS))
    return tmp_path


LISTS = {
    "semicolons.csv": 'path,labels\na.jpg,cat;dog\nsub/b ü.jpg,\n"c,d.jpg",bird\n',
    "excel.csv": '\ufeffpath;labels\r\na.jpg;"cat; dog ;cat"\r\n"sub/b ü.jpg";\r\nc,d.jpg;bird\r\n',
    "json.csv": 'File_Name,note,Tags\na.jpg,x,"[""dog"", ""cat""]"\nsub/b ü.jpg,"two\nlines",[]\n"c,d.jpg",,bird\n',
    "tabs.tsv": "image\tlabel\n./a.jpg\tcat;dog\nsub\\b ü.jpg\t\nc,d.jpg\tbird\n",
    "lines.jsonl": "".join(json.dumps({"path": name, "labels": labels}) + "\n" for name, labels in ROWS) + "\n",
    "text.ndjson": "".join(
        json.dumps({"labels": ";".join(labels) or None, "img": name}, ensure_ascii=False) + "\n"
        for name, labels in ROWS
    ),
}
COLUMNS = {
    "columns.csv": 'path,bird,cat,dog\na.jpg,0,1,1\nsub/b ü.jpg,0,0.0,false\n"c,d.jpg",1,-1,\n',
    "columns.jsonl": '{"path": "a.jpg", "bird": 0, "cat": 1, "dog": true}\n'
    '{"path": "sub/b ü.jpg", "bird": 0, "cat": 0.0, "dog": false}\n'
    '{"path": "c,d.jpg", "bird": 1, "cat": -1}\n',
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_labels(folder: Path, name: str) -> None:
    index = build(folder, name, LISTS[name])
    assert index.labels.names == ("bird", "cat", "dog")
    assert list(index.names()) == [name for name, _ in ROWS]
    assert index.targets(range(3)).tolist() == TARGETS
    assert index.root == str(folder)


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_for_each_class_has_three_states(folder: Path, name: str) -> None:
    index = build(folder, name, COLUMNS[name])
    assert index.labels.names == ("bird", "cat", "dog")
    assert index.targets(range(3)).tolist() == [*TARGETS[:2], [1, -1, -1]]


@pytest.mark.parametrize("columns", [False, True])
def test_parquet(folder: Path, columns: bool) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"path": name, "labels": labels} for name, labels in ROWS]
    if columns:
        rows = [json.loads(line) for line in COLUMNS["columns.jsonl"].splitlines()]
        for row in rows:
            row.update({key: None if value is None else float(value) for key, value in row.items() if key != "path"})
    parquet.write_table(arrow.Table.from_pylist(rows), folder / "t.parquet")
    expected = [*TARGETS[:2], [1, -1, -1]] if columns else TARGETS
    assert build(folder, "t.parquet").targets(range(3)).tolist() == expected
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        build(folder, "broken.parquet", b"PAR1 no")


def test_columns_and_separators_are_found_or_said(folder: Path) -> None:
    content = "where|what|who\na.jpg|cat,dog|me\n".replace("|", "\t")
    index = build(folder, "t.tsv", content, path_column="where", label_column="what", separator=",")
    assert index.labels.names == ("cat", "dog")
    content = "path,split,cat,dog\na.jpg,train,1,0\n"
    assert build(folder, "t.csv", content, ignore=("split",)).labels.names == ("cat", "dog")
    unknown = build(
        folder, "u.csv", "path,labels\na.jpg,cat\nc,dog\n".replace("\nc,", "\nsub/b ü.jpg,"), unlisted="unknown"
    )
    assert unknown.targets([0, 1]).tolist() == [[1, -1], [-1, 1]]
    assert build(folder, "n.jsonl", '{"path": "a.jpg", "label": 3}').labels.names == ("3",)


def test_other_splits_have_the_labels_of_train(folder: Path) -> None:
    settings = {"val": str(folder / "val.csv"), "train": str(folder / "train.csv")}
    (folder / "train.csv").write_text("path,labels\na.jpg,cat;dog\n")
    index = build(folder, "val.csv", "path,labels\nsub/b ü.jpg,dog\n", split="val", **settings)
    assert index.labels.names == ("cat", "dog")
    assert index.targets([0]).tolist() == [[0, 1]]
    with pytest.raises(DataError, match=r"val.csv line 3: no label 'dgo'; did you mean dog\? \(allowed: cat, dog\)"):
        build(folder, "val.csv", "path,labels\nsub/b ü.jpg,dog\na.jpg,cat;dgo\n", split="val", **settings)
    (folder / "names.txt").write_text("dog\nfish\ncat\n")
    index = build(folder, "val.csv", split="train", labels=str(folder / "names.txt"), **settings)
    assert index.targets([0]).tolist() == [[1, 0, 1]]
    (folder / "train.csv").write_text("path,cat,dog\na.jpg,1,0\n")
    index = build(folder, "val.csv", "path,dog,cat\na.jpg,1,0\n", split="val", **settings)
    assert index.targets([0]).tolist() == [[0, 1]]
    with pytest.raises(DataError, match=r"val.csv: no column for 1 of the 2 classes \(dog\)"):
        build(folder, "val.csv", "path,cat\na.jpg,1\n", split="val", **settings)
    with pytest.raises(DataError, match=r"column dogs is none of the 2 classes; did you mean dog.*ignore=\[dogs\]"):
        build(folder, "val.csv", "path,dog,cat,dogs\na.jpg,1,0,1\n", split="val", **settings)


def test_root_is_where_images_lie(folder: Path, tmp_path: Path) -> None:
    touch(tmp_path, "images/x.jpg")
    content = f"path,labels\n{tmp_path}/images/x.jpg,cat\n"
    index = build(folder, "t.csv", content, root=str(tmp_path / "images"))
    assert index.path(0) == str(tmp_path / "images" / "x.jpg")
    assert list(index.names()) == ["x.jpg"]
    with pytest.raises(DataError, match=r"line 2: /etc/passwd lies outside of .*dataset.root=FOLDER"):
        build(folder, "t.csv", "path,labels\n/etc/passwd,cat\n")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.ods", "x", r"t.ods: is no table \(.csv, .tsv, .txt, .jsonl, .ndjson, .xlsx, .parquet\)"),
        ("t.csv", "", "is empty; the first line must name the columns"),
        ("t.csv", "path,labels\n", "no label"),
        ("t.csv", "path,cat\n", "no image"),
        ("t.csv", "path,cat,cat\na.jpg,1,1\n", "found more than once: cat"),
        ("t.csv", "who,what\na.jpg,cat\n", r"no column of paths among who, what;.*dataset.path_column=NAME"),
        ("t.csv", "path\na.jpg\n", "no column of labels beside path"),
        ("t.csv", "path,labels\na.jpg,cat,dog\n", r"line 2: 3 cells, the header has 2 \(path, labels\)"),
        ("t.csv", "path,labels\n,cat\n", "line 2: no path"),
        ("t.csv", "path,labels\n../z.jpg,cat\n", r"line 2: ../z.jpg may lie outside"),
        ("t.csv", "path,labels\nsub/../../z.jpg,cat\n", "may lie outside"),
        ("t.csv", 'path,labels\na.jpg,"[cat"\n', "line 2: .*no JSON list"),
        ("t.csv", 'path,labels\na.jpg,"[1.5]"\n', "line 2: expected labels as text or a list of texts"),
        ("t.csv", "path,cat\na.jpg,2\n", r"line 2: column cat holds '2'; allowed are 1 present, 0 absent, -1"),
        ("t.csv", "path,cat,who\na.jpg,1,me\n", r"column who holds 'me'.*dataset.ignore=\[who\]"),
        ("t.csv", "path,labels\na.jpg,cat|dog\nsub/b ü.jpg,dog;bird\n", r"dataset.separator=semicolon or dataset.sep"),
        ("t.csv", b"path,labels\na.jpg,\xff\xfe\n", "cannot be read as CSV in UTF-8"),
        ("t.csv", 'path,labels\n"a.jpg,cat\n', "cannot be read as CSV"),
        ("t.csv", "path,labels\nabsent.jpg,cat\n", "1 of the 1 images that the annotations list are missing"),
        ("t.jsonl", '{"path": "a.jpg"\n', "line 1: cannot be read as JSON"),
        ("t.jsonl", '{"path": "a.jpg", "labels": []}\n[1]\n', "line 2: cannot be read as JSON: expected an object"),
        ("t.jsonl", '{"path": 3, "labels": ["cat"]}\n', "line 1: no path"),
        ("t.jsonl", '{"path": "a.jpg", "labels": ["cat"]}\n{"path": "c.jpg", "label": ["cat"]}\n', "line 2: no labels"),
        ("t.jsonl", '{"path": "a.jpg", "cat": 1}\n{"path": "c.jpg", "dog": 1}\n', "line 2: dog is none of the columns"),
        ("t.jsonl", "\n", "is empty"),
    ],
)
def test_mistakes_are_one_line_that_names_the_place(
    folder: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        build(folder, name, content)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value) or "images" in str(caught.value)


def test_settings_that_name_nothing(folder: Path) -> None:
    content = "path,labels\na.jpg,cat\n"
    with pytest.raises(DataError, match=r"dataset.path_column=pth: .* has no such column; did you mean path"):
        build(folder, "t.csv", content, path_column="pth")
    with pytest.raises(DataError, match=r"dataset.label_column=tags"):
        build(folder, "t.csv", content, label_column="tags")
    with pytest.raises(DataError, match=r"dataset.val=.*none.csv: no such file. Found in .*: .*a.jpg"):
        build(folder, "t.csv", content, split="val", val=str(folder / "none.csv"))
    with pytest.raises(DataError, match=r"dataset.labels=.*no such file"):
        build(folder, "t.csv", content, labels=str(folder / "none.txt"))
    (folder / "names.txt").write_text("cat\ncat\n")
    with pytest.raises(DataError, match=r"names.txt: label names must differ; found more than once: cat"):
        build(folder, "t.csv", content, labels=str(folder / "names.txt"))
    with pytest.raises(ValueError, match="separator=''"):
        TableConfig(name="table", train="x", separator="")


@pytest.mark.parametrize("name", ["semicolons.csv", "json.csv", "tabs.tsv", "lines.jsonl"])
def test_part_of_a_table_is_a_table(folder: Path, name: str) -> None:
    build(folder, name, LISTS[name])
    part = folder / ("part" + Path(name).suffix)
    write_table_file(open_table_file(str(folder / name)), [0, 2], str(part))
    assert [row for _, row in open_table_file(str(part)).rows()] == [
        row for number, (_, row) in enumerate(open_table_file(str(folder / name)).rows()) if number != 1
    ]
    assert not list(folder.glob("*.partial"))


def test_parquet_keeps_its_types_in_parts(folder: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"path": name, "labels": labels, "score": 0.5} for name, labels in ROWS]
    parquet.write_table(arrow.Table.from_pylist(rows), folder / "t.parquet")
    write_table_file(open_table_file(str(folder / "t.parquet")), [1, 2], str(folder / "p.parquet"))
    assert [row for _, row in open_table_file(str(folder / "p.parquet")).rows()] == rows[1:]
