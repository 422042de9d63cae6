"""The images that `mldec predict` reads and the files that it writes: from options to paths."""

from __future__ import annotations

import functools
import glob
import itertools
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mldec.data.parquet_file import import_pyarrow
from mldec.data.unread_formats import UNREAD, describe_skipped, unread_reason
from mldec.engine.predictions import FORMATS
from mldec.engine.run_directory import is_record
from mldec.errors import ConfigError, DataError, printable_name, shortened
from mldec.files import check_output_directory, check_output_file, refuse_overwriting
from mldec.untrusted import MAX_LIST, open_regular, read_bytes

ENDINGS = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jp2", ".avif"}
NOT_DIRECTORIES = {".json", ".ndjson", ".tsv", ".txt", ".xlsx", ".xls", ".pq", ".html"}  # hardly meant as directories
APPLE_DOUBLE = b"\0\5\x16\7"  # how a ._ file begins, which macOS puts beside a file on disks of other systems

#: In the directories of images that `mldec predict` draws: they are results and no input.
MARKER = ".mldec-predict"
DRAWN = "mldec predict drew what is in this directory"

Skipped = dict[str, list[str]]  # files and directories that are left out, by the reason


class PredictionFiles(NamedTuple):
    """The files that are written, by format, and the directory of drawn images, if there is one."""

    files: dict[str, Path]
    directory: Path | None

    @property
    def stem(self) -> Path:
        return next(iter(self.files.values())).with_suffix("")

    @property
    def written(self) -> list[Path]:
        """All files that are written, but for the drawings."""
        return [*self.files.values(), self.journal, self.broken]

    @property
    def journal(self) -> Path:
        """What is found, as it comes."""
        return Path(f"{self.stem}.partial")

    @property
    def broken(self) -> Path:
        """The images that could not be read."""
        return Path(f"{self.stem}.broken.csv")


def find_inputs(sources: Sequence[str], notes: list[str] | None = None) -> list[str]:
    """Paths of images that `input=` options name, each once.

    A sentence for what was skipped is added to `notes`. Raises DataError for an input that names no image.
    """
    paths: dict[str, None] = {}
    for source in sources:
        is_list = source == "-" or source.startswith("@")
        paths |= dict.fromkeys(read_list(source) if is_list else find_images(source, notes))
    return list(paths)


def read_list(source: str) -> list[str]:
    """The lines of `@FILE`, or of standard input for `-`, as they are; or what stands between zero bytes in it.

    Whether the images exist is not checked; AppleDouble files, which hold none, are left out. Raises
    DataError for a file that cannot be read, or without lines.
    """
    try:
        if source != "-":
            data = read_bytes(Path(source[1:]).expanduser(), most=MAX_LIST)
        elif len(data := sys.stdin.buffer.read(MAX_LIST + 1)) > MAX_LIST:
            raise DataError(f"more than {MAX_LIST:,} bytes; give it in parts")
    except (DataError, OSError, RuntimeError) as error:  # RuntimeError: ~nobody
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"input={shortened(source)}: cannot be read: {reason}") from None
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\0" if b"\0" in data else b"\n")
    paths = [os.fsdecode(line.removesuffix(b"\r")) for line in lines if line.strip()]
    if not paths:
        raise DataError(f"input={shortened(source)}: lists no image; write one path per line")
    return [path for path in paths if not (os.path.basename(path).startswith("._") and _is_apple_double(path))]


def find_images(source: str, notes: list[str] | None = None) -> list[str]:
    """Paths of images that `source` names: an image, a directory, or a pattern.

    Of directories and patterns the files that macOS adds (._x.jpg, __MACOSX) and drawings of `mldec predict` are left
    out. A sentence for what else is skipped is added to `notes`. Raises DataError if there is no image.
    """
    path = os.path.expanduser(source)
    skipped: Skipped = defaultdict(list)
    if os.path.isfile(path):
        return [path]
    if os.path.isdir(path):
        paths = sorted(_images_below(path, skipped))
        missing = f"no images there ({', '.join(sorted(ENDINGS))})"
    else:
        paths = sorted(name for name in _matches(path, skipped) if os.path.isfile(name))
        missing = "no such image or directory, and no file of that pattern"
    sentences = [describe_skipped(names, reason) for reason, names in skipped.items()]
    if not paths:
        raise DataError(f"input={shortened(source)}: {'; '.join([missing, *sentences])}")
    if notes is not None:
        notes += sentences
    return paths


def _images_below(folder: str, skipped: Skipped) -> Iterator[str]:
    """Files with an ending of ENDINGS in a directory and its subdirectories."""
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        try:
            with os.scandir(place) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            skipped[f"the directory cannot be read ({error.strerror})"].append(place)
            continue
        if place != folder and any(entry.name == MARKER for entry in found):
            skipped[DRAWN].append(place)
            continue
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                waiting += [entry.path] if entry.name != "__MACOSX" else []
            elif entry.is_symlink() and entry.is_dir():
                skipped["linked directories are not entered; name it as another input="].append(entry.path)
            elif not entry.name.startswith("._"):
                ending = os.path.splitext(entry.name)[1].lower()
                if ending in UNREAD:
                    skipped[unread_reason(ending)].append(entry.path)
                elif ending in ENDINGS:
                    yield entry.path


def _matches(pattern: str, skipped: Skipped) -> Iterator[str]:
    """What a pattern matches, without files that macOS adds, and without drawings of `mldec predict` unless the pattern
    names their directory."""
    fixed = list(itertools.takewhile(lambda part: not glob.has_magic(part), pattern.split(os.sep)))
    named = os.path.normpath(os.sep.join(fixed) or ".")

    @functools.cache
    def is_drawn(folder: str) -> bool:
        parent = os.path.dirname(folder)
        if os.path.normpath(folder) == named or parent == folder:
            return False
        if is_drawn(parent):
            return True
        if marked := os.path.lexists(os.path.join(folder, MARKER)):
            skipped[DRAWN].append(folder)
        return marked

    for path in glob.iglob(pattern, recursive=True):
        parts = path.split(os.sep)
        added_by_mac = parts[-1].startswith("._") or "__MACOSX" in parts[len(fixed) :]
        if not added_by_mac and not is_drawn(os.path.dirname(path)):
            yield path


def _is_apple_double(path: str) -> bool:
    try:
        with open_regular(path) as file:
            return file.read(4) == APPLE_DOUBLE
    except (DataError, OSError, ValueError):
        return False


def choose_files(output: Path | None, formats: Sequence[str] | None) -> PredictionFiles | None:
    """The files that the options `output` and `format` name; None where nothing is written.

    An `output` that ends in .jsonl, .csv or .parquet is a file, anything else a directory. Raises ConfigError where the
    two contradict, or where a file is in the way, and DataError for a format that requires a missing package.
    """
    if output is None:
        if formats is not None:
            raise ConfigError(
                f"format={','.join(formats)} needs output=DIR, or a file: output=predictions.{formats[0]}"
            )
        return None
    ending = output.suffix.lower().removeprefix(".")
    if ending in FORMATS and not output.is_dir():
        check_output_file("output", output)
        if formats is not None and list(formats) != [ending]:
            raise ConfigError(f"format={','.join(formats)}: output={output} is one file; name a directory instead")
        files = PredictionFiles({ending: output}, None)
    else:
        if output.suffix.lower() in NOT_DIRECTORIES and not output.is_dir():
            raise ConfigError(f"output={output}: a file ends in .{', .'.join(FORMATS)}")
        check_output_directory("output", output)
        files = PredictionFiles({form: output / f"predictions.{form}" for form in formats or ("jsonl",)}, output)
    if "parquet" in files.files:
        import_pyarrow()
    return files


def check_files(files: PredictionFiles, paths: Sequence[str], read: Sequence[str], *, drawings: Sequence[str]) -> None:
    """Raise ConfigError where the output would overwrite an input or the record of a run, or lie among images to read.

    Args:
        paths: the images that are read.
        read: other files that are read: lists, labels, thresholds, the checkpoint.
        drawings: names of the subdirectories that images are drawn into.
    """
    refuse_overwriting("output", files.written, [*read, *paths])
    if records := [path for path in files.written if is_record(path)]:
        raise ConfigError(
            f"output={shortened(records[0])}: is a record of the run in that directory, and predictions would replace "
            "it; use another output"
        )
    if files.directory is None:
        return
    folders = {folder: Path(os.path.realpath(folder)) for folder in sorted(set(map(os.path.dirname, paths)))}
    for name in drawings:
        directory = os.path.realpath(files.directory / name)
        inside = [folder for folder, path in folders.items() if path.is_relative_to(directory)]
        if inside:
            raise ConfigError(
                f"output={shortened(files.directory)}: {name}=… is drawn into its directory {name}, which holds images "
                f"that are read ({printable_name(inside[0])}); use another output"
            )
