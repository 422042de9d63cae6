"""A folder for Hugging Face's `load_dataset("imagefolder", data_dir=DIR)`, with the images in it or without.

    DIR/train/metadata.jsonl       {"file_name": "a.jpg", "labels": ["cat"]}; a key for each label if some are unknown
    DIR/train/a.jpg
    DIR/validation/…, DIR/test/…

Predictions have no splits: their metadata.jsonl and images lie in DIR itself.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from mldec.data.image import read_size
from mldec.data.own.export_set import ExportImage, ExportSet
from mldec.data.own.export_writers import table_rows, to_json
from mldec.errors import ConfigError, DataError, RunError, printable_name, shortened
from mldec.files import partial_path
from mldec.untrusted import check_regular

FOLDERS = {"val": "validation"}  # how Hugging Face calls a split
METADATA = "metadata.jsonl"

Images = Literal["copy", "link", "none"]


def measure_images(images: ExportSet) -> int:
    """How many bytes all images have. Raises DataError for one that does not exist."""
    total = 0
    for split, image in images.images():
        path = images.path(split, image)
        try:
            total += os.stat(path).st_size
        except OSError as error:
            raise DataError(
                f"{printable_name(path)}: {error.strerror}; use root=FOLDER to say where the images are, images=none "
                "to write their names alone, or dataset.missing=drop to leave those out that do not exist"
            ) from None
    return total


def check_space(folder: Path, needed: int) -> None:
    """Raise RunError unless `needed` bytes fit on the disk of a folder that need not exist."""
    place = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise RunError(
            f"output={folder}: the images have {needed:,} bytes, and {free:,} are free there; use images=link, or "
            "another disk"
        )


def check_new(folder: Path) -> None:
    """Raise ConfigError where the folder exists and holds something: images of another export would be part of it."""
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"output={shortened(folder)}: is not empty; name a new directory")


def write_hf(folder: Path, images: ExportSet, how: Images, on_done: Callable[[int], None]) -> None:
    """Write the folder, whole or not at all.

    Args:
        how: copy the images, set symbolic links to where they are, or leave them out.
    """
    with _new_folder(folder) as draft:
        for split in images.splits:
            inner = draft / FOLDERS.get(split, split)
            inner.mkdir(parents=True, exist_ok=True)
            part = images.only(split)
            with (inner / METADATA).open("w", encoding="utf-8", newline="\n") as target:
                for row, (_, image) in zip(table_rows(part, "file_name"), part.images(), strict=True):
                    target.write(to_json(row) + "\n")
                    _place(image, images.path(split, image), inner, how)
                    on_done(1)


def _place(image: ExportImage, source: str, folder: Path, how: Images) -> None:
    """Put an image into the folder. Its name leads nowhere else: names of a set hold no `..`."""
    if how == "none":
        return
    target = folder / image.name
    if os.path.lexists(target):
        raise DataError(f"{printable_name(source)}: {folder.name} holds a file of this name already; rename the image")
    check_regular(source)
    read_size(source)  # of what is no image, such as a link to a file elsewhere, nothing is copied
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if how == "copy":
            shutil.copyfile(source, target)
        else:
            os.symlink(os.path.abspath(source), target)
    except OSError as error:
        advice = "use images=copy" if how == "link" else "free some, or use images=link"
        raise RunError(f"{printable_name(source)}: cannot {how} it to {folder}: {error.strerror}; {advice}") from None


@contextlib.contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder beside `folder`, which must not exist or be empty: renamed when the block ends, else removed."""
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = partial_path(folder)
    try:
        draft.mkdir()
        yield draft
        if folder.is_dir():
            folder.rmdir()
        os.rename(draft, folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
