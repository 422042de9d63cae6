"""The losses on a batch of many labels: the asymmetric loss as it runs, and as the plain chain of operations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mldec.benchmarks.figure import Figure
from mldec.benchmarks.rate import Rate, ratio_figure, sample_in_turn, time_figure
from mldec.losses import AsymmetricLoss, BinaryCrossEntropy, ThreeStateLoss

IMAGES, LABELS, POSITIVES, UNKNOWN = 128, 9605, 3, 0.3
PLAIN = 0.5  # target: the time over that of the plain chain


def measure(device: torch.device, *, scale: float = 1.0, repeats: int = 3, seconds: float = 1.0) -> list[Figure]:
    """Forward and backward. `scale` shrinks the number of labels; targets belong to 1 on the CPU."""
    labels = max(POSITIVES, round(LABELS * scale))
    logits = torch.randn(IMAGES, labels, device=device, requires_grad=True)
    targets = torch.zeros(IMAGES, labels, dtype=torch.int8, device=device)
    targets[torch.rand(IMAGES, labels, device=device) < UNKNOWN] = -1
    targets.scatter_(1, torch.randint(labels, (IMAGES, POSITIVES), device=device), 1)

    def rate(loss: Callable[[Tensor, Tensor], Tensor]) -> Rate:
        return Rate(lambda: torch.autograd.grad(loss(logits, targets), logits), 1, device, seconds)

    asymmetric = AsymmetricLoss()
    ours = rate(asymmetric)
    plain = rate(lambda x, y: ThreeStateLoss.forward(asymmetric, x, y))
    binary = rate(BinaryCrossEntropy())
    sample_in_turn((ours, plain, binary), repeats, seconds)
    note = f"{IMAGES} images, {labels:,} labels, forward and backward"
    return [
        ratio_figure("asymmetric loss over the plain chain", ours, plain, unit="x", target=PLAIN, better="lower"),
        ratio_figure("asymmetric loss over binary cross-entropy", ours, binary, unit="x", better="lower"),
        time_figure("asymmetric loss", ours, note),
        time_figure("asymmetric loss, plain chain", plain, note),
        time_figure("binary cross-entropy", binary, note),
    ]
