"""The image files below a folder, found by the ends of their paths, listed once however many are looked for."""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import unquote

from mldec.data.folder_tree import SUFFIXES
from mldec.errors import DataError

MAX_FILES = 5_000_000  # below a root, that are listed to look for images
_FEW = 16  # files of one name that are looked through without sorting them
_UPLOAD = re.compile(r"[0-9a-f]{8}-(.+)")  # of Label Studio
_UPLOADED = "/"  # before the names that it may have changed, which no name begins with


class ImageFiles:
    """All files below a folder, found by the end of their path."""

    def __init__(self, root: str) -> None:
        self.paths: set[str] = set()
        self._by_name: dict[str, list[str]] = defaultdict(list)
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        self._by_loose: dict[str, list[str]] = defaultdict(list)  # filled when it is needed
        self._by_folder: dict[tuple[str, str], _ByFolder] = {}  # of names that many files have, as well
        seen = set()
        waiting = [""]
        while waiting:
            parent = waiting.pop()
            try:
                with os.scandir(os.path.join(root, parent)) as entries:
                    content = sorted(entries, key=lambda entry: entry.name)
                status = os.stat(os.path.join(root, parent))
            except OSError:
                continue
            if (status.st_dev, status.st_ino) in seen:
                continue  # a link to a folder that was listed
            seen.add((status.st_dev, status.st_ino))
            for entry in content:
                if entry.name.startswith(".") or entry.name == "__MACOSX":
                    continue
                path = f"{parent}/{entry.name}" if parent else entry.name
                if _is_folder(entry):
                    waiting.append(path)
                    continue
                self.paths.add(path)
                self._by_name[entry.name].append(path)
                stem, suffix = posixpath.splitext(entry.name)
                if suffix.lower() in SUFFIXES:
                    self._by_stem[stem].append(path)
            if len(self.paths) > MAX_FILES:
                raise DataError(
                    f"dataset.root={root}: more than {MAX_FILES:,} files below it; use the folder of the images alone"
                )

    def ending(self, parts: Sequence[str]) -> list[str]:
        """The files whose path ends with these parts, of a name without suffix any image; one at the root first."""
        if not parts:
            return []
        if exact := self.at(parts):
            return exact
        head = "/".join(parts[:-1])
        found, kind = self._by_name.get(parts[-1], []), "name"
        if not found:
            found, kind = self._by_stem.get(parts[-1], []), "stem"
        return self._within(found, (kind, parts[-1]), _backwards(head)) if head else found

    def alike(self, parts: Sequence[str]) -> list[str]:
        """The images whose path ends with these parts as far as `_loose` tells; of an absolute path the name counts.

        Label Studio puts eight digits before the name of an uploaded file, and `_` for what is no letter in it.
        """
        if not parts:
            return []
        if not self._by_loose:
            for path in self.paths:
                stem, suffix = posixpath.splitext(posixpath.basename(path))
                if suffix.lower() in SUFFIXES:
                    for name in {_loose(stem + suffix), _loose(stem), _UPLOADED + _tidy(stem + suffix)}:
                        self._by_loose[name].append(path)
        if found := _UPLOAD.fullmatch(parts[-1]):
            places = self._by_loose.get(_loose(found[1])) or self._by_loose.get(_UPLOADED + _tidy(found[1]), [])
            if places:
                return sorted(places)
        head = [] if parts[0] in ("", "..") or parts[0].endswith(":") else [_loose(part) for part in parts[:-1]]
        name = _loose(parts[-1])
        key = ("loose", name)
        if key not in self._by_folder:
            same = self._by_loose.get(name, [])
            self._by_folder[key] = _ByFolder(same, lambda path: tuple(map(_loose, path.split("/")[-2::-1])))
        return sorted(self._by_folder[key].beginning(tuple(reversed(head))))

    def at(self, parts: Sequence[str]) -> list[str]:
        """The file, or the images without their suffix, at a path relative to the root."""
        path = "/".join(parts)
        if path in self.paths:
            return [path]
        head = "/".join(parts[:-1])
        return self._within(self._by_stem.get(parts[-1], []), ("stem", parts[-1]), _backwards(head) + "\0")

    def _within(self, found: list[str], key: tuple[str, str], start: str) -> list[str]:
        """The files, out of those that `key` stands for, whose folder read backwards begins with `start`."""
        if len(found) <= _FEW:
            return [path for path in found if _folder_backwards(path).startswith(start)]
        if key not in self._by_folder:
            self._by_folder[key] = _ByFolder(found, _folder_backwards)
        return self._by_folder[key].beginning(start)


class _ByFolder:
    """Paths sorted by their folders read backwards; a name such as view1_frontal.jpg may be in thousands of them."""

    def __init__(self, paths: Sequence[str], key: Callable[[str], Any]) -> None:
        self._paths = paths
        self._order = sorted((key(path), number) for number, path in enumerate(paths))

    def beginning(self, start: str | tuple[str, ...]) -> list[str]:
        """Those whose key begins with `start`, in the order they were given."""

        def cut(item: tuple[Any, int]) -> Any:
            return item[0][: len(start)]

        first = bisect_left(self._order, start, key=cut)
        last = bisect_right(self._order, start, lo=first, key=cut)
        return [self._paths[number] for number in sorted(number for _, number in self._order[first:last])]


def _backwards(folder: str) -> str:
    """A folder so that all folders which end with it begin with the result: `b/a/` for a/b, as for x/a/b."""
    return f"/{folder}"[::-1]


def _folder_backwards(path: str) -> str:
    return _backwards(posixpath.dirname(path)) + "\0"  # which ends no other folder


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _loose(name: str) -> str:
    """What a name has in common with others that mean the same: a.JPG and A.jpg, both forms of é, %20, 001 and 1."""
    stem, suffix = posixpath.splitext(unicodedata.normalize("NFC", unquote(name)).casefold())
    return (stem.lstrip("0") or "0" if stem.isdecimal() else stem) + suffix


def _tidy(name: str) -> str:
    """A name as Label Studio keeps it."""
    return re.sub(r"[^a-z0-9.-]+", "_", _loose(name))
