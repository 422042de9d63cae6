"""Images and annotations before training: download, check, describe, show, divide, shrink, export."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from mldec.commands import compose
from mldec.commands.options import OutputDirectory, OutputFile, parse
from mldec.config import Count, Fraction, Range, Seed, Some, build_config
from mldec.errors import ConfigError, DataError, RunError, as_override, counted, printable_name, shortened, suggest
from mldec.files import check_output_directory, check_output_file, refuse_overwriting
from mldec.system import usable_cores

SHOWN = 10  # problems on the screen; the file lists all


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """Options of all these commands; dataset=NAME and its settings, such as dataset.year=2017, are overrides."""

    SETTINGS = ("dataset", "experiment")

    root: Path | None = None  # short for dataset.root=DIR


@dataclass(frozen=True, kw_only=True)
class DownloadOptions(DatasetOptions):
    """Download the published files of dataset=NAME, unpack them, check them; the same command resumes after a stop."""

    parallel: Annotated[int, Range(1, 100)] = 4  # files at a time
    extra: tuple[str, ...] = ()  # optional parts (openimages: machine, validation-images, test-images, train-images)
    keep: bool = False  # keep archives after unpacking


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(DatasetOptions):
    """Open and decode every image of dataset=NAME, and compare the directory with the annotations."""

    split: str = "all"  # train, val, test or all, as published
    workers: Some | None = None  # processes; default: one per core
    output: OutputFile | None = None  # the list of problems; default outputs/data/NAME/problems.txt
    fix: bool = False  # add what is broken to excluded.txt, which training honours; nothing is deleted


@dataclass(frozen=True, kw_only=True)
class StatsOptions(DatasetOptions):
    """Images, labels, labels that occur together and image sizes of dataset=NAME, as text, JSON and an image."""

    split: str = "train"  # train, val, test or all, as published
    output: OutputDirectory | None = None  # default outputs/data/NAME


@dataclass(frozen=True, kw_only=True)
class SplitOptions(DatasetOptions):
    """Divide dataset=PATH into train, val and test: each gets its share of every label, and train has all labels.

    A table gives tables with the same columns, a directory of class directories or an export of a tool gives CSV.

    Attributes:
        redivide: divide also a dataset that has splits of its own: all of its images, whichever split they are in
        dedupe: true: near-duplicates stay in one part; false: do not look for them; default: look, and warn of those
            that are in different parts
    """

    table: str | None = None  # the file, which dataset=FILE names too
    train: Fraction | None = None  # share of the images; default: what val and test leave, 0.8 without them
    val: Fraction | None = None  # share of the images; default: 0, or 0.1 where no share is set
    test: Fraction | None = None  # share of the images; default as of val
    seed: Seed = 0  # of the choice among equally good divisions
    groups: str | None = None  # column: rows with the same value, such as a patient or a video, stay in one part
    dedupe: bool | None = None
    redivide: bool = False
    workers: Some | None = None  # processes that read images; default: one per core
    output: OutputDirectory | None = None  # default: the directory of the file; of a directory DIR it is DIR_split


@dataclass(frozen=True, kw_only=True)
class ShrinkOptions(DatasetOptions):
    """Write dataset=NAME again with smaller images; annotations are copied."""

    side: Count  # pixels on the shorter side, such as 256
    output: OutputDirectory  # the directory of the new dataset
    quality: Annotated[int, Range(1, 100)] = 90  # of JPEG files
    workers: Some | None = None  # processes; default: one per core


@dataclass(frozen=True, kw_only=True)
class DataExportOptions(DatasetOptions):
    """Write the labels of dataset=NAME, or predictions, in a format that other tools read.

    Attributes:
        format: CSV, JSON lines, COCO's JSON, tasks of Label Studio, or a directory for Hugging Face's imagefolder
        output: FILE with the ending of the format, or a directory with a file for each split; hf: always a directory
        images: hf: copy the images into the directory, set links to them (default), or write their names alone
        unknown: absent: write unknown labels as absent, where a format cannot say that they are unknown
        threshold: of predictions: labels with a score above it, instead of those that the file lists
        prefix: label_studio: text before each path, such as s3://bucket/; default /data/local-files/?d=
    """

    format: Literal["csv", "jsonl", "coco", "label_studio", "hf"]
    output: Path
    predictions: Path | None = None  # a file of mldec predict, instead of a dataset; root=DIR: where its images are
    split: str = "all"  # train, val, test or all, as published
    images: Literal["copy", "link", "none"] | None = None
    unknown: Literal["absent"] | None = None
    threshold: Fraction | None = None
    prefix: str | None = None
    model_version: str | None = None  # label_studio: of predictions; default mldec


@dataclass(frozen=True, kw_only=True)
class BrowseOptions(DatasetOptions):
    """One HTML page with images of dataset=NAME and their labels, counts, sizes and problems; it needs no server."""

    split: str = "all"  # train, val, test or all, as published
    output: OutputFile = Path("browse.html")  # the page
    limit: Annotated[int, Range(1, 10_000)] = 500  # images that are shown; more are smaller, so that the page opens


SUBCOMMANDS = {
    "download": DownloadOptions,
    "verify": VerifyOptions,
    "stats": StatsOptions,
    "split": SplitOptions,
    "shrink": ShrinkOptions,
    "export": DataExportOptions,
    "browse": BrowseOptions,
}


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    works: dict[str, Callable[[Any, compose.Arguments], int]]
    works = {"download": _download, "verify": _verify, "stats": _stats, "split": _split, "shrink": _shrink}
    works |= {"export": _export, "browse": _browse}
    if argv[0] not in works:
        raise ConfigError(f"{argv[0][:80]}: no such command of mldec data; {suggest(argv[0][:80], works)}")
    options: Any
    options, arguments = parse(argv[1:], SUBCOMMANDS[argv[0]], f"data {argv[0]}")
    compose.load_components(arguments.plugins)
    return works[argv[0]](options, arguments)


def _download(options: DownloadOptions, arguments: compose.Arguments) -> int:
    from mldec.data.download import fetch
    from mldec.data.sources import find_source
    from mldec.engine.display import Display

    config, display = _dataset(options, arguments), Display()
    wanted = find_source(config.name, year=getattr(config, "year", None), extra=options.extra)
    if wanted.by_hand:
        display.say(wanted.by_hand)
    if wanted.downloads:
        display.say(f"{config.name}: {len(wanted.downloads)} files into {config.folder}")
        parallel, keep = options.parallel, options.keep
        with display.transfers() as on_bytes:
            done = fetch(wanted.downloads, config.folder, parallel=parallel, keep_archives=keep, on_bytes=on_bytes)
        for line in done:
            display.say(str(line))
    return 0


def _verify(options: VerifyOptions, arguments: compose.Arguments) -> int:
    from mldec.data.cache import exclusion_file
    from mldec.data.exclusions import EXCLUDED, add_exclusions, read_exclusions
    from mldec.data.verify import unlisted_images, verify, write_list
    from mldec.engine.display import Display

    config, display = dataclasses.replace(_dataset(options, arguments, lists=True), missing="keep"), Display()
    output = options.output or Path("outputs") / "data" / config.name / "problems.txt"
    check_output_file("output", output)
    refuse_overwriting("output", [output], _named_files(config))
    indexes = {split: _index(config, split) for split in _splits(options.split, config)}
    problems = []
    for split, index in indexes.items():
        with display.bar(f"{config.name} {split}", len(index)) as bar:
            found = verify(index, workers=options.workers or usable_cores(), on_done=bar.advance)
        problems += found
        display.say(f"{config.name} {split}: {counted(len(index), 'image')}, {len(found):,} of them cannot be used")
        for problem in found[:SHOWN]:
            display.say(f"  {printable_name(problem.reason)}")
        if len(found) > SHOWN:
            display.say(f"  and {len(found) - SHOWN:,} more")
    _warn_of_shared(config, indexes)
    _warn_of_copies(config, indexes, display)
    # Otherwise those of the other splits, or those with unseen labels alone, would be among them.
    if set(indexes) == set(config.splits) and config.unseen is None:
        left_out = read_exclusions(listed) if (listed := exclusion_file(config)) else set()
        home = os.path.abspath(config.folder)
        unlisted = [p for p in unlisted_images(indexes.values()) if os.path.relpath(p, home) not in left_out]
        if unlisted:
            what = "beside them that no annotation mentions, such as"
            display.say(f"{counted(len(unlisted), 'image')} {what} {printable_name(unlisted[0])}")
    if not problems:
        return 0
    write_list(problems, output)
    display.say(f"listed in {output}")
    if not options.fix:
        display.say("note: add fix=true to leave them out of training (nothing is deleted)")
        return 1
    exclusions = Path(config.exclude or os.path.join(config.folder, EXCLUDED))
    broken = (os.path.relpath(problem.path, os.path.abspath(config.folder)) for problem in problems)
    count = add_exclusions(broken, exclusions)
    display.say(f"{exclusions} now lists {counted(count, 'image')}, which training leaves out")
    return 0


def _stats(options: StatsOptions, arguments: compose.Arguments) -> int:
    from mldec.data.statistics import SAMPLE, draw_statistics, summarize
    from mldec.engine.display import Display
    from mldec.engine.run_directory import write_json

    config, display = _dataset(options, arguments), Display()
    folder = options.output or Path("outputs") / "data" / config.name
    check_output_directory("output", folder)
    splits = _splits(options.split, config)
    outputs = [folder / f"{split}{suffix}" for split in splits for suffix in (".json", ".png")]
    refuse_overwriting("output", outputs, _files_of(config))
    indexes = {split: _index(config, split) for split in splits}
    for split, index in indexes.items():
        with display.bar(f"{config.name} {split}", min(SAMPLE, len(index))) as bar:
            summary = summarize(index, on_done=bar.advance)
        display.say(f"{config.name} {split}\n\n{summary.describe()}\n")
        write_json(folder / f"{split}.json", summary.to_mapping())
        draw_statistics(summary, folder / f"{split}.png", title=f"{config.name} {split}")
        display.say(f"written to {folder / split}.json and {folder / split}.png")
    _warn_of_shared(config, indexes)
    if config.name == "folder":
        _warn_of_copies(config, indexes, display)
    return 0


def _split(options: SplitOptions, arguments: compose.Arguments) -> int:
    from mldec.commands.data_split import split_dataset
    from mldec.engine.display import Display

    display, names = Display(), ("train", "val", "test")
    given = {split: share for split in names if (share := getattr(options, split)) is not None}
    if given and "train" not in given:
        given = {"train": max(0.0, round(1 - sum(given.values()), 9)), **given}
    shares = {split: share for split, share in (given or {"train": 0.8, "val": 0.1, "test": 0.1}).items() if share > 0}
    if abs(sum(shares.values()) - 1) > 1e-6 or len(shares) < 2:
        shown = " ".join(f"{split}={share:g}" for split, share in shares.items())
        raise ConfigError(f"{shown}: at least two shares that sum to 1 are needed, as in train=0.8 val=0.1 test=0.1")
    if options.table is None and not arguments.choose_data:
        raise ConfigError("dataset=PATH is missing: what to divide, as in mldec data split dataset=photos.csv")
    found = options.table is not None and os.path.exists(os.path.expanduser(options.table))
    chosen = as_override("dataset", options.table or "") if found else "dataset=table"
    named: dict[str, Any] = {} if options.table is None or found else {"train": options.table}
    more = [] if options.table is None else [chosen]
    given_keys = arguments.keys()
    path = os.path.expanduser(options.table) if found and options.table else compose.path_of_dataset(arguments)
    if path is not None and options.redivide and "dataset.labels" not in given_keys:
        more.append("dataset.labels=union")  # which of the old splits has a label does not matter
    config = _dataset(options, arguments, *more, divides=False, **named)
    if "dataset.labels=union" in more:
        config = dataclasses.replace(config, labels=None)
    if options.groups is not None and getattr(config, "ignore", None) and options.groups not in config.ignore:
        config = dataclasses.replace(config, ignore=(*config.ignore, options.groups))  # it is no class
    overrides = split_dataset(options, config, shares, display, path)
    command = shlex.join(["mldec", "train", *overrides])
    if "train" in shares:
        display.say(f"next: {command}")
    else:
        display.say(f"note: with a table to train on: {command} dataset.train=FILE")
    return 0


def _shrink(options: ShrinkOptions, arguments: compose.Arguments) -> int:
    from mldec.data.dataset import name_some
    from mldec.data.shrink import copy_others, prepare_target, shrink, survey
    from mldec.engine.display import Display

    side, quality, output = options.side, options.quality, options.output
    workers = options.workers or usable_cores()
    config, display = _dataset(options, arguments), Display()
    indexes = {split: _index(config, split) for split in config.splits}
    places = {split: os.path.relpath(index.root, os.path.abspath(config.folder)) for split, index in indexes.items()}
    outside = [split for split, place in places.items() if place.startswith("..")]
    if outside:
        raise ConfigError(
            f"the images of {outside[0]} lie outside of {config.folder}; use root=DIR that holds all, or write images "
            "that are within Parquet files into a folder first: mldec data export format=hf images=copy output=DIR"
        )
    # All that can be wrong with annotations, files and disk is found before the first of what may be hours of images.
    plan = survey(config.folder, output, indexes.values(), side=side)
    prepare_target(config.folder, output, side=side, quality=quality)
    problems = []
    try:
        for split, index in indexes.items():
            with display.bar(f"{config.name} {split}", len(index)) as bar:
                target = output / places[split]
                problems += shrink(index, target, side=side, quality=quality, workers=workers, on_done=bar.advance)
        settings = copy_others(config, output, places, plan.files)
    except OSError as error:
        advice = "the files that are written are whole, and the same command resumes after them"
        raise RunError(f"output={output}: {error.strerror or error}; {advice}") from None
    left_out = [*(problem.reason for problem in problems), *plan.left_out]
    for reason in left_out:
        display.say(f"warning: left out: {printable_name(reason)}")
    total = sum(len(index) for index in indexes.values()) - len(problems)
    display.say(f"{counted(total, 'image')} and {counted(len(plan.files), 'other file')} in {output}")
    settings = {"dataset.root": str(output), **settings}
    if problems:
        settings["dataset.missing"] = "drop"
    display.say(f"next: {_train_command(f'dataset={config.name}', settings, arguments, 'dataset.cache')}")
    if left_out:
        some = name_some(left_out, len(left_out))
        raise RunError(f"output={output}: all is written but {len(left_out):,} left out: {some}")
    return 0


def _export(options: DataExportOptions, arguments: compose.Arguments) -> int:
    from mldec.commands.data_export import check_options, export
    from mldec.data.own.export_set import from_indexes
    from mldec.data.own.prediction_file import read_predictions

    chosen = any(compose.key_of(override) in ("dataset", "experiment") for override in arguments.overrides)
    check_options(options, has_dataset=chosen)
    if options.predictions is not None:
        root = None if options.root is None else str(options.root)
        images = read_predictions(options.predictions, threshold=options.threshold, root=root)
        return export(options, images, [options.predictions])
    config = _dataset(options, arguments)
    indexes = {split: _index(config, split) for split in _splits(options.split, config)}
    unknown_as_absent, apart = options.unknown == "absent", options.format == "hf"
    images = from_indexes(indexes, unknown_as_absent=unknown_as_absent, apart=apart)
    return export(options, images, _files_of(config))


def _browse(options: BrowseOptions, arguments: compose.Arguments) -> int:
    from mldec.commands.data_browse import browse

    config = dataclasses.replace(_dataset(options, arguments, lists=True), missing="keep")
    refuse_overwriting("output", [options.output], _named_files(config))
    indexes = {split: _index(config, split) for split in _splits(options.split, config)}
    name = os.path.basename(os.path.abspath(config.folder)) or config.name
    return browse(name, indexes, options.output, limit=options.limit)


# Parts of a command ---------------------------------------------------------------------------------------------------


def _dataset(
    options: DatasetOptions,
    arguments: compose.Arguments,
    *chosen: str,
    divides: bool = True,
    lists: bool = False,
    **settings: str,
) -> Any:
    """The settings of the dataset that a command line names, or `chosen`.

    `divides`: whether one of the user's own without splits gets some. `lists`: whether its images need not exist.
    """
    mapping = compose.compose([*chosen, *arguments.overrides], arguments.config_dir, divides=divides, lists=lists)
    if options.root is not None:
        settings["root"] = str(options.root)
    return build_config(mapping | {"dataset": mapping["dataset"] | settings}).dataset


def _train_command(
    choice: str, settings: Mapping[str, str | tuple[str, ...]], arguments: compose.Arguments, without: str
) -> str:
    """The command that trains on a new dataset, with the settings of `dataset` that were given but for `without`."""
    new = [as_override(key, value) for key, value in settings.items()]
    kept = {text: compose.key_of(text) for text in arguments.overrides if text.startswith("dataset.")}
    given = [text for text, key in kept.items() if key not in settings and key != without]
    return shlex.join(["mldec", "train", choice, *new, *given])


def _warn_of_shared(config: Any, indexes: Mapping[str, Any]) -> None:
    """Log a warning for images in several tables of a dataset, those of its other splits too, as far as they are read.

    Of other datasets nothing is compared: their splits are one file, or folders of their own.
    """
    from mldec.data.data_checks import warn_of_shared

    if config.name != "table" or config.is_one_file:
        return
    found = {}
    for split in config.splits:
        with contextlib.suppress(DataError):
            found[split] = indexes[split] if split in indexes else _index(config, split)
    warn_of_shared(found)


def _warn_of_copies(config: Any, indexes: Mapping[str, Any], display: Any) -> None:
    from mldec.data.data_checks import find_copies
    from mldec.data.folder import COPIES

    for sentence in find_copies(indexes, COPIES if config.name == "folder" else ""):
        display.say(f"warning: {printable_name(sentence)}")


def _named_files(config: Any) -> list[str]:
    """The files that a dataset's settings name."""
    named = (getattr(config, name, None) for name in ("train", "val", "test", "labels", "exclude", "unseen"))
    return [os.path.expanduser(name) for name in named if isinstance(name, str)]


def _files_of(config: Any) -> Iterator[str]:
    """The same, and what lies in a folder that they name."""
    from mldec.data.folder_tree import some_below

    for path in _named_files(config):
        yield path
        yield from (os.path.join(path, inner) for inner in some_below(path))


def _index(config: Any, split: str) -> Any:
    from mldec.data.dataset import warn_of_differences
    from mldec.registry import DATASETS

    index = DATASETS[config.name].build(config, split=split)
    warn_of_differences(config, split, index)
    return index


def _splits(split: str, config: Any) -> tuple[str, ...]:
    if split == "all":
        return tuple(config.splits)
    if split not in config.splits:
        known = ", ".join(config.splits)
        raise ConfigError(f"split={shortened(split)}: {config.name} has {known}; all is each of them")
    return (split,)
