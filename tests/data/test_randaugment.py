"""Pillow is the oracle: the published package calls it for every operation."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from mldec.data.randaugment import OPERATIONS, randaugment

GREY = (128, 128, 128)


def affine(image: Image.Image, matrix: tuple[float, ...], resample: Image.Resampling) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample, fillcolor=GREY)


def rotate(image: Image.Image, degrees: float) -> Image.Image:
    turned = image.convert("RGBA").rotate(degrees)
    return Image.composite(turned, Image.new("RGBA", turned.size, (128,) * 4), turned).convert("RGB")


ORACLES: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "invert": lambda image, m: ImageOps.invert(image),
    "sharpness": lambda image, m: ImageEnhance.Sharpness(image).enhance(1 + m),
    "auto_contrast": lambda image, m: ImageOps.autocontrast(image),
    "posterize": lambda image, m: ImageOps.posterize(image, int(m)),
    "shear_x": lambda image, m: affine(image, (1, m, 0, 0, 1, 0), Image.Resampling.BICUBIC),
    "shear_y": lambda image, m: affine(image, (1, 0, 0, m, 1, 0), Image.Resampling.BICUBIC),
    "translate_x": lambda image, m: affine(image, (1, 0, m * image.width, 0, 1, 0), Image.Resampling.NEAREST),
    "translate_y": lambda image, m: affine(image, (1, 0, 0, 0, 1, m * image.height), Image.Resampling.NEAREST),
    "rotate": rotate,
    "equalize": lambda image, m: ImageOps.equalize(image),
    "contrast": lambda image, m: ImageEnhance.Contrast(image).enhance(1 + m),
    "color": lambda image, m: ImageEnhance.Color(image).enhance(1 + m),
    "solarize": lambda image, m: ImageOps.solarize(image, m),
    "brightness": lambda image, m: ImageEnhance.Brightness(image).enhance(1 + m),
}


def make_images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:60, :80]
    smooth = np.stack([x * 3, y * 4, x + y], -1).astype(np.uint8)
    narrow = rng.integers(90, 140, (60, 80, 3), np.uint8)
    return [smooth, narrow, rng.integers(0, 256, (60, 80, 3), np.uint8), np.full((60, 80, 3), 77, np.uint8)]


@pytest.mark.parametrize("name", ORACLES)
def test_operations_equal_pillow(name: str) -> None:
    operation = OPERATIONS[name]
    off_by_one = ("sharpness", "auto_contrast", "contrast", "brightness", "shear_x", "shear_y")
    tolerance = {"color": 2} | dict.fromkeys(off_by_one, 1)
    for image in make_images():
        before = image.copy()
        for magnitude in operation.magnitudes:
            for sign in (-1, 1) if operation.signed else (1,):
                found = operation.apply(image, sign * magnitude, np.random.default_rng(0))
                expected = np.array(ORACLES[name](Image.fromarray(image), sign * magnitude))
                assert found.dtype == np.uint8
                assert np.abs(found.astype(int) - expected).max() <= tolerance.get(name, 0)
                np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("name", ["shear_x", "shear_y"])
@pytest.mark.parametrize("size", [(3, 2), (1, 5), (70, 33), (200, 150)])
def test_shear_equals_pillow_nearly_everywhere(name: str, size: tuple[int, int]) -> None:
    """Float32 and Pillow's double differ where they cut off at a whole number; never on even ground."""
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    different = total = 0
    for magnitude in (-2.5, -0.3, -0.1, 0.0, 0.07, 0.3, 2.5):
        for pil_image in (image, np.full_like(image, 77)):
            found = OPERATIONS[name].apply(pil_image, magnitude, np.random.default_rng(0))
            expected = np.array(ORACLES[name](Image.fromarray(pil_image), magnitude))
            assert np.abs(found.astype(int) - expected).max() <= 1
            different += int((found != expected).sum()) if pil_image is image else 0
            total += image.size
            assert pil_image is image or np.array_equal(found, expected)
    assert different <= max(2, total * 2e-3)


def test_cutout_paints_one_square_inside_the_image() -> None:
    image = np.zeros((60, 80, 3), np.uint8)
    areas = set()
    for seed in range(200):
        found = OPERATIONS["cutout"].apply(image, 20, np.random.default_rng(seed))
        rows, columns = np.flatnonzero(found.any((1, 2))), np.flatnonzero(found.any((0, 2)))
        painted = found[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert (painted == (125, 122, 113)).all()
        assert len(rows) <= 20
        assert len(columns) <= 20
        areas.add(len(rows) * len(columns))
    assert max(areas) == 400
    assert not image.any()


def test_there_are_fifteen_operations_with_the_published_magnitudes() -> None:
    assert len(OPERATIONS) == 15
    assert OPERATIONS["posterize"].magnitudes == (8, 8, 7, 7, 6, 6, 5, 5, 4, 4)
    assert OPERATIONS["cutout"].magnitudes == (0, 2, 4, 7, 9, 11, 13, 16, 18, 20)
    assert OPERATIONS["rotate"].magnitudes[-1] == 30
    assert not OPERATIONS["rotate"].signed
    assert OPERATIONS["translate_x"].magnitudes[-1] == pytest.approx(150 / 331)
    assert OPERATIONS["solarize"].magnitudes[0] == 256


def test_a_quarter_of_the_images_stays_and_chance_is_the_generators() -> None:
    image = make_images()[2]
    unchanged = [np.array_equal(randaugment(image, np.random.default_rng(seed)), image) for seed in range(800)]
    # 1/4 draw no operation at all; a few more draw one that does nothing, such as auto-contrast on a full range.
    assert 0.22 < np.mean(unchanged) < 0.36
    for seed in range(20):
        one, two = (randaugment(image, np.random.default_rng(seed)) for _ in range(2))
        np.testing.assert_array_equal(one, two)
