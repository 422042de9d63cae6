"""A run from its config to its last metric: what is refused leaves nothing behind."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mldec.config import Config, to_mapping
from mldec.data.data_checks import MOST_COMPARED, find_copies, find_data_problems, warn_of_shared
from mldec.data.folder import COPIES, FolderConfig
from mldec.engine import build, config_checks, config_properties, data_splits, environment, metric_writer, run_directory
from mldec.engine.checkpoint import read_last, stored_label_embeddings
from mldec.engine.display import Display
from mldec.engine.distributed import ProcessGroup, join_process_group
from mldec.engine.ema import find_lag
from mldec.engine.evaluator import describe
from mldec.engine.interrupt import Interrupted
from mldec.engine.predictor import Predictor, load
from mldec.engine.settings_file import write_settings
from mldec.engine.stored_config import with_absolute_paths
from mldec.engine.trainer import Trainer
from mldec.errors import ConfigError, option
from mldec.files import remove_partial, write_text


@dataclass(frozen=True)
class TrainResult:
    """A run that was trained.

    Attributes:
        metrics: of the test split, by name; mAP and F1 in percent; with the `protocol`, `weights` and `epoch` that they
            belong to. Empty for a run that was stopped.
        run_dir: the run directory.
        exit_code: 0, or that of the signal that stopped the run, which can then be resumed.
        summary: the metrics as text; empty in processes of a group other than the main one.
    """

    metrics: dict[str, Any]
    run_dir: Path
    exit_code: int = 0
    summary: str = ""

    @functools.cached_property
    def predictor(self) -> Predictor:
        """The trained network, with the weights whose metric training reported."""
        return load(self.run_dir)


def train_config(
    config: Config, resume: Path | None = None, *, allow_other_data: bool = False, quiet: bool = False
) -> TrainResult:
    """Train in this process, which may be one of a process group. The main process alone writes files.

    It holds the lock of the run directory: from before the checkpoint is read that is continued, otherwise from before
    anything is written.

    Args:
        resume: a run directory to continue; None: make a new one.
        allow_other_data: resume with other images or labels than the run began with.
        quiet: print nothing.
    """
    with join_process_group() as group, contextlib.ExitStack() as held:
        if resume is not None:
            _lock(resume, group, held)
        return _train(config, resume, group, held, allow_other_data, quiet)


def _train(
    config: Config,
    resume: Path | None,
    group: ProcessGroup,
    held: contextlib.ExitStack,
    allow_other_data: bool,
    quiet: bool,
) -> TrainResult:
    """Build everything, then make (or continue) the run directory, then train."""
    display = Display(quiet=quiet or not group.is_main)
    config_checks.check_config(config)
    config = with_absolute_paths(config)
    for sentence in config_checks.find_unused(config):
        display.say(f"warning: {sentence}")
    splits = data_splits.build_splits(config)
    problems = find_data_problems(splits.train)
    if group.is_main:
        warn_of_shared({name: index for name, index in splits._asdict().items() if name in config.dataset.splits})
    if group.is_main and isinstance(config.dataset, FolderConfig) and sum(map(len, splits)) <= MOST_COMPARED:
        problems += find_copies(splits._asdict(), COPIES)
    for sentence in problems:
        display.say(f"warning: {sentence}")
    data = data_splits.describe_splits(splits)
    recorded = {} if resume is None else data_splits.read_recorded(resume)
    others = data_splits.other_splits(recorded, data)
    if others and not allow_other_data:
        raise ConfigError(
            f"the {' and '.join(others)} images or labels are not those that {resume} began with; set dataset.root=… "
            f"or dataset.{others[0]}=… to the run's data, or {data_splits.OPTION} to continue with these"
        )
    stored = None if resume is None else read_last(resume)
    embeddings = None if stored is None else stored_label_embeddings(stored.content)
    trainer = Trainer(config, splits, display, fresh=stored is None, label_embeddings=embeddings, group=group)
    if lag := find_lag(trainer.state.ema, len(trainer.batches) * config.schedule.epochs):
        display.say(f"warning: {lag}")
    if stored is not None:
        trainer.load(stored)
    step = trainer.state.progress.step
    run_dir = resume
    if run_dir is None:
        run_dir = group.from_main(lambda: _make_run_directory(config))
        _lock(run_dir, group, held, fresh=True)
    for split in others:
        display.say(f"warning: the {split} images or their labels are not those that this run began with")
    if group.is_main:
        write_text(run_dir / "config.yaml", write_settings(to_mapping(config)), sync=True)
        machine = environment.environment(trainer.device, trainer.dtype) | {"processes": group.size}
        run_directory.write_json(run_dir / "environment.json", machine)
        # What the run began with stays, as what it is compared with.
        if others or not recorded:
            run_directory.write_json(run_dir / (f"data_from_step_{step}.json" if others else data_splits.FILE), data)

    sizes = f"{len(splits.train):,} train, {len(splits.val):,} val, {len(splits.test):,} test images"
    where = f"{trainer.device}" if group.size == 1 else f"{group.size} devices, each a {trainer.device.type}"
    display.say(f"{config.name}: {len(splits.labels)} labels, {sizes}, on {where} in {str(trainer.dtype)[6:]}")
    if shared := data_splits.describe_test_split(config):
        display.say(shared)
    display.say(f"run directory: {run_dir}" + ("" if stored is None else f", resumed at step {step}"))
    try:
        with environment.record_cost(run_dir, trainer.device) if group.is_main else contextlib.nullcontext():
            record = trainer.fit(run_dir)
    except Interrupted:
        summary = f"stopped at step {trainer.state.progress.step}" if group.is_main else ""
        return TrainResult({}, run_dir, trainer.stop.exit_code, summary)
    if not group.is_main:
        return TrainResult(record, run_dir)
    details = f"{record['protocol']} protocol, {record['weights']} weights of epoch {record['epoch']}"
    heading = f"{shared}; {details}" if shared else f"test ({details})"
    metrics = describe(record, trainer.single_label, config.protocol.threshold)
    return TrainResult(record, run_dir, summary=f"{heading}\n{metrics}")


def _make_run_directory(config: Config) -> Path:
    try:
        return run_directory.make_run_directory(config.output, config.name, config.run_dir)
    except FileExistsError as error:
        return Path(str(error))  # the lock shows whether that run is still being trained


def _lock(run_dir: Path, group: ProcessGroup, held: contextlib.ExitStack, *, fresh: bool = False) -> None:
    """Take the lock of a run directory for the whole group.

    Raises ConfigError, in all its processes, if another run has it, or if a `fresh` run would replace an earlier one.
    """
    problem = None
    if group.is_main:
        try:
            held.enter_context(run_directory.lock_run(run_dir))
            remove_partial(run_dir, "checkpoints", "images")
            if fresh and any((run_dir / "checkpoints").glob("*.pt")):
                problem = f"run_dir={run_dir}: holds a run already; use {option('resume', run_dir)} to continue it"
        except ConfigError as error:
            problem = str(error)
    if problem := group.broadcast(problem):
        raise ConfigError(problem)


def check_before_needed_run(config: Config) -> None:
    """Raise for a config or label embeddings that cannot be used, before the run that it starts from is trained."""
    config_checks.check_config(config)
    if config_properties.uses_label_embeddings(config):
        build.build_label_embeddings(config, data_splits.build_split(config, "test", quiet=True).labels)
        if config.protocol.zero_shot != "seen":
            data_splits.check_val_covers_unseen(config, data_splits.build_split(config, "val", quiet=True))


def shared_run_directory(config: Config) -> Path:
    """The directory of a run that others start from: named by its settings, so that runs with equal starts share it."""
    settings = to_mapping(config)
    for neutral in ("output", "run_dir"):
        del settings[neutral]
    settings["runtime"] = {key: value for key, value in settings["runtime"].items() if key.startswith("limit_")}
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    return Path(config.output).expanduser() / config.name / key


def train_once(config: Config, folder: Path, *, quiet: bool = False) -> TrainResult:
    """Train into `folder` unless that is done; an interrupted run is resumed. Other processes wait for it."""
    with run_directory.wait_for_lock(folder):
        if metric_writer.is_complete(folder):
            found = data_splits.describe_splits(data_splits.build_splits(config))
            if others := data_splits.other_splits(data_splits.read_recorded(folder), found):
                raise ConfigError(
                    f"{folder} was trained on other {' and '.join(others)} images or labels; delete it, or use another "
                    "name=… or output=…"
                )
            return TrainResult({}, folder)
        begun = (folder / "checkpoints" / "last.pt").exists()
        new = dataclasses.replace(config, run_dir=str(folder))
        return train_config(new, folder if begun else None, quiet=quiet)
