"""Attention and dropout with implementations of their own for the CPU; elsewhere both are torch's kernels.

On the CPU torch's dropout draws one Bernoulli variable per entry, which takes a sixth of the time of a training step
of ML-Decoder. Sixteen bits of a random integer decide as well, and one draw of 64 bits serves four entries.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 2**16


class Dropout(nn.Dropout):
    """`torch.nn.Dropout`, computed by `dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        return dropout(input, self.p, self.training)


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """In training, set each entry of `x` to zero with probability `p` and scale the others by 1 / (1 - p).

    On the CPU `p` is rounded to a multiple of 1 / 65,536 below 1. Random numbers come from torch's default generator.
    """
    if not training or p == 0:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling():  # a single fused kernel
        return F.dropout(x, p)
    return x * _dropout_factors(x, min(round(p * LEVELS), LEVELS - 1))


def attention(query: Tensor, key: Tensor, value: Tensor, dropout_p: float = 0.0) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V (paper eq. 1), with dropout of the softmax's entries.

    Args:
        query: (B, heads, Q, d).
        key, value: (B, heads, T, d).

    Returns:
        (B, heads, Q, d): in the dtype of `query`; on the CPU float32 at least.
    """
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout_p)
    # In bfloat16 torch's fused kernel is 10 to 20 times slower than in float32 on processors without AMX.
    dtype = torch.promote_types(query.dtype, torch.float32)
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    with full_precision(query):
        if dropout_p > 0:  # which the fused kernel does not support on the CPU
            return dropout(attention_weights(query, key), dropout_p, training=True) @ value
        return F.scaled_dot_product_attention(query, key, value)


def attention_weights(query: Tensor, key: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)): (B, heads, Q, T)."""
    return torch.softmax(query @ key.transpose(2, 3) / query.shape[-1] ** 0.5, dim=-1)


def full_precision(like: Tensor) -> AbstractContextManager[object]:
    """A context without autocast on the device of `like`, for softmax and for the product that gives logits.

    bfloat16 has 256 values per power of two, and tied scores cannot be ranked.
    """
    if like.device.type == "meta":  # has shapes only, and older torch has no autocast for it
        return nullcontext()
    return torch.autocast(like.device.type, enabled=False)


def _dropout_factors(like: Tensor, dropped: int) -> Tensor:
    """Of the shape and dtype of `like`: 0 for `dropped` of the 65,536 levels, else the scale that keeps the mean."""
    draws = torch.empty(-(-like.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    levels = draws.view(torch.int16)[: like.numel()].view(like.shape)
    return (levels >= dropped - LEVELS // 2).to(like.dtype).mul_(LEVELS / (LEVELS - dropped))
