"""What all rows of a table have: the path of an image, a line, and the split."""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mldec.data.own.columns import Columns
from mldec.data.own.rows import SPLITS, Rows
from mldec.data.own.values import no_split, split_of
from mldec.data.table_file import MISSING, TableFile
from mldec.errors import DataError, setting, shortened
from mldec.labels import from_cell


class RowCollector:
    """Path, line and split of each row of a table, collected while its labels or classes are read."""

    def __init__(self, table: TableFile, columns: Columns) -> None:
        self.table, self.columns = table, columns
        self.names: dict[str, int] = {}
        self.ids, self.lines, self.splits = array("q"), array("q"), array("b")
        self._numbers: dict[str, int] = {}

    def rows(self) -> Iterator[tuple[int, Sequence[Any]]]:
        """(line, cells of labels or classes) of each row, whose path and split are collected; to be called once."""
        first = 2 if self.columns.split else 1
        for line, cells in self.table.records(self.columns.needed):
            name = cells[0]
            if not isinstance(name, str) or not name.strip():
                raise DataError(f"{self.where(line)}: no path of an image")
            name = name.strip()
            if self.columns.escaped:
                name = from_cell(name)
            if first == 2:
                self.splits.append(self._split(cells[1], line))
            self.ids.append(self.names.setdefault(name, len(self.names)))
            self.lines.append(line)
            yield line, cells[first:]

    def where(self, line: int) -> str:
        return f"{self.table.path} line {line}"

    def finish(self, base: Rows, **more: Any) -> Rows:
        repeated = len(self.ids) - len(self.names)
        decisions = [*base.decisions, *more.pop("decisions", ())]
        if repeated:
            decisions.append(f"rows of the same image joined ({repeated:,} more rows than images)")
        return dataclasses.replace(
            base,
            names=list(self.names),
            name_ids=np.array(self.ids, np.int64),
            lines=np.array(self.lines, np.int64),
            splits=np.array(self.splits, np.int8) if self.columns.split else None,
            decisions=tuple(decisions),
            **more,
        )

    def _split(self, cell: Any, line: int) -> int:
        if cell is MISSING:
            raise no_split(self.where(line), self.columns.split or "")
        text = str(cell)
        if text not in self._numbers:
            column = self.columns.split or ""
            split = split_of(text, column)
            if split is None:
                raise DataError(
                    f"{self.where(line)}: column {column} holds '{shortened(text)}'; allowed are train, val and test. "
                    f"If it does not divide the images: {setting('dataset.ignore', (column,))}"
                )
            self._numbers[text] = SPLITS.index(split)
        return self._numbers[text]
