"""Writing files so that they are whole or not there, and nothing stays of what was not finished."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from mldec.errors import ConfigError

LONG = 200  # bytes of a name, of the 255 that file systems take
PARTIAL = ".partial"  # in the name of every hidden file that is not finished


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A hidden path beside `path` to write to: renamed to `path` when the block ends, removed where it fails.

    It keeps the ending of `path`, by which some libraries choose a format. Raises OSError that names the file,
    and ConfigError where `path` is a directory.
    """
    path = Path(path)
    if path.is_dir():
        raise ConfigError(f"{path} is a directory; name a file in it")
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.name if len(os.fsencode(path.name)) < LONG else hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]
    partial = path.with_name(f".{name}{PARTIAL}{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None and error.errno is not None:
            raise OSError(error.errno, f"cannot write: {os.strerror(error.errno)}", str(path)) from error
        raise


def remove_partial(*folders: Path) -> None:
    """Remove what a killed process left unfinished in folders that nobody else writes to; not below them."""
    for folder in folders:
        for partial in folder.glob(f".*{PARTIAL}*"):
            if partial.is_file() and not partial.is_symlink():
                partial.unlink(missing_ok=True)
