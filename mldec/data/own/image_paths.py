"""Where the images are that a file lists, however their paths were written, on whichever machine.

A path that names a file as it is stays. Otherwise the part that belongs to another machine is cut, where what is left
is the end of exactly one file's path, and a name without suffix is looked up. Each folder is listed once, however many
rows there are. Nothing outside of the root folder is ever found.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from mldec.data.dataset import listing, name_some
from mldec.data.folder_tree import SUFFIXES
from mldec.data.own.image_files import ImageFiles
from mldec.data.own.text_table import is_image_path
from mldec.errors import DataError, counted, setting, shortened

_SAMPLE = 500  # paths by which the part of another machine is found
_MOST_PARTS = 64  # folders of a path that are tried
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|data:image/")
_ABSOLUTE = re.compile(r"/|[A-Za-z]:(?=/|$)|[A-Za-z]:[^/]")


@dataclass(frozen=True)
class FoundImages:
    """The paths of images relative to `root`, in the order of the names, and what was decided, a sentence each."""

    names: list[str]
    decisions: list[str]


def find_images(
    names: Sequence[str],
    *,
    file: str,
    where: Callable[[int], str],
    root: str,
    folder: str,
    folders: Mapping[int, str] | None = None,
    look: bool = True,
) -> FoundImages:
    """The images that a file names.

    Args:
        names: their paths as the file writes them.
        file: the file, for errors.
        where: `FILE line 5` for the number of a name.
        root: absolute folder of all images.
        folder: absolute folder of the file, which paths may be relative to as well.
        folders: absolute folders that single names are relative to.
        look: whether files are looked for; without it, paths are taken as they are.

    Raises DataError for URLs, for paths outside of the root, where several files fit, and where one file fits several
    paths, unless these are the same path but for signs between folders and a suffix. Where no file fits, the path stays
    as it is.
    """
    return _Finder(names, file, where, root, folder, folders or {}, look).find()


class _Finder:
    def __init__(
        self,
        names: Sequence[str],
        file: str,
        where: Callable[[int], str],
        root: str,
        folder: str,
        folders: Mapping[int, str],
        look: bool,
    ) -> None:
        self.names, self.file, self.where, self.root = names, file, where, root
        self.folder, self.folders, self.look = folder, folders, look
        self.decisions: list[str] = []
        self._listed: dict[str, set[str]] = {}

    def find(self) -> FoundImages:
        found: list[str | None] = []
        first: dict[int, str] = {}  # of names that are not found: where they would be below the root
        for number, name in enumerate(self.names):
            places = self._places(number, name)
            place = next((p for p in places if self._exists(p)), None) if self.look else next(iter(places), None)
            found.append(place)
            if place is None and places:
                first[number] = places[0]
        missing = [number for number, place in enumerate(found) if place is None]
        if missing and self.look:
            self._search(missing, found, first)
            self._refuse_joined(set(missing), found)
        outside = [number for number, place in enumerate(found) if place is None and number not in first]
        if outside:
            raise self._outside(outside)
        return FoundImages([first[i] if place is None else place for i, place in enumerate(found)], self.decisions)

    def _places(self, number: int, name: str) -> list[str]:
        """Where a path may lie, relative to the root, the likeliest first; none if only outside of it."""
        if _URL.match(name):
            if not name.startswith("file://"):
                raise self._url(number)
            name = unquote(urlsplit(name).path)
        spellings = [name]
        if "\\" in name:  # written on Windows; elsewhere a sign like others
            spellings = [name.replace("\\", "/"), *([name] if self.look and "/" not in name else [])]
        bases = [self.folders[number]] if number in self.folders else [self.root, self.folder]
        places = []
        for spelling in spellings:
            if spelling.startswith("~"):
                spelling = f"./{spelling}"
            for base in bases:
                path = spelling if spelling.startswith("/") else posixpath.join(base, spelling)
                if _ABSOLUTE.match(spelling) and not spelling.startswith("/"):
                    continue
                if "\0" in path:
                    raise DataError(f"{self.where(number)}: a path holds a NUL character, which no file name has")
                path = _normal(path)
                if path.startswith(os.path.join(self.root, "")):
                    places.append(path[len(os.path.join(self.root, "")) :])
        return list(dict.fromkeys(places))

    def _exists(self, place: str) -> bool:
        parent, _, name = place.rpartition("/")
        if parent not in self._listed:
            try:
                self._listed[parent] = set(os.listdir(os.path.join(self.root, parent)))
            except (OSError, ValueError):
                self._listed[parent] = set()
        return name in self._listed[parent]

    # What is not where its path says ---------------------------------------------------------------------------------

    def _search(self, missing: list[int], found: list[str | None], first: dict[int, str]) -> None:
        """Look for missing names below the root, and set what is found; in `first`, where others would be."""
        files = ImageFiles(self.root)
        parts = {number: _parts(self.names[number]) for number in missing}
        cut: Counter[str] = Counter()
        without_suffix = 0
        rest = []
        taken = {place for place in found if place is not None}  # by paths that name them as they are
        for number in missing:  # first as it is, in any folder
            if not _is_foreign(self.names[number]):
                place = self._only(number, files.ending(parts[number]))
                if place is not None:
                    found[number] = place
                    without_suffix += posixpath.basename(place) != parts[number][-1]
                    continue
            rest.append(number)
        for prefix in self._prefixes(rest, parts, files):
            left = []
            for number in rest:
                if parts[number][: len(prefix)] != prefix:
                    left.append(number)
                    continue
                tail = parts[number][len(prefix) :]
                foreign = _is_foreign(self.names[number])
                candidates = files.ending(tail) if foreign else files.at(tail)
                place = self._only(number, candidates)
                if place is not None and (foreign or place not in taken):
                    found[number] = place
                    cut["/".join(prefix)] += 1
                    without_suffix += posixpath.basename(place) != parts[number][-1]
                else:
                    first.setdefault(number, "/".join(tail))
            rest = left
        respelt = 0
        for number in rest:  # last by a spelling that means the same
            if (place := self._only(number, files.alike(parts[number]))) is not None and place not in taken:
                found[number] = place
                respelt += 1
        for prefix_text, count in cut.most_common(3):
            self.decisions.append(f"'{shortened(prefix_text)}/' cut from {counted(count, 'path')}")
        if without_suffix:
            self.decisions.append(f"{without_suffix:,} names without suffix looked up")
        if respelt:
            self.decisions.append(
                f"{respelt:,} names differ from the file's in case, accents, %XX, leading zeros or prefix"
            )
        moved = sum(1 for number in missing if found[number] is not None) - sum(cut.values()) - respelt
        if moved > 0 and moved != without_suffix:
            self.decisions.append(f"{moved:,} images found in folders below {self.root}")

    def _prefixes(self, rest: list[int], parts: dict[int, list[str]], files: ImageFiles) -> list[list[str]]:
        """The beginnings of paths that belong to another machine, the most common first."""
        votes: Counter[tuple[str, ...]] = Counter()
        for number in rest[:: max(1, len(rest) // _SAMPLE)]:
            own = parts[number]
            for size in range(min(len(own), _MOST_PARTS), 0, -1):
                tail = own[len(own) - size :]
                if files.ending(tail) if _is_foreign(self.names[number]) else size < len(own) and files.at(tail):
                    votes[tuple(own[: len(own) - size])] += 1
                    break
        # Of a prefix and a longer one of the same paths, the shorter keeps more of the folders, so it decides.
        return [list(prefix) for prefix, _ in sorted(votes.items(), key=lambda item: (-item[1], len(item[0])))][:50]

    def _only(self, number: int, candidates: Sequence[str]) -> str | None:
        if len(candidates) > 1:
            parents = list(dict.fromkeys(posixpath.dirname(place) for place in candidates))
            if len(parents) > 1:
                choices = " or ".join(
                    setting("dataset.root", _shown(os.path.join(self.root, parent))) for parent in parents[:4]
                )
                raise DataError(
                    f"{self.where(number)}: several images are called {shortened(self.names[number])} "
                    f"({name_some(candidates, len(candidates))}); use {choices}, or write the folder into the path"
                )
            raise DataError(
                f"{self.where(number)}: several images are called {shortened(self.names[number])} "
                f"({name_some(candidates, len(candidates))}); write the suffix into the path"
            )
        return candidates[0] if candidates else None

    def _refuse_joined(self, searched: set[int], found: Sequence[str | None]) -> None:
        """Raise DataError where a file was found for two paths that are not the same."""
        owners: dict[str, int] = {}
        for number, place in enumerate(found):
            if place is None or (other := owners.setdefault(place, number)) == number:
                continue
            if (number in searched or other in searched) and not self._are_same(number, other):
                raise DataError(
                    f"{self.where(number)}: {shortened(self.names[number])} and {shortened(self.names[other])} "
                    f"({self.where(other)}) are different paths, and only {shortened(place)} fits them in {self.root}; "
                    "write one path for the same image, or use dataset.root=FOLDER, one below which each has its file"
                )

    def _are_same(self, number: int, other: int) -> bool:
        """Whether two paths are the same but for `\\`, the folder they are relative to, and a suffix in one of them."""
        plain = []
        for one in (number, other):
            places = self._places(one, self.names[one].replace("\\", "/"))
            plain.append(places[0] if places else "/".join(_parts(self.names[one])))
        return plain[0] == plain[1] or any(
            posixpath.splitext(one)[0] == two and posixpath.splitext(one)[1].lower() in SUFFIXES
            for one, two in (plain, plain[::-1])
        )

    # Errors -----------------------------------------------------------------------------------------------------------

    def _url(self, number: int) -> DataError:
        count = sum(bool(_URL.match(name)) for name in self.names)
        return DataError(
            f"{self.where(number)}: {shortened(self.names[number])} is a URL, as {count:,} of {len(self.names):,} "
            "paths are; download the images into a folder, and use dataset.root=FOLDER with their names in the table"
        )

    def _outside(self, numbers: list[int]) -> DataError:
        number, name = numbers[0], self.names[numbers[0]]
        verb = "lies outside of" if _is_foreign(name) and ".." not in name else "may lie outside of"
        first = range(min(len(self.names), 1000))
        real = [place for one in first if (place := self._real_place(one)) is not None]
        common = os.path.commonpath(list(map(os.path.dirname, real))) if real else os.path.sep
        advice = "use dataset.root=FOLDER, one that holds all images"
        if common not in (os.path.sep, self.root):
            which = (
                "all" if len(real) == len(self.names) else f"the {len(real):,} that exist of the first {len(first):,}"
            )
            advice = f"use {setting('dataset.root', _shown(common))}, which holds {which}"
        return DataError(
            f"{self.where(number)}: {shortened(name, 200)} {verb} {self.root}, and nothing in it is called so; "
            f"{advice}. Found there: {listing(self.root)}"
        )

    def _real_place(self, number: int) -> str | None:
        """The absolute path of an image that exists as its path says, wherever that is."""
        name = self.names[number].replace("\\", "/")
        bases = [self.folders.get(number, self.folder), self.root]
        places = (
            [_normal(os.path.join(base, name)) for base in bases] if is_image_path(name) and "\0" not in name else []
        )
        return next(filter(os.path.exists, places), None)


def _is_foreign(name: str) -> bool:
    """Whether a path is absolute or leaves its folder, so that its beginning belongs to one machine."""
    name = name.replace("\\", "/")
    return bool(_ABSOLUTE.match(name) or _URL.match(name)) or ".." in name.split("/")


def _parts(name: str) -> list[str]:
    name = unquote(urlsplit(name).path) if name.startswith("file://") else name.replace("\\", "/")
    absolute = [""] if name.startswith("/") else []
    return absolute + [part for part in posixpath.normpath(name).split("/") if part not in ("", ".")]


def _normal(path: str) -> str:
    return path if "/." not in path and "//" not in path and not path.endswith("/") else posixpath.normpath(path)


def _shown(path: str) -> str:
    """A folder as a user would write it: relative to the current one, if it lies there."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative
