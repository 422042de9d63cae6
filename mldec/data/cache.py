"""The index on disk: built once from a dataset's annotations, then opened in an instant and shared by all processes.

A cache file is named by dataset, split and a key: a digest of the settings that determine the index, of the dataset's
folder and of the size and times of change of each source. Other sources or settings have another name, so nothing stale
is ever opened. The file is written whole or not at all and has a checksum; a damaged one is built anew. What was
decided and warned of in reading the sources is in it too, and logged each time it is opened.

It lies in `dataset.cache`, or else in the folder that MLDEC_CACHE names, or else in the user's own cache folder: never
in the dataset's, which may come from a stranger. All of them may be deleted at any time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence

import numpy as np

from mldec.data.dataset import DatasetConfig, missing_images, name_some
from mldec.data.exclusions import EXCLUDED, read_exclusions
from mldec.data.index import ImageIndex
from mldec.data.index_file import VERSION, Gaps, changed, open_index, save_index
from mldec.data.reading_messages import MOST_KEPT, recorded, say
from mldec.data.unseen import unseen_file, with_unseen
from mldec.errors import DataError
from mldec.untrusted import check_regular

logger = logging.getLogger(__name__)

#: Settings that do not determine the index. `root` and its content are covered by folder and sources.
NEUTRAL = frozenset({"root", "image_size", "crop", "interpolation", "on_error", "scaled_decoding", "cache"})


def cached(
    config: DatasetConfig,
    split: str,
    sources: Sequence[str],
    read: Callable[[], ImageIndex],
    *,
    root: str | None = None,
) -> ImageIndex:
    """The index of a split, from its cache file or else from `read()`, memory-mapped.

    What is common to all datasets happens here, before the file is written: excluded images are left out
    (`config.exclude`), those that do not exist found (`config.missing`), labels marked as unseen (`config.unseen`),
    images without a label dropped (`config.unannotated`).

    Args:
        sources: files and folders of which each change means another index. Of a folder, its time of change counts,
            that is files added or taken away.
        read: builds the index from the sources; only called if there is no sound cache file.
        root: the index's root, if it may lie elsewhere than in `config.folder`: a cached index with another root is
            not used.

    Raises:
        DataError: from `read`, for missing images, or if no image is left.
    """
    exclusions = exclusion_file(config)
    if exclusions:
        check_regular(exclusions)
        logger.info("leaving out the images that %s lists", exclusions)
    watched = [*sources, *(path for path in (exclusions, unseen_file(config)) if path)]
    name = f"{config.name}-{split}-{_key(config, split, watched)}.index"
    folder = cache_folder(config)
    kept = None if folder is None else _open_sound(os.path.join(folder, name), config.folder, root)
    if kept is not None:
        return kept
    with recorded() as messages:
        read_index = _read(read, sources)
    index, gaps = _without_missing(_without_excluded(read_index, config.folder, exclusions), config)
    with recorded() as more:
        index = with_unseen(index, config, split)
    if config.unannotated == "drop":
        if not index.positives.counts.any():
            raise DataError(f"{index.root}: no image with a label; dataset.unannotated=keep keeps those without")
        index = index.drop_unannotated()
    try:
        if folder is None:
            raise DataError("the user has no cache folder")
        return save_index(index, os.path.join(folder, name), config.folder, gaps, root, [*more, *messages][:MOST_KEPT])
    except (OSError, ValueError, DataError) as error:
        message = "warning: the index of %s is not kept (dataset.cache=FOLDER names another place): %s"
        logger.warning(message, config.name, error)
        return index


def cache_folder(config: DatasetConfig) -> str | None:
    """The folder for the cache files of a dataset, never one that comes with it; None where no home is known."""
    return named_cache_folder(config.cache)


def named_cache_folder(named: str | None) -> str | None:
    """The folder that is named, else that of MLDEC_CACHE, else the user's own; None where no home is known."""
    if named is not None:
        return os.path.expanduser(named)
    return os.environ.get("MLDEC_CACHE") or user_cache_folder()


def user_cache_folder() -> str | None:
    """The user's own cache folder: $XDG_CACHE_HOME/mldec or the platform's; None where no home is known."""
    # A relative one is to be ignored, by the XDG specification.
    if os.path.isabs(named := os.environ.get("XDG_CACHE_HOME", "")):
        return os.path.join(named, "mldec")
    if sys.platform == "win32":
        place = os.path.join(os.environ.get("LOCALAPPDATA") or "~\\AppData\\Local", "mldec", "Cache")
    else:
        place = "~/Library/Caches/mldec" if sys.platform == "darwin" else "~/.cache/mldec"
    place = os.path.expanduser(place)
    return place if os.path.isabs(place) else None


def exclusion_file(config: DatasetConfig) -> str | None:
    """The list of images to leave out, if there is one. Raises DataError if one is named and missing."""
    if config.exclude is not None:
        path = os.path.expanduser(config.exclude)
        if not os.path.isfile(path):
            raise DataError(f"dataset.exclude={config.exclude}: no such file; null leaves nothing out")
        return path
    path = os.path.join(config.folder, EXCLUDED)
    return path if os.path.exists(path) else None


def _read(read: Callable[[], ImageIndex], sources: Sequence[str]) -> ImageIndex:
    try:
        return read()
    except (RecursionError, UnicodeError, MemoryError) as error:
        # Readers raise errors that name the file; this is for what they do not foresee, such as those of plugins.
        reason = {RecursionError: "it is nested too deeply", MemoryError: "there is not memory enough"}.get(type(error))
        raise DataError(f"{sources[0] if sources else 'dataset'}: cannot be read: {reason or error}") from None


def _key(config: DatasetConfig, split: str, sources: Sequence[str]) -> str:
    settings = {key: value for key, value in dataclasses.asdict(config).items() if key not in NEUTRAL}
    for key in config.paths:  # a run has them absolute
        if isinstance(settings.get(key), str):
            settings[key] = os.path.abspath(os.path.expanduser(settings[key]))
    home = os.path.abspath(config.folder)
    places = []
    for source in sources:
        status = os.stat(source)
        # The time of a status change, which programs cannot set, differs where archives restore times of change.
        times = status.st_mtime_ns, status.st_ctime_ns
        places.append((os.path.relpath(os.path.abspath(source), home), status.st_size, *times))
    content = json.dumps([VERSION, split, settings, home, places], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _open_sound(path: str, base: str, root: str | None) -> ImageIndex | None:
    """The index in a cache file; None if there is no such file, it is out of date, or it is damaged, with a warning."""
    try:
        index, gaps, messages = open_index(path, base, root)
    except OSError:
        return None
    except (ValueError, DataError) as error:
        logger.warning("warning: %s: %s; building it anew", path, error)
        return None
    if gaps is not None:
        if gaps.filled(index.root):
            logger.info("looking once more for the %s images that %s lacked", f"{gaps.missing:,}", index.root)
            return None
        _warn_of_gaps(gaps, index.root)
    say(logger, messages)
    return index


def _without_missing(index: ImageIndex, config: DatasetConfig) -> tuple[ImageIndex, Gaps | None]:
    if config.missing in ("keep", "ignore"):
        return index, None
    missing = missing_images(index)
    if not missing:
        return index, None
    found = (
        f"{index.root}: {len(missing):,} of the {len(index):,} images that the annotations list are missing "
        f"({name_some(map(index.name, missing), len(missing))})"
    )
    if len(missing) == len(index):
        raise DataError(f"{found}; use dataset.root=FOLDER, the one that their paths are relative to")
    if config.missing == "error":
        raise DataError(f"{found}; unpack the archive of images again, or leave them out: dataset.missing=drop")
    places = sorted({os.path.dirname(index.name(row)) for row in missing})
    gaps = Gaps(len(missing), len(index), {place: changed(os.path.join(index.root, place)) for place in places})
    _warn_of_gaps(gaps, index.root)
    keep = np.ones(len(index), bool)
    keep[missing] = False
    return index.subset(np.flatnonzero(keep)), gaps


def _warn_of_gaps(gaps: Gaps, root: str) -> None:
    message = "warning: %s: %s of the %s images that the annotations list are missing; they are left out"
    logger.warning(message, root, f"{gaps.missing:,}", f"{gaps.listed:,}")


def _without_excluded(index: ImageIndex, root: str, exclusions: str | None) -> ImageIndex:
    if exclusions is None:
        return index
    excluded = read_exclusions(exclusions)
    below = os.path.relpath(index.root, os.path.abspath(root))
    kept = [
        row for row, name in enumerate(index.names()) if os.path.normpath(os.path.join(below, name)) not in excluded
    ]
    if not kept:
        raise DataError(f"{exclusions}: leaves no image of {index.root}; delete lines, or use dataset.exclude=FILE")
    return index if len(kept) == len(index) else index.subset(kept)
