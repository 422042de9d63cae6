"""Your own images, listed in a table: CSV, TSV, JSONL or Parquet, one row per image.

A row names its image in one column and its labels either in another (`cat;dog`, or a list as JSON) or in a column for
each class with 1 present, 0 absent, -1 or nothing unknown. Columns are found by their names, or set.
"""

from __future__ import annotations

import json
import logging
import os
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mldec.data.cache import cached
from mldec.data.dataset import FilesConfig, check_split, name_some, naming
from mldec.data.index import ABSENT, PRESENT, UNKNOWN, ImageIndex
from mldec.data.table_file import TableFile, open_table_file
from mldec.errors import DataError, shortened, suggest
from mldec.labels import LabelSpace
from mldec.registry import DATASETS

logger = logging.getLogger(__name__)

PATH_COLUMNS = ["path", "image", "file", "filename", "file_name", "filepath", "file_path", "image_path"]
PATH_COLUMNS += ["img", "picture"]
LABEL_COLUMNS = ("labels", "label", "tags", "classes", "class", "categories", "category")

STATES = {"1": PRESENT, "1.0": PRESENT, "true": PRESENT, "0": ABSENT, "0.0": ABSENT, "false": ABSENT}
STATES |= {"-1": UNKNOWN, "-1.0": UNKNOWN, "": UNKNOWN, "none": UNKNOWN, "nan": UNKNOWN}


@dataclass(frozen=True, kw_only=True)
class TableConfig(FilesConfig):
    """One table per split.

    Attributes:
        path_column: the column with the images' paths; null: the one named path, image, file, filename, …
        label_column: the column with the labels; null: the one named labels, label, tags, classes, …, or if there is
            none, every other column is a class.
        separator: between the labels of a cell that is not a JSON list.
        ignore: columns that are not classes.
        unlisted: the state of a label that a cell of labels does not name: absent or unknown.
        single_label: every image has exactly one label, as softmax and top-1 assume.
    """

    path_column: str | None = None
    label_column: str | None = None
    separator: str = ";"
    ignore: tuple[str, ...] = ()
    unlisted: Literal["absent", "unknown"] = "absent"
    single_label: bool = False  # type: ignore[misc]

    def __post_init__(self) -> None:
        if not self.separator:
            raise ValueError("separator='': give the sign between labels, such as ';', '|' or ','")


@DATASETS.register("table", TableConfig)
def build_table(config: TableConfig, *, split: str) -> ImageIndex:
    """The index of a split, images in the order of its rows.

    The labels are `config.labels`, or those of the train table: sorted by name where cells list them, in the order of
    the columns where each has its own.

    Raises:
        DataError: naming file and line, for what cannot be read or is none of the labels.
    """
    check_split(config, split)
    sources = [config.file(split), config.file("train"), *config.label_files()]
    return cached(config, split, sources, lambda: read_table(config, split))


def read_table(config: TableConfig, split: str) -> ImageIndex:
    """The same without a cache, with all images that the table lists: row by row, those that do not exist too."""
    labels = config.named_labels() or _Table.open(config, "train").label_space()
    return _Table.open(config, split).index(labels)


@dataclass(frozen=True)
class _Table:
    """A table and its columns: `path` has the images, `labels` lists of labels or each of `classes` one class's states.

    What is raised for a row does not name it; `naming` does, around it.
    """

    config: TableConfig
    file: TableFile
    path: str
    labels: str | None
    classes: tuple[str, ...]

    @classmethod
    def open(cls, config: TableConfig, split: str) -> _Table:
        file = open_table_file(config.file(split))
        path = _find(file, config.path_column, PATH_COLUMNS, "path_column")
        if path is None:
            raise DataError(
                f"{file.path}: no column of paths among {', '.join(file.columns[:10])}; name it path, or use "
                "dataset.path_column=NAME"
            )
        labels = _find(file, config.label_column, LABEL_COLUMNS, "label_column")
        others = {path, *config.ignore}
        classes = tuple(column for column in file.columns if column not in others) if labels is None else ()
        if labels is None and not classes:
            raise DataError(f"{file.path}: no column of labels beside {path}; name it labels, or give each class one")
        return cls(config, file, path, labels, classes)

    def label_space(self) -> LabelSpace:
        """The classes in the order of their columns, or the labels that the rows name, sorted."""
        names: set[str] = set()
        if self.labels is not None:
            for line, row in self.file.rows([self.labels]):
                with naming(f"{self.file.path} line {line}"):
                    names.update(_listed(row, self.labels, self.config.separator))
        with naming(self.file.path):
            if self.labels is None:
                return LabelSpace(self.classes)
            if not names:
                raise DataError(f"column {self.labels} names no label")
            _refuse_joined(names, self.config.separator)
            return LabelSpace(sorted(names))

    def index(self, labels: LabelSpace) -> ImageIndex:
        """The images of all rows, with these labels."""
        default = UNKNOWN if self.config.unlisted == "unknown" else ABSENT
        if self.labels is None:
            self._check_classes(labels)
            if default == UNKNOWN:
                path = self.file.path
                logger.warning("warning: dataset.unlisted=unknown: without effect, in %s each class has a column", path)
            default = ABSENT
        root = os.path.abspath(self.config.folder)
        with naming(self.file.path):
            return ImageIndex.build(self._samples(root, labels), root=root, labels=labels, default=default)

    def _check_classes(self, labels: LabelSpace) -> None:
        columns, known = set(self.classes), set(labels.names)
        if missing := [name for name in labels.names if name not in columns]:
            raise DataError(
                f"{self.file.path}: no column for {len(missing)} of the {len(labels)} classes "
                f"({name_some(missing, len(missing))})"
            )
        if strange := [name for name in self.classes if name not in known]:
            raise DataError(
                f"{self.file.path}: column {strange[0]} is none of the {len(labels)} classes; "
                f"{suggest(strange[0], labels.names)}; if it is not a class: dataset.ignore=[{','.join(strange[:5])}]"
            )

    def _samples(self, root: str, labels: LabelSpace) -> Iterator[tuple[str, list[int], list[int], list[int]]]:
        """Path relative to `root`, and columns that are present, absent and unknown, as far as that is no default."""
        lines: dict[str, int] = {}
        for line, row in self.file.rows([self.path, *([self.labels] if self.labels is not None else self.classes)]):
            with naming(f"{self.file.path} line {line}"):
                name = _relative(row.get(self.path), root)
                if name in lines:
                    raise DataError(f"{name} is listed twice, in lines {lines[name]} and {line}; join their labels")
                lines[name] = line
                if self.labels is None:
                    present, unknown = self._states(row, labels)
                else:
                    present = sorted(set(map(labels.index, _listed(row, self.labels, self.config.separator))))
                    unknown = []
            yield name, present, [], unknown

    def _states(self, row: dict[str, Any], labels: LabelSpace) -> tuple[list[int], list[int]]:
        """Columns of the classes that are present, and of those of which it is not known, by the row's own columns."""
        if strange := sorted(row.keys() - set(self.file.columns)):
            raise DataError(
                f"{strange[0]} is none of the columns, which are the keys of the first line "
                f"({name_some(self.file.columns, len(self.file.columns))})"
            )
        found: dict[int, list[int]] = {PRESENT: [], ABSENT: [], UNKNOWN: []}
        for column, name in enumerate(labels.names):
            value = row.get(name)
            # Text of a list, of which JSON allows any depth, would be no state either.
            state = None if isinstance(value, (list, dict)) else STATES.get(str(value).strip().lower())
            if state is None:
                raise DataError(
                    f"column {name} holds '{shortened(value)}'; allowed are 1 present, 0 absent, -1 or nothing "
                    f"unknown. If it is no class: dataset.ignore=[{name}]"
                )
            found[state].append(column)
        return found[PRESENT], found[UNKNOWN]


def _find(table: TableFile, chosen: str | None, usual: Sequence[str], setting: str) -> str | None:
    if chosen is None:
        by_name = {column.lower(): column for column in reversed(table.columns)}
        return next((by_name[name] for name in usual if name in by_name), None)
    if chosen not in table.columns:
        raise DataError(
            f"dataset.{setting}={chosen}: {table.path} has no such column; {suggest(chosen, table.columns)}"
        )
    return chosen


def _refuse_joined(names: set[str], separator: str) -> None:
    """Refuse labels that hold another separator: `cat|dog` is hardly a name, though now and then one has a comma."""
    for other in ("|", ";", "\t", ","):
        joined = sorted(name for name in names if other in name)
        if other != separator and len(joined) > (len(names) / 2 if other == "," else 0):
            raise DataError(
                f"'{shortened(joined[0])}' looks like several labels; use dataset.separator='\"{other}\"' if they are, "
                f"or list the names in a file and use dataset.labels=FILE if {other!r} belongs to them"
            )


def _relative(value: Any, root: str) -> str:
    """The path of an image relative to `root`, as a cell names it."""
    if not isinstance(value, str) or not value.strip():
        raise DataError("no path of an image")
    name = value.strip()
    if "/" not in name and not os.path.isabs(name):
        name = name.replace("\\", "/")  # written on Windows
    if os.path.isabs(name):
        if not os.path.normpath(name).startswith(os.path.join(root, "")):
            raise DataError(f"{name} lies outside of {root}; use dataset.root=FOLDER, one that holds all images")
        name = os.path.relpath(name, root)
    if ".." in name.split("/"):
        raise DataError(f"{name} may lie outside of {root}; '..' is not allowed, use dataset.root=FOLDER")
    return posixpath.normpath(name)


def _listed(row: dict[str, Any], column: str, separator: str) -> list[str]:
    """The labels that a row's cell names."""
    if column not in row:  # a misspelt key in JSONL must not become an image without labels
        raise DataError(f"no {column} among {', '.join(row)}; an image without labels has an empty list")
    value = row[column]
    if value is None:
        return []
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise DataError(f'{value[:60]} is no JSON list; write ["cat", "dog"] or cat;dog') from None
    elif isinstance(value, str):
        value = value.split(separator)
    elif isinstance(value, int) and not isinstance(value, bool):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(item, (str, int)) for item in value):
        raise DataError(f"expected labels as text or a list of texts, found {shortened(value, 200)}")
    return [str(item).strip() for item in value if str(item).strip()]
