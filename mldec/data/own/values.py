"""What single values of tables and of JSON stand for: nothing, the state of a label, or a split."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from mldec.data.folder import SPLIT_OF_NAME
from mldec.data.index import ABSENT, PRESENT, UNKNOWN
from mldec.errors import DataError, counted, option, printable_name, setting

_NOTHING = {"", "nan", "Nan", "naN", "NaN", "null", "Null", "NULL", "None", "NONE", "NA", "N/A", "n/a", "NaT", "<NA>"}
_NOTHING |= {"-nan", "#N/A"}

MINUS_ONE = -2  # beside states: of a value that is -1, which may be meant as absent
STATES = {"1": PRESENT, "1.0": PRESENT, "true": PRESENT, "0": ABSENT, "0.0": ABSENT, "false": ABSENT}
STATES |= {"-1": UNKNOWN, "-1.0": UNKNOWN, "": UNKNOWN, "none": UNKNOWN, "nan": UNKNOWN}
STATES |= {"na": UNKNOWN, "n/a": UNKNOWN, "null": UNKNOWN, "<na>": UNKNOWN}

# TRUE and FALSE as Excel writes them in German, French, Spanish, Italian, Portuguese and Dutch.
STATES |= dict.fromkeys(("wahr", "vrai", "verdadero", "vero", "verdadeiro", "waar"), PRESENT)
STATES |= dict.fromkeys(("falsch", "faux", "falso", "onwaar"), ABSENT)
#: Answers, which may be the states of a label or labels themselves.
ANSWERS = frozenset(("yes", "no", "y", "n", "ja", "nein", "oui", "non", "si", "sí", "nee", "sim", "não", "x", "✓"))

#: Names of columns and keys that divide the images, without case, spaces and signs.
SPLIT_NAMES: tuple[str, ...] = (
    "split",
    "set",
    "subset",
    "partition",
    "datasplit",
    "dataset",
    "datasubset",
    "datapartition",
    "isvalid",
)
SPLIT_NAMES += ("isval", "istest", "istrain", "usage", "mluse", "phase", "fold")
SPLIT_OF_CELL = SPLIT_OF_NAME | {"tr": "train", "validate": "val", "te": "test"}
SPLIT_FLAGS = {"isvalid": "val", "isval": "val", "istest": "test", "istrain": "train"}


def is_nothing(cell: str) -> bool:
    """Whether a text is empty or one of those that programs write for nothing: nan, None, NA, null."""
    return cell.strip() in _NOTHING


def state_of(cell: Any) -> int | None:
    """PRESENT, ABSENT or UNKNOWN for a cell of a class column; None for what is none of them."""
    return None if isinstance(cell, (list, dict)) else STATES.get(str(cell).strip().lower())


def is_minus_one(value: Any) -> bool:
    """Whether a value is -1."""
    return state_of(value) == UNKNOWN and str(value).strip().startswith("-1")


def ask_minus_one(path: str, kind: str, names: Sequence[str], count: int) -> DataError:
    """The error for those of `count` class columns or keys (`kind`) that hold 1 and -1 but no 0."""
    shown = ", ".join(map(printable_name, names[:3])) + (", …" if len(names) > 3 else "")
    return DataError(
        f"{path}: {len(names):,} of the {count:,} class {kind} hold 1 and -1 but no 0 ({shown}), where -1 may mean "
        "absent; use dataset.minus_one=absent or dataset.minus_one=unknown"
    )


def ask_nothing(path: str, kind: str, count: int, what: str = "an empty cell") -> DataError:
    """The error for `count` class columns or keys (`kind`) with 1 and `what` alone: no label would ever be absent."""
    return DataError(
        f"{path}: the {counted(count, f'class {kind}')} {'holds' if count == 1 else 'hold'} 1 and {what} but no 0 or "
        f"-1, where {what} may mean absent; use dataset.minus_one=absent or dataset.minus_one=unknown"
    )


def simple(name: str) -> str:
    """The name of a column without case, spaces and signs: `imageindex` for `Image Index`."""
    return re.sub(r"[\W_]+", "", name).lower()


def split_of(cell: Any, column: str) -> str | None:
    """train, val or test for a value of a column or key of splits; None if it names none."""
    text, key = str(cell).strip().lower(), simple(column)
    if key in SPLIT_FLAGS:
        state = STATES.get(text)
        other = "train" if key != "istrain" else "val"
        return {PRESENT: SPLIT_FLAGS[key], ABSENT: other}.get(state) if state is not None else None
    return SPLIT_OF_CELL.get(text)


def divides(column: str, cells: Iterable[Any]) -> bool:
    """Whether a column or key of a usual name, with these values, says which split its images belong to."""
    key, texts = simple(column), [str(cell).strip().lower() for cell in cells]
    if key in SPLIT_FLAGS:
        return all(STATES.get(text) in (PRESENT, ABSENT) for text in texts)
    return key in SPLIT_NAMES and any(text in SPLIT_OF_CELL for text in texts)


def no_split(where: str, column: str) -> DataError:
    """The error, beginning with `where`, for a row that lacks the key of splits."""
    return DataError(
        f"{where}: no {printable_name(column)}, which other lines have; allowed are train, val and test. If it does "
        f"not divide the images: {setting('dataset.ignore', (column,))}"
    )


def split_key(records: Sequence[dict[str, Any]], ignore: Collection[str] = ()) -> str | None:
    """The key of JSON records that divides the images, none of `ignore`; None without one."""
    keys = [key for key in dict.fromkeys(key for record in records for key in record) if simple(key) in SPLIT_NAMES]
    given = {key: [record[key] for record in records if record.get(key) is not None] for key in keys}
    return next((key for key, values in given.items() if key not in ignore and values and divides(key, values)), None)


def is_score(value: Any) -> bool:
    """Whether a value is a number from 0 to 1, as the scores of `mldec predict` are."""
    try:
        return not isinstance(value, bool) and 0 <= float(value) <= 1
    except (TypeError, ValueError, OverflowError):
        return False


def choosing_labels(path: str) -> str:
    """How labels are chosen by their scores in a file of `mldec predict`."""
    return (
        f"choose the labels first: mldec data export {option('predictions', path)} threshold=0.5 format=csv "
        "output=labels.csv"
    )
