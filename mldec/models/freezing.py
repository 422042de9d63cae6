"""Frozen and partly frozen backbones, and the layers of a network from its input to its output.

Both follow timm's description of its networks (`group_matcher`): a frozen part is given in stages or blocks, and
layer-wise learning rates go by blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, cast

from timm.models import group_parameters
from torch import Tensor, nn

from mldec.errors import ConfigError

_BEHIND = "_behind_the_network"  # matches no pattern, as the names of classifiers do


def freeze(model: Any, part: Literal["none", "all"] | int, name: str) -> None:
    """Freeze the parameters of a network: all, or those of its stem and its first stages or blocks.

    Args:
        model: a network of timm, or one with its `group_matcher`.
        part: "none", "all" or how many stages (blocks, in transformers) behind the stem.
        name: of the network, for messages.

    Raises:
        ConfigError: it has fewer stages, or does not say what its stages are.
    """
    if part == "none":
        return
    frozen = list(model.parameters())
    if part != "all":
        layers = layers_of(model, coarse=True)
        if not layers:
            raise ConfigError(f"backbone.freeze={part}: {name} does not say what its stages are; use all or none")
        stages = len(layers) - 2  # without stem and classifier
        if part > stages:
            raise ConfigError(f"backbone.freeze={part}: {name} has {stages} stages or blocks; use 0..{stages} or all")
        parameters = dict(model.named_parameters())
        frozen = [parameters[layer] for group in layers[: part + 1] for layer in group]
    for parameter in frozen:
        parameter.requires_grad_(False)
    model.frozen_part = part


def keep_frozen_in_eval(model: nn.Module) -> None:
    """Put the frozen parts of a network into eval mode, if `freeze` froze any: norms keep their running statistics."""
    for module in frozen_modules(model):
        module.eval()


def frozen_modules(model: nn.Module) -> list[nn.Module]:
    """The modules whose parameters are all frozen by `freeze`; modules without parameters go with their parent."""
    if getattr(model, "frozen_part", "none") == "none":
        return []
    found = []
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            found.append(module)
    return found


def frozen_tensors(model: nn.Module) -> list[Tensor]:
    """Parameters and buffers of `frozen_modules`: what training never changes."""
    return [tensor for module in frozen_modules(model) for tensor in (*module.parameters(), *module.buffers())]


def layers_of(model: Any, *, coarse: bool) -> list[list[str]]:
    """Names of parameters by layer, from the stem on; empty for a network that does not describe its layers.

    The last layer is that to which a classifier would belong; it is empty where nothing of the network does.

    Args:
        coarse: stages instead of blocks, for networks that have stages.
    """
    matcher = getattr(model, "group_matcher", None)
    if matcher is None:
        return []
    layers = group_parameters(cast(Any, _WithOneBehind(model)), matcher(coarse=coarse))
    return [[name for name in layers[number] if name != _BEHIND] for number in sorted(layers)]


class _WithOneBehind:
    """The parameters of a network and one behind it, as that of a classifier would be, in a layer of its own or not."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def named_parameters(self) -> Iterator[tuple[str, Any]]:
        yield from self._model.named_parameters()
        yield _BEHIND, None
