"""Empty images and tables that list them, for tests that read tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mldec.data.index import ImageIndex
from mldec.data.table import TableConfig, build_table


def touch(folder: Path, *names: str) -> None:
    """Make empty files; their folders too."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def build(
    folder: Path, name: str, content: str | bytes | None = None, split: str = "train", **settings: Any
) -> ImageIndex:
    """The index of a split of the table `folder`/`name`, which is written first if its `content` is given."""
    if content is not None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return build_table(TableConfig(**{"name": "table", "train": str(folder / name)} | settings), split=split)
