"""What an experiment costs: the lines of `mldec show`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from mldec.config import Config
from mldec.data.loader import steps_per_epoch
from mldec.engine import build, config_checks, config_properties, data_splits
from mldec.errors import DataError
from mldec.labels import LabelSpace
from mldec.models.complexity import count_macs, count_parameters
from mldec.models.label_embeddings import LabelEmbeddings

ASSUMED_WIDTH = 300  # of label embeddings that are not read: that of GloVe and fastText
BARS = "▁▂▃▄▅▆▇█"


def summarize(config: Config, assumed_labels: int | None = None) -> Iterator[str]:
    """Lines with the size of the network and the schedule of an experiment.

    Args:
        assumed_labels: number of labels, for which the dataset is not read.

    Raises DataError if the dataset cannot be read.
    """
    config_checks.check_config(config)
    train = embeddings = None
    if assumed_labels is None:
        try:
            splits = data_splits.build_splits(config)
        except DataError as error:
            raise DataError(f"{error}\nadd num_labels=N to see the network without the dataset") from None
        labels, train = splits.labels, splits.train
        sizes = ", ".join(f"{len(index):,} {split}" for split, index in zip(splits._fields, splits, strict=True))
        shared = data_splits.describe_test_split(config)
        yield f"images       {sizes}" + (f"; {shared}" if shared else "")
    else:
        labels = LabelSpace([f"label {number}" for number in range(assumed_labels)])
        if config_properties.uses_label_embeddings(config):
            embeddings = LabelEmbeddings(labels.names, torch.randn(len(labels), ASSUMED_WIDTH), "assumed")
            yield f"embeddings   assumed: {ASSUMED_WIDTH} numbers per label"
    classifier = build.build_classifier(config, labels, embeddings, pretrained=False)
    for name, part in (("backbone", classifier.backbone), ("head", classifier.head), ("network", classifier)):
        total, trainable = count_parameters(part)
        yield f"{name:<12} {total:,} parameters, {trainable:,} trained"
    macs = count_macs(classifier, config.dataset.image_size)
    cost = f"{macs / 1e9:.2f} G" if macs >= 1e9 else f"{macs / 1e6:.1f} M"
    yield f"cost         {cost} multiply-accumulates per image of {config.dataset.image_size} px"
    yield f"labels       {len(labels)}"
    steps = 1000  # enough for the shape of the curve, without the images
    batch_size, epochs = config.schedule.batch_size, config.schedule.epochs
    if train is not None:
        runtime = config.runtime
        steps = steps_per_epoch(len(train), batch_size, limit=runtime.limit_train_batches, overfit=runtime.overfit)
        yield f"steps        {steps * epochs:,} = {epochs} epochs of {steps:,} steps of {batch_size} images"
    schedule, last = build.build_schedule(config, steps), steps * epochs - 1
    points = [schedule(round(place * last / 59)).lr for place in range(60)]
    yield f"rate         {_curve(points)}  {points[0]:.2g} to {max(points):.2g} to {points[-1]:.2g}"


def _curve(values: Sequence[float]) -> str:
    """Values as a line of bars, scaled from 0 to their maximum."""
    top = max(values) or 1.0
    return "".join(BARS[min(len(BARS) - 1, int(value / top * len(BARS)))] for value in values)
