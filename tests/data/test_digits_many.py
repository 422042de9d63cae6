"""Property: the labels are what the boxes of the very same scenes say, in an order whose groups are of a kind."""

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mldec.data.digits import (
    COLOURS,
    DIGITS,
    DigitsConfig,
    PlacedDigit,
    build_digits,
    draw_scene,
    fingerprint,
    prepare_digits,
    split_scans,
)
from mldec.data.digits_many import PLACES, DigitsManyConfig, build_digits_many, place
from mldec.data.index import ImageIndex
from mldec.errors import ConfigError, DataError


@pytest.fixture(scope="session")
def config(digits_config: DigitsConfig) -> DigitsManyConfig:
    """The scenes that the tests of `digits` draw, with other classes."""
    counts = {split: getattr(digits_config, split) for split in digits_config.splits}
    return DigitsManyConfig(name="digits_many", root=digits_config.root, **counts)


def labels_of(index: ImageIndex, row: int) -> set[str]:
    return {index.labels.names[column] for column in index.positives[row]}


def where(centre_x: float, centre_y: float) -> str:
    """The name of a place, both as fractions of the side: said in words, as the documentation says it."""
    horizontal = "left" if centre_x < 1 / 3 else "right" if centre_x >= 2 / 3 else ""
    vertical = "top" if centre_y < 1 / 3 else "bottom" if centre_y >= 2 / 3 else ""
    return f"{vertical} {horizontal}".strip() or "centre"


def test_classes_are_in_order_of_colour_then_digit_then_place(config: DigitsManyConfig) -> None:
    names = build_digits_many(config, split="train").labels.names
    assert names == tuple(f"{colour} {digit} {spot}" for colour in COLOURS for digit in DIGITS for spot in PLACES)
    assert (len(names), names[63], names[67], names[-1]) == (
        720,
        "red seven top left",
        "red seven centre",
        "white nine bottom right",
    )


@pytest.mark.parametrize("num_groups", [80, 8])
def test_contiguous_groups_are_of_a_kind(config: DigitsManyConfig, num_groups: int) -> None:
    names = np.array(build_digits_many(config, split="train").labels.names).reshape(num_groups, -1)
    shared = [{" ".join(name.split()[: 2 if num_groups == 80 else 1]) for name in group} for group in names]
    assert all(len(kinds) == 1 for kinds in shared)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_label_is_what_the_boxes_say(config: DigitsManyConfig, split: str) -> None:
    content = json.loads((Path(prepare_digits(config)) / "annotations" / f"instances_{split}.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    expected = defaultdict(set)
    for annotation in content["annotations"]:
        x, y, width, height = annotation["bbox"]
        spot = where((x + width / 2) / 64, (y + height / 2) / 64)
        expected[f"{annotation['image_id']:06d}.jpg"].add(f"{names[annotation['category_id']]} {spot}")
    index = build_digits_many(config, split=split)
    assert {index.name(row): labels_of(index, row) for row in range(len(index))} == expected


@pytest.mark.parametrize("size", [48, 64, 66])
def test_all_places_are_cells_of_one_size(size: int) -> None:
    for x in range(size - 2):
        for y in range(size - 2):
            assert PLACES[place((x, y, 2, 2), size)] == where((x + 1) / size, (y + 1) / size)


def test_without_the_place_it_is_digits(config: DigitsManyConfig, digits_config: DigitsConfig) -> None:
    """The same folder, the same images; and neither index is opened in the other's place, also from the cache."""
    assert prepare_digits(config) == prepare_digits(digits_config)
    for _ in range(2):
        many, plain = build_digits_many(config, split="train"), build_digits(digits_config, split="train")
        assert (len(many.labels), len(plain.labels)) == (720, 80)
        assert list(many.names()) == list(plain.names())
        for row in range(len(many)):
            assert {" ".join(label.split()[:2]) for label in labels_of(many, row)} == labels_of(plain, row)


def test_each_dataset_has_an_index_of_its_own_on_disk(
    config: DigitsManyConfig, digits_config: DigitsConfig, tmp_path: Path
) -> None:
    build_digits(replace(digits_config, cache=str(tmp_path)), split="val")
    (plain,) = tmp_path.iterdir()
    content = plain.read_bytes()
    build_digits_many(replace(config, cache=str(tmp_path)), split="val")
    assert plain.read_bytes() == content
    (many,) = set(tmp_path.iterdir()) - {plain}
    assert many.name.startswith("digits_many-val-")
    assert many.name.split("-")[-1] != plain.name.split("-")[-1]


def test_the_scenes_of_digits_are_what_they_were() -> None:
    """Golden: a folder that an earlier version drew is found again, and its first scene would be drawn alike."""
    assert fingerprint(DigitsConfig(name="digits")) == "3edbc72f5ff35f71"
    scans = split_scans(0)["train"]
    _, placed = draw_scene(np.random.default_rng((0, 0, 1)), scans, size=64, max_digits=5, colours=8)
    assert placed == [PlacedDigit(61, 23, 33, 10, 17), PlacedDigit(23, 45, 40, 14, 20), PlacedDigit(58, 19, 6, 8, 13)]


def test_more_scenes_begin_with_those_of_fewer(config: DigitsManyConfig, tmp_path: Path) -> None:
    """So digits_many has the 12,000 training scenes of digits among its 24,000."""
    few, many = (Path(prepare_digits(replace(config, root=str(tmp_path), train=train))) for train in (3, 5))
    for number in (1, 2, 3):
        image = Path("train") / f"{number:06d}.jpg"
        assert (few / image).read_bytes() == (many / image).read_bytes()


def test_fewer_colours_are_fewer_classes_and_one_digit_is_one_label(tmp_path: Path) -> None:
    config = DigitsManyConfig(name="digits_many", root=str(tmp_path), train=4, val=1, test=1, colours=2, max_digits=1)
    assert config.single_label
    index = build_digits_many(config, split="train")
    assert len(index.labels) == 180
    assert index.positives.counts.tolist() == [1, 1, 1, 1]


def test_what_cannot_be_is_said(config: DigitsManyConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="digits_many has no such split"):
        build_digits_many(config, split="trainval")
    damaged = replace(config, root=str(tmp_path), train=2, val=1, test=1)
    (Path(prepare_digits(damaged)) / "annotations" / "instances_val.json").write_text('{"images": [')
    with pytest.raises(DataError, match=r"instances_val\.json cannot be read: .*; delete .* to have it drawn again"):
        build_digits_many(damaged, split="val")
