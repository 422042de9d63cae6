"""`mldec train`: compose, check, train."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from mldec.commands import compose
from mldec.commands.options import switch
from mldec.commands.paths import places_of_data, with_absolute_paths
from mldec.config import Config, build_config, to_mapping
from mldec.engine.interrupt import PREEMPTED, STOPPED, pass_on
from mldec.engine.launcher import LAUNCHED, launch, starts_processes
from mldec.errors import ConfigError
from mldec.files import without_links

if TYPE_CHECKING:  # torch is imported where something is trained
    from mldec.engine.distributed import ProcessGroup

HELP = """usage: mldec train experiment=NAME [group=choice …] [key=value …]      (or python train.py …)

  experiment=digits            a named experiment; mldec show experiment=… prints what is in it
  head=gap schedule.epochs=10  any group takes another choice, any setting another value
  seed=0,1,2 -m                several values: one run for each combination, one after another
  resume=RUN                   go on with an interrupted run; settings that would change its course are refused,
                               unless allow_schedule_change=true; other images or labels than it began with are
                               refused, too, unless allow_other_data=true
  init_from=RUN                start a new run from another one's weights; experiment:NAME trains that one first, once
  debug=fast|overfit|profile   two steps of everything; one batch to zero loss; a profiler trace
  debug=true                   show tracebacks
  runtime.devices=4            as many processes, each with a device and a share of every batch
  plugins=[my_module]          import components of your own before composing
  run_dir=DIR output=DIR       where the run folder lies: exactly there, or output/<name>/<date>_<time>
  --config-dir=DIR             a folder with experiment/*.yaml and other groups of your own

groups: """

NEEDED = "experiment:"  # init_from=experiment:NAME is a run of that experiment, which is trained if it is not there
SHARED = ("seed", "output", "dataset", "runtime")

CONSENTS = ("allow_schedule_change", "allow_other_data")  # options by which resume accepts what it refuses by itself

# What a resumed run may not change without being told to: with these, the rest of the schedule would be another one.
COURSE = (
    "schedule",
    "dataset",
    "augment",
    "optimizer",
    "loss",
    "ema",
    "seed",
    "protocol",
    "runtime.limit_train_batches",
)
# What it may never change: the saved weights would not fit.
SHAPE = ("backbone", "head", "name")


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    arguments = compose.parse(argv, own=("resume", *CONSENTS), multirun=True)
    if arguments.help:
        print(HELP + ", ".join(compose.GROUPS))
        return 0
    for word in CONSENTS:
        switch(arguments.own, word)
        if word in arguments.own and "resume" not in arguments.own:
            raise ConfigError(f"{word}={arguments.own[word]}: has no effect without resume=RUN; leave it out")
    if arguments.multirun:
        return sweep(argv, arguments)
    return resume(arguments, argv) if "resume" in arguments.own else start(arguments, argv)


def start(arguments: compose.Arguments, overrides: Sequence[str]) -> int:
    """A new run, from composing to the last figure."""
    compose.load_components(arguments.plugins)
    config = build_config(compose.compose(arguments.overrides, arguments.config_dir))
    _check_place(config)
    if config.init_from is not None and config.init_from.startswith(NEEDED):
        if LAUNCHED in os.environ:
            raise ConfigError(f"init_from={config.init_from}: train that first, by itself, and give its run folder")
        needed = build_config(needed_experiment(config.init_from.removeprefix(NEEDED), arguments))
        _check_label_embeddings(config)
        first = needed_folder(needed)
        if code := _train_once(needed, first):
            return code
        config, overrides = dataclasses.replace(config, init_from=str(first)), [*overrides, f"init_from={first}"]
    return _begin(config, None, overrides)


def _check_label_embeddings(config: Config) -> None:
    """Refuse what is wrong with a config or its label embeddings now, not when what it starts from has been trained."""
    from mldec.engine import build, config_checks, config_properties, data_splits

    config_checks.check_config(config)
    if config_properties.uses_label_embeddings(config):
        build.build_label_embeddings(config, data_splits.build_split(config, "test", quiet=True).labels)
        if config.protocol.zero_shot != "seen":
            data_splits.check_val_covers_unseen(config, data_splits.build_split(config, "val", quiet=True))


def needed_experiment(name: str, arguments: compose.Arguments) -> dict[str, Any]:
    """The experiment that another one starts from, with what was typed of data, seed, runtime and place."""
    shared = [word for word in arguments.overrides if word.partition("=")[0].split(".")[0] in SHARED]
    shared = [word for word in shared if not word.startswith("dataset=")]  # the experiment names its own
    return compose.compose([f"experiment={name}", *shared], arguments.config_dir)


def needed_folder(config: Config) -> Path:
    """Where that run lies: named by its settings, so that runs with the same start share it."""
    settings = to_mapping(config)
    for neutral in ("output", "run_dir"):
        del settings[neutral]
    settings["runtime"] = {key: value for key, value in settings["runtime"].items() if key.startswith("limit_")}
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    return Path(config.output).expanduser() / config.name / key


def _train_once(config: Config, folder: Path) -> int:
    """Train to the end unless that is done; a run that was cut off goes on. Returns the exit code."""
    from mldec.engine.metric_writer import is_complete

    with _alone(folder):
        if is_complete(folder):
            print(f"starting from {folder}")
            return 0
        print(f"training {config.name} first, once: {folder}", flush=True)
        begun = (folder / "checkpoints" / "last.pt").exists()
        return _train(dataclasses.replace(config, run_dir=str(folder)), folder=folder if begun else None)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Of several runs that need the same start one trains it, and the others wait for it."""
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    with open(folder / ".lock", "w", opener=without_links) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # given up when this process ends, however it ends
        yield


def _check_place(config: Config) -> None:
    """Refuse a run folder that cannot be one, before anything is read."""
    name, value = ("output", config.output) if config.run_dir is None else ("run_dir", config.run_dir)
    place = Path(value).expanduser()
    for folder in (place, *place.parents):
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"{name}={value}: {folder} is a file; name a directory, or a path where nothing is yet")


def resume(arguments: compose.Arguments, overrides: Sequence[str]) -> int:
    """Go on where a run folder stands, with the configuration that lies in it."""
    folder = Path(arguments.own["resume"]).expanduser()
    compose.load_components(arguments.plugins)
    stored = build_config(compose.read_yaml(folder / "config.yaml"))
    config = build_config(compose.change(to_mapping(stored), arguments.overrides, arguments.config_dir))
    stored, config = with_absolute_paths(stored), with_absolute_paths(config)
    changed = differences(to_mapping(stored), to_mapping(config))
    for line in changed.values():
        print(f"changed: {line}")
    refuse(changed, SHAPE, "the saved weights belong to the old value; start a new run with init_from=")
    if not switch(arguments.own, "allow_schedule_change"):
        # Where the data lies may change: whether it is the same data is known once it is read.
        course = {key: line for key, line in changed.items() if key not in places_of_data(config)}
        refuse(course, COURSE, "it would change the course of the run; add allow_schedule_change=true if you mean it")
    from mldec.engine.consent import confine

    typed = set(map(compose.key_of, arguments.overrides))
    confined = confine(config, typed, folder / "config.yaml")
    return _begin(confined, folder, overrides, other_data=switch(arguments.own, "allow_other_data"))


def sweep(argv: Sequence[str], arguments: compose.Arguments) -> int:
    """One process for each combination of values; the first failure does not keep the others from running."""
    fixed = [word for word in argv if word not in ("-m", "--multirun") and word not in arguments.overrides]
    runs = compose.expand_sweep(arguments.overrides)
    failed = []
    for number, overrides in enumerate(runs, start=1):
        print(f"[{number}/{len(runs)}] {' '.join(overrides)}", flush=True)
        code, preempted = _run_patiently([sys.executable, "-m", "mldec", "train", *fixed, *overrides])
        if preempted or code in (STOPPED, PREEMPTED):
            return PREEMPTED if preempted else code
        if code:
            failed.append((code, overrides))
    for code, overrides in failed:
        print(f"error: exit code {code} from: {' '.join(overrides)}", file=sys.stderr)
    return failed[0][0] if failed else 0


def _run_patiently(command: Sequence[str]) -> tuple[int, bool]:
    """Run a command; signals that ask to stop reach it too, and it is given the time to save.

    Returns its exit code, and whether the system asked.
    """
    processes: list[subprocess.Popen] = []
    with pass_on(processes) as stop:
        process = subprocess.Popen(command)
        processes.append(process)
        if stop.requested:  # while it was being started
            process.terminate()
        while True:
            try:
                return process.wait(), stop.preempted
            except KeyboardInterrupt:
                continue


def differences(old: dict[str, Any], new: dict[str, Any], path: str = "") -> dict[str, str]:
    """Keys whose values differ, with a line that shows both."""
    found: dict[str, str] = {}
    for key in {**old, **new}:
        before, after = old.get(key), new.get(key)
        where = f"{path}{key}"
        if isinstance(before, dict) and isinstance(after, dict):
            found |= differences(before, after, f"{where}.")
        elif before != after:
            shown = ["null" if value is None else value for value in (before, after)]
            found[where] = f"{where}: {shown[0]} -> {shown[1]}"
    return found


def refuse(changed: dict[str, str], prefixes: Sequence[str], why: str) -> None:
    """Raise ConfigError if a changed key lies under one of `prefixes`."""
    lines = [line for key, line in changed.items() if any(key == p or key.startswith(f"{p}.") for p in prefixes)]
    if lines:
        raise ConfigError("\n".join(f"{line} cannot be changed on resume: {why}" for line in lines))


def _begin(config: Config, folder: Path | None, overrides: Sequence[str], *, other_data: bool = False) -> int:
    """Train in this process or, with `runtime.devices`, in several that get the same overrides.

    `other_data`: a run that goes on may do so with other images than it began with.
    """
    if starts_processes(config.runtime.devices):
        return launch(["train", *overrides], config.runtime.devices, on_cpu=config.runtime.device == "cpu")
    return _train(config, folder, other_data=other_data)


def _train(config: Config, folder: Path | None, *, other_data: bool = False) -> int:
    """Train in this process, which may be one of a process group."""
    from mldec.engine.distributed import join_process_group

    with join_process_group() as group:
        if group.is_main:
            return _train_together(config, folder, group, other_data=other_data)
        with tempfile.TemporaryDirectory(prefix="mldec-") as elsewhere:
            return _train_together(config, folder, group, Path(elsewhere), other_data=other_data)


def _train_together(
    config: Config, folder: Path | None, group: ProcessGroup, elsewhere: Path | None = None, *, other_data: bool = False
) -> int:
    """Build all, then make (or take) the run folder, then train: what is refused leaves nothing behind.

    The main process of the process group writes there, the others `elsewhere`. It holds the lock of the folder: from before a
    checkpoint is read that is to be continued, else from before anything is written.
    """
    with contextlib.ExitStack() as held:
        if folder is not None:
            _lock(folder, group, held)
        return _train_locked(config, folder, group, held, elsewhere, other_data=other_data)


def _lock(folder: Path, group: ProcessGroup, held: contextlib.ExitStack, *, fresh: bool = False) -> None:
    """Take the lock of a run folder for the whole group. Raises ConfigError, in all its processes, where that is taken,
    and where a `fresh` run would lie on top of another one."""
    from mldec.engine.lock import lock_run
    from mldec.files import remove_partial

    problem = None
    if group.is_main:
        try:
            held.enter_context(lock_run(folder))
            remove_partial(folder, "checkpoints", "images")
            if fresh and any((folder / "checkpoints").glob("*.pt")):
                problem = f"run_dir={folder}: holds a run already; type resume={folder} to go on with it"
        except ConfigError as error:
            problem = str(error)
    if problem := group.broadcast(problem):
        raise ConfigError(problem)


def _train_locked(
    config: Config,
    folder: Path | None,
    group: ProcessGroup,
    held: contextlib.ExitStack,
    elsewhere: Path | None,
    *,
    other_data: bool,
) -> int:
    from mldec.data.data_checks import find_data_problems
    from mldec.engine import config_checks, data_splits, environment, run_directory
    from mldec.engine.checkpoint import find_checkpoint, load_checkpoint, stored_label_embeddings
    from mldec.engine.display import Display
    from mldec.engine.ema import find_lag
    from mldec.engine.interrupt import Interrupted
    from mldec.engine.same_data import FILE, OPTION, other_splits, read_recorded
    from mldec.engine.trainer import Trainer

    config_checks.check_config(config)
    config = with_absolute_paths(config)
    display = Display(quiet=not group.is_main)
    for sentence in config_checks.find_unused(config):
        display.say(f"warning: {sentence}")
    splits = data_splits.build_splits(config)
    for sentence in find_data_problems(splits.train, {"val": splits.val, "test": splits.test}):
        display.say(f"warning: {sentence}")
    data = data_splits.describe_splits(splits)
    recorded = {} if folder is None else read_recorded(folder)
    others = other_splits(recorded, data)
    if others and not other_data:
        raise ConfigError(
            f"the {' and '.join(others)} images or labels are not those that {folder} began with; type dataset.root=… "
            f"or dataset.{others[0]}=… with the run's data, or {OPTION} to go on with these"
        )
    embeddings = None if folder is None else stored_label_embeddings(load_checkpoint(find_checkpoint(folder, "last")))
    trainer = Trainer(config, splits, display, fresh=folder is None, label_embeddings=embeddings, group=group)
    if lag := find_lag(trainer.state.ema, len(trainer.batches) * config.schedule.epochs):
        display.say(f"warning: {lag}")
    resumed = folder is not None
    if folder is not None:
        trainer.load(folder)
    else:
        if group.is_main:
            try:
                folder = run_directory.make_run_directory(config.output, config.name, config.run_dir)
            except FileExistsError as error:
                folder = Path(str(error))  # the lock knows whether that run is still going on
        folder = folder or Path()
        _lock(folder, group, held, fresh=True)
    folder = elsewhere or folder
    assert folder is not None  # the main process's
    run_directory.write_text(folder / "config.yaml", compose.to_yaml(to_mapping(config)))
    environment = environment.environment(trainer.device, trainer.dtype) | {"processes": group.size}
    run_directory.write_json(folder / "environment.json", environment)
    for split in others:
        display.say(f"warning: the {split} images or their labels are not those that this run began with")
    # What the run began with stays, as what it is compared with.
    name = f"data_from_step_{trainer.state.progress.step}.json" if others else FILE
    if others or not recorded:
        run_directory.write_json(folder / name, data)

    sizes = f"{len(splits.train):,} train, {len(splits.val):,} val, {len(splits.test):,} test images"
    where = f"{trainer.device}" if group.size == 1 else f"{group.size} devices, each a {trainer.device.type}"
    display.say(f"{config.name}: {len(splits.labels)} labels, {sizes}, on {where} in {str(trainer.dtype)[6:]}")
    display.say(f"run folder: {folder}" + (f", resumed at step {trainer.state.progress.step}" if resumed else ""))
    try:
        with environment.record_cost(folder, trainer.device):
            record = trainer.fit(folder)
    except Interrupted:
        display.say(f"\nstopped at step {trainer.state.progress.step}. To go on:\n  mldec train resume={folder}")
        return trainer.stop.exit_code
    _conclude(display, record, folder, trainer.single_label)
    return 0


def _conclude(display: Any, record: dict[str, Any], folder: Path, single_label: bool) -> None:
    from mldec.engine.evaluator import describe

    display.say(f"\ntest ({record['protocol']} protocol, {record['weights']} weights of epoch {record['epoch']})")
    display.say(describe(record, single_label))
    display.say(f"\nrun folder   {folder}")
    display.say(f"images     {folder / 'images' / 'predictions.png'}")
    display.say(f"per class    {folder / 'per_class_ap.csv'}")
    display.say(f"curves       tensorboard --logdir {folder}")
    display.say(f"evaluate     mldec evaluate run={folder}")
    display.say(f"report       mldec report run={folder}")
