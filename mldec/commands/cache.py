"""Tokens of frozen backbones on disk: compute, list and delete what cache.tokens=true trains a head on."""

from __future__ import annotations

import dataclasses
import datetime
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mldec.commands import compose
from mldec.commands.options import EXPERIMENT, OutputDirectory, compose_config, parse, say
from mldec.errors import ConfigError, MldecError, RunError, as_override, counted, shortened, suggest

if TYPE_CHECKING:
    from mldec.data.token_store import StoredTokens

COLUMNS = ("dataset", "split", "view", "backbone", "image size", "images", "on disk", "computed", "last used", "key")
LEFT = ("dataset", "split", "backbone", "computed", "last used", "key")  # aligned left, the others right


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """Compute the tokens that an experiment with cache.tokens=true reads; the same command resumes after a stop.

    It takes what mldec train takes: dataset=… backbone=… backbone.freeze=all, cache.views, cache.dtype and so on.
    """

    SETTINGS = EXPERIMENT

    folder: OutputDirectory | None = None  # short for dataset.cache=DIR


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    """What is in the cache, the last used first: dataset, split, view, backbone, image size, images, size and key."""

    folder: Path | None = None  # the cache folder, as in dataset.cache=DIR; default: MLDEC_CACHE or the user's own


@dataclass(frozen=True, kw_only=True)
class ClearOptions:
    """Delete tokens: all of them, or those of some keys or of a dataset. Tokens that a process computes now stay."""

    folder: Path | None = None  # the cache folder, as in dataset.cache=DIR; default: MLDEC_CACHE or the user's own
    key: tuple[str, ...] | None = None  # delete these alone; mldec cache list shows the keys
    dataset: str | None = None  # delete those of this dataset alone


SUBCOMMANDS = {"build": BuildOptions, "list": ListOptions, "clear": ClearOptions}


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    works: dict[str, Callable[[Any, compose.Arguments], int]] = {"build": _build, "list": _list, "clear": _clear}
    if argv[0] not in works:
        raise ConfigError(f"{shortened(argv[0])}: no such command of mldec cache; {suggest(argv[0][:80], works)}")
    options: Any
    options, arguments = parse(argv[1:], SUBCOMMANDS[argv[0]], f"cache {argv[0]}")
    return works[argv[0]](options, arguments)


def _build(options: BuildOptions, arguments: compose.Arguments) -> int:
    config, given = compose_config(arguments), arguments.keys()
    if options.folder is not None:
        if "dataset.cache" in given:
            raise ConfigError(
                f"folder={options.folder} and dataset.cache={config.dataset.cache}: leave one of both out"
            )
        config = dataclasses.replace(config, dataset=dataclasses.replace(config.dataset, cache=str(options.folder)))
    from mldec.engine.display import Display
    from mldec.engine.token_building import build_tokens

    display = Display()
    built = build_tokens(config, display)
    if built.exit_code:
        display.say(f"stopped after {counted(built.computed, 'image')}; the same command computes the rest")
        return built.exit_code
    computed = f"computed {counted(built.computed, 'image')} now" if built.computed else "nothing was missing"
    display.say(f"complete; {computed}")
    place = [] if options.folder is None else [as_override("dataset.cache", str(options.folder))]
    overrides = [*arguments.overrides, *place]
    if "cache.tokens" not in given:
        overrides.append("cache.tokens=true")
    display.say(f"next: {shlex.join(['mldec', 'train', *overrides])}")
    return 0


def _list(options: ListOptions, arguments: compose.Arguments) -> int:
    from mldec.data.token_store import list_stores
    from mldec.engine.token_cache import size_text

    folder = _tokens_folder(options.folder)
    stores = list_stores(folder)
    if stores:
        rows = [COLUMNS, *map(_row, stores)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = zip(COLUMNS, row, widths, strict=True)
            padded = (cell.ljust(width) if name in LEFT else cell.rjust(width) for name, cell, width in cells)
            say("  ".join(padded).rstrip())
    say(f"{size_text(sum(store.bytes for store in stores))} in {folder}" if stores else f"no tokens in {folder}")
    return 0


def _clear(options: ClearOptions, arguments: compose.Arguments) -> int:
    from mldec.data.token_store import delete_store, list_stores
    from mldec.engine.token_cache import size_text

    folder = _tokens_folder(options.folder)
    stores = list_stores(folder)
    if options.key is not None:
        known = {store.key for store in stores}
        if unknown := [key for key in options.key if key not in known]:
            raise ConfigError(
                f"key={shortened(unknown[0])}: no such tokens in {folder}; mldec cache list shows the keys"
            )
        stores = [store for store in stores if store.key in options.key]
    if options.dataset is not None:
        names = sorted({str(store.title.get("dataset")) for store in stores})
        stores = [store for store in stores if store.title.get("dataset") == options.dataset]
        if not stores:
            raise ConfigError(
                f"dataset={shortened(options.dataset)}: no tokens of it in {folder}; there are those of "
                f"{', '.join(names) or 'no dataset'}"
            )
    freed, deleted, kept = 0, 0, list[MldecError]()
    for store in stores:
        try:
            freed += delete_store(store)
            deleted += 1
        except RunError as error:
            kept.append(error)
    say(f"deleted {deleted:,} of {len(stores):,}: {size_text(freed)} are free again in {folder}")
    if kept:
        raise kept[0]
    return 0


def _tokens_folder(folder: Path | None) -> Path:
    from mldec.data.cache import named_cache_folder
    from mldec.engine.token_cache import FOLDER

    if folder is not None and not folder.is_dir():
        raise ConfigError(f"folder={shortened(folder)}: no such directory")
    place = named_cache_folder(None if folder is None else str(folder))
    if place is None:
        raise ConfigError("the user has no cache folder; name one: folder=DIR")
    return Path(place) / FOLDER


def _row(store: StoredTokens) -> tuple[str, ...]:
    from mldec.engine.token_cache import size_text

    title = {name: str(value) for name, value in store.title.items()}
    images = store.title.get("images")
    return (
        *(title.get(name, "?") for name in ("dataset", "split", "view", "backbone", "image_size")),
        f"{images:,}" if isinstance(images, int) else "?",
        size_text(store.bytes),
        "all" if store.written == store.shards else f"{store.written:,} of {store.shards:,} shards",
        datetime.datetime.fromtimestamp(store.used).strftime("%Y-%m-%d %H:%M"),
        store.key,
    )
