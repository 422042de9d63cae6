"""`mldec data split`: from one table, directory or export to a table for each part."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mldec.commands.own_dataset import explicit_options
from mldec.errors import ConfigError, DataError, counted, printable_name, suggest
from mldec.files import write_text
from mldec.system import usable_cores

if TYPE_CHECKING:
    from mldec.commands.data import SplitOptions
    from mldec.data.index import ImageIndex
    from mldec.data.own.duplicates import NearDuplicates
    from mldec.data.table import TableConfig
    from mldec.data.table_file import TableFile
    from mldec.engine.display import Display

SHOWN = 3  # pairs of near-duplicates in a message


def split_dataset(options: SplitOptions, config: Any, shares: Mapping[str, float], display: Display) -> list[str]:
    """Divide the images of `config` and write a table for each part that has some.

    A table gives tables with all its columns; class folders and exports give CSV.

    Args:
        config: of the dataset.
        shares: of the parts by their names, train first, all above 0.

    Returns:
        The overrides that read the parts; without `dataset.train` if it has no share.

    Raises:
        ConfigError: the dataset has parts that are files or folders already.
        DataError: a file exists already, there is no column `options.groups`, or all images would be in one part.
    """
    from mldec.data.own.read_rows import open_with_settings
    from mldec.data.stratify import joined, stratify
    from mldec.data.table_file import is_table

    of_one_file = config.name == "table" and config.is_one_file
    if config.name not in ("table", "folder") or (config.own_splits != ("train",) and not of_one_file):
        raise ConfigError(
            f"dataset={config.name}: its {', '.join(config.splits)} are files or directories of their own already; "
            "name one file or directory to divide: dataset=PATH"
        )
    table = open_with_settings(config.file("train"), config) if of_one_file and is_table(config.train) else None
    source = config.folder if config.name == "folder" else config.file("train")
    if options.groups is not None and options.groups not in (table.columns if table else ()):
        advice = suggest(options.groups, table.columns) if table else "only a table has columns; list the images in one"
        raise DataError(f"groups={options.groups}: {source} has no such column; {advice}")
    index, images = _whole(config)
    beside = f"{os.path.normpath(source)}_split" if os.path.isdir(source) else os.path.dirname(source) or "."
    folder, suffix = options.output or Path(beside), os.path.splitext(source)[1] if table else ".csv"
    files = {split: folder / f"{split}{suffix}" for split in shares}
    if taken := [str(file) for file in files.values() if file.exists()]:
        raise DataError(f"{', '.join(taken)}: exists already; move it away or use output=DIR")

    together = []
    if table is not None and options.groups is not None:
        together.append(_of_groups(table, options.groups, images, display))
    near = None if options.dedupe is False else _near_duplicates(index, options.workers, display)
    if near is not None and options.dedupe:
        together.append(near.pairs)
        count = len(np.unique(near.pairs))
        pairs = counted(len(near.pairs), "pair")
        display.say(f"{count:,} images have near-duplicates, {pairs}; each stays with them")
    groups = joined(len(index), *together)
    parts = stratify(index.positives, len(index.labels), list(shares.values()), seed=options.seed, groups=groups)
    sizes = dict(zip(shares, np.bincount(parts, minlength=len(shares)).tolist(), strict=True))
    empty = [split for split, size in sizes.items() if not size]
    if len(shares) - len(empty) < 2:
        (full,) = sizes.keys() - set(empty)
        raise DataError(
            f"{source}: {'the only image' if len(index) == 1 else f'all {len(index):,} images'} would be in {full}: it "
            f"gets one of each of the {counted(len(index.labels), 'label')}, and images that stay together form "
            f"{counted(int(groups.max()) + 1, 'group')}; add images, or give the other parts larger shares"
        )
    folder.mkdir(parents=True, exist_ok=True)
    rows = {split: np.flatnonzero(parts == number) for number, split in enumerate(shares) if sizes[split]}
    files = {split: files[split] for split in rows}
    if table is None:
        settings = _write_parts(index, rows, files, config)
    else:
        settings = _divide_table(table, images, rows, files, config)
    for split, file in files.items():
        display.say(f"{split:<6} {counted(sizes[split], 'image'):>16}   {file}")
    if empty:
        display.say(f"note: no image is left for {' and '.join(empty)}, which has no file; larger shares make one")
    if near is not None:
        _warn_of_pairs(index, near, parts, list(shares), display)
    return [text for text in explicit_options(settings) if "train" in files or not text.startswith("dataset.train=")]


def _whole(config: Any) -> tuple[ImageIndex, np.ndarray]:
    """All images, and (R,) the image of each row of the table."""
    from mldec.data.table import read_whole
    from mldec.registry import DATASETS

    config = dataclasses.replace(config, val_share=0.0, test_share=0.0, unseen=None)
    if config.name == "table":
        return read_whole(config)
    index = DATASETS[config.name].build(config, split="train")
    return index, np.arange(len(index))


def _divide_table(
    table: TableFile, images: np.ndarray, rows: Mapping[str, np.ndarray], files: Mapping[str, Path], config: Any
) -> Any:
    """Write the rows of each part, of which `images` (R,) are the images; the config that reads the parts."""
    from mldec.data.own.read_rows import table_columns
    from mldec.data.table import names_in_use
    from mldec.data.table_file import write_table_file

    for split, file in files.items():
        write_table_file(table, np.flatnonzero(np.isin(images, rows[split])).tolist(), str(file))
    changed: dict[str, Any] = {split: str(file) for split, file in files.items()}
    if config.root or any(file.parent.resolve() != Path(config.folder).resolve() for file in files.values()):
        changed["root"] = str(config.folder)
    if "root" in changed and (names := names_in_use(config)) is not None:
        changed["labels"] = names
    columns = table_columns(table, config)
    if columns.labels is None and config.minus_one is None:  # as in the table, though a part may have no 0 in a column
        changed["minus_one"] = "unknown"
    if columns.split is not None:  # which is not that of the parts
        changed |= {"split_column": None, "ignore": (*(config.ignore or ()), columns.split)}
    return dataclasses.replace(config, val_share=0.0, test_share=0.0, split_seed=0, **changed)


def _write_parts(
    index: ImageIndex, rows: Mapping[str, np.ndarray], files: Mapping[str, Path], config: Any
) -> TableConfig:
    """Write each part as CSV, and the labels beside it; the config that reads the parts."""
    from mldec.data.dataset import DatasetConfig
    from mldec.data.own.export_set import from_indexes
    from mldec.data.own.export_writers import FORMATS, WriterOptions
    from mldec.data.table import TableConfig

    form, parts = FORMATS["csv"], from_indexes({split: index.subset(own) for split, own in rows.items()})
    for split, file in files.items():
        form.write(file, parts.only(split), WriterOptions(), lambda count: None)
    folder = next(iter(files.values())).parent
    changed: dict[str, Any] = {split: str(file) for split, file in files.items()}
    if Path(parts.root) != folder.absolute():
        changed["root"] = parts.root
    if form.beside is not None:  # their order
        labels = folder / form.beside[0]
        write_text(labels, form.beside[1](parts))
        changed["labels"] = str(labels)
    kept = {field.name: getattr(config, field.name) for field in dataclasses.fields(DatasetConfig)}
    kept |= {"name": "table", "root": None, "exclude": None, "single_label": config.single_label}
    return TableConfig(**{"train": "", **kept, **changed})


def _of_groups(table: TableFile, column: str, images: np.ndarray, display: Display) -> np.ndarray:
    """(P,2) pairs of images with the same value in a column, of which `images` (R,) are the rows."""
    from mldec.data.stratify import joined, pairs_of_equal

    values = [row.get(column) for _, row in table.rows([column])]
    texts = [None if value is None or not (text := str(value).strip()) else text for value in values]
    pairs = images[pairs_of_equal(texts)]
    without = texts.count(None)
    number, largest = len(set(texts) - {None}), np.bincount(joined(int(images.max()) + 1, pairs)).max()
    more = f"; {counted(without, 'row')} without a value {'is on its' if without == 1 else 'are each on their'} own"
    sizes = f"the largest has {counted(int(largest), 'image')}{more if without else ''}"
    display.say(f"{counted(number, 'group')} by {printable_name(column)}, {sizes}")
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
        f"warning: {counted(len(apart), 'pair')} of near-duplicates {'is' if len(apart) == 1 else 'are'} in different "
        "parts, so that results are optimistically biased; dedupe=true keeps them together"
    ]
    for pair in apart[:SHOWN].tolist():
        lines.append("  " + "   ".join(f"{printable_name(index.name(row))} ({names[parts[row]]})" for row in pair))
    if len(apart) > SHOWN:
        lines.append(f"  and {len(apart) - SHOWN:,} more")
    display.say("\n".join(lines))
