"""A network with all that trains it, on random images: what `mldec benchmark model` times."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from time import perf_counter
from typing import NamedTuple

import torch

from mldec.benchmarks.memory import release
from mldec.benchmarks.rate import synchronize
from mldec.config import Config
from mldec.data.index import ImageIndex
from mldec.data.loader import Batch
from mldec.engine import build, config_checks, config_properties, data_splits
from mldec.engine.display import Display
from mldec.engine.trainer import Trainer
from mldec.errors import is_out_of_memory
from mldec.labels import LabelSpace
from mldec.models.complexity import count_macs, count_parameters
from mldec.models.label_embeddings import LabelEmbeddings

POSITIVES = 3  # labels of a random image
EMBEDDING_WIDTH = 300  # of random label embeddings, where the head needs some: that of GloVe and fastText
LARGEST = 2**20  # images, where the search for the largest batch ends


class Network:
    """The trainer of an experiment with `num_labels` labels, on random images that lie on its device.

    Neither the dataset nor pretrained weights are read. torch's out-of-memory error is passed on.
    """

    def __init__(self, config: Config, num_labels: int) -> None:
        self.num_labels = num_labels
        samples = ((str(number), (0,), (), ()) for number in range(config.schedule.batch_size))
        index = ImageIndex.build(samples, root=".", labels=_labels(num_labels))  # never opened
        embeddings, splits = _label_embeddings(config, num_labels), data_splits.Splits(index, index, index)
        self.trainer = Trainer(config, splits, Display(quiet=True), fresh=False, label_embeddings=embeddings)
        self.batch: Batch | None = None

    def train(self, size: int) -> None:
        """One update from a batch of `size` images."""
        trainer = self.trainer
        trainer.network.train()
        trainer.state.progress.updates = 0  # the schedule ends, this does not
        trainer.train_step(self._batch(size))

    def infer(self, size: int) -> None:
        """The scores of `size` images, in evaluation."""
        trainer, batch = self.trainer, self._batch(size)
        trainer.network.eval()
        with torch.inference_mode():
            trainer.scorer(trainer.network, batch.images)

    def move(self, device: torch.device) -> None:
        """Move weights and optimizer state to `device`: those of waiting networks free memory for the measured one."""
        trainer = self.trainer
        self.forget()
        trainer.state.model.to(device)
        if trainer.state.ema is not None:
            trainer.state.ema.module.to(device)
        for state in trainer.state.optimizer.state.values():
            for key, value in state.items():
                if isinstance(value, torch.Tensor) and value.ndim:  # a counter of steps stays where it is
                    state[key] = value.to(device)

    def forget(self) -> None:
        """Drop what steps leave behind: gradients and the batch."""
        self.trainer.state.optimizer.zero_grad(set_to_none=True)
        self.batch = None

    def _batch(self, size: int) -> Batch:
        if self.batch is None or len(self.batch.ids) != size:
            self.batch = None  # frees its memory first
            device = self.trainer.device
            positives = 1 if self.trainer.single_label else min(POSITIVES, self.num_labels)
            columns = torch.randint(self.num_labels, (size, positives), device=device)
            self.batch = Batch(
                self._inputs(size),
                torch.zeros(size, self.num_labels, dtype=torch.int8, device=device).scatter_(1, columns, 1),
                torch.arange(size),
            )
        return self.batch

    def _inputs(self, size: int) -> torch.Tensor:
        """What the scorer prepares for the network, of `size` images."""
        side = self.trainer.config.dataset.image_size
        return torch.randint(256, (size, 3, side, side), dtype=torch.uint8, device=self.trainer.device)


class Cost(NamedTuple):
    """Multiply-accumulates of one image and of a batch in inference, and parameters."""

    macs: int
    batch_macs: int
    parameters: int


def count_cost(config: Config, num_labels: int) -> Cost:
    """The cost of an experiment's network. Raises ConfigError for settings that do not fit together."""
    config_checks.check_config(config)
    classifier = build.build_classifier(
        config, _labels(num_labels), _label_embeddings(config, num_labels), pretrained=False
    )
    side, batch = config.dataset.image_size, inference_batch(config)
    parameters, _ = count_parameters(classifier)
    return Cost(count_macs(classifier, side), count_macs(classifier, side, batch), parameters)


def inference_batch(config: Config) -> int:
    """Images of a batch in evaluation."""
    return int(config.runtime.eval_batch_size or config.schedule.batch_size)


def search_largest_batch(network: Network, start: int, seconds: float) -> tuple[int, str]:
    """The most images that can be trained at once, and a note on the search; `start` is known to fit.

    After about `seconds` the largest batch found until then counts.
    """
    ends, device, note = perf_counter() + seconds, network.trainer.device, ""

    def fits(size: int) -> bool:
        nonlocal note
        if perf_counter() > ends or size > LARGEST:
            note = "at least: the search was cut short"
            return False
        try:
            network.train(size)
            synchronize(device)
            return True
        except RuntimeError as error:  # also of cuDNN, which finds no algorithm where memory is short
            note = "" if is_out_of_memory(error) else f"above it: {str(error).splitlines()[0]}"
        network.forget()  # here, since the error holds on to the tensors of the failed step
        release(device)
        return False

    chooses_kernels = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False  # it would try all of them for each size
    try:
        return largest_fitting(fits, start), note
    finally:
        torch.backends.cudnn.benchmark = chooses_kernels


def largest_fitting(fits: Callable[[int], bool], start: int) -> int:
    """The largest number that fits, by doubling and bisecting: a multiple of 8, or any number below 8."""
    low = start
    while fits(2 * low):
        low *= 2
    larger = [size for size in range(low + 1, 2 * low) if size < 8 or size % 8 == 0]
    fitting = bisect_left(larger, True, key=lambda size: not fits(size))
    largest = larger[fitting - 1] if fitting else low
    return largest - largest % 8 if largest >= 8 else largest


def _labels(count: int) -> LabelSpace:
    return LabelSpace([f"label {number}" for number in range(count)])


def _label_embeddings(config: Config, num_labels: int) -> LabelEmbeddings | None:
    if not config_properties.uses_label_embeddings(config):
        return None
    return LabelEmbeddings(_labels(num_labels).names, torch.randn(num_labels, EMBEDDING_WIDTH), "random")
