"""Files in folders at any depth, also behind symbolic links, in a bounded time whatever these lead to."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from mldec.data.dataset import name_some
from mldec.errors import DataError, counted, printable_name

#: Folders that are read behind links, of one tree: a link can lead to a whole disk. Those directly in the root, one per
#: class, do not count.
MAX_LINKED = 100_000
MAX_LISTED = 200_000  # entries that are looked at for files of macOS
#: Endings of files that count as images; their content is checked when they are read.
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .gif .bmp .tif .tiff .ppm .pgm .pnm .jp2 .avif .ico".split()  # noqa: SIM905
)
#: Folders in which training and other commands keep what they write, each in a folder of its own.
OUTPUT_FOLDERS = ("outputs", "runs")


class FolderTree:
    """A folder, with what lies in it in sorted order.

    Links to folders are followed, but for those that lead to a folder that they are in, which would never end. Behind
    the links of one folder in the root, each folder is read once, so that many links cannot make more paths than there
    are files. Hidden files and folders are left out.

    Args:
        root: the folder.

    Raises, in whatever lists it:
        DataError: a folder cannot be listed, a link directly in the root leads nowhere, or links lead to more than
            MAX_LINKED folders.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self._macos: dict[str, None] = {}  # paths of what was left out
        self._outputs: dict[str, None] = {}
        self._repeated: dict[str, None] = {}
        self._linked = 0

    def folders(self) -> list[str]:
        """Names of the folders in the root, but for those of outputs, see `is_of_outputs`."""
        found = []
        for entry in self._entries(""):
            if not os.path.exists(entry.path) and not os.path.splitext(entry.name)[1]:  # no link to a file, by its name
                raise DataError(
                    f"{entry.path}: is a link to {printable_name(os.readlink(entry.path))}, which does not exist or "
                    "cannot be read; correct or remove the link, or mount what it leads to"
                )
            if _is_folder(entry):
                if entry.is_symlink() and _leads_back(entry.path):
                    self._repeated[entry.name] = None
                elif is_of_outputs(entry.path):
                    self._outputs[entry.name] = None
                else:
                    found.append(entry.name)
        return found

    def below(self, name: str) -> Iterator[str]:
        """A folder in the root and all folders in it, by their paths relative to the root."""
        return (path for path, is_folder in self._walk(name) if is_folder)

    def files(self, name: str) -> Iterator[str]:
        """The files in a folder in the root, by their paths relative to the root."""
        return (path for path, is_folder in self._walk(name) if not is_folder)

    def notes(self) -> list[str]:
        """Sentences for what was left out so far, but for hidden files that are not of macOS."""
        sentences = _macos_note(list(self._macos))
        if count := len(self._outputs):
            some = name_some(self._outputs, count)
            sentences.append(f"left out {counted(count, 'folder')} of outputs ({some})")
        if count := len(self._repeated):
            some = name_some(self._repeated, count)
            sentences.append(f"left out {counted(count, 'folder')} behind links, read already ({some})")
        return sentences

    def _walk(self, name: str) -> Iterator[tuple[str, bool]]:
        """Paths relative to the root of all folders (True) and files (False), each folder before what is in it."""
        seen = set[tuple[int, int]]()  # device and inode of each folder that was read
        waiting = [(name, True, os.path.islink(os.path.join(self.root, name)))]
        while waiting:  # not by recursion: a path can have more levels than Python's stack
            path, is_folder, behind_link = waiting.pop()
            if not is_folder:
                yield path, False
                continue
            place = os.path.join(self.root, path)
            identity = _identity(place)
            if path != name and behind_link:
                if identity in seen or (os.path.islink(place) and _leads_back(place)):
                    self._repeated[path] = None
                    continue
                self._count_linked(path)
            seen.add(identity)
            yield path, True
            for entry in reversed(self._entries(path)):
                waiting.append((f"{path}/{entry.name}", _is_folder(entry), behind_link or entry.is_symlink()))

    def _count_linked(self, path: str) -> None:
        self._linked += 1
        if self._linked > MAX_LINKED:
            raise DataError(
                f"{os.path.join(self.root, path)}: links in {self.root} lead to more than {MAX_LINKED:,} folders; "
                "remove those that do not lead to images alone"
            )

    def _entries(self, path: str) -> list[os.DirEntry[str]]:
        """What is in a folder, by its path relative to the root, but for hidden files and what macOS adds."""
        folder = os.path.join(self.root, path)
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(f"{folder}: cannot be listed: {error.strerror}") from None
        own = [entry for entry in found if not is_of_macos(entry.name)]
        if len(own) < len(found):
            self._macos |= {os.path.join(path, entry.name): None for entry in found if is_of_macos(entry.name)}
        return [entry for entry in own if not entry.name.startswith(".")]


def find_macos(folder: str) -> list[str]:
    """A sentence about the files and folders in `folder` that macOS adds, as `some_below` finds them; or none."""
    return _macos_note(sorted(path for path in some_below(folder) if is_of_macos(os.path.basename(path))))


def some_below(folder: str) -> Iterator[str]:
    """The paths relative to `folder` of what lies in it at any depth, at most MAX_LISTED: for messages.

    Neither links nor hidden folders are entered.
    """
    waiting, count = [folder], 0
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if (count := count + 1) > MAX_LISTED:
                    return
                yield entry.path[len(os.path.join(folder, "")) :]
                if not entry.name.startswith(".") and entry.name != "__MACOSX" and entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)


def is_image_name(name: str) -> bool:
    """Whether a file is called as images are, by its ending."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def is_of_macos(name: str) -> bool:
    """Whether a file or folder is called as those that macOS adds, which are no images."""
    return name.startswith("._") or name in (".DS_Store", "__MACOSX")


def is_of_outputs(folder: str) -> bool:
    """Whether a folder is one that mldec writes into, so that its images are figures and no data.

    That is one called as in OUTPUT_FOLDERS, or a run with its config.yaml, in which no image lies directly: those of a
    class called `outputs` do.
    """
    if os.path.basename(folder) not in OUTPUT_FOLDERS and not os.path.isfile(os.path.join(folder, "config.yaml")):
        return False
    try:
        with os.scandir(folder) as entries:
            return not any(is_image_name(entry.name) for entry in entries)
    except OSError:
        return False


def _macos_note(paths: list[str]) -> list[str]:
    count = len(paths)
    what = "1 file or folder" if count == 1 else f"{count:,} files and folders"
    return [f"left out {what} that macOS adds ({name_some(paths, count)})"] if count else []


def _identity(folder: str) -> tuple[int, int]:
    try:
        status = os.stat(folder)
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {error.strerror}") from None
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one; False for a link that leads nowhere or to itself."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _leads_back(link: str) -> bool:
    """Whether a link leads to a folder that it is in, by its path or by the one on the disk."""
    target = os.stat(link)
    for place in {os.path.dirname(os.path.abspath(link)), os.path.realpath(os.path.dirname(link))}:
        while not os.path.samestat(os.stat(place), target):
            above = os.path.dirname(place)
            if above == place:
                break
            place = above
        else:
            return True
    return False
