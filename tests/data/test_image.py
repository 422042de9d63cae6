from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from mldec.data.image import Normalization, decode, resize
from mldec.errors import DataError


def picture(height: int = 60, width: int = 90) -> np.ndarray:
    """Smooth colours with grain, so that compression stays close."""
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([x * 255 / width, y * 255 / height, 255 - x * 128 / width], -1)
    return np.clip(smooth + np.random.default_rng(0).normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs_decode_as_pillow_does(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "bild ü.jpg"
    Image.fromarray(picture()).convert(mode).save(path)
    expected = np.array(Image.open(path).convert("RGB")).astype(int)
    found = decode(str(path))
    assert found.dtype == np.uint8
    assert np.abs(found - expected).max() <= (3 if mode == "CMYK" else 0)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1"])
def test_pngs_decode_as_pillow_does(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(picture()).convert(mode).save(path)
    np.testing.assert_array_equal(decode(str(path)), np.array(Image.open(path).convert("RGB")))


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    grey = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    cv2.imwrite(str(path), grey)
    found = decode(str(path))
    assert found.shape == (64, 64, 3)
    assert np.abs(found[..., 0].astype(int) - grey // 256).max() <= 1


def test_exif_rotation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(60, 90)).save(tmp_path / "a.jpg", exif=exif)
    assert decode(str(tmp_path / "a.jpg")).shape == (60, 90, 3)


def test_broken_pictures_are_named(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jpg"
    Image.fromarray(picture()).save(whole)
    data = whole.read_bytes()
    broken = {"cut.jpg": data[: len(data) // 2], "empty.jpg": b"", "text.jpg": b"not a picture", "head.jpg": data[:30]}
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
    for name in [*broken, "absent.jpg"]:
        with pytest.raises(DataError, match=name) as caught:
            decode(str(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_junk_behind_the_end_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(picture()).save(path)
    expected = decode(str(path))
    for junk in (b"\0" * 100, b"\xff\xda" + b"x" * 50):
        (tmp_path / "b.jpg").write_bytes(path.read_bytes() + junk)
        np.testing.assert_array_equal(decode(str(tmp_path / "b.jpg")), expected)


@pytest.mark.parametrize("size", [17, 64, 200])
def test_resize_is_a_triangle_filter(size: int) -> None:
    """Against the definition: weights fall linearly over the wider of an input and an output pixel."""

    def weights(length: int) -> np.ndarray:
        scale = length / size
        support = max(scale, 1.0)
        centres = (np.arange(size) + 0.5) * scale
        matrix = np.maximum(0, 1 - np.abs(np.arange(length) + 0.5 - centres[:, None]) / support)
        return matrix / matrix.sum(1, keepdims=True)

    image = np.random.default_rng(1).integers(0, 256, (60, 90, 3), np.uint8)
    expected = np.einsum("yh,xw,hwc->yxc", weights(60), weights(90), image.astype(float))
    found = resize(image, size)
    assert found.shape == (size, size, 3)
    assert found.dtype == np.uint8
    assert np.abs(found - expected).max() <= 1


def test_resize_never_hands_out_its_input() -> None:
    image = picture(32, 32)
    found = resize(image, 32)
    np.testing.assert_array_equal(found, image)
    assert not np.shares_memory(found, image)


def test_normalization() -> None:
    images = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    unit = Normalization.unit()(images)
    assert torch.equal(unit, images.float() / 255)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = torch.stack([(unit[:, c] - mean[c]) / std[c] for c in range(3)], 1)
    torch.testing.assert_close(Normalization(mean, std)(images), expected)
    half = Normalization(mean, std)(images, torch.bfloat16)
    assert torch.equal(half, Normalization(mean, std)(images).bfloat16())
