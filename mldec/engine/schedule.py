"""Learning rate and momentum as pure functions of the optimizer step, so that a resumed run follows the same curve.

Steps count optimizer updates, from 0 to total_steps - 1; `schedule(step)` is what update number `step` uses.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from mldec.config import ComponentConfig, Count, Fraction, Natural, NonNegative, Positive, Share
from mldec.registry import SCHEDULES


class SchedulePoint(NamedTuple):
    """What one update uses; `momentum` is None where the schedule leaves the optimizer's own alone."""

    lr: float
    momentum: float | None = None


Schedule = Callable[[int], SchedulePoint]


@dataclass(frozen=True)
class OneCycle:
    """The 1-cycle policy with cosine legs (paper appendix C), equal to torch.optim.lr_scheduler.OneCycleLR.

    The rate rises from max_lr / div_factor to max_lr over the share `pct_start` of the steps, then falls to
    max_lr / div_factor / final_div_factor; `momentum` (low, high), if given, runs the other way: high, low, high.
    """

    total_steps: int
    max_lr: float
    pct_start: float = 0.2
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    momentum: tuple[float, float] | None = None

    def __call__(self, step: int) -> SchedulePoint:
        """Raises ValueError for a step outside 0..total_steps - 1."""
        _check_step(step, self.total_steps)
        first_lr = self.max_lr / self.div_factor
        last_lr = first_lr / self.final_div_factor
        low, high = self.momentum or (0.0, 0.0)
        peak, end = self.pct_start * self.total_steps - 1, self.total_steps - 1
        if step <= peak:
            share = _share(step, 0, peak)
            lr, momentum = _cosine(first_lr, self.max_lr, share), _cosine(high, low, share)
        else:
            share = _share(step, peak, end)
            lr, momentum = _cosine(self.max_lr, last_lr, share), _cosine(low, high, share)
        return SchedulePoint(lr, momentum if self.momentum else None)


@dataclass(frozen=True)
class CosineWithWarmup:
    """A straight rise from `warmup_lr` to `max_lr` over `warmup_steps`, then half a cosine to `min_lr` at the end."""

    total_steps: int
    max_lr: float
    warmup_steps: int = 0
    warmup_lr: float = 0.0
    min_lr: float = 0.0

    def __call__(self, step: int) -> SchedulePoint:
        """Raises ValueError for a step outside 0..total_steps - 1."""
        _check_step(step, self.total_steps)
        if step < self.warmup_steps:
            return SchedulePoint(_rise(self.warmup_lr, self.max_lr, step, self.warmup_steps))
        return SchedulePoint(_cosine(self.max_lr, self.min_lr, _share(step, self.warmup_steps, self.total_steps - 1)))


@dataclass(frozen=True)
class TimmCosine:
    """The cosine schedule of timm's training script, equal to its CosineLRScheduler in epochs (RSB recipes A1 to A3).

    All steps of an epoch have one rate. Half a cosine falls from `max_lr` at epoch 0 to `min_lr` at `cosine_epochs`;
    the first `warmup_epochs` of it are replaced by a straight rise from `warmup_lr`, so that `max_lr` itself is not
    reached. Epochs from `cosine_epochs` on, the cool-down, have `min_lr`.
    """

    total_steps: int
    steps_per_epoch: int
    max_lr: float
    cosine_epochs: int
    warmup_epochs: int = 0
    warmup_lr: float = 0.0
    min_lr: float = 0.0

    def __call__(self, step: int) -> SchedulePoint:
        """Raises ValueError for a step outside 0..total_steps - 1."""
        _check_step(step, self.total_steps)
        epoch = step // self.steps_per_epoch
        if epoch < self.warmup_epochs:
            return SchedulePoint(_rise(self.warmup_lr, self.max_lr, epoch, self.warmup_epochs))
        return SchedulePoint(_cosine(self.max_lr, self.min_lr, min(epoch / self.cosine_epochs, 1.0)))


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig(ComponentConfig):
    """How long, in what portions and how fast a run learns."""

    epochs: Count = 40  # passes over the training images
    batch_size: Count = 56  # images an optimizer step, over all devices and micro-batches
    accumulate: Count = 1  # micro-batches a step
    max_lr: Positive = 1e-4  # the highest learning rate
    cycle_momentum: bool = False  # move momentum (beta1 of Adam) against the learning rate

    def __post_init__(self) -> None:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate={self.accumulate}: does not divide schedule.batch_size={self.batch_size}; "
                "batch_size is the total of a step, use one of its divisors"
            )


@dataclass(frozen=True, kw_only=True)
class OneCycleConfig(ScheduleConfig):
    """The rate rises along a cosine to `max_lr`, then falls along another."""

    pct_start: Fraction = 0.2  # share of the steps in which the rate rises
    div_factor: Positive = 25.0  # max_lr / first rate
    final_div_factor: Positive = 1e4  # first rate / last rate
    momentum: tuple[Share, Share] = (0.85, 0.95)  # at the peak, at both ends; used with cycle_momentum=true

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.momentum[0] > self.momentum[1]:
            raise ValueError(
                f"momentum={list(self.momentum)}: the first value, of the peak, must not exceed the second; "
                f"use [{self.momentum[1]}, {self.momentum[0]}]"
            )


@dataclass(frozen=True, kw_only=True)
class CosineConfig(ScheduleConfig):
    """The rate rises along a line to `max_lr`, then falls along a cosine."""

    warmup_epochs: NonNegative = 5.0  # in which the rate rises
    warmup_lr: NonNegative = 1e-6  # rate of the first step
    min_lr: NonNegative = 0.0  # rate of the last step

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cycle_momentum:
            raise ValueError(
                "cycle_momentum=true: cosine has no momentum cycle; use false, or schedule=one_cycle which has one"
            )
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs={self.warmup_epochs:g}: leaves nothing of schedule.epochs={self.epochs}; use fewer"
            )
        _check_rates(self, "warmup_lr", "min_lr")


@dataclass(frozen=True, kw_only=True)
class TimmCosineConfig(ScheduleConfig):
    """timm's cosine: the rate changes once an epoch, and the warm-up takes the place of the cosine's first epochs."""

    warmup_epochs: Natural = 5  # in which the rate rises along a line
    warmup_lr: NonNegative = 1e-5  # rate of the first epoch
    min_lr: NonNegative = 0.0  # rate at the end of the cosine and in the cool-down
    cooldown_epochs: Natural = 0  # the last of `epochs`, which stay at `min_lr`; timm counts them in addition

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cycle_momentum:
            raise ValueError(
                "cycle_momentum=true: timm_cosine has no momentum cycle; use false, or schedule=one_cycle which has one"
            )
        if self.warmup_epochs + self.cooldown_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs={self.warmup_epochs}: with cooldown_epochs={self.cooldown_epochs} leaves nothing of "
                f"schedule.epochs={self.epochs}; use fewer of them, or more epochs"
            )
        _check_rates(self, "warmup_lr", "min_lr")


@SCHEDULES.register("one_cycle", OneCycleConfig)
def build_one_cycle(config: OneCycleConfig, *, total_steps: int, steps_per_epoch: int) -> OneCycle:
    return OneCycle(
        total_steps=total_steps,
        max_lr=config.max_lr,
        pct_start=config.pct_start,
        div_factor=config.div_factor,
        final_div_factor=config.final_div_factor,
        momentum=config.momentum if config.cycle_momentum else None,
    )


@SCHEDULES.register("cosine", CosineConfig)
def build_cosine(config: CosineConfig, *, total_steps: int, steps_per_epoch: int) -> CosineWithWarmup:
    return CosineWithWarmup(
        total_steps=total_steps,
        max_lr=config.max_lr,
        warmup_steps=round(config.warmup_epochs * steps_per_epoch),
        warmup_lr=config.warmup_lr,
        min_lr=config.min_lr,
    )


@SCHEDULES.register("timm_cosine", TimmCosineConfig)
def build_timm_cosine(config: TimmCosineConfig, *, total_steps: int, steps_per_epoch: int) -> TimmCosine:
    return TimmCosine(
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        max_lr=config.max_lr,
        cosine_epochs=config.epochs - config.cooldown_epochs,
        warmup_epochs=config.warmup_epochs,
        warmup_lr=config.warmup_lr,
        min_lr=config.min_lr,
    )


def _check_rates(config: ScheduleConfig, *names: str) -> None:
    """Raise ValueError if a rate of those names is above the highest one."""
    for name in names:
        value = getattr(config, name)
        if value > config.max_lr:
            raise ValueError(f"{name}={value:g}: exceeds schedule.max_lr={config.max_lr:g}; use at most that")


def _rise(first: float, last: float, place: int, end: int) -> float:
    """The value at `place` of a straight line from `first` at 0 to `last` at `end`."""
    return first + (last - first) * place / end


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


def _share(step: float, first: float, last: float) -> float:
    """How much of first..last is over at `step`; 1 where the leg has no length."""
    return (step - first) / (last - first) if last > first else 1.0


def _check_step(step: int, total_steps: int) -> None:
    if not 0 <= step < total_steps:
        raise ValueError(f"step {step} is outside the schedule; allowed are 0..{total_steps - 1}")
