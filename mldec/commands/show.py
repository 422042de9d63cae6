"""`mldec show`: what an experiment is, before it costs anything."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from mldec.commands import compose
from mldec.commands.options import EXPERIMENT, compose_config, parse, say
from mldec.config import Config, Range, build_config, to_mapping
from mldec.errors import printable

MOST_LABELS = 10**6  # beyond which a network is not built to be looked at
ASSUMED_WIDTH = 300  # of label embeddings that are not at hand: that of GloVe and fastText
BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, kw_only=True)
class ShowOptions:
    """The resolved experiment, and what it costs. Trains nothing, writes nothing.

    summary  the experiment, parameters, multiply-accumulates, images, steps and the curve of the learning rate
    yaml     the experiment alone, as in the config.yaml of a run directory
    """

    SETTINGS = EXPERIMENT

    run: Path | None = None  # show the experiment of a run directory
    format: Literal["summary", "yaml"] = "summary"
    num_labels: Annotated[int, Range(1, MOST_LABELS)] | None = None  # assume as many labels; the dataset is not read


OPTIONS = ShowOptions


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    options, arguments = parse(argv, ShowOptions, "show")
    if options.run is not None:
        compose.load_components(arguments.plugins)
        stored = compose.read_yaml(options.run / "config.yaml")
        config = build_config(compose.change(stored, arguments.overrides, arguments.config_dir))
    else:
        config = compose_config(arguments)
    text = compose.to_yaml(to_mapping(config))
    print(printable(text) if sys.stdout.isatty() else text, end="")
    if options.format == "summary":
        say("")
        show(config, options.num_labels)
    return 0


def show(config: Config, assumed_labels: int | None = None) -> None:
    """Print the network's size and the schedule of `config`; `assumed_labels`: without reading the dataset.

    Raises DataError if the dataset cannot be read.
    """
    import torch

    from mldec.data.loader import steps_per_epoch
    from mldec.engine import build, config_checks, config_properties, data_splits
    from mldec.errors import DataError
    from mldec.labels import LabelSpace
    from mldec.models.complexity import count_macs, count_parameters
    from mldec.models.label_embeddings import LabelEmbeddings

    config_checks.check_config(config)
    train = embeddings = None
    if assumed_labels is None:
        try:
            splits = data_splits.build_splits(config)
        except DataError as error:
            raise DataError(f"{error}\nadd num_labels=N to see the network without the dataset") from None
        labels, train = splits.labels, splits.train
        say(f"images       {len(splits.train):,} train, {len(splits.val):,} val, {len(splits.test):,} test")
    else:
        labels = LabelSpace([f"label {number}" for number in range(assumed_labels)])
        if config_properties.uses_label_embeddings(config):
            embeddings = LabelEmbeddings(labels.names, torch.randn(len(labels), ASSUMED_WIDTH), "assumed")
            say(f"embeddings   assumed: {ASSUMED_WIDTH} numbers per label")
    classifier = build.build_bare_classifier(config, labels, embeddings)
    for name, part in (("backbone", classifier.backbone), ("head", classifier.head), ("network", classifier)):
        total, trainable = count_parameters(part)
        say(f"{name:<12} {total:,} parameters, {trainable:,} trained")
    macs = count_macs(classifier, config_properties.image_size(config))
    cost = f"{macs / 1e9:.2f} G" if macs >= 1e9 else f"{macs / 1e6:.1f} M"
    say(f"cost         {cost} multiply-accumulates per image of {config_properties.image_size(config)} px")
    say(f"labels       {len(labels)}")
    steps = 1000  # where images are not at hand, enough for the curve's shape
    batch_size, epochs = config.schedule.batch_size, config.schedule.epochs
    if train is not None:
        runtime = config.runtime
        steps = steps_per_epoch(len(train), batch_size, limit=runtime.limit_train_batches, overfit=runtime.overfit)
        say(f"steps        {steps * epochs:,} = {epochs} epochs of {steps:,} steps of {batch_size} images")
    schedule, last = build.build_schedule(config, steps), steps * epochs - 1
    points = [schedule(round(place * last / 59)).lr for place in range(60)]
    say(f"rate         {curve(points)}  {points[0]:.2g} to {max(points):.2g} to {points[-1]:.2g}")


def curve(values: Sequence[float]) -> str:
    """Values as a line of bars, scaled from 0 to their maximum."""
    top = max(values) or 1.0
    return "".join(BARS[min(len(BARS) - 1, int(value / top * len(BARS)))] for value in values)
