"""`mldec show`: what an experiment is, before it costs anything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mldec.commands import compose
from mldec.commands.options import count
from mldec.config import Config, build_config, to_mapping
from mldec.errors import printable

HELP = """usage: mldec show experiment=NAME [group=choice …] [key=value …]
       mldec show run=RUN

Prints the resolved experiment, the network's parameters and multiply-accumulates, and, where the dataset is at hand,
its images, steps and the curve of the learning rate. Trains nothing, writes no run folder.

  labels=N     how many labels to assume where the dataset is not at hand"""

MOST_LABELS = 10**6  # beyond which a network is not built to be looked at
ASSUMED_WIDTH = 300  # of label embeddings that are not at hand: that of GloVe and fastText
BARS = "▁▂▃▄▅▆▇█"


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    arguments = compose.parse(argv, own=("run", "labels"))
    if arguments.help:
        print(HELP)
        return 0
    labels = count(arguments.own, "labels", most=MOST_LABELS)  # before anything is read
    compose.load_components(arguments.plugins)
    if "run" in arguments.own:
        stored = compose.read_yaml(Path(arguments.own["run"]).expanduser() / "config.yaml")
        config = build_config(compose.change(stored, arguments.overrides, arguments.config_dir))
    else:
        config = build_config(compose.compose(arguments.overrides, arguments.config_dir))
    print(printable(compose.to_yaml(to_mapping(config))))
    show(config, labels)
    return 0


def show(config: Config, assumed_labels: int | None = None) -> None:
    """Print the network's size and the schedule of `config`; `assumed_labels`: without looking at the dataset."""
    import torch

    from mldec.data.loader import steps_per_epoch
    from mldec.engine import build, config_checks, config_properties, data_splits
    from mldec.errors import DataError
    from mldec.labels import LabelSpace
    from mldec.models.complexity import count_macs, count_parameters
    from mldec.models.label_embeddings import LabelEmbeddings

    config_checks.check_config(config)
    train = None
    if assumed_labels is None:
        try:
            splits = data_splits.build_splits(config)
            labels, train = splits.labels, splits.train
            print(f"images     {len(splits.train):,} train, {len(splits.val):,} val, {len(splits.test):,} test")
        except DataError as error:
            print(f"dataset      {printable(str(error))}\n             add labels=N to see the network without it")
            return
    else:
        labels = LabelSpace([f"label {number}" for number in range(assumed_labels)])

    words = None
    if assumed_labels is not None and config_properties.uses_label_embeddings(config):
        words = LabelEmbeddings(labels.names, torch.randn(len(labels), ASSUMED_WIDTH), "assumed")
        print(f"words        assumed: {ASSUMED_WIDTH} numbers a label")
    classifier = build.build_bare_classifier(config, labels, words)
    for name, part in (("backbone", classifier.backbone), ("head", classifier.head), ("network", classifier)):
        total, trainable = count_parameters(part)
        print(f"{name:<12} {total:,} parameters, {trainable:,} trained")
    macs = count_macs(classifier, config_properties.image_size(config))
    cost = f"{macs / 1e9:.2f} G" if macs >= 1e9 else f"{macs / 1e6:.1f} M"
    print(f"cost         {cost} multiply-accumulates an image of {config_properties.image_size(config)} px")
    print(f"labels       {len(labels)}")
    steps = 1000  # where images are not at hand, enough for the curve's shape
    batch_size, epochs = config.schedule.batch_size, config.schedule.epochs
    if train is not None:
        runtime = config.runtime
        steps = steps_per_epoch(len(train), batch_size, limit=runtime.limit_train_batches, overfit=runtime.overfit)
        print(f"steps        {steps * epochs:,} = {epochs} epochs of {steps:,} steps of {batch_size} images")
    schedule, last = build.build_schedule(config, steps), steps * epochs - 1
    points = [schedule(round(place * last / 59)).lr for place in range(60)]
    print(f"rate         {curve(points)}  {points[0]:.2g} to {max(points):.2g} to {points[-1]:.2g}")


def curve(values: Sequence[float]) -> str:
    """Values as a line of bars, scaled from 0 to their maximum."""
    top = max(values) or 1.0
    return "".join(BARS[min(len(BARS) - 1, int(value / top * len(BARS)))] for value in values)
