"""`mldec evaluate`: metrics and a table per label of a trained network."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mldec.commands import compose
from mldec.commands.options import EXPERIMENT, NetworkOptions, OutputDirectory, Split, parse
from mldec.commands.own_dataset import is_same
from mldec.config import Config, build_config, to_mapping
from mldec.errors import ConfigError

if TYPE_CHECKING:  # torch is imported where something is measured
    from mldec.engine.evaluation import Evaluation


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(NetworkOptions):
    """Metrics and average precision per label of a trained network, on its own dataset or another.

    dataset=… dataset.root=…             another dataset, or the same one elsewhere; val is what the run held out, and
                                         another dataset=PATH without splits is measured whole
    protocol=paper|standard              and protocol.average_precision=…, protocol.threshold=0.5, protocol.top_k=[3,5]
    head.label_embeddings.source=SOURCE  where embeddings of labels come from that the run does not know
    runtime.devices=4                    as many processes, each with a device and a share of the images
    """

    SETTINGS = EXPERIMENT

    run: Path  # a run directory, a checkpoint file or an exported folder
    split: Split = "test"  # which images
    epoch: Literal["best", "last"] = "best"  # which checkpoint of a run directory; last where none was evaluated yet
    tune_thresholds: bool = False  # with split=val: tune a threshold for each label and write RUN/thresholds.csv
    allow_other_data: bool = False  # accept images or labels that are not those that the run recorded (data.json)
    output: OutputDirectory | None = None  # of metrics.json, per_class_ap.csv; default RUN/evaluation/<dataset>_<split>

    def __post_init__(self) -> None:
        if self.tune_thresholds and self.split != "val":
            why = "thresholds are tuned on val and reported on other splits"
            raise ValueError(f"tune_thresholds=true: {why}; use split=val, not split={self.split}")


OPTIONS = EvaluateOptions

#: How a dataset's images are shown to the network: a fact of the run.
VIEW = ("image_size", "crop", "interpolation")


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    options, arguments = parse(argv, EvaluateOptions, "evaluate")
    compose.load_components(arguments.plugins)
    result = _evaluate(options, arguments, command=["evaluate", *argv])
    if isinstance(result, int):
        return result
    if result.summary:
        from mldec.engine.display import Display

        Display().say(result.summary)
    return 0


def evaluate(run: str | Path, *overrides: str, **options: Any) -> Evaluation:
    """Measure a trained network on a split, as `mldec evaluate` does.

    Returns:
        A result with `metrics` by name (mAP and F1 in percent), `directory`, where the files were written, and
        `summary`, the metrics as text.

    Args:
        run: a run directory, a checkpoint file or an exported folder.
        overrides: what `mldec evaluate` takes, such as "protocol=paper" or "dataset.root=data/coco".
        options: its options as values: split="val", weights="ema", output="results".

    Raises ConfigError, DataError or CheckpointError, as the command does.
    """
    made, arguments = parse(overrides, EvaluateOptions, "evaluate", run=run, **options)
    compose.load_components(arguments.plugins)
    result = _evaluate(made, arguments)
    assert not isinstance(result, int)  # which only launched processes give
    return result


def _evaluate(
    options: EvaluateOptions, arguments: compose.Arguments, *, command: Sequence[str] = ()
) -> Evaluation | int:
    """What was measured; or the exit code of the processes that ran `command`, where several were requested."""
    from mldec.engine.checkpoint import restore
    from mldec.engine.display import Display
    from mldec.engine.distributed import join_process_group
    from mldec.engine.evaluation import evaluate_split
    from mldec.engine.launcher import launch, starts_processes

    restored = restore(options.run, weights=options.weights, which=options.epoch)
    config = measured_config(restored.config, arguments, restored.path, options.runtime())
    if starts_processes(config.runtime.devices):
        if not command:
            raise ConfigError(f"runtime.devices={config.runtime.devices}: use `mldec evaluate` or torchrun")
        return launch(command, config.runtime.devices, on_cpu=config.runtime.device == "cpu")
    with join_process_group() as group:
        return evaluate_split(
            restored,
            config,
            options.split,
            display=Display(quiet=not group.is_main),
            output=options.output,
            overrides=arguments.keys(),
            allow_other_data=options.allow_other_data,
            tune_thresholds=options.tune_thresholds,
            group=group,
        )


def measured_config(
    trained: Config,
    arguments: compose.Arguments,
    source: object = "the run",
    runtime: Mapping[str, Any] | None = None,
) -> Config:
    """A run's config as it is measured: with the overrides, and on all images unless a limit is set.

    Another dataset's images are shown to the network as those that it was trained on were, not as the other's own
    networks see them, unless an override says so. `runtime`: settings of the group that options of the command set.
    """
    from mldec.engine.stored_config import confine

    stored = to_mapping(trained)
    stored["runtime"] |= {"limit_eval_batches": None, "devices": 1}  # how it was looked at and trained, not measured
    changed = compose.change(stored, arguments.overrides, arguments.config_dir, measures=True)
    given = arguments.keys()
    changed["dataset"] |= {key: stored["dataset"][key] for key in VIEW if f"dataset.{key}" not in given}
    for name, value in (runtime or {}).items():
        if f"runtime.{name}" in given:
            raise ConfigError(f"runtime.{name}: the command's own option sets it to {value}; leave one of both out")
        changed["runtime"][name] = value
        given.add(f"runtime.{name}")
    config = confine(build_config(changed), given, source)
    # Which images were held out of training is a fact of the run; another share would score what it was trained on.
    holdout = trained.protocol.holdout
    if "dataset" in given and tuple(config.dataset.splits) == ("train",):
        holdout = holdout if is_same(changed["dataset"], stored["dataset"]) else 0.0
    return dataclasses.replace(config, protocol=dataclasses.replace(config.protocol, holdout=holdout))
