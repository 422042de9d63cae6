"""`dataset=PATH`: a file or folder of one's own in the place of a dataset's name.

It is recognised and read once. What was found becomes explicit options, which are composed like any others, and four
lines on standard error tell what it is, how it is divided, what was decided, and those options.
"""

from __future__ import annotations

import contextlib
import difflib
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mldec.config import build_component
from mldec.data.dataset import FilesConfig, listing
from mldec.errors import (
    LONGEST_PATH,
    MAX_OPTIONS,
    ConfigError,
    DataError,
    as_override,
    printable,
    setting,
    shortened,
    suggest,
)
from mldec.registry import DATASETS

#: Overrides whose values are paths: one that exists is taken as it is, whatever signs of Hydra's grammar are in it.
PATHS = frozenset(["dataset", *(f"dataset.{key}" for key in FilesConfig.paths)])
_shown: set[tuple[str, ...]] = set()


@dataclass(frozen=True)
class OwnDataset:
    """A dataset that was recognised.

    Attributes:
        path: as given.
        format: what it was read as.
        options: explicit overrides that mean the same, `dataset=NAME` first.
        decisions: what was decided in reading it.
    """

    path: str
    format: str
    options: tuple[str, ...]
    decisions: tuple[str, ...]


def find_own(overrides: Sequence[str], known: Sequence[str]) -> tuple[list[str], OwnDataset | None]:
    """Overrides in which explicit ones stand for `dataset=PATH`, those of the user behind them; and what was found.

    Args:
        known: the names that `dataset=` takes.

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
    own = _recognise(path, [text for text in others if _key(text).startswith("dataset.")])
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
    if own is None or own.options in _shown or os.environ.get("RANK", "0") != "0":
        return
    try:
        dataset = build_component(mapping["dataset"], "dataset")
    except ConfigError:
        return
    counts, labels, kept = [], 0, _Decisions()
    logger = logging.getLogger("mldec.data.table")
    logger.addFilter(kept)
    try:
        for split in dataset.splits:
            index = DATASETS[dataset.name].build(dataset, split=split)
            counts.append(f"{split} {len(index):,}")
            labels = len(index.labels)
    except DataError as error:
        raise error if own.path in str(error) else DataError(f"dataset={own.path}: {error}") from None
    finally:
        logger.removeFilter(kept)
    _shown.add(own.options)
    decided = [*own.decisions, *(text for text in kept.texts if not text.startswith("read as "))]
    lines = [
        f"{own.path}: read as {own.format}",
        f"images: {', '.join(counts)}; labels: {labels:,}",
        f"decided: {'; '.join(decided) or 'nothing'}",
        f"the same: {shlex.join(own.options)}",
    ]
    print(printable("\n".join(lines)), file=sys.stderr, flush=True)


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


def _recognise(path: str, given: Sequence[str]) -> OwnDataset:
    from mldec.commands.compose import compose, load_components
    from mldec.data.folder_tree import find_macos
    from mldec.data.own.locate import locate
    from mldec.data.table import export_settings, read_rows

    load_components(())
    try:
        table = compose(["dataset=table", as_override("dataset.train", path), *given])["dataset"]
        settings = export_settings(build_component(table, "dataset"))
    except ConfigError:  # options of another component
        settings = {}
    found = locate(path, settings)
    base = [f"dataset={found.name}", *(as_override(f"dataset.{key}", value) for key, value in found.settings.items())]
    config = build_component(compose([*base, *given])["dataset"], "dataset")
    keys, form, decisions, has_splits = {_key(text) for text in given}, found.format, list[str](), found.has_splits
    if found.name == "table":
        rows = read_rows(config, "train", quiet=True)
        form, decisions = rows.format, [*rows.decisions, *(find_macos(path) if os.path.isdir(path) else [])]
        base += [as_override(key, value) for key, value in rows.options.items() if key not in keys]
        has_splits = has_splits or rows.splits is not None or not config.is_one_file
        count = len(set(rows.name_ids.tolist())) if rows.names is not None else len(rows)
    else:
        count = 0 if has_splits else len(DATASETS[config.name].build(config, split="train"))
    if not has_splits and not keys & {f"dataset.{key}" for key in ("val", "test", "val_share", "test_share")}:
        shares = _shares(count)
        base += [f"dataset.{split}_share={share}" for split, share in shares.items()]
        if shares:
            base.append("dataset.split_seed=0")
            drawn = " and ".join(f"{share:.0%} for {split}" for split, share in shares.items())
            decisions.append(f"no splits of its own, so {drawn}, drawn with split_seed 0")
    options = [text for text in base if _key(text) not in keys] + list(given)
    return OwnDataset(path, form, tuple(options), tuple(decisions))


def _shares(count: int) -> dict[str, float]:
    """The shares of val and test in so many images; none where a part would be empty."""
    if count >= 30:
        return {"val": 0.1, "test": 0.1}
    return {"val": 0.25} if count >= 4 else {}


class _Decisions(logging.Filter):
    """Keeps what reading reports, and lets warnings pass."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno == logging.INFO:
            text = record.getMessage().partition(": ")[2]
            self.texts += [text] if text not in self.texts else []
        return record.levelno != logging.INFO
