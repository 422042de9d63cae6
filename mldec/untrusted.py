"""Files that others made: opened only where they are regular, read no further than a bound, and refused in one line.

A link to a device never ends, a pipe waits for a writer that does not come, and a sparse file of a few bytes on disk
holds gigabytes of zeros. What reads files of datasets, label embeddings, lists and run directories opens them here.
"""

from __future__ import annotations

import io
import json
import os
import stat
from collections import Counter
from typing import Any

from mldec.errors import DataError, shortened

MAX_JSON = 8 * 2**30  # bytes of a file of annotations: LVIS has 1.1 GB, Objects365 about 6
MAX_LINE = 64 * 2**20  # bytes of a line: a header that names a million columns fits
MAX_SMALL = 64 * 2**20  # bytes of a file that describes one image, or lists names
MAX_LIST = 2**30  # bytes of a list of paths: ten million
CHUNK = 2**20


def open_regular(path: str | os.PathLike[str], *, most: int | None = None) -> io.FileIO:
    """Open a regular file, or a link to one, for reading bytes, without a buffer.

    Args:
        most: its size in bytes may be at most this; None: any size, for readers that bound what they keep.

    Raises:
        DataError: it is a folder, a device, a pipe or a socket, or larger than `most`; names the file.
        OSError: it does not exist, or may not be read.
    """
    path = os.fspath(path)
    _check_kind(path, os.stat(path))  # before it is opened: opening alone sets some devices going
    no_wait = getattr(os, "O_NONBLOCK", 0)
    file = open(path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | no_wait))  # noqa: SIM115
    try:
        status = os.fstat(file.fileno())
        _check_kind(path, status)
        if most is not None and status.st_size > most:
            raise DataError(f"{path}: {status.st_size:,} bytes; at most {most:,} are read of such a file")
    except BaseException:
        file.close()
        raise
    return file


def check_regular(path: str | os.PathLike[str]) -> None:
    """Raise what `open_regular` raises, for a library that opens the file itself."""
    open_regular(path).close()


def read_bytes(path: str | os.PathLike[str], *, most: int) -> bytes:
    """A whole file of at most `most` bytes. Raises as `open_regular` does, also if it grows while it is read."""
    with open_regular(path, most=most) as file:
        parts, size = [], 0
        while part := file.read(min(CHUNK, most + 1 - size)):
            parts.append(part)
            size += len(part)
            if size > most:
                raise DataError(f"{os.fspath(path)}: more than {most:,} bytes; no more are read of such a file")
    return b"".join(parts)


def open_text(
    path: str | os.PathLike[str], *, encoding: str = "utf-8-sig", errors: str = "strict", newline: str | None = None
) -> TextFile:
    """Open a text file of any size for reading line by line.

    Raises:
        DataError: as `open_regular`; while it is read, for a NUL byte or a line longer than MAX_LINE.
        OSError: it does not exist, or may not be read.
    """
    return TextFile(_TextBytes(open_regular(path), os.fspath(path)), encoding=encoding, errors=errors, newline=newline)


def open_lines(path: str | os.PathLike[str], *, most: int = MAX_LINE) -> io.BufferedReader:
    """Open a text file of any size for reading its lines, of at most about `most` bytes, as bytes.

    Raises DataError and OSError as `open_text` does.
    """
    return io.BufferedReader(_TextBytes(open_regular(path), os.fspath(path), most), CHUNK)


def read_json(path: str | os.PathLike[str], *, most: int = MAX_JSON) -> Any:
    """The content of a JSON file in UTF-8.

    Raises:
        DataError: it cannot be opened, is too large, is not JSON, or an object in it repeats a key; names the file.
    """
    path = os.fspath(path)
    try:
        with open_regular(path, most=most) as file:
            content = _TextBytes(file, path).readall()
        return parse_json(content.decode("utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except MemoryError:
        raise DataError(f"{path}: is too large to be read as JSON with the memory that is free") from None
    except ValueError as error:  # UnicodeDecodeError, too
        raise DataError(f"{path}: cannot be read as JSON, or was cut short: {error}") from None


def parse_json(text: str) -> Any:
    """The value that JSON stands for. Raises ValueError for what is none, is nested too deeply, or repeats a key."""
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _without_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. Python's reader keeps the last of several values of a key; this one takes 4 % longer."""
    found = dict(pairs)
    if len(found) < len(pairs):
        ((key, count),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"an object has the key {shortened(repr(key))} {count} times; leave it there once")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_without_repeated)


class TextFile(io.TextIOWrapper):
    """A text file that `open_text` opened."""

    def __init__(self, source: _TextBytes, *, encoding: str, errors: str, newline: str | None) -> None:
        self._source = source
        super().__init__(io.BufferedReader(source, CHUNK), encoding=encoding, errors=errors, newline=newline)

    @property
    def done(self) -> int:
        """How many bytes of the file were read by now."""
        return self._source.done


class _TextBytes(io.RawIOBase):
    """The bytes of a file as long as they may be text: without NUL, in lines of at most MAX_LINE.

    Args:
        most: read by lines of bytes, which end with a newline alone, of at most about so many.
    """

    def __init__(self, file: io.FileIO, path: str, most: int | None = None) -> None:
        self._file, self._path, self._most, self._line = file, path, most, 0
        self.done = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        count = self._file.readinto(buffer)
        if count:
            self._check(bytes(memoryview(buffer)[:count]))
        return count

    def readall(self) -> bytes:
        """All that is left, whatever the length of its lines: JSON is often a single one."""
        parts = []
        while part := self._file.read(CHUNK):
            self._refuse_nul(part)
            parts.append(part)
        return b"".join(parts)

    def close(self) -> None:
        self._file.close()
        super().close()

    def _check(self, part: bytes) -> None:
        self.done += len(part)
        self._refuse_nul(part)
        last = max(part.rfind(b"\n"), -1 if self._most else part.rfind(b"\r"))
        self._line = len(part) - 1 - last if last >= 0 else self._line + len(part)
        if self._line > (most := self._most or MAX_LINE):
            raise DataError(f"{self._path}: a line of more than {most:,} bytes; is it a text file?")

    def _refuse_nul(self, part: bytes) -> None:
        if b"\0" in part:
            raise DataError(
                f"{self._path}: holds NUL bytes, so it is no text in UTF-8 (binary, sparse, or saved as UTF-16); save "
                "it as UTF-8"
            )


def _check_kind(path: str, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise DataError(f"{path}: is a folder; a file is needed")
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path}: is not a regular file but a device, a pipe or a socket, which are never read")
