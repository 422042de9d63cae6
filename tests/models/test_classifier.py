"""A backbone and a head together, and the head on a model that somebody has already."""

import pytest
import timm
import torch

from mldec.models import Classifier, attach_ml_decoder
from mldec.models.backbone import TimmBackboneConfig
from mldec.models.heads import MLDecoder, TransformerDecoderHead
from mldec.models.resnet import DigitsResNetConfig
from mldec.registry import BACKBONES


def digits_classifier(head=MLDecoder, **settings):
    backbone = BACKBONES["resnet_digits"].build(DigitsResNetConfig(name="resnet_digits"), image_size=64)
    return Classifier(backbone, head(128, 80, dim=32, num_heads=4, ffn_dim=64, **settings))


def test_classifier_is_the_head_of_the_backbone():
    model = digits_classifier(TransformerDecoderHead, position="sine").eval()
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(model(images), model.head(model.backbone(images)))
    assert model(images).shape == (2, 80)


def test_every_trainable_parameter_gets_a_gradient():
    torch.manual_seed(0)
    model = digits_classifier()
    (model(torch.rand(4, 3, 64, 64)) * torch.randn(4, 80)).sum().backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is None} == {"head.queries.weight"}


def test_whole_classifier_compiles_and_exports():
    torch._dynamo.reset()
    model = digits_classifier(num_groups=20).eval()
    images = torch.rand(2, 3, 64, 64)
    expected = model(images)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images), expected)
    program = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},))
    torch.testing.assert_close(program.module()(images), expected)
    torch.testing.assert_close(program.module()(images[:1]), expected[:1], rtol=1e-4, atol=1e-5)


# A model of each family, with what makes it small. docs/timm.md promises that these work.
FAMILIES = {
    "resnet18": {},
    "tresnet_m": {},
    "efficientnet_b0": {},
    "mobilenetv3_small_050": {},
    "regnety_002": {},
    "convnext_atto": {},
    "vit_tiny_patch16_224": {"img_size": 64, "depth": 1},
    "deit_tiny_distilled_patch16_224": {"img_size": 64, "depth": 1},
    "swin_tiny_patch4_window7_224": {"img_size": 64, "depths": (1, 1, 1, 1)},
}
MORE_FAMILIES = {
    "beit_base_patch16_224": {"depth": 1},
    "cait_xxs24_224": {"depth": 1},
    "coatnet_pico_rw_224": {},
    "densenet121": {},
    "dla34": {},
    "edgenext_xx_small": {},
    "efficientformer_l1": {},
    "efficientvit_b0": {},
    "eva02_tiny_patch14_224": {"depth": 1},
    "fastvit_t8": {},
    "ghostnet_050": {},
    "hiera_tiny_224": {},
    "hrnet_w18_small": {},
    "inception_v3": {},
    "levit_128s": {},
    "maxvit_rmlp_pico_rw_256": {},
    "mobilenetv4_conv_small": {},
    "mobilevit_xxs": {},
    "nfnet_l0": {},
    "poolformer_s12": {},
    "pvt_v2_b0": {},
    "repvgg_a0": {},
    "rexnet_100": {},
    "swinv2_tiny_window8_256": {"depths": (1, 1, 1, 1)},
    "vgg11": {},
    "vit_base_patch16_siglip_224": {"depth": 1},
    "xcit_nano_12_p16_224": {"depth": 1},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_attaches_to_models_with_their_classifier_still_on(name):
    check_attached(name, FAMILIES[name], size=64)


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE_FAMILIES)
def test_attaches_to_models_of_any_family_at_their_own_size(name):
    check_attached(name, MORE_FAMILIES[name])


def check_attached(name, options, size=None):
    """The weights are the model's own, the head has its groups, and every weight gets a gradient."""
    torch.manual_seed(0)
    timm_model = timm.create_model(name, num_classes=10, **options)
    kept = next(timm_model.parameters())
    model = attach_ml_decoder(timm_model, num_classes=12, num_groups=4, image_size=size)
    assert model.head.fc.weight.shape == (4, 768, 3)
    assert next(model.backbone.parameters()) is kept
    size = size or timm_model.pretrained_cfg["input_size"][-1]
    (model(torch.rand(2, 3, size, size)) * torch.randn(2, 12)).sum().backward()
    without = {
        name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None
    }
    assert not without


def test_any_timm_model_by_name_under_any_head():
    backbone = BACKBONES["timm"].build(TimmBackboneConfig(name="timm", model="convnext_atto"), image_size=64)
    model = Classifier(backbone, MLDecoder(backbone.num_features, 9, 3, dim=16, ffn_dim=32))
    assert model(torch.rand(2, 3, 64, 64)).shape == (2, 9)
