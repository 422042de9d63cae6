"""Batch norm folded into the convolution before it: in evaluation both are one linear map, and one is enough."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from mldec.models.tracing import shapes_only


class Folded(NamedTuple):
    """How many batch norms of a network were folded, and how many of them stay."""

    folded: int
    kept: int


def fold_batch_norm(network: nn.Module, image_size: int) -> Folded:
    """Fold in place every batch norm that takes the whole output of one convolution, which nothing else looks at.

    W' = W gamma / sqrt(var + eps) and b' = (b - mean) gamma / sqrt(var + eps) + beta. The activation that timm keeps
    within its batch norms stays. A batch norm before a convolution, behind a sum or used twice is kept as it is.

    Args:
        network: in evaluation; called with images (1, 3, image_size, image_size), of which only shapes are computed.
        image_size: side of the images.

    Raises:
        ValueError: the network is in training, where a batch norm is no fixed map.
    """
    if network.training:
        raise ValueError("batch norm can be folded in evaluation only; call network.eval() first")
    modules = dict(network.named_modules())
    convolutions = {id(m.weight): name for name, m in modules.items() if isinstance(m, nn.Conv2d)}
    norms = {id(m.running_mean): name for name, m in modules.items() if type(m) in (nn.BatchNorm2d, BatchNormAct2d)}
    flow = _Flow()
    with shapes_only(network) as (traced, device), flow:
        traced(torch.zeros(1, 3, image_size, image_size, device=device))
    folded = 0
    for input_id, mean_id in flow.normalized:
        weight_id = flow.convolved.get(input_id, 0)
        once = all(flow.uses[key] == 1 for key in (input_id, weight_id, mean_id))
        if once and weight_id in convolutions and mean_id in norms:
            convolution, norm = modules[convolutions[weight_id]], modules[norms[mean_id]]
            network.set_submodule(convolutions[weight_id], fuse_conv_bn_eval(convolution, norm))
            network.set_submodule(norms[mean_id], _rest(norm))
            folded += 1
    kept = sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
    return Folded(folded, kept)


def _rest(norm: nn.Module) -> nn.Module:
    """What a batch norm does beside normalising."""
    return nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()


class _Flow(TorchFunctionMode):
    """Remembers which tensor came from which convolution and went into which batch norm, and how often each was used.

    Tensors are known by their ids, which stay theirs as long as they are kept alive here.
    """

    def __init__(self) -> None:
        super().__init__()
        self.uses: Counter[int] = Counter()
        self.convolved: dict[int, int] = {}  # output to weight
        self.normalized: list[tuple[int, int]] = []  # input, running mean
        self._kept: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if not made:  # to look at a shape is no use
            return result
        used = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        self.uses.update(id(leaf) for leaf in used)
        self._kept += made + used
        if func is F.conv2d and len(args) > 1:
            self.convolved[id(result)] = id(args[1])
        elif func is F.batch_norm and len(args) > 1:
            self.normalized.append((id(args[0]), id(args[1])))
        return result
