"""Files of label embeddings: GloVe, word2vec and fastText text, word2vec and fastText binary, and plain arrays.

A file of two million words is read once from end to end and only the wanted words are kept; nothing in a file can run
code. The binary layouts are those of the original tools.
"""

from __future__ import annotations

import json
import mmap
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from mldec.errors import DataError, first_lines, whole_number
from mldec.models.tensor_files import read_torch_file

ARRAYS = (".npy", ".pth", ".pt")
FASTTEXT_MAGIC = 793712314


class Table(Protocol):
    """A file of words and their vectors."""

    def vectors(self, wanted: Iterable[str]) -> dict[str, np.ndarray]:
        """The float32 vectors of those of `wanted` that are there, all of one width."""
        ...

    def guess(self, word: str) -> np.ndarray | None:
        """A vector of a single word that is not there, made of its parts; None where the format has none."""
        ...

    def words(self) -> Iterator[str]:
        """All words, in the order of the file."""
        ...


def open_table(path: Path, names: str | None = None) -> Table:
    """The table in a file of any of these formats, told apart by ending and first bytes.

    `names` is the file that names the rows of an array. Raises DataError for a file that is none of them.
    """
    _refuse_packed(path)
    if is_array(path):
        if names is None:
            raise DataError(f"{path}: an array has no names; list them in a file: head.label_embeddings.names=FILE")
        return NamedArray(path, read_names(Path(names).expanduser()))
    if names is not None:
        raise DataError(
            f"head.label_embeddings.names={names}: without effect for {path.name}, which has names of its own"
        )
    with path.open("rb") as file:
        head = file.read(4096)
    if len(head) >= 4 and struct.unpack("<i", head[:4])[0] == FASTTEXT_MAGIC:
        return FastTextBinary(path)
    if path.suffix == ".bin":
        return Word2VecBinary(path)
    return TextTable(path)


def is_array(path: Path) -> bool:
    return path.suffix in ARRAYS


def _refuse_packed(path: Path) -> None:
    """Raise DataError for a file that must be unpacked or converted first; it says how."""
    if path.suffix == ".gz":
        raise DataError(f"{path}: packed; unpack it first (gunzip -k {path}) and name {path.with_suffix('')}")
    if path.suffix in (".pickle", ".pkl"):
        target = path.with_suffix(".npy")
        raise DataError(
            f"{path}: pickles are not read, since loading one runs whatever code is in it. If you trust where it came "
            "from, convert it in Python and name the new file:\n"
            "  import pickle, numpy\n"
            f"  numpy.save({str(target)!r}, pickle.load(open({str(path)!r}, 'rb')))"
        )


def read_array(path: Path) -> np.ndarray:
    """A two-dimensional array of a .npy file or a tensor of a .pth one, without running code of it."""
    try:
        if path.suffix == ".npy":
            array = np.load(path, allow_pickle=False)
        else:
            tensor = read_torch_file(path)
            if isinstance(tensor, torch.Tensor):
                tensor = tensor.detach()
                array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()  # numpy has no bfloat16
            else:
                array = tensor
    except Exception as error:  # damaged files fail with errors of a dozen types
        reason = first_lines(error)
        raise DataError(f"{path}: cannot be read as an array: {reason}") from None
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "fiu":
        found = f"shape {array.shape}, {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
        raise DataError(f"{path}: expected an array of numbers with rows and columns, found {found}")
    return array


def read_names(path: Path) -> list[str]:
    """Names in order, from a JSON list, a JSON object {"0": name, …}, or a text file with one a line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix != ".json":
            return [line.strip() for line in text.splitlines() if line.strip()]
        content: Any = json.loads(text)
        if isinstance(content, dict):
            content = [content[key] for key in sorted(content, key=int)]
    except (OSError, ValueError) as error:
        raise DataError(f"head.label_embeddings.names={path}: cannot be read: {error}") from None
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        raise DataError(f'head.label_embeddings.names={path}: expected a list of names or {{"0": name, …}}')
    return content


def read_aliases(path: Path) -> dict[str, str]:
    """Lines `label<tab>words`. Raises DataError for any other line, and for a label that is there twice."""
    aliases: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"head.label_embeddings.aliases={path}: cannot be read: {error}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        label, tab, words = (part.strip() for part in line.partition("\t"))
        if not (tab or "\t" in line) or not label or not words or label in aliases:
            raise DataError(
                f"head.label_embeddings.aliases={path} line {number}: expected label<tab>words, each label once: {line!r}"
            )
        aliases[label] = words
    return aliases


class ListedEmbeddings:
    """What the formats share that know the listed words alone."""

    def guess(self, word: str) -> np.ndarray | None:
        return None


class NamedArray(ListedEmbeddings):
    """An array with a name for each row, or for each column as in the published file of NUS-WIDE (300, 1006)."""

    def __init__(self, path: Path, names: list[str]) -> None:
        array = read_array(path)
        if len(array) != len(names) and array.shape[1] == len(names):
            array = array.T
        if len(array) != len(names):
            raise DataError(f"{path}: an array of shape {array.shape} for {len(names)} names")
        if repeated := [name for name, count in Counter(names).items() if count > 1]:
            raise DataError(
                f"{path}: names must differ; head.label_embeddings.names lists more than once: {', '.join(repeated[:5])}. "
                "Give each row a name of its own"
            )
        self._rows, self._names = array, names

    def vectors(self, wanted: Iterable[str]) -> dict[str, np.ndarray]:
        wanted = set(wanted)
        return {n: self._rows[i].astype(np.float32) for i, n in enumerate(self._names) if n in wanted}

    def words(self) -> Iterator[str]:
        return iter(self._names)


class TextTable(ListedEmbeddings):
    """A word and its numbers a line; word2vec and fastText put a line with their count and width before them.

    Some files hold words with spaces in them, so a line is read from its end.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            first = file.readline().split()
            counts = [whole_number(field.decode("latin-1")) for field in first[:3]]
            self._header = len(first) == 2 and None not in counts
            self._width = (counts[1] or 0) if self._header else _numbers_at_end(first)
            line = file.readline() if self._header else b" ".join(first)
        if self._width < 1 or len(line.split()) <= 1:
            raise DataError(f"{path}: expected a word and its numbers in each line, found {line[:60]!r}")
        self._row(line, 2 if self._header else 1)

    def vectors(self, wanted: Iterable[str]) -> dict[str, np.ndarray]:
        by_start: dict[bytes, set[bytes]] = {}
        for word in wanted:
            by_start.setdefault(word.encode().partition(b" ")[0], set()).add(word.encode())
        found: dict[str, np.ndarray] = {}
        for number, line in self._lines():
            start = line.partition(b" ")[0]
            if start in by_start:
                name, vector = self._row(line, number)
                if name in by_start[start]:
                    found.setdefault(name.decode(), vector)
        return found

    def words(self) -> Iterator[str]:
        for _, line in self._lines():
            yield line.rstrip().rsplit(b" ", self._width)[0].decode("utf-8", "replace")

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        with self._path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if (number > 1 or not self._header) and line.strip():
                    yield number, line

    def _row(self, line: bytes, number: int) -> tuple[bytes, np.ndarray]:
        word, *fields = line.rstrip().rsplit(b" ", self._width)
        try:
            if len(fields) != self._width:
                raise ValueError(f"{len(fields)} numbers")
            return word, np.array(fields, dtype=np.float32)
        except ValueError as error:
            raise DataError(
                f"{self._path} line {number}: expected {self._width} numbers after the word; {error}"
            ) from None


def _numbers_at_end(fields: list[bytes]) -> int:
    """How many numbers a line ends in, whose first field is a word in any case."""
    count = 0
    for field in reversed(fields[1:]):
        try:
            float(field)
        except ValueError:
            break
        count += 1
    return count


class Word2VecBinary(ListedEmbeddings):
    """`count width`, then for each word its bytes, a space and float32 numbers; some tools add a line end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            fields = file.readline(64).split()
        counts = [whole_number(field.decode("latin-1")) or 0 for field in fields]
        if len(fields) != 2 or counts[1] < 1 or whole_number(fields[0].decode("latin-1")) is None:
            raise DataError(
                f"{path}: neither word2vec's binary format (which starts with two numbers) nor fastText's; a text file "
                "should end in .txt or .vec"
            )
        self._count, self._width = counts

    def vectors(self, wanted: Iterable[str]) -> dict[str, np.ndarray]:
        encoded = {word.encode() for word in wanted}
        return {
            word.decode(): np.frombuffer(numbers, "<f4").astype(np.float32)
            for word, numbers in self._entries()
            if word in encoded
        }

    def words(self) -> Iterator[str]:
        for word, _ in self._entries():
            yield word.decode("utf-8", "replace")

    def _entries(self) -> Iterator[tuple[bytes, bytes]]:
        size = 4 * self._width
        with self._path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
            place = memory.find(b"\n") + 1
            for number in range(self._count):
                end = memory.find(b" ", place)
                if end < 0 or end + 1 + size > len(memory):
                    raise DataError(f"{self._path}: ends within word {number + 1} of {self._count:,}: it is cut off")
                yield memory[place:end].lstrip(b"\n"), memory[end + 1 : end + 1 + size]
                place = end + 1 + size


class FastTextBinary:
    """A fastText model: a word's vector is the mean of its own and those of its parts, so unknown words have one too.

    Parts are the runs of minn to maxn letters of `<word>`, which share `bucket` rows of the matrix by their hash.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._read()
        except (struct.error, ValueError, IndexError) as error:
            raise DataError(f"{path}: a fastText model that cannot be read: {error}") from None

    def _read(self) -> None:
        with self._path.open("rb") as file:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        place = 0

        def take(layout: str) -> tuple[Any, ...]:
            nonlocal place
            values = struct.unpack_from("<" + layout, memory, place)
            place += struct.calcsize("<" + layout)
            return values

        _, version = take("ii")
        dim, _, _, _, _, _, _, _, bucket, self._minn, self._maxn, _, _ = take("12id")
        if version == 11:
            self._maxn = 0  # classifiers of that time had no parts
        size, words, _, _, pruned = take("iiiqq")
        if pruned > 0:
            raise DataError(f"{self._path}: a pruned fastText model; use the full .bin, or the .vec text file")
        self._places: dict[str, int] = {}
        for number in range(size):
            end = memory.find(b"\0", place)
            if end < 0:
                raise ValueError("its list of words is cut off")
            if number < words:
                self._places[memory[place:end].decode("utf-8", "replace")] = number
            place = end + 1 + 8 + 1  # after the name: how often it occurred, and whether it is a label
        (quantized,) = take("?")
        if quantized:
            raise DataError(f"{self._path}: a quantized fastText model; use the full .bin, or the .vec text file")
        rows, columns = take("qq")
        if columns != dim or rows != words + bucket:
            raise ValueError(f"a matrix of {rows} x {columns} for {words} words, {bucket} buckets and width {dim}")
        self._matrix = np.frombuffer(memory, "<f4", rows * columns, place).reshape(rows, columns)
        self._bucket = bucket

    def vectors(self, wanted: Iterable[str]) -> dict[str, np.ndarray]:
        return {w: self._mean([self._places[w], *self._parts(w)]) for w in wanted if w in self._places}

    def guess(self, word: str) -> np.ndarray | None:
        parts = self._parts(word)
        return self._mean(parts) if parts else None

    def _mean(self, rows: list[int]) -> np.ndarray:
        mean: np.ndarray = self._matrix[rows].mean(axis=0)
        return mean

    def words(self) -> Iterator[str]:
        return iter(self._places)

    def _parts(self, word: str) -> list[int]:
        if not self._bucket or self._maxn <= 0:
            return []
        letters = f"<{word}>"
        spans = [
            letters[start : start + length]
            for start in range(len(letters))
            for length in range(self._minn, self._maxn + 1)
            if start + length <= len(letters) and not (length == 1 and (start == 0 or start + length == len(letters)))
        ]
        return [len(self._places) + fasttext_hash(span.encode()) % self._bucket for span in spans]


def fasttext_hash(text: bytes) -> int:
    """FNV-1a of 32 bits as fastText computes it: each byte is taken as a signed number first."""
    value = 2166136261
    for byte in text:
        value ^= byte | 0xFFFFFF00 if byte > 127 else byte
        value = value * 16777619 & 0xFFFFFFFF
    return value
