"""Properties: folding leaves what a network says, and takes each batch norm that only a convolution feeds, no other."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from timm.models.tresnet import TResNet
from torch import nn

from mldec.models.backbone import Backbone
from mldec.models.folding import FoldCounts, fold_batch_norm
from mldec.models.resnet import SmallResNet


def with_statistics(network: nn.Module) -> nn.Module:
    """In evaluation, with batch norms as training leaves them: fresh ones do next to nothing."""
    random = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.running_mean, -0.2), (module.running_var, 0.5), (module.bias.data, -0.2)):
                tensor.copy_(low + torch.rand(tensor.shape, generator=random))
            module.weight.data.copy_(0.5 + torch.rand(module.weight.shape, generator=random))
    return network.eval()


def outputs(network: nn.Module) -> torch.Tensor:
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found = network(images)
    return found if isinstance(found, torch.Tensor) else found.values


@pytest.mark.parametrize(
    ("make", "folded"),
    [
        (SmallResNet, 10),
        (lambda: timm.create_model("resnet18"), 20),
        (lambda: TResNet([1, 1, 1, 1], num_classes=0), 14),  # M and L with a block a stage: all 60 of M go, too
        (lambda: TResNet([1, 1, 1, 1], num_classes=0, v2=True), 17),
    ],
    ids=["resnet_digits", "resnet18", "tresnet_v1", "tresnet_v2"],
)
def test_all_batch_norms_go_and_what_the_network_says_stays(make, folded):
    network = with_statistics(Backbone(make(), image_size=64))
    activations = [module.act for module in network.modules() if isinstance(module, BatchNormAct2d)]
    before = outputs(network)
    assert fold_batch_norm(network, 64) == FoldCounts(folded, 0)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert set(activations) <= set(network.modules())  # timm keeps them within the batch norms
    torch.testing.assert_close(outputs(network), before, atol=1e-4 * float(before.abs().max()), rtol=0)


class Branches(nn.Module):
    """Four convolutions, only the first of which may swallow a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.plain_norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.looked_at, self.looked_at_norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.twice, self.twice_norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.behind_sum_norm = nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.plain_norm(self.plain(x))
        y = self.looked_at(x)
        x = self.looked_at_norm(y) + y.relu()
        x = self.twice_norm(self.twice(x)) + self.twice(x.relu())
        return self.behind_sum_norm(x)


def test_what_is_used_elsewhere_too_stays():
    network = with_statistics(Branches())
    before = outputs(network)
    assert fold_batch_norm(network, 64) == FoldCounts(1, 3)
    assert isinstance(network.plain_norm, nn.Identity)
    torch.testing.assert_close(outputs(network), before, atol=1e-5, rtol=1e-5)


def test_a_network_without_batch_norm_is_left_as_it_is():
    network = Backbone(timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1), image_size=32).eval()
    before = copy.deepcopy(network.state_dict())
    assert fold_batch_norm(network, 32) == FoldCounts(0, 0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_training_is_refused():
    with pytest.raises(ValueError, match="evaluation only"):
        fold_batch_norm(SmallResNet().train(), 64)
