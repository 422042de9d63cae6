"""Ultralytics' datasets for detection, segmentation, pose and oriented boxes: data.yaml, images and labels/*.txt.

Read as ultralytics 8 does (ultralytics/ultralytics@00bfe34, ultralytics/data/utils.py: `check_det_dataset`,
`img2label_paths`; data/base.py: `get_img_files`): `names` is a list or {number: name}, or `nc` counts the classes;
`train`, `val` and `test` are folders, lists of folders, or text files of paths, relative to `path`, itself relative to
the file. The labels of images/a/b.jpg are in labels/a/b.txt, a line for each object, its class first; an image without
that file has none. Roboflow writes `../train/images` for train/images beside data.yaml.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

from mldec.data.folder_tree import is_image_name, is_of_outputs
from mldec.data.own.documents import label_text, reading
from mldec.data.own.listing import Entry, Listing
from mldec.data.own.shapes import Source, make_listing
from mldec.errors import DataError, counted, shortened, whole_number
from mldec.untrusted import open_text

YOLO = "Ultralytics YOLO"
MAX_CLASSES = 100_000
NAMES_FILES = ("classes.txt", "obj.names")
MOST_LOOKED_AT = 100  # text files beside images
_BOX = re.compile(r"\s*\d+(\s+-?[\d.]+(e-?\d+)?){4}", re.I)
_KEYS = {"train": ("train",), "val": ("val", "validation", "valid"), "test": ("test",)}


def looks_like_yolo(document: Any) -> bool:
    """Whether a YAML document describes a dataset of ultralytics."""
    return (
        isinstance(document, dict)
        and ("names" in document or "nc" in document)
        and any(document.get(key) for keys in _KEYS.values() for key in keys)
    )


def read_yolo(source: Source, form: str = YOLO, *, cut: bool = False, files: Iterable[str] = ()) -> Listing:
    """A data.yaml: the class of a box, segment or pose is a label of its image.

    Nothing outside of the file's folder is read, or of `source.root`.

    Args:
        form: the name of the format.
        cut: paths may begin with folders that are none of these, as those of another machine do.
        files: that were read before.
    """
    with reading(source.path, f"a dataset in the format {form}"):
        document = source.document
        names = class_names(document)
        places = _Places(source, document.get("path"), cut=cut)
        places.files += files
        chosen = {split: document[key] for split, keys in _KEYS.items() for key in keys if _given(document.get(key))}
        decisions = []
        if _given(chosen.get("val")) and chosen.get("val") == chosen.get("train"):
            decisions.append("val names the same images as train, left out")
            del chosen["val"]
        images: list[tuple[str, str | None]] = []
        for split, value in chosen.items():
            for place in value if isinstance(value, list) else [value]:
                found = places.find(place)
                if found is None and split == "test":
                    decisions.append(f"test: {shortened(place)} does not exist, left out")
                elif found is None:
                    raise DataError(
                        f"{split}: {shortened(place)} does not exist below {places.base}; use dataset.root=FOLDER, the "
                        "one that holds it"
                    )
                else:
                    images += [(image, split) for image in places.images(found)]
        return _listing(source, places, names, images, decisions, form)


def find_label_folder(folder: str) -> tuple[str, str] | None:
    """The file of class names and the folder of images, where these say what text files of boxes mean; None without.

    Label Studio has classes.txt beside images/ and labels/; labelImg 1.8 writes it where it saves the boxes: beside the
    images and their text files, or into labels/.
    """
    images, labels = os.path.join(folder, "images"), os.path.join(folder, "labels")
    split = os.path.isdir(images) and os.path.isdir(labels)
    for place, names in itertools.product((folder, *([labels] if split else [])), NAMES_FILES):
        if os.path.isfile(path := os.path.join(place, names)) and (split or _boxes_beside_images(folder)):
            return path, images if split else folder
    return None


def _boxes_beside_images(folder: str) -> bool:
    """Whether a text file with a box in its first line has the name of an image beside it."""
    names = set(os.listdir(folder))
    pairs = (f"{os.path.splitext(name)[0]}.txt" for name in sorted(names) if is_image_name(name))
    for name in itertools.islice((name for name in pairs if name in names), MOST_LOOKED_AT):
        with contextlib.suppress(OSError, UnicodeDecodeError, DataError), open_text(os.path.join(folder, name)) as file:
            if _BOX.match(file.readline(2**10)):
                return True
    return False


def read_label_folder(folder: str, names_file: str, images: str, root: str | None = None) -> Listing:
    """Images of a folder and text files of boxes, beside a file of class names, one per line; `find_label_folder`."""
    with open_text(names_file) as file:
        names = tuple(label_text(line) for line in file if line.strip())
    source = Source(names_file, None, root=root or folder)
    places = _Places(source, None)
    return _listing(source, places, names, [(name, None) for name in places.images(images)], [])


def class_names(document: dict[str, Any]) -> tuple[str, ...]:
    """The names of the classes by number. Raises DataError for numbers that are not 0, 1, 2, …"""
    names = document.get("names")
    if not _given(names):
        count = whole_number(str(document["nc"]))
        if count is None or not 0 < count <= MAX_CLASSES:
            raise DataError(f"nc: {shortened(document['nc'])}; allowed are 1 to {MAX_CLASSES:,} classes")
        return tuple(f"class_{number}" for number in range(count))
    if isinstance(names, dict):
        numbers = {whole_number(str(key)): name for key, name in names.items()}
        if set(numbers) != set(range(len(names))):
            raise DataError(f"names: its numbers must be 0 to {len(names) - 1}, each once")
        names = [numbers[number] for number in range(len(names))]
    if not isinstance(names, list):
        raise DataError(f"names: expected a list, or an object of numbers and names, found {shortened(names)}")
    return tuple(map(label_text, names))


class _Places:
    """Finds what data.yaml and lists name, within one folder."""

    def __init__(self, source: Source, path: Any, *, cut: bool = False) -> None:
        self.cut = cut
        self.base = source.folder
        roots = [os.path.join(self.base, self._clean(path))] if isinstance(path, str) and _given(path) else []
        self.roots = [root for root in (*roots, self.base) if self._inside(root)]
        self.files: list[str] = []

    def find(self, text: Any) -> str | None:
        """The folder or file that a text names: as written, without leading `..`, or the end of another machine's."""
        if not isinstance(text, str):
            raise DataError(f"expected the path of a folder or list, found {shortened(text)}")
        parts = self._clean(text).split("/")
        tails = range(len(parts)) if self.cut or text.startswith(("/", "..")) or ":" in text else range(1)
        for tail in tails:
            for root in self.roots:
                path = os.path.normpath(os.path.join(root, *parts[tail:]))
                if self._inside(path) and os.path.exists(path):
                    return path
        return None

    def images(self, place: str) -> Iterator[str]:
        """Paths relative to `base` of the images in a folder, at any depth, or in a list."""
        self.files.append(place)
        if os.path.isdir(place):
            for folder, inner, names in os.walk(place):
                inner[:] = sorted(name for name in inner if not name.startswith(".") and name != "__MACOSX")
                inner[:] = [name for name in inner if not is_of_outputs(os.path.join(folder, name))]
                self.files += [folder] if folder != place else []
                for name in sorted(names):
                    if is_image_name(name) and not name.startswith("."):
                        yield os.path.relpath(os.path.join(folder, name), self.base)
            return
        if not place.lower().endswith(".txt"):
            raise DataError(f"{place} is neither a folder nor a .txt file with paths of images")
        with open_text(place) as file:
            for line in filter(None, map(str.strip, file)):
                here = os.path.join(os.path.dirname(place), line.removeprefix("./")) if line.startswith("./") else None
                found = here if here and os.path.exists(here) and self._inside(here) else self.find(line)
                yield os.path.relpath(found, self.base) if found else line

    def labels_file(self, image: str) -> str:
        """Where the labels of an image are: in labels/ where it is in images/, else beside it."""
        before, inside, after = f"/{image}".rpartition("/images/")
        text = f"{before}/labels/{after}" if inside else f"/{image}"
        return os.path.join(self.base, os.path.splitext(text)[0][1:] + ".txt")

    def _clean(self, text: str) -> str:
        return text.strip().replace("\\", "/")

    def _inside(self, path: str) -> bool:
        return "\0" not in path and (os.path.normpath(path) + os.sep).startswith(os.path.join(self.base, ""))


def _listing(
    source: Source,
    places: _Places,
    names: tuple[str, ...],
    images: list[tuple[str, str | None]],
    decisions: list[str],
    form: str = YOLO,
) -> Listing:
    entries, without = [], 0
    for image, split in images:
        path = places.labels_file(image) if ".." not in image.split("/") and not os.path.isabs(image) else None
        exists = path is not None and os.path.isfile(path)
        without += not exists
        entries.append(Entry(image, _classes(path, names) if path and exists else (), split=split))
        places.files += [path] if path and exists else []
    if entries and without == len(entries):
        raise DataError(
            f"none of its {counted(without, 'image')} has a file of labels, such as "
            f"{places.labels_file(entries[0].path)}"
        )
    if without:
        decisions.append(f"no file of labels, so no label, for {counted(without, 'image')}")
    return make_listing(source, form, entries, names, decisions=decisions, files=places.files)


def _classes(path: str, names: tuple[str, ...]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    try:
        with open_text(path) as file:
            for number, line in enumerate(file, start=1):
                if not (cells := line.split()):
                    continue
                place = whole_number(re.sub(r"\.0*$", "", cells[0]))
                if place is None or place >= len(names) or len(cells) < 5:
                    raise DataError(
                        f"{path} line {number}: '{shortened(line.strip())}': expected a class, 0 to "
                        f"{len(names) - 1}, and the numbers of a box or segment"
                    )
                found[names[place]] = None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    return tuple(found)


def _given(value: Any) -> bool:
    return value not in (None, "", "null", "~", [])
