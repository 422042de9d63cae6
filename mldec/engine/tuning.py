"""`tune=N`: better settings, looked for on val by successive halving (Jamieson and Talwalkar 2016).

All trials are trained for a quarter of the epochs, the better half of them for half of the epochs, and the better half
of those for all; each with its whole schedule in that time. The settings without tuning are one of them and stay to
the end, so the settings that are chosen are at least as good on val. What they reach on test is not used.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mldec.config import Config, with_settings
from mldec.engine import metric_writer
from mldec.engine.training import train_once
from mldec.errors import ConfigError, RunError, counted

#: The changes that are tried, in this order: factors of numbers, or values. The first is no change.
CHANGES: tuple[Mapping[str, tuple[str, float]], ...] = (
    {},
    {"schedule.max_lr": ("times", 2)},
    {"schedule.max_lr": ("times", 0.5)},
    {"head.dropout": ("to", 0.3)},
    {"schedule.epochs": ("times", 2)},
    {"optimizer.weight_decay": ("times", 10)},
    {"schedule.epochs": ("times", 2), "schedule.max_lr": ("times", 0.5)},
    {"schedule.max_lr": ("times", 4)},
)
SHARES = (4, 2, 1)  # of the epochs: a quarter, half, all


class Trial(NamedTuple):
    """Settings that are tried: those that differ from the experiment's, by key; and how good they are on val."""

    changes: dict[str, Any]
    value: float = -math.inf

    def __str__(self) -> str:
        return " ".join(f"{key}={value:g}" for key, value in self.changes.items()) or "as chosen without tuning"


class Interruption(Exception):
    """A trial was stopped; `exit_code` as in TrainResult."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


def tune(
    config: Config, count: int, folder: Path, say: Callable[[str], None], given: Collection[str] = ()
) -> tuple[Config, Trial]:
    """The experiment with the best of `count` settings.

    Args:
        folder: of the trials' run directories, whose weights are not kept. A trial that has been trained there is not
            trained again.
        given: keys that the user has set, which are not varied.
        say: gets a line about each trial.

    Returns:
        The experiment to train, and the trial that it is.

    Raises:
        ConfigError: there are fewer different trials.
        Interruption: a signal stopped a trial. What has been trained is kept.
    """
    trials = list(_trials(config, given))
    if count > len(trials):
        raise ConfigError(f"tune={count}: this experiment has {len(trials)} different settings to try; use fewer")
    left = trials[:count]
    for share in SHARES:
        left = [_run(config, trial, share, folder, say) for trial in left]
        first, others = left[0], sorted(left[1:], key=lambda trial: -trial.value)
        if share > 1:  # the first one stays
            left = [first, *others[: math.ceil(len(left) / 2) - 1]] if len(left) > 2 else left
    best = max(left, key=lambda trial: trial.value)  # the first one, where several are best
    return with_settings(config, best.changes), best


def _trials(config: Config, given: Collection[str]) -> Iterator[Trial]:
    """The trials of an experiment. Settings that its components do not have, or that were given, are not varied."""
    seen: list[dict[str, Any]] = []
    for change in CHANGES:
        if set(change) & set(given):
            continue
        changes: dict[str, Any] = {}
        for key, (kind, amount) in change.items():
            before = _value(config, key)
            if before is None:
                break
            after = before * amount if kind == "times" else amount
            changes[key] = round(after) if isinstance(before, int) else after
        else:
            if changes not in seen and all(_value(config, key) != value for key, value in changes.items()):
                seen.append(changes)
                yield Trial(changes)


def _value(config: Config, key: str) -> Any:
    """The value of a setting; None where its component has no such one."""
    group, _, name = key.partition(".")
    return getattr(getattr(config, group), name, None)


def _run(config: Config, trial: Trial, share: int, folder: Path, say: Callable[[str], None]) -> Trial:
    epochs = math.ceil(trial.changes.get("schedule.epochs", config.schedule.epochs) / share)
    short = with_settings(config, {**trial.changes, "schedule.epochs": epochs})
    changes = (f"{key.partition('.')[2]}={value:g}" for key, value in trial.changes.items())
    run_dir = folder / "_".join([f"epochs={epochs}", *changes])
    try:
        result = train_once(short, run_dir, quiet=True)
    except RunError as error:
        say(f"  {trial}, {counted(epochs, 'epoch')}: failed ({error})")
        return trial._replace(value=-math.inf)
    if result.exit_code:
        raise Interruption(result.exit_code)
    shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)
    best = metric_writer.best_on_val(metric_writer.read_records(run_dir / "metrics.jsonl"))
    value = -math.inf if best is None else best
    say(f"  {value:6.2f} after {counted(epochs, 'epoch')}  {trial}")
    return trial._replace(value=value)
