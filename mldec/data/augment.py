"""Augmentations: from the decoded training image to the one in the batch.

Each is a callable `(image, rng) -> image` from (H,W,3) uint8 of any size to (size,size,3) uint8, and a function of its
two arguments alone: all randomness comes from `rng`, so that a resumed run sees the same images.
"""

from __future__ import annotations

import contextlib
import math
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from PIL import Image

from mldec.config import ComponentConfig, Count, Fraction, NonNegative, Positive, Share
from mldec.data.image import resize
from mldec.data.loader import Resize
from mldec.errors import ConfigError
from mldec.registry import AUGMENTS


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(ComponentConfig):
    """Settings of every augmentation; the engine applies these three, to whole batches.

    Attributes:
        mixup: alpha of the Beta distribution; 0: off.
        cutmix: alpha of the Beta distribution; 0: off.
        repeats: how often an image appears in an epoch, each time augmented anew; the epoch stays as long as the set.
    """

    mixup: NonNegative = 0.0
    cutmix: NonNegative = 0.0
    repeats: Count = 1


@AUGMENTS.register("none", AugmentConfig)
def build_no_augment(config: AugmentConfig, *, image_size: int) -> Resize:
    return Resize(image_size)


@dataclass(frozen=True, kw_only=True)
class PaperConfig(AugmentConfig):
    """The published recipe for MS-COCO: resize, cutout, RandAugment; no flip and no crop.

    Attributes:
        cutout: side of the painted rectangle as a fraction of the image's; 0: off.
        randaugment: RandAugment (two random operations) after it.
    """

    cutout: Fraction = 0.5
    randaugment: bool = True


@dataclass(frozen=True)
class PaperAugment:
    """See PaperConfig."""

    image_size: int
    cutout: float = 0.5
    randaugment: bool = True

    def __post_init__(self) -> None:
        if self.randaugment:
            import mldec.data.randaugment  # noqa: F401  albumentations takes seconds: once, not in every worker

    @property
    def min_side(self) -> int:
        return self.image_size

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        image = resize(image, self.image_size)
        if self.cutout > 0:
            paint_rectangle(image, self.cutout, rng)
        if not self.randaugment:
            return image
        from mldec.data.randaugment import randaugment

        return randaugment(image, rng)


@AUGMENTS.register("paper", PaperConfig)
def build_paper(config: PaperConfig, *, image_size: int) -> PaperAugment:
    return PaperAugment(image_size, config.cutout, config.randaugment)


def paint_rectangle(image: np.ndarray, fraction: float, rng: np.random.Generator) -> None:
    """Paint one random colour over a rectangle with sides of `fraction` of `image`'s, in place.

    Its centre is anywhere in the image, so that up to three quarters of it may lie outside; as published, the last
    row and column are painted too.
    """
    height, width = image.shape[:2]
    y, x = rng.uniform(0, height), rng.uniform(0, width)
    top, bottom = int(max(0, y - fraction * height / 2)), int(min(height, y + fraction * height / 2))
    left, right = int(max(0, x - fraction * width / 2)), int(min(width, x + fraction * width / 2))
    image[top : bottom + 1, left : right + 1] = rng.integers(0, 256, 3)


@dataclass(frozen=True, kw_only=True)
class DigitsAugmentConfig(AugmentConfig):
    """Small movements that keep colours and digits what they are: no flip, no change of hue.

    Attributes:
        shift: greatest shift, as a fraction of the side.
        scale: greatest change of size.
        rotate: greatest rotation in degrees, either way.
        brightness: greatest change of brightness.
        cutout: side of a painted square as a fraction of the image's; 0: off.
    """

    shift: Share = 0.04
    scale: Share = 0.1
    rotate: NonNegative = 8.0
    brightness: Share = 0.15
    cutout: Fraction = 0.0


@dataclass(frozen=True)
class DigitsAugment:
    """See DigitsAugmentConfig."""

    image_size: int
    config: DigitsAugmentConfig

    @property
    def min_side(self) -> int:
        return self.image_size

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        # OpenCV itself: a Compose of albumentations costs four times as much, all of it around the same two calls.
        image = resize(image, self.image_size)
        side, replicate = (self.image_size, self.image_size), cv2.BORDER_REPLICATE
        # Replicated, not mirrored, edges: mirrored digits would be wrong labels.
        image = cv2.warpAffine(image, self._movement(rng), side, flags=cv2.INTER_LINEAR, borderMode=replicate)
        image = cv2.convertScaleAbs(image, alpha=1 + self.config.brightness * rng.uniform(-1, 1))
        if self.config.cutout > 0:
            paint_rectangle(image, self.config.cutout, rng)
        return image

    def _movement(self, rng: np.random.Generator) -> np.ndarray:
        """(2,3) float64: each axis scaled by itself, both turned about the centre and shifted by whole pixels."""
        wide, high, right, down, turn = rng.uniform(-1, 1, 5).tolist()
        angle, reach = math.radians(self.config.rotate * turn), self.config.shift * self.image_size
        a, b = math.cos(angle) * (1 + self.config.scale * wide), math.sin(angle) * (1 + self.config.scale * high)
        c, d = -math.sin(angle) * (1 + self.config.scale * wide), math.cos(angle) * (1 + self.config.scale * high)
        centre = (self.image_size - 1) / 2
        right, down = centre * (1 - a - b) + int(reach * right), centre * (1 - c - d) + int(reach * down)
        return np.array([[a, b, right], [c, d, down]])


@AUGMENTS.register("digits", DigitsAugmentConfig)
def build_digits_augment(config: DigitsAugmentConfig, *, image_size: int) -> DigitsAugment:
    return DigitsAugment(image_size, config)


@dataclass(frozen=True, kw_only=True)
class TimmAugmentConfig(AugmentConfig):
    """The ImageNet recipe of timm: random resized crop, horizontal flip, auto-augment.

    Attributes:
        policy: timm's auto-augment string, such as rand-m7-mstd0.5-inc1; null: off.
        scale: least and greatest area of the crop.
        ratio: least and greatest aspect ratio of the crop.
        flip: probability of a horizontal flip.
        interpolation: of crop and geometry.
    """

    policy: str | None = "rand-m7-mstd0.5-inc1"
    scale: tuple[Fraction, Fraction] = (0.08, 1.0)
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    flip: Fraction = 0.5
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"

    def __post_init__(self) -> None:
        for name in ("scale", "ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name}=[{low:g}, {high:g}]: give the least value first; both above 0")


class TimmAugment:
    """See TimmAugmentConfig. Raises ConfigError for a `policy` that timm cannot read."""

    def __init__(self, image_size: int, config: TimmAugmentConfig) -> None:
        self.image_size, self.config = image_size, config
        self.resample = Image.Resampling[config.interpolation.upper()]
        self._policy = None if config.policy is None else _timm_policy(config.policy, image_size, self.resample)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        box = crop_box(image.shape[0], image.shape[1], self.config.scale, self.config.ratio, rng)
        size = (self.image_size, self.image_size)
        pil_image = Image.fromarray(image).resize(size, self.resample, box=box)
        if rng.random() < self.config.flip:
            pil_image = pil_image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self._policy is not None:
            with _global_seed(int(rng.integers(2**32))):
                pil_image = self._policy(pil_image)
        return np.array(pil_image)


@AUGMENTS.register("timm", TimmAugmentConfig)
def build_timm_augment(config: TimmAugmentConfig, *, image_size: int) -> TimmAugment:
    return TimmAugment(image_size, config)


def crop_box(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """A random crop (left, top, right, bottom) of the given share of the area and aspect ratio (width / height).

    After ten crops that did not fit, the largest central one within `ratio`.
    """
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    w = min(width, max(1, round(height * ratio[1])))
    h = min(height, max(1, round(width / ratio[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _timm_policy(policy: str, image_size: int, resample: Image.Resampling) -> Any:
    from timm.data import auto_augment  # here, since it takes seconds to import

    name, *sections = policy.split("-")
    makers = {"rand": auto_augment.rand_augment_transform, "augmix": auto_augment.augment_and_mix_transform}
    make = makers.get(name, auto_augment.auto_augment_transform)
    hyperparameters: dict[str, Any] = {
        "translate_const": int(image_size * 0.45),
        "img_mean": (124, 116, 104),
        "interpolation": resample,
    }
    if name == "augmix":
        hyperparameters["translate_pct"] = 0.3  # as timm's own transforms_factory does
    try:
        unread = [section for section in sections if not re.match(r"t|[a-z]+\d", section)]
        if unread:  # timm passes over these silently
            raise ValueError(f"no number in {unread[0]!r}")
        return make(policy, hyperparameters)
    except Exception as error:  # timm checks by assert, by key and by number, each in its own way
        reason = str(error) or type(error).__name__
        raise ConfigError(
            f"augment.policy={policy}: timm cannot read this policy ({reason}); "
            "use one such as rand-m7-mstd0.5-inc1, original-mstd0.5 or augmix-m5-w4-d2, or null for none"
        ) from None


@contextlib.contextmanager
def _global_seed(seed: int) -> Iterator[None]:
    """Seed Python's and numpy's global generators, which timm draws from, and restore them after the block."""
    states = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
