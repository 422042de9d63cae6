"""Writing files so that they are whole or not there, and nothing stays of what was not finished.

A directory to write into may come from a stranger, with symbolic links where mldec writes. None of them is followed.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows: no locks
    fcntl = None  # type: ignore[assignment]

from mldec.errors import ConfigError, printable_name, shortened

logger = logging.getLogger(__name__)

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}  # of some network file systems
PARTIAL = ".partial"  # in the name of every hidden file that is not finished
LONGEST_ENDING = 100  # bytes of a suffix that is kept, so that the name of a partial file fits into 255


@contextlib.contextmanager
def replacing(path: str | Path, *, sync: bool = False) -> Iterator[Path]:
    """A new, empty, hidden file beside `path` to write to: renamed to `path` when the block ends, removed if it fails.

    It keeps the ending of `path`, by which some libraries choose a format. Its name cannot be guessed, so neither a
    symbolic link in a directory of unknown origin nor another process can stand in its place. With `sync` the content
    is on the disk before the rename, and the rename when the block has ended. Raises OSError that names the file, and
    ConfigError where `path` is a directory.
    """
    path = Path(path)
    if path.is_dir():
        raise ConfigError(f"{path} is a directory; name a file in it")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    try:
        _create(partial, path)
        yield partial
        if sync:
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)
        if sync:
            sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None and error.errno is not None:
            raise OSError(error.errno, f"cannot write: {os.strerror(error.errno)}", str(path)) from error
        raise


def write_text(path: str | Path, text: str, *, sync: bool = False) -> None:
    """Write a text file in UTF-8, whole or not at all; with `sync` it is on the disk before it takes its name.

    Line ends are written as they are. Raises as `replacing`.
    """
    with replacing(path, sync=sync) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        file.write(text)


def sync_folder(folder: Path) -> None:
    """Make new and renamed files of a folder last through a power cut; Windows knows no such thing for folders."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def partial_path(path: Path) -> Path:
    """A hidden path beside `path`, with its ending, that nobody can guess and `remove_partial` finds."""
    ending = path.suffix if len(os.fsencode(path.suffix)) <= LONGEST_ENDING else ""
    return path.with_name(f".{uuid.uuid4().hex}{PARTIAL}{ending}")


def _create(partial: Path, path: Path) -> None:
    """Create the empty file `partial`; an error names `path`."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    try:
        os.close(os.open(partial, flags, 0o666))
    except OSError as error:
        raise OSError(error.errno, f"cannot write: {error.strerror}", str(path)) from error


def without_links(path: str | os.PathLike[str], flags: int) -> int:
    """Open `path` and return its descriptor; an `opener` for `open`, for files that stay where they are.

    Raises ConfigError where `path` is a symbolic link, a directory, a pipe or a device; OSError as `os.open` does.
    """
    special = f"{os.fspath(path)} is not a regular file (a symbolic link, pipe or device?); remove it and try again"
    more = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # a pipe without a reader would block
    try:
        descriptor = os.open(path, flags | more, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENXIO, errno.EISDIR) or os.path.islink(path):
            raise ConfigError(special) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ConfigError(special)
    return descriptor


def lock_file(file: IO[Any] | int, path: str | os.PathLike[str], *, wait: bool = False) -> bool:
    """Lock an open file until it is closed, however its process ends. False if another process holds the lock.

    Where a file system has no locks, nothing is locked, with a warning that names `path`.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        reason = error.strerror
        logger.warning("warning: %s cannot be locked (%s); start no other command that writes there", path, reason)
    return True


def is_open_file(descriptor: int, path: str | os.PathLike[str]) -> bool:
    """Whether an open file is still the one at `path`: a lock on one that was removed meanwhile locks nothing."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def unlock_file(file: IO[Any] | int) -> None:
    """Give the lock of `lock_file` up, also where a process that was forked meanwhile still has the file open."""
    if fcntl is not None:
        with contextlib.suppress(OSError):  # of a file system without locks
            fcntl.flock(file, fcntl.LOCK_UN)


def refuse_linked(folder: Path, names: Iterable[str]) -> None:
    """Refuse a directory that holds one of `names`, relative paths of its subdirectories, as a symbolic link.

    Raises ConfigError: what is written below the link would replace files elsewhere, of another run for example.
    """
    for name in names:
        inner = folder
        for part in Path(name).parts:
            inner = inner / part
            if inner.is_symlink():
                raise ConfigError(
                    f"{inner} is a symbolic link (to {printable_name(os.readlink(inner))}), and nothing is written "
                    "through one; remove it, or replace it with a directory that holds the same files"
                )


def remove_partial(folder: Path, *names: str) -> None:
    """Remove what a killed process left unfinished in a directory that nobody else writes to, and in its subdirectories
    of these names; not below them, and not in one that is a symbolic link."""
    for inner in (folder, *(folder / name for name in names if not (folder / name).is_symlink())):
        for partial in inner.glob(f".*{PARTIAL}*"):
            if partial.is_symlink() or partial.is_file():  # of a link itself, never of its target
                partial.unlink(missing_ok=True)


# Places that a user names for output ----------------------------------------------------------------------------------


def check_output_directory(name: str, path: Path) -> None:
    """Raise ConfigError where the directory that option `name` names, which need not exist, cannot be one."""
    _check_place(name, path, [path, *path.parents])


def check_output_file(name: str, path: Path) -> None:
    """Raise ConfigError where the file that option `name` names, which need not exist, cannot be one."""
    if path.is_dir():
        raise ConfigError(f"{name}={shortened(path)}: is a directory; name a file in it")
    if os.path.lexists(path) and not (path.is_file() or path.is_symlink()):
        raise ConfigError(f"{name}={shortened(path)}: is a device, pipe or socket; name a file")
    _check_place(name, path, path.parents)


def _check_place(name: str, path: Path, directories: Iterable[Path]) -> None:
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL):
            raise ConfigError(f"{name}={shortened(path)}: {error.strerror}; use another path") from None
    for directory in directories:
        if os.path.lexists(directory) and not directory.is_dir():
            found = "is a file" if directory == path else f"{shortened(directory)} is a file"
            raise ConfigError(
                f"{name}={shortened(path)}: {found}, so nothing can be written there; name a directory or a new path"
            )


def refuse_overwriting(name: str, outputs: Iterable[str | Path], inputs: Iterable[str | Path]) -> None:
    """Raise ConfigError if a file that would be written is one that is read, under whatever name, links included.

    Args:
        name: the option that names the output.
        outputs, inputs: files or directories that need not exist.
    """
    written = {identity: path for path in outputs if (identity := _identity(path)) is not None}
    if not written:
        return
    for path in inputs:
        identity = _identity(path)
        if identity is not None and (output := written.get(identity)) is not None:
            raise ConfigError(
                f"{name}: {shortened(output)} would be overwritten, and it is read as {shortened(path)}; "
                f"use another {name}"
            )


def _identity(path: str | Path) -> tuple[int, int] | None:
    """What all names of a file have in common: its device and inode; None where there is no such file."""
    try:
        status = os.stat(os.path.expanduser(os.fspath(path)))
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
