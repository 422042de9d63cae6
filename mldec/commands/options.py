"""Values of a command's own options, from what was typed. Every command parses its options with these and no others."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mldec.errors import ConfigError, shortened, whole_number

BOOLEANS = {"true": True, "false": False}
MOST = 10**9  # of a number of things, where no other bound is given
MOST_WORKERS = 1024  # threads or processes

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")


def one_of(own: Mapping[str, str], name: str, allowed: Sequence[str], default: str) -> str:
    """One of the `allowed` values. Raises ConfigError for any other."""
    value = own.get(name, default)
    if value not in allowed:
        raise ConfigError(f"{name}={shortened(value)}: expected one of {', '.join(allowed)}")
    return value


def switch(own: Mapping[str, str], name: str, default: bool = False) -> bool:
    """true or false, in letters of any case as in settings. Raises ConfigError for anything else: yes, 1, on."""
    text = own.get(name, str(default))
    if text.lower() not in BOOLEANS:
        raise ConfigError(f"{name}={shortened(text)}: expected true or false")
    return BOOLEANS[text.lower()]


def count(own: Mapping[str, str], name: str, *, least: int = 1, most: int = MOST) -> int | None:
    """An integer from `least` to `most`; None where none was typed, or null. Raises ConfigError for anything else."""
    text = own.get(name)
    return None if text is None or text == "null" else whole(text, name, least=least, most=most)


def whole(text: str, name: str, *, least: int = 1, most: int = MOST) -> int:
    """An integer from `least` to `most` in ASCII digits. Raises ConfigError for anything else."""
    value = whole_number(text)
    if value is None or not least <= value <= most:
        upper = "" if most == MOST and (value is None or value <= most) else f" and at most {most}"
        raise ConfigError(f"{name}={shortened(text)}: expected a whole number of at least {least}{upper}")
    return value


def number(text: str) -> float | None:
    """The finite number that `text` is, in ASCII digits; None if it is none."""
    value = float(text) if _NUMBER.fullmatch(text) and len(text) <= 400 else None
    return value if value is not None and abs(value) != float("inf") else None


def share(own: Mapping[str, str], name: str, default: float) -> float:
    """A number from 0 to 1. Raises ConfigError for anything else."""
    value = default if name not in own else number(own[name])
    if value is None or not 0 <= value <= 1:
        raise ConfigError(f"{name}={shortened(own[name])}: expected a number from 0 to 1")
    return value


def listed(text: str) -> list[str]:
    """The values of `a,b` or `[a,b]`, without empty ones."""
    return [value.strip() for value in text.strip("[]").split(",") if value.strip()]


def folder_for_output(own: Mapping[str, str], name: str, default: str | Path) -> Path:
    """The folder that an option names, which need not exist yet. Raises ConfigError where a file is in the way."""
    path = Path(own.get(name, default)).expanduser()
    check_writable_place(name, path, [path, *path.parents])
    return path


def file_for_output(own: Mapping[str, str], name: str, default: str | Path, example: str) -> Path:
    """The file that an option names. Raises ConfigError where a folder, or on the way to it a file, is in its place."""
    path = Path(own.get(name, default)).expanduser()
    if path.is_dir():
        raise ConfigError(f"{name}={shortened(path)}: is a folder; name a file in it, such as {path / example}")
    check_writable_place(name, path, path.parents)
    return path


def check_writable_place(name: str, path: Path, folders: Iterable[Path]) -> None:
    """Raise ConfigError if a file stands where a folder of `folders` should, or no system takes such a name."""
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL):
            raise ConfigError(f"{name}={shortened(path)}: {error.strerror}; name another place") from None
    for folder in folders:
        if os.path.lexists(folder) and not folder.is_dir():
            shown = "is a file" if folder == path else f"{shortened(folder)} is a file"
            raise ConfigError(f"{name}={shortened(path)}: {shown}, so that nothing can be written there; name a folder")


def refuse_overwriting(name: str, outputs: Iterable[str | Path], inputs: Iterable[str | Path]) -> None:
    """Raise ConfigError if a file that would be written is one that is read, under whatever name, links included.

    Args:
        name: the option by which the output is named.
        outputs, inputs: files, or folders, that need not exist.
    """
    written = {identity: path for path in outputs if (identity := _identity(path)) is not None}
    if not written:  # what does not exist is nobody's
        return
    for path in inputs:
        identity = _identity(path)
        if identity is not None and (output := written.get(identity)) is not None:
            raise ConfigError(
                f"{name}: {shortened(output)} would be overwritten, and it is read as {shortened(path)}; "
                f"name another {name}"
            )


def _identity(path: str | Path) -> tuple[int, int] | None:
    """What all names of a file have in common: its device and inode; None where there is no such file."""
    try:
        status = os.stat(os.path.expanduser(os.fspath(path)))
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
