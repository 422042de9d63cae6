import pickle
import random
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest

from mldec.data.augment import (
    AugmentConfig,
    DigitsAugmentConfig,
    PaperConfig,
    TimmAugmentConfig,
    crop_box,
    paint_rectangle,
)
from mldec.data.image import resize
from mldec.data.multi_scale_crop import MultiScaleCropConfig, multi_scale_box
from mldec.errors import ConfigError
from mldec.registry import AUGMENTS

CONFIGS = {
    "none": AugmentConfig,
    "paper": PaperConfig,
    "digits": DigitsAugmentConfig,
    "timm": TimmAugmentConfig,
    "multi_scale_crop": MultiScaleCropConfig,
}


def build(name: str, image_size: int = 48, **settings: Any) -> Any:
    return AUGMENTS[name].build(CONFIGS[name](name=name, **settings), image_size=image_size)


def make_image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)


@pytest.mark.parametrize("name", CONFIGS)
def test_an_augmentation_is_a_function_of_image_and_generator(name: str) -> None:
    augment, image = build(name), make_image()
    assert augment.image_size == 48
    random.seed(1)
    np.random.seed(1)
    first = [augment(image, np.random.default_rng(seed)) for seed in range(12)]
    random.seed(2)
    np.random.seed(2)
    again = pickle.loads(pickle.dumps(augment))
    second = [again(image, np.random.default_rng(seed)) for seed in reversed(range(12))][::-1]
    for one, two in zip(first, second, strict=True):
        assert one.shape == (48, 48, 3)
        assert one.dtype == np.uint8
        np.testing.assert_array_equal(one, two)
    assert len({one.tobytes() for one in first}) == (1 if name == "none" else 12)
    np.testing.assert_array_equal(image, make_image())


@pytest.mark.parametrize("name", CONFIGS)
def test_global_generators_are_left_alone(name: str) -> None:
    augment = build(name)
    random.seed(3)
    np.random.seed(3)
    expected = random.random(), np.random.random()
    random.seed(3)
    np.random.seed(3)
    augment(make_image(), np.random.default_rng(0))
    assert (random.random(), np.random.random()) == expected


def test_all_off_is_a_resize() -> None:
    image, rng = make_image(), np.random.default_rng(0)
    expected = resize(image, 48)
    np.testing.assert_array_equal(build("none")(image, rng), expected)
    np.testing.assert_array_equal(build("paper", cutout=0.0, randaugment=False)(image, rng), expected)


def test_the_published_cutout() -> None:
    """Half the sides where it fits, clipped elsewhere, one colour, and nothing else changes."""
    areas = []
    for seed in range(1000):
        image = np.full((40, 40, 3), 44, np.uint8)
        paint_rectangle(image, 0.5, np.random.default_rng(seed))
        changed = (image != 44).any(2)
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        box = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].reshape(-1, 3)
        assert (box == box[0]).all()
        assert 10 <= len(rows) <= 21
        assert 10 <= len(columns) <= 21
        areas.append(len(rows) * len(columns) / 1600)
    assert max(areas) == pytest.approx((21 / 40) ** 2)
    # A side of 1/2 about a uniform centre keeps 7/16 on average; the closing pixel adds 1/40 in three of four cases.
    assert np.mean(areas) == pytest.approx((7 / 16 + 0.75 / 40) ** 2, rel=0.05)


def test_digits_keep_their_colour_and_place() -> None:
    image = np.full((64, 64, 3), 20, np.uint8)
    image[24:40, 8:20] = (240, 40, 40)  # left of the centre: a flip would show
    augment = build("digits", image_size=64)
    for seed in range(40):
        found = augment(image, np.random.default_rng(seed)).astype(int)
        red = (found[..., 0] > 150) & (found[..., 1] < 80) & (found[..., 2] < 80)
        assert 100 < red.sum() < 300
        rows, columns = np.nonzero(red)
        assert abs(columns.mean() - 13.5) < 7
        assert abs(rows.mean() - 31.5) < 9
        bright = found.max(2) > 120
        assert (np.abs(found[..., 1] - found[..., 2])[bright] <= 3).all()


@pytest.mark.parametrize("seed", range(10))
def test_digits_move_as_by_albumentations(seed: int) -> None:
    """The same image as `Affine` and `ColorJitter` make of the same draws."""
    image = cv2.blur(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8), (5, 5))
    found = build("digits", image_size=64)(image, np.random.default_rng(seed))
    rng = np.random.default_rng(seed)
    wide, high, right, down, turn = rng.uniform(-1, 1, 5)
    bright = 1 + 0.15 * rng.uniform(-1, 1)
    expected = A.Compose(
        [
            A.Affine(
                scale={"x": (1 + 0.1 * wide,) * 2, "y": (1 + 0.1 * high,) * 2},
                translate_px={"x": (int(2.56 * right),) * 2, "y": (int(2.56 * down),) * 2},
                rotate=(8 * turn,) * 2,
                border_mode=cv2.BORDER_REPLICATE,
                p=1,
            ),
            A.ColorJitter(brightness=(bright,) * 2, contrast=(1, 1), saturation=(1, 1), hue=(0, 0), p=1),
        ]
    )(image=image)["image"]
    assert np.abs(found.astype(int) - expected).max() <= 1  # it cuts off what we round


@pytest.mark.parametrize("policy", ["rand-m9-n3-mstd0.5", "original-mstd0.5", "v0", "3a", "augmix-m5-w4-d2", None])
def test_timm_policies(policy: str | None) -> None:
    found = build("timm", policy=policy)(make_image(), np.random.default_rng(0))
    assert found.shape == (48, 48, 3)


@pytest.mark.parametrize("policy", ["nonsense", "rand-mfoo", "rand-x7"])
def test_an_unknown_policy_is_refused(policy: str) -> None:
    with pytest.raises(ConfigError, match=f"augment.policy={policy}: timm cannot read"):
        build("timm", policy=policy)


def test_the_timm_crop_without_more_is_a_crop() -> None:
    image = make_image()
    whole = build("timm", policy=None, scale=(1.0, 1.0), ratio=(80 / 60, 80 / 60), flip=0.0, interpolation="bilinear")
    np.testing.assert_array_equal(whole(image, np.random.default_rng(0)), resize(image, 48))
    flipped = build("timm", policy=None, scale=(1.0, 1.0), ratio=(80 / 60, 80 / 60), flip=1.0, interpolation="bilinear")
    np.testing.assert_array_equal(flipped(image, np.random.default_rng(0)), resize(image, 48)[:, ::-1])


@pytest.mark.parametrize(("height", "width"), [(60, 80), (20, 500), (500, 20), (1, 1)])
def test_crops_lie_inside_and_keep_their_bounds(height: int, width: int) -> None:
    for seed in range(200):
        box = crop_box(height, width, (0.2, 0.9), (0.75, 4 / 3), np.random.default_rng(seed))
        left, top, right, bottom = box
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        if (height, width) == (60, 80):
            area, ratio = (right - left) * (bottom - top), (right - left) / (bottom - top)
            assert 0.17 < area / 4800 < 0.93
            assert 0.72 < ratio < 1.4


def test_a_crop_range_must_ascend() -> None:
    with pytest.raises(ValueError, match=r"scale=\[0.9, 0.2\]"):
        TimmAugmentConfig(name="timm", scale=(0.9, 0.2))


def multi_scale_boxes(height: int, width: int, **settings: Any) -> set[tuple[int, int, int, int]]:
    config = MultiScaleCropConfig(name="multi_scale_crop", **settings)
    return {multi_scale_box(height, width, config, np.random.default_rng(seed)) for seed in range(3000)}


def test_multi_scale_crops_are_those_of_the_published_code() -> None:
    """Sides of the shorter side's 1, 0.875, 0.75, 0.66 and 0.5, at most two steps apart; positions in quarters."""
    boxes = multi_scale_boxes(400, 600)
    sides = [400, 350, 300, 264, 200]
    pairs = {(w, h) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 2}
    assert {(right - left, bottom - top) for left, top, right, bottom in boxes} == pairs
    of_one_size = {(left, top) for left, top, right, bottom in boxes if (right - left, bottom - top) == (300, 264)}
    step_w, step_h = (600 - 300) // 4, (400 - 264) // 4
    corners = {(x * step_w, y * step_h) for x in (0, 4) for y in (0, 4)}
    crosses = {(x * step_w, y * step_h) for x, y in ((2, 2), (0, 2), (4, 2), (2, 4), (2, 0))}
    quarters = {(x * step_w, y * step_h) for x in (1, 3) for y in (1, 3)}
    assert of_one_size == corners | crosses | quarters


@pytest.mark.parametrize(("height", "width"), [(60, 80), (20, 500), (500, 20), (1, 1)])
@pytest.mark.parametrize("settings", [{}, {"distort": 0, "grid": False}])
def test_multi_scale_crops_lie_inside(height: int, width: int, settings: dict[str, Any]) -> None:
    for left, top, right, bottom in multi_scale_boxes(height, width, **settings):
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert right - left == bottom - top or settings == {}


def test_multi_scale_crop_of_the_whole_is_a_resize() -> None:
    """Squashed to a square first, as SSGRL does, or not."""
    image, square = make_image(), make_image()[:, :60]
    whole = build("multi_scale_crop", scales=(1.0,), flip=0.0)
    np.testing.assert_array_equal(whole(square, np.random.default_rng(0)), resize(square, 48))
    squashed = build("multi_scale_crop", scales=(1.0,), flip=1.0, resize=48)
    np.testing.assert_array_equal(squashed(image, np.random.default_rng(0)), resize(image, 48)[:, ::-1])


def test_multi_scale_crop_needs_scales() -> None:
    for scales in ((), (0.5, 0.0)):
        with pytest.raises(ValueError, match=r"^scales=\[.*give at least one, all above 0"):
            MultiScaleCropConfig(name="multi_scale_crop", scales=scales)


def test_the_shipped_choices_are_registered() -> None:
    folder = Path(__file__).parents[2] / "configs" / "augment"
    for name in CONFIGS:
        lines = (folder / f"{name}.yaml").read_text().splitlines()
        assert lines[0].startswith("# ")
        assert f"name: {name}" in lines
        assert AUGMENTS[name].config_class is CONFIGS[name]
