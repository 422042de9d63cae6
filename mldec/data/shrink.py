"""A copy of a dataset with smaller images, which are read faster.

The paper trains on Open Images with images of 256 pixels on the shorter side (§2.6). Annotations are copied unchanged:
sizes and boxes in them, which training does not read, are those of the original images.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import stat
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mldec.data.coco import CocoJsonConfig
from mldec.data.dataset import DatasetConfig, FilesConfig
from mldec.data.folder_tree import is_image_name
from mldec.data.image import MAX_BYTES, decode, read_size
from mldec.data.index import ImageIndex
from mldec.data.verify import Problem, for_each_image
from mldec.errors import DataError, shortened
from mldec.files import PARTIAL, replacing, write_text
from mldec.untrusted import CHUNK, MAX_SMALL, open_regular, read_bytes, read_json

BYTES_PER_PIXEL = 0.5  # of a JPEG at quality 90, of photographs
ASPECT = 1.5  # the longer side of an image is taken to be this many times the shorter one
MARKER = ".shrunk.json"  # in the new folder: the settings of its images


@dataclass(frozen=True)
class Plan:
    """The content of a dataset's folder beside its images.

    Attributes:
        files: regular files to be copied, by their paths relative to the folder, sorted.
        left_out: a sentence for each thing that is not copied.
    """

    files: tuple[str, ...]
    left_out: tuple[str, ...]


def survey(source: str, target: Path, indexes: Collection[ImageIndex], *, side: int) -> Plan:
    """List a dataset's folder and check that its smaller form fits on the disk.

    Regular files are copied, and links to regular files that lie in the folder. Other links are left out, but for
    those to folders of images of `indexes`: what they lead to is no part of the dataset. So are devices, pipes and
    sockets, which may never end.

    Args:
        source: the dataset's folder.
        target: the new dataset's, which need not exist; files that it holds already need no more space.
        side: of the new images in pixels.

    Raises:
        DataError: the disk has less free space than needed; the message has both figures.
    """
    files, left_out, size = [], [], 0
    roots = [os.path.join(os.path.abspath(index.root), "") for index in indexes]
    roots += [
        os.path.join(index.root, name, "") for index in indexes for name in set(map(os.path.dirname, index.names()))
    ]
    for path, status, problem in _entries(source):
        if problem is None and status is not None:
            files.append(path)
            size += 0 if (target / path).exists() else status.st_size
        elif not any(root.startswith(os.path.join(os.path.abspath(source), path, "")) for root in roots):
            left_out.append(f"{path}: {problem}, not copied")
    for index in indexes:
        for name in index.names():
            new = target / os.path.relpath(index.root, os.path.abspath(source)) / name
            if not new.exists():
                size += min(_size(os.path.join(index.root, name)), int(side * side * ASPECT * BYTES_PER_PIXEL))
    _check_space(target, size)
    return Plan(tuple(sorted(files)), tuple(sorted(left_out)))


def prepare_target(source: str, target: Path, *, side: int, quality: int) -> None:
    """Create the folder of the new dataset, or continue one that was begun with the same settings.

    Raises DataError if it lies inside the source or contains it, or was begun with other settings.
    """
    old, new = Path(source).resolve(), target.resolve()
    if new == old or old in new.parents or new in old.parents:
        raise DataError(f"output={target}: must lie outside of {source}, which is not changed")
    settings = {"side": side, "quality": quality, "source": str(old)}
    marker = target / MARKER
    if target.exists() and not target.is_dir():
        raise DataError(f"output={target}: is not a directory; use another name")
    if marker.exists():
        begun = read_json(marker, most=MAX_SMALL)
        if begun != settings:
            raise DataError(
                f"output={target}: was begun with {shortened(begun, 300)}, now it is {settings}; use another folder"
            )
        for partial in target.rglob(f".*{PARTIAL}*"):  # of a killed call
            partial.unlink(missing_ok=True)
    elif target.exists() and any(target.iterdir()):
        raise DataError(f"output={target}: is not empty; use another folder")
    target.mkdir(parents=True, exist_ok=True)
    if not marker.exists():
        write_text(marker, json.dumps(settings))


def shrink(
    index: ImageIndex,
    target: Path,
    *,
    side: int,
    quality: int = 90,
    workers: int,
    on_done: Callable[[int], None] = lambda count: None,
) -> list[Problem]:
    """Write the images of `index` below `target`, under the same relative paths; returns those that are broken.

    Existing images are skipped: each is written whole or not at all, so an interrupted call can be repeated. Images
    whose shorter side is at most `side` are copied unchanged.
    """
    work = functools.partial(_shrink_row, target=target, side=side, quality=quality)
    return for_each_image(index, work, workers=workers, on_done=on_done)


def shrink_image(source: str, target: Path, *, side: int, quality: int) -> None:
    """Write one image with a shorter side of at most `side` pixels, upright, in the format of its suffix.

    Raises DataError if it cannot be decoded.
    """
    with replacing(target) as partial:
        width, height = read_size(source)
        if min(width, height) <= side:
            decode(source)  # a small image may be broken too
            partial.write_bytes(read_bytes(source, most=MAX_BYTES))
        else:
            scale = side / min(width, height)
            size = (max(side, round(width * scale)), max(side, round(height * scale)))
            image = Image.fromarray(decode(source)).resize(size, Image.Resampling.LANCZOS, reducing_gap=3)
            known = Image.registered_extensions().get(target.suffix.lower(), "JPEG")
            image.save(partial, known if known in Image.SAVE else "JPEG", quality=quality)


def copy_regular(source: str | os.PathLike[str], target: Path) -> None:
    """Copy a regular file, whole or not at all: the bytes that it has when it is opened, with holes kept as holes.

    Raises:
        DataError: it is not a regular file.
        OSError: it cannot be read, or the disk is full; no file remains then.
    """
    with replacing(target) as partial, open_regular(source) as old, partial.open("wb") as new:
        left = size = os.fstat(old.fileno()).st_size
        while left and (part := old.read(min(CHUNK, left))):
            left -= len(part)
            if part.count(0) == len(part):
                new.seek(len(part), os.SEEK_CUR)
            else:
                new.write(part)
        new.truncate(size - left)


def copy_others(
    config: DatasetConfig, output: Path, folders: Mapping[str, str], files: Sequence[str]
) -> dict[str, str]:
    """Copy what a dataset has beside its images. Returns the settings that the new dataset needs beside its root.

    Args:
        output: the new dataset's folder.
        folders: of each split's images, relative to the dataset's folder.
        files: to be copied, relative to the dataset's folder; files of the splits that lie elsewhere are copied, too.
    """
    for name in files:
        copy_regular(os.path.join(config.folder, name), output / name)
    settings: dict[str, str] = {}
    if not isinstance(config, FilesConfig):
        return settings
    taken, home = set(files), Path(config.folder).resolve()
    for split, folder in folders.items():
        file = Path(config.file(split)).resolve()
        name = str(file.relative_to(home)) if file.is_relative_to(home) else file.name
        if not file.is_relative_to(home) and name in taken:  # of another file
            name = f"{split}-{name}"
        if name not in taken:
            copy_regular(file, output / name)
        taken.add(name)
        settings[f"dataset.{split}"] = str(output / name)
        if isinstance(config, CocoJsonConfig):
            settings[f"dataset.{split}_images"] = str(output / folder)
    return settings


def _shrink_row(index: ImageIndex, row: int, *, target: Path, side: int, quality: int) -> Problem | None:
    new = target / index.name(row)
    if new.exists():
        return None
    try:
        shrink_image(index.path(row), new, side=side, quality=quality)
    except DataError as error:
        return Problem(index.path(row), str(error))
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # such as a full disk, which stops everything
            raise
        return Problem(index.path(row), f"{index.path(row)}: cannot be resized: {error}")
    return None


def _entries(source: str) -> Iterator[tuple[str, os.stat_result | None, str | None]]:
    """Path relative to `source`, status and the reason not to copy it, of all that is no image and not hidden."""
    home = os.path.realpath(source)
    waiting = [source]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as found:
                entries = [entry for entry in found if not entry.name.startswith(".")]
        except OSError as error:
            raise DataError(f"{error.filename}: cannot be listed: {error.strerror}") from None
        for entry in entries:
            path = os.path.relpath(entry.path, source)
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
            elif entry.is_dir():
                yield path, None, "a link to a folder"
            elif not is_image_name(entry.name):
                yield path, *_judge(entry, home)


def _judge(entry: os.DirEntry[str], home: str) -> tuple[os.stat_result | None, str | None]:
    try:
        status = entry.stat()
    except OSError:
        return None, "a link that leads nowhere"
    if not stat.S_ISREG(status.st_mode):
        return status, "not a regular file but a device, a pipe or a socket"
    if entry.is_symlink() and not os.path.realpath(entry.path).startswith(os.path.join(home, "")):
        return status, "a link to a file outside of the folder"
    return status, None


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0  # it is missing, which is reported when it is copied


def _check_space(target: Path, size: int) -> None:
    path = target.absolute()
    while not path.exists():
        path = path.parent
    free = shutil.disk_usage(path).free
    if size > free:
        raise DataError(
            f"output={target}: about {size / 2**30:,.1f} GiB are needed and {free / 2**30:,.1f} GiB are free; use a "
            "folder on another disk, or a smaller side"
        )
