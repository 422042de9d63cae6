"""Properties: numbers of classes take the names of a file where these fit in one way; else that is asked, or said."""

import re
from pathlib import Path
from typing import Any

import pytest

from mldec.data.index import ImageIndex
from mldec.errors import DataError
from tests.tables import build as build_file
from tests.tables import touch


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    touch(tmp_path, "p1.jpg", "sub/p2.jpg", "p3.jpg", "p4.jpg")
    return tmp_path


def build(folder: Path, content: str, **settings: Any) -> ImageIndex:
    return build_file(folder, "t.csv", content, **settings)


def labels_of(index: ImageIndex) -> dict[str, set[str]]:
    names = index.labels.names
    return {name: {names[c] for c in index.positives[row].tolist()} for row, name in enumerate(index.names())}


def refused(folder: Path, content: str, **settings: Any) -> str:
    with pytest.raises(DataError, match=r"^[^\n]*t\.csv[^\n]*\Z") as caught:
        build(folder, content, **settings)
    return str(caught.value)


def test_numbers_stand_by_value_and_take_their_names(folder: Path) -> None:
    text = "path,labels\np1.jpg,10;2\nsub/p2.jpg,0;1\np3.jpg,\np4.jpg,3\n"
    assert build(folder, text).labels.names == ("0", "1", "2", "3", "10")
    assert build(folder, "path,label\np1.jpg,3.0\np3.jpg,\np4.jpg,10.0\n").labels.names == ("3", "10")
    (folder / "classes.txt").write_text("\n".join(f"class {number}" for number in range(11)))
    index = build(folder, text)
    assert len(index.labels) == 11
    assert labels_of(index)["p1.jpg"] == {"class 2", "class 10"}
    (folder / "own.yaml").write_text("names: {0: a, 1: b, 2: c, 3: d, 10: k}\n")
    with pytest.raises(DataError, match=r"class number 10, and .*own.yaml has 5 names"):
        build(folder, text, labels=str(folder / "own.yaml"))


@pytest.mark.parametrize("beside", [True, False])
def test_numbers_that_may_count_from_0_or_from_1_are_asked_about(folder: Path, beside: bool) -> None:
    (folder / "classes.txt").write_text("a\nb\nc\nd\n")
    more = {} if beside else {"labels": str(folder / "classes.txt")}
    text = "path,labels\np1.jpg,1;2\np3.jpg,3\n"
    message = refused(folder, text, **more)
    assert "holds the class numbers 1 to 3" in message
    offered = re.findall(r"dataset\.first_number=(\d)", message)
    for first, names in zip(offered, ({"b", "c"}, {"a", "b"}), strict=True):
        index = build(folder, text, **more, first_number=int(first))
        assert labels_of(index)["p1.jpg"] == names
        assert len(index.labels) == 4


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("names.txt", "name\ncat\ndog\n", "its first line 'name' may be a header"),
        ("names.txt", "#classes\ncat\ndog\n", "its first line '#classes' may be a header"),
        ("names.csv", "cat,tabby\ndog,beagle\n", "or a number and a name, such as 0,cat; found 'cat,tabby'"),
        ("names.csv", "id,name,color\na,b,c\n", "or a number and a name"),
    ],
)
def test_a_file_of_names_that_may_be_misread_is_refused(folder: Path, name: str, content: str, message: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(DataError) as caught:
        build(folder, "path,labels\np1.jpg,0;1\n", labels=str(folder / name))
    assert message in str(caught.value)
    assert name in str(caught.value)
    (folder / "labels.txt").write_text("name\n1 cat\n2 dogs, #3\n")  # names of no class numbers stand as they are
    index = build(folder, "path,label\np1.jpg,1 cat\np3.jpg,name\n", labels=str(folder / "labels.txt"))
    assert index.labels.names == ("name", "1 cat", "2 dogs, #3")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"labels.txt": "caf\xe9\nhund\n".encode("cp1252")}, "labels.txt beside it is not used: cannot be read"),
        ({"labels.txt": b"a\nb\n"}, "it has 2 names, and a label is 7"),
        ({"data.yaml": b"names: {5: a, 7: b}"}, "the numbers in it have gaps (5, 7)"),
        (
            {"labels.txt": b"a\nb\nc\nd\ne\nf\ng\nh", "classes.txt": b"a\nb\nc\nd\ne\nf\ng\ni"},
            "only one of them can be",
        ),
    ],
)
def test_names_beside_a_table_that_are_not_used_are_a_warning(
    folder: Path, files: dict[str, bytes], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    index = build(folder, "path,labels\np1.jpg,5\np3.jpg,7\n")
    assert index.labels.names == ("5", "7")
    assert message in caplog.text
    assert "labels stay numbers" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "ids", "expected"),
    [
        ("data.yaml", "names: [a, b, c]\n", "1;2", {"b", "c"}),
        ("data.yaml", "names: {1: a, 2: b, 3: c}\n", "1;2", {"a", "b"}),
        ("obj.names", "a\nb\nc\n", "1;2", {"b", "c"}),
        ("names.json", '{"1": "a", "2": "b", "3": "c"}', "1;2", {"a", "b"}),
        ("names.txt", "a\nb\nc\n", "1;3", {"a", "c"}),
        ("names.txt", "a\nb\nc\n", "0;2", {"a", "c"}),
        ("names.txt", "# classes\n#\na\nb\nc\n", "0;2", {"a", "c"}),
        ("names.txt", "1 b\n0 a\n", "0;1", {"a", "b"}),
        ("names.txt", "1 b\n0 a\n", "0", {"a"}),
        ("names.txt", "5 b\n0 a\n", "0;1", None),
        ("names.csv", "attribute_id,attribute_name\n1,a\n2,b\n3,c\n", "1;2", {"a", "b"}),
        ("data.yaml", "names: {1: a, 3: b}\n", "1", None),
        ("names.json", '["a", "b", "c"]', "1;2", None),
        ("names.json", '{"1": "a", "2": "b", "3": "c"}', "0;2", None),
        ("names.txt", "a\nb\nc\n", "1;4", None),
    ],
)
def test_where_numbers_and_names_fit_in_one_way_they_are_read(
    folder: Path, name: str, content: str, ids: str, expected: set[str] | None
) -> None:
    (folder / name).write_text(content)
    text, labels = f"path,labels\np1.jpg,{ids}\n", str(folder / name)
    if expected is None:
        assert "holds the class number" in refused(folder, text, labels=labels)
    else:
        assert labels_of(build(folder, text, labels=labels))["p1.jpg"] == expected
