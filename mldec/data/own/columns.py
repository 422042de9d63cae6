"""What the columns of a table are: the images' paths, their labels or one column per class, the split, and others.

A column is known by its name, in any case and with any sign between its parts; where no name tells, by its content.
What is left over is no class: it is reported, or named in one error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mldec.data.index import ABSENT, PRESENT
from mldec.data.own.label_cells import is_list, is_whole_number
from mldec.data.own.text_table import is_image_path
from mldec.data.own.values import (
    ANSWERS,
    SPLIT_FLAGS,
    SPLIT_NAMES,
    SPLIT_OF_CELL,
    divides,
    is_nothing,
    simple,
    state_of,
)
from mldec.errors import DataError, printable_name, setting, shortened, suggest


def _names(text: str) -> list[str]:
    return text.split()


#: Names of columns without case, spaces and signs, the likeliest first.
PATH_NAMES = _names(
    "path image file filename fname filepath imagepath imagefile imagefilename imagename img imgpath imgname imgfile "
    "images files filenames paths picture photo photopath imageindex imageid imgid id key name uri imageuri url "
    "imageurl"
)
LABEL_NAMES = _names(
    "labels label tags tag classes class categories category labelname labelnames classname classnames choice "
    "choices findinglabels labelids labelid classids classid categoryid categoryids categoryname attributeids "
    "targets target genres genre keywords attributes annotations labellist taglist objects "
)
#: Columns beside one of labels that may say whether the label of the row is present.
VALUE_NAMES = _names("value present presence confidence state ispresent isactive active positive ispositive")
#: Columns that tools write beside classes: they are left out, and reported, where they hold anything but 0 and 1.
OTHER_NAMES = frozenset(
    _names(
        "age sex gender width height w h x y z xmin xmax ymin ymax x1 y1 x2 y2 score scores confidence conf "
        "probability fold split id index url source date time created createdat updatedat annotator "
        "annotationid leadtime license author notes note comment comments description caption patientid "
        "patient subject group groups site view viewposition followup size area md5 sha1 sha256 hash "
    )
)
_NUMBER = re.compile(r"\s*[-+]?[\d.,]+(e[-+]?\d+)?\s*", re.I)
_UNNAMED = re.compile(r"Unnamed: \d+(_level_\d+|(\.\d+)+)?|level_\d+")


@dataclass(frozen=True)
class Columns:
    """The columns of a table by what they are.

    Attributes:
        path: of the images.
        labels: the one with lists; None where `classes` are columns of their own.
        classes: a column each.
        split: the one that names it.
        escaped: cells are as `mldec predict` writes them, see `mldec.labels.to_cell`.
        decisions, options: what was decided, and the options that mean the same.
    """

    path: str
    labels: str | None
    classes: tuple[str, ...] = ()
    split: str | None = None
    escaped: bool = False
    decisions: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def needed(self) -> list[str]:
        """Those that are read: path, split if there is one, and then labels or classes."""
        return [self.path, *([self.split] if self.split else []), *([self.labels] if self.labels else self.classes)]


@dataclass(frozen=True)
class Chosen:
    """Settings of the user that choose columns; `ignore` None: those that are no classes are found."""

    path: str | None = None
    labels: str | None = None
    split: str | None = None
    ignore: tuple[str, ...] | None = None


Sample = Callable[[Sequence[str]], dict[str, list[Any]]]  # the first cells of columns, by their names


def find_columns(file: str, names: Sequence[str], sample: Sample, chosen: Chosen) -> Columns:
    """What the columns `names` of `file` are, by their names and, as far as these do not tell, their first cells.

    Raises DataError, naming the file and the options to choose from, for what cannot be decided.
    """
    if chosen.labels is None and {"file_attributes", "region_attributes"} <= set(names):
        raise DataError(
            f"{file}: is CSV of the VGG Image Annotator, whose labels stand within objects; export it as JSON there "
            "(Annotation, Export Annotations) and use dataset=FILE.json"
        )
    return _Finder(file, names, sample, chosen).find()


class _Finder:
    def __init__(self, file: str, names: Sequence[str], sample: Sample, chosen: Chosen) -> None:
        self.file, self.names, self.chosen, self._sample = file, list(names), chosen, sample
        self._cells: dict[str, list[Any]] = {}
        self.ignore = set(chosen.ignore or ())
        self.decisions: list[str] = []
        self.options: dict[str, Any] = {}

    def find(self) -> Columns:
        path = self._path()
        split = self._split(path)
        labels = self._labels({path, split})
        taken = {path, split, labels} | self.ignore
        others = [name for name in self.names if name not in taken]
        escaped = tuple(self.names) == ("path", "label", "score")
        if labels is not None:
            self._refuse_values(labels, others)
            if others:
                self.decisions.append(f"columns not used: {_some(others)}")
            return Columns(path, labels, (), split, escaped, tuple(self.decisions), self.options)
        classes = self._classes(others, path)
        return Columns(path, None, tuple(classes), split, False, tuple(self.decisions), self.options)

    def _path(self) -> str:
        if self.chosen.path is not None:
            return self._existing(self.chosen.path, "path_column")
        usable = [name for name in self.names if name not in self.ignore]
        named = sorted(
            (name for name in usable if simple(name) in PATH_NAMES), key=lambda name: PATH_NAMES.index(simple(name))
        )
        self._look(named or usable)
        by_content = [name for name in named or usable if self._share(name, _is_path) >= 0.9]
        found = [name for name in by_content if named] or [name for name in named if simple(name) != "name"]
        if found:
            return found[0]
        if len(by_content) == 1 and (by_content[0].startswith("column_") or _UNNAMED.fullmatch(by_content[0])):
            return by_content[0]
        urls = [name for name in usable if self._has_content(name) and self._share(name, _is_image_url) >= 0.9]
        if len(urls) == 1:
            return urls[0]  # for the error that says what to do with URLs
        shown = by_content or usable
        raise DataError(
            f"{self.file}: no column of paths among {_some(usable)}; name it path, or use "
            f"{' or '.join(setting('dataset.path_column', name) for name in shown[:3])} (dataset.path_column=NAME); "
            "if the first line is an image and names no columns: dataset.header=false"
        )

    def _split(self, path: str) -> str | None:
        if self.chosen.split is not None:
            return self._existing(self.chosen.split, "split_column")
        flags = [name for name in self.names if simple(name) in SPLIT_FLAGS and name not in self.ignore]
        if len(flags) > 1:
            raise DataError(
                f"{self.file}: the columns {_some(flags)} divide the images; write one column split with train, val "
                f"and test, or leave one out: {_ignoring(flags[:1])}"
            )
        taken = {path, self.chosen.labels} | self.ignore
        likely = [
            name
            for name in self.names
            if name not in taken and (simple(name) in SPLIT_NAMES or name.startswith("column_"))
        ]
        self._look(likely)
        for name in likely:
            cells = [str(cell).strip().lower() for cell in self._cells[name]]
            if divides(name, cells) or (cells and all(cell in SPLIT_OF_CELL for cell in cells)):
                self.decisions.append(f"split by column {name}")
                return name
        return None

    def _labels(self, taken: set[str | None]) -> str | None:
        if self.chosen.labels is not None:
            return self._existing(self.chosen.labels, "label_column")
        taken = taken | self.ignore
        free = [name for name in self.names if name not in taken]
        by_name = {simple(name): name for name in reversed(free)}
        named = next((by_name[name] for name in LABEL_NAMES if name in by_name), None)
        if named is not None:
            if self._holds_states(named) and (others := [name for name in free if self._may_be_class(name, named)]):
                if self.chosen.ignore is not None:
                    return None
                raise DataError(
                    f"{self.file}: the columns {_some([named, *others])} hold 0 and 1 alone; use "
                    f"{setting('dataset.label_column', named)} if this one holds the labels, or dataset.ignore=[] if "
                    "each is a class"
                )
            return named
        texts = [name for name in free if simple(name) not in OTHER_NAMES and not _UNNAMED.fullmatch(name)]
        cells = self._look(texts)
        only = len(free) == 1 and texts == free and free[0].startswith("column_")  # all that a file without header has
        if only and self.chosen.ignore is None and self._share(free[0], _is_number) == 1 and self._has_content(free[0]):
            if not self._holds_states(free[0]):
                return free[0]
            raise DataError(
                f"{self.file}: {free[0]}, behind the paths, holds 1, 0 and -1 alone (first: "
                f"{shortened(self._first(free[0]))}); use {setting('dataset.label_column', free[0])} if they are "
                "labels, such as numbers of classes, or dataset.ignore=[] if they say whether an image has the one "
                "class that there is"
            )
        if any(map(self._holds_states, texts)):
            return None
        full = [name for name in texts if self._has_content(name)] or [name for name in texts if cells[name]]
        texts = [name for name in full if self._share(name, _is_text) >= 0.5]
        lone = only and texts == free
        if len(texts) == 1 and self.chosen.ignore is None and (lone or self._share(texts[0], _is_label_text) >= 0.5):
            if self._share(texts[0], lambda cell: str(cell).strip().lower() in ANSWERS) == 1:
                raise DataError(
                    f"{self.file}: column {printable_name(texts[0])} holds answers, such as "
                    f"'{shortened(self._first(texts[0]))}'; write 1 and 0 into its cells if it is a class, or use "
                    f"{setting('dataset.label_column', texts[0])} if these are the labels"
                )
            if not texts[0].startswith("column_") or len(free) > 1:
                self._decide(f"labels in column {texts[0]}", "dataset.label_column", texts[0])
            return texts[0]
        if len(texts) > 1 and not any(self._share(name, _is_label_text) >= 0.5 for name in texts):
            return None  # numbers: the cell that is no state is named
        if len(texts) > 1:
            choices = " or ".join(setting("dataset.label_column", name) for name in texts[:4])
            raise DataError(
                f"{self.file}: which of the columns {_some(texts)} holds the labels? Use {choices}; if each is a "
                "class, write 1 and 0 into its cells"
            )
        return None

    def _classes(self, others: list[str], path: str) -> list[str]:
        """The columns that are classes. Metadata that is known by its name is left out; the rest is checked later."""
        if not others:
            train = os.path.join(os.path.dirname(self.file), f"train{os.path.splitext(self.file)[1]}")
            alone = os.path.isfile(train) and not os.path.samefile(train, self.file)
            advice = f"; images without labels are no split: {setting('dataset', train)} alone" if alone else ""
            raise DataError(
                f"{self.file}: no column of labels beside {path}; name it labels, or give each class one{advice}"
            )
        unnamed = [name for name in others if _UNNAMED.fullmatch(name)]
        self._look(unnamed)
        index = {name for name in unnamed if self._is_index(name)}
        if self.chosen.ignore is not None:
            return [name for name in others if name not in index]
        no_classes = OTHER_NAMES | set(SPLIT_NAMES)
        known = {name for name in others if simple(name) in no_classes and name not in index}
        self._look([name for name in others if name in known])
        doubtful = [
            name for name in others if name in known and self._share(name, lambda cell: state_of(cell) is not None) == 1
        ]
        doubtful = [name for name in doubtful if any(not is_nothing(str(cell)) for cell in self._look([name])[name])]
        left_out = [name for name in others if name in index or name in known]
        classes = [name for name in others if name not in index and name not in known]
        if doubtful:
            raise DataError(
                f"{self.file}: column{'s' * (len(doubtful) > 1)} {_some(doubtful)} may be classes or not; use "
                f"{_ignoring(left_out)} if they are none, or {_ignoring([n for n in left_out if n not in doubtful])}"
            )
        if left_out:
            self.decisions.append(f"columns that are no classes: {_some(left_out)}")
            self.options["dataset.ignore"] = tuple(left_out)
        if not classes:
            raise DataError(f"{self.file}: no column of labels beside {_some([path, *left_out])}; name it labels")
        return classes

    def _holds_states(self, name: str) -> bool:
        """Whether a column has states alone, and not nothing alone."""
        return self._has_content(name) and all(state_of(cell) is not None for cell in self._look([name])[name])

    def _has_content(self, name: str) -> bool:
        return any(not is_nothing("" if cell is None else str(cell)) for cell in self._look([name])[name])

    def _first(self, name: str) -> str:
        """The first cell of a column with something in it."""
        return next(str(cell) for cell in self._look([name])[name] if not is_nothing(str(cell)))

    def _may_be_class(self, name: str, other: str) -> bool:
        usual = simple(name) in OTHER_NAMES | set(SPLIT_NAMES) | set(VALUE_NAMES)
        return name != other and not usual and not _UNNAMED.fullmatch(name) and self._holds_states(name)

    def _refuse_values(self, labels: str, others: list[str]) -> None:
        """Raise DataError where a column beside that of the labels may say which rows count."""
        for name in (name for name in others if simple(name) in VALUE_NAMES):
            states = {state_of(cell) for cell in self._look([name])[name]}
            if self._holds_states(name) and {PRESENT, ABSENT} <= states:
                raise DataError(
                    f"{self.file}: column {printable_name(name)} holds 1 and 0, where 0 may mean that the label "
                    f"of the row is absent; delete these rows, or use {_ignoring([name])} if every row of "
                    f"{printable_name(labels)} counts"
                )

    def _is_index(self, name: str) -> bool:
        """Whether a column without a name counts the rows, as pandas writes them."""
        numbers = [str(cell).strip() for cell in self._look([name])[name]]
        if not all(number.isdecimal() and len(number) < 19 for number in numbers):
            return False
        return len(set(numbers)) == len(numbers)

    def _existing(self, name: str, setting: str) -> str:
        if name not in self.names:
            raise DataError(f"dataset.{setting}={name}: {self.file} has no such column; {suggest(name, self.names)}")
        return name

    def _look(self, names: Sequence[str]) -> dict[str, list[Any]]:
        """The first cells of columns; those that are not known yet are read together."""
        if new := [name for name in names if name not in self._cells]:
            self._cells |= self._sample(new)
        return self._cells

    def _share(self, name: str, is_so: Any) -> float:
        """The share of a column's cells with something in them of which `is_so` holds; 1 where all are empty."""
        content = self._look([name])[name]
        cells = [cell for cell in content if not is_nothing("" if cell is None else str(cell))]
        if not cells:
            return float(is_so is not _is_path)
        return sum(bool(is_so(cell if isinstance(cell, (list, dict)) else str(cell))) for cell in cells) / len(cells)

    def _decide(self, text: str, option: str, value: str) -> None:
        self.decisions.append(f"{text}")
        self.options[option] = value


def is_no_class(name: str) -> bool:
    """Whether a column beside classes is known by its name to be none."""
    return simple(name) in OTHER_NAMES or simple(name) in SPLIT_NAMES


def refuse_other_cells(file: str, bad: dict[str, tuple[int, Any]], ignored: Sequence[str]) -> DataError:
    """The one error for class columns with cells that are no states, by column: line and value of the first."""
    name, (line, value) = next(iter(bad.items()))
    more = f"; so do {_some(list(bad)[1:])}" if len(bad) > 1 else ""
    what = "it is no class" if len(bad) == 1 else "they are no classes"
    return DataError(
        f"{file} line {line}: column {printable_name(name)} holds '{shortened(value)}'; allowed are 1 present, 0 "
        f"absent, -1 or nothing unknown{more}. If {what}: {_ignoring([*ignored, *bad])}"
    )


def _is_path(cell: Any) -> bool:
    return isinstance(cell, str) and "://" not in cell and is_image_path(cell)


def _is_image_url(cell: Any) -> bool:
    return isinstance(cell, str) and "://" in cell and is_image_path(cell.partition("?")[0])


def _is_number(cell: Any) -> bool:
    return isinstance(cell, str) and is_whole_number(cell.strip())


def _is_text(cell: Any) -> bool:
    return state_of(cell) is None


def _is_label_text(cell: Any) -> bool:
    return isinstance(cell, (list, dict)) or is_list(str(cell)) or not _NUMBER.fullmatch(str(cell))


def _ignoring(names: Sequence[str]) -> str:
    """The option that leaves out columns, to be pasted."""
    return setting("dataset.ignore", tuple(names))


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(printable_name(name[:80]) for name in names[:10])
    return shown + (f", and {len(names) - 10} more" if len(names) > 10 else "")
