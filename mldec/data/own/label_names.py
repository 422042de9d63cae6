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
from mldec.untrusted import MAX_LIST, open_regular, open_text, parse_json, read_bytes

logger = logging.getLogger(__name__)

TRAIN, UNION = "train", "union"  # values of dataset.labels beside a file
#: Files of names that tools write beside a table of class numbers.
NAMES_FILES = ("labels.txt", "classes.txt", "names.txt", "data.yaml", "data.yml", "obj.names", "_darknet.labels")
MAX_NAMES_FILE = 2**24  # bytes
_CELLS = re.compile(r"\s*[,;\t]\s*")
_NUMBERED = re.compile(r"[\"']?([0-9]{1,9})[\"']?(?:\s*[,;:\t]\s*|\s+)(.*)")  # 0 cat, 0,cat, "0";"cat", 0: cat
_HEADERS = frozenset(["name", "names", "index", "number", "id"])
_HEADERS |= {
    f"{what}{end}" for what in ("label", "class", "category", "attribute") for end in ("", "s", "es", "_id", "_name")
} | {"categories"}
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


def labels_of_train(train: Found, others: Sequence[Found], mode: str | None, unseen: Collection[str] = ()) -> list[str]:
    """The labels of train, and with `union` those of the other files behind them or in order.

    Those of the others that are `unseen` are added to train's, behind them or in order. Raises DataError, with both
    options, for further labels that images of other files have and those of train lack, unless `mode` is one of them.
    """
    known = set(train.used)
    if mode == UNION:
        names = list(dict.fromkeys([*train.names, *(name for found in others for name in found.names)]))
        return names if train.ordered else in_order(names)
    added = in_order(set(unseen) & {name for found in others for name in found.names})
    known.update(added)
    lacking = {name: found for found in reversed(others) for name in found.used if name not in known}
    if lacking and mode != TRAIN:
        name = next(iter(in_order(lacking)))
        raise DataError(f"{lacking[name].where(name)}: {describe_lacking(lacking, train.used)}")
    names = list(dict.fromkeys([*(name for name in train.names if name not in lacking), *added]))
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
    """The names of a file, the numbers that the first of them may have, and whether the first that fits is meant.

    `numbers` are those that stand beside the names, where they have gaps, so that they name no class numbers.
    """

    names: list[str]
    starts: tuple[int, ...]
    certain: bool
    numbers: tuple[int, ...] | None = None


def named(
    ids: Sequence[str], found: Names, file: str, names_file: str, start: int | None = None
) -> tuple[dict[str, str], str]:
    """The name of each id in a file of names, counted from `start`, or from what fits; and a sentence about it.

    Raises DataError for an id without a name, and where names may be counted from 0 or from 1.
    """
    numbers = {text: int(float(text)) for text in ids}
    low, high = min(numbers.values()), max(numbers.values())
    names = found.names
    if found.numbers is not None:
        raise DataError(
            f"{file}: holds the class number {high}, and {names_file} has {len(names):,} names whose numbers have gaps "
            f"({name_some(list(map(str, found.numbers)), len(names), 10)}); name each number between them, too, or use "
            "another file of names: dataset.labels=FILE"
        )
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
            except DataError as error:
                _not_used(table, path, str(error).removeprefix(f"{path}: "))
                continue
            names = numbered.names
            if all(map(is_whole_number, names)):
                continue
            if numbered.numbers is not None:
                _not_used(
                    table,
                    path,
                    f"the numbers in it have gaps ({name_some(list(map(str, numbered.numbers)), len(names))})",
                )
            elif high > len(names):
                _not_used(table, path, f"it has {len(names):,} names, and a label is {high}")
            elif len(set(names)) < len(names):
                _not_used(table, path, "it has a name several times")
            else:
                found.append((path, numbered))
    if len(found) > 1:
        others = " and ".join(os.path.basename(path) for path, _ in found)
        _not_used(table, others, "only one of them can be; name it")
    return found[0] if len(found) == 1 else None


def _not_used(table: str, path: str, reason: str) -> None:
    logger.warning(
        "warning: %s: labels stay numbers, as %s beside it is not used: %s (dataset.labels=FILE names them)",
        table,
        os.path.basename(path),
        reason,
    )


def read_names(path: str) -> list[str]:
    """The names of a file: one per line; the `names` of a data.yaml; a list in JSON, or numbers with names.

    Raises DataError, naming the file.
    """
    return _read(path, numbered=False).names


def read_numbered(path: str) -> Names:
    """The names of class numbers, as `read_names`, but a line may be a number and a name, as `0 cat` or `0,cat`.

    Numbers are those that stand beside the names, or count from 0, as those of ultralytics and darknet, or from 1.

    Raises DataError, naming the file, also for a header, and for columns that are not numbers and names.
    """
    return _read(path, numbered=True)


def _read(path: str, *, numbered: bool) -> Names:
    suffix = os.path.splitext(path)[1].lower()
    try:
        if suffix not in (".yaml", ".yml", ".json"):
            open_regular(path, most=MAX_LIST).close()
            with open_text(path) as file:
                lines = [line.strip() for line in file if line.strip()]
            lines = [line for line in lines if line != "#" and not line.startswith(("# ", "#\t"))] or lines  # comments
            certain = suffix in (".names", ".labels")
            return _of_lines(path, lines, certain=certain) if numbered else Names(lines, (0, 1), certain)
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
    gaps: tuple[int, ...] | None = None
    if isinstance(content, dict):
        numbers = {str(key): value for key, value in content.items()}
        if not all(map(str.isdecimal, numbers)):
            raise DataError(f"{path}: expected a list of names, or numbers with names; found {shortened(content)}")
        order = sorted(numbers, key=int)
        starts, gaps = _counted(list(map(int, order)))
        content = [numbers[key] for key in order]
    if not isinstance(content, list) or not all(isinstance(name, (str, int)) for name in content):
        raise DataError(f"{path}: expected a list of names; found {shortened(content)}")
    return Names([str(name).strip() for name in content], starts, suffix != ".json", gaps)


def _counted(numbers: list[int]) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """`starts` and `numbers` of Names, of sorted numbers that stand beside names."""
    if numbers and numbers == list(range(numbers[0], numbers[0] + len(numbers))):
        return (numbers[0],), None
    return (0, 1), tuple(numbers) or None


def _of_lines(path: str, lines: list[str], *, certain: bool) -> Names:
    """The names of class numbers in the lines of a text file; see `read_numbered`."""
    header = [cell.strip(" \"'#").lower() for cell in _CELLS.split(lines[0])] if lines else []
    if header and all(cell in _HEADERS for cell in header) and (len(header) > 1 or len(lines) > 1):
        if len(header) == 1:
            raise DataError(
                f"{path}: its first line '{shortened(lines[0])}' may be a header; delete it, or write the names as a "
                'list into a file FILE.json, such as ["name", "cat"], if it is a label'
            )
        lines = lines[1:]
    found = [_NUMBERED.fullmatch(line) for line in lines]
    pairs = [(int(match[1]), match[2].strip().strip("\"'")) for match in found if match]
    pairs = [(number, name) for number, name in pairs if name]
    is_numbered = len(pairs) == len(lines) > 0 and len({number for number, _ in pairs}) == len(pairs)
    if is_numbered and len({name for _, name in pairs}) == len(pairs):  # and not 1 Euro, 2 Euro
        pairs.sort()
        starts, gaps = _counted([number for number, _ in pairs])
        return Names([name for _, name in pairs], starts, certain, gaps)
    if len(header) > 1 or os.path.splitext(path)[1].lower() in (".csv", ".tsv"):
        wrong = next((line for line in lines if _CELLS.search(line)), None)
        if wrong is not None or len(header) > 1:
            raise DataError(
                f"{path}: expected a name in each line, or a number and a name, such as 0,cat; found "
                f"'{shortened(wrong or lines[0] if lines else 'a header alone')}'"
            )
    return Names(lines, (0, 1), certain)


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
