"""`mldec data`: what is done with images and annotations before training."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mldec.commands import compose, options
from mldec.config import build_config
from mldec.errors import ConfigError, DataError, RunError, printable_name, suggest

HELP = """usage: mldec data download dataset=NAME [root=DIR] [parallel=4]
       mldec data verify   dataset=NAME [root=DIR] [split=all] [--fix]
       mldec data stats    dataset=NAME [root=DIR] [split=train]
       mldec data split    table=FILE [train=0.8 val=0.1 test=0.1] [seed=0]
       mldec data shrink   dataset=NAME [root=DIR] side=256 output=DIR

  download   fetch the published files, unpack them, check what can be checked; type it again to go on after a stop
  verify     open and decode every image, and compare the folder with the annotations; --fix adds what is broken to
             excluded.txt in the dataset's folder, which training honours. Nothing is deleted
  stats      images, labels per image, classes, labels that come together, sizes: as text, JSON and an image
  split      divide a table into train, val and test so that each has its share of every label
  shrink     write the dataset once more with images of `side` pixels on the shorter side, annotations adjusted

  root=DIR       short for dataset.root=DIR; all other settings of the dataset work too: dataset.year=2017
  split=…        train, val, test or all, as published
  workers=N      processes (verify, stats, shrink); default: one a core
  output=…       verify: the list of problems; stats and split: a folder; shrink: the new dataset's folder
  quality=90     shrink: of JPEG files
  extra=a,b      download: optional parts (openimages: machine, validation-images, test-images, train-images)
  keep=true      download: keep archives after unpacking"""


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    works = {"download": _download, "verify": _verify, "stats": _stats, "split": _split, "shrink": _shrink}
    if not argv or argv[0] in ("-h", "--help"):
        print(HELP)
        return 0
    if argv[0] not in works:
        raise ConfigError(f"{argv[0]}: mldec data cannot do that; {suggest(argv[0], works)}")
    work, own = works[argv[0]], WORDS[argv[0]]
    arguments = compose.parse(argv[1:], own=own, flags=("--fix",) if "fix" in own else ())
    if arguments.help:
        print(HELP)
        return 0
    compose.load_components(arguments.plugins)
    return work(arguments)


SHOWN = 10  # problems on the screen; the file lists all
WORDS = {
    "download": ("root", "parallel", "extra", "keep"),
    "verify": ("root", "split", "workers", "output", "fix"),
    "stats": ("root", "split", "output"),
    "split": ("table", "train", "val", "test", "seed", "output"),
    "shrink": ("root", "side", "output", "quality", "workers"),
}


def _download(arguments: compose.Arguments) -> int:
    from mldec.data.download import fetch
    from mldec.data.sources import published
    from mldec.engine.display import Display

    keep, parallel = options.switch(arguments.own, "keep"), _whole(arguments, "parallel", 4, most=100)
    config, display = _dataset(arguments), Display()
    extra = tuple(options.listed(arguments.own.get("extra", "")))
    wanted = published(config.name, year=getattr(config, "year", None), extra=extra)
    if wanted.by_hand:
        display.say(wanted.by_hand)
    if wanted.downloads:
        display.say(f"{config.name}: {len(wanted.downloads)} files into {config.folder}")
        with display.transfers() as on_bytes:
            done = fetch(
                wanted.downloads,
                config.folder,
                parallel=parallel,
                keep_archives=keep,
                on_bytes=on_bytes,
            )
        for line in done:
            display.say(str(line))
    return 0


def _verify(arguments: compose.Arguments) -> int:
    from mldec.data.cache import exclusion_file
    from mldec.data.exclusions import EXCLUDED, read_exclusions
    from mldec.data.verify import unlisted_images, verify, write_exclusions, write_list
    from mldec.engine.display import Display

    fix, workers = options.switch(arguments.own, "fix"), _workers(arguments)
    config, display = dataclasses.replace(_dataset(arguments), missing="ignore"), Display()
    default = Path("outputs") / "data" / config.name / "problems.txt"
    output = options.file_for_output(arguments.own, "output", default, "problems.txt")
    options.refuse_overwriting("output", [output], _files(config))
    indexes = {split: _index(config, split) for split in _splits(arguments, config, "all")}
    problems = []
    for split, index in indexes.items():
        with display.bar(f"{config.name} {split}", len(index)) as bar:
            found = verify(index, workers=workers, on_done=bar.advance)
        problems += found
        display.say(f"{config.name} {split}: {len(index):,} images, {len(found):,} of them cannot be used")
        for problem in found[:SHOWN]:
            display.say(f"  {problem.reason}")
        if len(found) > SHOWN:
            display.say(f"  and {len(found) - SHOWN:,} more")
    if set(indexes) == set(config.splits):  # otherwise those of the other splits would be among them
        left_out = read_exclusions(listed) if (listed := exclusion_file(config)) else set()
        home = os.path.abspath(config.folder)
        unlisted = [p for p in unlisted_images(indexes.values()) if os.path.relpath(p, home) not in left_out]
        if unlisted:
            first = printable_name(unlisted[0])
            display.say(f"{len(unlisted):,} images beside them that no annotation mentions, such as {first}")
    if not problems:
        return 0
    write_list(problems, output)
    display.say(f"listed in {output}")
    if not fix:
        display.say("add --fix to leave them out of training (nothing is deleted)")
        return 1
    exclusions = Path(config.exclude or os.path.join(config.folder, EXCLUDED))
    count = write_exclusions(problems, config.folder, exclusions)
    display.say(f"{exclusions} now lists {count:,} images, which training leaves out")
    return 0


def _stats(arguments: compose.Arguments) -> int:
    from mldec.data.statistics import SAMPLE, draw, summarize
    from mldec.engine.display import Display
    from mldec.engine.run_directory import write_json

    config, display = _dataset(arguments), Display()
    folder = options.folder_for_output(arguments.own, "output", Path("outputs") / "data" / config.name)
    for split in _splits(arguments, config, "train"):
        index = _index(config, split)
        with display.bar(f"{config.name} {split}", min(SAMPLE, len(index))) as bar:
            summary = summarize(index, on_done=bar.advance)
        display.say(f"{config.name} {split}\n\n{summary.describe()}\n")
        write_json(folder / f"{split}.json", summary.to_mapping())
        draw(summary, folder / f"{split}.png", title=f"{config.name} {split}")
        display.say(f"written to {folder / split}.json and {folder / split}.png")
    return 0


def _split(arguments: compose.Arguments) -> int:
    from mldec.data.stratify import stratify
    from mldec.data.table import read_table
    from mldec.data.table_file import open_table, write_table
    from mldec.engine.display import Display

    own, display = arguments.own, Display()
    if "table" not in own:
        raise ConfigError("say which table to divide: table=FILE")
    shares = {split: _share(own, split, default) for split, default in (("train", 0.8), ("val", 0.1), ("test", 0.1))}
    shares = {split: share for split, share in shares.items() if share > 0}
    if abs(sum(shares.values()) - 1) > 1e-6 or len(shares) < 2:
        shown = " ".join(f"{split}={share:g}" for split, share in shares.items())
        raise ConfigError(f"{shown}: at least two shares that sum to 1 are needed, as in train=0.8 val=0.1 test=0.1")
    seed = _whole(arguments, "seed", 0, least=0)
    config = _dataset(arguments, choice="table", train=own["table"])
    index = read_table(config, "train")
    parts = stratify(index.positives, len(index.labels), list(shares.values()), seed=seed)
    table = open_table(config.file("train"))
    home = os.path.dirname(table.path) or "."
    folder = options.folder_for_output(own, "output", home)
    files = {split: folder / f"{split}{os.path.splitext(table.path)[1]}" for split in shares}
    taken = [str(file) for file in files.values() if file.exists()]
    if taken:
        raise DataError(f"{', '.join(taken)}: there already; move it away or type output=FOLDER")
    folder.mkdir(parents=True, exist_ok=True)
    for number, (split, file) in enumerate(files.items()):
        rows = (parts == number).nonzero()[0].tolist()
        write_table(table, rows, str(file))
        display.say(f"{split:<6} {len(rows):>9,} images   {file}")
    settings = " ".join(f"dataset.{split}={file}" for split, file in files.items())
    root = "" if folder.resolve() == Path(home).resolve() and not config.root else f" dataset.root={config.folder}"
    display.say(f"next: mldec train dataset=table {settings}{root}{_typed(arguments, *files, 'root')}")
    return 0


def _shrink(arguments: compose.Arguments) -> int:
    from mldec.data.dataset import name_some
    from mldec.data.shrink import copy_regular, prepare, shrink
    from mldec.data.shrink_plan import survey
    from mldec.engine.display import Display

    own = arguments.own
    if "output" not in own or "side" not in own:
        raise ConfigError("say how small and where to: side=256 output=FOLDER")
    side, quality = _whole(arguments, "side", 256), _whole(arguments, "quality", 90, most=100)
    workers, output = _workers(arguments), options.folder_for_output(own, "output", "")
    config, display = _dataset(arguments), Display()
    indexes = {split: _index(config, split) for split in config.splits}
    places = {split: os.path.relpath(index.root, os.path.abspath(config.folder)) for split, index in indexes.items()}
    outside = [split for split, place in places.items() if place.startswith("..")]
    if outside:
        raise ConfigError(f"the images of {outside[0]} lie outside of {config.folder}; type root=FOLDER that holds all")
    # All that can be wrong with annotations, files and disk is found before the first of what may be hours of images.
    plan = survey(config.folder, output, indexes.values(), side=side)
    _adjust(config, None, places, plan.files)
    prepare(config.folder, output, side=side, quality=quality)
    problems = []
    try:
        for split, index in indexes.items():
            with display.bar(f"{config.name} {split}", len(index)) as bar:
                target = output / places[split]
                problems += shrink(index, target, side=side, quality=quality, workers=workers, on_done=bar.advance)
        for place in plan.files:
            copy_regular(os.path.join(config.folder, place), output / place)
        settings = _adjust(config, output, places, plan.files)
    except OSError as error:
        raise RunError(
            f"output={output}: {error.strerror or error}; the files that are there are whole, and the same command "
            "goes on after them"
        ) from None
    left_out = [*(problem.reason for problem in problems), *plan.left_out]
    for reason in left_out:
        display.say(f"left out: {reason}")
    total = sum(len(index) for index in indexes.values()) - len(problems)
    display.say(f"{total:,} images and {len(plan.files):,} other files in {output}")
    drop = " dataset.missing=drop" if problems else ""
    new = [word.partition("=")[0].removeprefix("dataset.") for word in f"{settings}{drop}".split()]
    typed = _typed(arguments, *new, "root", "cache")
    display.say(f"next: mldec train dataset={config.name} dataset.root={output}{settings}{typed}{drop}")
    if left_out:
        raise RunError(
            f"output={output}: all is there but {len(left_out):,} left out: {name_some(left_out, len(left_out))}"
        )
    return 0


def _adjust(config: Any, output: Path | None, places: dict[str, str], copied: Sequence[str]) -> str:
    """Write annotations with their boxes adjusted. Returns settings that the new dataset needs beside its root.

    Args:
        output: the new dataset's folder; None: only find out whether all can be adjusted, and write nothing.
        places: the folder of each split's images, relative to the dataset's.
        copied: other files of the dataset, relative to its folder.
    """
    from mldec.data.coco import CocoConfig, CocoJsonConfig
    from mldec.data.dataset import FilesConfig
    from mldec.data.shrink import copy_regular, shrink_coco_json, shrink_voc_xml
    from mldec.data.voc import VocConfig

    folder = Path(config.folder)

    def new(*parts: str) -> Path | None:
        return None if output is None else output.joinpath(*parts)

    if isinstance(config, CocoConfig):
        for place in places.values():
            name = f"annotations/instances_{place}.json"
            shrink_coco_json(folder / name, new(place), new(name))
    if isinstance(config, VocConfig):
        for path in (Path(name) for name in copied if Path(name).parent.name == "Annotations"):
            if path.suffix == ".xml":
                image = str(path.parent.parent / "JPEGImages" / f"{path.stem}.jpg")
                shrink_voc_xml(folder / path, new(image), new(str(path)))
    settings = ""
    if isinstance(config, FilesConfig):
        taken = set(copied)
        for split, place in places.items():
            file, home = Path(config.file(split)).resolve(), folder.resolve()
            name = str(file.relative_to(home)) if file.is_relative_to(home) else file.name
            if not file.is_relative_to(home) and name in taken:  # of another file
                name = f"{split}-{name}"
            taken.add(name)
            if isinstance(config, CocoJsonConfig):
                shrink_coco_json(file, new(place), new(name))
                settings += f" dataset.{split}_images={new(place)}"
            elif output is not None:
                copy_regular(file, output / name)
            settings += f" dataset.{split}={new(name)}"
    return settings


# Words --------------------------------------------------------------------------------------------------------------


def _dataset(arguments: compose.Arguments, choice: str | None = None, **settings: str) -> Any:
    """The settings of the dataset that a command line names; other groups are no matter of these commands."""
    strange = [
        word for word in arguments.overrides if word.partition("=")[0].split(".")[0] not in ("dataset", "experiment")
    ]
    if strange:
        raise ConfigError(
            f"{strange[0]}: not a word of this command; it takes dataset=…, dataset.…=…, experiment=… and its own"
        )
    chosen = [] if choice is None else [f"dataset={choice}"]
    mapping = compose.compose([*chosen, *arguments.overrides], arguments.config_dir)
    if "root" in arguments.own:
        settings["root"] = arguments.own["root"]
    return build_config(mapping | {"dataset": mapping["dataset"] | settings}).dataset


def _typed(arguments: compose.Arguments, *without: str) -> str:
    """The settings of the dataset that were typed, but for some: what comes next needs them, too."""
    names = {f"dataset.{name}" for name in without}
    words = [w for w in arguments.overrides if w.startswith("dataset.") and w.partition("=")[0] not in names]
    return "".join(f" {shlex.quote(word)}" for word in words)


def _index(config: Any, split: str) -> Any:
    from mldec.data.dataset import warn_of_differences
    from mldec.registry import DATASETS

    index = DATASETS[config.name].build(config, split=split)
    warn_of_differences(config, split, index)
    return index


def _splits(arguments: compose.Arguments, config: Any, default: str) -> tuple[str, ...]:
    split = arguments.own.get("split", default)
    if split == "all":
        return tuple(config.splits)
    if split not in config.splits:
        raise ConfigError(f"split={split}: {config.name} has {', '.join(config.splits)}; all means each of them")
    return (split,)


def _workers(arguments: compose.Arguments) -> int:
    return _whole(arguments, "workers", os.cpu_count() or 1, most=options.MOST_WORKERS)


def _whole(arguments: compose.Arguments, name: str, default: int, *, least: int = 1, most: int = 10**9) -> int:
    return options.whole(arguments.own.get(name, str(default)), name, least=least, most=most)


def _files(config: Any) -> list[str]:
    """The files of a dataset that its settings name."""
    named = (getattr(config, name, None) for name in ("train", "val", "test", "labels", "exclude"))
    return [name for name in named if isinstance(name, str)]


def _share(own: dict[str, str], name: str, default: float) -> float:
    # Naming one share names all: the others are 0 unless they are said, too.
    return options.share(own, name, 0.0 if {"train", "val", "test"} & set(own) else default)
