"""Optimizers: which parameters decay, which rate the backbone gets, and how a point of the schedule is applied.

`adam` with weight decay is the published optimizer: L2 inside Adam (paper §2.1); `adamw` decouples the decay, which is
what the paper's text says. The update runs fused over all parameters of a group where torch has a kernel for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from timm.optim import Lamb, RMSpropTF
from torch import Tensor, nn
from torch.optim import Optimizer

from mldec.config import ComponentConfig, Fraction, NonNegative, Positive, Share
from mldec.engine.schedule import SchedulePoint
from mldec.errors import ConfigError
from mldec.models.freezing import layers_of
from mldec.registry import OPTIMIZERS

Group = dict[str, Any]

FUSED_DEVICES = {"cpu", "cuda"}


def parameter_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    backbone_lr_scale: float = 1.0,
    layer_decay: float = 1.0,
    exempt_named: bool = True,
) -> list[Group]:
    """The trainable parameters of a Classifier in groups: backbone or head, with or without decay, and by layer.

    Biases and parameters of at most one dimension do not decay, as published. What is not under `model.backbone` counts
    as head.

    Args:
        model: with `backbone` and `head`; parameters with requires_grad=False are left out.
        weight_decay: of the parameters that decay.
        backbone_lr_scale: the backbone's learning rate over the head's.
        layer_decay: the learning rate of each layer of the backbone over that of the next one, as in BEiT and timm;
            counted down from the layer that a classifier would belong to.
        exempt_named: parameters that `no_weight_decay()` of the backbone or of the head names do not decay either:
            timm's position embeddings, class tokens and tables of relative positions. Names are matched as timm does,
            and may be patterns such as `blocks.*.bias_table`.

    Returns:
        Dicts with `name` (backbone_decay, backbone_no_decay, head_decay, head_no_decay), `params`, `weight_decay` and
        `lr_scale`, for the factories below and `apply_schedule`. With `layer_decay` there is a pair of groups for each
        layer of the backbone (`backbone_layer3_decay`). Empty groups are left out.

    Raises:
        ValueError: nothing is trainable.
        ConfigError: `layer_decay` is not 1, and the backbone does not say what its layers are.
    """
    layers = _layers_of_backbone(model) if layer_decay != 1 else []
    part_of = {name: f"backbone_layer{number}" for number, names in enumerate(layers) for name in names}
    scales = {
        f"backbone_layer{number}": backbone_lr_scale * layer_decay ** (len(layers) - 1 - number)
        for number in range(len(layers))
    }
    groups: dict[str, Group] = {}
    for part, scale in {**scales, "backbone": backbone_lr_scale, "head": 1.0}.items():
        for decay in ("decay", "no_decay"):
            groups[f"{part}_{decay}"] = {
                "name": f"{part}_{decay}",
                "params": [],
                "weight_decay": weight_decay if decay == "decay" else 0.0,
                "lr_scale": scale,
            }
    parts = model.named_children() if exempt_named else ()
    exempt = [f"{part}.{name}" for part, module in parts for name in getattr(module, "no_weight_decay", set)()]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = part_of.get(name, "backbone" if name.startswith("backbone.") else "head")
            plain = parameter.ndim <= 1 or name.rpartition(".")[2] == "bias"
            named = any(fnmatchcase(name, pattern) for pattern in exempt)
            groups[f"{part}_{'no_decay' if plain or named else 'decay'}"]["params"].append(parameter)
    filled = [group for group in groups.values() if group["params"]]
    if not filled:
        raise ValueError("the model has no trainable parameter: every one has requires_grad=False")
    return filled


def _layers_of_backbone(model: nn.Module) -> list[list[str]]:
    """Names of the backbone's parameters by layer, from the stem on."""
    network = getattr(getattr(model, "backbone", None), "model", None)
    layers = [] if network is None else layers_of(network, coarse=False)
    if not layers:
        raise ConfigError("optimizer.layer_decay: this backbone does not say what its layers are; use layer_decay=1")
    return [[f"backbone.model.{name}" for name in names] for names in layers]


def apply_schedule(optimizer: Optimizer, point: SchedulePoint) -> None:
    """Give every group the learning rate times its `lr_scale`, and the momentum (beta1 of the Adam family).

    Raises:
        ValueError: the point has a momentum and the optimizer has none.
    """
    for group in optimizer.param_groups:
        group["lr"] = point.lr * group.get("lr_scale", 1.0)
        if point.momentum is None:
            continue
        if "betas" in group:
            group["betas"] = (point.momentum, *group["betas"][1:])
        elif "momentum" in group:
            group["momentum"] = point.momentum
        else:
            raise ValueError(f"{type(optimizer).__name__} has no momentum to cycle; use schedule.cycle_momentum=false")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(ComponentConfig):
    """Settings that every optimizer has."""

    weight_decay: NonNegative = 1e-4  # of matrices and kernels; biases, norms and what a timm model exempts have none
    backbone_lr_scale: NonNegative = 1.0  # learning rate of the backbone over that of the head
    layer_decay: Fraction = 1.0  # of each layer of the backbone over that of the next one, counted from the stem
    clip_norm: Positive | None = None  # largest norm of all gradients together; null: not clipped


@dataclass(frozen=True, kw_only=True)
class AdamConfig(OptimizerConfig):
    """`betas[0]` only counts while the schedule does not cycle momentum."""

    betas: tuple[Share, Share] = (0.9, 0.999)  # decay rates of the running mean and square of the gradient
    eps: Positive = 1e-8  # added to the divisor


@dataclass(frozen=True, kw_only=True)
class AdamWConfig(AdamConfig):
    """Adam with decoupled decay: parameters shrink by lr * weight_decay."""

    weight_decay: NonNegative = 1e-2


@dataclass(frozen=True, kw_only=True)
class LambConfig(AdamConfig):
    """LAMB, whose steps are scaled by each layer's ratio of weight to update."""

    weight_decay: NonNegative = 2e-2
    eps: Positive = 1e-6
    max_grad_norm: Positive | None = 1.0  # LAMB's own division of gradients above this norm; null: none


@dataclass(frozen=True, kw_only=True)
class SGDConfig(OptimizerConfig):
    """SGD with momentum and coupled L2."""

    momentum: Share = 0.9  # of the running gradient; used while the schedule does not cycle it
    nesterov: bool = False  # look ahead along the momentum

    def __post_init__(self) -> None:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov=true: needs optimizer.momentum above 0; use momentum=0.9 or nesterov=false")


@dataclass(frozen=True, kw_only=True)
class RMSPropConfig(OptimizerConfig):
    """RMSProp as TensorFlow has it, with coupled L2."""

    momentum: Share = 0.9  # of the running update; used while the schedule does not cycle it
    decay: Share = 0.9  # of the running mean of the squared gradient, which starts at 1
    eps: Positive = 1e-10  # added to that mean, within the root


@OPTIMIZERS.register("adam", AdamConfig)
@OPTIMIZERS.register("adamw", AdamWConfig)
def build_adam(config: AdamConfig, *, groups: list[Group], lr: float) -> Optimizer:
    """Adam or AdamW, on torch's fused kernels if all parameters can take them; otherwise torch chooses."""
    parameters: list[Tensor] = [parameter for group in groups for parameter in group["params"]]
    fusible = all(p.device.type in FUSED_DEVICES and p.is_floating_point() for p in parameters)
    optimizer_class = torch.optim.AdamW if isinstance(config, AdamWConfig) else torch.optim.Adam
    optimizer = optimizer_class(groups, lr=lr, betas=config.betas, eps=config.eps, fused=fusible or None)
    optimizer.register_load_state_dict_post_hook(_match_layout)
    return optimizer


@OPTIMIZERS.register("sgd", SGDConfig)
def build_sgd(config: SGDConfig, *, groups: list[Group], lr: float) -> Optimizer:
    """SGD with momentum, not on the fused kernel.

    If a first step overflows under fp16 and is skipped, that kernel keeps a momentum of uninitialised memory.
    """
    return torch.optim.SGD(groups, lr=lr, momentum=config.momentum, nesterov=config.nesterov)


@OPTIMIZERS.register("lamb", LambConfig)
def build_lamb(config: LambConfig, *, groups: list[Group], lr: float) -> Optimizer:
    """timm's LAMB, the optimizer of the ImageNet recipes (paper §2.6)."""
    return Lamb(groups, lr=lr, betas=config.betas, eps=config.eps, max_grad_norm=config.max_grad_norm)


@OPTIMIZERS.register("rmsprop", RMSPropConfig)
def build_rmsprop(config: RMSPropConfig, *, groups: list[Group], lr: float) -> Optimizer:
    """timm's RMSpropTF, which LESA was trained with: g / sqrt(mean + eps) instead of torch's g / (sqrt(mean) + eps).

    With LESA's eps of 1 the two differ by much. As in TensorFlow, an update is multiplied by its own step's rate before
    it enters the momentum.
    """
    return RMSpropTF(groups, lr=lr, alpha=config.decay, eps=config.eps, momentum=config.momentum)


def _match_layout(optimizer: Optimizer) -> None:
    """Lay restored state out in memory as its parameter is: fused kernels read both in storage order, unchecked on CPU.

    They differ where a run is resumed with another runtime.channels_last.
    """
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
