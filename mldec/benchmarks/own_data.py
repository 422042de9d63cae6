"""Reading a large table of one's own: time to an index against that of parsing the same file with pyarrow alone."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import torch

from mldec.benchmarks.figure import Figure
from mldec.benchmarks.rate import Rate, ratio_figure, sample_in_turn, time_figure
from mldec.data.parquet_file import import_pyarrow
from mldec.data.table import TableConfig, read_table

ROWS, LABELS, PER_ROW = 1_000_000, 80, 3
LIMIT = 5.0  # target: times of parsing with one thread
_LEAST = 1e-9  # seconds: each round is one reading


def measure(*, scale: float = 1.0, repeats: int = 3) -> list[Figure]:
    """An index of `path,labels` with three labels per row. `scale` shrinks the number of rows; the target is for 1."""
    import_pyarrow()
    from pyarrow import csv

    rows, device = max(1, round(ROWS * scale)), torch.device("cpu")
    with tempfile.TemporaryDirectory(prefix="mldec-") as folder:
        path = str(Path(folder) / "table.csv")
        write_table(Path(path), rows)
        config = TableConfig(name="table", train=path, missing="ignore")
        alone = csv.ReadOptions(use_threads=False)
        parse = Rate(lambda: csv.read_csv(path, read_options=alone), 1, device, _LEAST)
        index = Rate(lambda: read_table(config, "train"), 1, device, _LEAST)
        sample_in_turn([parse, index], repeats, _LEAST)
    note = f"{rows:,} rows of {PER_ROW} labels, one thread"
    return [
        time_figure("parse with pyarrow.csv", parse, note),
        time_figure(
            "read into an index", index, "encoding, delimiter, columns and separator found; files not looked for"
        ),
        ratio_figure("read, of parsing", index, parse, unit="x", target=LIMIT, better="lower"),
    ]


def write_table(path: Path, rows: int) -> None:
    """Write a table of `path,labels` with labels drawn at random, the same in each call."""
    rng, names = random.Random(0), [f"label{number:03d}" for number in range(LABELS)]
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write("path,labels\n")
        for row in range(rows):
            file.write(f"images/{row % 1000:03d}/{row:08d}.jpg,{';'.join(rng.sample(names, PER_ROW))}\n")
