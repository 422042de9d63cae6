"""The checked input of every metric: scores (S,N) and three-state targets (S,N), as numpy arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch

BLOCK_ENTRIES = 2**22  # entries of scores per block, so that intermediate arrays stay small
CHUNK_ENTRIES = 2**22  # scores that a thread copies class by class at a time
MOST_THREADS = 16  # each holds some 50 MB

T = TypeVar("T")


def as_arrays(scores: Any, targets: Any) -> tuple[np.ndarray, np.ndarray]:
    """Scores as floats and targets as int8 in {1, 0, -1}, both (S,N), from numpy arrays or torch tensors.

    Raises:
        ValueError: shapes that are not both (S,N), a NaN score, or a target other than 1 present, 0 absent, -1 unknown.
    """
    scores, targets = _numpy(scores), _numpy(targets)
    if scores.ndim != 2 or scores.shape != targets.shape:
        raise ValueError(
            f"scores {scores.shape} and targets {targets.shape} must have one shape (S,N), samples by classes"
        )
    if scores.dtype.kind != "f":
        scores = scores.astype(np.float64)
    for rows in row_blocks(scores):
        if np.isnan(scores[rows]).any():
            sample, label = np.argwhere(np.isnan(scores[rows]))[0]
            raise ValueError(
                f"scores hold NaN, first at sample {rows.start + sample}, class {label}: NaN has no rank; "
                "find its origin"
            )
    states = targets.astype(np.int8, copy=False)
    if states.size and (
        states.min() < -1 or states.max() > 1 or (states is not targets and not np.array_equal(states, targets))
    ):
        stray = targets[~np.isin(targets, (1, 0, -1))][0]
        raise ValueError(f"targets hold {stray}; allowed are 1 present, 0 absent, -1 unknown")
    return scores, states


def row_blocks(values: np.ndarray) -> Iterator[slice]:
    """Slices that cover the rows of (S,N) `values` in order, of about BLOCK_ENTRIES entries each."""
    size = max(1, BLOCK_ENTRIES // max(1, values.shape[1]))
    for first in range(0, len(values), size):
        yield slice(first, min(first + size, len(values)))


def map_classes(scores: np.ndarray, targets: np.ndarray, function: Callable[[np.ndarray, np.ndarray], T]) -> list[T]:
    """`function` of the scores (S,) and targets (S,) of each class, in several threads."""
    # numpy sorts float32 far faster than float16, and the widening is exact.
    dtype = np.float32 if scores.dtype == np.float16 else scores.dtype
    chunk = max(1, CHUNK_ENTRIES // max(len(scores), 1))

    def some(first: int) -> list[T]:
        columns = slice(first, first + chunk)
        scores_CS = np.ascontiguousarray(scores[:, columns].T, dtype=dtype)
        targets_CS = np.ascontiguousarray(targets[:, columns].T)
        return [function(*row) for row in zip(scores_CS, targets_CS, strict=True)]

    # numpy sorts and copies without Python's lock
    with ThreadPoolExecutor(min(MOST_THREADS, torch.get_num_threads())) as pool:
        return [value for part in pool.map(some, range(0, scores.shape[1], chunk)) for value in part]


def _numpy(values: Any) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values
        return values.numpy()
    return np.asarray(values)
