"""What every metric checks first: scores (S,N) and three-state targets (S,N), as numpy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


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
    if np.isnan(scores).any():
        sample, label = np.argwhere(np.isnan(scores))[0]
        raise ValueError(f"scores hold NaN, first at sample {sample}, class {label}: NaN has no rank; find its origin")
    states = targets.astype(np.int8, copy=False)
    if states.size and (
        states.min() < -1 or states.max() > 1 or (states is not targets and not np.array_equal(states, targets))
    ):
        stray = targets[~np.isin(targets, (1, 0, -1))][0]
        raise ValueError(f"targets hold {stray}; allowed are 1 present, 0 absent, -1 unknown")
    return scores, states


def _numpy(values: Any) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values
        return values.numpy()
    return np.asarray(values)
