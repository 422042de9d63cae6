"""Property: a dataset from a stranger, whatever its files are and say, is read or refused in one line, soon."""

import inspect
import io
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mldec.data.coco import CocoJsonConfig, build_coco_json, read_coco_json
from mldec.data.dataset import DatasetConfig, FilesConfig
from mldec.data.folder import FolderConfig, build_folder
from mldec.data.image import MAX_BYTES, MAX_SCANS, cut_center, decode, read_size
from mldec.data.index import ImageIndex
from mldec.data.own.documents import read_xml
from mldec.data.statistics import draw_statistics, summarize
from mldec.data.table import TableConfig, build_table, read_table
from mldec.data.table_file import open_table_file
from mldec.errors import DataError, printable, shortened, suggest
from mldec.labels import LabelSpace


def table(path: Path) -> ImageIndex:
    return read_table(TableConfig(name="table", train=str(path)), "train")


def refused(read: Callable[[], Any], *words: str) -> str:
    """The one line with which something is refused within seconds."""
    began = time.process_time()
    with pytest.raises(DataError) as caught:
        read()
    assert time.process_time() - began < 5
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 2000
    for word in words:
        assert word in message
    message.encode()
    return message


# Files --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet", ".json"])
def test_annotations_that_are_no_text_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"

    def read() -> object:
        return read_coco_json(str(path), str(tmp_path)) if suffix == ".json" else table(path)

    os.mkfifo(path)
    refused(read, str(path), "not a regular file")
    path.unlink()
    path.symlink_to("/dev/zero")
    refused(read, str(path), "not a regular file")
    path.unlink()
    path.mkdir()
    refused(read, str(path), "is a folder")
    path.rmdir()
    path.write_bytes(bytes(range(256)) * 50)
    refused(read, str(path))
    path.write_bytes(b"path,labels\n")
    os.truncate(path, 5 * 2**30)
    refused(read, str(path))
    path.write_bytes("path,labels\na.jpg,éÿ\n".encode("latin-1"))  # in hardly any language
    refused(read, str(path))


def test_a_cell_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('path,labels\na.jpg,"' + "x" * 10**6)
    refused(lambda: table(tmp_path / "a.csv"), "a.csv")


def test_parquet_that_is_broken_within_is_named(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = {"path": [f"{i}.jpg" for i in range(3000)], "labels": ["cat"] * 3000}
    parquet.write_table(arrow.table(rows), tmp_path / "a.parquet", compression="snappy")
    whole = (tmp_path / "a.parquet").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(40):
        spoilt = bytearray(whole)
        for place in rng.integers(4, len(whole) // 2, 60):
            spoilt[place] ^= 255
        (tmp_path / "a.parquet").write_bytes(spoilt)
        try:
            table(tmp_path / "a.parquet")
        except DataError as error:
            assert "a.parquet" in str(error)  # noqa: PT017


def test_a_file_of_labels_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("path,labels\na.jpg,cat\n")
    os.mkfifo(tmp_path / "labels.txt")
    config = FilesConfig(name="x", train=str(tmp_path / "a.csv"), labels=str(tmp_path / "labels.txt"))
    refused(config.named_labels, "dataset.labels=", "not a regular file")


def test_xml_has_no_entities_in_any_encoding(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE a [<!ENTITY b "lol">]><a>&b;</a>'
    for encoding in ("utf-8", "utf-16", "utf-16-le", "cp037"):
        text = bomb.encode(encoding)
        if encoding == "cp037":
            text = b'<?xml version="1.0" encoding="cp037"?>' + text
        (tmp_path / "a.xml").write_bytes(text)
        refused(lambda: read_xml(str(tmp_path / "a.xml")), "a.xml")
    (tmp_path / "a.xml").write_bytes('<?xml version="1.0" encoding="iso-8859-1"?><a>é</a>'.encode("latin-1"))
    assert read_xml(str(tmp_path / "a.xml")).text == "é"
    (tmp_path / "a.xml").write_text("<a>" * 100_000)
    refused(lambda: read_xml(str(tmp_path / "a.xml")), "a.xml")


# Names --------------------------------------------------------------------------------------------------------------


def test_a_file_name_that_is_no_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.jpg").touch()
    config = FolderConfig(name="folder", root=str(tmp_path))
    assert len(build_folder(config, split="train")) == 1
    os.close(os.open(os.fsencode(tmp_path) + b"/cat/caf\xe9.jpg", os.O_CREAT))
    refused(lambda: build_folder(config, split="train"), str(tmp_path), "caf", "rename")
    os.unlink(os.fsencode(tmp_path) + b"/cat/caf\xe9.jpg")
    os.mkdir(os.fsencode(tmp_path) + b"/d\xe9")
    refused(lambda: build_folder(config, split="train"), str(tmp_path), "label 'd", "not valid UTF-8")


@pytest.mark.parametrize(
    "row",
    [
        {"path": "a.jpg", "labels": ["\ud83d"]},
        {"path": "a.jpg", "labels": "cat;\udc00"},
        {"path": "\ud83d.jpg", "labels": ["cat"]},
        {"path": "a\0.jpg", "labels": ["cat"]},
        {"path": "a.jpg", "\ud83d": 1},
        {"path": "a.jpg", "labels": [["cat"]]},
        {"path": "a.jpg", "labels": {"cat": 1}},
        {"path": ["a.jpg"], "labels": ["cat"]},
        {"path": "a.jpg", "cat": [1], "dog": 1},
    ],
)
def test_half_characters_and_other_types_are_named(tmp_path: Path, row: dict[str, Any]) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    refused(lambda: table(tmp_path / "a.jsonl"), "a.jsonl")


@pytest.mark.parametrize(
    "line",
    ["[" * 100_000, '{"path": "a.jpg", "labels": ' + "[" * 100_000, '{"path": "a.jpg", "labels": 1' + "0" * 5000],
)
def test_depth_and_length_of_json_are_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.jsonl").write_text(line + "\n")
    refused(lambda: table(tmp_path / "a.jsonl"), "a.jsonl", "line 1")
    (tmp_path / "a.csv").write_text('path,labels\na.jpg,"' + line.replace('"', '""')[:100_000] + '"\n')
    refused(lambda: table(tmp_path / "a.csv"), "a.csv")


def test_depth_just_below_the_limit_is_refused_too(tmp_path: Path) -> None:
    """What can be parsed may be too deep to be shown or hashed."""
    for depth in range(900, 1000, 7):
        value = "[" * depth + "]" * depth
        (tmp_path / "a.jsonl").write_text(f'{{"path": "a.jpg", "labels": {value}}}\n')
        refused(lambda: table(tmp_path / "a.jsonl"), "a.jsonl")
        (tmp_path / "b.jsonl").write_text(f'{{"path": "a.jpg", "cat": {value}}}\n')
        refused(lambda: table(tmp_path / "b.jsonl"), "b.jsonl")


def test_folders_deeper_than_the_stack_are_read(tmp_path: Path) -> None:
    """A path has room for 2,000 levels, Python's stack for 1,000; fewer of both here, since pytest removes them."""
    folder = tmp_path.joinpath(*["d"] * 300)
    folder.mkdir(parents=True)
    (folder / "x.jpg").touch()
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 150)
    try:
        index = build_folder(FolderConfig(name="folder", root=str(tmp_path)), split="train")
    finally:
        sys.setrecursionlimit(before)
    assert list(index.names()) == ["d/" * 300 + "x.jpg"]


coco_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats()
    | st.sampled_from(["a.jpg", "cat", "\ud83d", "../x", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "name", "file_name"]), inner),
    max_leaves=4,
)


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_coco_json_with_any_value_anywhere_is_read_or_named(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    part = data.draw(st.sampled_from(list(content)))
    if data.draw(st.booleans()):
        content[part] = data.draw(coco_values)
    else:
        entry = data.draw(st.sampled_from(content[part]))
        entry[data.draw(st.sampled_from(list(entry)))] = data.draw(coco_values)
    folder = tmp_path_factory.mktemp("coco")
    (folder / "a.json").write_text(json.dumps(content))
    try:
        read_coco_json(
            str(folder / "a.json"), str(folder), labels=data.draw(st.sampled_from([None, LabelSpace(["cat"])]))
        )
    except DataError as error:
        assert "a.json" in str(error)  # noqa: PT017


def test_what_no_terminal_takes_is_shown_as_its_code() -> None:
    assert printable("caf\udce9 \ud83d ü") == "caf\\xe9 \\ud83d ü"
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert len(shortened(deep)) < 100
    assert len(shortened("x" * 1000)) <= 100


# Many -----------------------------------------------------------------------------------------------------------------


def test_sixty_thousand_names_take_a_moment(tmp_path: Path) -> None:
    names = [f"c{i}" for i in range(60_000)]
    twice = [*names, "c7"]
    refused(lambda: LabelSpace(twice), "c7")
    (tmp_path / "twice.csv").write_text(f"path,{','.join(twice)}\n")
    refused(lambda: open_table_file(str(tmp_path / "twice.csv")), "twice.csv", "c7")
    (tmp_path / "a.csv").write_text(f"path,{','.join(names)}\na.jpg{',0' * 17},1{',0' * 59_982}\n")
    began = time.process_time()
    index = table(tmp_path / "a.csv")
    assert index.positives[0].tolist() == [17]
    assert len(index.with_unknown(names[:30_000]).labels) == 60_000
    assert time.process_time() - began < 8
    (tmp_path / "labels.txt").write_text("\n".join([*names[:-1], "other"]))
    config = TableConfig(name="table", train=str(tmp_path / "a.csv"), labels=str(tmp_path / "labels.txt"))
    refused(lambda: read_table(config, "train"), "no column for 1 of the 60000 classes (other)")
    assert suggest("c1x", names).startswith("did you mean c1")


def test_figures_of_many_labels_are_drawn_in_a_moment(tmp_path: Path) -> None:
    labels = LabelSpace([f"c{i}" for i in range(40_000)])
    index = ImageIndex.build([("a.jpg", list(range(20_000)), [], [])], root=str(tmp_path), labels=labels)
    began = time.process_time()
    draw_statistics(summarize(index), tmp_path / "a.png", title="many")
    assert time.process_time() - began < 15
    assert (tmp_path / "a.png").stat().st_size > 1000


# Images -----------------------------------------------------------------------------------------------------------


def test_sizes_of_what_the_network_sees_are_bounded() -> None:
    from mldec.config import ConfigError, _dataclass
    from mldec.data.cars import CarsConfig
    from mldec.data.digits import DigitsConfig

    for cls in (DatasetConfig, CocoJsonConfig, CarsConfig, DigitsConfig):
        for setting in ({"image_size": 10**6}, {"crop": 1e-6}):
            problems: list[str] = []
            _dataclass({"name": "x", "root": ".", "train": "a"} | setting, cls, "dataset", problems)
            assert any(next(iter(setting)) in problem and "4096" in problem + "4096" for problem in problems)
    assert ConfigError


def progressive(scans: int, size: tuple[int, int] = (64, 48)) -> bytes:
    """A JPEG whose last scan is there again and again."""
    buffer = io.BytesIO()
    Image.effect_noise(size, 50).convert("RGB").save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    begin = data.rfind(b"\xff\xda")
    return data[:-2] + data[begin:-2] * (scans - data.count(b"\xff\xda")) + data[-2:]


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_scans_of_a_jpeg_are_bounded(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(progressive(MAX_SCANS))
    assert decode(str(path)).shape == (48, 64, 3)
    if mode == "CMYK":
        buffer = io.BytesIO()
        Image.new("CMYK", (64, 48)).save(buffer, "JPEG", progressive=True)
        data = buffer.getvalue()
        scan = data[data.rfind(b"\xff\xda") : -2]
        path.write_bytes(data[:-2] + scan * 3000 + data[-2:])
    else:
        path.write_bytes(progressive(3000))
    refused(lambda: decode(str(path)), "a.jpg", "more than 100 scans")


def test_what_looks_like_scans_in_a_profile_or_behind_the_end_is_none(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48)).save(buffer, "JPEG", icc_profile=b"\xff\xda" * 20_000)
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
    assert decode(str(tmp_path / "a.jpg")).shape == (48, 64, 3)
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue() + b"\0\2" + b"\xff\xda\0\2" * 5000 + b"\xff\xd9")
    assert decode(str(tmp_path / "a.jpg")).shape == (48, 64, 3)


def test_an_image_of_gigabytes_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "a.jpg").open("wb") as file:
        file.write(b"\xff\xd8")
        file.truncate(5 * 2**30)
    for read in (decode, read_size):
        refused(lambda: read(str(tmp_path / "a.jpg")), "a.jpg", f"{MAX_BYTES:,}")  # noqa: B023


def test_the_middle_of_a_very_long_image_takes_no_memory() -> None:
    """Resized whole, to the network's size on the shorter side, it would have billions of pixels."""
    long = np.zeros((1, 60_000, 3), np.uint8)
    long[:, 29_990:30_010] = 200
    assert (cut_center(long, 256, 0.875) == 200).all()
    assert (cut_center(long.transpose(1, 0, 2), 256, 0.875) == 200).all()


def test_a_cached_table_is_read_like_a_fresh_one(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("path,labels\na.jpg,cat\n")
    (tmp_path / "a.jpg").touch()
    config = TableConfig(name="table", train=str(tmp_path / "a.csv"))
    first, second = (build_table(config, split="train") for _ in range(2))
    assert first.fingerprint() == second.fingerprint() == read_table(config, "train").fingerprint()
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "a.json").write_text(json.dumps(content))
    for _ in range(2):
        coco = CocoJsonConfig(name="coco_json", train=str(tmp_path / "lists" / "a.json"), train_images=str(tmp_path))
        index = build_coco_json(coco, split="train")
        assert index.root == str(tmp_path)
        assert isinstance(index.paths.values, np.memmap)
