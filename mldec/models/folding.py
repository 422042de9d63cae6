"""Folding batch norm into the convolution before it, with which it is one affine map in evaluation."""

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


class FoldCounts(NamedTuple):
    """The number of folded and of remaining batch norms of a network."""

    folded: int
    kept: int


def fold_batch_norm(network: nn.Module, image_size: int) -> FoldCounts:
    """Fold in place every batch norm whose input is the output of one convolution that nothing else reads.

    W' = W gamma / sqrt(var + eps) and b' = (b - mean) gamma / sqrt(var + eps) + beta. The activation within timm's
    batch norms stays. A batch norm before a convolution, after a sum or used twice is not folded.

    Args:
        network: in evaluation; called with images (1, 3, image_size, image_size), for which only shapes are computed.
        image_size: side of the images in pixels.

    Raises:
        ValueError: the network is in training mode, where a batch norm is not a fixed map.
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
    return FoldCounts(folded, kept)


def _rest(norm: nn.Module) -> nn.Module:
    """The operations of a batch norm layer after its normalization."""
    return nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()


class _Flow(TorchFunctionMode):
    """Records the convolution that made each tensor, the batch norm that reads it, and the number of its uses.

    Tensors are identified by their ids, which are unique as long as the tensors are kept alive here.
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
        if not made:  # reading a shape is not a use
            return result
        used = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        self.uses.update(id(leaf) for leaf in used)
        self._kept += made + used
        if func is F.conv2d and len(args) > 1:
            self.convolved[id(result)] = id(args[1])
        elif func is F.batch_norm and len(args) > 1:
            self.normalized.append((id(args[0]), id(args[1])))
        return result
