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
from mldec.data.own.columns import Columns
from mldec.data.own.label_cells import STATES, is_list
from mldec.data.own.rows import SPLITS, Rows
from mldec.data.own.separators import STRONG, WEAK, Separator, find_separator, refuse_joined
from mldec.data.own.values import is_nothing, split_of
from mldec.errors import DataError
from mldec.untrusted import read_bytes

if TYPE_CHECKING:
    from mldec.data.table_file import TableFile

SMALLEST, LARGEST = 2**20, 2**31 - 2**20  # bytes of a file: importing pyarrow takes longer than reading a smaller one
BLOCK = 2**22  # bytes that are parsed at a time: they stay in the processor's cache
_COMPARED = 32  # labels of an image, up to which each is compared with the others
_ODD_IN_PATHS, _ODD_PAIRS = (b"\\", b":", b"\t", b"\n", b"\r"), (b"..", b"./", b"//")
_ODD_ENDS = np.ones(256, bool)  # of paths: what is not ASCII may be a space
_ODD_ENDS[ord("!") : 127] = False
_ODD_ENDS[ord("/")] = True


def read(
    base: Rows, table: TableFile, columns: Columns, separator: Separator | None, named: bool = False
) -> Rows | None:
    """`base` with the rows of `table`; None where they must be read row by row. `named`: see `read_table_rows`.

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
    if not dialect.encoding.simple and not _is_simple(read_bytes(table.path, most=LARGEST), dialect.delimiter):
        return None
    wanted = list(dict.fromkeys(columns.needed))
    paths, cells, splits = _Paths(), list[Any](), list[np.ndarray]()
    try:
        batches = csv.open_csv(
            table.path,
            read_options=csv.ReadOptions(
                use_threads=False,
                block_size=BLOCK,
                skip_rows=dialect.skip + dialect.header,
                column_names=list(dialect.columns),
            ),
            parse_options=csv.ParseOptions(delimiter=dialect.delimiter, newlines_in_values=False),
            convert_options=csv.ConvertOptions(
                include_columns=wanted,
                column_types={name: arrow.string() for name in wanted},
                strings_can_be_null=False,
            ),
        )
        for batch in batches:
            if len(batch) == 0:
                continue
            if not paths.add(batch[columns.path]):
                return None
            cells.append(batch[columns.labels])
            if columns.split is not None:
                part = _splits(batch[columns.split], columns.split)
                if part is None:
                    return None
                splits.append(part)
        if not cells or paths.repeated():
            return None
        found = separator or _find_separator(base.path, cells)
        if len(found.signs) > 1:
            return None
        labels = _Labels(found.signs)
        for part in cells:
            if not labels.add(part, compute):
                return None
    except arrow.ArrowException:
        return None
    names = list(labels.codes)
    if separator is None and not named:
        try:
            refuse_joined(base.path, names, found, lambda name: "")
        except DataError:
            return None  # for an error with the line
    present = _distinct(labels.lists())
    return dataclasses.replace(
        base,
        names=None,
        blob=paths.blob(),
        present=present,
        absent=Ragged.empty(len(present)),
        unknown=Ragged.empty(len(present)),
        labels=tuple(names),
        splits=np.concatenate(splits) if splits else None,
        decisions=(*base.decisions, *(found.decisions if separator is None else ())),
        options={**base.options, **(found.options if separator is None else {})},
    )


class _Labels:
    """The labels of cells, part by part, as codes of names."""

    def __init__(self, sign: str) -> None:
        self.sign, self.codes = sign, dict[str, int]()
        self._ends: list[np.ndarray] = []
        self._values: list[np.ndarray] = []

    def add(self, cells: Any, compute: Any) -> bool:
        """Add cells of text; False for lists, for labels such as nan, and for what may be states."""
        lists = compute.split_pattern(cells, self.sign) if self.sign else None
        encoded = (cells if lists is None else lists.flatten()).dictionary_encode()
        names = [text.strip() for text in encoded.dictionary.to_pylist()]
        if (
            any(map(is_list, names))
            or any(name and is_nothing(name) for name in names)
            or STATES.issuperset(filter(None, names))
        ):
            return False
        column = np.array([self.codes.setdefault(name, len(self.codes)) if name else -1 for name in names], np.int32)
        self._values.append(column.take(encoded.indices.to_numpy(zero_copy_only=False)))
        offsets = np.arange(len(cells) + 1) if lists is None else lists.offsets.to_numpy()
        self._ends.append(np.diff(offsets))
        return True

    def lists(self) -> Ragged:
        """The codes of each cell; -1 for an empty label."""
        ends = np.zeros(sum(map(len, self._ends)) + 1, np.int64)
        np.cumsum(np.concatenate(self._ends), out=ends[1:])
        return Ragged(ends, np.concatenate(self._values))


class _Paths:
    """Paths, part by part, that need no change: relative, in their shortest spelling, and all different."""

    def __init__(self) -> None:
        self._texts: list[np.ndarray] = []
        self._lengths: list[np.ndarray] = []
        self._hashes: list[np.ndarray] = []

    def add(self, column: Any) -> bool:
        """Add a column of text; False if any path is not plain."""
        _, offsets, values = column.buffers()
        if values is None or column.offset:
            return False
        ends = np.frombuffer(offsets, np.int32, len(column) + 1).astype(np.int64)
        content = np.frombuffer(values, np.uint8)[: ends[-1]]
        text = content.tobytes()
        if ends[0] or (ends[1:] == ends[:-1]).any() or any(odd in text for odd in _ODD_IN_PATHS):
            return False
        for begin in (0, 1):  # far faster than searching the text
            pairs = content[begin : len(content) - (len(content) - begin) % 2].view(np.uint16)
            if any((pairs == np.frombuffer(pair, np.uint16)[0]).any() for pair in _ODD_PAIRS):
                return False
        if _ODD_ENDS[content[ends[:-1]]].any() or _ODD_ENDS[content[ends[1:] - 1]].any():
            return False
        self._texts.append(content)
        self._lengths.append(np.diff(ends))
        self._hashes.append(_hashes(content, ends))
        return True

    def repeated(self) -> bool:
        """Whether any two paths have the same hash, as equal ones do."""
        hashes = np.concatenate(self._hashes)
        bits = len(hashes).bit_length() + 2  # few places are contested, and sorting all takes longer
        places = (hashes >> np.uint64(64 - bits)).astype(np.int64)
        numbers = np.arange(len(hashes), dtype=np.int32)
        last = np.empty(1 << bits, np.int32)
        last[places] = numbers
        winners = last[places]
        others = np.flatnonzero(winners != numbers)
        contested = np.sort(hashes[others])
        return bool((hashes[others] == hashes[winners[others]]).any() or (contested[1:] == contested[:-1]).any())

    def blob(self) -> Ragged:
        """All paths."""
        ends = np.zeros(sum(map(len, self._lengths)) + 1, np.int64)
        np.cumsum(np.concatenate(self._lengths), out=ends[1:])
        return Ragged(ends, np.concatenate(self._texts))


def _hashes(content: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """(R,) uint64 hashes of texts, from their bytes and (R+1,) where they end."""
    lengths = np.diff(ends)
    shortest, longest = int(lengths.min()), int(lengths.max())
    padded = np.concatenate([np.zeros(longest + 8, np.uint8), content, np.zeros(8, np.uint8)])
    words = np.lib.stride_tricks.as_strided(padded[:8].view(np.uint64), (len(padded) - 7,), (1,))
    masks = np.array([((1 << 8 * size) - 1) << (64 - 8 * size) for size in range(9)], np.uint64)
    hashes = lengths.astype(np.uint64)
    for size in range(8, longest + 8, 8):
        word = words[ends[1:] + (longest + 8 - size)]
        if size > shortest:
            word &= masks[np.clip(lengths - (size - 8), 0, 8)]
        hashes ^= word
        hashes *= np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(29)
    return hashes


def _is_simple(data: bytes, delimiter: str) -> bool:
    """Whether every quotation mark stands at an end of a cell, and no line is a comment, so that all readers agree."""
    if b"\n#" in data or b"\r#" in data:
        return False
    content = np.frombuffer(data, np.uint8)
    places = np.flatnonzero(content == ord('"'))
    if len(places) % 2:
        return False
    ends = np.zeros(256, bool)
    ends[[ord(delimiter), ord("\n"), ord("\r"), ord('"')]] = True
    before = ends[content[np.maximum(places - 1, 0)]] | (places == 0)
    after = ends[content[np.minimum(places + 1, len(content) - 1)]] | (places == len(content) - 1)
    return bool((before | after).all())


def _find_separator(path: str, cells: list[Any]) -> Separator:
    present = set()
    for part in cells:
        _, _, values = part.buffers()
        text = b"" if values is None else values.to_pybytes()
        present |= {sign for sign in (*STRONG, *WEAK) if sign not in present and sign.encode() in text}
    if not present or sum(sign in present for sign in STRONG) == 1:
        return find_separator(path, [], signs=present)
    different = dict.fromkeys(cell for part in cells for cell in part.dictionary_encode().dictionary.to_pylist())
    return find_separator(path, [cell for cell in different if not is_nothing(cell)], signs=present)


def _splits(column: Any, name: str) -> np.ndarray | None:
    encoded = column.dictionary_encode()
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
