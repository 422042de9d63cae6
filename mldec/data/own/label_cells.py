"""The labels that a cell holds: one, several with a sign between them, or a list as JSON or Python writes it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence
from typing import Any

from mldec.data.dataset import naming
from mldec.data.own import label_studio
from mldec.data.own.documents import LABEL_KEYS
from mldec.data.own.separators import Separator
from mldec.data.own.values import is_nothing
from mldec.errors import DataError, shortened
from mldec.untrusted import parse_json

#: Texts of the states of classes, in lists and in cells.
STATES = frozenset(("0", "1", "-1", "0.0", "1.0", "-1.0", "False", "True", "false", "true"))
LONGEST_LIST, LONGEST_LITERAL = 2**20, 2**16  # characters of a cell with a list, and of one in Python's notation
_OPENING = re.compile(r"\s*(\[|\{|\(\s*['\"]|(np\.|numpy\.)?array\()")
_ARRAY = re.compile(r"(?:np\.|numpy\.)?array\(")
_DTYPE = re.compile(r",\s*dtype=")  # the end of an array, without brackets behind it
_WITHOUT_COMMAS = re.compile(r"('|\")\s+('|\")")  # as numpy prints arrays: ['a' 'b']
_NUMBERS = re.compile(r"\s*\[\s*\d+(\s+\d+)+\s*\]\s*")  # as numpy prints them: [1 0 2]
_WHOLE = re.compile(r"-?[0-9]{1,18}(\.0+)?")


def is_list(cell: str) -> bool:
    """Whether a cell begins as a list does."""
    return _OPENING.match(cell) is not None


def is_whole_number(name: str) -> bool:
    """Whether a label is a number such as 3, or 3.0 as pandas writes it beside empty cells."""
    return _WHOLE.fullmatch(name) is not None


def labels_of(value: Any, separator: Separator, where: str) -> list[str]:
    """The labels of a cell; `value` is text, or what JSON and Parquet hold instead.

    Raises DataError, beginning with `where`, for what is no list of labels.
    """
    if isinstance(value, str):
        if is_nothing(value):
            return []
        if not is_list(value):
            return [name for name in separator.split(value) if not is_nothing(name)]
        value = parse_list(value, where)
    return _flattened(value, where)


def refuse_states(cells: Iterable[Sequence[str]], where: str) -> None:
    """Raise DataError where all cells with labels are equally long lists of 0, 1 and -1: a state for each class.

    Taken for lists of labels, they would mean that each image has the labels 0 and 1. Some must have repetitions, or
    not be in ascending order: `[0, 1]` alone may be the numbers of two labels.
    """
    length, certain = 0, False
    for cell in cells:
        if not cell:
            continue
        length = length or len(cell)
        if len(cell) != length or length < 2 or not STATES.issuperset(cell):
            return
        certain = certain or len(set(cell)) < length or list(cell) != sorted(cell)
    if certain:
        raise DataError(
            f"{where}: the labels of each image are {length:,} zeros and ones, which seem to be a state for each "
            "class; write them into a column for each class, or the names of those that are 1 into a list"
        )


def parse_list(text: str, where: str) -> Any:
    """A list that JSON or Python wrote. Raises DataError, beginning with `where`, for what is none."""
    if len(text) > LONGEST_LIST:
        raise DataError(f"{where}: a cell of {len(text):,} characters; at most {LONGEST_LIST:,} are read as a list")
    try:
        return parse_json(text)
    except ValueError:
        pass
    text = _without_array(text)
    if _NUMBERS.fullmatch(text):
        text = ", ".join(text.split())
    text = text if "," in text else _WITHOUT_COMMAS.sub(r"\1, \2", text)
    try:
        if len(text) <= LONGEST_LITERAL:
            return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        pass
    if re.fullmatch(r"\s*[\[({][^\[\](){}'\"]*[\])}]\s*", text):  # [cat, dog]
        return [part.strip() for part in text.strip()[1:-1].split(",") if not is_nothing(part)]
    raise DataError(f"""{where}: {shortened(text, 60)} is no JSON list; write ["cat", "dog"] or cat;dog""")


def _without_array(text: str) -> str:
    """The list in `array([...], dtype=object)`; other text as it is. A pattern of the whole is slow."""
    stripped = text.strip()
    found = _ARRAY.match(stripped)
    if not found or not stripped.endswith(")"):
        return text
    inner = stripped[found.end() : -1]
    dtype = _DTYPE.search(inner, max(inner.rfind("("), inner.rfind(")")) + 1)
    return inner[: dtype.start()] if dtype else inner


def _flattened(value: Any, where: str) -> list[str]:
    if value is None:
        return []
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        return [str(value).strip()]
    items = sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
    if isinstance(items, dict):
        items = [items]
    names: list[str] = []
    for item in items if isinstance(items, (list, tuple)) else [items]:
        if label_studio.is_labelled(item):
            with naming(where):
                names += label_studio.labels_of_value(item)
        elif item is None:
            continue
        elif isinstance(item, dict) and (key := next((key for key in LABEL_KEYS if key in item), None)) is not None:
            names += _flattened(item[key], where)  # of boxes, such as {"bbox": […], "category": ["cat"]}
        elif isinstance(item, (str, int)) and not isinstance(item, bool):
            names += [name] if (name := str(item).strip()) else []
        else:
            raise DataError(f"{where}: expected labels as text or a list of texts, found {shortened(value, 200)}")
    return names
