"""The weights of timm's hub that a backbone starts from, by full name: `resnet101.a1h_in1k`.

Both the builders of backbones and the paper's tables use the names of this module, so that they cannot differ.
"""

from __future__ import annotations

import re

import timm

from mldec.errors import ConfigError, suggest

#: The default weights of the paper's TResNets, whose names in mldec are not timm's.
TRESNETS = {
    "tresnet_s": None,
    "tresnet_m": "tresnet_m.miil_in21k_ft_in1k",
    "tresnet_l": "tresnet_v2_l.miil_in21k_ft_in1k",
    "tresnet_xl": None,
}


def default_weights(model: str) -> str | None:
    """The full name of a network's default weights, or of those whose tag is in its name; None where there are none.

    The default is timm's, except for TResNets, whose names in mldec are not timm's.
    """
    return TRESNETS.get(model) if model in TRESNETS else _default(model)


def tagged_weights(model: str, name: str) -> str:
    """The full name of the weights that a tag (`miil_in21k`) or a full name (`tresnet_m.miil_in21k`) stands for.

    Raises:
        ConfigError: the hub has no such weights of this network.
    """
    default = default_weights(model)
    architecture = (default or model).partition(".")[0]
    tags = tags_of(architecture)
    tag = name.removeprefix(f"{architecture}.")
    if tag not in tags:
        known = suggest(tag, tags) if tags else "it has none at all"
        raise ConfigError(f"backbone.pretrained=hub:{name}: timm's hub has no such weights of {model}; {known}")
    return f"{architecture}.{tag}"


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
