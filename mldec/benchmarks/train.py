"""The whole training loop against a bare loop: the cost of loading, logging, schedule and EMA."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from mldec.benchmarks.figure import Figure
from mldec.benchmarks.generated_images import write_index
from mldec.benchmarks.rate import synchronize
from mldec.config import Config
from mldec.data.loader import Batch
from mldec.engine import build, data_splits
from mldec.engine.device import autocast
from mldec.engine.display import Display
from mldec.engine.trainer import Trainer

SHARE = 90.0  # target: % of the bare loop's speed


def measure(
    config: Config, *, steps: int = 40, repeats: int = 3, images: int | None = None, num_labels: int = 80
) -> list[Figure]:
    """Epochs of `steps` steps of the experiment, in turn with epochs of as many steps of a bare loop.

    The bare loop has the same network, loss, optimizer and precision, and one batch on the device as floats.

    Args:
        images: train on this many generated JPEG files with `num_labels` labels; None: on the experiment's dataset.
    """
    config = dataclasses.replace(
        config,
        schedule=dataclasses.replace(config.schedule, epochs=repeats + 1),
        runtime=dataclasses.replace(config.runtime, limit_train_batches=steps, limit_eval_batches=1, eval_every=10**6),
    )
    with tempfile.TemporaryDirectory(prefix="mldec-") as folder:
        if images is None:
            splits = data_splits.build_splits(config)
        else:
            splits = data_splits.Splits(*[write_index(Path(folder) / "images", images, num_labels)] * 3)
        trainer = _Timed(config, splits, Display(quiet=True))
        trainer.fit(Path(folder) / "run")
    ours, bare = trainer.loop[1:], trainer.bare[1:]  # workers start in the first epoch
    shares = [100 * a / b for a, b in zip(ours, bare, strict=True)]
    note = f"batches of {config.schedule.batch_size}, {len(trainer.batches)} steps a round"
    figure = partial(Figure.of_samples, better="higher")
    return [
        figure(f"training loop of {config.name} over a bare loop", shares, "%", target=SHARE, note=note),
        figure("training loop", ours, "img/s", note="loading and augmenting included"),
        figure("bare loop", bare, "img/s", note="a batch in memory"),
    ]


class _Timed(Trainer):
    """A trainer that times its epochs, each followed by one of the bare loop."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.loop, self.bare = list[float](), list[float]()  # images/s of each epoch
        self._bare_step = _bare_step(self)

    def train_epoch(self) -> None:
        self.loop.append(self._rate(super().train_epoch))
        self.bare.append(self._rate(lambda: [self._bare_step() for _ in range(len(self.batches))]))

    def _rate(self, epoch: Callable[[], object]) -> float:
        began = perf_counter()
        epoch()
        synchronize(self.device)
        return len(self.batches) * self.config.schedule.batch_size / (perf_counter() - began)


def _bare_step(trainer: Trainer) -> Callable[[], None]:
    """A step of the bare loop, with a network and an optimizer of its own."""
    device, memory_format = trainer.device, trainer.memory_format
    batch: Batch = trainer.batches.first()
    classifier = build.build_classifier(trainer.config, trainer.splits.labels, pretrained=False)
    classifier.to(device=device, memory_format=memory_format).train()  # type: ignore[call-overload]
    optimizer = build.build_optimizer(trainer.config, classifier)
    images = trainer.scorer.prepare(batch.images.to(device))
    targets = batch.targets.to(device)

    def step() -> None:
        with autocast(device, trainer.dtype):
            logits = classifier(images)
        trainer.loss(logits, targets).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step
