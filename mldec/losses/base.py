"""What all losses have in common: three states, precision, reduction, and what a head may give them.

All take logits (B,N), targets (B,N) and optionally a mask of what is known, and give a float32 scalar:

    targets 1 present, 0 absent, -1 (anything negative) unknown, in any integer or float dtype; or fractions from mixup
    known   False where the label is unknown, whatever the target

An unknown label counts as absent with the weight `unknown_weight`; at the default 0 its logit's gradient is exactly 0.
Half-precision logits are computed in float32, autocast or not; float64 logits stay float64. Where a loss separates
present from absent labels instead of weighing both, fractions above 0.5 are present.

`reduction="mean"` divides by all B·N entries (cross-entropy and the rankings of an image's labels: all B rows), known
or not, so that the mean over equal micro-batches or devices is the mean over the whole batch; `TwoWayLoss` and
`LesaLoss`, which compare images, say what they do. The published recipe sums; it matters for Adam with coupled weight
decay, where decay and gradient share one scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from mldec.config import ComponentConfig, NonNegative, Range
from mldec.errors import check_choice

Reduction = Literal["sum", "mean"]


class Context(NamedTuple):
    """What a loss may use beside logits and targets.

    Attributes:
        rows: (B,) int64, the number of each image in the training split; None outside training.
        step: of training, counted from 0.
        details: what the loss lists in its `needs`, in the dtype of the logits.
    """

    rows: Tensor | None
    step: int
    details: Mapping[str, Tensor]


class ThreeStateLoss(nn.Module):
    """Common to the losses: shapes, precision, unknown labels, reduction. A subclass implements `terms`, or `total`.

    What it remembers from step to step is a buffer: its `state_dict()` is stored with a run that can be resumed.

    Args:
        unknown_weight: weight of an unknown label, which counts as absent. At least 0.
        reduction: "sum" or "mean".

    Raises:
        ValueError: from the constructor for a value out of range; from `forward` for shapes that do not fit, or
            details that are missing.
    """

    needs: ClassVar[tuple[str, ...]] = ()  # names of the details that `forward` must get; also in the config class

    def __init__(self, unknown_weight: float, reduction: Reduction) -> None:
        super().__init__()
        check_choice("reduction", reduction, get_args(Reduction))
        check_range(Range(low=0), unknown_weight=unknown_weight)
        self.unknown_weight = unknown_weight
        self.reduction = reduction

    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        known: Tensor | None = None,
        *,
        rows: Tensor | None = None,
        step: int = 0,
        details: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """The loss of logits (B,N) against targets (B,N); scalar float32 (float64 for float64 logits).

        Args:
            rows: (B,) int64, the number of each image in the training split, for a loss that remembers images.
            step: of training, counted from 0, for a loss that changes with time.
            details: what the head gives beside logits, for a loss that lists it in `needs`.
        """
        _check_shapes(logits, targets, known)
        given = details or {}
        if missing := [name for name in self.needs if name not in given]:
            raise ValueError(
                f"{type(self).__name__} needs the details {', '.join(self.needs)} of a head; missing: "
                f"{', '.join(missing)}. Pass details={{name: tensor}}, which heads with these details give in training"
            )
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            unknown = targets < 0 if known is None else ~known | (targets < 0)
            context = Context(rows, step, {name: given[name].to(logits.dtype) for name in self.needs})
            total, count = self.total(logits, targets, unknown, context)
            return total if self.reduction == "sum" else total / max(count, 1)

    def total(self, logits: Tensor, targets: Tensor, unknown: Tensor, context: Context) -> tuple[Tensor, int]:
        """The sum of the weighted losses, and their number. `unknown` (B,N) is bool: by the target or by the mask."""
        terms = self.terms(logits, *self.weigh(logits, targets, unknown))
        return terms.sum(), terms.numel()

    def weigh(self, logits: Tensor, targets: Tensor, unknown: Tensor) -> tuple[Tensor, Tensor]:
        """Targets in [0,1], 0 where unknown, and the weight of each label; both (B,N) in the dtype of the logits."""
        present = targets.to(logits.dtype).masked_fill(unknown, 0)
        return present, torch.where(unknown, self.unknown_weight, torch.ones_like(logits))

    def terms(self, logits: Tensor, present: Tensor, weights: Tensor) -> Tensor:
        """Weighted losses, (B,N) or (B,), from logits, targets in [0,1] and the weight of each label, all (B,N)."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        shown = {name: value for name, value in vars(self).items() if not name.startswith("_") and name != "training"}
        return ", ".join(f"{name}={value}" for name, value in shown.items())


@dataclass(frozen=True, kw_only=True)
class LossConfig(ComponentConfig):
    """Settings that every loss has."""

    single_label: ClassVar[bool] = False  # True: requires data with exactly one class per image
    needs: ClassVar[tuple[str, ...]] = ()  # details that the head must give: names in its config class's `gives`
    uses_label_counts: ClassVar[bool] = False  # True: the factory takes `label_counts` (N,) int64 and `num_images`

    reduction: Reduction = "mean"  # over labels and images, or over images
    unknown_weight: NonNegative = 0.0  # weight of an unknown label, which counts as absent


def separate(present: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """(B,N) bool: which labels are present, a fraction of mixup above 0.5; and the weight of each as absent, else 0."""
    positive = present > 0.5
    return positive, weights.masked_fill(positive, 0)


def log_weights(weights: Tensor) -> Tensor:
    """log w, to be added to what enters a log-sum-exp; of w = 0 the smallest number, as rows of -inf become nan."""
    return weights.log().clamp(min=torch.finfo(weights.dtype).min)


def check_range(allowed: Range, **values: float) -> None:
    """Raise ValueError for an argument of a constructor that is out of range or not finite."""
    for name, value in values.items():
        if value not in allowed or not math.isfinite(value):
            raise ValueError(f"{name}={value}: must be a number {allowed}")


def _check_shapes(logits: Tensor, targets: Tensor, known: Tensor | None) -> None:
    if logits.ndim != 2 or not logits.is_floating_point():
        raise ValueError(f"logits must be floats of shape (B,N), found {logits.dtype} {tuple(logits.shape)}")
    if targets.shape != logits.shape:
        hint = "; single-label targets are rows of 0 and 1 too" if targets.ndim == 1 else ""
        raise ValueError(
            f"targets have shape {tuple(targets.shape)}, logits {tuple(logits.shape)}: they must agree{hint}"
        )
    if known is not None and (known.shape != logits.shape or known.dtype != torch.bool):
        raise ValueError(f"known must be bool of shape {tuple(logits.shape)}, found {known.dtype} {tuple(known.shape)}")
