"""Properties: every image counts once whatever the batches, and metrics are those of the metric functions."""

from __future__ import annotations

import csv
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from mldec.config import ProtocolConfig
from mldec.data.image import Normalization, cut_center, decode
from mldec.data.loader import Batch
from mldec.engine import build, data_splits, evaluator
from mldec.engine.checkpoint import Restored
from mldec.engine.evaluator import Scores, compute_metrics, compute_scores, write_per_class
from mldec.engine.inference import ImageScorer
from mldec.engine.predictor import Predictor
from mldec.errors import RunError
from mldec.labels import LabelSpace
from mldec.metrics import mean_average_precision
from tests.curve import make

IMAGES = torch.randint(0, 256, (10, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
TARGETS = torch.randint(-1, 2, (10, 5), dtype=torch.int8, generator=torch.Generator().manual_seed(1))


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(48, 5)
        self.dropout = nn.Dropout(0.5)

    def forward(self, images):
        return self.fc(self.dropout(images.flatten(1)))


def batches(sizes: list[int], order: list[int]):
    start = 0
    for size in sizes:
        rows = order[start : start + size]
        yield Batch(IMAGES[rows], TARGETS[rows], torch.tensor(rows))
        start += size


SCORER = ImageScorer(Normalization.unit(), torch.device("cpu"))


def score(sizes: list[int], order: list[int], *, softmax: bool = False, num_images: int = 0) -> Scores:
    scorer = dataclasses.replace(SCORER, softmax=softmax)
    return compute_scores(Linear(), scorer, batches(sizes, order), num_images=num_images)


def test_scores_do_not_depend_on_batches_or_order():
    whole = score([10], list(range(10)))
    parts = score([3, 3, 4], [7, 2, 9, 0, 4, 1, 8, 6, 3, 5])
    np.testing.assert_allclose(parts.scores, whole.scores, atol=1e-6)
    assert np.array_equal(parts.targets, whole.targets)
    assert parts.ids.tolist() == list(range(10))


def test_very_many_scores_are_kept_in_half_precision(monkeypatch):
    """What float16 rounds away, relative 2^-11, is all that changes."""
    monkeypatch.setattr(evaluator, "HALF_FROM", 50)
    whole = score([10], list(range(10)))
    half = score([3, 3, 4], [7, 2, 9, 0, 4, 1, 8, 6, 3, 5], num_images=10)
    assert (whole.scores.dtype, half.scores.dtype) == (np.float32, np.float16)
    np.testing.assert_allclose(half.scores, whole.scores, rtol=2**-11)
    assert np.array_equal(half.targets, whole.targets)
    assert score([10], list(range(10)), num_images=9).scores.dtype == np.float32


def test_dropout_is_off_and_the_mode_comes_back():
    model = Linear().train()
    once, again = (compute_scores(model, SCORER, batches([10], list(range(10)))) for _ in range(2))
    assert np.array_equal(once.scores, again.scores)
    assert model.training


def test_softmax_scores_sum_to_one_where_a_image_has_one_label():
    assert score([10], list(range(10)), softmax=True).scores.sum(axis=1) == pytest.approx(np.ones(10), abs=1e-6)


def test_a_image_scored_twice_or_not_finite_is_an_error():
    with pytest.raises(RunError, match="scored twice"):
        score([2], [3, 3])
    model = Linear()
    model.fc.weight.data.fill_(float("nan"))
    with pytest.raises(RunError, match="not finite"):
        compute_scores(model, SCORER, batches([10], list(range(10))))
    with pytest.raises(RunError, match="no image"):
        score([], [])


@pytest.mark.parametrize("definition", ["exact", "exact_zero", "voc07", "partial", "paper"])
def test_map_is_the_mean_of_what_is_counted(definition):
    scores = score([10], list(range(10)))
    protocol = ProtocolConfig(name="standard", average_precision=definition, top_k=(1, 3))
    result = compute_metrics(scores, protocol)
    assert result.metrics["mAP"] == pytest.approx(mean_average_precision(scores.scores, scores.targets, definition))
    assert result.metrics["classes_counted"] == np.isfinite(result.per_class).sum()
    assert {"CF1", "OF1", "CF1@1", "OF1@1", "CF1@3", "OF1@3"} <= result.metrics.keys()


def test_top_1_counts_the_right_class():
    targets = np.eye(4, dtype=np.int8)[[0, 1, 2, 3]]
    scores = np.eye(4, dtype=np.float32)[[0, 1, 2, 0]]
    result = compute_metrics(Scores(np.arange(4), scores, targets), ProtocolConfig(name="standard"), single_label=True)
    assert result.metrics["top1"] == 75
    assert result.metrics["top5"] == 100


def test_the_per_class_table_names_every_class(tmp_path):
    scores = score([10], list(range(10)))
    labels = LabelSpace(["cat", "dog, small", 'a "b"', "é", "z"])
    result = compute_metrics(scores, ProtocolConfig(name="standard"))
    write_per_class(tmp_path / "ap.csv", result, scores, labels)
    with (tmp_path / "ap.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == list(labels.names)
    for row, ap, column in zip(rows, result.per_class, scores.targets.T, strict=True):
        assert row["average_precision"] == (f"{100 * ap:.4f}" if np.isfinite(ap) else "")
        assert [int(row[k]) for k in ("positives", "negatives", "unknown")] == [(column == s).sum() for s in (1, 0, -1)]


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_evaluation_and_prediction_cut_the_same_centre(small_digits, tmp_path, interpolation):
    """`dataset.crop` shapes what both see, and nothing else."""
    config = make([*small_digits, "dataset.crop=0.75", f"dataset.interpolation={interpolation}"])
    index = data_splits.build_split(config, "test")
    batch = next(iter(build.build_eval_loader(config, index, torch.device("cpu"))))
    size = config.dataset.image_size
    wanted = [cut_center(decode(index.path(row)), size, 0.75, interpolation) for row in range(len(batch.ids))]
    assert np.array_equal(batch.images.permute(0, 2, 3, 1).numpy(), np.stack(wanted))
    whole = next(iter(build.build_eval_loader(make(small_digits), index, torch.device("cpu"))))
    assert not torch.equal(batch.images, whole.images)
    classifier = build.build_classifier(config, index.labels)
    normalization = build.build_normalization(classifier)
    restored = Restored(config, index.labels, classifier.eval(), normalization, "raw", {}, 0, tmp_path)
    predictor = Predictor(restored, device="cpu")
    scores = predictor.scores([index.path(row) for row in range(3)])
    with torch.inference_mode():
        logits = classifier(predictor.normalization(batch.images[:3]))
    np.testing.assert_allclose(scores, logits.sigmoid().numpy(), rtol=1e-5, atol=1e-6)
