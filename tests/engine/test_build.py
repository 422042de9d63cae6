"""Properties: val is cut out of train where none is published, the same for every seed; what cannot work is said."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from mldec.engine import build, config_checks, data_splits
from mldec.errors import ConfigError, DataError
from mldec.labels import LabelSpace
from mldec.registry import HEADS
from tests.curve import C_TRAN, make, make_trainer, with_head


@pytest.fixture
def small_coco(tmp_path):
    """A COCO folder of 40 + 6 tiny images with two categories; every tenth image has no label."""
    (tmp_path / "annotations").mkdir()
    for split, count, first in (("train2014", 40, 0), ("val2014", 6, 1000)):
        (tmp_path / split).mkdir()
        images, annotations = [], []
        for number in range(first, first + count):
            name = f"{number}.jpg"
            Image.fromarray(np.full((8, 8, 3), number % 256, np.uint8)).save(tmp_path / split / name)
            images.append({"id": number, "file_name": name, "width": 8, "height": 8})
            if number % 10:
                box = {"bbox": [0, 0, 4, 4], "area": 16, "iscrowd": 0}
                annotations.append({"id": number, "image_id": number, "category_id": 1 + number % 2, **box})
        categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (tmp_path / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return ["dataset=coco", f"dataset.root={tmp_path}", "dataset.image_size=32", "backbone=resnet18"]


def paths(index):
    return {index.path(row) for row in range(len(index))}


def test_val_is_a_share_of_train_that_no_seed_changes(small_coco):
    splits = data_splits.build_splits(make([*small_coco, "protocol.holdout=0.1"]))
    assert (len(splits.train), len(splits.val), len(splits.test)) == (36, 4, 6)
    assert not paths(splits.train) & paths(splits.val)
    assert not (paths(splits.train) | paths(splits.val)) & paths(splits.test)
    other = data_splits.build_splits(make([*small_coco, "protocol.holdout=0.1", "seed=7"]))
    assert paths(other.val) == paths(splits.val)


def test_the_papers_protocol_chooses_on_test_and_drops_what_has_no_label(small_coco):
    splits = data_splits.build_splits(make([*small_coco, "protocol=paper"]))
    assert (len(splits.train), len(splits.val), len(splits.test)) == (36, 5, 5)
    assert paths(splits.val) == paths(splits.test)


@pytest.fixture
def tables(tmp_path):
    """Forty tiny images of two labels in train.csv, eight more in val.csv."""
    for split, count in (("train", 40), ("val", 8)):
        lines = ["path,labels"]
        for number in range(count):
            name = f"{split}{number}.png"
            Image.new("RGB", (8, 8)).save(tmp_path / name)
            lines.append(f"{name},{('cat', 'dog', 'cat;dog')[number % 3]}")
        (tmp_path / f"{split}.csv").write_text("\n".join(lines))
    return ["dataset=table", f"dataset.train={tmp_path / 'train.csv'}", "backbone=resnet18"], tmp_path


def test_without_a_test_split_val_is_reported_and_that_is_said(tables, caplog):
    words, folder = tables
    splits = data_splits.build_splits(make([*words, f"dataset.val={folder / 'val.csv'}"]))
    assert [len(index) for index in splits] == [40, 8, 8]
    assert "table has no test split: results are reported on val" in caplog.text
    splits = data_splits.build_splits(make([*words, "protocol.holdout=0.25"]))
    assert [len(index) for index in splits] == [30, 10, 10]
    assert not paths(splits.train) & paths(splits.test)
    with pytest.raises(ConfigError, match=r"table has only a train split; .*dataset.val=….*protocol.holdout=0.05"):
        data_splits.build_splits(make([*words, "protocol.holdout=0"]))


def test_labels_that_val_cannot_measure_are_counted_once(tables, caplog):
    words, folder = tables
    (folder / "val.csv").write_text("path,labels\nval0.png,cat\n")
    data_splits.build_splits(make([*words, f"dataset.val={folder / 'val.csv'}"]))
    assert caplog.text.count("warning: val (1 image) has no image of 1 of 2 labels: dog;") == 1
    caplog.clear()
    with caplog.at_level("INFO"):
        data_splits.build_splits(make([*words, "protocol.holdout=0.25"]))
    assert "val is 10 images of train, drawn at random: protocol.holdout=0.25" in caplog.text
    assert "has no image" not in caplog.text


def test_what_is_said_to_have_one_label_a_image_must_have_it(tables):
    words, _ = tables
    with pytest.raises(DataError, match=r"table train: 13 of 40 images do not have exactly one .*train2.png with 2"):
        data_splits.build_split(make([*words, "dataset.single_label=true"]), "train")


def test_counts_that_differ_from_the_published_ones_are_a_warning(small_coco, caplog):
    data_splits.build_split(make(small_coco), "train")
    assert "coco train has 40 images, as published it has 82,783" in caplog.text
    assert "coco train has 2 labels, as published it has 80" in caplog.text


@pytest.mark.parametrize("protocol", ["standard", "paper"])
def test_they_are_said_once_also_where_val_is_made_from_another_split(small_coco, caplog, protocol):
    data_splits.build_splits(make([*small_coco, f"protocol={protocol}"]))
    for split in ("train", "test"):
        assert caplog.text.count(f"coco {split} has") == 2  # images and labels


def test_splits_with_other_labels_are_refused(tables, monkeypatch):
    words, folder = tables
    config = make([*words, f"dataset.val={folder / 'val.csv'}"])
    whole = data_splits.build_split

    def relabelled(config, split, **more):
        index = whole(config, split, **more)
        return index if split == "train" else dataclasses.replace(index, labels=LabelSpace(["cat", "god"]))

    monkeypatch.setattr(data_splits, "build_split", relabelled)
    with pytest.raises(DataError, match=r"val has other labels \(2\) than train \(2\); they differ in dog, god"):
        data_splits.build_splits(config)


def test_digits_have_their_own_val(small_digits):
    splits = data_splits.build_splits(make(small_digits))
    assert (len(splits.train), len(splits.val), len(splits.test)) == (96, 24, 24)


def test_a_dataset_says_which_of_its_settings_have_no_effect():
    words = ["dataset=openimages", "dataset.min_confidence=0.7"]
    assert "only used with annotations=machine or both" in config_checks.find_unused(make(words))[0]
    assert config_checks.find_unused(make([*words, "dataset.annotations=both"])) == []


def test_softmax_on_images_of_several_labels_is_refused(small_digits):
    with pytest.raises(ConfigError, match="use loss=asl or loss=bce"):
        config_checks.check_config(make([*small_digits, "loss=ce"]))


def test_a_head_that_is_told_labels_goes_with_whole_labels_that_the_loss_leaves_out(small_digits):
    others = [text for text in small_digits if not text.startswith("head.")] + ["head=c_tran"]
    config_checks.check_config(make(others))
    for setting, message in {
        "augment.mixup=0.2": "augment.mixup=0.2: a mixed image has fractions of labels, .*use augment.mixup=0, or head",
        "augment.cutmix=1.0": "augment.cutmix=1.0: a mixed image has fractions of labels, .*or head.label_masks=false",
        "loss.unknown_weight=0.5": "loss.unknown_weight=0.5: labels that head=c_tran is .*use loss.unknown_weight=0",
    }.items():
        with pytest.raises(ConfigError, match=message):
            config_checks.check_config(make([*others, setting]))
        config_checks.check_config(make([*others, setting, "head.label_masks=false"]))
        config_checks.check_config(make([*small_digits, setting]))


def test_a_loss_that_needs_more_than_logits_goes_with_heads_that_give_it(small_digits, monkeypatch):
    config = make([*small_digits, "loss=sdl"])
    gap = HEADS["gap"].config_class
    monkeypatch.setattr(gap, "gives", ("label_vectors", "matrix"), raising=False)
    sentence = r"loss=sdl needs details that head=ml_decoder does not give \(matrix, label_vectors\); use .*head=gap"
    with pytest.raises(ConfigError, match=sentence):
        config_checks.check_config(config)
    config_checks.check_config(dataclasses.replace(config, head=gap(name="gap")))


def test_a_loss_that_counts_labels_gets_the_counts_of_train(small_digits):
    config = make([*small_digits, "loss=distribution_balanced"])
    with pytest.raises(ValueError, match="loss=distribution_balanced is built with the label counts of train"):
        build.build_loss(config)
    trainer = make_trainer(config)
    assert trainer.loss.label_counts.tolist() == trainer.splits.train.positives_per_class().tolist()
    assert trainer.loss.num_images == len(trainer.splits.train)


def test_the_same_seed_gives_the_same_initial_weights(small_digits):
    from mldec.engine.seeding import seed_everything

    config = make(small_digits)
    labels = data_splits.build_splits(config).labels
    weights = []
    for seed in (0, 0, 1):
        seed_everything(seed)
        weights.append(next(build.build_classifier(config, labels).parameters()).detach().clone())
    assert (weights[0] == weights[1]).all()
    assert (weights[0] != weights[2]).any()


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["ema=none"], "protocol.report=ema: there are no EMA weights"),
        (["protocol.holdout=0.2"], "protocol.holdout=0.2: digits has its own val split"),
        (["schedule.momentum=[0.8,0.9]"], "schedule.momentum: only used with"),
        (
            ["schedule.cycle_momentum=true", "optimizer.betas=[0.8,0.99]"],
            "optimizer.betas: schedule.cycle_momentum=true",
        ),
        (["loss=bce", "loss.label_smoothing_toward=uniform"], "toward=uniform: loss.label_smoothing is 0"),
        (
            ["loss=bce", "loss.label_smoothing=0.1", "loss.target_threshold=0.2"],
            "label_smoothing=0.1: loss.target_threshold rounds smoothed targets to 0 or 1",
        ),
        (["loss=distribution_balanced", "loss.focal_gamma=0", "loss.focal_balance=3"], "=3.0: loss.focal_gamma is 0"),
        (
            [*C_TRAN, "head.label_masks=false", "head.known_share=0.5"],
            "head.known_share: only used with head.label_masks=true",
        ),
        (
            [*C_TRAN, "head.label_masks=false", "head.published=true"],
            "head.published: only used with head.label_masks=true",
        ),
        (["schedule=multi_step", "schedule.milestones=[1,30,40]"], "=[30, 40]: the run has schedule.epochs="),
        (["schedule=multi_step", "schedule.gamma=0.5"], "=0.5: there are no schedule.milestones"),
        (["schedule=multi_step", "schedule.warmup_lr=1e-5"], "=1e-05: schedule.warmup_epochs is 0"),
        (["runtime.overfit=true"], "each epoch has one step"),
        (["runtime.profile=true", "runtime.limit_train_batches=2"], "the trace needs at least 5 steps"),
    ],
)
def test_a_setting_without_effect_is_a_warning(small_digits, overrides, sentence):
    assert not config_checks.find_unused(make(small_digits))
    assert any(sentence in line for line in config_checks.find_unused(make(with_head(small_digits, overrides))))
