"""JSON, XML and YAML of others: read within bounds, and the few values that every export has, checked."""

from __future__ import annotations

import codecs
import contextlib
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import yaml

from mldec.data.folder import SPLIT_OF_NAME
from mldec.data.folder_tree import SUFFIXES
from mldec.errors import DataError, first_lines, shortened
from mldec.untrusted import MAX_SMALL, read_bytes, read_json

MAX_XML = 256 * 2**20  # bytes of an XML file that describes all images; as a tree it takes five times of them
MAX_YAML = 2**18
DEPTH = 20  # of values within one another in YAML
LONGEST_LABEL = 1000  # characters

IMAGE_KEYS: tuple[str, ...] = (
    "path",
    "image",
    "file",
    "filename",
    "file_name",
    "filepath",
    "file_path",
    "image_path",
    "img_path",
)
IMAGE_KEYS += ("image_name", "imagefilename", "img", "picture", "photo", "image_id", "Image Index", "id")
LABEL_KEYS: tuple[str, ...] = (
    "labels",
    "label",
    "tags",
    "tag",
    "classes",
    "class",
    "categories",
    "category",
    "choices",
    "choice",
)
LABEL_KEYS += ("class_name", "class_names", "gt_label", "targets", "target", "annotations")
_IMAGE_SUFFIXES = tuple(SUFFIXES | {".heic", ".heif"})


def load(path: str) -> Any:
    """The content of a .json, .xml, .yaml or .yml file; None for another suffix.

    Raises:
        DataError: it cannot be read as its suffix promises; names the file.
    """
    suffix = path.lower().rpartition(".")[2]
    if suffix == "json":
        return read_json(path)
    if suffix == "xml":
        return read_xml(path, most=MAX_XML)
    return read_yaml(path) if suffix in ("yaml", "yml") else None


def read_xml(path: str, *, most: int = MAX_SMALL) -> ElementTree.Element:
    """The root of an XML file without entities, which could make a small file endless.

    Raises:
        DataError: it is no such file, or has more than `most` bytes; names it.
        OSError: it does not exist, or may not be read.
    """
    content = read_bytes(path, most=most)
    try:
        declared = re.match(rb"\s*<\?xml[^>]*encoding\s*=\s*[\"']([\w.-]+)", content.removeprefix(codecs.BOM_UTF8))
        encoding = declared[1].decode() if declared else "utf-8"
        if b"\0" in content or "<!".encode(encoding) != b"<!":  # the search for entities would not see them
            raise ValueError(f"its encoding is not UTF-8 ({encoding})")
        if b"<!" in content.replace(b"<!--", b""):
            raise DataError(f"{path}: holds a document type or entities, which annotations do not need; remove them")
        return ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        raise DataError(f"{path}: is not XML, or was cut short: {error}") from None


def read_yaml(path: str) -> Any:
    """The content of a YAML file with every value as text, as it is written: `no` and `1e3` may be names of labels.

    Anchors and aliases, by which a few lines stand for millions of values, and tags are refused.

    Raises:
        DataError: it cannot be read; names the file.
    """
    try:
        loader = _TextLoader(read_bytes(path, most=MAX_YAML).decode("utf-8-sig"))
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        reason = getattr(error, "problem", None) or first_lines(error)
        if reason == "exceeded maximum nesting depth":  # of libyaml, which reads ahead: 1,000
            reason = f"more than {DEPTH} levels"
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark is not None else ""
        raise DataError(f"{path}: cannot be read as YAML: {shortened(reason, 300)}{line}") from None


# Events of libyaml, where PyYAML was built with it, come ten times faster; Composer takes them one by one.
_Events: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


class _TextLoader(yaml.composer.Composer, _Events):
    """Plain values as text; no anchors, no tags, no key twice, at most DEPTH levels."""

    depth = 0

    def __init__(self, text: str) -> None:
        _Events.__init__(self, text)
        yaml.composer.Composer.__init__(self)

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if getattr(event, "anchor", None) is not None or getattr(event, "tag", None) is not None:
            raise yaml.composer.ComposerError(None, None, "anchors, aliases and tags are not read", event.start_mark)
        self.depth += 1
        if self.depth > DEPTH:
            raise yaml.composer.ComposerError(None, None, f"more than {DEPTH} levels", event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep=deep)
        if len(mapping) < len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a key appears twice", node.start_mark)
        return mapping


@contextlib.contextmanager
def reading(path: str, what: str) -> Iterator[None]:
    """Errors from the block are DataErrors that name the file; those of wrong values say what the file looks like."""
    try:
        yield
    except DataError as error:
        raise DataError(error if path in str(error) else f"{path}: {error}") from None
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else shortened(error, 200)
        raise DataError(f"{path}: looks like {what}, but a value in it is not as it should be ({reason})") from None


def label_text(value: Any) -> str:
    """The name of a label, from text or an integer. Raises DataError for anything else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
        return str(value)
    if not isinstance(value, str) or not value.strip() or len(value) > LONGEST_LABEL:
        raise DataError(f"{shortened(value)} is no name of a label; it must be text, or an integer")
    return value.strip()


def label_names(value: Any) -> tuple[str, ...]:
    """The labels that a value of JSON names: null, a name, an object with one, or a list of these."""
    found: list[str] = []
    for item in value if isinstance(value, list) else [value]:
        if item is None or item == "":
            continue
        if isinstance(item, dict):
            key = next((key for key in (*LABEL_KEYS, "name") if key in item), None)
            if key is None or isinstance(item[key], dict):
                raise DataError(f"{shortened(item)} names no label; it needs one of {', '.join(LABEL_KEYS)}")
            found += [label_text(name) for name in (item[key] if isinstance(item[key], list) else [item[key]])]
        else:
            found.append(label_text(item))
    return tuple(found)


def unique(names: list[str]) -> tuple[str, ...]:
    """The names, each once, in the order of their first."""
    return tuple(dict.fromkeys(names))


def path_text(value: Any) -> str:
    """The path of an image as it is written; that of Label Studio's local files out of its address."""
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{shortened(value)} is no path of an image")
    if "?d=" in value:
        value = parse_qs(urlsplit(value).query).get("d", [value])[0]
    return value.strip()


def is_image(value: Any) -> bool:
    """Whether a value is text that ends as the name of an image does."""
    if not isinstance(value, str) or len(value) > 2**16 or "\n" in value:
        return False
    return value.partition("?d=")[2].lower().endswith(_IMAGE_SUFFIXES) or (
        value.partition("?")[0].strip().lower().endswith(_IMAGE_SUFFIXES)
    )


def split_of(name: Any) -> str | None:
    """The split that a name stands for (`valid`, `instances_train2017`, `_train`); None if it stands for none."""
    words = re.split(r"[^a-z]+", name.lower()) if isinstance(name, str) else []
    found = {SPLIT_OF_NAME[word] for word in words if word in SPLIT_OF_NAME}
    return found.pop() if len(found) == 1 else None
