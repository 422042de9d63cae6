"""Dropout as torch defines it, with cheaper chance on the processor.

There torch draws one Bernoulli variable an entry, which takes as long as a sixth of all else that ML-Decoder does in a
training step. Sixteen bits of a uniform integer decide as well, and one draw of 64 bits serves four entries.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 2**16


class Dropout(nn.Dropout):
    """`torch.nn.Dropout` by `dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        return dropout(input, self.p, self.training)


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """In training each entry of `x` is zero with probability `p` and else x / (1 - p); as it is otherwise.

    On the processor `p` is rounded to a multiple of 1 / 65,536, below 1, and chance comes from torch's generator.
    """
    if not training or p == 0:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling():  # one kernel each
        return F.dropout(x, p)
    return x * _noise(x, min(round(p * LEVELS), LEVELS - 1))


def _noise(like: Tensor, dropped: int) -> Tensor:
    """Of the shape and dtype of `like`: 0 for `dropped` of 65,536 levels, else what keeps the expectation."""
    draws = torch.empty(-(-like.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    levels = draws.view(torch.int16)[: like.numel()].view(like.shape)
    return (levels >= dropped - LEVELS // 2).to(like.dtype).mul_(LEVELS / (LEVELS - dropped))
