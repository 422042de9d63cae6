"""The norm that many networks keep at the start of their classifier, although their features were trained with it.

timm's ConvNeXt, DaViT, TinyViT, PoolFormer and Hiera have it as `head.norm`; BEiT, EVA02, ViTamin and vision
transformers with average pooling as `fc_norm`. It is found by calling the network's own `forward_head`.

timm applies it to the pooled vector of an image. Heads here read tokens, so it is applied to each token, just as it
would be to a pooled vector: over the C channels of that token, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Call = tuple[str, nn.Module, torch.Size]


@dataclass(frozen=True)
class FinalNorm:
    """Where the norm is, and in which shape it takes a vector of C channels.

    Attributes:
        name: of the module within its network, such as `head.norm`.
        dims: of the tensors that it was called with: 2 (B, C), 3 (B, T, C), 4 (B, C, H, W) or (B, H, W, C).
        channel: the dimension of the channels among them.
    """

    name: str
    dims: int
    channel: int

    def apply(self, model: nn.Module, tokens_BTC: Tensor) -> Tensor:
        """The tokens (B, T, C) normalised, one by one, by the norm of that name in `model`."""
        channels = tokens_BTC.shape[2]
        shape = [-1, *[1] * (self.dims - 1)]  # each token is an image of one place
        shape[self.channel] = channels
        normalised: Tensor = model.get_submodule(self.name)(tokens_BTC.reshape(shape))
        return normalised.reshape(tokens_BTC.shape)


def find_final_norm(model: nn.Module, features: Tensor, channels: int) -> FinalNorm | None:
    """The norm that `model.forward_head` applies before anything else that has parameters; None if there is none.

    Args:
        model: is called, so under `shapes_only` it is the copy.
        features: what its `forward_features` gave.
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
    except Exception:  # some networks have no classifier, and each says so by another error
        return None
    finally:
        for hook in hooks:
            hook.remove()
    return _norm_of(calls[0], channels) if calls else None


def _computes(module: nn.Module) -> bool:
    """Whether it is itself, and not through a child, a layer with parameters or a norm."""
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
