"""The norm at the start of the classifier of many networks, with which their features were trained.

timm's ConvNeXt, DaViT, TinyViT, PoolFormer and Hiera have it as `head.norm`; BEiT, EVA02, ViTamin and vision
transformers with average pooling as `fc_norm`. It is found by calling the network's own `forward_head`.

timm applies it to the pooled vector of an image. The heads of mldec read tokens, so it is applied to each token as to a
pooled vector: over the C channels of that token only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Call = tuple[str, nn.Module, torch.Size]


@dataclass(frozen=True)
class FinalNorm:
    """The location of the norm, and the shape of its input.

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
    calls: list[Call] = []
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
    return _norm_of(calls[0], channels) if calls else None


def _computes(module: nn.Module) -> bool:
    """Whether the module itself, and not a child of it, has parameters or is a norm."""
    if isinstance(module, nn.Identity):
        return False
    if any(True for _ in module.parameters(recurse=False)):
        return True
    return "norm" in type(module).__name__.lower() and not any(True for _ in module.children())


def _norm_of(call: Call, channels: int) -> FinalNorm | None:
    name, module, shape = call
    per_channel = all(parameter.shape == (channels,) for parameter in module.parameters())
    if "norm" not in type(module).__name__.lower() or not per_channel or len(shape) not in (2, 3, 4):
        return None
    first = len(shape) == 4 and shape[1] == channels
    if shape[1 if first else -1] != channels:
        return None
    return FinalNorm(name, len(shape), 1 if first else len(shape) - 1)
