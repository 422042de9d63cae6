"""Distribution-balanced loss for long-tailed labels (Wu et al., ECCV 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mldec.config import NonNegative, Positive, Range, Share, arguments_of
from mldec.losses.base import LossConfig, Reduction, ThreeStateLoss, check_range
from mldec.registry import LOSSES


class DistributionBalancedLoss(ThreeStateLoss):
    """Binary cross-entropy with weights against co-occurrence, a bias by frequency, and gentler negatives.

    With n_i of N_s training images having label i:

        rho_bi  = (1 / n_i) / sum_j y_bj / n_j              inf where the image has no known positive
        w_bi    = map_alpha + sigmoid(map_beta (rho_bi - map_mu))
        z       = x - init_bias log(N_s / n_i - 1) / neg_scale
        present   w softplus(-z) sigmoid(-z)^gamma b
        absent    w softplus(nu z) sigmoid(nu z)^gamma b / nu,  nu = neg_scale, b = focal_balance (1 where gamma is 0)

    Logits beyond those counted, of random queries, have no bias, do not enter the sum, and have rho = 0.

    Args:
        label_counts: (N,) images of the training split in which each label is present; clamped to 1..num_images - 1.
        num_images: of the training split, at least 2.
        map_alpha, map_beta, map_mu: the least weight, slope and middle of the map from rho to weights.
        neg_scale: nu, above 0; 1 treats negatives as positives.
        init_bias: factor of the bias; 0 leaves it out.
        focal_gamma: the focusing exponent; 0 also leaves out `focal_balance`.
        focal_balance: a factor of the loss.
        label_smoothing: s in [0, 1): targets y become y (1 - s) + s / 2; weights follow from y.
        unknown_weight: factor of an unknown label's term as an absent one; it never enters the sum over j.
        reduction: over all B·N entries.

    Raises:
        ValueError: for values out of range, counts that do not fit, or fewer logits than counts.
    """

    label_counts: Tensor
    num_images: Tensor

    def __init__(
        self,
        label_counts: Tensor,
        num_images: int,
        map_alpha: float = 0.1,
        map_beta: float = 10.0,
        map_mu: float = 0.2,
        neg_scale: float = 2.0,
        init_bias: float = 0.05,
        focal_gamma: float = 2.0,
        focal_balance: float = 2.0,
        label_smoothing: float = 0.0,
        unknown_weight: float = 0.0,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(unknown_weight, reduction)
        check_range(Range(low=0), map_alpha=map_alpha, map_beta=map_beta, init_bias=init_bias, focal_gamma=focal_gamma)
        check_range(Range(low=0, open_low=True), neg_scale=neg_scale, focal_balance=focal_balance)
        check_range(Range(low=0, high=1, open_high=True), label_smoothing=label_smoothing)
        check_range(Range(), map_mu=map_mu)
        counts = torch.as_tensor(label_counts)
        if counts.ndim != 1 or num_images < 2 or (counts < 0).any() or (counts > num_images).any():
            raise ValueError(
                f"label_counts of shape {tuple(counts.shape)}, num_images={num_images}: must be (N,) numbers from 0 to "
                "num_images, and at least 2 images"
            )
        self.map_alpha, self.map_beta, self.map_mu = map_alpha, map_beta, map_mu
        self.neg_scale, self.init_bias = neg_scale, init_bias
        self.focal_gamma, self.focal_balance = focal_gamma, focal_balance
        self.label_smoothing = label_smoothing
        self.register_buffer("label_counts", counts.clone())
        self.register_buffer("num_images", torch.tensor(num_images))

    def terms(self, logits: Tensor, present: Tensor, weights: Tensor) -> Tensor:
        extra = logits.shape[1] - len(self.label_counts)
        if extra < 0:
            raise ValueError(f"{logits.shape[1]} logits, but counts of {len(self.label_counts)} labels")
        counts = torch.minimum(self.label_counts.clamp(min=1), self.num_images - 1).to(logits.dtype)
        rarity = F.pad(1 / counts, (0, extra))
        bias = F.pad((self.num_images / counts - 1).log() * (self.init_bias / self.neg_scale), (0, extra))

        shares = (present * rarity).sum(dim=1, keepdim=True)
        rho = rarity / shares.clamp(min=torch.finfo(logits.dtype).tiny)
        rebalancing = self.map_alpha + torch.sigmoid(self.map_beta * (rho - self.map_mu))
        rebalancing = torch.where(shares > 0, rebalancing, 1 + self.map_alpha)

        present = present * (1 - self.label_smoothing) + self.label_smoothing / 2
        z = logits - bias
        cost = present * self._focal(-z) + (1 - present) * self._focal(self.neg_scale * z) / self.neg_scale
        return weights * rebalancing * cost

    def _focal(self, margin: Tensor) -> Tensor:
        """softplus(margin) sigmoid(margin)^gamma b; the power by way of the logarithm, whose slope stays finite."""
        cost = -F.logsigmoid(-margin)
        if self.focal_gamma:
            cost = cost * (self.focal_gamma * F.logsigmoid(margin)).exp() * self.focal_balance
        return cost


@dataclass(frozen=True, kw_only=True)
class DistributionBalancedConfig(LossConfig):
    """Settings of `loss=distribution_balanced`; the defaults are the authors' for MS-COCO (for VOC map_mu is 0.3)."""

    uses_label_counts: ClassVar[bool] = True

    map_alpha: NonNegative = 0.1  # the least weight
    map_beta: NonNegative = 10.0  # slope of the map from a label's share of its image's rarity to its weight
    map_mu: float = 0.2  # middle of that map
    neg_scale: Positive = 2.0  # scale of absent logits; 1: as present ones
    init_bias: NonNegative = 0.05  # factor of the bias by frequency
    focal_gamma: NonNegative = 2.0  # focusing exponent; 0: neither focus nor focal_balance
    focal_balance: Positive = 2.0  # factor of the loss with focal_gamma > 0
    label_smoothing: Share = 0.0  # s: targets y become y (1 - s) + s / 2


@LOSSES.register("distribution_balanced", DistributionBalancedConfig)
def build_distribution_balanced_loss(
    config: DistributionBalancedConfig, *, label_counts: Tensor, num_images: int
) -> DistributionBalancedLoss:
    return DistributionBalancedLoss(label_counts, num_images, **arguments_of(config))
