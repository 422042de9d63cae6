"""Property: a head that reads the class token does so in training, prediction, maps, report and export alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mldec
from mldec.commands.main import run as command
from mldec.engine.build import build_classifier
from mldec.engine.export.exporter import export
from mldec.errors import ConfigError
from mldec.labels import LabelSpace
from tests.curve import make, small_experiment


@pytest.fixture(scope="module")
def words(digits_root):
    kept = [word for word in small_experiment(digits_root) if not word.startswith("head.")]
    return [*kept, "backbone=timm", "backbone.model=test_vit", "backbone.freeze=all", "head=gap", "schedule.epochs=1"]


@pytest.fixture(scope="module")
def run(words, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    cached = ["cache.tokens=true", "augment=none", f"dataset.cache={folder.parent / 'cache'}"]
    assert command(["train", *words, *cached, "head.source=both", f"run_dir={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def inputs():
    return list(np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8))


def test_maps_sum_to_the_logit(run, inputs):
    predictor = mldec.load(run, device="cpu")
    head = predictor.model.head
    assert head.fc.in_features == 2 * predictor.model.backbone.num_features
    maps, scores = predictor.maps(inputs), predictor.scores(inputs)
    logits = maps.sum(axis=(2, 3)) + head.fc.bias.detach().numpy()
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), scores, atol=1e-5)


def test_an_export_gives_equal_scores(run, inputs, tmp_path):
    found = export(run, tmp_path / "exported", ["safetensors", "torch_export"])
    before, after = mldec.load(run, device="cpu"), mldec.load(found.folder, device="cpu")
    assert np.array_equal(after.scores(inputs), before.scores(inputs))
    module = torch.export.load(found.folder / "model.pt2").module()
    images = before.normalization(torch.from_numpy(np.stack(inputs)).permute(0, 3, 1, 2))
    np.testing.assert_allclose(module(images)[0].detach().numpy(), before.scores(inputs), atol=1e-6)


def test_a_report_is_written(run, tmp_path):
    assert command(["report", f"run={run}", f"output={tmp_path / 'report.html'}"]) == 0
    assert (tmp_path / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (("backbone=resnet_digits",), "resnet_digits"),
        (("backbone=timm", "backbone.model=vit_tiny_patch16_224"), None),
        (("backbone=timm", "backbone.model=vit_wee_patch16_reg1_gap_256"), "vit_wee_patch16_reg1_gap_256"),
    ],
)
def test_only_a_backbone_with_a_class_token_has_one(words, overrides, name):
    """A map has none, and a sequence may begin with registers alone."""
    rest = [word for word in words if not word.startswith("backbone")]
    config = make([*rest, *overrides, "head.source=cls", "dataset.image_size=64"])
    labels = LabelSpace(("a", "b"))
    if name is None:
        assert build_classifier(config, labels).head.source == "cls"
        return
    with pytest.raises(ConfigError, match=rf"head\.source=cls: {name}.* has no class token; use head\.source=patch"):
        build_classifier(config, labels)
