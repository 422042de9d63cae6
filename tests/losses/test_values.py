"""Values and gradients of the losses against oracles: the equations as loops over images and labels, in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mldec.losses import BinaryCrossEntropy, RankNetLoss, SdlLoss, TwoWayLoss, ranking
from tests.losses.samples import COUNTS, LOSSES, Sample, distribution_balanced, sample


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def softplus(x: float) -> float:
    return math.log1p(math.exp(-abs(x))) + max(x, 0)


def present(row) -> list[int]:
    return [n for n, y in enumerate(row) if y > 0.5]


def absent(row, u: float) -> list[tuple[int, float]]:
    """Columns and weights of what counts as absent."""
    return [(n, 1.0 if y >= 0 else u) for n, y in enumerate(row) if y <= 0.5 and (y >= 0 or u > 0)]


def hinge_ranking(x, y, details, u) -> float:
    total = 0.0
    for row, targets in zip(x, y, strict=True):
        pairs = [(w, 1 + row[n] - row[p]) for p in present(targets) for n, w in absent(targets, u)]
        count = sum(w for w, margin in pairs if margin > 0)
        total += sum(w * max(0, margin) for w, margin in pairs) / (count + 1e-8)
    return total / len(x)


def ranknet(x, y, details, u) -> float:
    total = 0.0
    for row, targets in zip(x, y, strict=True):
        pairs = [(w, row[n] - row[p]) for p in present(targets) for n, w in absent(targets, u)]
        if pairs:
            total += sum(w * softplus(gap) for w, gap in pairs) / sum(w for w, _ in pairs)
    return total / len(x)


def two_way(x, y, details, u, t_pos=4.0, t_neg=1.0) -> float:
    total = 0.0
    for logits, targets in ((x, y), (x.T, y.T)):
        costs = []
        for row, states in zip(logits, targets, strict=True):
            if present(states):
                low = t_pos * math.log(sum(math.exp(-row[p] / t_pos) for p in present(states)))
                high = sum(w * math.exp(row[n] / t_neg) for n, w in absent(states, u))
                costs.append(softplus(low + t_neg * math.log(high)) if high else 0.0)
        total += sum(costs) / len(costs)
    return total


def zlpr(x, y, details, u) -> float:
    total = 0.0
    for row, targets in zip(x, y, strict=True):
        total += math.log(1 + sum(w * math.exp(row[n]) for n, w in absent(targets, u)))
        total += math.log(1 + sum(math.exp(-row[p]) for p in present(targets)))
    return total / len(x)


def balanced(x, y, details, u, gamma=2.0, b=2.0, s=0.0, a=0.1, beta=10.0, mu=0.2, kappa=0.05, nu=2.0) -> float:
    total, counts = 0.0, [min(max(n, 1), 99) for n in COUNTS]
    for row, targets in zip(x, y, strict=True):
        shares = sum(1 / counts[p] for p in present(targets))
        for n, state in enumerate(targets):
            w = a + (sigmoid(beta * (1 / counts[n] / shares - mu)) if shares else 1)
            z = row[n] - kappa * math.log(100 / counts[n] - 1) / nu
            focus = (sigmoid(-z) ** gamma * b, sigmoid(nu * z) ** gamma * b) if gamma else (1.0, 1.0)
            target = max(state, 0) * (1 - s) + s / 2
            cost = target * softplus(-z) * focus[0] + (1 - target) * softplus(nu * z) / nu * focus[1]
            total += (u if state < 0 else 1) * w * cost
    return total / x.size


def sdl(x, y, details, u, weight: float | None = 0.01) -> float:
    total = 0.0
    for row, targets, matrix in zip(x, y, details["matrix"], strict=True):
        chosen = present(targets)
        if not chosen:
            continue
        others = absent(targets, u)
        gaps = [(w, row[n] - row[p]) for p in chosen for n, w in others] or [(1, -row[p]) for p in chosen]
        rank = sum(w * softplus(gap) for w, gap in gaps) / len(chosen)
        vectors = details["label_vectors"][chosen]
        diversity = np.var(vectors, axis=0, ddof=1).sum() if len(chosen) > 1 else 0.0
        value = (1 + diversity) * rank
        if weight is not None:
            spread = np.var(matrix, axis=1, ddof=1).sum() if matrix.shape[1] > 1 else 0.0
            value = 2 * ((1 - weight) * value + weight * spread)
        total += value
    return total / len(x)


def lesa(x, y, details, u) -> float:
    scores, att = details["attention_scores"], details["attention_logits"]
    dist = glob = span = 0.0
    for b, (row, targets) in enumerate(zip(x, y, strict=True)):
        shares = np.exp(att[b]) / np.exp(att[b]).sum(axis=0)
        dist += np.mean([sum(shares[k, p] for p in present(targets)) ** 2 for k in range(len(shares))]) / len(x)
        gain = row - details["mean_logits"][b]
        glob += sum(max(0, -gain[p]) for p in present(targets))
        glob += sum(w * max(0, gain[n]) for n, w in absent(targets, u))
        unit = scores[b] / np.linalg.norm(scores[b], axis=1, keepdims=True)
        span += sum((unit[j] @ unit[k]) ** 2 for j in range(len(unit)) for k in range(len(unit)) if j != k)
    return hinge_ranking(x, y, details, u) + 0.1 * dist + 0.001 * glob + 0.01 * math.sqrt(span)


ORACLES = {
    "hinge_ranking": hinge_ranking,
    "ranknet": ranknet,
    "two_way": two_way,
    "zlpr": zlpr,
    "distribution_balanced": balanced,
    "sdl": sdl,
    "lesa": lesa,
}


def assert_equals(oracle, loss, batch: Sample, **settings) -> None:
    """The value is the oracle's, and each slope of a logit its central difference."""
    x, y = batch.logits.numpy(), batch.targets.numpy()
    details = {key: value.numpy() for key, value in batch.details.items()}
    u = loss.unknown_weight
    logits = batch.logits.clone().requires_grad_()
    value = loss(logits, batch.targets, details=batch.details)
    assert value.item() == pytest.approx(oracle(x, y, details, u, **settings), rel=1e-12)
    (slopes,) = torch.autograd.grad(value, logits)
    if oracle in (hinge_ranking, lesa):  # their count is a constant for the gradient
        return
    step = 1e-5
    for place in np.ndindex(x.shape):
        sides = [oracle(x + sign * step * one_at(place, x.shape), y, details, u, **settings) for sign in (1, -1)]
        assert slopes[place].item() == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-5, abs=1e-8)


def one_at(place: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    grid = np.zeros(shape)
    grid[place] = 1
    return grid


@pytest.mark.parametrize("unknown_weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", LOSSES)
def test_each_loss_equals_its_oracle(name, unknown_weight):
    assert_equals(ORACLES[name], LOSSES[name](unknown_weight=unknown_weight), sample())


@pytest.mark.parametrize("temperatures", [(1.0, 1.0), (2.0, 0.5)])
def test_two_way_with_other_temperatures(temperatures):
    t_pos, t_neg = temperatures
    assert_equals(two_way, TwoWayLoss(t_pos, t_neg), sample(), t_pos=t_pos, t_neg=t_neg)


@pytest.mark.parametrize("weight", [None, 0.0, 0.3])
@pytest.mark.parametrize("rows", [1, 3])
def test_sdl_with_other_weights_and_with_one_row(weight, rows):
    batch = sample()
    batch.details["matrix"] = batch.details["matrix"][:, :, :rows]
    assert_equals(sdl, SdlLoss(weight), batch, weight=weight)


def test_distribution_balanced_without_focus_and_with_smoothing():
    assert_equals(balanced, distribution_balanced(focal_gamma=0, label_smoothing=0.1), sample(), gamma=0, s=0.1)
    ours = distribution_balanced(map_alpha=0.2, map_beta=5, map_mu=0.1, neg_scale=5, init_bias=0.1, focal_balance=1.5)
    assert_equals(balanced, ours, sample(), a=0.2, beta=5, mu=0.1, nu=5, kappa=0.1, b=1.5)


def hinge_slopes(x: Tensor, y: Tensor) -> Tensor:
    """Of the hinge ranking loss: in each image 1 / count for each pair that costs something."""
    slopes = torch.zeros_like(x)
    for b in range(len(x)):
        pairs = [(p, n) for p in present(y[b]) for n, _ in absent(y[b], 0) if 1 + x[b, n] - x[b, p] > 0]
        for p, n in pairs:
            slopes[b, n] += 1 / (len(pairs) + 1e-8) / len(x)
            slopes[b, p] -= 1 / (len(pairs) + 1e-8) / len(x)
    return slopes


def test_the_count_of_hinge_ranking_is_a_constant_for_the_gradient():
    batch = sample()
    logits = batch.logits.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(LOSSES["hinge_ranking"]()(logits, batch.targets), logits)
    torch.testing.assert_close(slopes, hinge_slopes(batch.logits, batch.targets), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ["hinge_ranking", "ranknet"])
def test_pairs_handled_in_parts_give_the_same(name, monkeypatch):
    """Seven labels: one or two present labels are handled at a time."""
    batch, loss = sample(), LOSSES[name](unknown_weight=0.3)
    results = []
    for pairs in (ranking.PAIRS, 1, 14):
        monkeypatch.setattr(ranking, "PAIRS", pairs)
        logits = batch.logits.clone().requires_grad_()
        value = loss(logits, batch.targets)
        results.append(torch.cat([value[None], torch.autograd.grad(value, logits)[0].flatten()]))
    torch.testing.assert_close(results[1], results[0], rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(results[2], results[0], rtol=1e-13, atol=1e-15)


def test_many_labels_fit_into_memory():
    """A tensor of all pairs of 8 images and 9,605 labels would have 738 million entries; a batch has 200 positives."""
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 9605, generator=rng).requires_grad_()
    targets = torch.zeros(8, 9605, dtype=torch.int8)
    targets[:, :25] = 1
    value = RankNetLoss()(logits, targets)
    value.backward()
    expected = F.softplus(logits.detach()[0, None, 25:] - logits.detach()[0, :25, None]).mean()
    torch.testing.assert_close(RankNetLoss()(logits[:1], targets[:1]), expected)


def test_soft_margin_is_binary_cross_entropy():
    batch = sample()
    whole = batch.targets.clamp(min=0)
    expected = F.multilabel_soft_margin_loss(batch.logits, whole.double())
    torch.testing.assert_close(BinaryCrossEntropy()(batch.logits, whole), expected, rtol=1e-14, atol=0)


def test_random_queries_have_no_counts():
    """A logit beyond the counted ones adds the term of rho = 0 without bias, and leaves the others as they are."""
    batch = sample()
    loss = distribution_balanced(reduction="sum")
    added = torch.full((5, 1), 0.7, dtype=torch.float64)
    wide = loss(torch.cat([batch.logits, added], 1), torch.cat([batch.targets, torch.ones(5, 1)], 1))
    one = (0.1 + sigmoid(-10 * 0.2)) * softplus(-0.7) * sigmoid(-0.7) ** 2 * 2
    has_positive = (batch.targets > 0).any(1).sum().item()
    least = (1 + 0.1) * softplus(-0.7) * sigmoid(-0.7) ** 2 * 2  # in an image without another positive
    expected = loss(batch.logits, batch.targets).item() + has_positive * one + (5 - has_positive) * least
    assert wide.item() == pytest.approx(expected, rel=1e-12)
