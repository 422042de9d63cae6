"""An export in one form: which images it lists, and which labels each has.

Every reader of a format gives a `Listing`; finding the images, choosing the labels and dividing into splits happen
once, for all formats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Entry:
    """One image, or one label of it: entries with the same path are joined.

    Attributes:
        path: as the export writes it; a file's name, a relative or absolute path of any machine, or an id.
        present, absent, unknown: names of labels.
        split: train, val or test, where the export says so.
        folder: absolute folder that `path` is relative to, where it is not the one of the listing.
        line: where it stands in the file, counted from 1; 0 where the format has no lines.
    """

    path: str
    present: Sequence[str] = ()
    absent: Sequence[str] = ()
    unknown: Sequence[str] = ()
    split: str | None = None
    folder: str | None = None
    line: int = 0


@dataclass(frozen=True)
class Listing:
    """An export that has been recognised.

    Attributes:
        source: the file or folder that was read.
        format: its name for people, such as `Label Studio JSON-MIN` or `CSV`.
        folder: absolute folder that paths are relative to.
        entries: iterates over what it lists from the beginning, each time it is called. Raises DataError, naming file
            and line, for what cannot be read.
        labels: the names in the order that the export gives them (ids of classes, columns of a table); None: those
            found in `entries`, sorted, numbers by value.
        files: every file that was read, whose change makes a cached index invalid.
        decisions: what was decided in reading it, a sentence each, without a full stop.
        options: options that mean the same as the decisions, such as {"dataset.separator": "semicolon"}.
    """

    source: str
    format: str
    folder: str
    entries: Callable[[], Iterator[Entry]]
    labels: tuple[str, ...] | None = None
    files: tuple[str, ...] = ()
    decisions: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
