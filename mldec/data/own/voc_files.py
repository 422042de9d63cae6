"""Pascal VOC's XML with classes of one's own, in VOC's tree or beside the images.

Read as the VOC2007 development kit's documentation has it (Annotations/, JPEGImages/, ImageSets/Main/; <object> with
<name> and <difficult>) and as Roboflow exports it: an XML file beside each image in train/, valid/ and test/
(roboflow.com/formats/pascal-voc-xml).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from mldec.data.dataset import SPLITS
from mldec.data.folder import SPLIT_OF_NAME
from mldec.data.folder_tree import SUFFIXES
from mldec.data.own.documents import path_text, read_xml
from mldec.data.own.listing import Entry, Listing
from mldec.data.own.shapes import Source, joined, make_listing
from mldec.errors import DataError, counted, setting, shortened
from mldec.untrusted import open_text

VOC = "Pascal VOC XML"
_XML_FOLDERS, _IMAGE_FOLDERS = (
    ("annotations", "annotation", "xml", "xmls", "labels"),
    ("jpegimages", "images", "img", "imgs", "image"),
)


@dataclass(frozen=True)
class Part:
    """A folder of XML files: where their images are, which of them are meant (None: all), and their split."""

    folder: str
    images: str
    image_set: str | None = None
    split: str | None = None


def find_voc(folder: str) -> list[Part]:
    """The parts of a folder in VOC's format; none if it is in another. Raises DataError for two trees in one folder."""
    below = _folders(folder)
    years = [below[name] for name in sorted(below) if re.fullmatch(r"voc\d{4}", name)]
    if "vocdevkit" in below and not years:
        inner = _folders(below["vocdevkit"])
        years = [inner[name] for name in sorted(inner) if re.fullmatch(r"voc\d{4}", name)]
    if len(years) > 1:
        raise DataError(
            f"{folder}: holds {len(years)} trees of VOC; use one: {' or '.join(setting('dataset', y) for y in years)}"
        )
    if years:
        return find_voc(years[0])
    if parts := _tree(folder, None):
        return parts
    return [part for name, path in below.items() if name in SPLIT_OF_NAME for part in _tree(path, SPLIT_OF_NAME[name])]


def read_voc(folder: str, parts: list[Part]) -> Listing:
    """The listing of a folder from its parts."""
    return joined(folder, [(_read_part(folder, part), part.split) for part in parts])


def read_objects(path: str) -> tuple[set[str], set[str]]:
    """Names of the classes with a clear object in an XML file, and of those with a difficult one.

    Raises:
        DataError: it cannot be read, or an object has no name; names the file.
    """
    return _objects(path, _root(path))


def image_set_names(path: str, xml_folder: str) -> list[str]:
    """The images of an image set without suffix, in its order; a name may hold spaces, and be followed by a state.

    Raises:
        DataError: it cannot be read, names no image, or one that is not in the folder; names the file.
    """
    try:
        with open_text(path) as file:
            lines = [line.strip() for line in file if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    if not lines:
        raise DataError(f"{path}: names no image")
    known = {name[:-4] for name in _listed(xml_folder) if name.lower().endswith(".xml")}
    return [_name(line, known, path) for line in lines]


def image_sets(folder: str) -> dict[str, str]:
    """{split: file} of a folder ImageSets/Main: train and val if it has both, else trainval or train; and test."""
    found = {
        name: path
        for name in ("train", "val", "trainval", "test")
        if os.path.isfile(path := os.path.join(folder, f"{name}.txt"))
    }
    whole = found.pop("trainval", None)
    if whole is not None and not {"train", "val"} <= found.keys():
        found.pop("val", None)
        found["train"] = whole
    return {split: found[split] for split in SPLITS if split in found}


def images_by_stem(folder: str) -> dict[str, list[str]]:
    """{name without suffix: names} of the images in a folder."""
    found: dict[str, list[str]] = {}
    for name in _listed(folder):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in SUFFIXES:
            found.setdefault(stem, []).append(name)
    return found


def image_name(stem: str, images: dict[str, list[str]], written: str | None, path: str) -> str:
    """The file of an image: the one named as its XML, else as that writes, else with .jpg. Raises DataError for two."""
    names = images.get(stem, [])
    written = path_text(written).replace("\\", "/").rpartition("/")[2] if written and written.strip() else None
    if len(names) < 2:
        return names[0] if names else written or f"{stem}.jpg"
    if written not in names:
        raise DataError(f"{path}: which of {' and '.join(names)} does it describe? Name one of them in <filename>")
    return written


def _read_part(folder: str, part: Part) -> Listing:
    images = images_by_stem(part.images)
    suffixes = {name[:-4]: name[-4:] for name in _listed(part.folder) if name.lower().endswith(".xml")}
    stems = list(suffixes) if part.image_set is None else image_set_names(part.image_set, part.folder)
    entries, files = [], []
    for stem in stems:
        path = os.path.join(part.folder, stem + suffixes.get(stem, ".xml"))
        root = _root(path)
        clear, doubtful = _objects(path, root)
        name = image_name(stem, images, root.findtext("filename"), path)
        entries.append(
            Entry(
                name, tuple(sorted(clear)), unknown=tuple(sorted(doubtful - clear)), folder=os.path.abspath(part.images)
            )
        )
        files.append(path)
    decisions = []
    if any(entry.unknown for entry in entries):
        decisions.append("a label with only difficult objects in an image is unknown there")
    left_out = len(images.keys() - set(suffixes))
    if part.image_set is None and left_out:
        decisions.append(f"{counted(left_out, 'image')} without an XML file left out")
    files += [part.folder, part.images, *([part.image_set] if part.image_set else [])]
    source = Source(part.image_set or part.folder, None, root=folder)
    return make_listing(source, VOC, entries, decisions=decisions, files=files)


def _tree(folder: str, split: str | None) -> list[Part]:
    """The parts of a folder that holds XML files, or a folder of them beside one of images."""
    if _holds_voc(folder):
        images = folder
        if not images_by_stem(folder):  # a folder Annotations/ itself
            images = _image_folder(os.path.dirname(os.path.abspath(folder))) or folder
        return [Part(folder, images, split=split)]
    below = _folders(folder)
    images = _image_folder(folder) or folder
    for name in _XML_FOLDERS:
        if name not in below:
            continue
        if _holds_voc(below[name]):
            sets = {} if split else image_sets(os.path.join(folder, "ImageSets", "Main")) or _paired_lists(folder)
            parts = [Part(below[name], images, path, part) for part, path in sets.items()]
            return parts or [Part(below[name], images, split=split)]
        inner = {key: path for key, path in _folders(below[name]).items() if _holds_voc(path)}
        if inner and (split is None or not inner.keys() & SPLIT_OF_NAME.keys()):
            beside = _folders(images)
            return [Part(p, beside.get(key, images), split=SPLIT_OF_NAME.get(key, split)) for key, p in inner.items()]
    return []


def _paired_lists(folder: str) -> dict[str, str]:
    """{split: file} of PaddleDetection's lists, whose lines name an image and its XML file."""
    found = {}
    for name in _listed(folder):
        stem, suffix = os.path.splitext(name.lower())
        if suffix == ".txt" and stem in SPLIT_OF_NAME:
            with open_text(os.path.join(folder, name)) as file:
                if file.readline().strip().endswith(".xml"):
                    found[SPLIT_OF_NAME[stem]] = os.path.join(folder, name)
    return found


def _image_folder(folder: str) -> str | None:
    below = _folders(folder)
    return next((below[name] for name in _IMAGE_FOLDERS if name in below), None)


def _holds_voc(folder: str) -> bool:
    """Whether the first XML file of a folder is an annotation of VOC."""
    first = next((name for name in _listed(folder) if name.lower().endswith(".xml")), None)
    return first is not None and _root(os.path.join(folder, first)).tag == "annotation"


def _folders(folder: str) -> dict[str, str]:
    """{name in small letters: path} of the folders in a folder, hidden ones left out."""
    paths = {name.lower(): os.path.join(folder, name) for name in _listed(folder) if name != "__MACOSX"}
    return {name: path for name, path in paths.items() if os.path.isdir(path)}


def _listed(folder: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError:
        return []


def _root(path: str) -> Element:
    try:
        return read_xml(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def _objects(path: str, root: Element) -> tuple[set[str], set[str]]:
    clear: set[str] = set()
    doubtful: set[str] = set()
    for item in root.iter("object"):
        name = (item.findtext("name") or "").strip()
        if not name:
            raise DataError(f"{path}: an object without a name")
        difficult = (item.findtext("difficult") or "0").strip().lower() in ("1", "true")
        (doubtful if difficult else clear).add(name)
    return clear, doubtful


def _name(line: str, known: set[str], path: str) -> str:
    """The image id of a line: all of it, or what stands before a state (`000005 -1`), or before a suffix."""
    parts = line.rsplit(None, 1)
    without_state = parts[0] if len(parts) == 2 and parts[1] in ("0", "1", "-1") else line
    last = line.replace("\\", "/").rpartition("/")[2]  # `JPEGImages/a.jpg Annotations/a.xml`, as PaddleDetection has it
    ways = [line, without_state, os.path.splitext(without_state)[0], *([last[:-4]] if last.endswith(".xml") else [])]
    name = next((way for way in ways if way in known), without_state)
    if re.search(r"[/\\\0]", name) or name.startswith("."):
        raise DataError(
            f"{path}: '{shortened(name)}' is not an image id; expected one such as 000005 or 2008_000008 per line"
        )
    return name
