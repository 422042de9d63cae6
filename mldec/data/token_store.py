"""Tokens of images on disk, as a frozen backbone gives them: written once, memory-mapped, never believed unchecked.

A store is a folder:

    tokens.json   the shape, and everything that the tokens depend on
    00000.shard   the tokens of the first images, then a SHA-256 of them; 00001.shard those of the next, and so on

A shard is written whole or not at all, so that what an interrupted process has left behind is continued. All of a store
may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from mldec.errors import DataError, RunError
from mldec.files import PARTIAL, remove_partial, replacing, write_text
from mldec.untrusted import read_json

logger = logging.getLogger(__name__)

VERSION = 1
DESCRIPTION = "tokens.json"
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
        self.key = hashlib.sha256(json.dumps(self._content, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = root / self.key
        self._maps: list[np.ndarray] = []

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": []}  # a loader process maps the files itself

    def prepare(self, title: Mapping[str, Any]) -> None:
        """Make the folder and its description. `title`: plain values for people, which the name does not depend on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_partial(self.folder)
        write_text(self.folder / DESCRIPTION, json.dumps({**self._content, "title": dict(title)}, indent=2) + "\n")

    def missing(self) -> list[int]:
        """The shards that are not there or damaged, by number. Reads all others once."""
        if not self.folder.is_dir():
            return list(range(self.shape.shards))
        return [shard for shard in range(self.shape.shards) if not self._is_sound(shard)]

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
            raise RunError(
                f"{self._path(shard)}: tokens cannot be written: {error.strerror}; free some space (mldec cache "
                "clear), name another folder (dataset.cache=FOLDER), or use cache.tokens=false"
            ) from error

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
            raise DataError(f"{self.folder}: tokens were deleted while a run used them; start it again") from error

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
            if path.is_symlink() or path.stat().st_size != size + DIGEST_BYTES:
                return False
            data = np.memmap(path, np.uint8, "r")
        except FileNotFoundError:
            return False
        if self._digest(shard, data[:size].data) == data[size:].tobytes():
            return True
        logger.warning("warning: %s is damaged; its tokens are computed anew", path)
        return False


# All stores of a user -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StoredTokens:
    """What is known of a store from its folder alone.

    Attributes:
        folder: where it lies.
        title: values for people, as `TokenStore.prepare` got them.
        bytes: that its shards take.
        shards, written: how many it will have, and how many there are.
        changed: when the last of its files was written, in seconds since 1970.
    """

    folder: Path
    title: dict[str, Any]
    bytes: int
    shards: int
    written: int
    changed: float


def list_stores(root: Path) -> list[StoredTokens]:
    """The stores in a folder, the latest first; folders that are none are left out."""
    found = [store for folder in _folders(root) if (store := _describe(folder)) is not None]
    return sorted(found, key=lambda store: (-store.changed, store.folder.name))


def delete_stores(stores: Iterable[StoredTokens]) -> int:
    """Delete the files of stores, and nothing else that lies in their folders. Returns the bytes that are free now."""
    freed = 0
    for store in stores:
        for path in [*store.folder.glob("*.shard"), *store.folder.glob(f".*{PARTIAL}*"), store.folder / DESCRIPTION]:
            if path.is_file() or path.is_symlink():
                freed += path.lstat().st_size
                path.unlink()
        if not any(store.folder.iterdir()):
            store.folder.rmdir()
    return freed


def _folders(root: Path) -> list[Path]:
    return [folder for folder in sorted(root.iterdir()) if folder.is_dir()] if root.is_dir() else []


def _describe(folder: Path) -> StoredTokens | None:
    path = folder / DESCRIPTION
    if folder.is_symlink() or not path.is_file() or path.is_symlink():
        return None
    try:
        content = read_json(path, most=MOST_JSON)
        title, shape = dict(content["title"]), TokenShape(**content["shape"])
        shards = shape.shards
    except (DataError, KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    files = [shard.stat() for shard in folder.glob("*.shard")]
    changed = max(file.st_mtime for file in (*files, path.stat()))
    return StoredTokens(folder, title, sum(file.st_size for file in files), shards, len(files), changed)
