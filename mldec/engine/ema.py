"""An exponential moving average of a model's weights (paper §2.1), for evaluation."""

from __future__ import annotations

import copy
import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from mldec.config import ComponentConfig, Share
from mldec.registry import EMAS


class Ema:
    """A copy of `model`, `.module`, whose weights follow the raw ones: ema <- decay * ema + (1 - decay) * raw.

    Floating parameters and buffers are averaged, BatchNorm statistics with the same decay as the weights, as published.
    Integer buffers and single frozen parameters are copied, so they cannot drift. What a backbone has frozen
    (`backbone.freeze`) is shared with the raw model and takes no memory.

    Args:
        model: the raw model, unwrapped; it is copied at once, on its device.
        decay: in [0, 1).
        warmup: with t updates made so far the decay is min(decay, (1 + t) / (10 + t)), so that a
            young average forgets its start.

    Raises:
        ValueError: decay out of range.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9997, warmup: bool = False) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay}: must be at least 0 and below 1")
        self.decay = decay
        self.warmup = warmup
        self.updates = 0
        shared = {id(tensor): tensor for tensor in _frozen_tensors(model)}
        self.module = copy.deepcopy(model, cast(dict[int, Any], shared)).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """One step towards `model`, which must have the structure of the copy; called after each optimizer step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay
        averaged: dict[tuple[torch.dtype, torch.device], tuple[list[Tensor], list[Tensor]]]
        averaged = defaultdict(lambda: ([], []))
        pairs = zip(_parameters_and_buffers(self.module), _parameters_and_buffers(model), strict=True)
        for average, raw in pairs:
            if average is raw:  # of a frozen part, which both share
                continue
            frozen = isinstance(raw, nn.Parameter) and not raw.requires_grad
            if frozen or not average.is_floating_point():
                average.copy_(raw)
            else:
                averages, raws = averaged[average.dtype, average.device]
                averages.append(average)
                raws.append(raw)
        for averages, raws in averaged.values():
            # lerp moves by the difference, so that what does not change stays bit for bit what it is.
            torch._foreach_lerp_(averages, raws, 1 - decay)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        """`module`, the weights (not copied), and `updates`, the number of updates so far."""
        return {"module": self.module.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict()`. Raises RuntimeError if its weights belong to another model."""
        self.module.load_state_dict(state["module"])
        self.updates = int(state["updates"])


def find_lag(ema: Ema | None, steps: int) -> str | None:
    """A sentence, if an average reaches back further than a run of that many steps: it stays near its start."""
    if ema is None or ema.warmup or ema.decay**steps < 0.5:
        return None
    return (
        f"ema.decay={ema.decay:g}: after the {steps:,} steps of this run {ema.decay**steps:.0%} of the average are "
        "still the weights that it began with; use ema.warmup=true or a smaller decay"
    )


@dataclass(frozen=True, kw_only=True)
class ExponentialConfig(ComponentConfig):
    """Settings of `ema=exponential`."""

    decay: Share = 0.9997  # share of the average that stays at each update
    warmup: bool = False  # a smaller decay in the first updates, min(decay, (1 + t) / (10 + t)) after t of them


@dataclass(frozen=True, kw_only=True)
class NoneConfig(ComponentConfig):
    """No average is kept."""


@EMAS.register("exponential", ExponentialConfig)
def build_exponential(config: ExponentialConfig, model: nn.Module) -> Ema:
    return Ema(model, decay=config.decay, warmup=config.warmup)


@EMAS.register("none", NoneConfig)
def build_none(config: NoneConfig, model: nn.Module) -> None:
    return None


def _frozen_tensors(model: nn.Module) -> list[Tensor]:
    """What training never changes, of all parts of a model that say so."""
    parts = [part for part in model.modules() if hasattr(part, "frozen_tensors")]
    return [tensor for part in parts for tensor in cast(Any, part).frozen_tensors()]


def _parameters_and_buffers(model: nn.Module) -> Iterator[Tensor]:
    return itertools.chain(model.parameters(), model.buffers())
