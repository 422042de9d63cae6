"""CSV and TSV as spreadsheets, pandas and people write them: encoding, delimiter and header are found and reported.

What comes before the header may be comments (`#`) and Excel's `sep=;`; comments between the rows are left out, too. A
delimiter is decided over whole records at the beginning of a file, and every record is then checked against it.
"""

from __future__ import annotations

import csv
import dataclasses
import itertools
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from mldec.data.folder_tree import SUFFIXES
from mldec.data.own.encodings import Encoding, find_encoding, open_decoded
from mldec.errors import DataError, printable_name, shortened

logger = logging.getLogger(__name__)

#: Signs between cells, or between labels, by the names that a command line takes without quotes.
SIGNS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|", "slash": "/", "space": " ", "newline": "\n"}
SIGNS |= {"plus": "+", "colon": ":", "ampersand": "&", "underscore": "_", "hyphen": "-"}
DELIMITERS = (",", ";", "\t", "|")
SAMPLE_RECORDS, SAMPLE_LINES, SAMPLE_CHARACTERS = 200, 20, 2**18
IMAGE = re.compile(rf"[^\n]*({'|'.join(map(re.escape, sorted(SUFFIXES)))}|\.hei[cf]|\.jfif)\s*", re.I)
_SPACED = re.compile(rf"\S+({'|'.join(map(re.escape, sorted(SUFFIXES)))}) +[^\s,;|]", re.I)  # a.jpg 0 5
_SEP_LINE = re.compile(r'"?sep=(.)"?\s*', re.I)
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.I)
_COMMENT = re.compile(r"\s*#")


def name_of(sign: str) -> str:
    """How `sign` is written in an option: `semicolon` for `;`."""
    return next((name for name, known in SIGNS.items() if known == sign), sign)


def is_image_path(cell: str) -> bool:
    """Whether a cell ends as the name of an image does."""
    return IMAGE.fullmatch(cell) is not None


def lists_images(path: str) -> bool:
    """Whether one of the first lines of a text file has the path of an image, or names a column of paths."""
    try:
        with open_decoded(path, find_encoding(path, None)) as file:
            lines = list(itertools.islice(iter(lambda: file.readline(SAMPLE_CHARACTERS), ""), SAMPLE_LINES))
    except (OSError, UnicodeDecodeError, DataError):
        return True  # reading it says why it cannot be read
    cells = [cell.strip() for line in lines for cell in re.split(r"[,;|\s]", line)]
    header = re.split(r"[,;|\t]", lines[0]) if lines else []
    return any(map(is_image_path, cells)) or (len(header) > 1 and _names_path(header))


@dataclass(frozen=True)
class Dialect:
    """How a text file is read as a table.

    Attributes:
        encoding: of its bytes.
        delimiter: between cells.
        header: whether its first record names the columns.
        skip: lines before the first record.
        columns: names of the columns; `column_1` and so on without a header, `Unnamed: 0` where it names none.
        sample: the first records behind the header.
        uneven: records without a header that have more cells than the first: the last column takes all of them.
        boxes: the column with the labels of boxes, in a file without a header that lists a box in each record.
        mixed: cells after a path that may not all be labels: texts and numbers, or the numbers of boxes.
        decisions, options: what was decided, and the options that mean the same.
    """

    encoding: Encoding
    delimiter: str
    header: bool
    skip: int
    columns: tuple[str, ...]
    sample: tuple[tuple[str, ...], ...]
    uneven: bool = False
    boxes: str | None = None
    mixed: tuple[str, ...] = ()
    decisions: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


def find_dialect(
    path: str, *, encoding: str | None = None, delimiter: str | None = None, header: bool | None = None
) -> Dialect:
    """How a CSV or TSV file is to be read, as far as it is not set.

    Raises DataError, naming the file, for one that is empty, or that can be read in several ways.
    """
    try:
        found = find_encoding(path, encoding)
        with open_decoded(path, found) as file:
            sample, whole = _first_lines(file)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(_unreadable(path, error)) from None
    decisions, options = list[str](), dict[str, Any]()
    if found.decided:
        decisions.append("encoding cp1252, as it is no UTF-8")
        options["dataset.encoding"] = found.name
    skip, stated, comments = _preamble(sample)
    lines = sample[skip:]
    given = SIGNS.get(delimiter, delimiter) if delimiter is not None else stated
    sign, usual = given or _find_delimiter(path, lines, whole), "\t" if path.lower().endswith(".tsv") else ","
    records = _records(lines, sign, whole)
    if not records:
        raise DataError(f"{path}: is empty; the first line must name the columns, such as path,labels")
    if comments and not _names_path(records[0]) and header is not False:
        named = next(csv.reader([comments[-1].lstrip().lstrip("#")], delimiter=sign, skipinitialspace=True), [])
        if len(named) == len(records[0]) and _names_path(named):  # a header that is written as a comment
            skip, records = skip - 1, [named, *records]
    if delimiter is None and sign != usual:
        decisions.append(f"cells separated by {name_of(sign)}")
        options["dataset.delimiter"] = name_of(sign)
    if header is None:
        header = not any(map(is_image_path, records[0]))
        if not header:
            decisions.append("no header line, as the first one names an image")
            options["dataset.header"] = False
    dialect = Dialect(found, sign, header, skip, (), (), decisions=tuple(decisions), options=options)
    return _with_columns(dialect, records)


def read_records(path: str, dialect: Dialect) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of each record behind the header; cells as they are, one for each column.

    Raises DataError, naming file and line, for what cannot be read or has more cells.
    """
    count, short = len(dialect.columns), list[int]()
    try:
        with open_decoded(path, dialect.encoding) as file:
            for _ in range(dialect.skip):
                file.readline()
            lines = _Lines(file, dialect.delimiter, dialect.skip)
            reader = csv.reader(lines, delimiter=dialect.delimiter, strict=True, skipinitialspace=True)
            if dialect.header:
                next(reader, None)
                lines.between = True
            for cells in reader:
                lines.between = True
                if not any(cells[:1]) and not any(map(str.strip, cells)):
                    continue  # an empty row, as spreadsheets leave them
                if len(cells) != count:
                    if len(cells) < count:
                        short.append(lines.number)
                    cells = _fitted(path, lines.number, cells, dialect)
                yield lines.number, cells
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(_unreadable(path, error)) from None
    except csv.Error as error:
        raise DataError(f"{path} line {lines.number}: cannot be read as CSV: {error}") from None
    if lines.comments:
        number = f"{len(lines.comments):,}"
        logger.info("%s: left out %s lines that begin with # (first: line %d)", path, number, lines.comments[0])
    if short:
        logger.info(
            "%s: %s lines end early (first: line %d); what they lack is empty", path, f"{len(short):,}", short[0]
        )


class _Lines:
    """The lines of a table from its header on, without comments between its records.

    Attributes:
        number: of the last line, counted from 1 in the file.
        between: whether the next line begins a record; to be set after each.
        comments: numbers of the lines that were left out.
    """

    def __init__(self, lines: Iterable[str], delimiter: str, number: int = 0) -> None:
        self._lines, self._delimiter, self.number = lines, delimiter, number
        self.between, self.comments = True, list[int]()

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self.number += 1
            if line[:1] == "#" and self.between and self._is_comment(line):
                self.comments.append(self.number)
                continue
            self.between = False
            yield line

    def _is_comment(self, line: str) -> bool:
        """Whether a line that begins with # is one: not a row such as `#sunset,a.jpg`."""
        return not any(is_image_path(cell.strip(' "')) for cell in line.rstrip("\n").split(self._delimiter)[1:])


def _fitted(path: str, number: int, cells: list[str], dialect: Dialect) -> list[str]:
    """Cells of a record that has others than there are columns: empty ones are added, or taken from its end."""
    count = len(dialect.columns)
    while len(cells) > count and not cells[-1].strip():
        cells.pop()
    if len(cells) > count and dialect.uneven:
        return [*cells[: count - 1], dialect.delimiter.join(cells[count - 1 :])]
    if len(cells) > count:
        raise DataError(
            f"{path} line {number}: {len(cells)} cells, the header has {count} "
            f"({', '.join(map(printable_name, dialect.columns[:5]))}{', …' if count > 5 else ''}); quote cells with "
            f"{name_of(dialect.delimiter)}s in them"
        )
    return cells + [""] * (count - len(cells))


def _unreadable(path: str, error: Exception) -> str:
    reason = getattr(error, "strerror", None) or error
    return f"{path}: cannot be read as CSV: {shortened(reason, 200)}"


def _first_lines(file: IO[str]) -> tuple[list[str], bool]:
    """The first lines of a file, by which it is known, and whether they are all."""
    lines, size = list[str](), 0
    while size < SAMPLE_CHARACTERS or (len(lines) < SAMPLE_LINES and size < 16 * SAMPLE_CHARACTERS):
        line = file.readline()
        if not line:
            return lines, True
        lines.append(line)
        size += len(line)
    return lines, False


def _preamble(lines: Sequence[str]) -> tuple[int, str | None, list[str]]:
    """How many lines are before the first record, the delimiter that `sep=;` states, and the comments."""
    stated, comments, skip = None, [], 0
    for skip, line in enumerate(lines):
        if skip == 0 and (found := _SEP_LINE.fullmatch(line.strip())):
            stated = found[1]
        elif _COMMENT.match(line):
            comments.append(line)
        elif line.strip(" \t\r\n,;|\ufeff"):
            return skip, stated, comments
    return skip + 1, stated, comments


def _records(lines: Sequence[str], delimiter: str, whole: bool) -> list[list[str]]:
    """The first records that have something in them; none where the text is no table of this delimiter."""
    own = _Lines(lines, delimiter)
    reader, found = csv.reader(own, delimiter=delimiter, skipinitialspace=True), list[list[str]]()
    try:
        for cells in itertools.islice(reader, SAMPLE_RECORDS):
            own.between = True
            found.append(cells)
    except csv.Error:
        return []
    if not whole and len(found) > 1 and own.number == len(lines):
        del found[-1]  # it may have more lines
    return [cells for cells in found if any(map(str.strip, cells))]


def _find_delimiter(path: str, lines: Sequence[str], whole: bool) -> str:
    """The sign that divides the first records evenly; that of the suffix if no sign does."""
    usual = "\t" if path.lower().endswith(".tsv") else ","
    if all(map(_SPACED.match, filter(str.strip, lines if whole else lines[:-1]))) and any(map(str.strip, lines)):
        return " "
    fits: dict[str, tuple[int, ...]] = {}
    for sign in (usual, *(sign for sign in DELIMITERS if sign != usual)):
        records = _records(lines, sign, whole)
        counts = [len(_stripped_end(cells)) for cells in records]
        if not counts or max(counts[0], len(records[0])) < 2:
            continue
        columns = len(records[0])
        even = sum(count <= columns for count in counts) / len(counts)
        paths = any(is_image_path(cell) for cells in records[:20] for cell in cells if sign not in cell)
        clean = not any(other in cell for other in DELIMITERS if other != sign for cell in records[0])
        fits[sign] = (even == 1 and sum(map(len, records)) > len(records), _names_path(records[0]), paths, clean)
    if not fits:
        return usual
    best = max(fits.values())
    chosen = [sign for sign, fit in fits.items() if fit == best]
    if len(chosen) > 1 and usual not in chosen:
        choices = " or ".join(f"dataset.delimiter={name_of(sign)}" for sign in chosen)
        raise DataError(f"{path}: its cells may be separated by {' or '.join(map(name_of, chosen))}; use {choices}")
    return chosen[0]


def _names_path(cells: Sequence[str]) -> bool:
    from mldec.data.own.columns import PATH_NAMES, simple

    return any(simple(cell) in PATH_NAMES for cell in cells)


def _stripped_end(cells: Sequence[str]) -> Sequence[str]:
    end = len(cells)
    while end > 1 and not cells[end - 1].strip():
        end -= 1
    return cells[:end]


def _with_columns(dialect: Dialect, records: list[list[str]]) -> Dialect:
    """With names of the columns: trailing ones without a name and without content are none."""
    first = [cell.strip() for cell in records[0]]
    sample = [tuple(cells) for cells in (records[1:] if dialect.header else records)]
    if dialect.header:
        columns = list(_stripped_end(first))
        used = max((len(_stripped_end(cells)) for cells in sample), default=0)
        columns += [""] * (min(used, len(first)) - len(columns))
        columns = [name or f"Unnamed: {number}" for number, name in enumerate(columns)]  # as pandas calls them
        return dataclasses.replace(dialect, columns=tuple(columns), sample=tuple(sample))
    widths = [len(_stripped_end(cells)) for cells in sample]
    count, uneven = max(widths), len(set(widths)) > 1
    if dialect.delimiter == " ":  # numbers or names of labels, unless there is a column of states for each
        uneven = uneven or any(cell.strip() not in ("0", "1", "-1") for cells in sample for cell in cells[1:])
    place = next((place for place, cell in enumerate(first) if is_image_path(cell)), 0)
    tails = [[cell.strip() for cell in _stripped_end(cells[place + 1 :])] for cells in sample]
    tails = [tail for tail in tails if any(tail)]
    if (label := _label_of_boxes(tails)) is not None:
        boxes = f"column_{place + 2 + label}"
        text = f"each line is a box, whose label stands in {boxes}"
        columns = [f"column_{number}" for number in range(1, place + 7)]
        decisions = (*dialect.decisions, text)
        return dataclasses.replace(
            dialect, columns=tuple(columns), sample=tuple(sample), boxes=boxes, decisions=decisions
        )
    if tails and all(cell.count(",") == 4 and _is_box(cell.split(",")[:4]) for tail in tails for cell in tail if cell):
        dialect = dataclasses.replace(dialect, mixed=tuple(tails[0]))  # a.jpg 50,100,150,200,0 30,50,200,120,3
    if uneven and count > place + 2:  # path,cat,dog and path,cat: what follows the path are labels
        mixed = next((tail for tail in tails if len({bool(_NUMBER.fullmatch(cell)) for cell in tail if cell}) > 1), [])
        if tails and all(len(tail) == 5 and (_is_box(tail[:4]) or _is_box(tail[1:])) for tail in tails):
            mixed = tails[0]
        elif {cell for tail in tails for cell in tail} <= {"0", "1", "-1"} and any(t != sorted(set(t)) for t in tails):
            mixed = next(
                tail for tail in tails if tail != sorted(set(tail))
            )  # states, in lines of which some are short
        count = place + 2
        text = "cells after the path are its labels"
        dialect = dataclasses.replace(
            dialect, uneven=True, mixed=dialect.mixed or tuple(mixed), decisions=(*dialect.decisions, text)
        )
    columns = [f"column_{number}" for number in range(1, count + 1)]
    return dataclasses.replace(dialect, columns=tuple(columns), sample=tuple(sample))


def _label_of_boxes(tails: Sequence[Sequence[str]]) -> int | None:
    """The place of the label in what follows the paths, `x1,y1,x2,y2,cat` or `cat,x1,y1,x2,y2`; None if it differs."""
    for label, box in ((4, slice(0, 4)), (0, slice(1, 5))):
        if tails and all(
            len(tail) == 5 and _is_box(tail[box]) and not _NUMBER.fullmatch(tail[label]) for tail in tails
        ):
            return label
    return None


def _is_box(cells: Sequence[str]) -> bool:
    """Whether cells are numbers x1, y1, x2, y2 with x1 < x2 and y1 < y2."""
    if not all(map(_NUMBER.fullmatch, cells)):
        return False
    x1, y1, x2, y2 = map(float, cells)
    return x1 < x2 and y1 < y2


def suffix_of(path: str) -> str:
    """The suffix of a path in lower case: `.csv`."""
    return os.path.splitext(path)[1].lower()
