"""Parquet files from strangers: what their rows take is known before it is decoded.

Dictionaries, runs of equal values and compression let a few bytes stand for terabytes, and the footer need not say so.
So the columns that are not needed are never read, the header of each needed page is read first, and text stays in its
dictionary until the length of a batch is known.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mldec.errors import DataError, shortened
from mldec.untrusted import open_regular

MAX_ROWS = 16  # per byte of a file: of rows with a path each none is as small
MAX_GROUP = 2**31  # bytes of a row group, uncompressed, of the needed columns; of columns of lists with each item
MAX_TEXT = 2**28  # bytes of text in the rows that are in memory at a time
CELLS, ROWS = 2**20, 2**13  # in memory at a time
FEW = 8  # rows with images in memory at a time: a dictionary may hold a large one, which all rows repeat
BUFFER = 2**20  # bytes of a file that are read at a time
ITEM = 16  # bytes of an item of a list, while it is decoded
HEADER = 2**16  # bytes that the header of a page may have
FLAGS, OTHER_NUMBERS, NUMBER, BINARY, STRUCT = (1, 2), (4, 6), 5, 8, 12  # Thrift's types


def read_schema(path: str) -> Any:
    """A file's columns, a schema of pyarrow. Raises as `read_batches` does."""
    with open_regular(path):
        return import_pyarrow()[1].read_schema(path)


def read_batches(
    path: str, columns: Sequence[str] | None = None, inner: Mapping[str, str] | None = None
) -> Iterator[Any]:
    """The rows of a file in batches of pyarrow, with these columns alone, or all.

    Of a column in `inner`, of structs or of lists of structs, nothing is read but the leaf that it names.

    Raises DataError unless the file is regular, for one that unpacks to more than an honest file does, and for named
    columns that hold anything but text, numbers, or lists of these; OSError, ValueError and pyarrow's errors where it
    is damaged.
    """
    arrow, _ = import_pyarrow()
    schema = read_schema(path)
    wanted = list(schema.names if columns is None else columns)
    inner = inner or {}
    if columns is not None:
        _refuse_nested(path, [schema.field(name) for name in wanted if name not in inner])
    fields = [schema.field(name) for name in wanted]
    for batch in _decoded(path, [inner.get(name, name) for name in wanted], most=ROWS):
        if sum(map(_text_size, batch.columns)) > MAX_TEXT:
            raise DataError(
                f"{path}: {len(batch):,} of its rows unpack to more than {MAX_TEXT:,} bytes of text; leave long texts "
                "and images out of the table"
            )
        batch = batch.select(wanted)
        own = [read if f.name in inner else f for f, read in zip(fields, batch.schema, strict=True)]
        yield batch.cast(arrow.schema(own, schema.metadata))


def count_rows(path: str) -> int:
    """How many rows a file says it has. Raises as `read_batches` does."""
    with open_regular(path):
        return int(import_pyarrow()[1].read_metadata(path).num_rows)


def leaf_size(path: str, leaf: str) -> int:
    """How many bytes a file says that a leaf of its schema has, without compression. Raises as `read_batches` does."""
    with open_regular(path):
        metadata = import_pyarrow()[1].read_metadata(path)
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    columns = (group.column(number) for group in groups for number in range(group.num_columns))
    return sum(column.total_uncompressed_size for column in columns if column.path_in_schema == leaf)


def read_values(path: str, leaf: str) -> Iterator[Any]:
    """The values of one leaf of the schema, such as `image.bytes`, row by row. Raises as `read_batches` does."""
    for batch in _decoded(path, [leaf], most=FEW, dictionaries=False):
        (column,) = batch.columns
        while import_pyarrow()[0].types.is_struct(column.type):
            (column,) = column.flatten()  # where the struct is null, its fields are
        for value in column:
            yield value.as_py()


def _decoded(path: str, wanted: Sequence[str], *, most: int, dictionaries: bool = True) -> Iterator[Any]:
    """Batches of at most `most` rows with the wanted columns or leaves; text in dictionaries if `dictionaries`."""
    _, parquet = import_pyarrow()
    with open_regular(path) as raw:
        metadata, size = parquet.read_metadata(path), os.fstat(raw.fileno()).st_size
        leaves = [metadata.schema.column(number) for number in range(metadata.num_columns)]
        chosen = {
            number: leaf
            for number, leaf in enumerate(leaves)
            if any(f"{leaf.path}.".startswith(f"{name}.") for name in wanted)
        }
        if missing := [name for name in wanted if not any(f"{leaf.path}.".startswith(f"{name}.") for leaf in leaves)]:
            raise DataError(f"{path}: has no column {shortened(missing[0])}")
        if metadata.num_rows > MAX_ROWS * size:
            raise DataError(f"{path}: {metadata.num_rows:,} rows in {size:,} bytes, as bombs have")
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        sizes = [_check_group(path, raw, group, number, chosen) for number, group in enumerate(groups)]
        average = max((size / max(1, group.num_rows) for size, group in zip(sizes, groups, strict=True)), default=0)
        texts = [leaf.path for leaf in chosen.values() if leaf.physical_type == "BYTE_ARRAY" and dictionaries]
        most = min(most, int(MAX_TEXT / 4 / max(1, average)))  # rows with images are large
        rows = max(1, min(most, CELLS // (1 + sum(1 + max(0, leaf.length) // ITEM for leaf in chosen.values()))))
        with parquet.ParquetFile(path, metadata=metadata, read_dictionary=texts, buffer_size=BUFFER) as file:
            for group in range(len(groups)):  # each by itself: it has dictionaries of its own
                yield from file.iter_batches(rows, row_groups=[group], columns=list(wanted))


def inner_leaf(path: str, column: Any, keys: Sequence[str]) -> tuple[str, str] | None:
    """The field and the leaf with the labels of a column of structs, or of lists of structs, as boxes are written.

    The field is the first of `keys` that there is, with text, whole numbers, or lists of these. None for others.

    Args:
        column: the column in the schema of the file.

    Raises as `read_batches` does.
    """
    types, kind = import_pyarrow()[0].types, column.type
    is_list = types.is_list(kind) or types.is_large_list(kind)
    kind = kind.value_type if is_list else kind
    if not types.is_struct(kind):
        return None
    fields = {field.name: field.type for field in kind}
    key = next((key for key in keys if key in fields), None)
    if key is None:
        return None
    single = fields[key]
    single = single.value_type if types.is_list(single) or types.is_large_list(single) else single
    if not (types.is_string(single) or types.is_large_string(single) or types.is_integer(single)):
        return None
    with open_regular(path):
        leaves = import_pyarrow()[1].read_metadata(path).schema
    paths = [leaves.column(number).path for number in range(len(leaves))]
    depth = 3 if is_list else 1  # column.list.element.field, or column.field
    found = [one.split(".") for one in paths if one.startswith(f"{column.name}.")]
    begins = column.name.count(".") + 1
    return next(
        ((key, ".".join(one[: begins + depth])) for one in found if one[begins + depth - 1 : begins + depth] == [key]),
        None,
    )


def write_rows(paths: Sequence[str], rows: Sequence[int], target: Path, *, without: str | None = None) -> None:
    """Write the rows with these numbers (from 0 over all files, ascending) to a file, `without` one of its columns.

    Raises as `read_batches` does.
    """
    arrow, parquet = import_pyarrow()
    schema, begin = read_schema(paths[0]), 0
    kept = [name for name in schema.names if name != without]
    schema = arrow.schema([schema.field(name) for name in kept], schema.metadata)
    with parquet.ParquetWriter(str(target), schema) as writer:
        for batch in (batch for path in paths for batch in read_batches(path)):
            first, last = np.searchsorted(rows, (begin, begin + len(batch)))
            if last > first:
                writer.write_batch(batch.select(kept).take(arrow.array(np.asarray(rows[first:last], np.int64) - begin)))
            begin += len(batch)


def _refuse_nested(path: str, fields: Sequence[Any]) -> None:
    types = import_pyarrow()[0].types
    for field in fields:
        kind = field.type
        inner = kind.value_type if types.is_list(kind) or types.is_large_list(kind) else kind
        if types.is_nested(inner):
            raise DataError(
                f"{path}: column {shortened(field.name)} holds {shortened(str(kind))}; text is needed, or a list "
                "of texts"
            )


@contextlib.contextmanager
def naming_parquet(path: str) -> Iterator[None]:
    """What pyarrow raises in the block becomes a DataError: OverflowError for dates that Python does not have."""
    arrow, _ = import_pyarrow()
    try:
        yield
    except (OSError, ValueError, OverflowError, arrow.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {shortened(error, 300)}") from None


def import_pyarrow() -> Any:
    """pyarrow and pyarrow.parquet. Raises DataError if they are not installed."""
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            "Parquet tables need pyarrow, which is not installed; use: pip install 'mldec[parquet]'"
        ) from None
    return pyarrow, pyarrow.parquet


def _check_group(path: str, raw: io.FileIO, group: Any, number: int, leaves: dict[int, Any]) -> int:
    """To how many bytes the needed columns of a row group unpack. Raises DataError for more than MAX_GROUP."""
    total = 0
    for column, leaf in leaves.items():
        try:
            size, values = _page_sizes(raw, group.column(column))
        except (IndexError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise DataError(f"{path}: column {shortened(leaf.path)} has a damaged page: {shortened(error)}") from None
        total += size + (values * (ITEM + max(0, leaf.length)) if leaf.max_repetition_level else 0)
        if total > MAX_GROUP:
            raise DataError(
                f"{path}: row group {number} unpacks to {total:,} bytes and more; at most {MAX_GROUP:,} are read. "
                "Write it in smaller row groups"
            )
    return total


def _page_sizes(raw: io.FileIO, chunk: Any) -> tuple[int, int]:
    """How many bytes and values a column has in a row group, by the headers of its pages, as it will be decoded."""
    place, size, values, left = chunk.data_page_offset, 0, 0, chunk.num_values
    if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < place:
        place = chunk.dictionary_page_offset
    while left > 0:
        raw.seek(place)
        reader = _Header(raw.read(HEADER))
        header = reader.struct()
        counts = [header[kind][1] for kind in (5, 7, 8) if kind in header]  # data, dictionary, data of version 2
        if len(counts) != 1 or counts[0] < (7 not in header) or min(header[2], header[3]) < 0:
            raise ValueError("its header has no sizes")
        size, values = size + header[2], values + counts[0]
        left -= 0 if 7 in header else counts[0]
        place += reader.at + header[3]
    return size, values


class _Header:
    """The header of a page: a struct in Thrift's compact encoding, of which the numbers of 32 bits are kept."""

    def __init__(self, data: bytes) -> None:
        self._data, self.at = data, 0

    def struct(self) -> dict[int, Any]:
        """The numbers and structs within a struct, by number of the field. Raises IndexError past the end."""
        found: dict[int, Any] = {}
        field = 0
        while head := self._byte():
            field, kind = field + (head >> 4) if head >> 4 else self._number(), head & 15
            if kind in (NUMBER, STRUCT):
                if field in found:
                    raise ValueError("its header has a field twice")
                found[field] = self._number() if kind == NUMBER else self.struct()
            elif kind == BINARY:
                length = self._varint()
                self.at += length
            elif kind in OTHER_NUMBERS:
                self._number()
            elif kind not in FLAGS:
                raise ValueError("its header has a field of unknown type")
        return found

    def _byte(self) -> int:
        self.at += 1
        return self._data[self.at - 1]

    def _varint(self) -> int:
        value = shift = 0
        while (byte := self._byte()) > 127:
            value, shift = value | (byte & 127) << shift, shift + 7
        return value | byte << shift

    def _number(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)


def _text_size(array: Any) -> int:
    """About how many bytes an array has with its texts written out instead of in a dictionary."""
    arrow, _ = import_pyarrow()
    types, kind, size = arrow.types, array.type, len(array) * ITEM
    if types.is_dictionary(kind):
        lengths = arrow.compute.binary_length(array.dictionary).cast(arrow.int64())
        return size + (arrow.compute.sum(lengths.take(array.indices)).as_py() or 0)
    if types.is_map(kind):
        return size + _text_size(array.keys) + _text_size(array.items)
    if types.is_struct(kind):
        return size + sum(map(_text_size, array.flatten()))
    return size + (_text_size(array.flatten()) if types.is_nested(kind) else 0)
