"""Two-dimensional sine position encodings of tokens, in Query2Label's published form."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mldec.models.tokens import Tokens


def grid_of(tokens: Tokens | Tensor) -> tuple[int, int] | None:
    """(H, W) of tokens that are a map; None where no grid is known."""
    return tokens.grid if isinstance(tokens, Tokens) else None


def sine_position(grid: tuple[int, int], dim: int, temperature: float = 10_000.0) -> Tensor:
    """Fixed encodings (H * W, dim), float64: the first half of the entries encodes the row, the second the column.

    Row i of H has the coordinate c = 2 pi (i + 1) / (H + 1e-6), and columns likewise, so that a position in the image
    has nearly the same encoding at any grid size. Entry k of a half is the sine, or for odd k the cosine, of
    c / temperature^(2 floor(k / 2) / (dim / 2)).

    Args:
        grid: (H, W).
        dim: a multiple of 4.
    """
    frequencies = temperature ** (-torch.arange(dim // 4, dtype=torch.float64) * 4 / dim)

    def code(length: int) -> Tensor:
        coordinates = torch.arange(1, length + 1, dtype=torch.float64) * (2 * math.pi / (length + 1e-6))
        phase = coordinates[:, None] * frequencies
        return torch.stack([phase.sin(), phase.cos()], dim=2).flatten(1)

    height, width = grid
    rows = code(height)[:, None].expand(height, width, -1)
    columns = code(width)[None].expand(height, width, -1)
    return torch.cat([rows, columns], dim=2).flatten(0, 1)
