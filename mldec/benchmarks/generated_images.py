"""JPEG files of the usual size, similar enough to photographs that decoding them takes as long."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

from mldec.data.index import ImageIndex
from mldec.labels import LabelSpace

DIFFERENT = 128  # images that are generated; further files repeat them
POSITIVES = 3  # labels per image
WIDTH, HEIGHT = 640, 427  # the median image of COCO
QUALITY = 90


def write_index(folder: Path, count: int, num_labels: int) -> ImageIndex:
    """Write `count` images; returns an index of them with random labels."""
    paths = write_images(folder, count)
    columns = np.random.default_rng(0).integers(0, num_labels, (count, min(POSITIVES, num_labels)))
    rows = zip(paths, columns.tolist(), strict=True)
    labels = LabelSpace([f"label {number}" for number in range(num_labels)])
    samples = ((os.path.basename(path), sorted(set(row)), (), ()) for path, row in rows)
    return ImageIndex.build(samples, root=str(folder), labels=labels)


def write_images(folder: Path, count: int) -> list[str]:
    """Write `count` images of about 100 kB; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    contents: list[bytes] = []
    paths = []
    for number in range(count):
        if number < DIFFERENT:
            encoded = cv2.imencode(".jpg", draw_image(number), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
            contents.append(encoded.tobytes())
        path = folder / f"{number:06d}.jpg"
        path.write_bytes(contents[number % DIFFERENT])
        paths.append(str(path))
    return paths


def draw_image(seed: int) -> np.ndarray:
    """(H,W,3) uint8: noise of eight octaves whose amplitude falls with the frequency, as that of photographs does."""
    rng = np.random.default_rng(seed)
    image = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    for octave in range(8):
        cells = 2 ** (octave + 2)
        layer = rng.normal(0, 1, (max(2, cells * HEIGHT // WIDTH), cells, 3)).astype(np.float32)
        image += cv2.resize(layer, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) / (octave + 1)
    image = 128 + 55 * image / image.std()
    return np.clip(image, 0, 255).astype(np.uint8)
