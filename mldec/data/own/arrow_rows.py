"""Large tables of text, read with pyarrow: the same rows as those of `read_rows`, tens of times faster.

Only what needs no second look is read here. Whatever is unusual (a path that has to be changed, a list in a cell, a row
of another length, text that is no UTF-8) makes `read` return None, and the table is read row by row.
"""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from mldec.data.index import Ragged
from mldec.data.own.columns import Columns, split_of
from mldec.data.own.label_cells import is_list, is_nothing
from mldec.data.own.rows import SPLITS, Rows
from mldec.data.own.separators import STRONG, WEAK, Separator, find_separator, refuse_joined
from mldec.errors import DataError
from mldec.untrusted import read_bytes

if TYPE_CHECKING:
    from mldec.data.table_file import TableFile

SMALLEST, LARGEST = 2**20, 2**31 - 2**20  # bytes of a file: importing pyarrow takes longer than reading a smaller one
_COMPARED = 32  # labels of an image, up to which each is compared with the others
_ODD_IN_PATHS = (b"\\", b":", b"..", b"./", b"//", b"\t", b"\n", b"\r")


def read(base: Rows, table: TableFile, columns: Columns, separator: Separator | None) -> Rows | None:
    """`base` with the rows of `table`; None where they must be read row by row.

    Raises DataError for labels of which it cannot be decided what separates them.
    """
    dialect = table.dialect
    if dialect is None or columns.labels is None or columns.escaped or dialect.uneven:
        return None
    if dialect.encoding.name != "utf-8-sig" or not SMALLEST <= os.path.getsize(table.path) <= LARGEST:
        return None
    try:
        import pyarrow as arrow
        from pyarrow import compute, csv
    except ImportError:
        return None
    data = read_bytes(table.path, most=LARGEST)
    if b"\0" in data or not _simple_quotes(data, dialect.delimiter):
        return None
    wanted = list(dict.fromkeys(columns.needed))
    try:
        content = csv.read_csv(
            arrow.BufferReader(data),
            read_options=csv.ReadOptions(
                use_threads=False, skip_rows=dialect.skip + dialect.header, column_names=list(dialect.columns)
            ),
            parse_options=csv.ParseOptions(delimiter=dialect.delimiter, newlines_in_values=False),
            convert_options=csv.ConvertOptions(
                include_columns=wanted, column_types={name: arrow.string() for name in wanted}, strings_can_be_null=False
            ),
        )
        paths = _text(content[columns.path])
        cells = _text(content[columns.labels])
        blob = _plain_paths(paths)
        if blob is None or len(cells) == 0:
            return None
        splits = None if columns.split is None else _splits(content[columns.split], columns.split)
        if columns.split is not None and splits is None:
            return None
        if separator is None:
            found = _separator(base.path, cells)
            decisions, options = found.decisions, found.options
        else:
            found, decisions, options = separator, (), {}
        if len(found.signs) > 1:
            return None
        lists = compute.split_pattern(cells, found.signs) if found.signs else None
        ends = np.arange(len(cells) + 1) if lists is None else lists.offsets.to_numpy().astype(np.int64)
        encoded = (cells if lists is None else lists.flatten()).dictionary_encode()
    except arrow.ArrowException:
        return None
    texts = encoded.dictionary.to_pylist()
    names = [text.strip() for text in texts]
    if any(map(is_list, names)) or any(is_nothing(name) and name for name in names):
        return None
    labels = list(dict.fromkeys(filter(None, names)))
    if separator is None and found.signs:
        try:
            refuse_joined(base.path, labels, found, lambda name: "")
        except DataError:
            return None  # for an error with the line
    codes = {name: code for code, name in enumerate(labels)}
    column = np.array([codes.get(name, -1) for name in names], np.int32)
    values = column[encoded.indices.to_numpy(zero_copy_only=False)]
    present = _distinct(Ragged(ends - ends[0], values))
    return dataclasses.replace(
        base,
        names=None,
        blob=blob,
        present=present,
        absent=Ragged.empty(len(cells)),
        unknown=Ragged.empty(len(cells)),
        labels=tuple(labels),
        splits=splits,
        decisions=(*base.decisions, *decisions),
        options={**base.options, **options},
    )


def _text(column: Any) -> Any:
    """A column as one array of text of at most 2 GB."""
    chunks = column.combine_chunks()
    return chunks.chunk(0) if hasattr(chunks, "num_chunks") and chunks.num_chunks == 1 else chunks


def _simple_quotes(data: bytes, delimiter: str) -> bool:
    """Whether every quotation mark stands at an end of a cell, so that all readers of CSV agree on it."""
    if b'"' not in data:
        return True
    content = np.frombuffer(data, np.uint8)
    places = np.flatnonzero(content == ord('"'))
    if len(places) % 2:
        return False
    ends = np.zeros(256, bool)
    ends[[ord(delimiter), ord("\n"), ord("\r"), ord('"')]] = True
    before = ends[content[np.maximum(places - 1, 0)]] | (places == 0)
    after = ends[content[np.minimum(places + 1, len(content) - 1)]] | (places == len(content) - 1)
    return bool((before | after).all())


def _plain_paths(paths: Any) -> Ragged | None:
    """The bytes of paths that are all different, relative and in their shortest spelling; None if any is not."""
    _, offsets, values = paths.buffers()
    if values is None or paths.offset:
        return None
    ends = np.frombuffer(offsets, np.int32, len(paths) + 1).astype(np.int64)
    text = values.to_pybytes()[: ends[-1]] if ends[-1] != values.size else values.to_pybytes()
    content = np.frombuffer(text, np.uint8)
    if (np.diff(ends) == 0).any() or any(odd in text for odd in _ODD_IN_PATHS):
        return None
    first, last = content[ends[:-1]], content[ends[1:] - 1]
    odd = np.ones(256, bool)
    odd[ord("!") : 127] = False
    odd[ord("/")] = True
    if odd[first].any() or odd[last].any():
        return None
    found = Ragged(ends, content)
    return None if _has_repeated(found) else found


def _has_repeated(texts: Ragged) -> bool:
    """Whether any two texts have the same hash of 64 bits, as equal ones do."""
    padded = np.concatenate([texts.values, np.zeros(8, np.uint8)])
    words = np.lib.stride_tricks.as_strided(padded[:8].view(np.uint64), (len(texts.values),), (1,))
    masks = np.array([(1 << 8 * size) - 1 for size in range(9)], np.uint64)
    starts, lengths = texts.offsets[:-1], texts.counts
    hashes = lengths.astype(np.uint64)
    for begin in range(0, int(lengths.max()), 8):
        rest = np.clip(lengths - begin, 0, 8)
        word = words[np.minimum(starts + begin, len(texts.values) - 1)] & masks[rest]
        hashes = (hashes ^ word) * np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(29)
    hashes.sort()
    return bool((hashes[1:] == hashes[:-1]).any())


def _separator(path: str, cells: Any) -> Separator:
    _, offsets, values = cells.buffers()
    text = b"" if values is None else values.to_pybytes()
    present = [sign for sign in (*STRONG, *WEAK) if sign.encode() in text]
    strong = [sign for sign in STRONG if sign in present]
    different = [] if len(strong) == 1 or not present else cells.dictionary_encode().dictionary.to_pylist()
    return find_separator(path, [cell for cell in different if not is_nothing(cell)], signs=present)


def _splits(column: Any, name: str) -> np.ndarray | None:
    encoded = _text(column).dictionary_encode()
    found = [split_of(text, name) for text in encoded.dictionary.to_pylist()]
    if None in found:
        return None
    numbers = np.array([SPLITS.index(split) for split in found if split is not None], np.int8)
    return numbers[encoded.indices.to_numpy(zero_copy_only=False)]


def _distinct(lists: Ragged) -> Ragged:
    """Lists without -1 and without repetitions; mostly as they are."""
    keep = lists.values >= 0
    most = int(lists.counts.max())
    if most > _COMPARED:
        owners = np.repeat(np.arange(len(lists)), lists.counts)[keep]
        pairs = owners * len(lists.values) + lists.values[keep]
        keep[np.flatnonzero(keep)] = np.isin(np.arange(len(pairs)), np.unique(pairs, return_index=True)[1])
    else:
        for step in range(1, most):  # a value and the one `step` places before it, where both are of the same list
            later = np.flatnonzero(lists.values[step:] == lists.values[:-step]) + step
            starts = lists.offsets[np.searchsorted(lists.offsets, later, side="right") - 1]
            keep[later[later - starts >= step]] = False
    if keep.all():
        return lists
    return Ragged(np.concatenate([[0], np.cumsum(keep)])[lists.offsets], lists.values[keep])
