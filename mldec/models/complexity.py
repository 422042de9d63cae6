"""The size of a model: multiply-accumulates per image, and parameters."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mldec.models.tracing import shapes_only


def count_macs(model: nn.Module, image_size: int, images: int = 1) -> int:
    """Multiply-accumulates of one image of `image_size` x `image_size` pixels in evaluation (the paper's "Flops").

    A batch of `images` can need fewer than that many single images, since computation on queries is done once per
    batch.

    Convolutions and matrix products are counted, including those of attention; element-wise operations are not. Only
    shapes are propagated through the model: nothing is computed and no memory is used.
    """
    # The math backend of attention consists of matrix products, which every version of the counter supports.
    with (
        shapes_only(model) as (traced, device),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        traced(torch.zeros(images, 3, image_size, image_size, device=device))
    return int(counter.get_total_flops()) // 2


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """(all, trainable) scalars among the parameters; frozen queries are in the first number only."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trainable in sizes if trainable)
