"""ML-Decoder by itself: how near its products come to the rate of one large product, and what more classes cost.

The work is that of the paper's table of costs (paper §3.6): multiply-accumulates of the input projection, of attention
with its projections, of the feed-forward part and of the group fully-connected layer, the backward pass twice as many.
What is computed once for a batch counts once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mldec.benchmarks.figure import Figure
from mldec.benchmarks.rate import Rate, matrix_figure, matrix_product, ratio_figure, sample_in_turn
from mldec.models.heads import MLDecoder

FEATURES, DIM, FFN_DIM = 2048, 768, 2048


class Shape(NamedTuple):
    """N classes, K queries, T tokens, B images."""

    classes: int
    queries: int
    tokens: int
    images: int

    def __str__(self) -> str:
        return f"{self.classes} classes, {self.queries} queries, {self.tokens} tokens, {self.images} images"


#: COCO at 448 px; Open Images with 5,000 and with all classes at 224 px.
SHAPES = (Shape(80, 80, 196, 16), Shape(5000, 100, 49, 32), Shape(9605, 100, 49, 32))
FEW, MANY = Shape(100, 100, 49, 32), Shape(9605, 100, 49, 32)
FORWARD, BOTH, BOTH_WITH_DROPOUT, MORE_CLASSES = 85.0, 80.0, 70.0, 1.25  # targets: % of the matrix product; x


def measure(
    device: torch.device, dtype: torch.dtype, *, scale: float = 1.0, repeats: int = 3, seconds: float = 1.0
) -> list[Figure]:
    """All figures of the head. `scale` shrinks the batches; targets belong to 1 on the CPU in float32."""
    product = matrix_product(device, dtype, seconds)
    rates: dict[str, tuple[Rate, float | None]] = {}
    for shape in (scaled(shape, scale) for shape in SHAPES):
        for dropout, target in ((0.0, BOTH), (0.1, BOTH_WITH_DROPOUT)):
            head, work = ml_decoder(shape, dropout, device, dtype), macs(shape, shared=dropout == 0)
            title = f"{shape}, dropout {dropout:g}"
            forward = FORWARD if dropout == 0 else None
            rates[f"{title}: forward"] = Rate(head.forward, work, device, seconds), forward
            rates[f"{title}: forward and backward"] = Rate(head.both, 3 * work, device, seconds), target
    few, many = (ml_decoder(scaled(shape, scale), 0.0, device, dtype) for shape in (FEW, MANY))
    cost = [Rate(head.both, 1, device, seconds) for head in (few, many)]
    sample_in_turn([product, *(rate for rate, _ in rates.values()), *cost], repeats, seconds)
    figures = [
        ratio_figure(f"{name}, of the matrix product", rate, product, target=target)
        for name, (rate, target) in rates.items()
    ]
    name = f"{MANY.classes} classes against {FEW.classes}, {MANY.queries} queries: forward and backward"
    figures.append(ratio_figure(name, cost[1], cost[0], unit="x", target=MORE_CLASSES, better="lower"))
    return [*figures, matrix_figure(product.samples, device, dtype)]


def macs(shape: Shape, *, shared: bool) -> int:
    """Multiply-accumulates of a forward pass in training; `shared`: no dropout tells the images' queries apart."""
    n, k, t, b = shape
    group = -(-n // k)
    projected = (1 if shared else b) * k * DIM * DIM  # queries
    tokens = t * FEATURES * DIM + 2 * t * DIM * DIM  # the input projection, keys, values
    queries = 2 * k * t * DIM + k * DIM * DIM + 2 * k * DIM * FFN_DIM + k * DIM * group
    return projected + b * (tokens + queries)


class Head:
    """A head in training on random tokens, whose gradients are asked for too."""

    def __init__(self, head: nn.Module, shape: Shape, device: torch.device, dtype: torch.dtype) -> None:
        n, _, t, b = shape
        self.head = head.to(device, dtype)
        self.tokens = torch.randn(b, t, FEATURES, device=device, dtype=dtype, requires_grad=True)
        self.gradient = torch.randn(b, n, device=device, dtype=dtype)
        self.inputs = [self.tokens, *(p for p in self.head.parameters() if p.requires_grad)]

    def forward(self) -> Tensor:
        logits: Tensor = self.head(self.tokens)
        return logits

    def both(self) -> object:
        return torch.autograd.grad(self.forward(), self.inputs, self.gradient)


def ml_decoder(shape: Shape, dropout: float, device: torch.device, dtype: torch.dtype) -> Head:
    """ML-Decoder of a shape, in the paper's widths."""
    module = MLDecoder(FEATURES, shape.classes, shape.queries, dim=DIM, ffn_dim=FFN_DIM, dropout=dropout)
    return Head(module, shape, device, dtype)


def scaled(shape: Shape, scale: float) -> Shape:
    """With a part of the images, at least one."""
    return shape._replace(images=max(1, round(shape.images * scale)))
