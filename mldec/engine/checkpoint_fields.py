"""Checks of every entry of a checkpoint or exported folder, which may come from anybody. Other code relies on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import Tensor

from mldec.errors import CheckpointError, shortened

FORMAT = 1
MOST_COUNT = 2**40  # limit of every counter: steps, epochs

Check = Callable[[Any], bool]
Fields = Mapping[str, tuple[str, Check]]  # by name what is expected, for error messages, and the check


def check_fields(content: Mapping[str, Any], source: str) -> None:
    """Raise CheckpointError that names `source` and the first entry with an invalid value."""
    _check(content, FIELDS, source)
    if content["format"] > FORMAT:
        raise CheckpointError(
            f"{source} has format {content['format']}, this mldec reads up to {FORMAT}; upgrade mldec"
        )
    labels, embeddings = content["labels"], content.get("label_embeddings")
    seen = content.get("seen") or [True] * len(labels)
    trained = [label for label, is_seen in zip(labels, seen, strict=False) if is_seen]
    if embeddings is not None and embeddings["names"][: len(trained)] != trained:
        raise CheckpointError(
            f"{source}: label_embeddings: the first of its names must be the trained labels, in their order"
        )
    if "resume" in content:
        _check(content["resume"], RESUME, source, "resume.", required=RESUME)
        progress = content["resume"]["progress"]
        _check(progress, PROGRESS, source, "resume.progress.", required=PROGRESS)
        if unknown := progress.keys() - PROGRESS.keys():
            names = ", ".join(map(shortened, sorted(unknown)))
            raise CheckpointError(f"{source}: resume.progress: no such entries: {names}; upgrade mldec")


def _check(
    content: Mapping[str, Any], fields: Fields, source: str, prefix: str = "", required: Collection[str] = ()
) -> None:
    for name, (expected, is_valid) in fields.items():
        if (name in content or name in required) and not is_valid(content.get(name)):
            raise CheckpointError(
                f"{source}: {prefix}{name}={shortened(content.get(name))}: expected {expected}; the file is damaged, "
                "use another one"
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def _is_plain(value: Any) -> bool:
    """Whether a value consists of dicts with string keys, lists, and JSON scalars."""
    if isinstance(value, Mapping):
        return _is_mapping(value) and all(map(_is_plain, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (str, bool, int, float))


def _is_mapping_of(check: Check) -> Check:
    return lambda value: _is_mapping(value) and all(map(check, value.values()))


def _is_list_of(kind: type) -> Check:
    return lambda value: isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _none_or(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _is_normalization(value: Any) -> bool:
    if not isinstance(value, Mapping) or set(value) != {"mean", "std"}:
        return False
    lists = (isinstance(part, (list, tuple)) and len(part) == 3 for part in value.values())
    return all(lists) and all(map(_is_number, (*value["mean"], *value["std"]))) and min(value["std"]) > 0


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST_COUNT


def _are_embeddings(value: Any) -> bool:
    kinds = {"names": list, "vectors": Tensor, "source": str}
    return isinstance(value, Mapping) and all(isinstance(value.get(key), kind) for key, kind in kinds.items())


def _are_thresholds(value: Any) -> bool:
    return _is_mapping(value) and bool(value) and all(_is_number(item) and 0 <= item <= 1 for item in value.values())


COUNT: tuple[str, Check] = (f"an integer from 0 to {MOST_COUNT - 1:,}", _is_count)
FIELDS: Fields = {
    "format": COUNT,
    "config": ("a mapping of plain values", _is_mapping_of(_is_plain)),
    "labels": ("a list of names", _is_list_of(str)),
    "seen": ("true or false for each label, or null", _none_or(_is_list_of(bool))),
    "label_embeddings": ("names, vectors and their source, or null", _none_or(_are_embeddings)),
    "normalization": ("mean and std, three finite numbers each, std above 0", _is_normalization),
    "model": ("tensors by name", _none_or(_is_mapping_of(lambda item: isinstance(item, Tensor)))),
    "ema": ("tensors by name, or null", _none_or(_is_mapping_of(lambda item: isinstance(item, Tensor)))),
    "reported": ("raw or ema", lambda value: value in ("raw", "ema")),
    "metrics": ("plain values by name, for each kind of weights", _is_mapping_of(_is_mapping_of(_is_plain))),
    "thresholds": ("a number from 0 to 1 for each label, or null", _none_or(_are_thresholds)),
    "step": COUNT,
    "resume": ("what resuming needs, by name", _is_mapping),
}
RESUME: Fields = {
    "optimizer": ("a mapping", lambda value: isinstance(value, Mapping)),
    "scaler": ("a mapping", lambda value: isinstance(value, Mapping)),
    "ema_updates": COUNT,
    "progress": ("values by name", _is_mapping),
    "loss": ("a mapping, or none", _none_or(_is_mapping)),
}
PROGRESS: Fields = {
    **dict.fromkeys(("step", "updates", "epochs", "best_epoch", "broken"), COUNT),
    "best": ("a floating-point number", lambda value: isinstance(value, float)),
    **dict.fromkeys(("window", "epoch_losses"), ("a list of floating-point numbers", _is_list_of(float))),
}
