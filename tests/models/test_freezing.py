"""Frozen and partly frozen backbones: what is trained, what keeps still, and what is shared."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from mldec.data.image import Normalization
from mldec.engine.cam_alignment import measure_shift
from mldec.engine.ema import Ema
from mldec.engine.optimizer import parameter_groups
from mldec.errors import ConfigError
from mldec.models.backbone import Backbone, BackboneConfig, TimmBackboneConfig
from mldec.models.classifier import Classifier
from mldec.models.freezing import layers_of
from mldec.models.heads import GlobalAveragePool
from mldec.registry import BACKBONES

MODELS = ["resnet18", "tf_efficientnet_lite0", "vit_tiny_patch16_224", "convnext_atto", "swin_tiny_patch4_window7_224"]
SMALL = ["test_resnet", "test_efficientnet", "test_vit", "test_convnext"]


def build(model: str, freeze: Any = "none", size: int = 64) -> Backbone:
    config = TimmBackboneConfig(name="timm", model=model, freeze=freeze)
    return BACKBONES["timm"].build(config, image_size=size)


@pytest.mark.parametrize("model", SMALL)
@pytest.mark.parametrize("freeze", [0, 1, 2, "all"])
def test_what_is_frozen_does_not_change_and_the_rest_does(model: str, freeze: Any) -> None:
    torch.manual_seed(0)
    backbone = build(model, freeze)
    classifier = Classifier(backbone, GlobalAveragePool(backbone.num_features, 3)).train()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    optimizer = torch.optim.SGD(parameter_groups(classifier, weight_decay=0.1), lr=0.1)
    for _ in range(2):
        classifier(torch.randn(4, 3, 64, 64)).square().sum().backward()
        seen = {name for name, parameter in classifier.named_parameters() if parameter.grad is not None}
        optimizer.step()
        optimizer.zero_grad()
    changed = {name for name, value in classifier.state_dict().items() if not torch.equal(value, before[name])}
    layers = layers_of(backbone.model, coarse=True)
    frozen = layers if freeze == "all" else layers[: freeze + 1]
    still = {f"backbone.model.{name}" for layer in frozen for name in layer}
    assert not still & changed
    trained = {f"backbone.model.{name}" for layer in layers for name in layer} - still
    parameters = dict(classifier.named_parameters())
    assert all(parameters[name].grad is None for name in still)
    assert {name for name in trained if parameters[name].requires_grad} <= seen
    buffers = {name for name in changed if name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    assert not any(f"{name.rpartition('.')[0]}.weight" in still for name in buffers)
    assert bool(buffers) == (freeze != "all" and any(isinstance(m, nn.BatchNorm2d) for m in backbone.modules()))


def test_a_frozen_backbone_gives_the_same_tokens_in_training_and_keeps_no_graph() -> None:
    backbone = build("resnet18", "all")
    images = torch.randn(2, 3, 64, 64)
    trained = backbone.train()(images).values
    assert not trained.requires_grad
    torch.testing.assert_close(trained, backbone.eval()(images).values, rtol=0, atol=0)


def test_the_average_shares_what_is_frozen_and_follows_the_rest() -> None:
    backbone = build("resnet18", 2)
    classifier = Classifier(backbone, GlobalAveragePool(backbone.num_features, 3))
    ema = Ema(classifier, decay=0.5)
    theirs, ours = dict(ema.module.named_parameters()), dict(classifier.named_parameters())
    shared = {name for name in ours if theirs[name].data_ptr() == ours[name].data_ptr()}
    assert shared == {name for name, value in ours.items() if not value.requires_grad}
    assert shared
    with torch.no_grad():
        classifier.head.fc.weight.add_(1)  # type: ignore[union-attr, operator]
    before = {name: value.clone() for name, value in theirs.items()}
    ema.update(classifier)
    moved = {name for name in theirs if not torch.equal(theirs[name], before[name])}
    assert moved == {"head.fc.weight"}
    assert all(parameter.requires_grad for name, parameter in ours.items() if name not in shared)


@pytest.mark.parametrize(
    ("model", "freeze", "message"),
    [
        ("resnet18", 5, r"freeze=5: resnet18 has 4 stages or blocks; use 0\.\.4 or all"),
        ("vit_tiny_patch16_224", 99, r"has 12 stages or blocks"),
    ],
)
def test_more_stages_than_there_are_are_refused(model: str, freeze: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(model, freeze)


def test_networks_that_do_not_say_what_their_stages_are_can_only_be_frozen_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(timm.models.resnet.ResNet, "group_matcher")
    with pytest.raises(ConfigError, match="resnet18 does not say what its stages are; use all or none"):
        build("resnet18", 1)
    assert build("resnet18", "all").is_frozen
    with pytest.raises(ConfigError, match="use layer_decay=1"):
        parameter_groups(Classifier(build("resnet18"), nn.Linear(2, 2)), weight_decay=0.1, layer_decay=0.5)


@pytest.mark.parametrize("model", MODELS)
def test_rates_of_layers_are_those_of_timm(model: str) -> None:
    """Also the parameters that do not decay, as timm's position embeddings."""
    with torch.device("meta"):
        whole = timm.create_model(model)
        backbone = Backbone(timm.create_model(model, num_classes=0), image_size=224)
        classifier = Classifier(backbone, GlobalAveragePool(backbone.num_features, 3))
    decay = whole.no_weight_decay() if hasattr(whole, "no_weight_decay") else ()
    groups = param_groups_layer_decay(whole, weight_decay=0.05, no_weight_decay_list=decay, layer_decay=0.7)
    names = {id(parameter): name for name, parameter in whole.named_parameters()}
    theirs = {names[id(p)]: (g["lr_scale"], g["weight_decay"]) for g in groups for p in g["params"]}
    names = {id(parameter): name for name, parameter in classifier.named_parameters()}
    ours = {
        names[id(p)].removeprefix("backbone.model."): (group["lr_scale"], group["weight_decay"])
        for group in parameter_groups(classifier, weight_decay=0.05, layer_decay=0.7)
        for p in group["params"]
    }
    assert ours.pop("head.fc.weight") == (1, 0.05)
    assert ours.pop("head.fc.bias") == (1, 0)
    assert all(ours[name] == pytest.approx(theirs[name]) for name in ours)
    assert len(ours) > len(theirs) - 6  # all but the network's own classifier and its norm


def test_without_decay_the_groups_are_the_four_of_before() -> None:
    backbone = BACKBONES["resnet18"].build(BackboneConfig(name="resnet18"), image_size=64)
    groups = parameter_groups(Classifier(backbone, GlobalAveragePool(512, 3)), weight_decay=0.1)
    assert [group["name"] for group in groups] == [
        "backbone_decay",
        "backbone_no_decay",
        "head_decay",
        "head_no_decay",
    ]


def test_maps_of_a_frozen_network_lie_where_those_of_the_same_network_do() -> None:
    """The place of the map is measured by a gradient to the pixels, which a frozen network passes on too."""
    torch.manual_seed(0)
    frozen = build("test_resnet", "all")
    free = build("test_resnet")
    free.load_state_dict(frozen.state_dict())
    normalize = Normalization.unit()
    assert measure_shift(frozen.eval(), normalize, 64) == measure_shift(free.eval(), normalize, 64)
