"""A run from its config to its last metric: what is refused leaves nothing behind."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mldec.config import Config, to_mapping
from mldec.data.data_checks import find_data_problems
from mldec.engine import build, config_checks, config_properties, data_splits, environment, metric_writer, run_directory
from mldec.engine.checkpoint import read_last, stored_label_embeddings
from mldec.engine.display import Display
from mldec.engine.distributed import ProcessGroup, join_process_group
from mldec.engine.ema import find_lag
from mldec.engine.evaluator import describe
from mldec.engine.interrupt import Interrupted
from mldec.engine.lock import lock_run, wait_for_lock
from mldec.engine.paths import with_absolute_paths
from mldec.engine.predictor import Predictor, load
from mldec.engine.same_data import FILE, OPTION, other_splits, read_recorded
from mldec.engine.settings_file import write_settings
from mldec.engine.trainer import Trainer
from mldec.errors import ConfigError
from mldec.files import remove_partial


@dataclass(frozen=True)
class TrainResult:
    """A run that was trained.

    Attributes:
        metrics: of the test split, by name; mAP and F1 in percent. With them the `protocol`, `weights` and `epoch` that
            they belong to. Empty for a run that was stopped.
        run_dir: the run directory; in processes of a group other than the main one the current directory.
        exit_code: 0, or that of the signal that stopped the run, which can be resumed then.
        summary: the metrics as text.
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
    """Train in this process, which may be one of a process group.

    Args:
        resume: a run directory to continue; None: make a new one.
        allow_other_data: resume with other images or labels than the run began with.
        quiet: print nothing.
    """
    with join_process_group() as group:
        if group.is_main:
            return _train(config, resume, group, None, allow_other_data, quiet)
        with tempfile.TemporaryDirectory(prefix="mldec-") as elsewhere:
            return _train(config, resume, group, Path(elsewhere), allow_other_data, quiet)


def _train(
    config: Config,
    folder: Path | None,
    group: ProcessGroup,
    elsewhere: Path | None,
    allow_other_data: bool,
    quiet: bool,
) -> TrainResult:
    """Build everything, then make (or continue) the run directory, then train.

    The main process of the group writes there, the others write `elsewhere`. The main process holds the lock of the
    directory: from before a checkpoint is read that is continued, else from before anything is written.
    """
    with contextlib.ExitStack() as held:
        if folder is not None:
            _lock(folder, group, held)
        return _train_locked(config, folder, group, held, elsewhere, allow_other_data, quiet)


def _lock(folder: Path, group: ProcessGroup, held: contextlib.ExitStack, *, fresh: bool = False) -> None:
    """Take the lock of a run directory for the whole group. Raises ConfigError, in all its processes, where that is
    taken, and where a `fresh` run would lie on top of another one."""
    problem = None
    if group.is_main:
        try:
            held.enter_context(lock_run(folder))
            remove_partial(folder, "checkpoints", "images")
            if fresh and any((folder / "checkpoints").glob("*.pt")):
                problem = f"run_dir={folder}: holds a run already; use resume={folder} to continue it"
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
    allow_other_data: bool,
    quiet: bool,
) -> TrainResult:
    config_checks.check_config(config)
    config = with_absolute_paths(config)
    display = Display(quiet=quiet or not group.is_main)
    for sentence in config_checks.find_unused(config):
        display.say(f"warning: {sentence}")
    splits = data_splits.build_splits(config)
    for sentence in find_data_problems(splits.train, {"val": splits.val, "test": splits.test}):
        display.say(f"warning: {sentence}")
    data = data_splits.describe_splits(splits)
    recorded = {} if folder is None else read_recorded(folder)
    others = other_splits(recorded, data)
    if others and not allow_other_data:
        raise ConfigError(
            f"the {' and '.join(others)} images or labels are not those that {folder} began with; set dataset.root=… "
            f"or dataset.{others[0]}=… to the run's data, or {OPTION} to continue with these"
        )
    stored = None if folder is None else read_last(folder)
    embeddings = None if stored is None else stored_label_embeddings(stored.content)
    trainer = Trainer(config, splits, display, fresh=stored is None, label_embeddings=embeddings, group=group)
    if lag := find_lag(trainer.state.ema, len(trainer.batches) * config.schedule.epochs):
        display.say(f"warning: {lag}")
    if stored is not None:
        trainer.load(stored)
    else:
        if group.is_main:
            try:
                folder = run_directory.make_run_directory(config.output, config.name, config.run_dir)
            except FileExistsError as error:
                folder = Path(str(error))  # the lock shows whether that run is still being trained
        folder = folder or Path()
        _lock(folder, group, held, fresh=True)
    folder = elsewhere or folder
    assert folder is not None  # the main process's
    run_directory.write_text(folder / "config.yaml", write_settings(to_mapping(config)))
    machine = environment.environment(trainer.device, trainer.dtype) | {"processes": group.size}
    run_directory.write_json(folder / "environment.json", machine)
    for split in others:
        display.say(f"warning: the {split} images or their labels are not those that this run began with")
    # What the run began with stays, as what it is compared with.
    name = f"data_from_step_{trainer.state.progress.step}.json" if others else FILE
    if others or not recorded:
        run_directory.write_json(folder / name, data)

    sizes = f"{len(splits.train):,} train, {len(splits.val):,} val, {len(splits.test):,} test images"
    where = f"{trainer.device}" if group.size == 1 else f"{group.size} devices, each a {trainer.device.type}"
    display.say(f"{config.name}: {len(splits.labels)} labels, {sizes}, on {where} in {str(trainer.dtype)[6:]}")
    display.say(
        f"run directory: {folder}" + (f", resumed at step {trainer.state.progress.step}" if stored is not None else "")
    )
    run_dir = folder if elsewhere is None else Path()
    try:
        with environment.record_cost(folder, trainer.device):
            record = trainer.fit(folder)
    except Interrupted:
        summary = f"stopped at step {trainer.state.progress.step}" if group.is_main else ""
        return TrainResult({}, run_dir, trainer.stop.exit_code, summary)
    if not group.is_main:
        return TrainResult(record, run_dir)
    heading = f"test ({record['protocol']} protocol, {record['weights']} weights of epoch {record['epoch']})"
    return TrainResult(record, run_dir, summary=f"{heading}\n{describe(record, trainer.single_label)}")


def check_before_needed_run(config: Config) -> None:
    """Refuse what is wrong with a config or its label embeddings before the run that it starts from is trained."""
    config_checks.check_config(config)
    if config_properties.uses_label_embeddings(config):
        build.build_label_embeddings(config, data_splits.build_split(config, "test", quiet=True).labels)
        if config.protocol.zero_shot != "seen":
            data_splits.check_val_covers_unseen(config, data_splits.build_split(config, "val", quiet=True))


def train_once(config: Config, folder: Path, *, quiet: bool = False) -> TrainResult:
    """Train into `folder` unless that is done; an interrupted run is resumed. Other processes wait for it."""
    with wait_for_lock(folder):
        if metric_writer.is_complete(folder):
            return TrainResult({}, folder)
        begun = (folder / "checkpoints" / "last.pt").exists()
        new = dataclasses.replace(config, run_dir=str(folder))
        return train_config(new, folder if begun else None, quiet=quiet)
