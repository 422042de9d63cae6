"""The whole training loop against a bare loop: the cost of loading, logging, schedule and EMA."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

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
    shares = tuple(100 * a / b for a, b in zip(ours, bare, strict=True))
    note = f"batches of {config.schedule.batch_size}, {len(trainer.batches)} steps a round"
    return [
        Figure(f"training loop of {config.name} over a bare loop", median(shares), "%", SHARE, note, "higher", shares),
        Figure("training loop", median(ours), "img/s", None, "loading and augmenting included", "higher", tuple(ours)),
        Figure("bare loop", median(bare), "img/s", None, "a batch in memory", "higher", tuple(bare)),
    ]


class _Timed(Trainer):
    """A trainer that times its epochs, each followed by one of the bare loop."""

    def train_epoch(self) -> None:
        if not hasattr(self, "loop"):
            self.loop: list[float] = []
            self.bare: list[float] = []
            self._other = _BareLoop(self)
        steps = len(self.batches)
        began = perf_counter()
        super().train_epoch()
        synchronize(self.device)
        self.loop.append(steps * self.config.schedule.batch_size / (perf_counter() - began))
        began = perf_counter()
        for _ in range(steps):
            self._other.step()
        synchronize(self.device)
        self.bare.append(steps * self.config.schedule.batch_size / (perf_counter() - began))


class _BareLoop:
    def __init__(self, trainer: Trainer) -> None:
        batch: Batch = trainer.batches.first()
        self.device, self.dtype, self.loss = trainer.device, trainer.dtype, trainer.loss
        self.classifier = build.build_classifier(trainer.config, trainer.splits.labels, pretrained=False)
        self.classifier.to(device=self.device, memory_format=trainer.memory_format)  # type: ignore[call-overload]
        self.optimizer = build.build_optimizer(trainer.config, self.classifier)
        self.images = trainer.normalization(batch.images.to(self.device)).to(memory_format=trainer.memory_format)
        self.targets = batch.targets.to(self.device)
        self.classifier.train()

    def step(self) -> None:
        with autocast(self.device, self.dtype):
            logits = self.classifier(self.images)
        self.loss(logits, self.targets).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
