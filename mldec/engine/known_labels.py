"""Labels that are known before an image is scored, for a head that can be told them (C-Tran)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mldec.config import Config
from mldec.engine.config_properties import uses_softmax
from mldec.errors import ConfigError, DataError, shortened
from mldec.labels import LabelSpace
from mldec.models.classifier import Classifier


def label_states(known: Mapping[str, Any], config: Config, model: Classifier, labels: LabelSpace) -> Tensor | None:
    """(1, N) int8 for `Classifier.forward`: 1 present, 0 absent, -1 unknown; None where nothing is known.

    Args:
        known: the state of labels by name, 1 or 0.

    Raises ConfigError for another value or name, for a head that cannot be told labels, and, where each image has one
    label (softmax), for two present ones or none left that could be.
    """
    if not known:
        return None
    if not model.reads_known_labels:
        masks = " with head.label_masks=false" if getattr(config.head, "label_masks", None) is False else ""
        raise ConfigError(
            f"known: the run has head={config.head.name}{masks}, which cannot be told labels; leave known out, or use "
            "a run that was trained with head=c_tran and head.label_masks=true"
        )
    states = torch.full((1, len(labels)), -1, dtype=torch.int8)
    for name, value in known.items():
        if not isinstance(name, str):
            raise ConfigError(
                f"known: found the label {shortened(name)} of {type(name).__name__}; use its name, a text"
            )
        if not _is_state(value):
            raise ConfigError(f"known: {shortened(name)}={shortened(value)}; use 1 for present or 0 for absent")
        try:
            states[0, labels.index(name)] = int(value)
        except DataError as error:
            raise ConfigError(f"known: {error}") from None
    if uses_softmax(config):
        present = [name for name, value in known.items() if value == 1]
        if len(present) > 1:
            raise ConfigError(
                f"known: {shortened(', '.join(present))} are present, but images of this run have one label each; "
                "keep one"
            )
        if len(known) == len(labels) and not present:
            raise ConfigError("known: no label is left, as all are absent, but images of this run have one label each")
    return states


def _is_state(value: Any) -> bool:
    try:
        return bool(value in (0, 1))
    except (TypeError, ValueError, RuntimeError):  # arrays of several numbers
        return False


def with_known(logits: Tensor, states: Tensor, softmax: bool) -> Tensor:
    """Logits (B, N) whose scores are exactly 1 for labels that are present and 0 for those that are absent.

    With a softmax, labels that can still be present share the rest of the mass, as in training, whose loss leaves told
    labels out of the softmax; beside a present label all others are 0. The sigmoids of other labels stay as they are.
    """
    if not softmax:
        logits = logits.masked_fill(states == 1, math.inf)
        return logits.masked_fill(states == 0, -math.inf)
    excluded = states < 1 if bool((states == 1).any()) else states == 0
    return logits.masked_fill(excluded, -math.inf)
