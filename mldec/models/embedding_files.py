"""Files of label embeddings: GloVe, word2vec and fastText text (.vec, .txt), and arrays (.npy, .pth).

A text file of two million words is streamed once and only the requested words are kept. An array is mapped, and only
its requested rows are read. Nothing in a file can run code.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from mldec.errors import DataError, first_lines, shortened, whole_number
from mldec.labels import repeated_names
from mldec.models.tensor_files import read_torch_file
from mldec.untrusted import MAX_SMALL, check_regular, open_lines, open_regular, parse_json, read_bytes

ARRAYS = (".npy", ".pth", ".pt")
MAX_WIDTH = 65_536  # numbers per label
MAX_LINE = 32 * MAX_WIDTH  # bytes
FASTTEXT_MAGIC = struct.pack("<i", 793712314)


def open_embedding_file(path: Path, names: str | None = None) -> NamedArray | EmbeddingText:
    """The reader for a file, chosen by its suffix and first bytes.

    Args:
        names: the file that names the rows of an array.

    Raises:
        DataError: the format is not supported; the message says how to convert the file.
    """
    check_format(path)
    if is_array(path):
        if names is None:
            raise DataError(f"{path}: an array has no names; list them in a file: head.label_embeddings.names=FILE")
        return NamedArray(path, read_name_list(Path(names).expanduser()))
    if names is not None:
        raise DataError(
            f"head.label_embeddings.names={names}: without effect for {path.name}, which has names of its own"
        )
    return EmbeddingText(path)


def is_array(path: Path) -> bool:
    return path.suffix in ARRAYS


def check_format(path: Path) -> None:
    """Raise DataError for a file that must be decompressed or converted first; the message says how."""
    if path.suffix == ".gz":
        raise DataError(f"{path}: compressed; decompress it first (gunzip -k {path}) and use {path.with_suffix('')}")
    if path.suffix in (".pickle", ".pkl"):
        target = path.with_suffix(".npy")
        raise DataError(
            f"{path}: pickles are not read, since loading one runs the code in it. If you trust its source, convert it "
            "in Python and use the new file:\n"
            "  import pickle, numpy\n"
            f"  numpy.save({str(target)!r}, pickle.load(open({str(path)!r}, 'rb')))"
        )
    if is_array(path):
        return
    with open_regular(path) as file:
        is_fasttext = file.read(len(FASTTEXT_MAGIC)) == FASTTEXT_MAGIC
    if is_fasttext or path.suffix == ".bin":
        kind, module, name, call, options = (
            ("fastText", "gensim.models.fasttext", "load_facebook_vectors", "", "")
            if is_fasttext
            else ("word2vec", "gensim.models", "KeyedVectors", ".load_word2vec_format", ", binary=True")
        )
        raise DataError(
            f"{path}: binary files of {kind} are not read. Convert it to text in Python (pip install gensim) and use "
            f"the new file:\n  from {module} import {name}\n"
            f"  {name}{call}({str(path)!r}{options}).save_word2vec_format({str(path.with_suffix('.vec'))!r})"
        )


def read_array(path: Path, rows: int, named: str = "names") -> np.ndarray:
    """The array (rows, width) of numbers in a .npy file, or the tensor in a .pth one; also where it is transposed.

    No code in the file is run. A .npy file is mapped: no more of it is read than is used, and a shape that is larger
    than the file is an error. Raises DataError, also for a wrong number of rows, and more than MAX_WIDTH columns.
    """
    try:
        check_regular(path)
        is_npy = path.suffix == ".npy"
        array = np.load(path, allow_pickle=False, mmap_mode="r") if is_npy else read_torch_file(path)
        if isinstance(array, torch.Tensor):
            array = (array.float() if array.is_floating_point() else array).numpy()  # numpy has no bfloat16
    except Exception as error:  # damaged files fail with errors of a dozen types
        raise DataError(f"{path}: cannot be read as an array: {first_lines(error)}") from None
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "fiu":
        found = f"shape {array.shape}, {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
        raise DataError(f"{path}: expected an array of numbers with rows and columns, found {found}")
    if len(array) != rows and array.shape[1] == rows:
        array = array.T
    if len(array) != rows or not 1 <= array.shape[1] <= MAX_WIDTH:
        raise DataError(
            f"{path}: an array of shape {array.shape} for {rows} {named}; at most {MAX_WIDTH:,} numbers each are read"
        )
    return array


def read_name_list(path: Path) -> list[str]:
    """Names in order, from a JSON list, a JSON object {"0": name, …}, or a text file with one name per line."""
    text = _read_text("names", path)
    if path.suffix != ".json":
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        content = parse_json(text)
        if isinstance(content, dict):
            content = [content[key] for key in sorted(content, key=int)]
    except ValueError as error:
        raise DataError(f"head.label_embeddings.names={path}: cannot be read: {error}") from None
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        raise DataError(f'head.label_embeddings.names={path}: expected a list of names or {{"0": name, …}}')
    return content


def read_aliases(path: Path) -> dict[str, str]:
    """Lines `label<tab>text`: the text that is looked up instead of each label.

    Raises DataError for any other line, and for a repeated label.
    """
    aliases: dict[str, str] = {}
    for number, line in enumerate(_read_text("aliases", path).splitlines(), start=1):
        if not line.strip():
            continue
        label, _, text = (part.strip() for part in line.partition("\t"))
        if not label or not text or label in aliases:
            raise DataError(
                f"head.label_embeddings.aliases={path} line {number}: expected label<tab>text, each label once; "
                f"found '{shortened(line)}'"
            )
        aliases[label] = text
    return aliases


def _read_text(setting: str, path: Path) -> str:
    """The text of a small file in UTF-8 that a setting names."""
    try:
        return read_bytes(path, most=MAX_SMALL).decode("utf-8-sig")
    except (DataError, OSError, UnicodeDecodeError) as error:
        raise DataError(f"head.label_embeddings.{setting}={path}: cannot be read: {error}") from None


class NamedArray:
    """An array with a name for each row, or for each column as in the published file of NUS-WIDE (300, 1006)."""

    def __init__(self, path: Path, names: list[str]) -> None:
        if repeated := repeated_names(names):
            raise DataError(
                f"{path}: names must differ; head.label_embeddings.names lists more than once: "
                f"{', '.join(repeated[:5])}. Give each row its own name"
            )
        self._rows, self._names = read_array(path, len(names)), names

    def vectors(self, wanted: Iterable[str]) -> dict[str, np.ndarray]:
        """The float32 vectors of those of `wanted` that the file has, all of one width."""
        wanted = set(wanted)
        return {n: self._rows[i].astype(np.float32) for i, n in enumerate(self._names) if n in wanted}

    def words(self) -> Iterator[str]:
        """All words, in the order of the file."""
        return iter(self._names)


class EmbeddingText:
    """One word and its numbers per line; word2vec and fastText begin with a line of the number of words and the width.

    Some files have words with spaces, so a line is parsed from its end.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with open_lines(path, most=MAX_LINE) as file:
            first = file.readline().split()
            counts = [whole_number(field.decode("latin-1")) for field in first[:3]]
            self._header = len(first) == 2 and None not in counts
            self._width = (counts[1] or 0) if self._header else _numbers_at_end(first)
            line = file.readline() if self._header else b" ".join(first)
        if not 1 <= self._width <= MAX_WIDTH or len(line.split()) <= 1:
            raise DataError(
                f"{path}: expected a word and its numbers in each line, at most {MAX_WIDTH:,}; found {line[:60]!r}"
            )
        self._row(line, 2 if self._header else 1)

    def vectors(self, wanted: Iterable[str]) -> dict[str, np.ndarray]:
        """As `NamedArray.vectors`."""
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
        """As `NamedArray.words`."""
        for _, line in self._lines():
            yield line.rstrip().rsplit(b" ", self._width)[0].decode("utf-8", "replace")

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        with open_lines(self._path, most=MAX_LINE) as file:
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
                f"{self._path} line {number}: expected {self._width} numbers after the word; {shortened(error)}"
            ) from None


def _numbers_at_end(fields: list[bytes]) -> int:
    """The number of numbers at the end of a line; its first field is always a word."""
    count = 0
    for field in reversed(fields[1:]):
        try:
            float(field)
        except ValueError:
            break
        count += 1
    return count
