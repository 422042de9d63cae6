"""`mldec data split`: from one table, directory or export to a table for each part."""

from __future__ import annotations

import dataclasses
import os
import shutil
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

LABELS = "labels.txt"  # beside the parts, their labels in order
SHOWN = 3  # pairs of near-duplicates in a message


def split_dataset(
    options: SplitOptions, config: Any, shares: Mapping[str, float], display: Display, path: str | None = None
) -> list[str]:
    """Divide the images of `config` and write a table for each part that has some.

    A table gives tables with all its columns, but that of splits it had; class folders and exports give CSV.

    Args:
        config: of the dataset.
        shares: of the parts by their names, train first, all above 0.
        path: the file or folder that the user named as the dataset, if that was one.

    Returns:
        The overrides that read the parts; without `dataset.train` if it has no share.

    Raises:
        ConfigError: the dataset is none of the user's own, or has splits, unless `options.redivide`.
        DataError: a file exists already, there is no column `options.groups`, or all images would be in one part.
    """
    from mldec.data.own.read_rows import open_with_settings
    from mldec.data.stratify import joined, stratify
    from mldec.data.table_file import is_table

    _check_splits(config, options.redivide, path, display)
    of_one_file = config.name == "table" and config.is_one_file
    table = open_with_settings(config.file("train"), config) if of_one_file and is_table(config.train) else None
    source = config.folder if config.name == "folder" else config.file("train")
    if options.groups is not None and options.groups not in (table.columns if table else ()):
        advice = suggest(options.groups, table.columns) if table else "only a table has columns; list the images in one"
        raise DataError(f"groups={options.groups}: {source} has no such column; {advice}")
    index, images = _whole(config)
    if table is None:
        index = _within(index, path or source)
    folder = options.output or _usual_folder(path or source, index.root if table is None else None)
    suffix = os.path.splitext(source)[1] if table else ".csv"
    files = {split: folder / f"{split}{suffix}" for split in shares}
    written = [*files.values(), *([] if table else [folder / LABELS])]
    if taken := [str(file) for file in written if file.exists()]:
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


def _check_splits(config: Any, redivide: bool, path: str | None, display: Display) -> None:
    """Raise ConfigError for a dataset that is not to be divided: a published one, or one that is divided already."""
    if config.name not in ("table", "folder"):
        raise ConfigError(
            f"dataset={config.name}: its {', '.join(config.splits)} are files or directories of their own already; "
            "name one file or directory to divide: dataset=PATH"
        )
    own, what = config.own_splits, path or f"dataset={config.name}"
    if own == ("train",):
        if redivide:
            display.say(f"note: redivide=true: without effect, {what} has no splits of its own")
    elif not redivide:
        raise ConfigError(
            f"{what}: has splits of its own already ({', '.join(own)}); redivide=true divides the images of all of "
            "them anew"
        )


def _usual_folder(path: str, root: str | None) -> Path:
    """Where the parts are written: beside the file `path`, or into DIR_split for the directory DIR.

    The latter is the directory at `path`, or `root`, that of the images, unless they lie below the file's.
    """
    if os.path.isdir(path):
        return Path(f"{os.path.normpath(path)}_split")
    beside = os.path.dirname(path) or "."
    if root is not None and not _is_within(root, os.path.abspath(beside)):
        return Path(f"{root}_split")
    return Path(beside)


def _within(index: ImageIndex, path: str) -> ImageIndex:
    """The same images with paths relative to the directory at `path`, or of the file there, if it holds all."""
    from mldec.data.index import Ragged

    folder = os.path.abspath(path if os.path.isdir(path) else os.path.dirname(path))
    if folder == index.root or not _is_within(index.root, folder):
        return index
    inner = os.path.relpath(index.root, folder).replace(os.sep, "/")
    return dataclasses.replace(index, root=folder, paths=Ragged.of_texts([f"{inner}/{name}" for name in index.names()]))


def _is_within(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder


def _whole(config: Any) -> tuple[ImageIndex, np.ndarray]:
    """All images, of whichever split, and (R,) the image of each row of the table."""
    from mldec.data.own.joined_index import join
    from mldec.data.own.label_names import UNION
    from mldec.data.own.parquet_images import find_images_inside
    from mldec.data.table import read_table, read_whole
    from mldec.registry import DATASETS

    own = config.own_splits
    config = dataclasses.replace(config, val_share=0.0, test_share=0.0, unseen=None)
    if own != ("train",) and config.labels is None:  # which of the old splits has a label does not matter
        config = dataclasses.replace(config, labels=UNION)
    if config.name == "table" and config.is_one_file:
        return read_whole(config)
    if config.name == "table" and any(find_images_inside(config.file(split), config.path_column) for split in own):
        raise DataError(
            f"{config.file('train')}: the images of its splits are within Parquet files; write them into a directory "
            "first: mldec data export format=hf images=copy output=DIR"
        )
    build = read_table if config.name == "table" else DATASETS[config.name].build
    index = join({split: build(config, split=split) for split in own})
    return index, np.arange(len(index))


def _divide_table(
    table: TableFile, images: np.ndarray, rows: Mapping[str, np.ndarray], files: Mapping[str, Path], config: Any
) -> Any:
    """Write the rows of each part, of which `images` (R,) are the images; the config that reads the parts."""
    from mldec.data.own.read_rows import table_columns
    from mldec.data.table import names_in_use
    from mldec.data.table_file import write_table_file

    columns = table_columns(table, config)
    for split, file in files.items():
        own = np.flatnonzero(np.isin(images, rows[split])).tolist()
        write_table_file(table, own, str(file), without=columns.split, instead=split)
    changed: dict[str, Any] = {split: str(file) for split, file in files.items()}
    if config.root or any(file.parent.resolve() != Path(config.folder).resolve() for file in files.values()):
        changed["root"] = str(config.folder)
    if "root" in changed and (names := names_in_use(config)) is not None:
        copy = next(iter(files.values())).parent / os.path.basename(names)  # so that the parts are read alone, too
        if not copy.exists():
            shutil.copyfile(names, copy)
            names = str(copy)
        changed["labels"] = names
    if columns.labels is None and config.minus_one is None:  # as in the table, though a part may have no 0 in a column
        changed["minus_one"] = "unknown"
    changed |= {"split_column": None, "split_folders": False}  # which were not those of the parts
    return dataclasses.replace(config, val_share=0.0, test_share=0.0, split_seed=0, **changed)


def _write_parts(
    index: ImageIndex, rows: Mapping[str, np.ndarray], files: Mapping[str, Path], config: Any
) -> TableConfig:
    """Write each part as CSV, and the labels beside it; the config that reads the parts."""
    from mldec.data.dataset import DatasetConfig
    from mldec.data.own.export_set import from_indexes
    from mldec.data.own.export_writers import FORMATS, WriterOptions, label_names
    from mldec.data.table import TableConfig

    form, parts = FORMATS["csv"], from_indexes({split: index.subset(own) for split, own in rows.items()})
    for split, file in files.items():
        form.write(file, parts.only(split), WriterOptions(blank_unknown=True), lambda count: None)
    folder = next(iter(files.values())).parent
    changed: dict[str, Any] = {split: str(file) for split, file in files.items()}
    if Path(parts.root) != folder.absolute():
        changed["root"] = parts.root
    if names := label_names(parts):
        write_text(folder / LABELS, names)
        changed["labels"] = str(folder / LABELS)
    if parts.unknown:
        changed["minus_one"] = "unknown"
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
