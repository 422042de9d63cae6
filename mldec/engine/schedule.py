"""Learning rate and momentum as pure functions of the optimizer step, so that a resumed run follows the same curve.

Steps count optimizer updates, from 0 to total_steps - 1; `schedule(step)` is what update number `step` uses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from mldec.config import ComponentConfig, Count, Fraction, Natural, NonNegative, Positive, Share
from mldec.registry import SCHEDULES


class SchedulePoint(NamedTuple):
    """What one update uses; `momentum` is None where the schedule leaves the optimizer's own alone."""

    lr: float
    momentum: float | None = None


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig(ComponentConfig):
    """How long, in what portions and how fast a run learns."""

    epochs: Count = 40  # passes over the training images
    batch_size: Count = 56  # images per optimizer step, over all devices and micro-batches
    accumulate: Count = 1  # micro-batches per step
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
        _check_warmup(self)


@dataclass(frozen=True, kw_only=True)
class TimmCosineConfig(ScheduleConfig):
    """timm's cosine: the rate changes once per epoch, and the warm-up takes the place of the cosine's first epochs."""

    warmup_epochs: Natural = 5  # in which the rate rises along a line
    warmup_lr: NonNegative = 1e-5  # rate of the first epoch
    min_lr: NonNegative = 0.0  # rate at the end of the cosine and in the cool-down
    cooldown_epochs: Natural = 0  # the last of `epochs`, which stay at `min_lr`; timm counts them in addition

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_warmup(self, self.cooldown_epochs)


@dataclass(frozen=True, kw_only=True)
class MultiStepConfig(ScheduleConfig):
    """The rate stays the same but for milestones, at each of which it falls by a factor; constant without any."""

    milestones: tuple[Count, ...] = ()  # epochs after which the rate is multiplied by `gamma`, in ascending order
    gamma: Fraction = 0.1  # rate after a milestone over that before it
    warmup_epochs: NonNegative = 0.0  # in which the rate rises along a line, step by step
    warmup_lr: NonNegative = 0.0  # rate of the first step of a warm-up

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_warmup(self)
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(
                f"milestones={list(self.milestones)}: not in ascending order; use {sorted(set(self.milestones))}"
            )
        if self.milestones and self.milestones[0] < self.warmup_epochs:
            raise ValueError(
                f"milestones={list(self.milestones)}: the first is within warmup_epochs={self.warmup_epochs:g}; "
                "use later ones, or a shorter warm-up"
            )


def _check_warmup(config: CosineConfig | TimmCosineConfig | MultiStepConfig, cooldown: int = 0) -> None:
    if config.cycle_momentum:
        raise ValueError(
            f"cycle_momentum=true: {config.name} has no momentum cycle; use false, or schedule=one_cycle which has one"
        )
    if config.warmup_epochs + cooldown >= config.epochs:
        raise ValueError(
            f"warmup_epochs={config.warmup_epochs:g}: {f'with cooldown_epochs={cooldown} ' if cooldown else ''}leaves "
            f"nothing of schedule.epochs={config.epochs}; use fewer, or more epochs"
        )
    for name in ("warmup_lr", "min_lr"):
        value = getattr(config, name, 0.0)
        if value > config.max_lr:
            raise ValueError(f"{name}={value:g}: exceeds schedule.max_lr={config.max_lr:g}; use at most that")


@dataclass(frozen=True)
class Schedule:
    """Learning rate and momentum of every update of a run: `schedule(step)`."""

    config: Any
    total_steps: int
    steps_per_epoch: int

    def __call__(self, step: int) -> SchedulePoint:
        """Raises ValueError for a step outside 0..total_steps - 1."""
        if not 0 <= step < self.total_steps:
            raise ValueError(f"step {step} is outside the schedule; allowed are 0..{self.total_steps - 1}")
        return self.point(step)

    def point(self, step: int) -> SchedulePoint:
        raise NotImplementedError


@SCHEDULES.register("one_cycle", OneCycleConfig)
class OneCycle(Schedule):
    """The 1-cycle policy with cosine legs (paper appendix C), equal to torch.optim.lr_scheduler.OneCycleLR.

    The rate rises from max_lr / div_factor to max_lr over the share `pct_start` of the steps, then falls to
    max_lr / div_factor / final_div_factor. With `cycle_momentum` momentum runs the other way: high, low, high.
    """

    config: OneCycleConfig

    def point(self, step: int) -> SchedulePoint:
        config, end = self.config, self.total_steps - 1
        first_lr = config.max_lr / config.div_factor
        low, high = config.momentum
        peak = config.pct_start * self.total_steps - 1
        if step <= peak:
            share, lrs, momenta = _share(step, 0, peak), (first_lr, config.max_lr), (high, low)
        else:
            last_lr = first_lr / config.final_div_factor
            share, lrs, momenta = _share(step, peak, end), (config.max_lr, last_lr), (low, high)
        return SchedulePoint(_cosine(*lrs, share), _cosine(*momenta, share) if config.cycle_momentum else None)


@SCHEDULES.register("cosine", CosineConfig)
class CosineWithWarmup(Schedule):
    """A straight rise from `warmup_lr` to `max_lr` over `warmup_epochs`, then half a cosine to `min_lr` at the end."""

    config: CosineConfig

    def point(self, step: int) -> SchedulePoint:
        config, warmup_steps = self.config, round(self.config.warmup_epochs * self.steps_per_epoch)
        if step < warmup_steps:
            return SchedulePoint(_rise(config.warmup_lr, config.max_lr, step, warmup_steps))
        share = _share(step, warmup_steps, self.total_steps - 1)
        return SchedulePoint(_cosine(config.max_lr, config.min_lr, share))


@SCHEDULES.register("timm_cosine", TimmCosineConfig)
class TimmCosine(Schedule):
    """The cosine schedule of timm's training script, equal to its CosineLRScheduler in epochs (RSB recipes A1 to A3).

    All steps of an epoch have one rate. Half a cosine falls from `max_lr` at epoch 0 to `min_lr` where the cool-down
    begins; the first `warmup_epochs` of it are replaced by a straight rise from `warmup_lr`, so that `max_lr` itself is
    not reached.
    """

    config: TimmCosineConfig

    def point(self, step: int) -> SchedulePoint:
        config, epoch = self.config, step // self.steps_per_epoch
        if epoch < config.warmup_epochs:
            return SchedulePoint(_rise(config.warmup_lr, config.max_lr, epoch, config.warmup_epochs))
        share = min(epoch / (config.epochs - config.cooldown_epochs), 1.0)
        return SchedulePoint(_cosine(config.max_lr, config.min_lr, share))


@SCHEDULES.register("multi_step", MultiStepConfig)
class MultiStep(Schedule):
    """`max_lr` times `gamma` for each milestone that is over, equal to torch.optim.lr_scheduler.MultiStepLR in epochs.

    In the first `warmup_epochs` the rate rises along a straight line from `warmup_lr`, step by step; milestones are
    counted from the first epoch of the run all the same.
    """

    config: MultiStepConfig

    def point(self, step: int) -> SchedulePoint:
        config, warmup_steps = self.config, round(self.config.warmup_epochs * self.steps_per_epoch)
        if step < warmup_steps:
            return SchedulePoint(_rise(config.warmup_lr, config.max_lr, step, warmup_steps))
        passed = sum(epoch <= step // self.steps_per_epoch for epoch in config.milestones)
        return SchedulePoint(config.max_lr * config.gamma**passed)


def _rise(first: float, last: float, place: int, end: int) -> float:
    """The value at `place` of a straight line from `first` at 0 to `last` at `end`."""
    return first + (last - first) * place / end


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


def _share(step: float, first: float, last: float) -> float:
    """How much of first..last is over at `step`; 1 where the leg has no length."""
    return (step - first) / (last - first) if last > first else 1.0
