"""What each augmentation of an image costs, beside decoding and resizing it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from mldec.benchmarks.figure import Figure
from mldec.benchmarks.generated_images import HEIGHT, WIDTH, write_images
from mldec.benchmarks.rate import Rate, ratio_figure, sample_in_turn, time_figure
from mldec.data.augment import DigitsAugmentConfig, PaperAugment, TimmAugmentConfig, build_digits_augment, build_timm
from mldec.data.image import decode, resize
from mldec.data.randaugment import OPERATIONS, randaugment

CPU = torch.device("cpu")
SIZE, SMALL = 448, 64
LEVEL = 5  # of an operation's magnitudes 1 to 9
IMAGES = 32


def measure(*, scale: float = 1.0, repeats: int = 3, seconds: float = 1.0) -> list[Figure]:
    """Times of an image, in one thread. `scale` shrinks the number of images."""
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory(prefix="mldec-") as folder:
        paths = write_images(Path(folder), max(2, round(IMAGES * scale)))
        images = [decode(path) for path in paths]
        resized = [resize(image, SIZE) for image in images]
        small = [resize(image, SMALL) for image in images]
        rng = np.random.default_rng(0)

        def rate(work: Callable[[int], object]) -> Rate:
            return Rate(lambda: [work(number) for number in range(len(paths))], len(paths), CPU, seconds)

        def after_decoding(augment: Callable[..., np.ndarray], arrays: list[np.ndarray]) -> Rate:
            return rate(lambda number: augment(arrays[number], rng))

        bare = rate(lambda number: resize(decode(paths[number]), SIZE))
        rates = {
            f"decoding {WIDTH} x {HEIGHT}": rate(lambda number: decode(paths[number])),
            f"resizing to {SIZE}": rate(lambda number: resize(images[number], SIZE)),
            f"paper, resizing to {SIZE} included": after_decoding(PaperAugment(SIZE), images),
            "paper: its two operations of RandAugment": after_decoding(randaugment, resized),
            f"timm, cropping to {SIZE} included": after_decoding(
                build_timm(TimmAugmentConfig(name="timm"), image_size=SIZE), images
            ),
            f"digits, at {SMALL}": after_decoding(
                build_digits_augment(DigitsAugmentConfig(name="digits"), image_size=SMALL), small
            ),
        }
        for name, operation in OPERATIONS.items():
            rates[f"operation {name}"] = rate(_applied(operation.apply, operation.magnitudes[LEVEL], resized, rng))
        sample_in_turn((bare, *rates.values()), repeats, seconds)
    figures = [time_figure("decoding and resizing", bare)]
    for name, measured in rates.items():
        figures.append(time_figure(name, measured))
        figures.append(ratio_figure(f"{name}, over decoding and resizing", measured, bare, unit="x", better="lower"))
    return figures


def _applied(
    apply: Callable[..., np.ndarray], magnitude: float, images: list[np.ndarray], rng: np.random.Generator
) -> Callable[[int], object]:
    return lambda number: apply(images[number], magnitude, rng)
