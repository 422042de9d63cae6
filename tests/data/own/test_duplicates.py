"""Properties: changed copies of an image are found, other images are not, and no pair of close hashes is missed."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from mldec.data.image import decode
from mldec.data.index import ImageIndex
from mldec.data.own.duplicates import DISTANCE, close_pairs, find_near_duplicates, signature
from mldec.labels import LabelSpace


def scene(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """A smooth image of its own kind for each seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def cut(image: Image.Image, share: float) -> Image.Image:
    width, height = image.size
    return image.crop((int(share * width), int(share * height), int((1 - share) * width), int((1 - share) * height)))


CHANGES = {
    "jpeg": lambda image: image,
    "small": lambda image: image.resize((100, 75)),
    "squeezed": lambda image: image.resize((200, 200)),
    "bright": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "pale": lambda image: ImageEnhance.Contrast(image).enhance(0.6),
    "grey": ImageOps.grayscale,
    "cut": lambda image: cut(image, 0.01),
}


def index_of(folder: Path, names: list[str]) -> ImageIndex:
    return ImageIndex.build(((name, [], [], []) for name in names), root=str(folder), labels=LabelSpace(["a"]))


def test_changed_copies_are_found_and_nothing_else(tmp_path: Path) -> None:
    names = []
    for seed in range(12):
        scene(seed).save(tmp_path / f"{seed}.png")
        names.append(f"{seed}.png")
    for number, (name, change) in enumerate(CHANGES.items()):
        change(scene(number)).save(tmp_path / f"{name}.jpg", quality=50)
        names.append(f"{name}.jpg")
    done: list[int] = []
    found = find_near_duplicates(index_of(tmp_path, names), workers=1, on_done=done.append)
    assert found.pairs.tolist() == [[number, 12 + number] for number in range(len(CHANGES))]
    assert (found.unreadable, sum(done)) == ((), len(names))


def test_images_that_cannot_be_read_are_left_out_and_named(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"broken")
    for name in ("a.png", "b.png"):
        scene(0).save(tmp_path / name)
    found = find_near_duplicates(index_of(tmp_path, ["broken.jpg", "a.png", "gone.jpg", "b.png"]), workers=2)
    assert found.pairs.tolist() == [[1, 3]]
    assert [Path(problem.path).name for problem in found.unreadable] == ["broken.jpg", "gone.jpg"]
    assert "broken.jpg (6 bytes): not an image" in found.unreadable[0].reason


def test_images_of_one_colour_are_in_no_pair(tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (60, 40), (number, 20, 20)).save(tmp_path / f"{number}.png")
    assert not len(find_near_duplicates(index_of(tmp_path, ["0.png", "1.png", "2.png"]), workers=1).pairs)


def test_the_scale_at_which_a_jpeg_is_decoded_does_not_matter(tmp_path: Path) -> None:
    scene(3, (2000, 1500)).save(tmp_path / "large.jpg", quality=95)
    path = str(tmp_path / "large.jpg")
    whole, reduced = signature(decode(path)), signature(decode(path, min_side=32))
    assert (whole.hash ^ reduced.hash).bit_count() <= 2
    assert np.abs(whole.thumbnail.astype(int) - reduced.thumbnail).max() <= 3


@pytest.mark.parametrize("distance", [0, 3, DISTANCE, 11])
def test_all_close_hashes_are_found(distance: int) -> None:
    rng = np.random.default_rng(distance)
    hashes = rng.integers(0, 2**63, 600, np.uint64)
    for row in range(0, 400, 2):  # neighbours that differ in 0 to 12 bits, wherever these are
        flipped = np.bitwise_or.reduce(np.uint64(1) << rng.choice(64, row % 13, replace=False).astype(np.uint64))
        hashes[row + 1] = hashes[row] ^ flipped if row % 13 else hashes[row]
    expected = {
        (i, j) for i in range(600) for j in range(i + 1, 600) if int(hashes[i] ^ hashes[j]).bit_count() <= distance
    }
    found = close_pairs(hashes, distance)
    assert set(map(tuple, found.tolist())) == expected
    assert found.tolist() == sorted(found.tolist())


def test_equal_hashes_are_paired_with_the_first_alone() -> None:
    hashes = np.zeros(50_000, np.uint64)
    assert close_pairs(hashes).tolist() == [[0, row] for row in range(1, 50_000)]
    with pytest.raises(ValueError, match="at most 11"):
        close_pairs(hashes, 12)


def test_a_hundred_thousand_hashes_take_seconds() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**63, 100_000, np.uint64)
    hashes[-1] = hashes[0] ^ np.uint64(0b111)
    begun = time.process_time()
    found = close_pairs(hashes)
    assert [0, 99_999] in found.tolist()
    assert len(found) < 1000  # by chance, of 5 * 10**9 pairs
    assert time.process_time() - begun < 30
