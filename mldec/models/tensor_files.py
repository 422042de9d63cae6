"""Reading untrusted files of tensors that torch saved, without running code and with limits on memory.

Refused before anything is built: archives with compressed records (torch compresses none, and one can be a thousand
times larger than its file), records that share bytes, and the files that `mldec/models/pickles.py` refuses.
"""

from __future__ import annotations

import argparse
import os
import struct
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from mldec.errors import CheckpointError, first_lines
from mldec.models.pickles import MOST_BYTES, Refused, read_plain, rehearse

MOST_RECORDS = 500_000  # of an archive: one per storage
NAME_LENGTH, NAME_PARTS = 512, 64  # of a tensor's name; the longest of timm's have 100 characters and 12 parts

ARCHIVE = b"PK\x03\x04"  # the first bytes of an archive
END, END64, LOCATOR = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"  # of the records at its end


def read_torch_file(path: Path) -> Any:
    """The content of a .pt or .pth file, on the CPU: tensors, dicts, lists, tuples and plain values.

    An `argparse.Namespace` is accepted too, since timm's checkpoints contain one.

    Raises CheckpointError with the reason if it cannot be read, holds anything else, or its sizes exceed the file.
    """
    try:
        # Opened once: a run may replace its checkpoint at any moment, and what is loaded is what was checked.
        with path.open("rb") as file, torch.serialization.safe_globals([argparse.Namespace]):
            size, archive = os.fstat(file.fileno()).st_size, file.read(4) == ARCHIVE
            file.seek(0)
            if archive:
                _check_archive(file, size)
            else:
                _check_sequence(file, size)
            file.seek(0)
            return _plain(torch.load(file, map_location="cpu", weights_only=True), {})
    except Exception as error:  # damaged files fail with errors of a dozen types
        raise CheckpointError(first_lines(error)[:300]) from error


def check_names(names: Any, source: str) -> None:
    """Raise CheckpointError unless every name is one that a tensor of a module can have."""
    for name in names:
        if not isinstance(name, str):
            raise CheckpointError(f"{source}: a tensor has the name {str(name)[:60]!r}; expected text")
        if len(name) > NAME_LENGTH or name.count(".") >= NAME_PARTS:
            raise CheckpointError(
                f"{source}: a tensor has a name of {len(name):,} characters and {name.count('.') + 1:,} parts "
                f"({name[:40]}…); at most {NAME_LENGTH} and {NAME_PARTS} are read"
            )


def _check_archive(file: BinaryIO, size: int) -> None:
    """Raise Refused unless all records of an archive are uncompressed, and its pickle fits them."""
    directory = _directory(file, size)
    with zipfile.ZipFile(file) as archive:
        members = sorted(archive.infolist(), key=lambda member: member.header_offset)
        ends = [member.header_offset for member in members[1:]] + [directory]
        for member, end in zip(members, ends, strict=True):
            name = member.filename
            if not name.isascii() or name != member.orig_filename:
                raise Refused("an archive with a record whose name is not plain ASCII")
            if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
                raise Refused(
                    f"its record {name[:60]} is compressed ({member.compress_size:,} bytes become "
                    f"{member.file_size:,}), which torch never does; unpack the archive and save it again if you "
                    "trust it"
                )
            if member.header_offset + 30 + len(name) + member.file_size > end:
                raise Refused(f"its record {name[:60]} shares bytes with another one")
        sizes = {member.filename: member.file_size for member in members}
        pickles = [name for name in sizes if name.endswith("/data.pkl")]
        if len(sizes) < len(members) or len(pickles) != 1:
            raise Refused("an archive without exactly one data.pkl, or with two records of one name")
        if sizes[pickles[0]] > MOST_BYTES:
            raise Refused(f"its data.pkl has {sizes[pickles[0]]:,} bytes, more than the {MOST_BYTES:,} that are read")
        prefix = pickles[0].removesuffix("data.pkl") + "data/"
        records = {name.removeprefix(prefix): count for name, count in sizes.items() if name.startswith(prefix)}
        rehearse(BytesIO(archive.read(pickles[0])), size, records)
        if damaged := archive.testzip():
            raise Refused(
                f"its record {damaged[:60]} has another checksum than when it was written; get the file again"
            )


def _directory(file: BinaryIO, size: int) -> int:
    """The offset of the directory of an archive.

    Raises Refused where its end is not as torch writes it: Python's reader, which checks it, and torch's could then
    read two different archives.
    """
    file.seek(max(0, size - 98))
    tail = file.read()
    count, length, begin, comment = struct.unpack("<HIIH", tail[-12:]) if len(tail) >= 22 else (0, 0, 0, 1)
    if tail[-22:-18] != END or comment:
        raise Refused("an archive that is cut off, or followed by something else")
    end = size - 22
    if tail[-42:-38] == LOCATOR:
        (place,) = struct.unpack("<Q", tail[-34:-26])
        end = size - 98
        if len(tail) < 98 or tail[:4] != END64 or place != end:
            raise Refused("an archive whose end is damaged")
        count, length, begin = struct.unpack("<QQQ", tail[32:56])
    if count > MOST_RECORDS or begin + length != end:
        raise Refused(f"an archive of {count:,} records whose directory is not at its end")
    return begin


def _check_sequence(file: BinaryIO, size: int) -> None:
    """Check the format of torch before 1.6: pickles one after another, then the values."""
    for _ in range(3):  # a magic number, a version, and the type of the machine
        read_plain(file)
    storages = rehearse(file, size)
    listed = read_plain(file)
    if not isinstance(listed, list) or sorted(map(str, listed)) != sorted(storages):
        raise Refused("it does not hold the values of all its tensors")


def _plain(value: Any, known: dict[int, Any]) -> Any:
    """`value` with builtin containers, whose methods no file can replace, and tensors without attributes.

    Shared containers stay shared.
    """
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
            raise Refused(f"it holds a tensor that is not plain: {value.layout}, {value.device.type}")
        return Tensor.detach(value)
    if not isinstance(value, (dict, list, tuple)):
        return value
    if id(value) not in known:
        if isinstance(value, dict):
            known[id(value)] = {_plain(key, known): _plain(item, known) for key, item in dict.items(value)}
        else:
            items = [_plain(item, known) for item in value]
            known[id(value)] = items if isinstance(value, list) else tuple(items)
    return known[id(value)]
