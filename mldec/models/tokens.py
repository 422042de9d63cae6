"""What passes between a backbone, a head and a loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor


class Tokens(NamedTuple):
    """Features of a batch of images, one vector per position.

    Attributes:
        values: (B, T, C) floating point.
        grid: (H, W) with H * W = T where the tokens are a map read row by row, None where no grid is known.
        prefix: (B, P, C) the class token and others without a position, of networks that have some; else None.
    """

    values: Tensor
    grid: tuple[int, int] | None
    prefix: Tensor | None = None


class HeadOutput(NamedTuple):
    """What a head gives in training instead of logits alone, if its method has a loss that needs more than these.

    Attributes:
        logits: (B, N) floating point.
        details: further tensors by name, for a loss that lists them in its `needs`. The head's config class lists
            them in its class attribute `gives`.
    """

    logits: Tensor
    details: Mapping[str, Tensor]


def token_values(tokens: Tokens | Tensor) -> Tensor:
    """The (B, T, C) tensor of `tokens`; heads accept both forms. Raises ValueError for another rank."""
    values = tokens.values if isinstance(tokens, Tokens) else tokens
    if values.dim() != 3:
        raise ValueError(
            f"a head takes tokens of shape (B, T, C), found {tuple(values.shape)}; flatten maps to rows first"
        )
    return values


def class_token(tokens: Tokens | Tensor) -> Tensor:
    """The (B, C) class token, the first of those without a position. Raises ValueError where there is none."""
    if not isinstance(tokens, Tokens) or tokens.prefix is None:
        raise ValueError("the head reads the class token: it takes Tokens with a prefix (B, P, C)")
    return tokens.prefix[:, 0]


def token_map(tokens: Tokens | Tensor, reader: str) -> Tensor:
    """The (B, C, H, W) map of `tokens`. Raises ValueError where there is no grid; `reader` names what needs one."""
    values = token_values(tokens)
    if not isinstance(tokens, Tokens) or tokens.grid is None:
        raise ValueError(
            f"{reader} has convolutions, which need the grid of the tokens, and this backbone does not give one; use "
            "another backbone, or a head that reads tokens in any order"
        )
    return values.transpose(1, 2).unflatten(2, tokens.grid)
