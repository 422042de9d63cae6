"""From a file to pixels: decode, resize, normalise."""

from __future__ import annotations

import io
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from PIL import Image

from mldec.errors import DataError


def decode(path: str) -> np.ndarray:
    """Read a picture as (H,W,3) uint8 RGB, whatever it is stored as (grey, palette, CMYK, alpha, 16 bits).

    A rotation noted in EXIF is not applied: the published code reads pictures with Pillow's `convert("RGB")`, which
    does not either, and box annotations are given in stored orientation.

    Raises:
        DataError: naming the file, if it is missing, truncated or no picture.
    """
    try:
        data = np.fromfile(path, np.uint8)  # not imread: that fails on non-ASCII paths on Windows
    except OSError as error:
        raise DataError(f"cannot read picture {path}: {error.strerror or error}") from None
    image = None
    if data.size and not _may_be_truncated(data):
        try:
            image = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        except cv2.error as error:
            raise DataError(f"cannot decode picture {path}: {error.err}") from None
    if image is not None:
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    # OpenCV fills the missing part of a truncated file with grey and says nothing; Pillow's verdict is clear.
    try:
        with Image.open(io.BytesIO(data.tobytes())) as picture:
            return np.array(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "not a picture" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise DataError(f"cannot decode picture {path} ({data.size:,} bytes): {reason}") from None


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """(H,W,3) uint8 to (size,size,3) uint8: both sides to `size`, aspect ratio given up, bilinear with antialias.

    This is Pillow's own filter, as published. torch's uint8 kernel is a quarter faster at 448 pixels, but differs by up
    to two levels, and by processor.
    """
    if image.shape[:2] == (size, size):
        return image.copy()
    return np.array(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


@dataclass(frozen=True)
class Normalization:
    """What the network's weights expect of pixels: per-channel mean and standard deviation of values in [0,1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def unit(cls) -> Normalization:
        """Values in [0,1], nothing more: what the paper does."""
        return cls((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

    def __call__(self, images: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """(B,3,H,W) uint8 on any device to `dtype` on the same one; computed in float32."""
        scaled = images.to(torch.float32).div_(255)
        if self != Normalization.unit():
            mean, std = (
                torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (self.mean, self.std)
            )
            scaled = scaled.sub_(mean).div_(std)
        return scaled.to(dtype)


def _may_be_truncated(data: np.ndarray) -> bool:
    """True for a JPEG without an end marker after its last scan. Junk behind the end can make this a false alarm."""
    if data[:2].tobytes() != b"\xff\xd8":
        return False
    if data[-2:].tobytes() == b"\xff\xd9":
        return False
    content = data.tobytes()
    return content.rfind(b"\xff\xd9") < content.rfind(b"\xff\xda")
