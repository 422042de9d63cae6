"""Properties: a Parquet file of a stranger is read or refused in one line, soon, and in bounded memory."""

import datetime
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mldec.data import parquet_file
from mldec.data.parquet_file import read_batches
from mldec.data.table import TableConfig, read_table
from mldec.data.table_file import open_table_file, write_table_file
from mldec.errors import DataError

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


POOLS: list[Any] = []  # which must outlive what is allocated in them


def write(path: Path, columns: dict[str, Any], **options: Any) -> str:
    parquet.write_table(pa.table(columns), path, **options)
    return str(path)


def read(path: str, **settings: Any) -> Any:
    return read_table(TableConfig(name="table", train=path, **settings), "train")


def refused(path: str, *words: str, **settings: Any) -> None:
    """The file is refused in one line, within seconds and 200 MB of Arrow's memory."""
    began, default = time.process_time(), pa.default_memory_pool()
    POOLS.append(pool := pa.proxy_memory_pool(default))
    pa.set_memory_pool(pool)
    try:
        with pytest.raises(DataError) as caught:
            read(path, **settings)
    finally:
        pa.set_memory_pool(default)
    assert time.process_time() - began < 10
    assert pool.max_memory() < 200 * 2**20
    for word in (path, *words):
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


KINDS: dict[str, Any] = {
    "text": pa.string(),
    "large": pa.large_string(),
    "category": pa.dictionary(pa.int32(), pa.string()),
    "number": pa.int64(),
    "list": pa.list_(pa.string()),
    "large list": pa.large_list(pa.large_string()),
    "struct": pa.struct([("a", pa.string()), ("b", pa.list_(pa.int8()))]),
    "map": pa.map_(pa.string(), pa.int32()),
    "lists": pa.list_(pa.list_(pa.string())),
    "fixed": pa.binary(4),
    "decimal": pa.decimal128(10, 2),
    "time": pa.timestamp("us", tz="UTC"),
    "flag": pa.bool_(),
    "a.b": pa.string(),
}


def value(name: str, row: int) -> Any:
    text = f"{name} {row % 3} é"
    return {
        "number": row,
        "list": [text] * (row % 4),
        "large list": [text],
        "struct": {"a": text, "b": [row % 5]},
        "map": [(text, row)],
        "lists": [[text], []],
        "fixed": struct.pack("<i", row),
        "decimal": None,
        "time": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(seconds=row),
        "flag": row % 2 == 0,
    }.get(name, None if row % 7 == 6 else text)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "none", "use_dictionary": False, "data_page_version": "2.0"},
        {"compression": "zstd", "row_group_size": 700, "data_page_size": 300, "dictionary_pagesize_limit": 100},
        {"compression": "gzip", "store_schema": False, "write_statistics": False, "write_page_checksum": True},
    ],
)
def test_every_type_comes_back_as_pyarrow_reads_it(tmp_path: Path, options: dict[str, Any]) -> None:
    columns = {name: pa.array([value(name, row) for row in range(3000)], kind) for name, kind in KINDS.items()}
    path = write(tmp_path / "a.parquet", columns, **options)
    whole = parquet.ParquetFile(path).read()
    assert pa.Table.from_batches(read_batches(path)).equals(whole)
    assert [row for _, row in open_table_file(path).rows()] == whole.to_pylist()
    for name in ("number", "large list", "a.b"):
        assert pa.Table.from_batches(read_batches(path, [name])).equals(whole.select([name]))
    rows = [0, 5, 6, 699, 700, 2999]
    write_table_file(open_table_file(path), rows, str(tmp_path / "b.parquet"))
    assert parquet.read_table(tmp_path / "b.parquet").equals(whole.take(rows))


def test_what_is_not_needed_is_not_read(tmp_path: Path) -> None:
    rows = 300
    big = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["x" * 2**20]))
    columns = {"path": [f"{row}.jpg" for row in range(rows)], "label": ["cat"] * rows}
    dates = pa.array([2**62] * rows, pa.timestamp("us"))
    path = write(tmp_path / "a.parquet", columns | {"bomb": big, "date": dates})
    assert len(read(path)) == rows
    assert read(path, label_column="label", ignore=("bomb",)).labels.names == ("cat",)


@pytest.mark.parametrize("nested", [False, True])
def test_a_dictionary_of_a_long_text_is_refused_before_it_is_written_out(tmp_path: Path, nested: bool) -> None:
    """Each of 200 rows stands for 4 MB, 800 MB in all, in a file of kilobytes."""
    text, rows = pa.array(["x" * 4 * 2**20]), 200
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), text)
    column = pa.ListArray.from_arrays(np.arange(rows + 1, dtype=np.int32), column) if nested else column
    columns = {"path": [f"{row}.jpg" for row in range(rows)], "labels": column}
    path = write(tmp_path / "a.parquet", columns, compression="zstd", store_schema=False)
    assert Path(path).stat().st_size < 2**20
    refused(path, "of its rows unpack to more than 268,435,456 bytes of text")
    with pytest.raises(DataError, match="bytes of text"):
        write_table_file(open_table_file(path), [0], str(tmp_path / "b.parquet"))
    assert not (tmp_path / "b.parquet").exists()


def test_a_list_of_millions_of_labels_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of equal values: 4 million labels of one image take a few bytes."""
    count = 2**22
    items = pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array(["cat"]))
    labels = pa.ListArray.from_arrays(pa.array([0, count], pa.int32()), items)
    path = write(tmp_path / "a.parquet", {"path": ["a.jpg"], "labels": labels})
    assert Path(path).stat().st_size < 2**15
    monkeypatch.setattr(parquet_file, "MAX_GROUP", 2**25)
    refused(path, "row group 0 unpacks to", "Write it in smaller row groups")


def test_pages_that_unpack_to_much_are_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = ["x" * 2**20] * 40
    path = write(
        tmp_path / "a.parquet",
        {"path": [f"{row}.jpg" for row in range(40)], "labels": long},
        compression="zstd",
        use_dictionary=False,
    )
    monkeypatch.setattr(parquet_file, "MAX_GROUP", 2**25)
    refused(path, "row group 0 unpacks to", "at most 33,554,432 are read")


def footer_of(content: bytes) -> int:
    """Where the footer begins."""
    return len(content) - 8 - struct.unpack("<I", content[-8:-4])[0]


def varint(number: int) -> bytes:
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def test_the_header_of_a_page_counts_and_not_the_footer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    write(path, {"path": ["a.jpg"], "labels": ["x" * 40_000]}, use_dictionary=False, compression="gzip")
    monkeypatch.setattr(parquet_file, "MAX_GROUP", 2**19)
    assert len(read(str(path))) == 1
    chunk = parquet.read_metadata(path).row_group(0).column(1)
    content = bytearray(path.read_bytes())
    size = varint(2 * parquet_file._Header(content[chunk.data_page_offset :]).struct()[2])
    assert len(size) == 3
    place = content.index(size, chunk.data_page_offset)
    content[place : place + 3] = b"\xfe\xff\x7f"  # a page of a megabyte
    path.write_bytes(content)
    assert parquet.read_metadata(path).row_group(0).total_byte_size < 2**17
    refused(str(path), "row group 0 unpacks to 1,048,")


@pytest.mark.parametrize("seed", range(4))
def test_spoilt_headers_and_footers_are_one_line(tmp_path: Path, seed: int) -> None:
    columns = {
        "path": [f"{row}.jpg" for row in range(300)],
        "labels": [["cat", "dog"][: row % 3] for row in range(300)],
    }
    content = Path(write(tmp_path / "a.parquet", columns, compression=["snappy", "none"][seed % 2])).read_bytes()
    rng = np.random.default_rng(seed)
    path = tmp_path / "b.parquet"
    for _ in range(60):
        spoilt = bytearray(content)
        places = rng.integers(4, len(content) - 8, 1 + rng.integers(8))
        if rng.random() < 0.5:
            places = footer_of(content) + places % (len(content) - 8 - footer_of(content))
        for place in places:
            spoilt[place] = rng.integers(256)
        path.write_bytes(spoilt)
        try:
            read(str(path))
        except DataError as error:
            assert str(path) in str(error)  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    "header",
    [b"", b"\x15", b"\x15\x00\x15\x80", b"\x1c" * 5000, b"\x19\x00", b"\x15\x00\x15\x02\x15\x02\x00", b"\xff" * 200],
    ids=["none", "cut", "number", "deep", "list", "no-counts", "types"],
)
def test_no_header_is_more_than_an_error(header: bytes) -> None:
    with pytest.raises((IndexError, ValueError, RecursionError, KeyError)):
        parquet_file._Header(header).struct()[5]


def test_more_rows_than_bytes_are_a_bomb(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"path": ["a.jpg"] * 10**6, "label": ["cat"] * 10**6})
    refused(path, "1,000,000 rows in", "as bombs have")


@pytest.mark.parametrize("kind", [pa.timestamp("us"), pa.timestamp("ms"), pa.date64(), pa.date32()])
def test_dates_that_python_does_not_have_are_one_error(tmp_path: Path, kind: Any) -> None:
    far = pa.array(
        [2**31 - 1 if kind == pa.date32() else 2**62 // 1000 * 1000], pa.int32() if kind == pa.date32() else pa.int64()
    )
    columns = {"path": ["a.jpg"], "cat": far.cast(kind, safe=False) if kind != pa.date64() else far.view(kind)}
    refused(write(tmp_path / "a.parquet", columns), "cannot be read as Parquet")
    path = write(tmp_path / "b.parquet", {**columns, "label": ["dog"]})
    assert read(path).labels.names == ("dog",)
    write_table_file(open_table_file(path), [0], str(tmp_path / "c.parquet"))  # which keeps the column as it is
    assert parquet.read_table(tmp_path / "c.parquet").equals(parquet.read_table(path))


def test_structs_that_are_no_images_are_named(tmp_path: Path) -> None:
    image = pa.struct([("width", pa.int64()), ("path", pa.string())])
    columns = {"image": pa.array([{"width": 3, "path": "a.jpg"}], image), "labels": [["cat"]]}
    refused(write(tmp_path / "a.parquet", columns), "column image holds struct", "text is needed")
