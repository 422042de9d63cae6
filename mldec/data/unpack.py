"""Archives unpacked as if whoever packed them meant harm: nothing leaves the target, nothing is ever half there."""

from __future__ import annotations

import contextlib
import errno
import gzip
import lzma
import os
import re
import shutil
import stat
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, Any, NoReturn

from mldec.errors import DataError, first_lines, printable

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".gz")
UNFINISHED = ".unpacking"  # a folder of this suffix beside an archive: its unpacking was cut short

CHUNK = 2**20  # bytes
MOST_TIMES = 300  # an archive may unpack to so many times its size; images have 1, sparse tables of text up to 100
SLACK = 2**20  # bytes that even the smallest archive may unpack to
MEMBER_COST = 512  # bytes that a member counts for even if empty: a million empty files are a bomb, too
MARGIN = 2**28  # bytes that stay free on the disk
MOST_HEADER = 2**18  # bytes of a tar's header that holds a long name or attributes; Linux allows names of 4,096
MOST_GLOBAL = 100  # attributes of a tar as a whole; git writes one

_MERGING = threading.Lock()  # two archives may bring the same new folder at once

Member = tuple[str, bool, Callable[[], IO[bytes] | None]]  # its name, whether it is a folder, how to open it


# What zipfile, tarfile and what they decompress with raise for damaged archives, beside an OSError without a number.
_DAMAGE: tuple[type[Exception], ...]
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, EOFError, ValueError)
_DAMAGE += (NotImplementedError, OverflowError, IndexError, KeyError, RecursionError)


class DamagedArchive(DataError):
    """The file is no archive of its kind, or is cut short."""


class BoundedHeader(tarfile.TarInfo):
    """A member of a tar whose headers are of honest size: `tarfile.open(…, tarinfo=BoundedHeader)`.

    tarfile reads pax headers and GNU's long names whole, and lists of the holes of a sparse file, whatever their size;
    packed, a gigabyte of zeros takes a megabyte. Raises tarfile.ReadError instead.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> BoundedHeader:
        info = super().frombuf(buf, encoding, errors)
        if info.type == tarfile.GNUTYPE_SPARSE:
            info._proc_gnusparse_10()
        if not 0 <= info.size <= (MOST_HEADER if info.type in _HEADERS else info.size):
            raise tarfile.ReadError(f"a header of {info.size:,} bytes; at most {MOST_HEADER:,} are read of one")
        return info

    def _proc_gnusparse_10(self, *_: Any) -> NoReturn:
        raise tarfile.ReadError("it has a sparse file, which is not read; pack it without --sparse")


_HEADERS = {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE}
_HEADERS |= {tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}


def unpack(archive: str, target: str, *, top: str | None = None, keep_going: Callable[[], None] = lambda: None) -> None:
    """Unpack a .zip, .tar, .tar.gz, .tgz or .gz (a single file) into the folder `target`, which may hold files.

    Members go into a folder beside the archive first; only when all of them are there are they moved to `target`.
    Folders that exist are merged, files of the same name replaced. As long as `<archive>.unpacking` exists, `target`
    may lack members: call again. Owners, modes and times of the archive are ignored.

    Args:
        top: a folder of the archive that is dropped from its members' paths.
        keep_going: called often; what it raises stops the work and is passed on.

    Raises:
        DamagedArchive: `archive` cannot be read to its end.
        DataError: it has a member that is refused (named in the message): one that would lie outside `target`, a link
            or device, more bytes than an honest archive of its size, or one that something of another kind has the
            name of in `target`. Nothing has been moved to `target` then.
        OSError: no room, or no permission.
    """
    if not archive.lower().endswith(SUFFIXES):
        raise DataError(f"{archive}: this kind of archive is not known; allowed: {', '.join(SUFFIXES)}")
    work = archive + UNFINISHED
    shutil.rmtree(work, ignore_errors=True)  # of a call that was killed
    os.makedirs(work)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, work, ignore_errors=True)
        _extract(archive, work, top, keep_going)
        with _MERGING:
            moves = _planned_moves(archive, work, target)
            stack.pop_all()  # it stays where moving is cut short
            os.makedirs(target, exist_ok=True)
            for source, place in moves:
                if os.path.isdir(source):
                    os.makedirs(place, exist_ok=True)
                else:
                    os.replace(source, place)
    shutil.rmtree(work)


def _extract(archive: str, work: str, top: str | None, keep_going: Callable[[], None]) -> None:
    room = shutil.disk_usage(work).free - MARGIN
    most = MOST_TIMES * os.path.getsize(archive) + SLACK
    spent = 0

    def spend(amount: int, name: str) -> None:
        nonlocal spent
        keep_going()
        spent += amount
        if spent > most:
            raise _refusal(archive, name, f"more than {MOST_TIMES} times the archive's size, as bombs are")
        if spent > room:
            raise OSError(errno.ENOSPC, f"unpacking takes more than the {max(room, 0):,} bytes of room", work)

    try:
        for name, is_folder, open_member in _members(archive):
            parts = _safe_parts(archive, name)
            path = os.path.join(work, *parts[parts[:1] == [top] :])
            spend(MEMBER_COST, name)
            os.makedirs(path if is_folder else os.path.dirname(path), exist_ok=True)
            if is_folder:
                continue
            source = open_member()
            assert source is not None  # a tar's regular file always opens
            with source, open(path, "wb") as file:
                while chunk := source.read(CHUNK):
                    spend(len(chunk), name)
                    file.write(chunk)
    except (FileExistsError, IsADirectoryError, NotADirectoryError):
        raise _refusal(archive, name, "both a file and a folder") from None
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL):
            raise _refusal(archive, name, f"{error.strerror}, for this disk") from None
        if error.errno is not None:
            raise
        raise DamagedArchive(f"{archive} cannot be unpacked: {first_lines(error)}") from None
    except _DAMAGE as error:
        reason = "it is cut short" if isinstance(error, EOFError) else printable(first_lines(error))
        raise DamagedArchive(f"{archive} cannot be unpacked: {reason}") from None


def _members(archive: str) -> Iterator[Member]:
    lower = archive.lower()
    if lower.endswith(".zip"):
        return _zip_members(archive)
    if lower.endswith((".tar", ".tar.gz", ".tgz")):
        return _tar_members(archive, "r:" if lower.endswith(".tar") else "r:gz")
    return iter([(os.path.basename(archive)[: -len(".gz")], False, partial(gzip.open, archive))])  # type: ignore[list-item]


def _zip_members(archive: str) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            name = info.orig_filename  # `filename` is already altered where it holds a NUL
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refusal(archive, name, "a link or device")
            if info.flag_bits & 1:
                raise _refusal(archive, name, "encrypted")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                # zipfile unpacks a whole chunk of these at a time, of which a kilobyte can become gigabytes.
                raise _refusal(archive, name, "packed by another method than deflate")
            yield name, info.is_dir(), partial(opened.open, info)


def _tar_members(archive: str, mode: str) -> Iterator[Member]:
    with tarfile.open(archive, mode, tarinfo=BoundedHeader) as opened:  # type: ignore[call-overload]
        for member in opened:
            if member.size < 0 or len(opened.pax_headers) > MOST_GLOBAL:
                raise tarfile.ReadError(f"member {member.name!r} has a size below 0, or too many attributes before it")
            if not (member.isreg() or member.isdir()):
                raise _refusal(archive, member.name, "a link or device")
            yield member.name, member.isdir(), partial(opened.extractfile, member)
        # tarfile takes a broken header for the end; the true end is a block of zeros.
        opened.fileobj.seek(opened.offset)
        if opened.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it is cut short")


def _safe_parts(archive: str, name: str) -> list[str]:
    """The folders and the file that a member's name consists of."""
    parts = name.split("/")
    if name.startswith("/") or re.match("[A-Za-z]:", name):
        raise _refusal(archive, name, "an absolute path")
    if ".." in parts:
        raise _refusal(archive, name, "a path that leaves the folder")
    if "\\" in name or "\0" in name:
        raise _refusal(archive, name, "a name with a backslash or a zero byte")
    return [part for part in parts if part not in ("", ".")]


def _planned_moves(archive: str, work: str, target: str) -> list[tuple[str, str]]:
    """All folders and files in `work`, folders before what is in them, and their places in `target`.

    Raises DataError if something in `target` is in the way, before anything is moved.
    """
    own, moves = os.path.abspath(os.path.dirname(archive)), []
    for folder, folders, files in os.walk(work):
        below = os.path.relpath(folder, work)
        for name in folders + files:
            member = os.path.normpath(os.path.join(below, name))
            place = os.path.abspath(os.path.join(target, member))
            if os.path.islink(place):
                raise _refusal(archive, member, f"{place} is a link; remove it or unpack by hand")
            if place == own:
                raise _refusal(archive, member, "the folder of the archive itself")
            if os.path.lexists(place) and os.path.isdir(place) != (name in folders):
                raise _refusal(archive, member, f"{place} is there, as {'file' if name in folders else 'folder'}")
            moves.append((os.path.join(folder, name), place))
    return moves


def _refusal(archive: str, member: str, why: str) -> DataError:
    return DataError(f"{archive}: member {member!r} is refused: {why}")
