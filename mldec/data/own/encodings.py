"""The encoding of a text file: UTF-8, UTF-16, or the one of Western Windows where nothing else is likely.

Spreadsheets write what their language and version prefer. UTF-8 and a byte order mark are proof. Bytes that are no
UTF-8 are read as cp1252 if its letters alone stand where they would in a Western language; otherwise the user decides.
"""

from __future__ import annotations

import codecs
import io
import re
from dataclasses import dataclass
from typing import IO

from mldec.errors import DataError, printable_name
from mldec.untrusted import CHUNK, open_regular, open_text, read_bytes

MAX_DECODED = 2**29  # bytes of a file in UTF-16 or with a declared encoding, which is decoded whole
#: What a file is likely to be in, in the order that an error offers them.
CANDIDATES = ("cp1252", "mac_roman", "cp850", "cp1251", "gb18030", "shift_jis")
_OTHER_BYTES = re.compile(rb"[\x80-\xff]+")
# In cp1252 0x80 to 0x9f are signs, of which ’ alone stands between letters; ÿ (0xff) is in hardly any language.
_NOT_WESTERN = re.compile(rb"[\x81\x8d\x8f\x90\x9d\xff]|[A-Za-z][\x80-\x91\x93-\x9f][A-Za-z]|[\x80-\xff]{3}")


@dataclass(frozen=True)
class Encoding:
    """How the bytes of a file become text.

    Attributes:
        name: as Python knows it; of UTF-8, `utf-8-sig`, which takes a byte order mark or none.
        decided: it was inferred from bytes that are no UTF-8.
        simple: the file is known to have no quotation marks, and no # of a comment.
    """

    name: str
    decided: bool = False
    simple: bool = False


def find_encoding(path: str, chosen: str | None = None) -> Encoding:
    """The encoding of a file: `chosen`, or that of its byte order mark, UTF-8, or cp1252.

    Raises:
        DataError: `chosen` is none that Python has, or the file is in none of these; names the file and its line.
        OSError: it cannot be read.
    """
    if chosen is not None:
        try:
            info = codecs.lookup(chosen)
        except (LookupError, ValueError):
            raise DataError(
                f"dataset.encoding={chosen}: no such encoding; such as utf-8, {', '.join(CANDIDATES)}"
            ) from None
        if not info._is_text_encoding:
            raise DataError(f"dataset.encoding={chosen}: is no encoding of text; such as {', '.join(CANDIDATES)}")
        return Encoding("utf-8-sig" if info.name == "utf-8" else info.name)
    decoder, begin, simple = codecs.getincrementaldecoder("utf-8")(), 0, True
    with open_regular(path) as file:
        first = file.read(CHUNK)
        if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return Encoding("utf-16")
        if len(first) > 3 and 0 in first[:4] and _without_mark(first) is not None:
            name = _without_mark(first)
            raise DataError(
                f"{path}: holds NUL bytes, as UTF-16 without a byte order mark does: dataset.encoding={name}"
            )
        part = first
        while part:
            if b"\0" in part:
                raise DataError(
                    f"{path}: holds NUL bytes, so it is no text in UTF-8 (binary or sparse); save it as CSV"
                )
            simple = simple and b'"' not in part and b"#" not in part
            try:
                if not part.isascii() or decoder.getstate()[0]:
                    decoder.decode(part)
            except UnicodeDecodeError as error:
                return _decide(path, begin + error.start)
            begin += len(part)
            part = file.read(CHUNK)
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return _decide(path, begin)
    return Encoding("utf-8-sig", simple=simple)


def open_decoded(path: str, encoding: Encoding) -> IO[str]:
    """Open a text file, with the ends of its lines as they are.

    Raises:
        DataError: as `open_text`, or it is too large for an encoding that is decoded whole.
        OSError, UnicodeDecodeError: it cannot be read, at once or while it is.
    """
    if encoding.name.startswith(("utf-16", "utf_16", "utf-32", "utf_32")):
        return io.StringIO(read_bytes(path, most=MAX_DECODED).decode(encoding.name), newline="")
    return open_text(path, encoding=encoding.name, newline="")


def _without_mark(first: bytes) -> str | None:
    """UTF-16 of the order in which every second byte of an ASCII beginning is zero."""
    begin = first[:64]
    if not any(begin[::2]) and all(begin[1::2]):
        return "utf-16-be"
    return "utf-16-le" if not any(begin[1::2]) and all(begin[::2]) else None


def _decide(path: str, place: int) -> Encoding:
    """cp1252 for a file that is no UTF-8 from a byte on, where it is likely to be that."""
    with open_regular(path) as file:
        sample = file.read(16 * CHUNK)
        while part := file.read(CHUNK):
            if _OTHER_BYTES.search(part):
                sample += part if len(sample) < 64 * CHUNK else b""
    utf8 = sample.decode("utf-8", "surrogateescape")
    if not any("\x7f" < sign < "\ud800" or sign > "\udfff" for sign in utf8) and not _NOT_WESTERN.search(sample):
        return Encoding("cp1252", decided=True)
    line = 1 + sample[:place].count(b"\n")
    shown = next((found for found in _OTHER_BYTES.finditer(sample)), None)
    around = b"" if shown is None else sample[max(0, shown.start() - 8) : shown.end() + 8]
    around = max(re.split(rb"[\r\n\t,;|]", around), key=lambda part: len(_OTHER_BYTES.findall(part)))
    choices = []
    for name in CANDIDATES:
        try:
            choices.append(f"dataset.encoding={name} (reads {printable_name(around.decode(name))!r})")
        except UnicodeDecodeError:
            continue
    raise DataError(
        f"{path} line {line}: cannot be read as CSV in UTF-8, nor is another encoding certain; save it as UTF-8, or "
        "use " + " or ".join(choices[:4])
    )
