import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mldec.data import digits
from mldec.data.digits import COLOURS, DigitsConfig, build_digits, draw_scene, prepare_digits, split_scans
from mldec.data.image import decode
from mldec.errors import ConfigError, DataError


def contents(folder: str) -> dict[str, bytes]:
    root = Path(folder)
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_splits_have_their_sizes_and_labels(digits_config: DigitsConfig) -> None:
    for split in ("train", "val", "test"):
        index = build_digits(digits_config, split=split)
        assert len(index) == getattr(digits_config, split)
        assert len(index.labels) == 80
        counts = index.targets(range(len(index))).sum(1)
        assert counts.min() >= 1
        assert counts.max() <= 5
        assert decode(index.path(0)).shape == (64, 64, 3)
    assert index.labels.names[7] == "red seven"
    assert index.labels.names[-1] == "white nine"


def test_the_same_settings_write_the_same_bytes(digits_config: DigitsConfig, tmp_path: Path) -> None:
    again = prepare_digits(replace(digits_config, root=str(tmp_path)))
    assert contents(again) == contents(prepare_digits(digits_config))
    assert [path.name for path in tmp_path.iterdir()] == [Path(again).name]


def test_other_settings_go_to_another_folder(tmp_path: Path) -> None:
    config = DigitsConfig(name="digits", root=str(tmp_path), train=2, val=1, test=1)
    others = [
        replace(config, seed=1),
        replace(config, train=3),
        replace(config, colours=3),
        replace(config, image_size=96),
    ]
    assert len({prepare_digits(other) for other in [config, *others]}) == 5
    assert prepare_digits(replace(config, unannotated="drop")) == prepare_digits(config)
    assert len(build_digits(replace(config, colours=3), split="val").labels) == 30


def test_no_scan_is_in_two_splits_and_all_are_used() -> None:
    scans = split_scans(seed=0)
    assert sum(len(digit) for split in scans.values() for digit in split) == 1797
    assert all(len(digit) >= 25 for split in scans.values() for digit in split)
    # Two people may have written the very same 8x8 image, so look at the identity of rows through their number.
    for digit in range(10):
        sizes = [len(scans[split][digit]) for split in scans]
        assert abs(sizes[0] / sum(sizes) - 0.7) < 0.01


def test_digits_are_whole_apart_and_of_their_colour() -> None:
    scans = split_scans(seed=0)["train"]
    for seed in range(60):
        canvas, placed = draw_scene(np.random.default_rng(seed), scans, size=64, max_digits=5, colours=8)
        taken = np.zeros((64, 64), bool)
        for item in placed:
            box = np.s_[item.y : item.y + item.height, item.x : item.x + item.width]
            assert item.x >= 1
            assert item.y >= 1
            assert item.x + item.width <= 63
            assert item.y + item.height <= 63
            assert 10 <= item.height <= 26
            assert not taken[box].any()
            taken[box] = True
            ink = canvas[box].reshape(-1, 3).astype(float)
            brightest = ink[np.argsort(ink.sum(1))[-5:]].mean(0)
            wanted = np.array(list(COLOURS.values())[item.label // 10], float)
            cosine = brightest @ wanted / np.linalg.norm(brightest) / np.linalg.norm(wanted)
            assert cosine > 0.98
        assert canvas[~taken].max() < 100  # nothing bright outside the boxes


def test_the_annotations_are_coco(digits_config: DigitsConfig) -> None:
    folder = Path(prepare_digits(digits_config))
    content = json.loads((folder / "annotations" / "instances_val.json").read_text())
    assert [image["file_name"] for image in content["images"]] == [f"{i:06d}.jpg" for i in range(1, 11)]
    assert [annotation["id"] for annotation in content["annotations"]] == list(
        range(1, len(content["annotations"]) + 1)
    )
    assert all(annotation["iscrowd"] == 0 and len(annotation["bbox"]) == 4 for annotation in content["annotations"])


def test_two_at_once_both_end_well(tmp_path: Path) -> None:
    config = DigitsConfig(name="digits", root=str(tmp_path / "new"), train=20, val=5, test=5)
    folders: list[str] = []
    threads = [threading.Thread(target=lambda: folders.append(prepare_digits(config))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(folders) == 3
    assert len(set(folders)) == 1
    assert len(list((tmp_path / "new").iterdir())) == 1  # no draft is left
    assert len(contents(folders[0])) == 33


def test_what_cannot_be_is_said(digits_config: DigitsConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="allowed: train, val, test"):
        build_digits(digits_config, split="trainval")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        prepare_digits(replace(digits_config, root=str(tmp_path / "file")))


def test_each_split_is_drawn_from_its_own_scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """val and test are about handwriting that training has not seen."""
    drawn_from: dict[str, list[list[np.ndarray]]] = {}
    draw, write = digits.draw_scene, digits._write_split

    def note_split(config: DigitsConfig, split: str, *rest: Any) -> int:
        def note_scans(rng: np.random.Generator, scans: list[list[np.ndarray]], **sizes: int) -> Any:
            drawn_from[split] = scans
            return draw(rng, scans, **sizes)

        monkeypatch.setattr(digits, "draw_scene", note_scans)
        return write(config, split, *rest)

    monkeypatch.setattr(digits, "_write_split", note_split)
    digits.prepare_digits(DigitsConfig(name="digits", root=str(tmp_path), train=2, val=2, test=2))
    expected = split_scans(0)
    assert drawn_from.keys() == expected.keys()
    for split, scans in drawn_from.items():
        for ours, theirs in zip(scans, expected[split], strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("colours", [8, 5, 2])
def test_every_colour_and_every_digit_is_seen_whatever_is_kept_from_training(colours: int) -> None:
    reported, chosen_on = digits.unseen_classes(colours)
    assert (len(set(reported)), len(set(chosen_on))) == (2 * colours, colours)
    assert not set(reported) & set(chosen_on)
    every = {f"{colour} {digit}" for colour in list(COLOURS)[:colours] for digit in digits.DIGITS}
    seen = [name.split() for name in every - set(reported) - set(chosen_on)]
    assert {colour for colour, _ in seen} == set(list(COLOURS)[:colours])
    assert {digit for _, digit in seen} == set(digits.DIGITS)


@pytest.mark.parametrize("zero_shot", ["report", "choose"])
def test_with_one_colour_some_digits_would_never_be_seen(zero_shot: str) -> None:
    with pytest.raises(ValueError, match=f"zero_shot={zero_shot}: with colours=1 .* use colours=2 or more"):
        DigitsConfig(name="digits", colours=1, zero_shot=zero_shot)
    assert DigitsConfig(name="digits", colours=2, zero_shot=zero_shot)
    assert DigitsConfig(name="digits", colours=1)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_zero_shot_hides_what_a_split_must_not_know(digits_config: DigitsConfig, split: str) -> None:
    whole = build_digits(digits_config, split=split)
    names, rows = np.array(whole.labels.names), range(len(whole))
    reported, chosen_on = digits.unseen_classes(8)

    report = build_digits(replace(digits_config, zero_shot="report"), split=split)
    unseen = np.isin(names, reported)
    assert report.labels.names == whole.labels.names
    assert report.labels.seen == tuple(~unseen)
    expected = whole.targets(rows)
    if split != "test":
        expected[:, unseen] = -1
    np.testing.assert_array_equal(report.targets(rows), expected)

    choose = build_digits(replace(digits_config, zero_shot="choose"), split=split)
    kept = ~unseen
    assert choose.labels.names == tuple(names[kept])
    assert choose.labels.seen == tuple(~np.isin(names[kept], chosen_on))
    expected = whole.targets(rows)[:, kept]
    if split == "train":
        expected[:, np.isin(names[kept], chosen_on)] = -1
    np.testing.assert_array_equal(choose.targets(rows), expected)
