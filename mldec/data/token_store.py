"""Tokens of images on disk, as a frozen backbone gives them: written once, memory-mapped, never believed unchecked.

A store is a folder:

    tokens.json   the shape, and everything that the tokens depend on
    00000.shard   the tokens of the first images, then a SHA-256 of them; 00001.shard those of the next, and so on

A shard is written whole or not at all, so that what an interrupted process has left behind is continued. All of a store
may be deleted at any time. Neither a shard nor the folder of a store that is a symbolic link is read or written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from mldec.errors import DataError, RunError
from mldec.files import (
    PARTIAL,
    is_open_file,
    lock_file,
    refuse_linked,
    remove_partial,
    replacing,
    unlock_file,
    without_links,
    write_text,
)
from mldec.untrusted import read_json

logger = logging.getLogger(__name__)

VERSION = 1
DESCRIPTION = "tokens.json"
LOCK = ".lock"  # of the process that fills or deletes the store
POLL = 0.2  # seconds between two looks whether another process has let go of the lock
SHARD_BYTES = 2**26  # about; a shard has whole images, at least one
DIGEST_BYTES = 32  # of the SHA-256 at the end of a shard
MOST_JSON = 2**20


@dataclass(frozen=True)
class TokenShape:
    """The tokens of a number of images.

    Attributes:
        images: S.
        prefix: P, the number of class, distillation and register tokens, which come first.
        tokens: T, the number of spatial tokens.
        channels: C.
        grid: (H, W) with H * W = T; None where no grid is known.
        dtype: of the values on disk.
    """

    images: int
    prefix: int
    tokens: int
    channels: int
    grid: tuple[int, int] | None
    dtype: Literal["float16", "float32"]

    @property
    def image_bytes(self) -> int:
        """Bytes of one image."""
        return (self.prefix + self.tokens) * self.channels * np.dtype(self.dtype).itemsize

    @property
    def bytes(self) -> int:
        """Bytes of all images."""
        return self.images * self.image_bytes

    @property
    def images_per_shard(self) -> int:
        return max(1, SHARD_BYTES // self.image_bytes)

    @property
    def shards(self) -> int:
        return -(-self.images // self.images_per_shard)

    def rows(self, shard: int) -> range:
        """The images of a shard."""
        first = shard * self.images_per_shard
        return range(first, min(first + self.images_per_shard, self.images))


class TokenStore:
    """The tokens of S images in a folder.

    Args:
        root: the folder of all stores.
        shape: of the tokens.
        depends: plain values that the tokens depend on. They, the shape and the format give the folder its name, so
            that other ones are never read by mistake.
    """

    def __init__(self, root: Path, shape: TokenShape, depends: Mapping[str, Any]) -> None:
        self.shape = shape
        self._content = {"version": VERSION, "shape": asdict(shape), "depends": dict(depends)}
        self.key = _key(self._content)
        self.folder = root / self.key
        self._maps: list[np.ndarray] = []

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": []}  # a loader process maps the files itself

    @contextlib.contextmanager
    def lock(self, patience: Callable[[], bool]) -> Iterator[bool]:
        """Make the folder, if need be, and hold its lock within the block, so that one process fills the store.

        Args:
            patience: called every POLL seconds while another process holds the lock; False gives up.

        Gives whether it is held. Raises ConfigError where the folder is a symbolic link, and RunError where it cannot
        be made.
        """
        refuse_linked(self.folder.parent, [self.key])
        with contextlib.ExitStack() as stack:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                held = stack.enter_context(_locked(self.folder, patience))
            except OSError as error:
                raise self._unwritable(self.folder, error) from error
            yield held

    def prepare(self, title: Mapping[str, Any]) -> None:
        """Write the description, and remove what a killed process left unfinished; its caller holds the lock.

        Args:
            title: plain values for people, which the name does not depend on.

        Raises RunError if it cannot be written.
        """
        path, content = self.folder / DESCRIPTION, {**self._content, "title": dict(title)}
        try:
            remove_partial(self.folder)
            write_text(path, json.dumps(content, indent=2) + "\n")
        except OSError as error:
            raise self._unwritable(path, error) from error

    def mark_used(self) -> None:
        """Let `list_stores` know that the tokens are used now."""
        with contextlib.suppress(OSError):
            os.utime(self.folder / DESCRIPTION, follow_symlinks=False)

    def missing(self) -> list[int]:
        """The shards that are not there or damaged, by number, with a warning for these. Reads all others once."""
        return [shard for shard in range(self.shape.shards) if not self._is_sound(shard)]

    def missing_bytes(self) -> int:
        """Bytes of the shards that are not there, which may be damaged where they are."""
        lacking = (shard for shard in range(self.shape.shards) if not self._path(shard).is_file())
        return sum(len(self.shape.rows(shard)) for shard in lacking) * self.shape.image_bytes

    def write(self, shard: int, values: np.ndarray) -> None:
        """Write the tokens of a shard, (its images, P+T, C) in the store's dtype.

        Raises RunError if they are not finite, as float16 is beyond 65,504, or cannot be written.
        """
        rows = self.shape.rows(shard)
        expected = (len(rows), self.shape.prefix + self.shape.tokens, self.shape.channels)
        if values.shape != expected or values.dtype != self.shape.dtype:
            raise ValueError(f"a shard of {self.shape.dtype} {expected}, found {values.dtype} {values.shape}")
        if not np.isfinite(values).all():
            raise RunError(
                f"tokens of images {rows.start} to {rows.stop - 1} are not finite in {self.shape.dtype}; use "
                "cache.dtype=float32 or runtime.precision=fp32, or other weights"
            )
        data = np.ascontiguousarray(values).data
        try:
            with replacing(self._path(shard)) as partial, partial.open("wb") as file:
                file.write(data)
                file.write(self._digest(shard, data))
        except OSError as error:
            raise self._unwritable(self._path(shard), error) from error

    def read(self, rows: Sequence[int] | np.ndarray) -> torch.Tensor:
        """The tokens (B, P+T, C) of images, in the dtype of the store. Every shard must have been written."""
        if not self._maps:
            self._open()
        shape = self.shape
        out = np.empty((len(rows), shape.prefix + shape.tokens, shape.channels), shape.dtype)
        for place, row in enumerate(rows):
            shard, offset = divmod(int(row), shape.images_per_shard)
            out[place] = self._maps[shard][offset]
        return torch.from_numpy(out)

    def _open(self) -> None:
        width = (self.shape.prefix + self.shape.tokens, self.shape.channels)
        try:
            self._maps = [
                np.memmap(self._path(shard), self.shape.dtype, "r", shape=(len(self.shape.rows(shard)), *width))
                for shard in range(self.shape.shards)
            ]
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self.folder}: tokens were deleted while a run used them; resume the run, which computes them again"
            ) from error

    def _unwritable(self, path: Path, error: OSError) -> RunError:
        return RunError(
            f"{path}: tokens cannot be written: {error.strerror}; free some space (mldec cache clear), name another "
            "folder (dataset.cache=FOLDER), or use cache.tokens=false"
        )

    def _path(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}.shard"

    def _digest(self, shard: int, data: Any) -> bytes:
        """Of the values and their place, so that a shard of another store or number is found out."""
        digest = hashlib.sha256(f"{self.key} {shard}".encode())
        digest.update(data)
        return digest.digest()

    def _is_sound(self, shard: int) -> bool:
        path = self._path(shard)
        size = len(self.shape.rows(shard)) * self.shape.image_bytes
        try:
            if not os.path.lexists(path):
                return False
            if not path.is_symlink() and path.is_file() and path.stat().st_size == size + DIGEST_BYTES:
                data = np.memmap(path, np.uint8, "r")
                if self._digest(shard, data[:size].data) == data[size:].tobytes():
                    return True
        except OSError as error:
            logger.warning("warning: %s cannot be read: %s", path, error.strerror)
        logger.warning("warning: %s is damaged; its tokens are computed anew", path)
        return False


@contextlib.contextmanager
def _locked(folder: Path, patience: Callable[[], bool]) -> Iterator[bool]:
    """Hold the lock of a store within the block, or give False; see `TokenStore.lock`."""
    path = folder / LOCK
    while True:
        with open(path, "w", opener=without_links) as file:
            while not (held := lock_file(file, folder)) and patience():
                time.sleep(POLL)
            # Whoever deleted the store meanwhile deleted this file, too: then it locks nothing any more.
            if held and not is_open_file(file.fileno(), path):
                folder.mkdir(parents=True, exist_ok=True)
                continue
            try:
                yield held
            finally:
                unlock_file(file)  # closing does not, where a loader process that was forked has it open
            return


# All stores of a user -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StoredTokens:
    """What is known of a store from its folder alone.

    Attributes:
        folder: where it lies; its name is the key.
        title: values for people, as `TokenStore.prepare` got them.
        bytes: that its shards take.
        shards, written: how many it will have, and how many there are.
        used: when it was last written or used by a run, in seconds since 1970.
    """

    folder: Path
    title: dict[str, Any]
    bytes: int
    shards: int
    written: int
    used: float

    @property
    def key(self) -> str:
        return self.folder.name


def list_stores(root: Path) -> list[StoredTokens]:
    """The stores in a folder, the latest first; folders that are none are left out."""
    found = [store for folder in _folders(root) if (store := _describe(folder)) is not None]
    return sorted(found, key=lambda store: (-store.used, store.key))


def delete_store(store: StoredTokens) -> int:
    """Delete the files that mldec wrote into the folder of a store, and the folder if nothing else lies in it.

    Symbolic links stay, as do other files. Returns the bytes that are free now. Raises RunError, and deletes nothing,
    where another process fills the store.
    """
    freed = 0
    with _locked(store.folder, lambda: False) as held:
        if not held:
            raise RunError(f"{store.folder}: another process computes these tokens now; wait for its end, or stop it")
        partial = (path for path in store.folder.glob(f".*{PARTIAL}*") if _is_own(path))
        for path in [*_shards_in(store.folder), *partial, store.folder / DESCRIPTION, store.folder / LOCK]:
            freed += path.lstat().st_size
            path.unlink()
    if not any(store.folder.iterdir()):
        store.folder.rmdir()
    return freed


def _folders(root: Path) -> list[Path]:
    return [folder for folder in sorted(root.iterdir()) if folder.is_dir()] if root.is_dir() else []


def _is_own(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _shards_in(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.shard")) if re.fullmatch(r"\d{5,}", path.stem) and _is_own(path)]


def _describe(folder: Path) -> StoredTokens | None:
    path = folder / DESCRIPTION
    if folder.is_symlink() or not _is_own(path):
        return None
    try:
        content = read_json(path, most=MOST_JSON)
        title, shape = dict(content.pop("title")), TokenShape(**content["shape"])
        shards = shape.shards
        if _key(content) != folder.name:  # nobody else's file of that name
            return None
    except (AttributeError, DataError, KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    files = [shard.stat() for shard in _shards_in(folder)]
    used = max(file.st_mtime for file in (*files, path.stat()))
    return StoredTokens(folder, title, sum(file.st_size for file in files), shards, len(files), used)


def _key(content: Mapping[str, Any]) -> str:
    """The name of a store with this description."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
