"""What the readers of exports share: the file to read, and how a listing is built."""

from __future__ import annotations

import functools
import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mldec.data.dataset import name_some
from mldec.data.own.documents import IMAGE_KEYS, is_image, split_of
from mldec.data.own.listing import Entry, Listing
from mldec.data.own.values import is_nothing, split_key
from mldec.data.own.values import split_of as split_of_value
from mldec.errors import DataError, counted, shortened
from mldec.labels import repeated_names

ANNOTATION_FOLDERS = ("annotations", "labels", "xml")  # beside which images lie in folders of their own


@dataclass(frozen=True)
class Source:
    """A file to read, and what the user set.

    Attributes:
        path: the file.
        document: its content.
        root: the folder that images are relative to, if it was set.
        path_column, label_column: the keys of the image and of the labels, if they were set.
        separator: between labels in one text, if it was set.
        split_column: the key of the split, if it was set.
        ignore: keys that are neither labels nor splits; None: those are found.
        minus_one: what -1 means, absent or unknown, if it was set.
    """

    path: str
    document: Any
    root: str | None = None
    path_column: str | None = None
    label_column: str | None = None
    separator: str | None = None
    split_column: str | None = None
    ignore: tuple[str, ...] | None = None
    minus_one: str | None = None

    @property
    def folder(self) -> str:
        """Absolute folder that images are relative to, unless the export says otherwise."""
        return os.path.abspath(os.path.expanduser(self.root) if self.root else os.path.dirname(self.path) or ".")


@dataclass(frozen=True)
class Shape:
    """A kind of file.

    Attributes:
        name: for people.
        looks_like: whether a document is one; cheap, and never wrong for another shape's.
        read: what it lists. Raises DataError, naming the file.
    """

    name: str
    looks_like: Callable[[Any], bool]
    read: Callable[[Source], Listing]


def make_listing(
    source: Source,
    name: str,
    entries: Sequence[Entry],
    labels: Iterable[str] | None = None,
    *,
    decisions: Iterable[str] = (),
    options: dict[str, Any] | None = None,
    files: Iterable[str] = (),
) -> Listing:
    """A listing of entries that are read already, whose images lie below `source.folder`.

    Raises DataError for no entry. Where an image lies in one of the folders that are usual for an annotation file,
    such as `images/train2017` for `annotations/instances_train2017.json`, the entries have that folder.
    """
    if not entries:
        raise DataError(f"{source.path}: lists no image")
    decisions = list(decisions)
    without = sum(entry.split is None for entry in entries)
    if 0 < without < len(entries):
        decisions.append(f"{counted(without, 'image')} without a split in train")
    if labels is not None:
        labels = tuple(labels)
        if repeated := repeated_names(labels):
            decisions.append(f"classes of one name are one label ({name_some(repeated, len(repeated))})")
    times = Counter((entry.path, entry.folder) for entry in entries)
    if several := [path for (path, _), count in times.items() if count > 1]:
        decisions.append(
            f"{counted(len(several), 'image')} listed more than once, with the labels of all entries "
            f"({name_some(several, len(several))})"
        )
    base, folder = _image_folder(source, [entry.path for entry in entries[:3] if entry.folder is None])
    if folder != base:
        entries = [entry if entry.folder else _moved(entry, folder) for entry in entries]
    return Listing(
        source=source.path,
        format=name,
        folder=base,
        entries=functools.partial(iter, entries),
        labels=None if labels is None else tuple(dict.fromkeys(labels)),
        files=tuple(dict.fromkeys([source.path, *files])),
        decisions=tuple(decisions),
        options=options or {},
    )


def joined(path: str, parts: Sequence[tuple[Listing, str | None]], root: str | None = None) -> Listing:
    """Listings of the same format, each with its split, as one of the folder `path`; train's labels come first."""
    parts = sorted(parts, key=lambda part: (["train", "val", "test", None].index(part[1]), part[0].source))
    folder = os.path.abspath(os.path.expanduser(root or path))
    entries = [
        Entry(e.path, e.present, e.absent, e.unknown, e.split or split, e.folder or one.folder, e.line)
        for one, split in parts
        for e in one.entries()
    ]
    named = [one.labels for one, _ in parts]
    labels = None if None in named else tuple(dict.fromkeys(itertools.chain(*(names or () for names in named))))
    unused = []
    if labels is not None:
        used = {*(named[0] or ()), *(name for e in entries for name in (*e.present, *e.absent, *e.unknown))}
        unused = [name for name in labels if name not in used]
        labels = tuple(name for name in labels if name in used)
    alone = len(parts) == 1
    decisions = [
        text if alone or not re.search(r"\d", text) else f"{split or os.path.basename(one.source)}: {text}"
        for one, split in parts
        for text in one.decisions
    ]
    splits = [f"{split} from {os.path.relpath(one.source, path)}" for one, split in parts if split]
    more = [", ".join(splits)] if splits else []
    if unused:
        more.append(f"classes of val or test without an image left out ({name_some(unused, len(unused))})")
    return Listing(
        source=path,
        format=parts[0][0].format,
        folder=folder,
        entries=functools.partial(iter, entries),
        labels=labels,
        files=tuple(dict.fromkeys(file for one, _ in parts for file in one.files)),
        decisions=tuple(dict.fromkeys(decisions + more)),
        options={key: value for one, _ in parts for key, value in one.options.items()},
    )


def image_key(source: Source, records: Sequence[dict[str, Any]]) -> str:
    """The key of the records under which the image's path stands: the one set, or that whose values are images.

    Raises:
        DataError: there is none, or more than one; says which setting chooses.
    """
    keys = list(dict.fromkeys(key for record in records[:1000] for key in record))
    if source.path_column is not None:
        if source.path_column not in keys:
            raise DataError(
                f"{source.path}: dataset.path_column={source.path_column}: no such key; there are "
                f"{name_some(keys, len(keys), 10)}"
            )
        return source.path_column
    filled = {key: [record[key] for record in records[:1000] if record.get(key) is not None] for key in keys}
    images = [key for key, values in filled.items() if values and all(map(is_image, values))]
    if len(images) == 1:
        return images[0]
    if not images:
        images = [key for key in keys if all(isinstance(value, str) for value in filled[key])]
    usual = next((key for name in IMAGE_KEYS for key in images if key.lower() == name.lower()), None)
    if usual is None:
        raise DataError(
            f"{source.path}: which of the keys {name_some(keys, len(keys), 10)} holds the images' paths? "
            f"Use dataset.path_column=NAME, or name it path"
        )
    return usual


def splits_of(source: Source, records: Sequence[dict[str, Any]]) -> tuple[list[str | None], str | None]:
    """The split that each record names, and the key under which it stands; None where there is none.

    Raises DataError for a value that is no split.
    """
    keys = {key for record in records for key in record} - set(source.ignore or ())
    key = source.split_column or split_key(records, source.ignore or ())
    key = key or ("split" if "split" in keys else None)
    if key is None:
        return [None] * len(records), None
    if key not in keys:
        raise DataError(f"dataset.split_column={key}: no such key; there are {name_some(sorted(keys), len(keys), 10)}")
    found: list[str | None] = []
    for value in (record.get(key) for record in records):
        nothing = value is None or (isinstance(value, str) and is_nothing(value))
        found.append(None if nothing else split_of_value(value, key))
        if found[-1] is None and not nothing:
            raise DataError(
                f"{key}: {shortened(value)} is none of the splits train, val, test; if it does not divide the images: "
                f"dataset.ignore=[{key}]"
            )
    return found, key


def _moved(entry: Entry, folder: str) -> Entry:
    return Entry(entry.path, entry.present, entry.absent, entry.unknown, entry.split, folder, entry.line)


def _image_folder(source: Source, paths: Sequence[str]) -> tuple[str, str]:
    """The folder of the dataset, and the one below it in which the first images lie; the former if none is found."""
    base = source.folder
    stem = os.path.splitext(os.path.basename(source.path))[0]
    bases = [base]
    if source.root is None and os.path.basename(base).lower() in ANNOTATION_FOLDERS:
        bases.append(os.path.dirname(base))
    stems = [stem, stem.partition("instances_")[2], stem.strip("_"), split_of(stem) or ""]
    below = ["", *stems, *(f"images/{name}" for name in ["", *stems]), "data", "JPEGImages", "img"]
    for parent in bases:
        for name in below:
            folder = os.path.normpath(os.path.join(parent, name))
            if any(_lies_in(folder, path) for path in paths):
                return parent, folder
    return base, base


def _lies_in(folder: str, path: str) -> bool:
    name = path.replace("\\", "/")
    if os.path.isabs(name) or ".." in name.split("/") or "\0" in name:
        return False
    return os.path.exists(os.path.join(folder, name))
