"""Crops of a few given sizes: the augmentation of ML-GCN, ADD-GCN, SSGRL and C-Tran.

ML-GCN and ADD-GCN crop at one of 13 places, with sides of up to two steps of `scales` apart, as in temporal segment
networks; SSGRL and C-Tran squash the image to a square first and crop squares of it anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from mldec.config import Fraction, Natural
from mldec.data.augment import AugmentConfig
from mldec.data.dataset import ImageSize
from mldec.registry import AUGMENTS

PLACES = 4  # parts of the free space between which grid positions lie
#: (right, down) of the 13 positions, in parts: corners, centre, centres of the sides, and those of the quarters.
GRID = ((0, 0), (4, 0), (0, 4), (4, 4), (2, 2), (0, 2), (4, 2), (2, 4), (2, 0), (1, 1), (3, 1), (1, 3), (3, 3))


@dataclass(frozen=True, kw_only=True)
class MultiScaleCropConfig(AugmentConfig):
    """A crop of one of a few sizes, horizontal flip; the defaults are those of ML-GCN.

    Attributes:
        resize: side of the square to which the image is resized first; null: it is cropped as it is.
        scales: sides of the crop, as shares of the image's shorter side.
        distort: how far apart in `scales` width and height may be; 0: square crops.
        grid: crops lie in one of 13 positions (corners, centres and between); false: anywhere.
        flip: probability of a horizontal flip.
    """

    resize: ImageSize | None = None
    scales: tuple[Fraction, ...] = (1.0, 0.875, 0.75, 0.66, 0.5)
    distort: Natural = 2
    grid: bool = True
    flip: Fraction = 0.5

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales={list(self.scales)}: give at least one, all above 0 and at most 1")


@dataclass(frozen=True)
class MultiScaleCrop:
    """See MultiScaleCropConfig."""

    image_size: int
    config: MultiScaleCropConfig

    @property
    def min_side(self) -> int:
        return self.config.resize or round(self.image_size / min(self.config.scales))

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        pil_image, bilinear = Image.fromarray(image), Image.Resampling.BILINEAR
        if self.config.resize is not None:
            pil_image = pil_image.resize((self.config.resize, self.config.resize), bilinear)
        box = multi_scale_box(pil_image.height, pil_image.width, self.config, rng)
        pil_image = pil_image.crop(box).resize((self.image_size, self.image_size), bilinear)
        if rng.random() < self.config.flip:
            pil_image = pil_image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.array(pil_image)


@AUGMENTS.register("multi_scale_crop", MultiScaleCropConfig)
def build_multi_scale_crop(config: MultiScaleCropConfig, *, image_size: int) -> MultiScaleCrop:
    return MultiScaleCrop(image_size, config)


def multi_scale_box(
    height: int, width: int, config: MultiScaleCropConfig, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """A random crop (left, top, right, bottom); all allowed pairs of sides are equally frequent, and all positions."""
    sides = [max(1, int(min(height, width) * scale)) for scale in config.scales]
    pairs = [(w, h) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= config.distort]
    w, h = pairs[int(rng.integers(len(pairs)))]
    if config.grid:
        right, down = GRID[int(rng.integers(len(GRID)))]
        left, top = right * ((width - w) // PLACES), down * ((height - h) // PLACES)
    else:
        left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
    return left, top, left + w, top + h
