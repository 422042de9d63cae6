"""What a label space is: an ordered list of names, one column of every score and target matrix each."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mldec.errors import CONTROL, SURROGATE, DataError, shortened, suggest


@dataclass(frozen=True, init=False)
class LabelSpace:
    """An ordered, duplicate-free sequence of label names.

    Args:
        names: one name per class, in column order.
        seen: for zero-shot data, one bool per name: True where training has examples. None means that all are seen.

    Raises:
        DataError: no names, an empty or repeated name, one with control characters, or `seen` of another length.
    """

    names: tuple[str, ...]
    seen: tuple[bool, ...] | None

    def __init__(self, names: Sequence[str], seen: Sequence[bool] | None = None) -> None:
        names = tuple(names)
        if not names:
            raise DataError("a label space needs at least one label, found none")
        if not all(isinstance(name, str) and name.strip() for name in names):
            raise DataError("every label needs a name: found an empty one")
        controls = [name for name in names if CONTROL.search(name) or "\n" in name]
        if controls:
            raise DataError(f"label '{shortened(controls[0])}' holds control characters; use letters and signs")
        broken = next((name for name in names if SURROGATE.search(name)), None)
        if broken is not None:
            raise DataError(
                f"label '{shortened(broken)}' is not valid UTF-8 (a byte or half a character that stands for no "
                "letter); correct or rename it where it comes from"
            )
        repeated = repeated_names(names)
        if repeated:
            raise DataError(
                f"label names must differ; found more than once: {', '.join(name[:80] for name in repeated[:5])}"
            )
        if seen is not None and len(seen) != len(names):
            raise DataError(f"`seen` has {len(seen)} entries for {len(names)} labels")
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "seen", None if seen is None else tuple(bool(flag) for flag in seen))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def has_unseen(self) -> bool:
        """Whether some label is a query label only, which training has no examples of."""
        return self.seen is not None and not all(self.seen)

    def trained(self) -> LabelSpace:
        """The seen labels, in order."""
        if self.seen is None:
            return self
        return LabelSpace([name for name, seen in zip(self.names, self.seen, strict=True) if seen])

    def index(self, name: str) -> int:
        """The column of `name`. Raises DataError with the nearest names if there is none."""
        try:
            return self._columns[name]
        except KeyError:
            raise DataError(f"no label '{shortened(name)}'; {suggest(name, self.names)}") from None

    @functools.cached_property
    def _columns(self) -> dict[str, int]:
        return {name: column for column, name in enumerate(self.names)}


def repeated_names(names: Iterable[str]) -> list[str]:
    """Those that occur more than once, sorted."""
    return sorted(name for name, count in Counter(names).items() if count > 1)


_FORMULA = re.compile(r"'*[=+\-@\t\r]")  # also one that stands behind apostrophes, so that `from_cell` undoes this


def to_cell(text: str) -> str:
    """`text` for a table that a spreadsheet may open: what it would take for a formula stands behind an apostrophe."""
    return f"'{text}" if _FORMULA.match(text) else text


def from_cell(cell: str) -> str:
    """What `to_cell` was given."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
