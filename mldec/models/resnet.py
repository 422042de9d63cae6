"""A residual network for images of 64 pixels, small enough to learn the bundled digits on a CPU in a few minutes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from mldec.config import Count
from mldec.models.backbone import Backbone, BackboneConfig, finish
from mldec.registry import BACKBONES


class SmallResNet(nn.Module):
    """A 3x3 stem of stride 2, then stages of given widths; all but the last stage halve the map (64 px: 8x8).

    `forward_features` takes images (B, 3, H, W) and gives a map (B, widths[-1], H / 2^S, W / 2^S) for S stages.
    """

    def __init__(self, widths: Sequence[int] = (32, 64, 128), blocks: Sequence[int] = (1, 1, 1)) -> None:
        super().__init__()
        self.num_features = widths[-1]
        layers: list[nn.Module] = [_conv_norm(3, widths[0], 3, stride=2), nn.ReLU()]
        channels = widths[0]
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            for block in range(count):
                halve = block == 0 and stage < len(widths) - 1
                layers.append(ResidualBlock(channels, width, stride=2 if halve else 1))
                channels = width
        self.body = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward_features(self, images: Tensor) -> Tensor:
        return self.body(images)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """The layers from the stem on, as timm's networks describe theirs; every block is a stage."""
        return {"stem": r"^body\.0\.", "blocks": r"^body\.(\d+)\."}


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where shapes differ."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv_norm(in_channels, channels, 3, stride)
        self.conv2 = _conv_norm(channels, channels, 3)
        same = stride == 1 and in_channels == channels
        self.shortcut = nn.Identity() if same else _conv_norm(in_channels, channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x))


def _conv_norm(in_channels: int, channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels))


@dataclass(frozen=True, kw_only=True)
class DigitsResNetConfig(BackboneConfig):
    """Settings of `backbone=resnet_digits`.

    Attributes:
        widths: channels of each stage.
        blocks: residual blocks of each stage.
    """

    widths: tuple[Count, ...] = (32, 64, 128)
    blocks: tuple[Count, ...] = (1, 1, 1)

    def __post_init__(self) -> None:
        if not self.widths or len(self.widths) != len(self.blocks):
            raise ValueError(
                f"blocks={list(self.blocks)}: needs one number per stage, as in widths={list(self.widths)}"
            )


@BACKBONES.register("resnet_digits", DigitsResNetConfig)
def build_digits_resnet(config: DigitsResNetConfig, *, image_size: int) -> Backbone:
    model = SmallResNet(config.widths, config.blocks)
    return finish(model, config, image_size=image_size, statistics=None)
