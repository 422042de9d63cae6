"""The layout of a network's features, the parameters that they depend on, and the norm of its own classifier.

All are determined by tracing the network once. Many networks have a norm at the start of the classifier, with which
their features were trained; a backbone can keep it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from mldec.errors import ConfigError, first_lines
from mldec.models.tracing import shapes_only


@dataclass(frozen=True)
class FinalNorm:
    """The norm at the start of a network's classifier: its location, and the shape of its input.

    timm's ConvNeXt, DaViT, TinyViT, PoolFormer and Hiera have it as `head.norm`; BEiT, EVA02, ViTamin and vision
    transformers with average pooling as `fc_norm`. It is found by calling the network's own `forward_head`.

    timm applies it to the pooled vector of an image. The heads of mldec read tokens, so it is applied to each token as
    to a pooled vector: over the C channels of that token only.

    Attributes:
        name: of the module within its network, such as `head.norm`.
        dims: the number of dimensions of its input: 2 (B, C), 3 (B, T, C), 4 (B, C, H, W) or (B, H, W, C).
        channel: the index of the channel dimension.
    """

    name: str
    dims: int
    channel: int

    def apply(self, model: nn.Module, tokens_BTC: Tensor) -> Tensor:
        """The tokens (B, T, C), each normalised by the norm of that name in `model`."""
        channels = tokens_BTC.shape[2]
        shape = [-1, *[1] * (self.dims - 1)]  # each token is an image of one position
        shape[self.channel] = channels
        normalised: Tensor = model.get_submodule(self.name)(tokens_BTC.reshape(shape))
        return normalised.reshape(tokens_BTC.shape)


@dataclass(frozen=True)
class FeatureLayout:
    """Features of one image.

    Attributes:
        shape: a map (1, C, H, W) or (1, H, W, C), or a sequence (1, T, C).
        channels: C.
        channels_last: the channels of a map are its last dimension.
        prefix_tokens: the number of tokens of a sequence before the spatial ones.
        used: ids of the parameters that the features depend on.
        final_norm: the norm at the start of the network's own classifier; None if there is none.
    """

    shape: torch.Size
    channels: int
    channels_last: bool
    prefix_tokens: int
    used: frozenset[int]
    final_norm: FinalNorm | None


def read_layout(model: nn.Module, image_size: int) -> FeatureLayout:
    """The layout of a network with timm's `forward_features`; nothing is computed and the network is not changed.

    Raises ConfigError if images of that size do not fit it, or its features are not one map or sequence.
    """
    name = type(model).__name__
    used = _UsedParameters()
    try:
        with shapes_only(model) as (traced, device):
            with used:
                forward_features: Any = traced.forward_features
                features = forward_features(torch.zeros(1, 3, image_size, image_size, device=device))
            is_tensor = isinstance(features, Tensor)
            if not is_tensor or features.dim() not in (3, 4):
                found = f"shape {tuple(features.shape)}" if is_tensor else f"a {type(features).__name__}"
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
    return FeatureLayout(features.shape, channels, channels_last, prefix_tokens, frozenset(used.ids), final_norm)


def misfit(name: str, image_size: int, error: Exception) -> str:
    """The message where images of a size do not fit a network."""
    return f"dataset.image_size={image_size} does not suit the backbone {name}: {first_lines(error)}"


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


def find_final_norm(model: nn.Module, features: Tensor, channels: int) -> FinalNorm | None:
    """The norm that `model.forward_head` applies before any other module with parameters; None if there is none.

    Args:
        model: is called; under `shapes_only` it is the copy.
        features: the output of its `forward_features`.
        channels: C.
    """
    forward_head: Any = getattr(model, "forward_head", None)
    if forward_head is None:
        return None
    calls: list[tuple[str, nn.Module, torch.Size]] = []
    hooks = [
        module.register_forward_pre_hook(
            lambda module, inputs, name=name: calls.append((name, module, inputs[0].shape))
        )
        for name, module in model.named_modules()
        if _computes(module)
    ]
    try:
        forward_head(features, pre_logits=True)
    except Exception:  # networks without a classifier raise various errors
        return None
    finally:
        for hook in hooks:
            hook.remove()
    return _norm_of(*calls[0], channels) if calls else None


def _computes(module: nn.Module) -> bool:
    """Whether the module itself, and not a child of it, has parameters or is a norm."""
    if any(True for _ in module.parameters(recurse=False)):
        return True
    return "norm" in type(module).__name__.lower() and not any(True for _ in module.children())


def _norm_of(name: str, module: nn.Module, shape: torch.Size, channels: int) -> FinalNorm | None:
    per_channel = all(parameter.shape == (channels,) for parameter in module.parameters())
    if "norm" not in type(module).__name__.lower() or not per_channel or len(shape) not in (2, 3, 4):
        return None
    first = len(shape) == 4 and shape[1] == channels
    if shape[1 if first else -1] != channels:
        return None
    return FinalNorm(name, len(shape), 1 if first else len(shape) - 1)
