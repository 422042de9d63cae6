"""Properties: every tile is where it belongs and says what was found, wrong and missed."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from mldec.data.loader import Batch
from mldec.engine import data_splits, image_sheets
from mldec.engine.evaluator import Scores
from mldec.labels import LabelSpace
from tests.curve import make


def test_tiles_show_their_images_in_reading_order():
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)]
    images = [np.full((16, 16, 3), colour, np.uint8) for colour in colours]
    sheet = image_sheets.sheet(images, [[("a", image_sheets.WHITE)]] * 5)
    height, width = image_sheets.TILE + image_sheets.LINE + 14, image_sheets.TILE + 12
    for number, colour in enumerate(colours):
        middle = (number // 4 * height + 8 + image_sheets.TILE // 2, number % 4 * width + 8 + image_sheets.TILE // 2)
        assert tuple(sheet[middle]) == colour


def test_a_batch_sheet_captions_each_image_with_its_labels():
    batch = Batch(
        torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([[1, 0], [0, -1]]).to(torch.int8), torch.arange(2)
    )
    sheet = image_sheets.batch_sheet(batch, LabelSpace(["cat", "dog"]))
    assert sheet.dtype == np.uint8
    assert sheet.shape[2] == 3


def test_captions_tell_found_wrong_missed_and_unknown():
    labels = LabelSpace(["found", "wrong", "missed", "unknown", "rest"])
    scores, targets = np.array([0.9, 0.8, 0.1, 0.7, 0.2]), np.array([1, 0, 1, -1, 0])
    assert image_sheets._caption(scores, targets, labels) == [
        ("found 90%", image_sheets.GREEN),
        ("wrong 80%", image_sheets.RED),
        ("unknown 70%", image_sheets.GREY),
        ("missed: missed 10%", image_sheets.BLUE),
    ]


def test_a_predictions_sheet_is_written_whole(small_digits, tmp_path):
    index = data_splits.build_splits(make(small_digits)).test
    scores = Scores(np.arange(len(index)), np.zeros((len(index), 80), np.float32), index.targets(np.arange(len(index))))
    sheet = image_sheets.predictions_sheet(index, scores, 64)
    image_sheets.save_image(tmp_path / "sheet.png", sheet)
    back = cv2.cvtColor(cv2.imread(str(tmp_path / "sheet.png")), cv2.COLOR_BGR2RGB)
    assert np.array_equal(back, sheet)
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]
