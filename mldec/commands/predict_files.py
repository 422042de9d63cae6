"""What `mldec predict` reads and where it writes: from words to paths."""

from __future__ import annotations

import glob
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mldec.commands.options import check_writable_place, listed, refuse_overwriting
from mldec.errors import ConfigError, DataError, printable_name, shortened

ENDINGS = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jp2", ".avif"}
#: Endings of images that nothing here reads: they are named, not passed over in silence.
UNREAD = {".heic", ".heif", ".hif", ".jxl", ".psd", ".svg", ".eps", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf"}
UNREAD |= {".raf", ".rw2", ".exr", ".hdr", ".tga", ".xcf"}
NO_FORMS = {".json", ".ndjson", ".tsv", ".txt", ".xlsx", ".xls", ".pq", ".html"}  # a folder is hardly meant by these
APPLE_DOUBLE = b"\0\5\x16\7"  # how a ._ file begins, which macOS puts beside a file on disks of other systems
SHOWN = 3  # names in a note

#: In the folders of images that `mldec predict` draws: they are results and no input.
MARKER = ".mldec-predict"


class Place(NamedTuple):
    """Where the output goes: `files` by format, and for images `folder`, if there is one."""

    files: dict[str, Path]
    folder: Path | None

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
    """Paths of images that the `input=` words name, each once.

    What was passed over is said in a sentence each, added to `notes`. Raises DataError for a word that names none.
    """
    paths: dict[str, None] = {}
    for source in sources:
        is_list = source == "-" or source.startswith("@")
        paths |= dict.fromkeys(read_list(source) if is_list else find_images(source, notes))
    return list(paths)


def read_list(source: str) -> list[str]:
    """The lines of `@FILE`, or of standard input for `-`, as they are; or what stands between zero bytes in it.

    Whether there are such images is not looked at; but AppleDouble files, which hold none, are left out. Raises
    DataError for a file that cannot be read, or without lines.
    """
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source[1:]).expanduser().read_bytes()
    except (OSError, RuntimeError) as error:  # RuntimeError: ~nobody
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"input={shortened(source)}: cannot be read: {reason}") from None
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\0" if b"\0" in data else b"\n")
    paths = [os.fsdecode(line.removesuffix(b"\r")) for line in lines if line.strip()]
    if not paths:
        raise DataError(f"input={shortened(source)}: lists no image; it takes a path a line")
    return [path for path in paths if not (os.path.basename(path).startswith("._") and _is_apple_double(path))]


def find_images(source: str, notes: list[str] | None = None) -> list[str]:
    """Paths of images that `source` names: an image, a folder, or a pattern.

    In folders and patterns the files that macOS adds (._x.jpg, __MACOSX) are left out, and what `mldec predict` drew.
    What else is passed over is said in a sentence each, added to `notes`. Raises DataError if there is no image.
    """
    path = os.path.expanduser(source)
    passed = _PassedOver()
    if os.path.isdir(path):
        paths = sorted(_images_below(path, passed))
        if not paths:
            found = "".join(f"; {sentence}" for sentence in passed.sentences())
            raise DataError(f"input={shortened(source)}: no images there ({', '.join(sorted(ENDINGS))}){found}")
    elif os.path.isfile(path):
        return [path]
    else:
        paths = sorted(name for name in _matches(path, passed) if os.path.isfile(name))
        if not paths:
            found = "".join(f"; {sentence}" for sentence in passed.sentences())
            raise DataError(f"input={shortened(source)}: no such image or folder, and no file of that pattern{found}")
    if notes is not None:
        notes += passed.sentences()
    return paths


class _PassedOver:
    """Files and folders that were left out, by the reason."""

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = defaultdict(list)

    def add(self, reason: str, name: str) -> None:
        self.names[reason].append(name)

    def sentences(self) -> list[str]:
        return [
            f"passed over {', '.join(map(printable_name, names[:SHOWN]))}"
            f"{f' and {len(names) - SHOWN:,} more' if len(names) > SHOWN else ''}: {reason}"
            for reason, names in self.names.items()
        ]


def _images_below(folder: str, passed: _PassedOver) -> Iterator[str]:
    """Files with an ending of ENDINGS in a folder and its subfolders."""
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        try:
            with os.scandir(place) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            passed.add(f"the folder cannot be read ({error.strerror})", place)
            continue
        if place != folder and any(entry.name == MARKER for entry in found):
            passed.add("mldec predict drew what is in this folder", place)
            continue
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                waiting += [entry.path] if entry.name != "__MACOSX" else []
            elif entry.is_symlink() and entry.is_dir():
                passed.add("linked folders are not entered; name it as another input=", entry.path)
            elif not entry.name.startswith("._"):
                ending = os.path.splitext(entry.name)[1].lower()
                if ending in UNREAD:
                    passed.add(f"images in {ending[1:].upper()} are not read; convert them to JPEG or PNG", entry.path)
                elif ending in ENDINGS:
                    yield entry.path


def _matches(pattern: str, passed: _PassedOver) -> Iterator[str]:
    """What a pattern names, without what macOS adds and what `mldec predict` drew in folders that were not typed."""
    fixed = []
    for part in pattern.split(os.sep):
        if glob.has_magic(part):
            break
        fixed.append(part)
    typed = os.path.normpath(os.sep.join(fixed) or ".")
    drawn: dict[str, bool] = {}

    def is_drawn(folder: str) -> bool:
        if folder not in drawn:
            parent = os.path.dirname(folder)
            inside = os.path.normpath(folder) != typed and parent != folder
            drawn[folder] = inside and (os.path.lexists(os.path.join(folder, MARKER)) or is_drawn(parent))
            if drawn[folder] and not is_drawn(parent):
                passed.add("mldec predict drew what is in this folder", folder)
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


def find_place(output: str | None, form: str | None) -> Place | None:
    """Where `output` and `format` say that predictions go; None: nowhere.

    An `output` that ends in .jsonl, .csv or .parquet is a file, anything else a folder. Raises ConfigError where the
    two contradict, or where a file lies in the way, and DataError for a format that needs what is not installed.
    """
    from mldec.engine.predictions import FORMATS, check_form

    if output is None:
        if form is not None:
            raise ConfigError(f"format={form} needs a place: output=DIR, or a file: output=predictions.{form}")
        return None
    path = Path(output).expanduser()
    check_writable_place("output", path, path.parents)
    ending = path.suffix.lower().removeprefix(".")
    if ending in FORMATS and not path.is_dir():
        if form not in (None, ending):
            raise ConfigError(f"format={form}: output={output} is one file; name a folder to get {form} there")
        check_form(ending)
        return Place({ending: path}, None)
    if path.suffix.lower() in NO_FORMS and not path.is_dir():
        raise ConfigError(f"output={output}: files end in .{', .'.join(FORMATS)}")
    if os.path.lexists(path) and not path.is_dir():
        raise ConfigError(f"output={output}: is a file; name a folder, or a file in .{', .'.join(FORMATS)}")
    forms = list(dict.fromkeys(listed(form or "jsonl")))
    if not forms:
        raise ConfigError(f"format={shortened(form)}: names no format; type {', '.join(FORMATS)}, one or several")
    for word in forms:
        check_form(word)
    return Place({word: path / f"predictions.{word}" for word in forms}, path)


def check_place(place: Place, paths: Sequence[str], files: Sequence[str], *, drawings: Sequence[str]) -> None:
    """Raise ConfigError where the output would overwrite an input, or lie among the images that are read.

    Args:
        paths: the images that are read.
        files: what else is read: lists, labels, thresholds, the checkpoint.
        drawings: names of the folders within the output's that images are drawn into.
    """
    refuse_overwriting("output", place.written, [*files, *paths])
    for name in drawings if place.folder is not None else ():
        assert place.folder is not None
        folder = os.path.realpath(place.folder / name)
        if not os.path.isdir(folder):
            continue
        inside = {path for path in map(os.path.dirname, paths) if _is_within(os.path.realpath(path or "."), folder)}
        if inside:
            first = printable_name(sorted(inside)[0])
            raise ConfigError(
                f"output={shortened(place.folder)}: {name}=… is drawn into its folder {name}, which holds images that "
                f"are read ({first}); name another output"
            )


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ""))
