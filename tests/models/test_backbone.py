"""Every family becomes tokens in raster order, of the width it states, with the weights it was asked to have."""

import pytest
import timm
import torch
from torch import nn

from mldec.config import build_config
from mldec.errors import CheckpointError, ConfigError
from mldec.models import backbone as room
from mldec.models.backbone import UNIT, Backbone, BackboneConfig, TimmBackboneConfig, create_timm
from mldec.models.complexity import count_macs, count_parameters
from mldec.models.hub import default_weights, describe_weights
from mldec.models.pretrained import find_source
from mldec.models.resnet import DigitsResNetConfig
from mldec.registry import BACKBONES

FAMILIES = [  # (model, image size, prefix tokens, grid)
    ("resnet18", 64, 0, (2, 2)),
    ("efficientnet_b0", 64, 0, (2, 2)),
    ("mobilenetv3_small_050", 64, 0, (2, 2)),
    ("regnetx_002", 64, 0, (2, 2)),
    ("convnext_atto", 64, 0, (2, 2)),
    ("convnextv2_atto", 64, 0, (2, 2)),
    ("densenet121", 64, 0, (2, 2)),
    ("vgg11", 64, 0, (2, 2)),
    ("hrnet_w18_small", 64, 0, (2, 2)),
    ("inception_v3", 128, 0, (2, 2)),
    ("vit_tiny_patch16_224", 64, 1, (4, 4)),
    ("deit_tiny_distilled_patch16_224", 64, 2, (4, 4)),
    ("vit_small_patch14_reg4_dinov2", 56, 5, (4, 4)),
    ("eva02_tiny_patch14_224", 56, 1, (4, 4)),
    ("cait_xxs24_224", 64, 1, (4, 4)),
    ("xcit_nano_12_p16_224", 64, 1, (4, 4)),
    ("mixer_s32_224", 64, 0, (2, 2)),
    ("resmlp_12_224", 64, 0, (4, 4)),
    ("swin_tiny_patch4_window7_224", 224, 0, (7, 7)),
    ("swinv2_cr_tiny_ns_224", 224, 0, (7, 7)),
    ("coatnet_pico_rw_224", 64, 0, (2, 2)),
    ("maxvit_pico_rw_256", 64, 0, (2, 2)),
    ("pvt_v2_b0", 64, 0, (2, 2)),
    ("poolformer_s12", 64, 0, (2, 2)),
    ("mvitv2_tiny", 64, 0, (2, 2)),
    ("levit_128s", 224, 0, (4, 4)),
    ("coat_lite_tiny", 64, 1, (2, 2)),
]


def options(name):
    """Fewer blocks or features where the family has a setting for it, for the time that building takes."""
    small = {
        ("vit", "deit", "eva", "cait", "xcit"): {"depth": 2},
        ("swin",): {"depths": (1, 1, 2, 1)},
        ("densenet",): {"block_config": (2, 2, 2, 2)},
    }
    return next((settings for start, settings in small.items() if name.startswith(start)), {})


@pytest.mark.parametrize(("name", "size", "prefix", "grid"), FAMILIES)
def test_every_family_gives_tokens_of_its_map(name, size, prefix, grid):
    model = create_timm(name, image_size=size, **options(name))
    backbone = Backbone(model, image_size=size).eval()
    images = torch.rand(2, 3, size, size)
    with torch.no_grad():
        tokens = backbone(images)
        features = model.forward_features(images)
    assert tokens.grid == grid
    assert tokens.values.shape == (2, grid[0] * grid[1], backbone.num_features)
    assert backbone.num_features == model.num_features
    # The same numbers as timm's own, place by place.
    if features.dim() == 4:
        channels_last = features.shape[3] == backbone.num_features
        features = features.flatten(1, 2) if channels_last else features.flatten(2).transpose(1, 2)
    torch.testing.assert_close(tokens.values, features[:, prefix:])


@pytest.mark.parametrize(
    "name", ["mobilenetv3_small_050", "convnext_atto", "poolformer_s12", "vit_base_patch16_siglip_224"]
)
def test_nothing_is_kept_that_only_follows_the_features(name):
    backbone = Backbone(create_timm(name, image_size=64, **options(name)), image_size=64)
    assert backbone.dropped
    backbone(torch.rand(2, 3, 64, 64)).values.square().sum().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters() if parameter.requires_grad)


def test_finding_the_layout_leaves_the_model_as_it_was():
    model = timm.create_model("levit_128s", num_classes=0)
    model.train()
    model.stem.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    backbone = Backbone(model, image_size=224)
    assert model.training
    assert not model.stem.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.isfinite(backbone.eval()(torch.rand(1, 3, 224, 224)).values).all()


def test_grid_follows_the_size_of_the_images():
    convolutional = Backbone(create_timm("resnet18", image_size=64), image_size=64).eval()
    assert convolutional(torch.rand(1, 3, 96, 64)).grid == (3, 2)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=64, depth=1, dynamic_img_size=True)
    sequence = Backbone(model, image_size=64).eval()
    assert sequence(torch.rand(1, 3, 96, 64)).grid == (6, 4)


def test_grid_is_none_where_tokens_are_no_map():
    class Sequence(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 5)

        def forward_features(self, images):
            return self.linear(images.flatten(2)[:, :, :7].transpose(1, 2))

    tokens = Backbone(Sequence(), image_size=8)(torch.rand(2, 3, 8, 8))
    assert tokens.grid is None
    assert tokens.values.shape == (2, 7, 5)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("crossvit_9_240", 240, "features of a list"),
        ("pit_ti_224", 64, "class tokens only"),
        ("maxvit_pico_rw_256", 100, "image_size=100 does not suit the backbone"),
    ],
)
def test_says_which_models_can_not_be_read(name, size, message):
    with pytest.raises(ConfigError, match=message):
        Backbone(create_timm(name, image_size=size), image_size=size)


@pytest.mark.parametrize(
    ("name", "parameters", "features"),
    [
        ("tresnet_s", 23_424_512, 2048),
        ("tresnet_m", 29_340_032, 2048),
        ("tresnet_l", 44_125_824, 2048),
        ("tresnet_xl", 67_251_712, 2048),
        ("resnet18", 11_176_512, 512),
        ("resnet101", 42_500_160, 2048),
    ],
)
def test_sizes_of_the_named_backbones(built, name, parameters, features):
    backbone = built(name)
    assert count_parameters(backbone) == (parameters, parameters)
    assert backbone.num_features == features
    assert backbone.normalization == UNIT
    assert backbone.loaded is None


def test_tresnet_l_is_timms_second_version(built):
    backbone = built("tresnet_l")
    theirs = timm.create_model("tresnet_v2_l", num_classes=0)
    assert {k: v.shape for k, v in theirs.state_dict().items()} == {
        k: v.shape for k, v in backbone.model.state_dict().items()
    }


def test_tresnet_needs_a_multiple_of_four():
    with pytest.raises(ConfigError, match="image_size=450: tresnet_m needs a multiple of 4; use 448"):
        BACKBONES["tresnet_m"].build(BackboneConfig(name="tresnet_m"), image_size=450)


def test_resnet_for_digits_is_small_and_configurable():
    build = BACKBONES["resnet_digits"].build
    backbone = build(DigitsResNetConfig(name="resnet_digits"), image_size=64)
    tokens = backbone(torch.rand(2, 3, 64, 64))
    assert tokens.grid == (8, 8)
    assert tokens.values.shape == (2, 64, 128)
    assert 20e6 < count_macs(backbone, 64) < 30e6
    other = build(DigitsResNetConfig(name="resnet_digits", widths=(8, 16), blocks=(2, 3)), image_size=64)
    assert other.num_features == 16
    assert other(torch.rand(1, 3, 64, 64)).grid == (16, 16)
    with pytest.raises(ValueError, match="one number per stage"):
        DigitsResNetConfig(name="resnet_digits", widths=(8, 16))


def test_drop_path_reaches_the_blocks_or_is_refused():
    for name in ("resnet18", "tresnet_s"):
        backbone = BACKBONES[name].build(BackboneConfig(name=name, drop_path=0.2), image_size=32)
        rates = [module.drop_prob for module in backbone.modules() if isinstance(module, timm.layers.DropPath)]
        assert max(rates) == pytest.approx(0.2)
    for config in (
        TimmBackboneConfig(name="timm", model="vgg11", drop_path=0.2),
        DigitsResNetConfig(name="resnet_digits", drop_path=0.2),
    ):
        with pytest.raises(ConfigError, match=r"drop_path=0.2: .* has no stochastic depth; use 0"):
            BACKBONES[config.name].build(config, image_size=32)


def test_normalization_is_the_images_own_or_that_of_the_weights():
    build = BACKBONES["resnet18"].build
    assert build(BackboneConfig(name="resnet18"), image_size=32).normalization == UNIT
    statistics = build(BackboneConfig(name="resnet18", normalize="backbone"), image_size=32).normalization
    assert statistics == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with pytest.raises(ConfigError, match="normalize=backbone: resnet_digits has no statistics"):
        BACKBONES["resnet_digits"].build(DigitsResNetConfig(name="resnet_digits", normalize="backbone"), image_size=64)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "timm", "model": "convnxt_tiny"}, "backbone.model=convnxt_tiny: timm "),
        ({"name": "timm", "model": "convnxt_tiny"}, "did you mean convnext_tiny"),
        ({"name": "timm", "model": "resnet18.nonsense"}, "no such weights; allowed: resnet18."),
        ({"name": "timm"}, "backbone.model: missing"),
        ({"name": "resnet18", "freeze": -1}, "freeze=-1"),
        ({"name": "tresnet_xxl"}, "did you mean tresnet_xl"),
    ],
)
def test_settings_are_checked_before_anything_is_read(settings, message):
    with pytest.raises(ConfigError) as caught:
        build_config({"name": "x", "backbone": settings})
    assert message in str(caught.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_checkpoint_of_the_same_network_loads_whole(tmp_path, suffix):
    torch.manual_seed(0)
    source = timm.create_model("resnet18", num_classes=7)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": {f"module.{k}": v for k, v in source.state_dict().items()}, "epoch": 3}, path)
    else:
        from safetensors.torch import save_file

        save_file(source.state_dict(), path)
    backbone = BACKBONES["resnet18"].build(BackboneConfig(name="resnet18", pretrained=str(path)), image_size=32)
    assert len(backbone.loaded.loaded) == len(backbone.model.state_dict())
    assert backbone.loaded.missing + backbone.loaded.unexpected + backbone.loaded.mismatched == ()
    assert set(backbone.loaded.skipped) == {"fc.weight", "fc.bias"}
    images = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(
        backbone.eval()(images).values, source.eval().forward_features(images).flatten(2).transpose(1, 2)
    )


def test_checkpoint_of_another_network_is_refused_and_changes_nothing(tmp_path):
    torch.save(timm.create_model("resnet34", num_classes=0).state_dict(), tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="Fewer than 95%") as caught:
        BACKBONES["resnet50"].build(
            BackboneConfig(name="resnet50", pretrained=str(tmp_path / "weights.pth")), image_size=32
        )
    assert "mismatched: layer1.0.conv1.weight: (64, 64, 3, 3) in the file, (64, 64, 1, 1) in the model" in str(
        caught.value
    )
    assert "missing: layer1.0.conv3.weight" in str(caught.value)


def test_published_tresnet_weights_are_renamed_and_their_scales_converted(built, tmp_path):
    """Names of paper §1.5, InPlaceABN scales of paper §1.6."""
    torch.manual_seed(0)
    target = built("tresnet_s").model
    published = {}
    for name, value in target.state_dict().items():
        parts = name.split(".")
        if parts[-2] in ("conv", "bn"):
            blurred = "conv" in parts[-3] and f"{'.'.join(parts[:-2])}.aa" in dict(target.named_modules())
            stride_two = blurred and parts[1] in ("layer2", "layer3", "layer4") and parts[2] == "0"
            first = parts[3] == ("conv1" if parts[1] == "layer2" else "conv2") if len(parts) > 4 else False
            index = "0" if parts[-2] == "conv" else "1"
            parts[-2:-1] = ["0", index] if stride_two and first else [index]
        published[".".join(parts)] = -value if parts[-1] == "weight" and value.dim() == 1 else value
    torch.save({"model": published | {"head.fc.weight": torch.zeros(3, 2048)}}, tmp_path / "tresnet.pth")
    config = BackboneConfig(name="tresnet_s", pretrained=str(tmp_path / "tresnet.pth"))
    backbone = BACKBONES["tresnet_s"].build(config, image_size=32)
    assert len(backbone.loaded.loaded) == len(target.state_dict())
    assert backbone.loaded.skipped == ("head.fc.weight",)
    torch.testing.assert_close(backbone.model.body.conv1.bn.weight, target.body.conv1.bn.weight.abs() + 1e-5)
    torch.testing.assert_close(backbone.model.body.layer3[0].conv2.conv.weight, target.body.layer3[0].conv2.conv.weight)


def test_hub_weights_are_asked_for_by_tag_and_reported(monkeypatch):
    asked, create = [], timm.create_model

    def hub(name, pretrained=False, **options):
        if not pretrained:
            return create(name, **options)
        asked.append((name, options["num_classes"]))
        return create(name.partition(".")[0], **options)

    monkeypatch.setattr(room.timm, "create_model", hub)
    for name, tag in [("tresnet_m", "tresnet_m.miil_in21k_ft_in1k"), ("tresnet_l", "tresnet_v2_l.miil_in21k_ft_in1k")]:
        backbone = BACKBONES[name].build(BackboneConfig(name=name, pretrained=True), image_size=32)
        assert asked.pop() == (tag, 1000)
        assert backbone.loaded.source == f"timm hub, {tag} (licence apache-2.0)"
        assert len(backbone.loaded.loaded) == len(backbone.model.state_dict())
        assert len(backbone.loaded.skipped) == 2


@pytest.mark.parametrize(
    ("model", "pretrained", "expected"),
    [
        ("tresnet_m", True, "tresnet_m.miil_in21k_ft_in1k"),
        ("tresnet_l", True, "tresnet_v2_l.miil_in21k_ft_in1k"),
        ("tresnet_m", "hub:miil_in21k", "tresnet_m.miil_in21k"),
        ("tresnet_l", "hub:miil_in21k", "tresnet_v2_l.miil_in21k"),
        ("tresnet_l", "hub:tresnet_v2_l.miil_in21k", "tresnet_v2_l.miil_in21k"),
        ("resnet101", True, "resnet101.a1h_in1k"),
        ("resnet101", "hub:tv_in1k", "resnet101.tv_in1k"),
        ("resnet50", True, "resnet50.a1_in1k"),
        ("resnet50.a2_in1k", True, "resnet50.a2_in1k"),
        ("resnet50", "hub:a2_in1k", "resnet50.a2_in1k"),
    ],
)
def test_which_weights_a_backbone_starts_from(model, pretrained, expected):
    source = find_source(model, pretrained)
    assert source is not None
    assert (source.kind, source.name) == ("hub", expected)


@pytest.mark.parametrize("model", ["tresnet_s", "tresnet_xl", "resnet_digits"])
def test_networks_without_public_weights_have_no_default(model):
    assert default_weights(model) is None


def test_a_backbone_loads_the_weights_of_its_tag(monkeypatch):
    asked = []
    monkeypatch.setattr(room, "_hub_weights", lambda name, size: asked.append(name) or timm_weights[name]())
    timm_weights = {
        "tresnet_m.miil_in21k": lambda: timm.create_model("tresnet_m").state_dict(),
        "resnet18.tv_in1k": lambda: timm.create_model("resnet18").state_dict(),
    }
    for name, tag in (("tresnet_m", "miil_in21k"), ("resnet18", "tv_in1k")):
        backbone = BACKBONES[name].build(BackboneConfig(name=name, pretrained=f"hub:{tag}"), image_size=32)
        assert asked.pop() == f"{name}.{tag}"
        assert str(backbone.loaded).startswith(f"timm hub, {name}.{tag} (licence ")


def test_an_unknown_tag_is_refused_with_those_that_there_are():
    with pytest.raises(ConfigError, match=r"pretrained=hub:miil_21k: .* of tresnet_m; did you mean miil_in21k"):
        find_source("tresnet_m", "hub:miil_21k")
    with pytest.raises(ConfigError, match=r"hub:miil_in21k: timm's hub has no such weights of tresnet_s; it has none"):
        find_source("tresnet_s", "hub:miil_in21k")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet101.a1h_in1k", "ImageNet-1K (resnet101.a1h_in1k)"),
        ("tresnet_m.miil_in21k", "ImageNet-21K (tresnet_m.miil_in21k)"),
        (
            "tresnet_v2_l.miil_in21k_ft_in1k",
            "ImageNet-21K, fine-tuned on ImageNet-1K (tresnet_v2_l.miil_in21k_ft_in1k)",
        ),
        ("resnet50.fb_swsl_ig1b", "resnet50.fb_swsl_ig1b"),
    ],
)
def test_weights_are_described_by_what_they_were_trained_on(name, words):
    assert describe_weights(name) == words


def test_hub_that_can_not_be_reached_says_what_to_type(monkeypatch):
    create = timm.create_model

    def unreachable(name, pretrained=False, **options):
        if pretrained:
            raise ConnectionError("Max retries exceeded")
        return create(name, **options)

    monkeypatch.setattr(room.timm, "create_model", unreachable)
    with pytest.raises(
        CheckpointError,
        match=r"Max retries exceeded\); .*pip install .*pretrained=FILE .* or backbone.pretrained=false",
    ):
        BACKBONES["resnet18"].build(BackboneConfig(name="resnet18", pretrained=True), image_size=32)


@pytest.mark.parametrize("name", ["tresnet_s", "tresnet_xl", "resnet_digits"])
def test_backbones_without_public_weights_say_so(name):
    component = BACKBONES[name]
    with (
        pytest.raises(
            ConfigError, match=f"pretrained=true: timm's hub has no weights for {name}; use backbone.pretrained=FILE"
        ),
    ):
        component.build(component.config_class(name=name, pretrained=True), image_size=64)
