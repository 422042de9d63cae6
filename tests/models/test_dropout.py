"""Our dropout against what torch's promises: share, expectation, gradient, chance from torch's generator."""

from __future__ import annotations

import pytest
import torch

from mldec.models.heads.kernels import Dropout, dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.99999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_share_and_expectation(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    found = dropout(torch.ones(1001, 999, dtype=dtype), p, training=True)
    kept = found[found != 0]
    share = len(kept) / found.numel()
    assert share == pytest.approx(1 - p, abs=4 * (p * (1 - p) / found.numel()) ** 0.5 + 2**-17)
    assert (kept == kept[0]).all()
    assert kept[0].item() == pytest.approx(1 / max(1 - p, 2**-16), rel=1e-2)


def test_entries_are_independent() -> None:
    """Of neighbours, of the four that share a draw, and from call to call."""
    torch.manual_seed(1)
    x = torch.ones(2**20)
    first, second = (dropout(x, 0.5, training=True) - 1 for _ in range(2))  # +1 or -1
    for other in (second, *(first.roll(shift) for shift in (1, 2, 3, 4))):
        assert abs((first * other).mean().item()) < 5 / 2**10
    assert all(abs(first[place::4].mean().item()) < 5 / 2**9 for place in range(4))


def test_gradient_is_that_of_what_was_kept() -> None:
    torch.manual_seed(2)
    x = torch.randn(7, 11, 3, requires_grad=True)
    y = dropout(x, 0.3, training=True)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(y.detach(), gradient * x.detach())
    assert set((gradient == 0).flatten().tolist()) == {True, False}


def test_same_seed_same_zeros() -> None:
    layer, x = Dropout(0.2), torch.randn(5, 6)
    torch.manual_seed(3)
    first = layer(x)
    torch.manual_seed(3)
    assert torch.equal(first, layer(x))
    assert not torch.equal(first, layer(x))


def test_nothing_is_dropped_outside_of_training_or_at_zero() -> None:
    x = torch.randn(4)
    assert dropout(x, 0.5, training=False) is x
    assert dropout(x, 0.0, training=True) is x
    assert Dropout(0.5).eval()(x) is x
    assert dropout(torch.empty(0, 3), 0.5, training=True).shape == (0, 3)
