"""JPEG files of the usual size that look enough like photographs for a decoder to have its usual work."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

WIDTH, HEIGHT = 640, 427  # the median picture of COCO
QUALITY = 90


def write_pictures(folder: Path, count: int) -> list[str]:
    """Write `count` different pictures of about 100 kB; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        path = folder / f"{number:06d}.jpg"
        content = cv2.imencode(".jpg", draw_picture(number), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
        path.write_bytes(content.tobytes())
        paths.append(str(path))
    return paths


def draw_picture(seed: int) -> np.ndarray:
    """(H,W,3) uint8: noise of eight octaves whose amplitude falls with the frequency, as that of photographs does."""
    rng = np.random.default_rng(seed)
    image = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    for octave in range(8):
        cells = 2 ** (octave + 2)
        layer = rng.normal(0, 1, (max(2, cells * HEIGHT // WIDTH), cells, 3)).astype(np.float32)
        image += cv2.resize(layer, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) / (octave + 1)
    image = 128 + 55 * image / image.std()
    return np.clip(image, 0, 255).astype(np.uint8)
