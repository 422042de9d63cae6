"""Speed and memory of networks in training and inference, as in the paper's Table 9.

The timed steps are that of `Trainer`, with every part that the experiment configures, and the network in evaluation,
both on random images that are on the device already, so that loading does not count. All configurations are measured
once per round, so that other load on a shared machine affects all of them alike.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple, TypeVar

import torch

from mldec.benchmarks.figure import Figure
from mldec.benchmarks.memory import PeakMemory, limited_memory, release
from mldec.benchmarks.network import Cost, Network, count_cost, inference_batch, search_largest_batch
from mldec.benchmarks.rate import SLOW, Rate, matrix_figure, matrix_product
from mldec.config import Config
from mldec.engine.device import choose_device, choose_precision
from mldec.errors import is_out_of_memory

logger = logging.getLogger(__name__)

SEARCH = 15  # times `seconds`: the most that the search for the largest batch takes

Result = TypeVar("Result")


class Case(NamedTuple):
    """A configuration to measure. Its title begins the names of its figures."""

    title: str
    config: Config
    num_labels: int


def measure(
    cases: Sequence[Case], *, repeats: int = 3, seconds: float = 2.0, largest_batch: bool = True
) -> list[Figure]:
    """All figures of `cases`, which share one device and precision.

    Rates are also given over those of the first case with the same number of labels. A batch that does not fit into
    memory is halved until it does; a figure that never fits has no value.

    Args:
        cases: with different titles. Neither their datasets nor their pretrained weights are read.
        repeats: rounds. Slow cases get fewer, at least one.
        seconds: about how long each rate is measured in a round; a single step may be longer.
        largest_batch: search for the largest batch that can be trained, on CUDA; compiled networks would be compiled
            for each size.

    Raises:
        ConfigError: settings that do not fit one another, the number of labels or this machine; nothing was timed then.
    """
    device = choose_device(cases[0].config.runtime.device)
    dtype = choose_precision(cases[0].config.runtime.precision, device)
    costs = [count_cost(case.config, case.num_labels) for case in cases]
    # The memory of what torch loads in a first step would otherwise count for the first case.
    size = min(4, cases[0].config.schedule.batch_size)
    _halved_until_it_fits(lambda size: Network(cases[0].config, cases[0].num_labels).train(size), size, device)
    subjects = [_Subject(case, device, seconds, largest_batch) for case in cases]
    products = []
    for number in range(repeats):
        logger.info("round %d of %d", number + 1, repeats)
        products.append(matrix_product(device, dtype, seconds).sample(seconds))
        for subject in subjects:
            subject.round(seconds, repeats)
    figures = []
    for subject, cost in zip(subjects, costs, strict=True):
        first = next(other for other in subjects if other.case.num_labels == subject.case.num_labels)
        figures += [*subject.figures(first), *_size_figures(subject, cost, median(products))]
    if device.type != "cuda":
        note = f"only searched for on CUDA, this is {device.type}"
        figures.append(Figure("largest training batch", None, "images", note=note, better="higher"))
    return [*figures, matrix_figure(products, device, dtype)]


class _Subject:
    """A case while it is measured. What does not fit into memory stays None."""

    network: Network | None = None
    training: Rate | None = None
    inference: Rate | None = None
    peak: float | None = None
    largest: tuple[int, str] | None = None

    def __init__(self, case: Case, device: torch.device, seconds: float, largest_batch: bool) -> None:
        """Build the network, find the batches that fit, warm up, and measure what is measured once."""
        self.case, self.device = case, device

        def begin(size: int) -> tuple[Network, Rate, float | None]:
            peak = PeakMemory(device)
            network = Network(case.config, case.num_labels)  # anew: a failed step may leave half an optimizer's state
            training = Rate(lambda: network.train(size), size, device, seconds)
            return network, training, peak.mib()

        begun = _halved_until_it_fits(begin, case.config.schedule.batch_size, device)
        if begun is None:
            logger.info("%s: out of memory", case.title)
            return
        network, self.training, self.peak = begun
        self.network, size = network, round(self.training.amount)
        logger.info("%s: a step of %d images takes %.3g s", case.title, size, self.training.duration)
        self.inference = _halved_until_it_fits(
            lambda size: Rate(lambda: network.infer(size), size, device, seconds), inference_batch(case.config), device
        )
        if device.type == "cuda" and largest_batch:
            self.largest = search_largest_batch(network, size, SEARCH * seconds)
        self._make_room()

    def round(self, seconds: float, repeats: int) -> None:
        """Sample each rate, except slow ones that have used up their time."""
        rates = [rate for rate in (self.training, self.inference) if rate and rate.spent < SLOW * seconds * repeats]
        for rate in rates:
            try:
                with limited_memory(self.device):
                    if self.network is not None:
                        self.network.move(self.device)
                    rate.sample(seconds)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                rate.spent = math.inf  # the samples of all cases stay aligned by rounds
            self._make_room()

    def figures(self, first: _Subject) -> list[Figure]:
        """Rates, batches and memory; `first` is what the rates are compared with."""
        title, found = self.case.title, []
        wanted, inference_wanted = self.case.config.schedule.batch_size, inference_batch(self.case.config)
        for name, rate, other, size in (
            ("training", self.training, first.training, wanted),
            ("inference", self.inference, first.inference, inference_wanted),
        ):
            found.append(_rate_figure(f"{title}: {name}", rate, size))
            if first is not self and rate and other and rate.samples and other.samples:
                # Round by round, since the samples of one round saw the same state of the machine.
                ratios = [ours / theirs for ours, theirs in zip(rate.samples, other.samples, strict=False)]
                name = f"{title}: {name} over {first.case.config.head.name}"
                found.append(Figure.of_samples(name, ratios, "x", better="higher"))
        if self.training is None:
            return found
        found.append(Figure(f"{title}: training batch", self.training.amount, "images", better="higher"))
        if self.largest is not None:
            value, note = self.largest
            found.append(Figure(f"{title}: largest training batch", value, "images", note=note, better="higher"))
        note = "allocated by torch" if self.device.type == "cuda" else "growth of the process's peak resident memory"
        note = "not measured: needs CUDA or Linux" if self.peak is None else note
        found.append(Figure(f"{title}: peak memory of training", self.peak, "MiB", note=note))
        return found

    def _make_room(self) -> None:
        if self.network is not None:
            self.network.move(torch.device("cpu"))
        if self.device.type != "cpu":
            release(self.device)


def _halved_until_it_fits(attempt: Callable[[int], Result], size: int, device: torch.device) -> Result | None:
    """The result of `attempt` for the first of size, size / 2, …, 1 that fits into memory; None if none does."""
    while size:
        try:
            with limited_memory(device):
                return attempt(size)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        release(device)  # here, since the error holds on to the tensors of the failed step
        size //= 2
    return None


def _rate_figure(name: str, rate: Rate | None, wanted: int) -> Figure:
    if rate is None or not rate.samples:
        return Figure(name, None, "img/s", note="out of memory", better="higher")
    lowered = f", since {wanted} do not fit into memory" if rate.amount < wanted else ""
    rounds = f"median of {len(rate.samples)} rounds" if len(rate.samples) > 1 else "one round"
    note = f"{rounds}, batches of {rate.amount}{lowered}"
    return Figure.of_samples(name, rate.samples, "img/s", note=note, better="higher")


def _size_figures(subject: _Subject, cost: Cost, product: float) -> list[Figure]:
    """The cost of one image, and the share of the matrix product's rate that inference reaches."""
    title = subject.case.title
    found = [
        Figure(f"{title}: multiply-accumulates", cost.macs / 1e9, "G", note="of one image"),
        Figure(f"{title}: parameters", cost.parameters / 1e6, "M"),
    ]
    if subject.inference and subject.inference.samples:
        macs = cost.batch_macs / inference_batch(subject.case.config)
        share = 100 * macs * median(subject.inference.samples) / product
        note = "inference in batches, over the rate of the matrix product"
        found.append(Figure(f"{title}: share of matrix product", share, "%", note=note, better="higher"))
    return found
