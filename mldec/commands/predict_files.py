"""What `mldec predict` reads and where it writes: from words to paths."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mldec.errors import ConfigError, DataError

ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jp2", ".avif"}
NO_FORMS = {".json", ".ndjson", ".tsv", ".txt", ".xlsx", ".xls", ".pq", ".html"}  # a folder is hardly meant by these


class Place(NamedTuple):
    """Where the output goes: `files` by format, and for pictures `folder`, if there is one."""

    files: dict[str, Path]
    folder: Path | None

    @property
    def stem(self) -> Path:
        return next(iter(self.files.values())).with_suffix("")


def find_inputs(sources: Sequence[str]) -> list[str]:
    """Paths of pictures that the `input=` words name, each once. Raises DataError for one that names none."""
    paths: dict[str, None] = {}
    for source in sources:
        paths |= dict.fromkeys(read_list(source) if source == "-" or source.startswith("@") else find_pictures(source))
    return list(paths)


def read_list(source: str) -> list[str]:
    """The lines of `@FILE`, or of standard input for `-`, as they are; or what stands between zero bytes in it.

    Whether there are such pictures is not looked at. Raises DataError for a file that cannot be read, or without lines.
    """
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source[1:]).expanduser().read_bytes()
    except OSError as error:
        raise DataError(f"input={source}: cannot be read: {error.strerror}") from None
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\0" if b"\0" in data else b"\n")
    paths = [os.fsdecode(line.removesuffix(b"\r")) for line in lines if line.strip()]
    if not paths:
        raise DataError(f"input={source}: lists no picture; it takes a path a line")
    return paths


def find_pictures(source: str) -> list[str]:
    """Paths of pictures that `input` names. Raises DataError if there is none."""
    path = os.path.expanduser(source)
    if os.path.isdir(path):
        inside = (os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
        paths = sorted(name for name in inside if os.path.splitext(name)[1].lower() in ENDINGS)
        if not paths:
            raise DataError(f"input={source}: no pictures there ({', '.join(sorted(ENDINGS))})")
        return paths
    if os.path.isfile(path):
        return [path]
    paths = sorted(name for name in glob.glob(path, recursive=True) if os.path.isfile(name))
    if not paths:
        raise DataError(f"input={source}: no such picture or folder, and no file of that pattern")
    return paths


def find_place(output: str | None, form: str | None) -> Place | None:
    """Where `output` and `format` say that predictions go; None: nowhere.

    An `output` that ends in .jsonl, .csv or .parquet is a file, anything else a folder. Raises ConfigError where the
    two contradict, and DataError for a format that needs what is not installed.
    """
    from mldec.engine.predictions import FORMATS, check_form

    if output is None:
        if form is not None:
            raise ConfigError(f"format={form} needs a place: output=DIR, or a file: output=predictions.{form}")
        return None
    path = Path(output).expanduser()
    ending = path.suffix.lower().removeprefix(".")
    if ending in FORMATS and not path.is_dir():
        if form not in (None, ending):
            raise ConfigError(f"format={form}: output={output} is one file; name a folder to get {form} there")
        check_form(ending)
        return Place({ending: path}, None)
    if path.suffix.lower() in NO_FORMS and not path.is_dir():
        raise ConfigError(f"output={output}: files end in .{', .'.join(FORMATS)}")
    if path.exists() and not path.is_dir():
        raise ConfigError(f"output={output}: is a file; name a folder, or a file in .{', .'.join(FORMATS)}")
    forms = list(dict.fromkeys(word.strip() for word in (form or "jsonl").strip("[]").split(",")))
    for word in forms:
        check_form(word)
    return Place({word: path / f"predictions.{word}" for word in forms}, path)
