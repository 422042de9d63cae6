"""The labels of a dataset, in order: of its train file, of all its files, or of a file of names."""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mldec.data.dataset import name_some
from mldec.data.own.documents import read_yaml
from mldec.data.own.label_cells import is_whole_number
from mldec.errors import DataError, shortened, suggest
from mldec.untrusted import open_text, parse_json, read_bytes

logger = logging.getLogger(__name__)

TRAIN, UNION = "train", "union"  # values of dataset.labels beside a file
#: Files of names that tools write beside a table of class numbers.
NAMES_FILES = ("labels.txt", "classes.txt", "names.txt", "data.yaml", "data.yml", "obj.names", "_darknet.labels")
MAX_NAMES_FILE = 2**24  # bytes
_BETWEEN = re.compile(r"(?<=[^\W\d_])[\s_-]+(?=[^\W_])|(?<=\d)[\s_-]+(?=[^\W\d_])")  # letters, and numbers of them


@dataclass(frozen=True)
class Found:
    """The labels that a file gives.

    Attributes:
        path: the file.
        names: in its order.
        ordered: whether that order means something, as that of columns does.
        where: `FILE line 5`, where a label is first.
        used: those of `names` that images have; others are declared, such as classes in a data.yaml.
    """

    path: str
    names: Sequence[str]
    ordered: bool
    where: Callable[[str], str]
    used: Collection[str]


def in_order(names: Iterable[str]) -> list[str]:
    """Labels sorted: numbers by value, others as text."""
    names = list(names)
    if names and all(map(is_whole_number, names)):
        return sorted(names, key=lambda name: (float(name), name))
    return sorted(names)


def labels_of_train(train: Found, others: Sequence[Found], mode: str | None) -> list[str]:
    """The labels of train, and with `union` those of the other files behind them or in order.

    Raises DataError, with both options, for labels that images of other files have and those of train lack, unless
    `mode` is one of them.
    """
    known = set(train.used)
    if mode == UNION:
        names = list(dict.fromkeys([*train.names, *(name for found in others for name in found.names)]))
        return names if train.ordered else in_order(names)
    lacking = {name: found for found in reversed(others) for name in found.used if name not in known}
    if lacking and mode != TRAIN:
        name = next(iter(in_order(lacking)))
        raise DataError(f"{lacking[name].where(name)}: {describe_lacking(lacking, train.used)}")
    names = [name for name in train.names if name not in lacking]
    return names if train.ordered else in_order(names)


def describe_lacking(lacking: Collection[str], known: Iterable[str]) -> str:
    """The sentence about labels that only val or test have, with the options to choose from."""
    name = in_order(lacking)[0]
    count = f"{len(lacking):,} labels" if len(lacking) > 1 else "a label"
    return (
        f"no label '{shortened(name)}'; {suggest(name, known)}; {count} that train lacks "
        f"({name_some(in_order(lacking), len(lacking), 10)}): use dataset.labels=union to add, or dataset.labels=train "
        "to leave out"
    )


class Names(NamedTuple):
    """The names of a file, the numbers that the first of them may have, and whether the first that fits is meant."""

    names: list[str]
    starts: tuple[int, ...]
    certain: bool


def named(
    ids: Sequence[str], found: Names, file: str, names_file: str, start: int | None = None
) -> tuple[dict[str, str], str]:
    """The name of each id in a file of names, counted from `start`, or from what fits; and a sentence about it.

    Raises DataError for an id without a name, and where names may be counted from 0 or from 1.
    """
    numbers = {text: int(float(text)) for text in ids}
    low, high = min(numbers.values()), max(numbers.values())
    names = found.names
    fitting = [first for first in found.starts if first <= low and high - first < len(names)]
    fitting = fitting if start is None else [first for first in fitting if first == start]
    if not fitting:
        wrong = high if high - min(found.starts) >= len(names) or low >= max(found.starts) else low
        raise DataError(
            f"{file}: holds the class number {wrong}, and {names_file} has "
            f"{len(names):,} names; use another file of names: dataset.labels=FILE"
        )
    if len(fitting) > 1 and not found.certain:
        first, second = (
            f"dataset.first_number={start} ({low:,} is {shortened(names[low - start], 40)})" for start in fitting
        )
        raise DataError(
            f"{file}: holds the class numbers {low:,} to {high:,}, and {names_file} has {len(names):,} names, which "
            f"may be counted from 0 or from 1; use {first} or {second}"
        )
    text = f"class numbers named by {os.path.basename(names_file)}, from {fitting[0]}"
    return {text_id: names[number - fitting[0]] for text_id, number in numbers.items()}, text


def names_file_beside(table: str, ids: Sequence[str]) -> tuple[str, Names] | None:
    """The one file of names beside a table whose labels are all numbers, and its names; None if it is not certain."""
    if not ids or not all(map(is_whole_number, ids)):
        return None
    folder, high = os.path.dirname(table), max(int(float(text)) for text in ids)
    found = []
    for name in NAMES_FILES:
        path = os.path.join(folder, name)
        if os.path.isfile(path) and os.path.abspath(path) != os.path.abspath(table):
            try:
                numbered = read_numbered(path)
            except DataError:
                continue
            names = numbered.names
            if high <= len(names) and len(set(names)) == len(names) and not all(map(is_whole_number, names)):
                found.append((path, numbered))
    return found[0] if len(found) == 1 else None


def read_names(path: str) -> list[str]:
    """The names of a file: one per line; the `names` of a data.yaml; a list in JSON, or numbers with names.

    Raises DataError, naming the file.
    """
    return read_numbered(path).names


def read_numbered(path: str) -> Names:
    """The same with their numbers: those that stand beside them, or as ultralytics and darknet count, from 0.

    Raises DataError, naming the file.
    """
    suffix = os.path.splitext(path)[1].lower()
    try:
        if suffix not in (".yaml", ".yml", ".json"):
            with open_text(path) as file:
                return Names([line.strip() for line in file if line.strip()], (0, 1), suffix in (".names", ".labels"))
        if suffix == ".json":
            content: Any = parse_json(read_bytes(path, most=MAX_NAMES_FILE).decode("utf-8-sig"))
        else:
            content = read_yaml(path)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {shortened(error, 200)}") from None
    content = content.get("names", content) if isinstance(content, dict) else content
    starts: tuple[int, ...] = (0, 1)
    if isinstance(content, dict):
        numbers = {str(key): value for key, value in content.items()}
        if not all(map(str.isdecimal, numbers)):
            raise DataError(f"{path}: expected a list of names, or numbers with names; found {shortened(content)}")
        order = sorted(numbers, key=int)
        if list(map(int, order)) == list(range(int(order[0]), int(order[0]) + len(order))):
            starts = (int(order[0]),)
        content = [numbers[key] for key in order]
    if not isinstance(content, list) or not all(isinstance(name, (str, int)) for name in content):
        raise DataError(f"{path}: expected a list of names; found {shortened(content)}")
    return Names([str(name).strip() for name in content], starts, suffix != ".json")


def warn_of_similar(path: str, names: Iterable[str]) -> None:
    """Log a warning for labels of a file or folder that look like one, written in several ways."""
    for group in similar_names(names):
        logger.warning(
            "warning: %s: the labels %s differ in case, spaces or accents alone; if they are the same, write one",
            path,
            " and ".join(f"'{shortened(name)}'" for name in group),
        )


def similar_names(names: Iterable[str]) -> list[list[str]]:
    """Groups of labels that differ in case, accents, or spaces and signs between letters alone: -1 and 1 are two."""
    groups = defaultdict(list)
    for name in names:
        plain = unicodedata.normalize("NFKD", name)
        plain = "".join(sign for sign in plain if not unicodedata.combining(sign)).casefold()
        groups[_BETWEEN.sub("", " ".join(plain.split()))].append(name)
    return [group for group in groups.values() if len(group) > 1]
