"""The moving average of the weights: its update against a copy of as many bytes, and as a share of a training step."""

from __future__ import annotations

import torch

from mldec.benchmarks.figure import Figure
from mldec.benchmarks.network import Network
from mldec.benchmarks.rate import Rate, memory_copy, ratio_figure, sample_in_turn, time_figure
from mldec.config import Config
from mldec.engine.ema import Ema

COPY, STEP = 3.0, 2.0  # targets: x the time of a copy; % of a training step


def measure(
    large: Config, small: Config, *, num_labels: int = 80, repeats: int = 3, seconds: float = 1.0
) -> list[Figure]:
    """The update of a `large` network against a copy, and that of a `small` one against its training step."""
    network = Network(large, num_labels)
    device, raw = network.trainer.device, network.trainer.state.model
    average = Ema(raw)
    update = Rate(lambda: average.update(raw), 1, device, seconds)
    size = sum(part.numel() * part.element_size() for part in (*raw.parameters(), *raw.buffers()))
    copy = memory_copy(torch.zeros(size // 4, device=device), seconds)
    copy.amount = 1
    small_network = Network(small, num_labels)
    small_raw = small_network.trainer.state.model
    small_average = Ema(small_raw)
    small_update = Rate(lambda: small_average.update(small_raw), 1, device, seconds)
    batch_size = small.schedule.batch_size
    step = Rate(lambda: small_network.train(batch_size), 1, device, seconds)
    sample_in_turn((update, copy, small_update, step), repeats, seconds)
    return [
        ratio_figure(
            f"update of {large.backbone.name} over a copy of its bytes",
            update,
            copy,
            unit="x",
            target=COPY,
            better="lower",
        ),
        ratio_figure(f"update in a training step of {small.name}", small_update, step, target=STEP, better="lower"),
        time_figure(f"update of {large.backbone.name}", update, f"{size / 1e6:,.0f} MB"),
        time_figure(f"update of {small.name}", small_update),
        time_figure(f"training step of {small.name}", step, f"batches of {batch_size}"),
    ]
