"""`mldec train`: compose, check, train."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from mldec.commands import compose
from mldec.commands.options import EXPERIMENT, compose_config, parse, say
from mldec.config import Config, Range, build_config, to_mapping
from mldec.engine.launcher import LAUNCHED, launch, starts_processes
from mldec.errors import ConfigError, option
from mldec.files import check_output_directory

if TYPE_CHECKING:  # torch is imported where something is trained
    from mldec.engine.training import TrainResult


MOST_TRIALS = 8  # of tune=N


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Compose an experiment, check it, train it. `python train.py …` is the same.

    experiment=digits            a named experiment; mldec show experiment=… prints what is in it
    head=gap schedule.epochs=10  any group takes another choice, any setting another value
    seed=0,1,2 -m                several values: one run for each combination, one after another
    experiment=probe tune=8      try 8 settings on val, by halving, and train with the best
    init_from=RUN                start from the weights of another run; experiment:NAME trains that one first, once
    debug=fast|overfit|profile   two steps of everything; one batch to zero loss; a profiler trace
    runtime.devices=4            as many processes, each with a device and a share of every batch
    run_dir=DIR output=DIR       the run directory: exactly there, or output/<name>/<date>_<time>
    """

    SETTINGS = EXPERIMENT
    MULTIRUN = True

    resume: Path | None = None  # continue an interrupted run; settings that would change its course are refused
    tune: Annotated[int, Range(low=2, high=MOST_TRIALS)] | None = None  # try as many settings on val first
    allow_schedule_change: bool | None = None  # resume with settings that change the course of the run
    allow_other_data: bool | None = None  # resume with other images or labels than the run began with

    def __post_init__(self) -> None:
        for name in ("allow_schedule_change", "allow_other_data"):
            if getattr(self, name) is not None and self.resume is None:
                raise ValueError(f"{name}: has no effect without resume=RUN; leave it out")
        if self.tune is not None and self.resume is not None:
            raise ValueError("tune: has no effect with resume=RUN, whose settings are chosen; leave it out")


OPTIONS = TrainOptions

NEEDED = "experiment:"  # init_from=experiment:NAME is a run of that experiment, which is trained if it does not exist
SHARED = ("seed", "output", "dataset", "runtime")  # whose overrides it gets


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    options, arguments = parse(argv, TrainOptions, "train")
    if arguments.multirun:
        from mldec.commands.sweep import sweep

        return sweep(argv, arguments)
    result = _train(options, arguments, argv)
    if isinstance(result, int):
        return result
    if result.metrics or result.exit_code:
        _conclude(result)
    return result.exit_code


def train(*experiment: str | Config) -> TrainResult:
    """Train an experiment: `mldec.train("experiment=digits", "schedule.epochs=3")`, or a `Config`.

    Takes what `mldec train` takes, `resume=RUN` and `plugins=[module]` included, and prints the same table of epochs.

    Returns:
        A result with `metrics` of the test split, `run_dir` and `predictor`, the trained network.

    Raises ConfigError, DataError or CheckpointError, as the command does; KeyboardInterrupt where Ctrl-C stopped the
    run, which has saved its state and can be resumed.
    """
    if len(experiment) == 1 and isinstance(experiment[0], Config):
        compose.load_components(())
        result = _begin(experiment[0], None)
    else:
        if not all(isinstance(override, str) for override in experiment):
            raise ConfigError("mldec.train takes overrides, such as 'experiment=digits', or one Config")
        options, arguments = parse([str(override) for override in experiment], TrainOptions, "train")
        if arguments.multirun:
            raise ConfigError("-m: mldec.train is one run; call it for each combination")
        result = _train(options, arguments)
    assert not isinstance(result, int)  # which only launched processes give
    if result.exit_code:
        raise KeyboardInterrupt(f"{result.summary}; resume={result.run_dir} continues")
    return result


def _train(
    options: TrainOptions, arguments: compose.Arguments, overrides: Sequence[str] | None = None
) -> TrainResult | int:
    """A new run, or the rest of one. `overrides` are handed to the processes that `runtime.devices` starts."""
    if options.resume is not None:
        allowed = bool(options.allow_schedule_change)
        config, changed = resumed_config(options.resume, arguments, allow_schedule_change=allowed)
        for line in changed:
            say(f"note: changed {line}", error=True)
        return _begin(config, overrides, options.resume, allow_other_data=bool(options.allow_other_data))
    config = compose_config(arguments)
    if config.init_from is not None and config.init_from.startswith(NEEDED):
        if LAUNCHED in os.environ:
            raise ConfigError(f"init_from={config.init_from}: train that first, by itself, and name its run directory")
        _check_run_directory(config)
        first = _train_needed(config, arguments)
        if isinstance(first, int):
            return first
        config = dataclasses.replace(config, init_from=str(first))
        overrides = None if overrides is None else [*overrides, f"init_from={first}"]
    if options.tune is not None:
        tuned = _tune(config, options.tune, arguments.keys())
        if isinstance(tuned, int):
            return tuned
        config = tuned
    return _begin(config, overrides)


def _tune(config: Config, count: int, given: Collection[str]) -> Config | int:
    """The experiment with the best settings of some that are tried on val, or the exit code of a stop."""
    if LAUNCHED in os.environ or starts_processes(config.runtime.devices) or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("tune: trials run in one process; tune on one device, then train with the settings it prints")
    _check_run_directory(config)
    from mldec.engine.training import shared_run_directory
    from mldec.engine.tuning import Interruption, tune

    key = shared_run_directory(config)
    folder = key.with_name(f"tuning_{key.name}")
    say(f"tune={count}: trials on val, in {folder}", error=True)
    try:
        config, best = tune(config, count, folder, lambda line: say(line, error=True), given)
    except Interruption as stop:
        say("stopped; the same command continues", error=True)
        return stop.exit_code
    say(f"best on val: {best}", error=True)
    return config


def _train_needed(config: Config, arguments: compose.Arguments) -> Path | int:
    """Train the experiment that `config` starts from, unless that is done: its directory, or the code of its stop."""
    from mldec.engine.metric_writer import is_complete
    from mldec.engine.training import check_before_needed_run, shared_run_directory, train_once

    assert config.init_from is not None
    needed = build_config(needed_experiment(config.init_from.removeprefix(NEEDED), arguments))
    check_before_needed_run(config)
    first = shared_run_directory(needed)
    trained = "" if is_complete(first) else ", which is trained first, once"
    say(f"note: starting from {needed.name} in {first}{trained}", error=True)
    result = train_once(needed, first)
    if result.metrics or result.exit_code:
        _conclude(result)
    return result.exit_code or first


def needed_experiment(name: str, arguments: compose.Arguments) -> dict[str, Any]:
    """The experiment that another one starts from, with its overrides of data, seed, runtime and output."""
    return compose.compose(needed_overrides(name, arguments.overrides), arguments.config_dir)


def needed_overrides(name: str, overrides: Sequence[str]) -> tuple[str, ...]:
    """The overrides that compose `needed_experiment`, which chooses its dataset itself."""
    keys = {override: compose.key_of(override) for override in overrides}
    shared = (override for override, key in keys.items() if key.partition(".")[0] in SHARED and key != "dataset")
    return (f"experiment={name}", *shared)


def resumed_config(run: Path, arguments: compose.Arguments, *, allow_schedule_change: bool) -> tuple[Config, list[str]]:
    """The config of a run directory with overrides, and what they change, one line per setting.

    Raises ConfigError for changes that resuming forbids.
    """
    compose.load_components(arguments.plugins)
    from mldec.engine.stored_config import check_resumed, confine, with_absolute_paths

    stored = build_config(compose.read_yaml(run / "config.yaml"))
    config = build_config(compose.change(to_mapping(stored), arguments.overrides, arguments.config_dir))
    changed = check_resumed(stored, config, allow_schedule_change=allow_schedule_change)
    return confine(with_absolute_paths(config), arguments.keys(), run / "config.yaml"), changed


def _begin(
    config: Config, overrides: Sequence[str] | None, resume: Path | None = None, *, allow_other_data: bool = False
) -> TrainResult | int:
    """Train in this process or, with `runtime.devices`, in several that get the same `overrides`."""
    if resume is None:
        _check_run_directory(config)
    if starts_processes(config.runtime.devices):
        if overrides is None:
            raise ConfigError(f"runtime.devices={config.runtime.devices}: use `mldec train` or torchrun")
        return launch(["train", *overrides], config.runtime.devices, on_cpu=config.runtime.device == "cpu")
    from mldec.engine.training import train_config

    return train_config(config, resume, allow_other_data=allow_other_data)


def _check_run_directory(config: Config) -> None:
    """Refuse a run directory that cannot be one, before anything is read."""
    name, value = ("output", config.output) if config.run_dir is None else ("run_dir", config.run_dir)
    check_output_directory(name, Path(value).expanduser())


def _conclude(result: TrainResult) -> None:
    """Print the result of a run, and the commands that use it."""
    if not result.summary:  # a process of a group other than the main one
        return
    folder = result.run_dir
    if result.exit_code:
        say(f"\n{result.summary}. To resume:\n  mldec train {option('resume', folder)}")
        return
    say(f"\n{result.summary}\n")
    say(f"run directory  {folder}")
    say(f"images         {folder / 'images' / 'predictions.png'}")
    say(f"per label      {folder / 'per_class_ap.csv'}")
    say(f"curves         tensorboard --logdir {shlex.quote(str(folder))}")
    say(f"evaluate       mldec evaluate {option('run', folder)}")
    tuned = "" if "top1" in result.metrics else " thresholds=tuned"  # of one label per image the best is listed
    say(f"predict        mldec predict {option('run', folder)} input=DIR{tuned}")
    say(f"report         mldec report {option('run', folder)}")
