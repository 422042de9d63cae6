"""A cache on disk of the vectors of texts, keyed by the content of the model or file that they come from."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mldec.files import replacing
from mldec.untrusted import open_lines, open_regular


def remembered(key: str, texts: Sequence[str], compute: Callable[[list[str]], np.ndarray]) -> dict[str, np.ndarray]:
    """The vectors of at least `texts`, by text.

    Args:
        key: differs whenever the vectors do: a digest of the model or file that they come from.
        texts: without repetitions.
        compute: gives (n, width) for texts that are not in the cache. Its errors are passed on; nothing is stored then.
    """
    path = Path(cache_folder(), f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz")
    known = _read(path)
    if new := [text for text in texts if text not in known]:
        known |= dict(zip(new, compute(new), strict=True))
        _write(path, known)
    return known


def file_digest(path: Path, *, text: bool = False) -> str:
    """sha256 (hex) of a file's content. Raises DataError unless it is a regular file, and for zero bytes in `text`."""
    with open_lines(path) if text else open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> str:
    """The folder of the cache: below MLDEC_CACHE or ~/.cache/mldec. It may be deleted at any time."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(os.environ.get("MLDEC_CACHE") or os.path.join(home, "mldec"), "label_embeddings")


def _read(path: Path) -> dict[str, np.ndarray]:
    """Vectors by text; empty if there is no readable file."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return dict(zip(stored["texts"].tolist(), stored["vectors"], strict=True))
    except Exception:  # a damaged cache is rebuilt
        return {}


def _write(path: Path, vectors: dict[str, np.ndarray]) -> None:
    """Store vectors; if the folder is not writable, they are computed again next time."""
    with contextlib.suppress(OSError), replacing(path) as partial:
        np.savez(partial, texts=np.array(list(vectors)), vectors=np.stack(list(vectors.values())))
