"""Time of heads on the tokens of a frozen backbone: training steps, and answers for one image and for a batch.

All heads are measured once per round, so that other load on a shared machine affects all of them alike; compare their
ratios. Tokens are random and in memory; reading them from a cache is measured by `mldec benchmark cache`.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import torch

from mldec.benchmarks.figure import Figure
from mldec.benchmarks.model import Case
from mldec.benchmarks.network import Network
from mldec.benchmarks.rate import Rate
from mldec.config import Config
from mldec.engine.inference import TokenScorer
from mldec.models.complexity import count_macs, count_parameters

BATCHES = (1, 64)  # images whose logits are computed at once


class TokenNetwork(Network):
    """The trainer of an experiment whose head reads random tokens in place of images."""

    def __init__(self, config: Config, num_labels: int) -> None:
        super().__init__(config, num_labels)
        trainer, side = self.trainer, config.dataset.image_size
        with torch.no_grad():
            tokens = trainer.state.model.eval().backbone(torch.zeros(1, 3, side, side, device=trainer.device))
        trainer.scorer = scorer = TokenScorer.like(trainer.scorer, tokens)
        self.shape = (scorer.num_prefix + tokens.values.shape[1], tokens.values.shape[2])  # P + T, C

    def _inputs(self, size: int) -> torch.Tensor:
        return torch.randn(size, *self.shape, device=self.trainer.device)

    def sizes(self) -> tuple[int, int]:
        """Parameters of the head, and multiply-accumulates of the head for one image."""
        model, side = self.trainer.state.model, self.trainer.config.dataset.image_size
        parameters, _ = count_parameters(model.head)
        return parameters, count_macs(model, side) - count_macs(model.backbone, side)


def measure(cases: Sequence[Case], *, repeats: int = 3, seconds: float = 1.0) -> list[Figure]:
    """Milliseconds of each head, and over those of the last case.

    Args:
        cases: with different titles; backbones have random weights, and data sets are not read.
        repeats: rounds.
        seconds: about how long each time is measured in a round.
    """
    networks = {case.title: TokenNetwork(case.config, case.num_labels) for case in cases}
    size = cases[0].config.schedule.batch_size
    rates: dict[tuple[str, str], Rate] = {}
    for title, network in networks.items():
        device = network.trainer.device
        rates[title, f"training step of {size} images"] = Rate(lambda n=network: n.train(size), 1, device, seconds)  # type: ignore[misc]
        for count in BATCHES:
            what = f"logits of {count} image{'s' if count > 1 else ''}"
            rates[title, what] = Rate(lambda n=network, c=count: n.infer(c), 1, device, seconds)  # type: ignore[misc]
    for _ in range(repeats):
        for rate in rates.values():
            rate.sample(seconds)
    figures, last = [], cases[-1].title
    for title, network in networks.items():
        parameters, macs = network.sizes()
        figures += [
            Figure(f"{title}: parameters", parameters, ""),
            Figure(f"{title}: multiply-accumulates of an image", macs / 1e6, "M"),
        ]
        for (name, what), rate in rates.items():
            if name == title:
                figures.append(Figure.of_samples(f"{title}: {what}", [1000 / sample for sample in rate.samples], "ms"))
                pairs = zip(rates[last, what].samples, rate.samples, strict=True)
                ratio = median(own / sample for own, sample in pairs)
                figures.append(Figure(f"{title}: {what}, over {last}", ratio, "x"))
    return figures
