"""Validation of every entry of a checkpoint, which may come from anybody. Later code relies on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from mldec.errors import CheckpointError, shortened

MOST_COUNT = 2**40  # limit of every counter: steps, epochs


def check_fields(content: Mapping[str, Any], source: str) -> None:
    """Raise CheckpointError that names `source` and the first entry with an invalid value."""
    for name, (expected, holds) in FIELDS.items():
        if name in content and not holds(content[name]):
            raise CheckpointError(f"{source}: {name}={shortened(content[name])}: expected {expected}")
    labels, seen = content["labels"], content.get("seen")
    if len(set(labels)) < len(labels):
        raise CheckpointError(f"{source}: labels: {len(labels) - len(set(labels))} names appear more than once")
    if seen is not None and len(seen) != len(labels):
        raise CheckpointError(f"{source}: seen has {len(seen)} entries for {len(labels)} labels")
    if "resume" in content:
        _check_resume(content["resume"], source)


def is_plain(value: Any) -> bool:
    """Whether a value consists of dicts with string keys, lists, and JSON scalars."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    return value is None or isinstance(value, (str, bool, int, float))


def is_normalization(value: Any) -> bool:
    """Whether `value` has a mean, and a standard deviation above 0, for each of three channels."""
    if not isinstance(value, Mapping) or set(value) != {"mean", "std"}:
        return False
    return all(are_numbers(value[name], 3) for name in ("mean", "std")) and min(value["std"]) > 0


def are_numbers(values: Any, count: int) -> bool:
    """Whether `values` is a list of `count` finite numbers."""
    if not isinstance(values, Sequence) or isinstance(values, (str, bytes)) or len(values) != count:
        return False
    return all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in values)


def is_count(value: Any) -> bool:
    """Whether `value` is a whole number from 0 to below MOST_COUNT."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST_COUNT


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items()
    )


def _is_state_or_none(value: Any) -> bool:
    return value is None or _is_state(value)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(name, str) for name in value)


def _are_flags(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(flag, bool) for flag in value))


def _are_embeddings(value: Any) -> bool:
    kinds = {"names": list, "vectors": Tensor, "source": str}
    return value is None or (
        isinstance(value, Mapping) and all(isinstance(value.get(key), kind) for key, kind in kinds.items())
    )


def _are_thresholds(value: Any) -> bool:
    return value is None or (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(name, str) for name in value)
        and are_numbers(list(value.values()), len(value))
        and all(0 <= threshold <= 1 for threshold in value.values())
    )


#: For each entry the description for error messages, and the check.
FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "config": ("a mapping of plain values", lambda value: isinstance(value, Mapping) and is_plain(value)),
    "labels": ("a list of names", _are_texts),
    "seen": ("true or false for each label, or null", _are_flags),
    "label_embeddings": ("names, vectors and their source, or null", _are_embeddings),
    "normalization": ("mean and std, three finite numbers each, std above 0", is_normalization),
    "model": ("tensors by name", _is_state_or_none),
    "ema": ("tensors by name, or null", _is_state_or_none),
    "reported": ("raw or ema", lambda value: value in ("raw", "ema")),
    "metrics": ("plain values by name", lambda value: isinstance(value, Mapping) and is_plain(value)),
    "thresholds": ("a number from 0 to 1 for each label, or null", _are_thresholds),
    "step": ("a whole number at least 0", is_count),
}


def _are_losses(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(loss, float) for loss in value)


_COUNT = (f"a whole number from 0 to {MOST_COUNT - 1:,}", is_count)
_PROGRESS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("step", "updates", "epochs", "best_epoch", "broken"), _COUNT),
    "best": ("a floating-point number", lambda value: isinstance(value, float)),
    **dict.fromkeys(("window", "epoch_losses"), ("a list of floating-point numbers", _are_losses)),
}


def _check_resume(state: Any, source: str) -> None:
    kinds = {"optimizer": Mapping, "scaler": Mapping, "ema_updates": int, "progress": Mapping}
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{source}: resume={shortened(state)}: expected {', '.join(kinds)}")
    for name, kind in kinds.items():
        value = state.get(name)
        if not isinstance(value, kind) or (kind is int and not is_count(value)):
            raise CheckpointError(f"{source}: resume.{name} is missing or damaged")
    progress = state["progress"]
    for name in progress:
        if name not in _PROGRESS:
            raise CheckpointError(f"{source}: resume.progress.{shortened(name)}: no such entry; upgrade mldec")
    for name, (expected, holds) in _PROGRESS.items():
        if not holds(progress.get(name)):
            raise CheckpointError(
                f"{source}: resume.progress.{name}={shortened(progress.get(name))}: expected {expected}; the file is "
                "damaged, use another checkpoint"
            )
