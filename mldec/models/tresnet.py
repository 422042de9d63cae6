"""The paper's TResNets (paper §1.5-1.7), built from timm's blocks.

L and XL are the second version, with bottlenecks in all stages and 2048 features: timm's `tresnet_v2_l` is the paper's
L, while timm's own `tresnet_l` and `tresnet_xl` are other, wider networks. All TResNet weights expect pixels within
0..1.
"""

from __future__ import annotations

from timm.models.tresnet import TResNet

from mldec.errors import ConfigError
from mldec.models.backbone import UNIT, Backbone, BackboneConfig, finish
from mldec.registry import BACKBONES

#: Blocks per stage, and whether it is the second version.
VARIANTS = {
    "tresnet_s": ((3, 4, 6, 3), False),
    "tresnet_m": ((3, 4, 11, 3), False),
    "tresnet_l": ((3, 4, 23, 3), True),
    "tresnet_xl": ((3, 8, 34, 5), True),
}


def build_tresnet(config: BackboneConfig, *, image_size: int) -> Backbone:
    """The TResNet of `config.name`, for images whose side is a multiple of 4."""
    if image_size % 4:
        raise ConfigError(
            f"dataset.image_size={image_size}: {config.name} needs a multiple of 4; use {image_size // 4 * 4 or 4}"
        )
    layers, is_v2 = VARIANTS[config.name]
    model = TResNet(list(layers), num_classes=0, v2=is_v2, drop_path_rate=config.drop_path)
    return finish(model, config, image_size=image_size, statistics=UNIT)


for _name in VARIANTS:
    BACKBONES.register(_name, BackboneConfig)(build_tresnet)
