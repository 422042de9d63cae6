"""Counts that the paper prints, or that follow from it."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from mldec.models.classifier import Classifier
from mldec.models.complexity import count_macs, count_parameters
from mldec.models.heads import GlobalAveragePool, MLDecoder, TransformerDecoderHead
from mldec.models.heads.layers import MultiHeadAttention


def classifier(backbone, head, num_classes, **settings):
    return Classifier(backbone, head(backbone.num_features, num_classes, **settings))


@pytest.mark.parametrize(
    ("backbone", "size", "head", "num_classes", "settings", "giga_macs"),
    [
        ("tresnet_s", 448, GlobalAveragePool, 80, {}, 18.56),
        ("tresnet_m", 448, GlobalAveragePool, 80, {}, 22.93),
        ("tresnet_l", 448, GlobalAveragePool, 80, {}, 35.24),
        ("tresnet_s", 448, MLDecoder, 80, {}, 19.47),
        ("tresnet_m", 448, MLDecoder, 80, {}, 23.84),
        ("tresnet_l", 448, MLDecoder, 80, {}, 36.15),
        ("tresnet_m", 448, MLDecoder, 80, {"num_groups": 20}, 23.56),
        ("tresnet_m", 224, GlobalAveragePool, 9600, {}, 5.75),
        ("tresnet_m", 224, MLDecoder, 9600, {"num_groups": 100}, 6.32),
        ("tresnet_m", 224, MLDecoder, 9600, {"num_groups": 200}, 6.76),
        ("tresnet_m", 224, MLDecoder, 9600, {"num_groups": 400}, 7.64),
        ("tresnet_l", 224, MLDecoder, 80, {}, 9.30),
        ("tresnet_l", 640, MLDecoder, 80, {}, 73.40),
        ("tresnet_xl", 640, MLDecoder, 80, {}, 103.71),
        ("tresnet_m", 448, TransformerDecoderHead, 80, {}, 24.04),
        ("tresnet_m", 224, TransformerDecoderHead, 100, {}, 6.56),
        ("tresnet_m", 224, TransformerDecoderHead, 1000, {}, 14.16),
    ],
)
def test_macs_of_the_papers_models(built, backbone, size, head, num_classes, settings, giga_macs):
    """Paper §3.6."""
    model = classifier(built(backbone), head, num_classes, **settings)
    assert count_macs(model, size) / 1e9 == pytest.approx(giga_macs, rel=0.005)


def test_counting_a_large_model_computes_nothing(built):
    """Every layer gives a shape without numbers."""
    model = classifier(built("tresnet_xl"), MLDecoder, 80)
    given = []
    for module in model.modules():
        module.register_forward_hook(lambda module, inputs, output: given.append(output))
    count_macs(model, 640)
    tensors = [output for output in given if isinstance(output, torch.Tensor) and not isinstance(output, nn.Parameter)]
    assert len(tensors) > 200
    assert all(isinstance(tensor, FakeTensor) for tensor in tensors)


def test_attention_is_counted():
    class Attend(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = MultiHeadAttention(8, 2)

        def forward(self, images):
            tokens = images.flatten(2).transpose(1, 2).repeat(1, 1, 3)[:, :, :8]
            return self.attention(tokens[:, :5], tokens, tokens)

    projections = 5 * 8 * 8 + 2 * 16 * 8 * 8 + 5 * 8 * 8
    assert count_macs(Attend(), 4) == projections + 2 * 5 * 16 * 8


def test_counting_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert count_macs(model, 8) == 6 * 6 * 3 * 4 * 9
    assert [module.training for module in model] == [True, False, True]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_parameters_all_and_trainable(built):
    model = classifier(built("tresnet_l"), MLDecoder, 80)
    assert count_parameters(model) == (51_337_936, 51_276_496)  # paper §1.5
