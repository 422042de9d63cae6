"""`mldec evaluate`: metrics and per-class table of what was trained."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mldec.commands import compose
from mldec.config import build_config, to_mapping
from mldec.errors import ConfigError, DataError
from mldec.labels import LabelSpace

HELP = """usage: mldec evaluate run=RUN [split=test] [weights=reported|ema|live] [key=value …]
       mldec evaluate checkpoint=FILE dataset=coco dataset.root=…

  run=RUN or checkpoint=FILE   what to evaluate: a run folder (its best epoch) or a checkpoint of one
  split=train|val|test         which pictures; default test
  weights=…                    the weights whose metric the run reported (default), their average, or the live ones
  which=best|last              which checkpoint of a run folder; default best
  dataset=… dataset.root=…     another dataset, or the same one elsewhere
                               (val is what the run itself held out of training)
  protocol=paper|standard      and protocol.average_precision=exact|voc07|partial|paper, protocol.threshold=0.5,
                               protocol.top_k=[3,5]: how it is measured
  head.words.source=SOURCE     where vectors of labels come from that the run does not know; default: where its own did
  thresholds=true              with split=val: tune a threshold for each label on it and write RUN/thresholds.csv, as
                               training does at its best epoch
  output=DIR                   where metrics.json and per_class_ap.csv go; default RUN/evaluation/<dataset>_<split>"""


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    arguments = compose.parse(argv, own=("run", "checkpoint", "split", "weights", "which", "thresholds", "output"))
    if arguments.help:
        print(HELP)
        return 0
    own = arguments.own
    source = own.get("run") or own.get("checkpoint")
    if source is None or ("run" in own and "checkpoint" in own):
        raise ConfigError("say what to evaluate: run=RUN (a run folder) or checkpoint=FILE, one of the two")
    split = _one_of("split", own.get("split", "test"), ("train", "val", "test"))
    weights = _one_of("weights", own.get("weights", "reported"), ("reported", "ema", "live"))
    which = _one_of("which", own.get("which", "best"), ("best", "last"))
    tunes = _one_of("thresholds", own.get("thresholds", "false"), ("true", "false")) == "true"
    if tunes and split != "val":
        raise ConfigError(
            f"thresholds=true: they are tuned on val, and reported on others; type split=val, not {split}"
        )
    compose.load_components(arguments.plugins)

    from mldec.engine import build, tracking
    from mldec.engine.checkpoint import restore
    from mldec.engine.device import choose_device, choose_precision, prepare_runtime
    from mldec.engine.display import Display
    from mldec.engine.evaluator import compute_metrics, compute_scores, describe, write_per_class
    from mldec.engine.thresholds import FILE, write_tuned

    restored = restore(source, weights=weights, which=which)  # type: ignore[arg-type]
    stored = to_mapping(restored.config)
    stored["runtime"]["limit_eval_batches"] = None  # a limit was for looking, not for measuring
    config = build_config(compose.change(stored, arguments.overrides, arguments.config_dir))
    # Which pictures were held out of training is a fact of the run; another share would score what it was trained on.
    holdout = restored.config.protocol.holdout
    config = dataclasses.replace(config, protocol=dataclasses.replace(config.protocol, holdout=holdout))
    if tunes and build.is_single_label(config):
        raise ConfigError(f"thresholds=true: pictures of {config.dataset.name} have one label each: the best is given")
    device = choose_device(config.runtime.device)
    prepare_runtime(config.runtime, device)
    display = Display()
    index = build.known_to_head(config, build.build_split(config, split), split)
    labels = index.labels
    if restored.classifier.words is not None:
        trained = set(restored.labels.trained().names)
        labels = LabelSpace(labels.names, seen=[name in trained for name in labels.names])
        for sentence in _unused_words(config.head.words, restored.classifier, labels, arguments.overrides):
            display.say(f"warning: {sentence}")
        build.ask_for(restored.classifier, labels.names, config.head.words)
    elif labels.names != restored.labels.names:
        raise DataError(
            f"{config.dataset.name} has other labels ({len(labels)}) than the checkpoint "
            f"({len(restored.labels)}): their scores cannot be compared with its targets"
        )
    single_label = build.is_single_label(config)
    loader = build.build_eval_loader(config, index, device)
    with display.bar(f"{config.dataset.name} {split}", len(loader)) as bar:
        scores = compute_scores(
            restored.classifier.to(device),
            loader,
            restored.normalization,
            device=device,
            dtype=choose_precision(config.runtime.precision, device),
            softmax=build.uses_softmax(config),
            pictures=loader.pictures,
            on_batch=lambda pictures: bar.advance(),
        )
    result = compute_metrics(scores, config.protocol, seen=labels.seen, single_label=single_label)

    folder = (
        Path(own["output"]) if "output" in own else _default_folder(restored.path) / f"{config.dataset.name}_{split}"
    )
    record: dict[str, Any] = {
        "checkpoint": str(restored.path),
        "step": restored.step,
        "weights": restored.weights,
        "dataset": to_mapping(config.dataset),
        "split": split,
        "pictures": len(scores.ids),
        "data": build.describe_index(index),
        "protocol": to_mapping(config.protocol),
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "environment": tracking.environment(device),
        "metrics": result.metrics,
    }
    chosen = _read_tuned(restored, config, labels, display) if which == "best" and weights == "reported" else None
    if chosen is not None and split != "val" and not build.is_single_label(config):
        record["tuned"] = _f1_of(chosen, scores)
    tracking.write_json(folder / "metrics.json", record)
    write_per_class(folder / "per_class_ap.csv", result, scores, labels)

    display.say(
        f"{restored.path}, {restored.weights} weights of step {restored.step}\n"
        f"{config.dataset.name} {split}: {len(scores.ids):,} pictures, {len(labels)} labels, "
        f"{config.protocol.name} protocol, AP definition {config.protocol.average_precision}"
    )
    display.say(describe(result.metrics, single_label))
    if "tuned" in record:
        same = ", which are these pictures: it flatters" if _is_val(config, split) else ""
        figures = "   ".join(f"{name} {value:.2f}" for name, value in record["tuned"].items())
        display.say(f"{figures}   at the thresholds of {FILE}, tuned on val{same}")
    display.say(f"written to {folder}")
    if tunes:
        path = _default_folder(restored.path).parent / FILE
        write_tuned(path, labels, scores.scores, scores.targets, config.protocol.threshold)
        display.say(f"thresholds in {path}")
    return 0


def _read_tuned(restored: Any, config: Any, labels: LabelSpace, display: Any) -> Any:
    """The thresholds (N,) that were tuned for these weights, if there are any."""
    from mldec.engine.thresholds import FILE, read_thresholds

    path = _default_folder(restored.path).parent / FILE
    if not path.exists():
        return None
    try:
        return read_thresholds(path, labels, config.protocol.threshold).values
    except DataError as error:
        display.say(f"warning: {error}")
        return None


def _is_val(config: Any, split: str) -> bool:
    """Whether a split's pictures are those of val, for want of a split of their own."""
    published = config.dataset.splits
    no_val = "val" not in published and config.protocol.holdout == 0
    return split == "val" or (split == "test" and (no_val or "test" not in published))


def _f1_of(thresholds: Any, scores: Any) -> dict[str, float]:
    from mldec.metrics import f1_at_threshold

    found = f1_at_threshold(scores.scores, scores.targets, thresholds)
    return {"CF1": found.CF1, "OF1": found.OF1}


def _unused_words(words: Any, classifier: Any, labels: LabelSpace, overrides: Sequence[str]) -> list[str]:
    """What was typed of words and has no effect on these labels, a sentence each."""
    typed = [word for word in overrides if word.startswith("head.words.")]
    if typed and not set(labels.names) - set(classifier.words.known.names):
        return [f"{word}: the run has vectors of all these labels, none are looked up" for word in typed]
    return words.unused() if typed else []


def _one_of(name: str, value: str, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise ConfigError(f"{name}={value}: expected one of {', '.join(allowed)}")
    return value


def _default_folder(checkpoint: Path) -> Path:
    """Beside the run folder's other results; for a lone file, beside the file."""
    run = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
    return run / "evaluation"
