"""Plain JSON, as scripts write it: a list of {path, labels}, a mapping {path: labels}, or either for each split."""

from __future__ import annotations

from typing import Any

from mldec.data.dataset import name_some
from mldec.data.folder import SPLIT_OF_NAME
from mldec.data.index import ABSENT, PRESENT, UNKNOWN
from mldec.data.own.documents import (
    IMAGE_KEYS,
    LABEL_KEYS,
    is_image,
    label_names,
    label_text,
    path_text,
    reading,
    unique,
)
from mldec.data.own.label_cells import refuse_states
from mldec.data.own.listing import Entry, Listing
from mldec.data.own.separators import Separator, find_separator_beside, parse_separator, refuse_joined
from mldec.data.own.shapes import Source, image_key, make_listing, splits_of
from mldec.data.own.values import MINUS_ONE, ask_minus_one, ask_nothing, is_minus_one, is_nothing, state_of
from mldec.errors import DataError, counted, shortened

LIST, MAPPING, BY_SPLIT = "JSON list of images", "JSON mapping of images", "JSON with a list for each split"
CREATEML = "CreateML JSON"
_FEW = 50  # records that decide whether a file is one


def looks_like_list(document: Any) -> bool:
    """Whether a document is a list of objects, most of which name an image by its file, or by a usual key."""
    if not isinstance(document, list) or not document or not all(isinstance(item, dict) for item in document):
        return False
    few = document[:_FEW]
    return 2 * sum(map(_names_image, few)) > len(few)


def _names_image(item: dict[str, Any]) -> bool:
    if any(map(is_image, item.values())):
        return True
    usual = any(isinstance(item.get(key), str) for key in IMAGE_KEYS if key != "id")
    return usual and any(key in item for key in LABEL_KEYS)


def looks_like_mapping(document: Any) -> bool:
    """Whether a document is an object whose keys are images and whose values are labels."""
    return isinstance(document, dict) and bool(document) and all(map(is_image, document))


def looks_like_splits(document: Any) -> bool:
    """Whether a document is an object that holds a list or mapping for each of train, val, test."""
    return (
        isinstance(document, dict)
        and bool(document)
        and all(key.lower() in SPLIT_OF_NAME for key in document)
        and all(looks_like_list(part) or looks_like_mapping(part) for part in document.values())
    )


def looks_like_wrapped(document: Any) -> bool:
    """Whether a document is an object with one list of images and their labels, beside single values alone."""
    if not isinstance(document, dict):
        return False
    lists = [part for part in document.values() if isinstance(part, (list, dict)) and part]
    lists = [part for part in lists if isinstance(part, list) or any(map(_is_nested, part.values()))]
    if len(lists) != 1 or not looks_like_list(lists[0]):
        return False
    few = lists[0][:_FEW]
    return 2 * sum(any(key in item for key in LABEL_KEYS) for item in few) > len(few)


def _is_nested(value: Any) -> bool:
    return isinstance(value, (list, dict))


def looks_like_createml(document: Any) -> bool:
    """Whether a document is CreateML's: a list of objects with an image and its annotations."""
    return looks_like_list(document) and all(isinstance(item.get("annotations"), list) for item in document[:_FEW])


def read_list(source: Source, name: str = LIST) -> Listing:
    """A list of objects; labels of one key (a name, a list, or an object of states), or a key with 0 or 1 for each."""
    with reading(source.path, name):
        return _listing(source, name, [(source.document, None)])


def read_createml(source: Source) -> Listing:
    """CreateML's JSON: boxes with a `label` each, or the names themselves.

    Read as Apple's documentation has it ("Building an object detector data source"; CreateMLComponents, "Creating a
    multi-label image classifier"): [{"image": "a.jpg", "annotations": [{"label": "cat", "coordinates": {…}}]}] for
    boxes, [{"filename": "a.jpg", "annotations": ["cat", "dog"]}] for labels of images.
    """
    return read_list(source, CREATEML)


def read_mapping(source: Source) -> Listing:
    """An object {path: labels}, labels as a name, a list, or an object {label: 1 or 0}."""
    with reading(source.path, MAPPING):
        return _listing(source, MAPPING, [(source.document, None)])


def read_wrapped(source: Source) -> Listing:
    """An object with a list of images, as {"version": 1, "images": [{"path": "a.jpg", "labels": ["cat"]}]}."""
    with reading(source.path, LIST):
        part = next(part for part in source.document.values() if looks_like_list(part))
        return _listing(source, LIST, [(part, None)])


def read_splits(source: Source) -> Listing:
    """An object with a list or mapping for each split."""
    with reading(source.path, BY_SPLIT):
        return _listing(source, BY_SPLIT, [(part, SPLIT_OF_NAME[key.lower()]) for key, part in source.document.items()])


def _listing(source: Source, name: str, parts: list[tuple[Any, str | None]]) -> Listing:
    decisions: list[str] = []
    rows = [row for part, split in parts for row in _rows(source, part, split, decisions)]
    values = [value for _, value, _ in rows]
    named = {place: _names(value) for place, value in enumerate(values) if not _is_states(value)}
    refuse_states(named.values(), source.path)
    separator = _separator(source, values, named)
    minus_one, null = _meanings(source, [value for value in values if _is_states(value)], decisions)
    entries, nothing = [], 0
    for place, (path, value, split) in enumerate(rows):
        if place in named:
            found = [part for text in named[place] for part in separator.split(text)]
            present = unique([text for text in found if not is_nothing(text)])
            nothing += any(map(is_nothing, found))
            entries.append(Entry(path_text(path), present, split=split))
        else:
            entries.append(Entry(path_text(path), *_states(value, minus_one, null), split=split))
    if source.separator is None:
        names = dict.fromkeys(name for place in named for name in entries[place].present)
        refuse_joined(source.path, list(names), separator, lambda name: "")
    decisions += separator.decisions
    if nothing:
        decisions.append(f"{counted(nothing, 'image')} with nan, None, NA or null, which are no labels")
    return make_listing(source, name, entries, decisions=decisions, options=separator.options)


def _rows(source: Source, part: Any, split: str | None, decisions: list[str]) -> list[tuple[Any, Any, str | None]]:
    """(path, value that names labels, split) of each image; what was decided is added to `decisions`."""
    if isinstance(part, dict):
        return [(path, value, split) for path, value in part.items()]
    key = image_key(source, part)
    splits, by = splits_of(source, part) if split is None else ([split] * len(part), None)
    taken = {key, by, *(source.ignore or ())}
    keys = list(dict.fromkeys(name for record in part for name in record if name not in taken))
    column = _label_key(source, keys)
    others = [name for name in keys if name != column]
    texts = [f"split by {by}"] if by is not None else []
    if column is not None and others:
        texts.append(f"labels from {column}; keys not used: {name_some(others, len(others), 10)}")
    decisions += [text for text in texts if text not in decisions]
    if column is None:
        _check_columns(part, keys)
    rows = []
    for record, own in zip(part, splits, strict=True):
        if column is not None and column not in record:
            raise DataError(
                f"{shortened(record.get(key))} has no {column}; an image without labels has an empty list there"
            )
        value = record[column] if column is not None else {name: record.get(name) for name in keys}
        rows.append((record.get(key), value, own))
    return rows


def _label_key(source: Source, keys: list[str]) -> str | None:
    """The key of the labels; None if each label has a key of its own."""
    if source.label_column is not None:
        if source.label_column not in keys:
            raise DataError(
                f"dataset.label_column={source.label_column}: no such key; there are {name_some(keys, len(keys), 10)}"
            )
        return source.label_column
    return next((key for name in LABEL_KEYS for key in keys if key.lower() == name), None)


def _check_columns(records: list[dict[str, Any]], names: list[str]) -> None:
    """Raise DataError unless each key is a class: it holds states alone, and not only texts that say nothing."""
    bad: dict[str, Any] = {}
    told = set()
    for record in records:
        for name in names:
            value = record.get(name)
            if state_of(value) is None:
                bad.setdefault(name, value)
            elif not isinstance(value, str) or not is_nothing(value):
                told.add(name)
    bad = {name: "" for name in names if name not in told} | bad
    if len(bad) == len(names):
        raise DataError(
            f"which of the keys {name_some(names, len(names), 10) or '(none)'} holds the labels? Use "
            "dataset.label_column=NAME, or name it labels"
        )
    if bad:
        name, value = next(iter(bad.items()))
        raise DataError(
            f"the key {name} holds {shortened(value)}; allowed are 1 present, 0 absent, -1 or null unknown. Use "
            f"dataset.ignore=[{','.join(bad)}] if {name_some(list(bad), len(bad), 10)} is no class, or "
            "dataset.label_column=NAME for one key that holds all labels"
        )


def _is_states(value: Any) -> bool:
    """Whether a value is an object with the state of each label, and not one that names a label."""
    return isinstance(value, dict) and not any(key in value for key in LABEL_KEYS)


def _names(value: Any) -> tuple[str, ...]:
    """The texts with labels of a value, not yet separated."""
    return (value,) if isinstance(value, str) else label_names(value)


def _states(
    values: dict[str, Any], minus_one: int, null: int
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Names of the labels that are present, absent and unknown."""
    found: dict[int, list[str]] = {PRESENT: [], ABSENT: [], UNKNOWN: []}
    for name, value in values.items():
        state = minus_one if is_minus_one(value) else state_of(value)
        if state == UNKNOWN and not is_minus_one(value):
            state = null
        if state is None:
            raise DataError(f"{name} is {shortened(value)}; allowed are 1 present, 0 absent, -1 or null unknown")
        found[state].append(label_text(name))
    return tuple(found[PRESENT]), tuple(found[ABSENT]), tuple(found[UNKNOWN])


def _meanings(source: Source, values: list[dict[str, Any]], decisions: list[str]) -> tuple[int, int]:
    """The states that -1 and null mean; what was decided is added to `decisions`.

    Raises DataError, unless that is set, where some labels are 1 and -1, and never 0, and where labels are 1 and null,
    and none is ever 0 or -1.
    """
    seen: dict[str, set[int]] = {}  # states of each label, -1 by a number of its own
    for states in values:
        for name, value in states.items():
            seen.setdefault(name, set()).add(MINUS_ONE if is_minus_one(value) else _known(value))
    found = set().union(*seen.values())
    blank = {PRESENT, UNKNOWN} <= found and not {ABSENT, MINUS_ONE} & found
    if source.minus_one is None:
        only = [name for name, states in seen.items() if {MINUS_ONE, PRESENT} <= states and ABSENT not in states]
        if only:
            raise ask_minus_one(source.path, "keys", only, len(seen))
        if blank:
            raise ask_nothing(source.path, "key", len(seen), "null or nothing")
        return UNKNOWN, UNKNOWN
    if blank:
        decisions.append(f"null of classes is {source.minus_one}, as no class has 0 or -1")
    meant = ABSENT if source.minus_one == "absent" else UNKNOWN
    return meant, meant if blank else UNKNOWN


def _known(value: Any) -> int:
    state = state_of(value)
    return ABSENT if state is None else state


def _separator(source: Source, values: list[Any], named: dict[int, tuple[str, ...]]) -> Separator:
    """What separates the labels in one text, as in the cells of a table."""
    if source.separator is not None:
        return parse_separator(source.separator)
    texts = dict.fromkeys(value for value in values if isinstance(value, str) and not is_nothing(value))
    listed = (name for place, names in named.items() if not isinstance(values[place], str) for name in names)
    return find_separator_beside(source.path, texts, dict.fromkeys(listed))
