"""Reading shapes leaves a network as it was, whatever it keeps of what it computed."""

import copy
from typing import ClassVar

import pytest
import timm
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from mldec import attach_ml_decoder
from mldec.errors import ConfigError
from mldec.models.backbone import Backbone
from mldec.models.complexity import count_macs
from mldec.models.tracing import refuse_fake_tensors, shapes_only


@pytest.mark.parametrize("name", ["convit_tiny", "levit_128s"])
def test_networks_that_keep_relative_positions_run_after_a_head_is_attached(name):
    torch.manual_seed(0)
    timm_model = timm.create_model(name).eval()
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        before = copy.deepcopy(timm_model).forward_features(images)
        model = attach_ml_decoder(timm_model, num_classes=5).eval()
        assert model(images).shape == (1, 5)
        torch.testing.assert_close(timm_model.forward_features(images), before)
    count_macs(model, 224)
    assert not any(isinstance(tensor, FakeTensor) for tensor in [*model.buffers(), *model.parameters()])
    with torch.no_grad():
        assert model(images).isfinite().all()


class Keeper(nn.Module):
    """Keeps what its forward computed in every place that a module has."""

    shared: ClassVar[dict] = {}

    def __init__(self, where="own"):
        super().__init__()
        self.where = where
        self.conv = nn.Conv2d(3, 4, 8, stride=8)
        self.register_buffer("buffer", None, persistent=False)
        self.attribute, self.listed = None, []
        self.conv.on_child = None

    def forward_features(self, images):
        features = self.conv(images)
        if self.where == "class":
            Keeper.shared["mean"] = features.mean()
        self.buffer, self.attribute, self.conv.on_child = features.mean(), features.sum(), features.std()
        self.listed.append({"max": features.max()})
        return features


def test_what_a_forward_keeps_stays_in_the_copy():
    model = Keeper()
    model.train()
    model.conv.eval()
    backbone = Backbone(model, image_size=32)
    assert (model.buffer, model.attribute, model.listed, model.conv.on_child) == (None, None, [], None)
    assert model.training
    assert not model.conv.training
    assert backbone(torch.rand(1, 3, 32, 32)).values.isfinite().all()


def test_a_fake_tensor_that_remains_is_refused():
    try:
        with pytest.raises(ConfigError, match=r"Keeper holds a tensor without values in shared"):
            Backbone(Keeper("class"), image_size=32)
    finally:
        Keeper.shared.clear()

    class Same(Keeper):
        def __deepcopy__(self, memo):
            return self

    with pytest.raises(ConfigError, match="Same holds a tensor without values in buffer"):
        Backbone(Same(), image_size=32)


@pytest.mark.parametrize("place", ["parameter", "buffer", "attribute", "nested"])
def test_a_model_that_came_with_fake_tensors_is_refused(place):
    model = Keeper()
    with FakeTensorMode():
        fake = torch.zeros(3)
    if place == "parameter":
        model.conv.bias = nn.Parameter(fake, requires_grad=False)
    elif place == "buffer":
        model.buffer = fake
    elif place == "attribute":
        model.conv.on_child = fake
    else:
        model.listed.append({"x": (fake,)})
    name = {"parameter": "conv.bias", "buffer": "buffer", "attribute": "conv.on_child", "nested": "listed"}[place]
    with pytest.raises(ConfigError, match=f"in {name}, which tracing"):
        Backbone(model, image_size=32)


def test_a_trace_shares_tensors_and_no_modules():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    model.result = model[0](torch.ones(3))  # a result of autograd, which deepcopy alone would refuse
    with shapes_only(model) as (traced, device):
        assert device == torch.device("cpu")
        assert traced[0].weight is model[0].weight
        assert traced[1].running_mean is model[1].running_mean
        assert traced[0] is not model[0]
        assert not traced.training
    assert model.training
    refuse_fake_tensors(model)


def test_a_model_that_cannot_be_copied_is_refused():
    import threading

    model = Keeper()
    model.lock = threading.Lock()
    with pytest.raises(ConfigError, match="Keeper cannot be copied, which is needed to read its shapes"):
        Backbone(model, image_size=32)
