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
    single_label: bool = False

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
    labels = config.named_labels()
    if labels is None:
        labels = _labels(_Layout.of(open_table_file(config.file("train")), config), config)
    return _read(_Layout.of(open_table_file(config.file(split)), config), labels, config)


@dataclass(frozen=True)
class _Layout:
    """The columns of a table: `labels` is the one with lists, or `classes` are those of the classes."""

    table: TableFile
    path: str
    labels: str | None
    classes: tuple[str, ...]

    @classmethod
    def of(cls, table: TableFile, config: TableConfig) -> _Layout:
        path = _find(table, config.path_column, PATH_COLUMNS, "path_column")
        if path is None:
            raise DataError(
                f"{table.path}: no column of paths among {', '.join(table.columns[:10])}; name it path, or use "
                "dataset.path_column=NAME"
            )
        labels = _find(table, config.label_column, LABEL_COLUMNS, "label_column")
        others = {path, *config.ignore}
        classes = tuple(column for column in table.columns if column not in others) if labels is None else ()
        if labels is None and not classes:
            raise DataError(f"{table.path}: no column of labels beside {path}; name it labels, or give each class one")
        return cls(table, path, labels, classes)


def _find(table: TableFile, chosen: str | None, usual: Sequence[str], setting: str) -> str | None:
    if chosen is not None:
        if chosen not in table.columns:
            raise DataError(
                f"dataset.{setting}={chosen}: {table.path} has no such column; {suggest(chosen, table.columns)}"
            )
        return chosen
    by_name = {column.lower(): column for column in reversed(table.columns)}
    return next((by_name[name] for name in usual if name in by_name), None)


def _labels(layout: _Layout, config: TableConfig) -> LabelSpace:
    if layout.labels is None:
        with naming(layout.table.path):
            return LabelSpace(layout.classes)
    names: set[str] = set()
    for line, row in layout.table.rows([layout.labels]):
        names.update(_listed(layout, line, row, config.separator))
    if not names:
        raise DataError(f"{layout.table.path}: column {layout.labels} names no label")
    _refuse_joined(layout, names, config.separator)
    with naming(layout.table.path):
        return LabelSpace(sorted(names))


def _refuse_joined(layout: _Layout, names: set[str], separator: str) -> None:
    """Refuse labels that hold another separator: `cat|dog` is hardly a name, though now and then one has a comma."""
    for other in ("|", ";", "\t", ","):
        joined = sorted(name for name in names if other in name)
        if other != separator and len(joined) > (len(names) / 2 if other == "," else 0):
            raise DataError(
                f"{layout.table.path}: '{shortened(joined[0])}' looks like several labels; use "
                f"dataset.separator='\"{other}\"' if they are, or list the names in a file and use "
                f"dataset.labels=FILE if {other!r} belongs to them"
            )


def _read(layout: _Layout, labels: LabelSpace, config: TableConfig) -> ImageIndex:
    path, root = layout.table.path, os.path.abspath(config.folder)
    classes, known = set(layout.classes), set(labels.names)
    if layout.labels is None and (missing := [name for name in labels.names if name not in classes]):
        raise DataError(
            f"{path}: no column for {len(missing)} of the {len(labels)} classes ({name_some(missing, len(missing))})"
        )
    if layout.labels is None and (strange := [name for name in layout.classes if name not in known]):
        raise DataError(
            f"{path}: column {strange[0]} is none of the {len(labels)} classes; {suggest(strange[0], labels.names)}; "
            f"if it is not a class: dataset.ignore=[{','.join(strange[:5])}]"
        )

    def samples() -> Iterator[tuple[str, list[int], list[int], list[int]]]:
        lines: dict[str, int] = {}
        needed = [layout.path, *(layout.classes if layout.labels is None else [layout.labels])]
        for line, row in layout.table.rows(needed):
            name = _relative(row.get(layout.path), root, f"{path} line {line}")
            if name in lines:
                raise DataError(f"{path}: {name} is listed twice, in lines {lines[name]} and {line}; join their labels")
            lines[name] = line
            yield name, *_states(layout, line, row, labels, config.separator)

    listed = layout.labels is not None
    if not listed and config.unlisted == "unknown":
        logger.warning("warning: dataset.unlisted=unknown: without effect, in %s each class has a column", path)
    default = UNKNOWN if listed and config.unlisted == "unknown" else ABSENT
    with naming(path):
        return ImageIndex.build(samples(), root=root, labels=labels, default=default)


def _relative(value: Any, root: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: no path of an image")
    name = value.strip()
    if "/" not in name and not os.path.isabs(name):
        name = name.replace("\\", "/")  # written on Windows
    if os.path.isabs(name):
        if not os.path.normpath(name).startswith(os.path.join(root, "")):
            raise DataError(
                f"{where}: {name} lies outside of {root}; use dataset.root=FOLDER, one that holds all images"
            )
        name = os.path.relpath(name, root)
    if ".." in name.split("/"):
        raise DataError(f"{where}: {name} may lie outside of {root}; '..' is not allowed, use dataset.root=FOLDER")
    return posixpath.normpath(name)


def _listed(layout: _Layout, line: int, row: dict[str, Any], separator: str) -> list[str]:
    """The labels that a row's cell names."""
    assert layout.labels is not None
    where = f"{layout.table.path} line {line}"
    if layout.labels not in row:  # a misspelt key in JSONL must not become an image without labels
        raise DataError(
            f"{where}: no {layout.labels} among {', '.join(row)}; an image without labels has an empty list"
        )
    value = row[layout.labels]
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise DataError(f'{where}: {value[:60]} is no JSON list; write ["cat", "dog"] or cat;dog') from None
    if value is None:
        return []
    if isinstance(value, str):
        value = [part.strip() for part in value.split(separator)]
    elif isinstance(value, int) and not isinstance(value, bool):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(item, (str, int)) for item in value):
        raise DataError(f"{where}: expected labels as text or a list of texts, found {shortened(value, 200)}")
    return [str(item).strip() for item in value if str(item).strip()]


def _states(
    layout: _Layout, line: int, row: dict[str, Any], labels: LabelSpace, separator: str
) -> tuple[list[int], list[int], list[int]]:
    """Columns of the positives, negatives and unknown labels of a row, as far as they differ from the default."""
    where = f"{layout.table.path} line {line}"
    if layout.labels is not None:
        names = _listed(layout, line, row, separator)
        try:
            return sorted({labels.index(name) for name in names}), [], []
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
    if strange := sorted(row.keys() - set(layout.table.columns)):
        raise DataError(
            f"{where}: {strange[0]} is none of the columns, which are the keys of the first line "
            f"({name_some(layout.table.columns, len(layout.table.columns))})"
        )
    found: dict[int, list[int]] = {PRESENT: [], ABSENT: [], UNKNOWN: []}
    for column, name in enumerate(labels.names):
        value = row.get(name)
        # Text of a list, of which JSON allows any depth, would be no state either.
        state = None if isinstance(value, (list, dict)) else STATES.get(str(value).strip().lower())
        if state is None:
            raise DataError(
                f"{where}: column {name} holds '{shortened(value)}'; allowed are 1 present, 0 absent, -1 or nothing "
                f"unknown. If it is no class: dataset.ignore=[{name}]"
            )
        found[state].append(column)
    return found[PRESENT], [], found[UNKNOWN]
