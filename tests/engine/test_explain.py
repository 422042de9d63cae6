"""Properties of maps over images: they lie where the network looked, and the pointing score counts what it says."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import timm
import torch
from pointing_score import boxes_of, score_pointing
from torch import nn

from mldec.commands import main
from mldec.data.digits import scene_boxes
from mldec.data.digits_many import placed_boxes
from mldec.data.image import decode
from mldec.engine import data_splits, image_sheets
from mldec.engine.cam_alignment import measure_shift
from mldec.engine.image_sheets import View
from mldec.engine.predictor import Prediction, load
from mldec.errors import ConfigError, DataError
from mldec.models.backbone import Backbone
from mldec.models.resnet import SmallResNet
from mldec.models.tokens import Tokens
from tests.curve import make, make_trainer, small_experiment


@pytest.fixture(scope="module")
def run(digits_root, tmp_path_factory):
    """A run of a few steps whose evaluation sees the middle of images alone."""
    folder = tmp_path_factory.mktemp("explain") / "run"
    overrides = [name for name in small_experiment(digits_root) if not name.startswith("head.")]
    trainer = make_trainer(make([*overrides, "head=gap", "schedule.epochs=1", "dataset.crop=0.5"]))
    trainer.fit(folder)
    return folder, trainer.splits.test


class Brightness(nn.Module):
    """A backbone whose map is the image itself, coarse."""

    def forward(self, images: torch.Tensor) -> Tokens:
        cells = nn.functional.avg_pool2d(images, images.shape[2] // 8)
        return Tokens(cells.flatten(2).transpose(1, 2), (8, 8))


class ColourHead(nn.Module):
    """A head that reads such a map: a label a colour."""

    def forward(self, tokens: Tokens) -> torch.Tensor:
        return tokens.values.mean(dim=1)

    def maps(self, tokens: Tokens, weighting: str) -> torch.Tensor:
        return tokens.values.transpose(1, 2)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (90, 160), (200, 70), (31, 47)])
@pytest.mark.parametrize("crop", [None, 0.875, 0.5])
def test_a_map_peaks_where_the_bright_spot_of_the_image_is(run, height, width, crop):
    predictor = load(run[0], device="cpu")
    predictor._resize = type(predictor._resize)(64, crop)
    predictor._shift = (0.0, 0.0)
    predictor.model.backbone, predictor.model.head = Brightness(), ColourHead()
    image = np.zeros((height, width, 3), np.uint8)
    left, top, right, bottom = predictor.view(height, width).box
    if crop is None:
        assert (left, top, right, bottom) == (0, 0, width, height)
    else:  # the square in the middle, a share of the shorter side
        for first, last, length in ((left, right, width), (top, bottom, height)):
            assert last - first == pytest.approx(crop * min(height, width), abs=2)
            assert first + last == pytest.approx(length, abs=2)
    y, x = top + (bottom - top) * 11 // 16, left + (right - left) * 5 // 16  # the middle of a cell
    size = (bottom - top) // 16 + 1, (right - left) // 16 + 1
    image[y - size[0] : y + size[0], x - size[1] : x + size[1], 1] = 255
    found = predictor.maps([image])[0, 1]
    heat = image_sheets.upsampled(found, height, width, predictor.view(height, width))
    peak = np.unravel_index(np.nanargmax(heat), heat.shape)
    assert abs(peak[0] - y) <= max(2, (bottom - top) / 16)
    assert abs(peak[1] - x) <= max(2, (right - left) / 16)
    assert np.isnan(heat).sum() == height * width - (bottom - top) * (right - left)


def test_without_a_shift_upsampling_is_that_of_opencv():
    where = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    expected = cv2.resize(where, (128, 60), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_allclose(image_sheets.upsampled(where, 60, 128), expected, atol=0.05)


def test_a_shift_moves_the_map_by_its_cells():
    where = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    plain = image_sheets.upsampled(where, 64, 64)
    moved = image_sheets.upsampled(where, 64, 64, View((0, 0, 64, 64), (-0.5, 0.25)))
    np.testing.assert_allclose(moved[:-4, 2:], plain[4:, :-2], atol=1e-5)


def test_what_the_network_did_not_see_is_dark_and_what_speaks_against_is_not_warm():
    image = np.full((40, 60, 3), 200, np.uint8)
    shown = image_sheets.overlay(image, np.array([[1.0, -5.0]]), View((10, 0, 50, 40)))
    assert (shown[:, :10] < 60).all()
    assert shown[20, 12].astype(int).sum() > shown[20, 48].astype(int).sum()
    assert abs(shown[:, 48].astype(int) - 150).max() <= 1


@pytest.mark.parametrize(
    ("make_model", "size", "expected"),
    [
        (SmallResNet, 64, -7 / 16),  # three halvings: 3.5 of the 8 pixels of a cell
        (lambda: timm.create_model("resnet18"), 96, -31 / 64),  # five, on a map of 3 x 3
        (lambda: timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2), 64, 0.0),
        (lambda: timm.create_model("tf_efficientnet_lite0"), 224, 31 / 64),  # TensorFlow pads below and on the right
    ],
)
def test_the_shift_of_a_map_is_that_of_its_strides(make_model, size, expected):
    torch.manual_seed(0)
    backbone = Backbone(make_model(), image_size=size).eval()
    state = torch.get_rng_state()
    shift = measure_shift(backbone, lambda images: images.float() / 255, size)
    assert shift == pytest.approx((expected, expected), abs=0.08)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_the_shift_of_a_map_does_not_depend_on_the_weights():
    backbone = Backbone(timm.create_model("tf_efficientnet_lite0"), image_size=64).eval()
    before = measure_shift(backbone, lambda images: images.float() / 255, 64)
    with torch.no_grad():
        for module in backbone.modules():
            if isinstance(module, nn.Conv2d):  # as if trained: few weights are large
                module.weight.mul_(torch.randn_like(module.weight) ** 3)
    kept = {name: value.clone() for name, value in backbone.state_dict().items()}
    assert measure_shift(backbone, lambda images: images.float() / 255, 64) == before
    assert all(torch.equal(value, kept[name]) for name, value in backbone.state_dict().items())


def test_maps_of_average_pooling_add_up_to_the_logit(run):
    folder, test = run
    predictor = load(folder, device="cpu")
    paths = [test.path(row) for row in range(10)]  # more than are made at a time
    maps, bias = predictor.maps(paths), predictor.model.head.fc.bias.detach().numpy()
    scores = predictor.scores(paths)
    np.testing.assert_allclose(maps.sum(axis=(2, 3)) + bias, np.log(scores / (1 - scores)), atol=1e-3)
    assert predictor.maps([]).shape == (0, 80, 8, 8)
    assert predictor.check_maps() == (80, 8, 8)
    assert predictor.view(64, 64).box == (16, 16, 48, 48)


def test_what_has_no_map_says_so(run):
    predictor = load(run[0], device="cpu")
    with pytest.raises(ConfigError, match="weighting=both: no such weighting; use label or attention"):
        predictor.maps([np.zeros((64, 64, 3), np.uint8)], "both")
    predictor.model.head = nn.Identity()
    with pytest.raises(DataError, match="head=gap has no maps"):
        predictor.check_maps()


def test_the_command_draws_maps_and_refuses_before_it_scores(run, tmp_path, capsys):
    folder, test = run
    command = ["predict", f"run={folder}", f"input={test.path(0)}", "top_k=2", f"output={tmp_path / 'out'}"]
    assert main.run([*command, "maps=true"]) == 0
    (sheet,) = (tmp_path / "out" / "maps").glob("[!.]*")
    assert cv2.imread(str(sheet)).shape[1] == 3 * (image_sheets.TILE + 12) + 8
    assert main.run([*command[:-1], f"output={tmp_path / 'none'}", "maps=attention"]) == 2
    assert "pooling has no attention" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("experiment", ["digits", "digits_many"])
def test_boxes_are_those_of_the_labels_of_each_row(digits_root, experiment):
    overrides = [name for name in small_experiment(digits_root) if not name.startswith("experiment=")]
    config = make(
        [f"experiment={experiment}", *overrides, *(["init_from=null"] if experiment == "digits_many" else [])]
    )
    index = data_splits.build_split(config, "test")
    boxes = boxes_of(config, "test")
    read = scene_boxes if experiment == "digits" else placed_boxes
    assert boxes == read(config.dataset, "test")
    assert len(boxes) == len(index)
    for row, found in enumerate(boxes):
        assert set(found) == {index.labels.names[c] for c in np.flatnonzero(index.targets([row])[0] == 1)}
        bright = decode(index.path(row)).max(axis=2) > 140  # the ground is darker
        for x, y, width, height in (box for places in found.values() for box in places):
            assert bright[y : y + height, x : x + width].mean() > 0.1
            bright[y : y + height, x : x + width] = False
        assert bright.mean() < 0.02


def test_other_datasets_have_no_boxes():
    config = SimpleNamespace(dataset=SimpleNamespace(name="coco"))
    with pytest.raises(DataError, match=r"dataset=coco: .*pointing needs dataset=digits"):
        boxes_of(config, "test")


class Oracle:
    """Stands in for a predictor: a map of 64 x 64 whose one peak is where the test wants it."""

    def __init__(self, index, boxes, point_at) -> None:
        self.labels, self.boxes, self.point_at = index.labels, boxes, point_at

    def view(self, height, width):
        return View((0, 0, width, height))

    def stream(self, paths, maps):
        for row, path in enumerate(paths):
            scores = np.array([0.9 if name in self.boxes[row] else 0.1 for name in self.labels.names])
            found = np.zeros((len(self.labels), 64, 64), np.float32)
            for name in self.boxes[row]:
                found[(self.labels.index(name), *self.point_at(self.boxes[row], name))] = 1
            yield [Prediction(path, scores, pixels=np.zeros((64, 64, 3), np.uint8), maps=found)]


@pytest.fixture(scope="module")
def scenes(digits_root):
    config = make(small_experiment(digits_root))
    return data_splits.build_split(config, "test"), boxes_of(config, "test")


def _middle(box):
    x, y, width, height = box
    return y + height // 2, x + width // 2


def test_a_perfect_pointer_scores_100_and_one_at_the_others_0(scenes):
    index, boxes = scenes
    perfect = score_pointing(Oracle(index, boxes, lambda own, name: _middle(own[name][-1])), index, boxes)
    assert (perfect.inside, perfect.another) == (100, 0)
    assert perfect.labels == perfect.present == sum(map(len, boxes))

    def at_another(own, name):
        others = [other for other in own if other != name]
        return _middle(own[others[0]][0]) if others else (0, 0)

    wrong = score_pointing(Oracle(index, boxes, at_another), index, boxes)
    alone = sum(len(found) == 1 for found in boxes)
    assert wrong.inside == 0
    assert wrong.another == pytest.approx(100 * (1 - alone / wrong.labels))


def test_chance_is_what_random_points_give(scenes):
    index, boxes = scenes
    rng = np.random.default_rng(0)
    tries = [
        score_pointing(Oracle(index, boxes, lambda own, name: tuple(rng.integers(64, size=2))), index, boxes)
        for _ in range(15)
    ]
    assert np.mean([t.inside for t in tries]) == pytest.approx(tries[0].chance_level, abs=3)
    assert np.mean([t.another for t in tries]) == pytest.approx(tries[0].chance_level_another, abs=4)


def test_a_map_that_is_laid_where_its_cells_are_may_point_elsewhere(scenes):
    """A point in the corner of a box, moved by two pixels out of it."""
    index, boxes = scenes
    oracle = Oracle(index, boxes, lambda own, name: (own[name][0][1], own[name][0][0]))
    oracle.view = lambda height, width: View((0, 0, width, height), (-2.0, -2.0))
    assert score_pointing(oracle, index, boxes).inside < 100
    assert score_pointing(oracle, index, boxes, shifted=False).inside == 100


def test_only_what_was_found_counts(scenes):
    index, boxes = scenes
    oracle = Oracle(index, boxes, lambda own, name: _middle(own[name][0]))
    with pytest.raises(DataError, match=r"none of the .* labels has a score above 0\.95"):
        score_pointing(oracle, index, boxes, threshold=0.95)
