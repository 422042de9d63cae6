"""RandAugment as the published code applies it (the paper's "auto-augment"), on uint8 arrays.

It behaves like the package `randaugment` 1.0.2 that the authors used, which is neither timm's nor torchvision's
RandAugment: two of 15 operations are drawn, each with a magnitude of 1 to 9 of its own, and each is carried out with
probability one half. That package calls Pillow, so Pillow's results are the measure here.

Colour operations are those of albumentations where they agree. Its auto-contrast leaves value 255 out of the histogram
and its equalize counts one bin further, so these two are look-up tables of our own; sharpness is a filter of our own.
Geometry is Pillow's itself, since OpenCV's bicubic kernel differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from albumentations.augmentations.pixel import functional as pixel
from PIL import Image

GREY = (128, 128, 128)  # what geometry moves into the image
ROWS = 32  # of an image that are sheared at a time
CUTOUT_RGB = (125, 122, 113)  # what the cutout operation paints


def randaugment(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(H,W,3) uint8 to the same: two random operations at random magnitudes, each with probability 0.5."""
    for name in rng.choice(list(OPERATIONS), size=2):
        level = int(rng.integers(1, 10))
        if rng.random() < 0.5:
            operation = OPERATIONS[name]
            sign = int(rng.choice((-1, 1))) if operation.signed else 1
            image = operation.apply(image, sign * operation.magnitudes[level], rng)
    return image


@dataclass(frozen=True)
class Operation:
    """`apply(image, magnitude, rng)`; `magnitudes` of levels 0 to 9; `signed`: either sign is equally likely."""

    apply: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
    magnitudes: tuple[float, ...]
    signed: bool = False


def invert(image: np.ndarray, magnitude: float, rng: np.random.Generator) -> np.ndarray:
    return pixel.invert(image)


def posterize(image: np.ndarray, magnitude: float, rng: np.random.Generator) -> np.ndarray:
    """Keep the highest `magnitude` bits."""
    return image if magnitude >= 8 else pixel.posterize(image, int(magnitude))


def solarize(image: np.ndarray, magnitude: float, rng: np.random.Generator) -> np.ndarray:
    """Invert values from `magnitude` on."""
    return pixel.solarize(image, magnitude / 255)


def brightness(image: np.ndarray, magnitude: float, rng: np.random.Generator) -> np.ndarray:
    return pixel.adjust_brightness_torchvision(image, 1 + magnitude)


def contrast(image: np.ndarray, magnitude: float, rng: np.random.Generator) -> np.ndarray:
    return pixel.adjust_contrast_torchvision(image, 1 + magnitude)


def color(image: np.ndarray, magnitude: float, rng: np.random.Generator) -> np.ndarray:
    return pixel.adjust_saturation_torchvision(image, 1 + magnitude)


def sharpness(image: np.ndarray, magnitude: float, rng: np.random.Generator) -> np.ndarray:
    """Away from (or towards) a 3x3 blur, whose outermost pixels are the image's own."""
    blurred = cv2.filter2D(image, -1, np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13)
    blurred[[0, -1]], blurred[:, [0, -1]] = image[[0, -1]], image[:, [0, -1]]
    return cv2.addWeighted(image, 1 + magnitude, blurred, -magnitude, 0)


def auto_contrast(image: np.ndarray, magnitude: float, rng: np.random.Generator) -> np.ndarray:
    """Stretch each channel to 0..255."""
    return _map_channels(image, _stretching)


def equalize(image: np.ndarray, magnitude: float, rng: np.random.Generator) -> np.ndarray:
    """Flatten the histogram of each channel."""
    return _map_channels(image, _flattening)


def shear_x(image: np.ndarray, magnitude: float, rng: np.random.Generator) -> np.ndarray:
    """About the upper edge, bicubic, as Pillow's affine transform has it (to one level), in a fourth of its time.

    A row moves by one distance as a whole, so its four taps have the same weights everywhere.
    """
    height, width, channels = image.shape
    shift = magnitude * (np.arange(height) + 0.5)  # column x of a row comes from x + shift
    whole = np.floor(shift).astype(np.int64)
    weights = _cubic(shift - whole).astype(np.float32)
    reach = min(width, int(np.abs(whole).max())) + 2
    wide = cv2.copyMakeBorder(image, 0, 0, reach, reach, cv2.BORDER_REPLICATE).reshape(height, -1)
    windows = np.lib.stride_tricks.sliding_window_view(wide, (width + 3) * channels, axis=1)
    starts = np.clip(reach - 1 + whole, 0, 2 * reach - 3) * channels
    result = np.empty((height, width * channels), np.uint8)
    total, term = (np.empty((min(ROWS, height), width * channels), np.float32) for _ in range(2))
    for first in range(0, height, ROWS):  # what a block needs stays in the cache
        rows = np.arange(first, min(first + ROWS, height))
        taps = windows[rows, starts[rows]].astype(np.float32)
        into, other = total[: len(rows)], term[: len(rows)]
        into[:] = 2e-4  # Pillow cuts off: what should be whole must not lie below
        for tap in range(4):
            np.multiply(taps[:, tap * channels : (tap + width) * channels], weights[tap, rows, None], out=other)
            into += other
        result[rows] = np.clip(into, 0, 255, out=into)
    result = result.reshape(image.shape)
    place = np.arange(width) + 0.5 + shift[:, None]
    result[(place < 0) | (place >= width)] = GREY
    return result


def _cubic(part: np.ndarray) -> np.ndarray:
    """(n,) distances in [0, 1) beyond the second of four pixels to their (4,n) weights, by Pillow's kernel (a = -1)."""
    squared, cubed = part**2, part**3
    return np.stack([-part + 2 * squared - cubed, 1 - 2 * squared + cubed, part + squared - cubed, cubed - squared])


def shear_y(image: np.ndarray, magnitude: float, rng: np.random.Generator) -> np.ndarray:
    """About the left edge, bicubic."""
    return cv2.transpose(shear_x(cv2.transpose(image), magnitude, rng))


def translate_x(image: np.ndarray, magnitude: float, rng: np.random.Generator) -> np.ndarray:
    """By `magnitude` of the width, to the left where positive."""
    return _translate(image, magnitude * image.shape[1], 0)


def translate_y(image: np.ndarray, magnitude: float, rng: np.random.Generator) -> np.ndarray:
    """By `magnitude` of the height, upwards where positive."""
    return _translate(image, 0, magnitude * image.shape[0])


def rotate(image: np.ndarray, magnitude: float, rng: np.random.Generator) -> np.ndarray:
    """By `magnitude` degrees counter-clockwise about the centre, nearest neighbour."""
    return np.array(Image.fromarray(image).rotate(magnitude, Image.Resampling.NEAREST, fillcolor=GREY))


def cutout(image: np.ndarray, magnitude: float, rng: np.random.Generator) -> np.ndarray:
    """Paint a square of `magnitude` pixels at a random centre, clipped at the edge."""
    half = int(magnitude) // 2
    y, x = int(rng.integers(image.shape[0])), int(rng.integers(image.shape[1]))
    result = image.copy()
    result[max(0, y - half) : y + half, max(0, x - half) : x + half] = CUTOUT_RGB
    return result


def _map_channels(image: np.ndarray, table: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Send each channel's values through the (256,) table that `table` makes of its (256,) histogram."""
    planes = cv2.split(image)
    return cv2.merge([cv2.LUT(plane, table(_histogram(plane))) for plane in planes])


def _histogram(plane: np.ndarray) -> np.ndarray:
    """(256,) int64: how often each value occurs, as numpy.bincount has it, in a quarter of the time."""
    return cv2.calcHist([plane], [0], None, [256], [0, 256]).ravel().astype(np.int64)


def _stretching(histogram: np.ndarray) -> np.ndarray:
    low, high = np.flatnonzero(histogram)[[0, -1]]
    if high == low:
        return np.arange(256, dtype=np.uint8)
    return np.clip((np.arange(256) - low) * (255 / (high - low)), 0, 255).astype(np.uint8)


def _flattening(histogram: np.ndarray) -> np.ndarray:
    occupied = histogram[histogram > 0]
    step = (occupied.sum() - occupied[-1]) // 255
    if len(occupied) == 1 or step == 0:
        return np.arange(256, dtype=np.uint8)
    before = np.cumsum(histogram) - histogram
    return np.minimum((before + step // 2) // step, 255).astype(np.uint8)


def _translate(image: np.ndarray, left: float, up: float) -> np.ndarray:
    pil_image, matrix = Image.fromarray(image), (1, 0, left, 0, 1, up)
    return np.array(pil_image.transform(pil_image.size, Image.Transform.AFFINE, matrix, fillcolor=GREY))


def _levels(low: float, high: float, whole: bool = False) -> tuple[float, ...]:
    levels = np.linspace(low, high, 10)
    return tuple((np.round(levels) if whole else levels).tolist())


#: The 15 operations and what their ten magnitudes mean. Rotation turns one way only, as published.
OPERATIONS: dict[str, Operation] = {
    "invert": Operation(invert, _levels(0, 0)),
    "cutout": Operation(cutout, _levels(0, 20, whole=True)),
    "sharpness": Operation(sharpness, _levels(0, 0.9), signed=True),
    "auto_contrast": Operation(auto_contrast, _levels(0, 0)),
    "posterize": Operation(posterize, _levels(8, 4, whole=True)),
    "shear_x": Operation(shear_x, _levels(0, 0.3), signed=True),
    "translate_x": Operation(translate_x, _levels(0, 150 / 331), signed=True),
    "translate_y": Operation(translate_y, _levels(0, 150 / 331), signed=True),
    "shear_y": Operation(shear_y, _levels(0, 0.3), signed=True),
    "rotate": Operation(rotate, _levels(0, 30)),
    "equalize": Operation(equalize, _levels(0, 0)),
    "contrast": Operation(contrast, _levels(0, 0.9), signed=True),
    "color": Operation(color, _levels(0, 0.9), signed=True),
    "solarize": Operation(solarize, _levels(256, 0)),
    "brightness": Operation(brightness, _levels(0, 0.9), signed=True),
}
