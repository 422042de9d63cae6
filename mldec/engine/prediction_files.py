"""The images that `mldec predict` reads and the files that it writes: from options to paths."""

from __future__ import annotations

import glob
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mldec.engine.predictions import FORMATS, check_form
from mldec.errors import ConfigError, DataError, printable_name, shortened
from mldec.files import check_output_directory, check_output_file, refuse_overwriting
from mldec.untrusted import MAX_LIST, read_bytes

ENDINGS = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jp2", ".avif"}
#: Endings of images that cannot be read: they are reported, not skipped silently.
UNREAD = {".heic", ".heif", ".hif", ".jxl", ".psd", ".svg", ".eps", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf"}
UNREAD |= {".raf", ".rw2", ".exr", ".hdr", ".tga", ".xcf"}
NOT_DIRECTORIES = {".json", ".ndjson", ".tsv", ".txt", ".xlsx", ".xls", ".pq", ".html"}  # hardly meant as directories
APPLE_DOUBLE = b"\0\5\x16\7"  # how a ._ file begins, which macOS puts beside a file on disks of other systems
SHOWN = 3  # names in a note

#: In the directories of images that `mldec predict` draws: they are results and no input.
MARKER = ".mldec-predict"


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
    skipped = _Skipped()
    if os.path.isdir(path):
        paths = sorted(_images_below(path, skipped))
        if not paths:
            found = "".join(f"; {sentence}" for sentence in skipped.sentences())
            raise DataError(f"input={shortened(source)}: no images there ({', '.join(sorted(ENDINGS))}){found}")
    elif os.path.isfile(path):
        return [path]
    else:
        paths = sorted(name for name in _matches(path, skipped) if os.path.isfile(name))
        if not paths:
            found = "".join(f"; {sentence}" for sentence in skipped.sentences())
            raise DataError(
                f"input={shortened(source)}: no such image or directory, and no file of that pattern{found}"
            )
    if notes is not None:
        notes += skipped.sentences()
    return paths


class _Skipped:
    """Files and directories that were left out, by the reason."""

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = defaultdict(list)

    def add(self, reason: str, name: str) -> None:
        self.names[reason].append(name)

    def sentences(self) -> list[str]:
        return [
            f"skipped {', '.join(map(printable_name, names[:SHOWN]))}"
            f"{f' and {len(names) - SHOWN:,} more' if len(names) > SHOWN else ''}: {reason}"
            for reason, names in self.names.items()
        ]


def _images_below(folder: str, skipped: _Skipped) -> Iterator[str]:
    """Files with an ending of ENDINGS in a directory and its subdirectories."""
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        try:
            with os.scandir(place) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            skipped.add(f"the directory cannot be read ({error.strerror})", place)
            continue
        if place != folder and any(entry.name == MARKER for entry in found):
            skipped.add("mldec predict drew what is in this directory", place)
            continue
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                waiting += [entry.path] if entry.name != "__MACOSX" else []
            elif entry.is_symlink() and entry.is_dir():
                skipped.add("linked directories are not entered; name it as another input=", entry.path)
            elif not entry.name.startswith("._"):
                ending = os.path.splitext(entry.name)[1].lower()
                if ending in UNREAD:
                    skipped.add(f"images in {ending[1:].upper()} are not read; convert them to JPEG or PNG", entry.path)
                elif ending in ENDINGS:
                    yield entry.path


def _matches(pattern: str, skipped: _Skipped) -> Iterator[str]:
    """What a pattern matches, without files that macOS adds, and without drawings of `mldec predict` unless the pattern
    names their directory."""
    fixed = []
    for part in pattern.split(os.sep):
        if glob.has_magic(part):
            break
        fixed.append(part)
    named = os.path.normpath(os.sep.join(fixed) or ".")
    drawn: dict[str, bool] = {}

    def is_drawn(folder: str) -> bool:
        if folder not in drawn:
            parent = os.path.dirname(folder)
            inside = os.path.normpath(folder) != named and parent != folder
            drawn[folder] = inside and (os.path.lexists(os.path.join(folder, MARKER)) or is_drawn(parent))
            if drawn[folder] and not is_drawn(parent):
                skipped.add("mldec predict drew what is in this directory", folder)
        return drawn[folder]

    for path in glob.iglob(pattern, recursive=True):
        parts = path.split(os.sep)
        added_by_mac = parts[-1].startswith("._") or "__MACOSX" in parts[len(fixed) :]
        if not added_by_mac and not is_drawn(os.path.dirname(path)):
            yield path


def _is_apple_double(path: str) -> bool:
    try:
        if not os.path.isfile(path):
            return False
        with open(path, "rb") as file:
            return file.read(4) == APPLE_DOUBLE
    except (OSError, ValueError):
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
        check_form(ending)
        return PredictionFiles({ending: output}, None)
    if output.suffix.lower() in NOT_DIRECTORIES and not output.is_dir():
        raise ConfigError(f"output={output}: a file ends in .{', .'.join(FORMATS)}")
    check_output_directory("output", output)
    formats = formats or ("jsonl",)
    for form in formats:
        check_form(form)
    return PredictionFiles({form: output / f"predictions.{form}" for form in formats}, output)


def check_files(files: PredictionFiles, paths: Sequence[str], read: Sequence[str], *, drawings: Sequence[str]) -> None:
    """Raise ConfigError where the output would overwrite an input, or lie among the images that are read.

    Args:
        paths: the images that are read.
        read: other files that are read: lists, labels, thresholds, the checkpoint.
        drawings: names of the subdirectories that images are drawn into.
    """
    refuse_overwriting("output", files.written, [*read, *paths])
    for name in drawings if files.directory is not None else ():
        assert files.directory is not None
        directory = os.path.realpath(files.directory / name)
        if not os.path.isdir(directory):
            continue
        inside = {path for path in map(os.path.dirname, paths) if _is_within(os.path.realpath(path or "."), directory)}
        if inside:
            first = printable_name(sorted(inside)[0])
            raise ConfigError(
                f"output={shortened(files.directory)}: {name}=… is drawn into its directory {name}, which holds images "
                f"that are read ({first}); use another output"
            )


def _is_within(path: str, directory: str) -> bool:
    return path == directory or path.startswith(os.path.join(directory, ""))
