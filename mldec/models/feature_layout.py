"""The layout of a network's features and the parameters that they depend on, determined by tracing it once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from mldec.errors import ConfigError, first_lines
from mldec.models.final_norm import FinalNorm, find_final_norm
from mldec.models.tracing import shapes_only


@dataclass(frozen=True)
class FeatureLayout:
    """Features of one image.

    Attributes:
        shape: a map (1, C, H, W) or (1, H, W, C), or a sequence (1, T, C).
        channels_last: the channels of a map are its last dimension.
        prefix_tokens: the number of tokens of a sequence before the spatial ones.
        used: ids of the parameters that the features depend on.
        final_norm: the norm at the start of the network's own classifier; None if there is none.
    """

    shape: torch.Size
    channels_last: bool
    prefix_tokens: int
    used: frozenset[int]
    final_norm: FinalNorm | None

    @property
    def is_map(self) -> bool:
        return len(self.shape) == 4

    @property
    def channels(self) -> int:
        return self.shape[1] if self.is_map and not self.channels_last else self.shape[-1]


def read_layout(model: nn.Module, image_size: int) -> FeatureLayout:
    """The layout of a network with timm's `forward_features`; nothing is computed and the network is not changed.

    Raises ConfigError if images of that size do not fit it, or its features are not one map or sequence.
    """
    name = type(model).__name__
    used = _UsedParameters()
    try:
        with shapes_only(model) as (traced, device):
            with used:
                features = features_of(traced, torch.zeros(1, 3, image_size, image_size, device=device))
            if not isinstance(features, Tensor) or features.dim() not in (3, 4):
                tensor = isinstance(features, Tensor)
                found = f"shape {tuple(features.shape)}" if tensor else f"a {type(features).__name__}"
                raise ConfigError(
                    f"{name} gives features of {found}; a backbone needs one map or one sequence of tokens"
                )
            is_map = features.dim() == 4
            channels_last = is_map and _channels_last(model, features.shape)
            channels = features.shape[1] if is_map and not channels_last else features.shape[-1]
            final_norm = find_final_norm(traced, features, channels)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ConfigError(misfit(name, image_size, error)) from error
    prefix_tokens = 0 if is_map else _prefix_tokens(model)
    return FeatureLayout(features.shape, channels_last, prefix_tokens, frozenset(used.ids), final_norm)


def features_of(model: Any, images: Tensor) -> Any:
    return model.forward_features(images)


def misfit(name: str, image_size: int, error: Exception) -> str:
    """The message where images of a size do not fit a network."""
    reason = first_lines(error)
    return f"dataset.image_size={image_size} does not suit the backbone {name}: {reason}"


def drop_unused(model: nn.Module, used: frozenset[int], kept: str = "") -> tuple[str, ...]:
    """Replace the children that the features do not depend on; freeze other unused parameters.

    Args:
        used: ids of the parameters that are needed.
        kept: name of a further module to keep; the other parts of the modules around it are removed.

    Returns:
        The names of the removed children.
    """
    if kept:
        used = used | {id(parameter) for parameter in model.get_submodule(kept).parameters()}
    dropped = _drop(model, used, kept, prefix="")
    for parameter in model.parameters():
        if id(parameter) not in used:
            parameter.requires_grad_(False)
    return tuple(dropped)


def _drop(module: nn.Module, used: frozenset[int], kept: str, prefix: str) -> list[str]:
    dropped = []
    for name, child in module.named_children():
        full = prefix + name
        parameters = list(child.parameters())
        if kept.startswith(f"{full}."):
            dropped += _drop(child, used, kept, f"{full}.")
        elif parameters and not any(id(parameter) in used for parameter in parameters):
            setattr(module, name, nn.Identity())
            dropped.append(full)
    return dropped


class _UsedParameters(TorchFunctionMode):
    """Records every parameter that a torch function is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.ids.update(id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, nn.Parameter))
        return func(*args, **(kwargs or {}))


def _channels_last(model: nn.Module, shape: torch.Size) -> bool:
    layout = getattr(model, "output_fmt", None)
    if layout is not None:
        return str(getattr(layout, "value", layout)) == "NHWC"
    width = getattr(model, "num_features", None)
    return shape[1] != width and shape[3] == width


def _prefix_tokens(model: nn.Module) -> int:
    declared = getattr(model, "num_prefix_tokens", None)
    if declared is not None:
        return int(declared)
    return max((tokens.shape[1] for name, tokens in model.named_parameters() if "cls_token" in name), default=0)
