"""Parquet files with the images in them, as Hugging Face's `datasets` writes them: unpacked once into the cache.

A column of {bytes, path} holds the images, or one of bytes that begin as image files do. A dataset in several files,
`train-00000-of-00003.parquet` and so on, is named by any of them. The names of labels that are numbers (ClassLabel) are
in the file's metadata under `huggingface`, which `datasets` 1 to 5 write alike.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mldec.data import parquet_file
from mldec.data.folder_tree import is_image_name
from mldec.data.image import MAX_BYTES
from mldec.data.own.documents import LABEL_KEYS
from mldec.data.parquet_file import naming_parquet
from mldec.data.text_rows import LOG_SECONDS
from mldec.errors import DataError, printable_name, setting
from mldec.files import lock_file, without_links, write_text
from mldec.untrusted import MAX_SMALL, parse_json, read_json

logger = logging.getLogger(__name__)

PER_FOLDER = 10_000  # images
NAMES = "names.json"  # in the folder of the images: their names, in the order of the rows
MOST_SHARDS = 100_000
LONGEST_PATH = 4096
LOOKED_AT = 10_000  # values of a column that may hold images
#: As the hub names the files of a set, those of 2022 and 2023 with 16 digits behind.
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(-[0-9a-f]{16})?\.parquet")
_NUMBERED = re.compile(r"\d{4}\.parquet")  # as the hub names those that it converted
_SAFE = re.compile(r"\w[\w .()+,=@-]{0,59}")  # at most 240 bytes
#: How files of images begin.
STARTS = {
    b"\xff\xd8\xff": ".jpg",
    b"\x89PNG\r\n": ".png",
    b"GIF8": ".gif",
    b"RIFF": ".webp",
    b"BM": ".bmp",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
}


def shards_of(path: str) -> list[str]:
    """The files of which `path`, such as train-00000-of-00003.parquet, is one; others stand alone.

    Raises DataError where one of them is missing.
    """
    folder, name = os.path.split(path)
    if _NUMBERED.fullmatch(name):
        return [
            os.path.join(folder, other) for other in sorted(os.listdir(folder or ".")) if _NUMBERED.fullmatch(other)
        ]
    found = _SHARD.fullmatch(name)
    if found is None or not 1 < int(found["count"]) <= MOST_SHARDS:
        return [path]
    stem, count = found["stem"], int(found["count"])
    matches = filter(None, map(_SHARD.fullmatch, sorted(os.listdir(folder or "."))))
    files = [(int(one["number"]), one[0]) for one in matches if (one["stem"], int(one["count"])) == (stem, count)]
    if missing := sorted({*range(count)} - {number for number, _ in files}):
        shown = ", ".join(f"{stem}-{number:05d}-of-{count:05d}.parquet" for number in missing[:3])
        raise DataError(
            f"{path}: is one of {count:,} files, of which {len(missing):,} are missing ({shown}"
            f"{', …' if len(missing) > 3 else ''}); put all into one folder"
        )
    if len(files) > count:
        raise DataError(
            f"{path}: is one of {count:,} files, and {len(files):,} lie beside it; keep those of one download"
        )
    return [os.path.join(folder, name) for _, name in files]


def shard_stem(name: str) -> str | None:
    """`train` for the first file of a set, train-00000-of-00003.parquet; "" for the others; None for other names."""
    if _NUMBERED.fullmatch(name):
        return None if int(name[:4]) == 0 else ""
    found = _SHARD.fullmatch(name)
    return None if found is None else found["stem"] if int(found["number"]) == 0 else ""


def class_names(schema: Any) -> dict[str, tuple[str, ...]]:
    """The names of the labels that columns hold as numbers, as Hugging Face's metadata in a schema has them."""
    text = (schema.metadata or {}).get(b"huggingface", b"")
    try:
        features = parse_json(text[:MAX_SMALL].decode())["info"]["features"]
        found = {name: _names_of(feature) for name, feature in features.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {name: names for name, names in found.items() if names}


def _names_of(feature: Any) -> tuple[str, ...]:
    if isinstance(feature, list) and len(feature) == 1:  # as `datasets` before 4 could write a sequence
        feature = feature[0]
    if isinstance(feature, dict) and feature.get("_type") in ("Sequence", "List", "LargeList"):
        feature = feature.get("feature")
    if isinstance(feature, dict) and "_type" not in feature:  # of boxes, such as {"bbox": …, "category": ClassLabel}
        key = next((key for key in LABEL_KEYS if key in feature), None)
        return _names_of(feature[key]) if key is not None and key != "feature" else ()
    names = feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
    return tuple(map(str.strip, names)) if isinstance(names, list) and all(isinstance(n, str) for n in names) else ()


@dataclass(frozen=True)
class ImagesInside:
    """The images that Parquet files hold.

    Attributes:
        files: the files, in the order of their rows.
        column: of the images.
        content: the leaf of the schema that has their bytes.
        names: the leaf that has the names of their files; None where there is none.
    """

    files: tuple[str, ...]
    column: str
    content: str
    names: str | None

    def folder(self, cache: str | None) -> str:
        """Where the images are unpacked to, in the folder `cache`: another one for files that have changed.

        Raises DataError if no cache is known.
        """
        if cache is None:
            raise DataError(f"{self.files[0]}: its images are unpacked into a cache; use dataset.cache=FOLDER")
        places = [(os.path.abspath(file), os.stat(file)) for file in self.files]
        stamps = [(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns) for path, status in places]
        key = hashlib.sha256(json.dumps([1, self.content, stamps]).encode()).hexdigest()[:16]
        return os.path.abspath(os.path.join(cache, f"images-{key}"))

    def unpack(self, cache: str | None) -> list[str]:
        """The names of the images of all rows, relative to `folder(cache)`, into which they are unpacked once.

        Raises:
            DataError: there is no room, a row has no image, or more is unpacked than the files say.
        """
        folder = self.folder(cache)
        if not os.path.isdir(folder):
            try:
                os.makedirs(os.path.dirname(folder), exist_ok=True)
                with open(f"{folder}.lock", "a", opener=without_links) as lock:
                    lock_file(lock, lock.name, wait=True)  # the processes of a run want the same images
                    if not os.path.isdir(folder):
                        self._unpack(folder)
                    with contextlib.suppress(FileNotFoundError):  # another process was here before
                        os.unlink(lock.name)
            except OSError as error:
                raise DataError(
                    f"{self.files[0]}: its images cannot be unpacked into {folder}: {error.strerror or error}; use "
                    "dataset.cache=FOLDER"
                ) from None
        try:
            names = read_json(os.path.join(folder, NAMES))
        except (OSError, DataError):
            names = None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(f"{os.path.join(folder, NAMES)}: is damaged; remove {folder}, and it is made anew")
        return names

    def _unpack(self, folder: str) -> None:
        with naming_parquet(self.files[0]):
            names = self._file_names()
            size = sum(parquet_file.leaf_size(file, self.content) for file in self.files)
        free = shutil.disk_usage(os.path.dirname(folder)).free
        if size > free:
            raise DataError(
                f"{self.files[0]}: its images have {size / 2**20:,.0f} MB, and {free / 2**20:,.0f} MB are free in "
                f"{os.path.dirname(folder)}; use dataset.cache=FOLDER on another disk"
            )
        message = "unpacking %s images, %s MB, of %s into %s (once)"
        logger.info(message, f"{len(names):,}", f"{size / 2**20:,.1f}", self.files[0], folder)
        draft = f"{folder}.draft"  # of a process that was killed, if it exists
        shutil.rmtree(draft, ignore_errors=True)
        try:
            os.mkdir(draft)  # never through a link in a folder that others may write to
            self._write(draft, names, most=4 * size + 2**26)
            os.rename(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _write(self, folder: str, names: list[str], *, most: int) -> None:
        logged = time.monotonic()
        for row, content in enumerate(self._images()):
            if row >= len(names):
                raise DataError(f"{self.files[0]}: has more rows than it says")
            if not is_image_name(names[row]):
                names[row] += next((end for start, end in STARTS.items() if content.startswith(start)), "")
            most -= len(content)
            if most < 0:
                raise DataError(f"{self.files[0]}: its images unpack to far more than the file says, as bombs do")
            path = os.path.join(folder, names[row])
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "xb") as file:
                file.write(content)
            if row % 64 == 0 and time.monotonic() - logged >= LOG_SECONDS:
                logged = time.monotonic()
                logger.info("unpacking %s: %.0f %%", self.files[0], 100 * row / len(names))
        write_text(os.path.join(folder, NAMES), json.dumps(names))

    def _images(self) -> Iterator[bytes]:
        for path in self.files:
            with naming_parquet(path):
                for row, content in enumerate(parquet_file.read_values(path, self.content), start=1):
                    if not content:
                        raise DataError(f"{path} row {row}: no image in column {printable_name(self.column)}")
                    if len(content) > MAX_BYTES:
                        raise DataError(
                            f"{path} row {row}: an image of {len(content):,} bytes; {MAX_BYTES:,} are allowed"
                        )
                    yield content

    def _texts(self) -> Iterator[Any]:
        for path in self.files if self.names is not None else ():
            yield from parquet_file.read_values(path, str(self.names))

    def _file_names(self) -> list[str]:
        """Those that the images had, if all differ and can be names here; else numbers, without a suffix."""
        count = sum(map(parquet_file.count_rows, self.files))
        names: list[str] = []
        for text in self._texts():
            name = re.split(r"[/\\]", text)[-1] if isinstance(text, str) and len(text) <= LONGEST_PATH else ""
            if not _SAFE.fullmatch(name) or not is_image_name(name):
                break
            names.append(name)
        if len({name.lower() for name in names}) < count:
            names = [f"{row:0{len(str(count))}d}" for row in range(count)]
        if count <= PER_FOLDER:
            return names
        return [f"{row // PER_FOLDER:05d}/{name}" for row, name in enumerate(names)]


def find_images_inside(path: str, chosen: str | None = None) -> ImagesInside | None:
    """The images that a Parquet file holds; None for one that does not, and for every other file.

    Args:
        chosen: the column of images or of their paths, where the user names it.

    Raises DataError where several columns hold images and none is chosen, or where a file of several is missing.
    """
    if not path.lower().endswith(".parquet"):
        return None
    with naming_parquet(path):
        status = os.stat(path)
        return _find(path, chosen, (status.st_size, status.st_mtime_ns, status.st_ctime_ns))


@functools.lru_cache(maxsize=16)
def _find(path: str, chosen: str | None, stamp: tuple[int, ...]) -> ImagesInside | None:
    """`stamp` changes with the file."""
    schema = parquet_file.read_schema(path)
    arrow, _ = parquet_file.import_pyarrow()
    found = {field.name: leaf for field in schema if (leaf := _leaf_of(arrow.types, field)) is not None}
    if chosen is not None:
        found = {chosen: found[chosen]} if chosen in found else {}
    found = {name: leaf for name, leaf in found.items() if _holds_images(path, leaf, named=leaf != name)}
    if len(found) > 1:
        shown = ", ".join(map(printable_name, found))
        choices = " or ".join(setting("dataset.path_column", name) for name in list(found)[:4])
        raise DataError(f"{path}: which of the columns {shown} holds the images? Use {choices}")
    for column, leaf in found.items():
        inner = schema.field(column).type if leaf != column else ()
        named = any(field.name == "path" and _is_text(arrow.types, field.type) for field in inner)
        return ImagesInside(tuple(shards_of(path)), column, leaf, f"{column}.path" if named else None)
    return None


def _leaf_of(types: Any, field: Any) -> str | None:
    """The leaf with the bytes of a column that may hold images."""
    if types.is_struct(field.type):
        fits = any(inner.name == "bytes" and _is_bytes(types, inner.type) for inner in field.type)
        return f"{field.name}.bytes" if fits else None
    return field.name if _is_bytes(types, field.type) else None


def _holds_images(path: str, leaf: str, *, named: bool) -> bool:
    """Whether a leaf holds images: any bytes where it is `named` so, in a column of {bytes, path}."""
    first = next((value for value in itertools.islice(parquet_file.read_values(path, leaf), LOOKED_AT) if value), b"")
    return bool(first) and (named or any(first.startswith(start) for start in STARTS))


def _is_bytes(types: Any, kind: Any) -> bool:
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _is_text(types: Any, kind: Any) -> bool:
    return bool(types.is_string(kind) or types.is_large_string(kind))
