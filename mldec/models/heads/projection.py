"""A learned map of the tokens to another width, before a head reads them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mldec.models.tokens import Tokens, token_values


class TokenProjection(nn.Module):
    """relu(W x + b) of each token, as ML-Decoder has it; without a width the tokens as they are.

    It lets heads be compared at one width, or a head of a fixed width read any backbone.

    Args:
        in_features: C, width of the tokens.
        width: that of the result; None: nothing is learned and nothing is changed.

    Attributes:
        out_features: the width of the result.
    """

    def __init__(self, in_features: int, width: int | None = None) -> None:
        super().__init__()
        self.out_features = in_features if width is None else width
        self.linear = None if width is None else nn.Linear(in_features, width)

    def forward(self, tokens: Tokens | Tensor) -> Tokens:
        """Tokens (B, T, out_features) with the grid of `tokens`; those without a position are mapped alike.

        A tensor (B, T, C) gives Tokens without a grid. Raises ValueError for another rank.
        """
        values_BTC = token_values(tokens)
        grid, prefix_BPC = (tokens.grid, tokens.prefix) if isinstance(tokens, Tokens) else (None, None)
        if self.linear is None:
            return Tokens(values_BTC, grid, prefix_BPC)
        prefix = None if prefix_BPC is None else F.relu(self.linear(prefix_BPC))
        return Tokens(F.relu(self.linear(values_BTC)), grid, prefix)
