"""Which sign separates the labels of a cell, decided over a whole column.

`;` and `|` are hardly part of a name. A comma, a slash or a space is one now and then (`traffic light`, `Washington,
DC`), so what stands between them must be labels of other cells as well. What is not certain is one error with the
choices.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from mldec.data.own.text_table import SIGNS, name_of
from mldec.errors import DataError, setting, shortened

STRONG, WEAK = (";", "|", "\n", "\t"), (",", "/", " ")
#: These separate labels only where an option says so; they are looked for in names that may be several.
RARE = ("+", ":", "&", "_", "-")
_DECIMAL = re.compile(r"\d+,0+")  # 3,0 as spreadsheets write a number in some languages
NONE = "none"  # the option for cells that are a label each
COMPARED = 50_000  # different cells that are looked at; signs are searched for in all
_SHARED, _ALONE = 0.75, 0.25  # shares of the labels of joined cells that other cells have too
_MOVING = 0.4  # share of labels that stand last in one cell and not in another; the last part of a name is its noun


@dataclass(frozen=True)
class Separator:
    """The signs between labels; none where a cell is one label."""

    signs: str
    decisions: tuple[str, ...] = ()
    options: dict[str, str] = field(default_factory=dict)

    def split(self, cell: str) -> list[str]:
        """The labels of a cell, without those that are empty."""
        if not self.signs:
            return [name] if (name := cell.strip()) else []
        for sign in self.signs[1:]:
            cell = cell.replace(sign, self.signs[0])
        return [name for part in cell.split(self.signs[0]) if (name := part.strip())]


def unquoted(cell: str) -> str:
    """A cell without single quotes around the whole, as in `'cat;dog'`."""
    text = cell.strip()
    quoted = len(text) > 2 and text[0] == text[-1] == "'" and "'" not in text[1:-1]
    return text[1:-1] if quoted else cell


def parse_separator(text: str) -> Separator:
    """The separator of an option: a sign, its name, several with + between them, or none.

    Raises ValueError for an empty one.
    """
    if not text:
        raise ValueError(
            "separator='': use the name of the sign between labels, such as semicolon, pipe, comma or none"
        )
    if text == NONE:
        return Separator("")
    if text in SIGNS:
        return Separator(SIGNS[text])
    names = text.split("+")
    if len(names) > 1 and all(name in SIGNS for name in names):
        return Separator("".join(SIGNS[name] for name in names))
    return Separator(text) if len(text) == 1 else _LongSeparator(text)


class _LongSeparator(Separator):
    """A separator of several signs in this order."""

    def split(self, cell: str) -> list[str]:
        return [name for part in cell.split(self.signs) if (name := part.strip())]


def find_separator(
    path: str,
    cells: Iterable[str],
    *,
    signs: Iterable[str] | None = None,
    where: Callable[[str], str] = lambda cell: "",
) -> Separator:
    """What separates the labels of a column.

    Args:
        path: the file, for errors.
        cells: the different cells, lists and cells without labels left out.
        signs: those that occur in any cell; None: they are looked for.
        where: ` line 5` for a cell, for errors.

    Raises DataError with the options to choose from.
    """
    cells = list(dict.fromkeys(cells))
    present = set(signs) if signs is not None else {sign for sign in (*STRONG, *WEAK) if any(sign in c for c in cells)}
    strong = [sign for sign in STRONG if sign in present]
    if len(strong) > 1:
        cell = next((c for c in cells if strong[1] in c), "")
        raise _undecided(
            path, cell, where(cell), [name_of(strong[0]), name_of(strong[1]), "+".join(map(name_of, strong))]
        )
    if strong:
        return _chosen(strong[0])
    if " " in present and (found := _joined_by_word(cells)) is not None:
        cell, choice = found
        raise _undecided(path, cell, where(cell), [choice, NONE])
    for sign in (sign for sign in WEAK if sign in present):
        chosen = _is_separator(sign, cells)
        if chosen:
            return _chosen(sign)
        if chosen is None:
            cell = next((c for c in cells if sign in c.strip()), "")
            raise _undecided(path, cell, where(cell), [name_of(sign), NONE])
    if " " in present:
        example = next((c for c in cells if " " in c.strip()), None)
        if example is not None:
            text = f"spaces belong to labels such as '{shortened(example.strip())}'"
            return Separator("", (text,), {"dataset.separator": NONE})
    return Separator("")


def find_separator_beside(
    path: str, texts: Iterable[str], listed: Collection[str], where: Callable[[str], str] = lambda name: ""
) -> Separator:
    """What separates the labels of the different texts, beside which lists have the labels `listed`.

    Raises DataError with the options to choose from.
    """
    plain = [text for text in texts if text.strip() not in listed] if listed else list(texts)
    signs = {sign for sign in (*STRONG, *WEAK) if any(sign in text for text in plain)}
    return find_separator(path, [*plain, *listed], signs=signs, where=where)


def refuse_joined(path: str, names: Sequence[str], separator: Separator, where: Callable[[str], str]) -> None:
    """Raise DataError for a label that may be several: `cat,dog` beside cat or dog, or beside `dog,cat`.

    Slashes, spaces and the signs of `RARE` are parts of names more often: all that stands between must be labels.
    """
    known = set(names)
    for sign in (*STRONG, *WEAK, *RARE):
        held = [] if sign in separator.signs else [name for name in names if sign in name]
        enough: Callable[[Iterable[bool]], bool] = all if sign in ("/", " ", *RARE) else any
        mixed = bool(held) and sign not in ("/", *RARE) and _is_separator(sign, names) is True
        for name in held:
            parts = [part.strip() for part in name.split(sign)]
            if mixed or enough(part in known for part in parts):
                first = [name_of(one) for one in separator.signs] or []
                raise _undecided(path, name, where(name), ["+".join([*first, name_of(sign)]), "+".join(first) or NONE])


def _chosen(sign: str) -> Separator:
    text = f"labels separated by {name_of(sign)}"
    return Separator(sign, (text,), {"dataset.separator": name_of(sign)})


def _is_separator(sign: str, cells: Sequence[str]) -> bool | None:
    """Whether a comma, slash or space stands between labels; None if it may be part of their names."""
    cells = [cell.strip() for cell in cells]
    joined = [cell for cell in cells if sign in cell][:COMPARED]
    if not joined or (sign == "/" and all(cell[0] == sign or cell[-1] == sign for cell in joined)):
        return False  # such as /m/01g317
    if sign == "," and all(map(_DECIMAL.fullmatch, joined)):
        return None
    lists = [list(dict.fromkeys(part for one in cell.split(sign) if (part := one.strip()))) for cell in joined]
    alone = {cell for cell in cells if sign not in cell}
    parts = [part for one in lists for part in one]
    if all(part.lstrip("-").isdecimal() for part in parts) or alone.issuperset(parts):
        return True
    counts = Counter(parts)
    shared = sum(counts[part] > 1 or part in alone for part in parts) / max(1, len(parts))
    if sign != " ":
        return True if shared >= _SHARED else None
    last = {one[-1] for one in lists}
    earlier = {part for one in lists for part in one[:-1]}
    moving = sum(part in last and part in earlier for part in parts) / max(1, len(parts))
    if shared >= _SHARED and moving >= _MOVING:
        return True
    return False if shared <= _ALONE else None


def _joined_by_word(cells: Sequence[str]) -> tuple[str, str] | None:
    """A cell such as `cat & dog` or `cat and dog`, both labels of other cells, and the choice that divides it."""
    choices = {sign: name_of(sign) for sign in RARE} | {"and": " and "}
    for word, choice in choices.items():
        joined = {cell: [part.strip() for part in cell.split(f" {word} ")] for cell in cells if f" {word} " in cell}
        if joined:
            known = {cell.strip() for cell in cells if cell not in joined}
            counts = Counter(part for parts in joined.values() for part in parts)
            for cell, parts in joined.items():
                if all(part in known or counts[part] > 1 for part in parts):
                    return cell, choice
    return None


def _undecided(path: str, cell: str, where: str, choices: Sequence[str]) -> DataError:
    options = " or ".join(setting("dataset.separator", choice) for choice in dict.fromkeys(choices))
    return DataError(
        f"{path}{where}: '{shortened(cell)}' may be several labels or one; use {options}"
        f"{' (none: it is one)' if NONE in choices else ''}"
    )
