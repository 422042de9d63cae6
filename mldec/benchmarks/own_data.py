"""Reading a large table of one's own: time to an index against that of parsing the same file with pyarrow alone."""

from __future__ import annotations

import dataclasses
import functools
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from mldec.benchmarks.figure import Figure
from mldec.data.parquet_file import import_pyarrow
from mldec.data.table import TableConfig, read_table
from mldec.registry import DATASETS

ROWS, LABELS, PER_ROW = 1_000_000, 80, 3
LIMIT = 5.0  # target: times of parsing with one thread


def measure(*, scale: float = 1.0, repeats: int = 3) -> list[Figure]:
    """An index of `path,labels` with three labels per row. `scale` shrinks the number of rows; the target is for 1."""
    import_pyarrow()
    from pyarrow import csv

    rows = max(1, round(ROWS * scale))
    alone = csv.ReadOptions(use_threads=False)
    parsed, indexed = list[float](), list[float]()
    with tempfile.TemporaryDirectory(prefix="mldec-") as folder:
        path = str(Path(folder) / "table.csv")
        write_table(Path(path), rows)
        config = TableConfig(name="table", train=path, missing="ignore")
        for round_ in range(repeats + 1):  # in turn: other load on a shared machine affects both alike
            times = (
                _seconds(lambda: csv.read_csv(path, read_options=alone)),
                _seconds(lambda: read_table(config, "train")),
            )
            if round_ > 0:  # the first one reads the file from the disk and imports what is needed
                parsed.append(times[0])
                indexed.append(times[1])
    note = f"{rows:,} rows of {PER_ROW} labels, one thread"
    found = "encoding, delimiter, columns and separator found; files not looked for"
    ratios = [ours / theirs for ours, theirs in zip(indexed, parsed, strict=True)]
    return [
        Figure.of_samples("parse with pyarrow.csv", [1000 * time for time in parsed], "ms", note=note),
        Figure.of_samples("read into an index", [1000 * time for time in indexed], "ms", note=found),
        Figure.of_samples("read, of parsing", ratios, "x", target=LIMIT, better="lower"),
    ]


def measure_dataset(config: Any, *, repeats: int = 3) -> list[Figure]:
    """The index of the train images of a dataset, without its cache."""
    build, times = DATASETS[config.name].build, list[float]()
    index = build(config, split="train")  # reads the files from the disk, and imports what is needed
    for _ in range(repeats):
        with tempfile.TemporaryDirectory(prefix="mldec-") as folder:
            fresh = dataclasses.replace(config, cache=folder)
            times.append(_seconds(functools.partial(build, fresh, split="train")))
    note = f"{len(index):,} images, {len(index.labels):,} labels; files looked for"
    return [Figure.of_samples("read into an index", [1000 * time for time in times], "ms", note=note)]


def _seconds(step: Callable[[], object]) -> float:
    began = perf_counter()
    step()
    return perf_counter() - began


def write_table(path: Path, rows: int) -> None:
    """Write a table of `path,labels` with labels drawn at random, the same in each call."""
    rng, names = random.Random(0), [f"label{number:03d}" for number in range(LABELS)]
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write("path,labels\n")
        for row in range(rows):
            file.write(f"images/{row % 1000:03d}/{row:08d}.jpg,{';'.join(rng.sample(names, PER_ROW))}\n")
