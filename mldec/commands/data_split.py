"""`mldec data split`: one table into one for each part."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mldec.errors import DataError, printable_name, suggest
from mldec.system import usable_cores

if TYPE_CHECKING:
    from mldec.commands.data import SplitOptions
    from mldec.data.index import ImageIndex
    from mldec.data.own.duplicates import NearDuplicates
    from mldec.data.table_file import TableFile
    from mldec.engine.display import Display

SHOWN = 3  # pairs of near-duplicates in a message


def split_table(options: SplitOptions, config: Any, shares: Mapping[str, float], display: Display) -> dict[str, Path]:
    """Divide the train table of `config` and write the parts that have images; returns the file of each.

    Args:
        config: of the dataset.
        shares: of the parts by their names, train first, all above 0.

    Raises:
        DataError: a file exists already, there is no column `options.groups`, or all images would be in one part.
    """
    from mldec.data.own.read_rows import open_with
    from mldec.data.stratify import joined, stratify
    from mldec.data.table import read_whole
    from mldec.data.table_file import write_table_file

    table = open_with(config.file("train"), config)
    if options.groups is not None and options.groups not in table.columns:
        raise DataError(
            f"groups={options.groups}: {table.path} has no such column; {suggest(options.groups, table.columns)}"
        )
    index, images = read_whole(config)
    folder = options.output or Path(os.path.dirname(table.path) or ".")
    files = {split: folder / f"{split}{os.path.splitext(table.path)[1]}" for split in shares}
    if taken := [str(file) for file in files.values() if file.exists()]:
        raise DataError(f"{', '.join(taken)}: exists already; move it away or use output=DIR")

    together = []
    if options.groups is not None:
        together.append(_of_groups(table, options.groups, images, display))
    near = None if options.dedupe is False else _near_duplicates(index, options.workers, display)
    if near is not None and options.dedupe:
        together.append(near.pairs)
        count = len(np.unique(near.pairs))
        display.say(f"{count:,} images have near-duplicates, {len(near.pairs):,} pairs; each stays with them")
    groups = joined(len(index), *together)
    parts = stratify(index.positives, len(index.labels), list(shares.values()), seed=options.seed, groups=groups)
    sizes = dict(zip(shares, np.bincount(parts, minlength=len(shares)).tolist(), strict=True))
    empty = [split for split, size in sizes.items() if not size]
    if len(shares) - len(empty) < 2:
        (full,) = sizes.keys() - set(empty)
        raise DataError(
            f"{table.path}: all {len(index):,} images would be in {full}: it gets one of each of the "
            f"{len(index.labels):,} labels, and images that stay together form {groups.max() + 1:,} groups; add "
            "images, or give the other parts larger shares"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for number, (split, file) in enumerate(files.items()):
        if sizes[split]:
            write_table_file(table, np.flatnonzero(parts[images] == number).tolist(), str(file))
            display.say(f"{split:<6} {sizes[split]:>9,} images   {file}")
    if empty:
        display.say(f"note: no image is left for {' and '.join(empty)}, which has no file; larger shares make one")
    if near is not None:
        _warn_of_pairs(index, near, parts, list(shares), display)
    return {split: file for split, file in files.items() if sizes[split]}


def _of_groups(table: TableFile, column: str, images: np.ndarray, display: Display) -> np.ndarray:
    """(P,2) pairs of images with the same value in a column, of which `images` (R,) are the rows."""
    from mldec.data.stratify import joined, pairs_of_equal

    values = [row.get(column) for _, row in table.rows([column])]
    texts = [None if value is None or not (text := str(value).strip()) else text for value in values]
    pairs = images[pairs_of_equal(texts)]
    without = texts.count(None)
    number, largest = len(set(texts) - {None}), np.bincount(joined(int(images.max()) + 1, pairs)).max()
    more = f"; {without:,} rows without a value are each on their own" if without else ""
    display.say(f"{number:,} groups by {printable_name(column)}, the largest has {largest:,} images{more}")
    return pairs


def _near_duplicates(index: ImageIndex, workers: int | None, display: Display) -> NearDuplicates:
    from mldec.data.own.duplicates import find_near_duplicates

    with display.bar("near-duplicates", len(index)) as bar:
        near = find_near_duplicates(index, workers=workers or usable_cores(), on_done=bar.advance)
    if near.unreadable:
        count, reason = len(near.unreadable), printable_name(near.unreadable[0].reason)
        display.say(f"note: {count:,} of {len(index):,} images were not compared with the others, such as: {reason}")
    return near


def _warn_of_pairs(
    index: ImageIndex, near: NearDuplicates, parts: np.ndarray, names: list[str], display: Display
) -> None:
    apart = near.pairs[parts[near.pairs[:, 0]] != parts[near.pairs[:, 1]]]
    if not len(apart):
        return
    lines = [
        f"warning: {len(apart):,} pairs of near-duplicates are in different parts, so that results are optimistically "
        "biased; dedupe=true keeps them together"
    ]
    for pair in apart[:SHOWN].tolist():
        lines.append("  " + "   ".join(f"{printable_name(index.name(row))} ({names[parts[row]]})" for row in pair))
    if len(apart) > SHOWN:
        lines.append(f"  and {len(apart) - SHOWN:,} more")
    display.say("\n".join(lines))
