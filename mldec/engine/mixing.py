"""mixup and cutmix of a batch on its device, for single-label and multi-label targets.

Both mix every image of a batch with a partner. Images are mixed after normalisation, in float: mixing is linear, so
the order changes nothing but the rounding. Targets become fractions, lam * own + (1 - lam) * partner's, and an entry
counts as known only where it is known in both.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


class Mixed(NamedTuple):
    """images (B,3,H,W) float; targets (B,N); known (B,N) bool.

    Targets are float32 in [0,1], 0 where unknown; where mixing is off they are the integers that came in.
    """

    images: Tensor
    targets: Tensor
    known: Tensor


class Box(NamedTuple):
    """Rows top..bottom and columns left..right of an image, ends excluded."""

    top: int
    bottom: int
    left: int
    right: int


def answer_random_queries(targets: Tensor, known: Tensor, num_logits: int) -> tuple[Tensor, Tensor]:
    """Targets and what is known of them (B,N), widened to the logits: random queries (paper §2.3.3) are present."""
    extra = num_logits - targets.shape[1]
    return (F.pad(targets, (0, extra), value=1), F.pad(known, (0, extra), value=True)) if extra else (targets, known)


def mix(images: Tensor, targets: Tensor, *, mixup: float, cutmix: float, generator: torch.Generator) -> Mixed:
    """Mix a batch by mixup or cutmix; where both are on, one of them, chosen evenly for the whole batch.

    Args:
        images: (B,3,H,W), normalised floats; uint8 is taken as floats from 0 to 255.
        targets: (B,N) integers, 1 present, 0 absent, -1 unknown.
        mixup, cutmix: alpha of the Beta(alpha, alpha) that the share lam is drawn from; 0 switches it off.
        generator: decides everything and moves on by one draw, or none where both are off.

    Returns:
        New images (the same ones where nothing is mixed), targets and what is known of them.

    Raises:
        ValueError: a negative alpha, or shapes that are not (B,3,H,W) and (B,N).
    """
    if mixup < 0 or cutmix < 0:
        raise ValueError(f"mixup={mixup}, cutmix={cutmix}: must be at least 0; 0 switches it off")
    if images.ndim != 4 or targets.ndim != 2 or len(images) != len(targets):
        raise ValueError(
            f"need images (B,3,H,W) and targets (B,N), found {tuple(images.shape)} and {tuple(targets.shape)}"
        )
    images = images if images.is_floating_point() else images.float()
    if not (mixup or cutmix) or not len(images):
        return Mixed(images, targets, targets >= 0)
    batch = Mixed(images, targets.clamp(min=0).float(), targets >= 0)
    # One draw seeds numpy, which has the Beta distribution that torch's generators lack.
    seed = torch.randint(2**63 - 1, (), generator=generator, device=generator.device)
    rng = np.random.default_rng(int(seed))
    partners = torch.from_numpy(rng.permutation(len(images))).to(images.device)
    if cutmix and not (mixup and rng.random() < 0.5):
        box = random_box(*images.shape[2:], lam=rng.beta(cutmix, cutmix), rng=rng)
        return mix_box(batch, partners, box)
    return mix_whole(batch, partners, lam=rng.beta(mixup, mixup))


def mix_whole(batch: Mixed, partners: Tensor, lam: float) -> Mixed:
    """mixup: lam of each image and 1 - lam of its partner; `partners` are indices (B,). lam = 1 changes nothing."""
    if lam == 1:
        return batch
    return Mixed(batch.images[partners].lerp(batch.images, lam), *_mix_targets(batch, partners, lam))


def mix_box(batch: Mixed, partners: Tensor, box: Box) -> Mixed:
    """cutmix: `box` of each image is its partner's; lam is the share that stays. An empty box changes nothing."""
    height, width = batch.images.shape[2:]
    area = (box.bottom - box.top) * (box.right - box.left)
    if area == 0:
        return batch
    inside = (..., slice(box.top, box.bottom), slice(box.left, box.right))
    images = batch.images.clone()
    images[inside] = batch.images[inside][partners]
    return Mixed(images, *_mix_targets(batch, partners, lam=1 - area / (height * width)))


def random_box(height: int, width: int, *, lam: float, rng: np.random.Generator) -> Box:
    """A box of about 1 - lam of the area around a uniform centre, cut off at the borders."""
    side = math.sqrt(1 - lam)
    top, bottom = _random_span(height, side, rng)
    left, right = _random_span(width, side, rng)
    return Box(top, bottom, left, right)


def _random_span(length: int, share: float, rng: np.random.Generator) -> tuple[int, int]:
    size = round(length * share)
    start = int(rng.integers(length)) - size // 2
    return max(start, 0), min(start + size, length)


def _mix_targets(batch: Mixed, partners: Tensor, lam: float) -> tuple[Tensor, Tensor]:
    known = batch.known & batch.known[partners]
    return batch.targets[partners].lerp(batch.targets, lam).masked_fill(~known, 0), known
