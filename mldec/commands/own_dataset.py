"""`dataset=PATH`: a file or folder of one's own in the place of a dataset's name.

It is recognised and read once. What was found becomes explicit options, which are composed like any others, and four
lines on standard error tell what it is, how it is divided, what was decided, and those options.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import itertools
import os
import shlex
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mldec.commands.messages import collected
from mldec.config import build_component
from mldec.data.dataset import FilesConfig, listing, name_some
from mldec.data.index import ImageIndex
from mldec.errors import (
    LONGEST_PATH,
    MAX_OPTIONS,
    ConfigError,
    DataError,
    as_override,
    counted,
    printable,
    setting,
    shortened,
    suggest,
)
from mldec.registry import DATASETS

MOST_TRIED = 10_000  # images of a dataset whose division is tried before it is chosen: of more, each part has some

MOST_NAMES, LONGEST_NAME = 8, 40  # labels that are shown, by which a file that was misread is noticed, and characters

#: Overrides whose values are paths: one that exists is taken as it is, whatever signs of Hydra's grammar are in it.
PATHS = frozenset(["dataset", "init_from", *(f"dataset.{key}" for key in FilesConfig.paths)])
_shown: set[tuple[str, ...]] = set()


@dataclass(frozen=True)
class OwnDataset:
    """A dataset that was recognised.

    Attributes:
        path: as given.
        format: what it was read as.
        options: explicit overrides that mean the same, `dataset=NAME` first.
        decisions: what was decided in reading it.
        only_listed: whether images need not exist: those that it lists are used.
    """

    path: str
    format: str
    options: tuple[str, ...]
    decisions: tuple[str, ...]
    only_listed: bool = False


def find_own(
    overrides: Sequence[str],
    known: Sequence[str],
    trained_on: Mapping[str, Any] | None = None,
    *,
    divides: bool = True,
    lists: bool = False,
) -> tuple[list[str], OwnDataset | None]:
    """Overrides in which explicit ones stand for `dataset=PATH`, those of the user after them; and what was found.

    Args:
        known: the names that `dataset=` takes.
        trained_on: the dataset of a run that is to be measured. Another one gets no splits: nothing is trained on it.
        divides: whether a dataset without splits gets some; otherwise the command works on what it lists.
        lists: the command works on what the dataset lists, also on images that do not exist.

    Raises:
        ConfigError: two paths.
        DataError: nothing is recognised at the path, or what it is cannot be decided; says what to choose from.
    """
    overrides = list(map(literal_path, overrides))
    paths = [(place, path) for place, text in enumerate(overrides) if (path := _path(text, known)) is not None]
    if not paths:
        return list(overrides), None
    if len(paths) > 1:
        raise ConfigError(f"dataset={paths[0][1]} and dataset={paths[1][1]}: one dataset is trained on; leave one out")
    place, path = paths[0]
    others = [text for number, text in enumerate(overrides) if number != place]
    own = _recognise(path, others, trained_on, divides=divides, only_listed=lists or not divides)
    given = {_key(text) for text in others}
    expanded = [text for text in own.options if _key(text) not in given]
    return [*expanded, *others], own


def literal_path(override: str) -> str:
    """An override in which a path that exists is quoted for Hydra, if it is not yet."""
    key, _, value = override.partition("=")
    try:
        exists = key in PATHS and bool(value) and os.path.exists(os.path.expanduser(value))
    except ValueError:
        return override
    return as_override(key, value) if exists else override


def own_path(overrides: Sequence[str], known: Sequence[str]) -> str | None:
    """The path that `dataset=PATH` among overrides gives; None where there is none."""
    return next((path for text in overrides if (path := _path(literal_path(text), known)) is not None), None)


def no_such_dataset(value: str, known: Sequence[str]) -> ConfigError:
    """The error for `dataset=value` that is neither one of the names `known` nor a path that exists."""
    folder, name = os.path.split(os.path.expanduser(value.rstrip("/")))
    names: list[str] = []
    with contextlib.suppress(OSError, ValueError):
        names = sorted(os.listdir(folder or "."))[:MAX_OPTIONS]
    near = [os.path.join(folder, one) for one in difflib.get_close_matches(name, names, n=1, cutoff=0.6)]
    is_path = "/" in value or "." in value or (near and not difflib.get_close_matches(value, known, n=1, cutoff=0.6))
    if not is_path:
        return ConfigError(
            f"dataset={shortened(value)}: no such dataset, and no such file or folder; {suggest(value, known)}"
        )
    found = (
        f"did you mean {setting('dataset', near[0])}?"
        if near
        else f"found in {folder or '.'}: {listing(folder or '.')}"
    )
    return ConfigError(
        f"dataset={shortened(value, LONGEST_PATH)}: no such dataset: this file or folder does not exist; {found} "
        f"(datasets by name: {', '.join(known)})"
    )


def show_summary(own: OwnDataset | None, mapping: dict[str, Any]) -> None:
    """Print the four lines about a dataset that was recognised, once in a process, and in the main one alone.

    Args:
        mapping: the composed experiment. If its dataset is not sound, nothing is shown: the check of all reports it.

    Raises DataError for what its splits cannot be built from.
    """
    from mldec.data.data_checks import warn_of_shared

    if own is None or own.options in _shown or os.environ.get("RANK", "0") != "0":
        return
    try:
        dataset = build_component(mapping["dataset"], "dataset")
    except ConfigError:
        return
    indexes: dict[str, ImageIndex] = {}
    with collected() as texts, _naming(own.path):
        for split in dataset.splits:
            read = dataclasses.replace(dataset, missing="keep") if own.only_listed else dataset
            indexes[split] = DATASETS[dataset.name].build(read, split=split)
    _shown.add(own.options)
    if dataset.name == "table" and not dataset.is_one_file:  # in one, an image in two splits is an error
        warn_of_shared(indexes)
    counts = [f"{split} {len(index):,}" for split, index in indexes.items()]
    labels = next(iter(indexes.values())).labels.names
    names = name_some((shortened(name, LONGEST_NAME) for name in labels), len(labels), MOST_NAMES)
    decided = dict.fromkeys([*own.decisions, *texts])
    lines = [
        f"{own.path}: read as {own.format}",
        f"images: {', '.join(counts)}; labels: {len(labels):,} ({names})",
        f"decided: {'; '.join(decided) or 'nothing, since nothing was open'}",
        f"the same: {shlex.join(explicit_options(dataset, also=list(map(_key, own.options))))}",
    ]
    print(printable("\n".join(lines)), file=sys.stderr, flush=True)


def explicit_options(dataset: Any, also: Collection[str] = ()) -> list[str]:
    """The overrides that mean a dataset: `dataset=NAME`, and each setting that is not its default or in `also`.

    Those in `also` come first, then the files.
    """
    options = {f"dataset.{field.name}": field.default for field in dataclasses.fields(dataset) if field.name != "name"}
    values = {key: getattr(dataset, key.partition(".")[2]) for key in options}
    changed = [key for key, default in options.items() if values[key] != default or key in also]
    files = (f"dataset.{name}" for name in ("train", "val", "test", "root"))
    order = [key for key in (*also, *files) if key in changed]
    return [f"dataset={dataset.name}", *(_option(key, values[key]) for key in dict.fromkeys([*order, *changed]))]


def is_same(dataset: Mapping[str, Any], trained_on: Mapping[str, Any]) -> bool:
    """Whether settings of a dataset name the train images of a run."""
    key = "train" if dataset.get("train") is not None else "root"
    paths = [os.path.realpath(os.path.expanduser(str(one.get(key)))) for one in (dataset, trained_on)]
    return trained_on.get(key) is not None and paths[0] == paths[1]


def _path(override: str, known: Sequence[str]) -> str | None:
    """The path that an override gives as dataset; None for one that names a choice, or nothing that exists."""
    from mldec.commands.compose import value_of

    if _key(override) != "dataset":
        return None
    value = override.partition("=")[2]
    if value in known or value == "null" or value.startswith("{"):
        return None
    with contextlib.suppress(ConfigError):
        value = value_of(override)
    path = os.path.expanduser(value) if isinstance(value, str) else ""
    try:
        return path if path and os.path.exists(path) else None
    except ValueError:
        return None


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _recognise(
    path: str, others: Sequence[str], trained_on: Mapping[str, Any] | None, *, divides: bool, only_listed: bool
) -> OwnDataset:
    from mldec.commands.compose import compose, load_components
    from mldec.data.folder_tree import find_macos
    from mldec.data.own.locate import locate
    from mldec.data.table import read_rows

    load_components(())
    keys, given = set(map(_key, others)), [text for text in others if _key(text).startswith("dataset.")]
    with collected() as texts:
        found = locate(path, _export_settings(path, given))
        base = [
            f"dataset={found.name}",
            *(as_override(f"dataset.{key}", value) for key, value in found.settings.items()),
        ]
        config = build_component(compose([*base, *given])["dataset"], "dataset")
        form, decisions, count = found.format, list[str](), 0
        if found.name == "table":
            rows = read_rows(config, "train", quiet=True)
            form, decisions = rows.format, [*rows.decisions, *(find_macos(path) if os.path.isdir(path) else [])]
            count = len(set(rows.name_ids.tolist())) if rows.names is not None else len(rows)
            options = dict(rows.options)
            if rows.splits is None and config.is_one_file and "dataset.split_folders" not in keys:
                by_folders, text = _divided_by_folders(rows.paths)
                options |= {"dataset.split_folders": True} if by_folders else {}
                decisions += text
            if decided := [as_override(key, value) for key, value in options.items() if key not in keys]:
                base += decided
                config = build_component(compose([*base, *given])["dataset"], "dataset")
        missing = [split for split in ("val", "test") if split not in config.own_splits]
        if not divides or (trained_on is not None and not is_same(found.settings, trained_on)):
            decisions += ["no splits of its own"] if len(missing) == 2 else []
            missing = []
        if "protocol.holdout" in keys or "protocol=paper" in others:  # which say what val is
            missing = [split for split in missing if split != "val"]
        # Without test, but with val, results are those of val.
        lacks = "val" in missing or (missing and config.own_splits == ("train",))
        if lacks and not {"dataset.val_share", "dataset.test_share"} & keys:
            with _naming(path):
                divided = dataclasses.replace(config, missing="keep") if only_listed else config
                shares, sentence = _choose_shares(divided, missing, count)
            base += [f"dataset.{split}_share={share}" for split, share in shares.items()]
            base += ["dataset.split_seed=0"] if shares and "dataset.split_seed" not in keys else []
            decisions.append(sentence)
    return OwnDataset(path, form, tuple(base), tuple(dict.fromkeys([*decisions, *texts])), only_listed)


def _divided_by_folders(paths: Callable[[], Iterable[str]]) -> tuple[bool, list[str]]:
    """Whether the folders train, val, … that all paths begin with divide them, and a sentence if some are so called."""
    from mldec.data.own.split_folders import folders_of_splits, splits_in_paths

    divides = splits_in_paths(paths()) is not None
    names = folders_of_splits(paths() if divides else itertools.islice(paths(), MOST_TRIED))
    shown = name_some(names, len(names), MOST_NAMES)
    if divides:
        return True, [f"split by the folders that paths begin with ({shown})"]
    if len(names) < 2:
        return False, []
    return False, [f"paths begin with {shown}, which does not divide them: write a column split"]


def _export_settings(path: str, given: Sequence[str]) -> dict[str, Any]:
    """The settings with which an export at `path` is read, as far as overrides say them."""
    from mldec.commands.compose import compose
    from mldec.data.table import export_settings

    if not given:
        return {}
    try:
        table = compose(["dataset=table", as_override("dataset.train", path), *given])["dataset"]
        return export_settings(build_component(table, "dataset"))
    except ConfigError:  # options of another component
        return {}


def _choose_shares(config: Any, missing: Sequence[str], count: int) -> tuple[dict[str, float], str]:
    """The shares that make the missing splits of the `count` images of train, where these have some; and a sentence."""
    from mldec.data.own.shares import divide

    index = None
    if count <= MOST_TRIED:
        index = DATASETS[config.name].build(dataclasses.replace(config, unseen=None), split="train")
        count = len(index)
    usual = {"val": 0.1, "test": 0.1} if count >= 30 else {"val": 0.25} if count >= 4 else {}
    shares, empty = {split: share for split, share in usual.items() if split in missing}, list[str]()
    while index is not None and shares:
        rows = divide(index, shares, config.split_seed)
        if not (none := [split for split in shares if not len(rows[split])]):
            break
        empty += none
        shares = {split: share for split, share in shares.items() if split not in none}
    lacking = "no splits" if len(missing) == 2 else f"no {missing[0]}"
    if not shares:
        held = "val is protocol.holdout of train, drawn at random" if "val" in missing else "results are those of val"
        few = f"{counted(count, 'image')} {'is' if count == 1 else 'are'} too few for a share of each label"
        return {}, f"{lacking} of its own, and {few}: {held}"
    drawn = " and ".join(f"{share:.0%} for {split}" for split, share in shares.items())
    left = f"; no image is left for {' and '.join(empty)}" if empty else ""
    return shares, f"{lacking} of its own, so {drawn}, drawn from train with split_seed {config.split_seed}{left}"


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """A DataError from the block names the path that was given."""
    try:
        yield
    except DataError as error:
        raise error if path in str(error) else DataError(f"dataset={path}: {error}") from None


def _option(key: str, value: Any) -> str:
    """The override of a setting."""
    if value is None:
        return f"{key}=null"
    return as_override(key, value) if isinstance(value, (str, bool, tuple)) else f"{key}={value}"
