"""The norm that a network's own classifier begins with stays with weights that were trained with it."""

import copy

import pytest
import timm
import torch
import yaml
from torch import nn

from mldec import attach_ml_decoder
from mldec.commands import compose
from mldec.config import build_config, to_mapping
from mldec.engine import build
from mldec.engine.checkpoint import pack, restore, save_checkpoint
from mldec.engine.optimizer import parameter_groups
from mldec.errors import ConfigError
from mldec.labels import LabelSpace
from mldec.models.backbone import Backbone, TimmBackboneConfig, create_timm
from mldec.registry import BACKBONES
from tests.curve import make

# (model, image size, what makes it small, name of the norm): a model of each family whose classifier begins with one.
FAMILIES = [
    ("convnext_atto", 64, {}, "head.norm"),
    ("convnext_zepto_rms", 64, {}, "head.norm"),
    (
        "davit_tiny",
        64,
        {"depths": (1, 1, 1, 1), "embed_dims": (32, 32, 64, 64), "num_heads": (1, 1, 2, 2)},
        "head.norm",
    ),
    ("tiny_vit_5m_224", 64, {"depths": (1, 1, 1, 1)}, "head.norm"),
    ("poolformer_s12", 64, {}, "head.norm"),
    pytest.param("poolformerv2_s12", 64, {}, "head.norm", marks=pytest.mark.slow),
    pytest.param("edgenext_xx_small", 64, {}, "head.norm", marks=pytest.mark.slow),
    ("hiera_tiny_224", 224, {"stages": (1, 1, 1, 1)}, "head.norm"),
    ("beit_base_patch16_224", 64, {"depth": 1}, "fc_norm"),
    ("eva02_tiny_patch14_224", 56, {"depth": 1}, "fc_norm"),
    ("vitamin_small_224", 64, {"depth": 1}, "fc_norm"),
    ("vit_tiny_patch16_224", 64, {"depth": 1, "global_pool": "avg"}, "fc_norm"),
]


def stir(model):
    """Norms as training could have left them: at their start they hardly change anything."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, mean=1.0, std=0.5)
    return model.eval()


@pytest.mark.parametrize(("name", "size", "options", "norm"), FAMILIES)
@torch.no_grad()
def test_the_norm_is_kept_and_is_timms_own(name, size, options, norm):
    """timm normalises the pooled vector. So do we, of a single place; and of many, each place by itself."""
    theirs = stir(create_timm(name, image_size=size, **options))
    without = Backbone(copy.deepcopy(theirs), image_size=size)
    backbone = Backbone(copy.deepcopy(theirs), image_size=size, final_norm=True)
    for parameter in backbone.parameters():
        parameter.zero_()
    report = backbone.load(theirs.state_dict(), "a test", required=1.0)
    assert (report.missing, report.unexpected, report.skipped) == ((), (), ())
    assert backbone.final_norm.name == norm
    assert without.final_norm is None
    kept = dict(backbone.model.get_submodule(norm).named_parameters())
    assert kept or name == "convnext_zepto_rms"  # whose norm has none
    for key, value in kept.items():
        assert torch.equal(value, theirs.get_parameter(f"{norm}.{key}"))

    images = torch.rand(2, 3, size, size)
    raw, tokens = without(images), backbone(images)
    assert tokens.grid == raw.grid
    assert not torch.allclose(tokens.values, raw.values, atol=1e-2)
    apply = backbone.final_norm.apply
    pooled = apply(backbone.model, raw.values.mean(dim=1, keepdim=True))[:, 0]
    features = theirs.forward_features(images)
    expected = theirs.forward_head(features, pre_logits=True)
    torch.testing.assert_close(pooled, expected, rtol=1e-4, atol=1e-4)
    for place in range(0, raw.values.shape[1], 3):
        alone = apply(backbone.model, raw.values[:, place : place + 1])
        torch.testing.assert_close(tokens.values[:, place : place + 1], alone, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_an_image_of_one_place_has_timms_own_vector():
    """Then pooling does nothing, and the one token is what timm's classifier reads."""
    theirs = stir(create_timm("convnext_atto", image_size=32))
    backbone = Backbone(copy.deepcopy(theirs), image_size=32, final_norm=True)
    images = torch.rand(2, 3, 32, 32)
    expected = theirs.forward_head(theirs.forward_features(images), pre_logits=True)
    torch.testing.assert_close(backbone(images).values[:, 0], expected)


def test_every_weight_gets_a_gradient_and_nothing_else_is_left():
    backbone = Backbone(timm.create_model("convnext_atto", num_classes=10), image_size=64, final_norm=True)
    assert backbone.dropped == ("head.fc",)
    (backbone(torch.rand(2, 3, 64, 64)).values * torch.randn(2, 4, 320)).sum().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())
    large = Backbone(create_timm("resnet50_mlp", image_size=64), image_size=64, final_norm=True)
    assert large.dropped == ("head.pre_logits",)  # a layer that changes the width is no norm


@pytest.mark.parametrize("name", ["resnet18", "deit_tiny_patch16_224", "mobilenetv3_small_050", "efficientvit_b0"])
def test_networks_without_such_a_norm_are_as_before(name):
    """Their classifiers begin with a pooling, a convolution or a linear layer, or their norm is within the features."""
    backbone = Backbone(create_timm(name, image_size=64), image_size=64, final_norm=True)
    assert backbone.final_norm is None


@pytest.mark.parametrize("name", ["convnext_atto", "eva02_tiny_patch14_224"])
def test_attached_to_a_model_of_ones_own_it_stays(name):
    small = {"depth": 1} if name.startswith("eva02") else {}
    timm_model = timm.create_model(name, num_classes=10, **small)
    norm = timm_model.head.norm if name == "convnext_atto" else timm_model.fc_norm
    model = attach_ml_decoder(timm_model, num_classes=12, num_groups=4)
    assert any(parameter is norm.weight for parameter in model.parameters())
    assert attach_ml_decoder(timm.create_model("resnet18"), num_classes=12).backbone.final_norm is None
    dropped = attach_ml_decoder(timm.create_model(name, **small), num_classes=12, final_norm=False)
    assert dropped.backbone.final_norm is None


def configured(*overrides):
    small = ["head.dim=16", "head.num_heads=2", "head.ffn_dim=16", "head.num_groups=2"]
    return make(["experiment=digits", "backbone=convnext_atto", *small, *overrides])


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ([], False),
        (["backbone.final_norm=true"], True),
        (["backbone.pretrained={}"], True),
        (["backbone.pretrained={}", "backbone.final_norm=false"], False),
    ],
)
def test_the_setting_follows_whether_weights_are_loaded(tmp_path, settings, kept):
    path = tmp_path / "weights.pth"
    theirs = stir(timm.create_model("convnext_atto", num_classes=10))
    torch.save(theirs.state_dict(), path)
    config = configured(*(setting.format(path) for setting in settings))
    labels = LabelSpace(["a", "b"])
    trained = build.build_classifier(config, labels)
    assert (trained.backbone.final_norm is not None) == kept
    if config.backbone.pretrained:
        skipped = ["head.fc.weight", "head.fc.bias"] + ([] if kept else ["head.norm.weight", "head.norm.bias"])
        assert set(trained.backbone.loaded.skipped) == set(skipped)
        assert trained.backbone.loaded.missing == ()
    # What a checkpoint of this run is loaded into has the same parts, though it loads no weights of its own.
    again = build_config(to_mapping(config))
    bare = build.build_classifier(again, labels, pretrained=False)
    bare.load_state_dict(trained.state_dict())
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(bare.eval()(images), trained.eval()(images))


def test_a_run_from_before_the_setting_is_read_without_its_norm(tmp_path):
    config = configured("backbone.pretrained=true", "backbone.final_norm=false")
    labels = LabelSpace(["a", "b"])
    old = build.build_classifier(config, labels, pretrained=False)
    content = pack(config, labels, old)
    del content["config"]["backbone"]["final_norm"]
    save_checkpoint(tmp_path / "checkpoints" / "last.pt", content)
    restored = restore(tmp_path, which="last")
    assert restored.classifier.backbone.final_norm is None
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content["config"]))
    assert build_config(compose.read_yaml(tmp_path / "config.yaml")).backbone.final_norm is False


def test_asked_for_where_there_is_none_it_is_refused():
    labels = LabelSpace(["a", "b"])
    with pytest.raises(ConfigError, match="final_norm=true: the classifier of resnet18 does not start with a norm"):
        build.build_classifier(configured("backbone=resnet18", "backbone.final_norm=true"), labels)
    # auto keeps what there is, here nothing
    config = configured("backbone=resnet18", "backbone.pretrained=weights.pth")
    assert build.build_classifier(config, labels, pretrained=False).backbone.final_norm is None
    with pytest.raises(ConfigError, match=r"backbone\.final_norm=ja: expected one of auto, or true or false"):
        configured("backbone.final_norm=ja")


NO_DECAY = [
    ("vit_tiny_patch16_224", {"depth": 1}, {"model.pos_embed", "model.cls_token"}),
    ("deit_tiny_distilled_patch16_224", {"depth": 1}, {"model.pos_embed", "model.cls_token", "model.dist_token"}),
    (
        "swin_tiny_patch4_window7_224",
        {"depths": (1, 1, 1, 1)},
        {f"model.layers.{i}.blocks.0.attn.relative_position_bias_table" for i in range(4)},
    ),
    ("hiera_tiny_224", {"stages": (1, 1, 1, 1)}, {"model.pos_embed"}),
]


@pytest.mark.parametrize(("name", "options", "exempt"), NO_DECAY, ids=[name for name, *_ in NO_DECAY])
def test_what_the_network_exempts_does_not_decay(name, options, exempt):
    """The groups are those of timm's own function, except under the paper's protocol."""
    backbone = Backbone(create_timm(name, image_size=224, **options), image_size=224)
    names = {id(parameter): key for key, parameter in backbone.named_parameters()}
    net = nn.Module()
    net.backbone, net.head = backbone, nn.Linear(4, 2)

    def plain(**settings):
        groups = {group["name"]: group["params"] for group in parameter_groups(net, weight_decay=0.1, **settings)}
        return {names[id(parameter)] for parameter in groups["backbone_no_decay"]}

    timms = timm.optim.param_groups_weight_decay(
        backbone.model, weight_decay=0.1, no_weight_decay_list=backbone.model.no_weight_decay()
    )
    assert plain() == {names[id(parameter)] for parameter in timms[0]["params"]}
    assert plain() - plain(exempt_named=False) == exempt


@pytest.mark.parametrize("protocol", ["standard", "paper"])
def test_the_protocol_says_whether_exemptions_count(protocol):
    config = configured("backbone=vit_tiny_patch16_224", f"protocol={protocol}")
    classifier = build.build_classifier(config, LabelSpace(["a", "b"]))
    groups = {group["name"]: group for group in build.build_optimizer(config, classifier).param_groups}
    embedded = classifier.backbone.model.pos_embed
    assert any(parameter is embedded for parameter in groups["backbone_no_decay"]["params"]) == (protocol == "standard")


def test_a_head_or_network_of_ones_own_may_exempt_by_pattern():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone, self.head = nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 2, bias=False))
            self.head.no_weight_decay = lambda: ["*.weight"]

    groups = parameter_groups(Net(), weight_decay=0.1)
    assert [group["name"] for group in groups] == ["backbone_decay", "backbone_no_decay", "head_no_decay"]


def test_hub_weights_bring_their_norm(monkeypatch):
    from mldec.models import backbone as module

    create = timm.create_model
    donor = stir(create("convnext_atto"))
    monkeypatch.setattr(
        module.timm,
        "create_model",
        lambda name, pretrained=False, **more: donor if pretrained else create(name, **more),
    )
    config = TimmBackboneConfig(name="timm", model="convnext_atto", pretrained=True)
    built = BACKBONES["timm"].build(config, image_size=64)
    assert torch.equal(built.model.head.norm.weight, donor.head.norm.weight)
    assert built.loaded.missing == ()
