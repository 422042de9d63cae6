"""`mldec evaluate`: metrics and per-class table of what was trained."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mldec.commands import compose
from mldec.commands.options import folder_for_output, one_of, switch
from mldec.config import Config, build_config, to_mapping
from mldec.errors import ConfigError, DataError
from mldec.files import refuse_linked
from mldec.labels import LabelSpace

if TYPE_CHECKING:  # torch is imported where something is measured
    from mldec.engine.checkpoint import Restored
    from mldec.engine.distributed import ProcessGroup

HELP = """usage: mldec evaluate run=RUN [split=test] [weights=best|ema|raw] [key=value …]
       mldec evaluate checkpoint=FILE dataset=coco dataset.root=…

  run=RUN or checkpoint=FILE   what to evaluate: a run folder (its best epoch) or a checkpoint of one
  split=train|val|test         which images; default test
  weights=…                    those whose metric training reported (best, the default), EMA, or raw
  which=best|last              which checkpoint of a run folder; default best
  dataset=… dataset.root=…     another dataset, or the same one elsewhere
                               (val is what the run itself held out of training)
  protocol=paper|standard      and protocol.average_precision=exact|voc07|partial|paper, protocol.threshold=0.5,
                               protocol.top_k=[3,5]: how it is measured
  head.label_embeddings.source=SOURCE     where vectors of labels come from that the run does not know; default: where its own did
  runtime.devices=4            as many processes, each with a device and a share of the images
  thresholds=true              with split=val: tune a threshold for each label on it and write RUN/thresholds.csv, as
                               training does at its best epoch
  allow_other_data=true        measure although the images or labels are not those that the run recorded (data.json)
  output=DIR                   where metrics.json and per_class_ap.csv go; default RUN/evaluation/<dataset>_<split>"""

OWN = ("run", "checkpoint", "split", "weights", "which", "thresholds", "allow_other_data", "output")

#: How a dataset's images are shown to the network: a fact of the run.
VIEW = ("image_size", "crop", "interpolation")


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    arguments = compose.parse(argv, own=OWN)
    if arguments.help:
        print(HELP)
        return 0
    own = arguments.own
    source = own.get("run") or own.get("checkpoint")
    if source is None or ("run" in own and "checkpoint" in own):
        raise ConfigError("say what to evaluate: run=RUN (a run folder) or checkpoint=FILE, one of the two")
    split = one_of(own, "split", ("train", "val", "test"), "test")
    weights = one_of(own, "weights", ("best", "ema", "raw"), "best")
    which = one_of(own, "which", ("best", "last"), "best")
    tunes = switch(own, "thresholds")
    switch(own, "allow_other_data")
    if "output" in own:
        folder_for_output(own, "output", "")  # nothing is measured for a place where it cannot be written
    if tunes and split != "val":
        raise ConfigError(
            f"thresholds=true: they are tuned on val, and reported on others; type split=val, not {split}"
        )
    compose.load_components(arguments.plugins)

    from mldec.engine.checkpoint import restore
    from mldec.engine.distributed import join_process_group
    from mldec.engine.launcher import launch, starts_processes

    restored = restore(source, weights=weights, which=which)  # type: ignore[arg-type]
    config = measured_config(restored.config, arguments, restored.path)
    if starts_processes(config.runtime.devices):
        return launch(["evaluate", *argv], config.runtime.devices, on_cpu=config.runtime.device == "cpu")
    with join_process_group() as group:
        _evaluate(restored, config, split, arguments, group, tunes=tunes)
    return 0


def _evaluate(
    restored: Restored, config: Config, split: str, arguments: compose.Arguments, group: ProcessGroup, *, tunes: bool
) -> None:
    """Measure a split in this process, which may be one of a process group whose leader writes and shows what it finds.

    `tunes`: a threshold for each label, too.
    """
    from mldec.engine import config_properties, data_splits, environment, run_directory
    from mldec.engine.device import choose_device, prepare_runtime
    from mldec.engine.display import Display
    from mldec.engine.evaluator import describe, write_per_class
    from mldec.engine.run_directory import run_directory_of
    from mldec.engine.same_data import check_same_data
    from mldec.engine.scoring import open_split, score_split
    from mldec.engine.thresholds import FILE, write_tuned

    if tunes and config_properties.is_single_label(config):
        raise ConfigError(f"thresholds=true: images of {config.dataset.name} have one label each: the best is given")
    own = arguments.own
    device = choose_device(config.runtime.device, group.local_rank if group.size > 1 else None)
    prepare_runtime(config.runtime, device)
    display = Display(quiet=not group.is_main)
    index, labels = open_split(restored, config, split)
    typed, allowed = map(compose.key_of, arguments.overrides), switch(own, "allow_other_data")
    if other := check_same_data(restored.path, split, index, overrides=typed, allowed=allowed):
        display.say(f"note: {other}")
    if restored.classifier.vocabulary is not None:
        for sentence in _unused_embedding_settings(
            config.head.label_embeddings, restored.classifier, labels, arguments.overrides
        ):
            display.say(f"warning: {sentence}")
    run, name = run_directory_of(restored.path), f"evaluation/{config.dataset.name}_{split}"
    if "output" not in own:
        refuse_linked(run, [name])
    folder = folder_for_output(own, "output", run / name)
    what = f"{config.dataset.name} {split}"
    scores, result = score_split(
        restored, config, index, labels, what=what, device=device, display=display, group=group
    )
    if not group.is_main:
        return
    record: dict[str, Any] = {
        "checkpoint": str(restored.path),
        "step": restored.step,
        "weights": restored.weights,
        "dataset": to_mapping(config.dataset),
        "split": split,
        "images": len(scores.ids),
        "data": data_splits.describe_index(index),
        "protocol": to_mapping(config.protocol),
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "environment": environment.environment(device),
        "metrics": result.metrics,
    }
    # They were tuned for the weights that are reported, of the best epoch.
    theirs = restored.path.name != "last.pt" and own.get("weights", "best") == "best"
    chosen = _read_tuned(restored, config, labels, display) if theirs else None
    if chosen is not None and split != "val" and not config_properties.is_single_label(config):
        record["tuned"] = _f1_of(chosen, scores)
    run_directory.write_json(folder / "metrics.json", record)
    write_per_class(folder / "per_class_ap.csv", result, scores, labels)

    display.say(
        f"{restored.path}, {restored.weights} weights of step {restored.step}\n"
        f"{config.dataset.name} {split}: {len(scores.ids):,} images, {len(labels)} labels, "
        f"{config.protocol.name} protocol, AP definition {config.protocol.average_precision}"
    )
    display.say(describe(result.metrics, config_properties.is_single_label(config)))
    if "tuned" in record:
        same = ", which are these images: it flatters" if _is_val(config, split) else ""
        figures = "   ".join(f"{name} {value:.2f}" for name, value in record["tuned"].items())
        display.say(f"{figures}   at the thresholds of {FILE}, tuned on val{same}")
    display.say(f"written to {folder}")
    if tunes:
        path = run_directory_of(restored.path) / FILE
        write_tuned(path, labels, scores.scores, scores.targets, config.protocol.threshold)
        display.say(f"thresholds in {path}")


def measured_config(trained: Config, arguments: compose.Arguments, source: object = "the run") -> Config:
    """A run's config as it is measured: with what was typed, and on all images unless a limit is typed.

    Another dataset's images are shown to the network as those that it was trained on were, not as the other's own
    networks see them, unless that is typed. Where files go and what is made there is typed, too, or not done.
    """
    from mldec.engine.consent import confine

    stored = to_mapping(trained)
    stored["runtime"] |= {"limit_eval_batches": None, "devices": 1}  # how it was looked at and trained, not measured
    changed = compose.change(stored, arguments.overrides, arguments.config_dir)
    typed = set(map(compose.key_of, arguments.overrides))
    changed["dataset"] |= {key: stored["dataset"][key] for key in VIEW if f"dataset.{key}" not in typed}
    config = confine(build_config(changed), typed, source)
    # Which images were held out of training is a fact of the run; another share would score what it was trained on.
    return dataclasses.replace(config, protocol=dataclasses.replace(config.protocol, holdout=trained.protocol.holdout))


def _read_tuned(restored: Any, config: Any, labels: LabelSpace, display: Any) -> Any:
    """The thresholds (N,) that were tuned for these weights, if there are any."""
    from mldec.engine.run_directory import run_directory_of
    from mldec.engine.thresholds import FILE, read_thresholds

    path = run_directory_of(restored.path) / FILE
    if not path.exists():
        return None
    try:
        return read_thresholds(path, labels, config.protocol.threshold).values
    except DataError as error:
        display.say(f"warning: {error}")
        return None


def _is_val(config: Any, split: str) -> bool:
    """Whether a split's images are those of val, for want of a split of their own."""
    published = config.dataset.splits
    no_val = "val" not in published and config.protocol.holdout == 0
    return split == "val" or (split == "test" and (no_val or "test" not in published))


def _f1_of(thresholds: Any, scores: Any) -> dict[str, float]:
    from mldec.metrics import f1_at_threshold

    found = f1_at_threshold(scores.scores, scores.targets, thresholds)
    return {"CF1": found.CF1, "OF1": found.OF1}


def _unused_embedding_settings(words: Any, classifier: Any, labels: LabelSpace, overrides: Sequence[str]) -> list[str]:
    """What was typed of words and has no effect on these labels, a sentence each."""
    typed = [word for word in overrides if word.startswith("head.label_embeddings.")]
    if typed and not set(labels.names) - set(classifier.vocabulary.known.names):
        return [f"{word}: the run has vectors of all these labels, none are looked up" for word in typed]
    return words.unused() if typed else []
