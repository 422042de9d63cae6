"""What `mldec predict` wrote, as a set of images to export: any of its formats, with the scores of listed labels or of
all labels."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mldec.data.own.export_set import ExportImage, ExportSet
from mldec.data.table_file import TableFile, open_table_file
from mldec.errors import DataError, shortened
from mldec.labels import LabelSpace, from_cell

LISTED = ("path", "label", "score")  # columns of a file with a row for each label
THRESHOLD = 0.5  # of files that list no labels, only the scores of all

_Scored = tuple[str, dict[str, float]]  # a path and its labels with their scores, the best first


def read_predictions(file: Path, *, threshold: float | None = None, root: str | None = None) -> ExportSet:
    """The images of a file of predictions in JSONL, CSV or Parquet, with the labels that it lists for each.

    Args:
        threshold: list the labels with a score above it instead; None: those that are listed, or with a score above
            0.5 in a table that has a column for each label.
        root: folder that relative paths are relative to; None: the current one.

    Paths of the set are relative to this folder, or to the deepest one that holds all images where some lie outside.
    Raises DataError, naming file and line, for a file that is none of these or lists an image twice, and where `root`
    is given and an image lies outside.
    """
    table = open_table_file(str(file))
    labels: dict[str, None] = dict.fromkeys(_all_labels(table) or ())
    known = bool(labels)
    base = os.path.abspath(os.path.expanduser(root or "."))
    paths: dict[str, None] = {}
    outside = ""
    used: set[str] = set()
    for path, scores in _scored(table, threshold):
        absolute = os.path.normpath(os.path.join(base, path))
        if absolute in paths:
            raise DataError(f"{file}: {shortened(path)} is listed twice; keep one prediction of each image")
        paths[absolute] = None
        outside = outside or ("" if _below(absolute, base) else path)
        used.update(scores)
        if not known:
            labels |= dict.fromkeys(scores)
    if not paths:
        raise DataError(f"{file}: holds no prediction")
    if outside and root is not None:
        raise DataError(
            f"{file}: {shortened(outside)} lies outside of {base}; use root=FOLDER, one that holds all images"
        )
    base = os.path.commonpath([os.path.dirname(path) for path in paths]) if outside else base
    if not labels:
        raise DataError(
            f"{file}: no image has a label, so there is nothing to export; predict with a lower threshold=…"
        )
    names = LabelSpace(list(labels) if known else sorted(labels)).names

    def images() -> Iterator[ExportImage]:
        for absolute, (_, scores) in zip(paths, _scored(table, threshold), strict=True):
            name = os.path.relpath(absolute, base).replace(os.sep, "/")
            yield ExportImage(name, tuple(scores), scores=tuple(scores.values()))

    unused = tuple(name for name in names if name not in used)
    return ExportSet(base, names, {"": images}, {"": len(paths)}, unused=unused)


def _below(path: str, folder: str) -> bool:
    return path.startswith(os.path.join(folder, ""))


def _all_labels(table: TableFile) -> list[str] | None:
    """The labels of the network, in order, where the file has scores of all; None where it lists only some."""
    if table.path.lower().endswith((".jsonl", ".ndjson")):
        first = next(table.rows(), (0, {}))[1].get("scores")
        return list(first) if isinstance(first, Mapping) else None
    if table.columns == LISTED:
        return None
    if table.columns[:1] != ("path",) or len(table.columns) < 2:
        raise DataError(
            f"{table.path}: is no file of mldec predict, whose columns are path,label,score, or path and one for each "
            f"label (scores=all); found {shortened(', '.join(table.columns))}. A list of images is exported with "
            "dataset=…"
        )
    return [_text(table, name) for name in table.columns[1:]]


def _scored(table: TableFile, threshold: float | None) -> Iterator[_Scored]:
    """Each image with the labels that count."""
    if table.path.lower().endswith((".jsonl", ".ndjson")):
        found = _of_lines(table, threshold)
    elif table.columns == LISTED:
        found = _of_rows_per_label(table)
    else:
        found = _of_columns(table, THRESHOLD if threshold is None else threshold)
    for path, scores in found:
        yield path, {name: score for name, score in scores.items() if threshold is None or score > threshold}


def _of_lines(table: TableFile, threshold: float | None) -> Iterator[_Scored]:
    for line, row in table.rows():
        where = f"{table.path} line {line}"
        path, listed, scores = row.get("path"), row.get("labels"), row.get("scores")
        if not isinstance(path, str) or not path or not isinstance(listed, dict) or not isinstance(scores, dict | None):
            raise DataError(
                f'{where}: is no prediction of mldec predict, {{"path": "a.jpg", "labels": {{"cat": 0.93}}}}. A list '
                "of images is exported with dataset=…"
            )
        chosen = listed if threshold is None or scores is None else scores
        yield path, _best_first({name: _score(value, where) for name, value in chosen.items()})


def _of_rows_per_label(table: TableFile) -> Iterator[_Scored]:
    for path, rows in itertools.groupby(table.rows(), key=lambda numbered: numbered[1]["path"]):
        found = {}
        for line, row in rows:
            where = f"{table.path} line {line}"
            if not isinstance(path, str) or not path:
                raise DataError(f"{where}: no path of an image")
            if row["label"] not in (None, ""):
                found[_text(table, str(row["label"]))] = _score(row["score"], where)
        yield _text(table, path), found


def _of_columns(table: TableFile, threshold: float) -> Iterator[_Scored]:
    names = {column: _text(table, column) for column in table.columns[1:]}
    for line, row in table.rows():
        where = f"{table.path} line {line}"
        if not isinstance(row["path"], str) or not row["path"]:
            raise DataError(f"{where}: no path of an image")
        scores = {name: _score(row[column], where) for column, name in names.items()}
        above = {name: score for name, score in scores.items() if score > threshold}
        yield _text(table, row["path"]), _best_first(above)


def _text(table: TableFile, cell: str) -> str:
    """The text of a cell, which CSV holds behind an apostrophe where a spreadsheet would take it for a formula."""
    return from_cell(cell) if table.path.lower().endswith((".csv", ".tsv")) else cell


def _score(value: Any, where: str) -> float:
    try:
        score = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError, OverflowError):
        score = math.nan
    if not 0 <= score <= 1:
        raise DataError(
            f"{where}: the score {shortened(value)} is no number from 0 to 1, as those of mldec predict are"
        )
    return float(str(np.float32(score)))  # the shortest number: Parquet has 0.9 as 0.8999999761581421


def _best_first(scores: dict[str, float]) -> dict[str, float]:
    return dict(sorted(scores.items(), key=lambda item: -item[1]))
