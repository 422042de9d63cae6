"""The weights of timm's hub that a backbone starts from, by full name: `resnet101.a1h_in1k`.

Both the builders of backbones and the paper's tables use the names of this module, so that they cannot differ.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import timm

from mldec.errors import ConfigError, suggest

if TYPE_CHECKING:
    from mldec.models.backbone import BackboneConfig

#: The default weights of the paper's TResNets, whose names in mldec are not timm's.
TRESNETS = {
    "tresnet_s": None,
    "tresnet_m": "tresnet_m.miil_in21k_ft_in1k",
    "tresnet_l": "tresnet_v2_l.miil_in21k_ft_in1k",
    "tresnet_xl": None,
}


def hub_name(config: BackboneConfig) -> str | None:
    """The full name of the weights that `pretrained=true` loads; None where the hub has none for this backbone.

    The tag is `config.tag`, or that of a timm model's name, or else the default: timm's, except for TResNets. Without
    `pretrained` a tag has no effect and is not checked.

    Raises:
        ConfigError: a tag that the hub does not have, or two tags.
    """
    name: str = getattr(config, "model", config.name)
    default = TRESNETS.get(name) if name in TRESNETS else _default(name)
    architecture, _, own = (default or name).partition(".")
    if config.tag is None or not config.pretrained or default is None:
        return default
    if own and own == name.partition(".")[2]:
        raise ConfigError(f"backbone.tag={config.tag}: backbone.model={name} names a tag already; use one of the two")
    if config.tag not in (tags := tags_of(architecture)):
        raise ConfigError(
            f"backbone.tag={config.tag}: timm's hub has no such weights of {name}; {suggest(config.tag, tags)}. "
            "backbone.tag=null uses the default ones"
        )
    return f"{architecture}.{config.tag}"


def tags_of(architecture: str) -> list[str]:
    """Tags of all weights that timm's hub has for an architecture."""
    return [name.partition(".")[2] for name in timm.list_models(f"{architecture}.*", pretrained=True)]


def describe_weights(full_name: str) -> str:
    """The training data of weights of timm's hub, with their name: `ImageNet-1K (resnet101.a1h_in1k)`."""
    trained = re.search(r"_in(\d+)k(_ft_in1k)?(?:_\d+)?$", full_name)
    if trained is None:
        return full_name
    more = ", fine-tuned on ImageNet-1K" if trained[2] else ""
    return f"ImageNet-{trained[1]}K{more} ({full_name})"


def _default(name: str) -> str | None:
    """timm's default weights for a model's name, which may have a tag."""
    published = timm.get_pretrained_cfg(name)
    if published is None or not published.has_weights:
        return None
    architecture, _, tag = name.partition(".")
    return f"{architecture}.{tag or published.tag}" if tag or published.tag else architecture
