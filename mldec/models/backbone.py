"""A backbone is any network with timm's `forward_features`, read as tokens, without its classifier.

This module has the adapter, the settings that all backbones share, and the backbones that timm builds by name. The
paper's TResNets and the small network for the digits are registered beside their definitions.
"""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import timm
import torch
from timm.layers import DropPath
from timm.models import PretrainedCfg
from torch import Tensor, nn

from mldec.config import ComponentConfig, Natural, Share
from mldec.errors import CheckpointError, ConfigError, first_lines
from mldec.models.feature_layout import drop_unused, misfit, read_layout
from mldec.models.freezing import freeze, frozen_tensors, keep_frozen_in_eval
from mldec.models.pretrained import PixelStatistics, Source, advice, find_source, published_statistics, read_source
from mldec.models.tokens import Tokens
from mldec.models.weights import CLASSIFIERS, LoadReport, load_weights
from mldec.registry import BACKBONES

UNIT: PixelStatistics = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # unchanged pixels within 0..1


def network_name(name: str, model: str | None) -> str:
    """The network of `backbone=name`, for timm's of `backbone.model=model`, without the tag of its weights."""
    return (model or name).partition(".")[0]


@dataclass(frozen=True, kw_only=True)
class BackboneConfig(ComponentConfig):
    """Settings of every backbone."""

    pretrained: bool | str = False  # true: its default weights; hub:NAME, hf_hub:OWNER/NAME, package:NAME, FILE or DIR
    normalize: Literal["auto", "unit", "backbone"] = "auto"  # of pixels; auto: as the loaded weights need it, else unit
    freeze: Literal["none", "all"] | Natural = "none"  # N: the stem and the first N stages or blocks
    drop_path: Share = 0.0  # stochastic depth: the rate of the last block; for models that have it
    final_norm: Literal["auto"] | bool = "auto"  # keep the norm of the network's classifier; auto: with loaded weights

    @property
    def network(self) -> str:
        """The name of the network, without the tag of its weights."""
        return network_name(self.name, getattr(self, "model", None))

    @property
    def keeps_final_norm(self) -> bool:
        """Whether the network's final norm is part of the backbone."""
        if isinstance(self.final_norm, bool):
            return self.final_norm
        return bool(self.pretrained)


@dataclass(frozen=True, kw_only=True)
class TimmBackboneConfig(BackboneConfig):
    """Settings of `backbone=timm`."""

    model: str  # a name of timm.list_models(), with or without the tag of its weights

    def __post_init__(self) -> None:
        if not timm.is_model(self.model):
            near = difflib.get_close_matches(self.model, timm.list_models(), n=3, cutoff=0.5)
            hint = f"did you mean {', '.join(near)}? " if near else ""
            raise ValueError(
                f"model={self.model}: timm {timm.__version__} has no such model; {hint}(all: timm.list_models())"
            )
        tags = timm.list_models(f"{self.model.partition('.')[0]}.*", pretrained=True)
        if "." in self.model and self.model not in tags:
            raise ValueError(f"model={self.model}: no such weights; allowed: {', '.join(tags) or 'no tag'}")


class Backbone(nn.Module):
    """Tokens of a network with timm's `forward_features`, whatever the layout of its features.

    Maps (channels first or last) are read row by row; prefix tokens (class, distillation, register) of sequences are
    kept apart. Modules after the features (pooling weights, pre-logits, classifier) are dropped, and parameters that
    the tokens do not depend on are frozen, so that every trainable parameter gets a gradient.

    Args:
        model: is modified, not copied.
        image_size: side of its square input images in pixels, to determine the layout; nothing is computed.
        normalization: (mean, std) of the images it expects.
        final_norm: keep the norm at the start of the network's own classifier, if there is one, and apply it to each
            token (`FinalNorm`). Weights that were trained with it need it; random ones do not.

    Attributes:
        num_features: C, width of the tokens.
        prefix_tokens: P, the number of tokens before the spatial ones.
        has_class_token: whether the first of them is a class token, and not a register.
        final_norm: the location of the kept norm; None where there is none or it is not kept.
        normalization: as given.
        loaded: the LoadReport of the weights, None for random ones.

    Raises:
        ConfigError: images of that size do not fit the model, or its features are not one map or sequence.
    """

    model: Any  # a module with `forward_features`

    def __init__(
        self, model: nn.Module, *, image_size: int, normalization: PixelStatistics = UNIT, final_norm: bool = False
    ) -> None:
        super().__init__()
        self.model = model
        self.normalization = normalization
        self.loaded: LoadReport | None = None
        layout = read_layout(model, image_size)
        self.final_norm = layout.final_norm if final_norm else None
        self.dropped = drop_unused(model, layout.used, "" if self.final_norm is None else self.final_norm.name)

        self.num_features = layout.channels
        self.prefix_tokens = layout.prefix_tokens
        self.has_class_token = self.prefix_tokens > 0 and getattr(model, "cls_token", None) is not None
        self._channels_last = layout.channels_last
        self._stride = 0
        if len(layout.shape) == 3:  # a sequence
            count = layout.shape[1] - self.prefix_tokens
            if count <= 0:
                raise ConfigError(f"{type(model).__name__} gives class tokens only; a backbone needs spatial tokens")
            side = math.isqrt(count)
            if side * side == count:
                self._stride = image_size // side

    def train(self, mode: bool = True) -> Backbone:
        """As of any module, but frozen stages stay in eval mode: their batch norms and stochastic depth do nothing."""
        super().train(mode)
        if mode:
            keep_frozen_in_eval(self.model)
        return self

    def forward(self, images: Tensor) -> Tokens:
        """Tokens of images (B, 3, H, W), floating point, normalised by `normalization`."""
        if self.is_frozen and not images.requires_grad:
            with torch.no_grad():  # nothing before the head keeps what a backward pass would need
                tokens = self._tokens(images)
            # In the order in memory of tokens that come from a cache: other sums would differ in their last bit.
            prefix = None if tokens.prefix is None else tokens.prefix.contiguous()
            return tokens._replace(values=tokens.values.contiguous(), prefix=prefix)
        return self._tokens(images)

    @property
    def is_frozen(self) -> bool:
        """Whether the whole network is frozen (`freeze=all`)."""
        return getattr(self.model, "frozen_part", "none") == "all"

    def frozen_tensors(self) -> list[Tensor]:
        """The parameters and buffers that training never changes."""
        return frozen_tensors(self.model)

    def _tokens(self, images: Tensor) -> Tokens:
        features = self.model.forward_features(images)
        if features.dim() == 4:
            map_BHWC = features if self._channels_last else features.permute(0, 2, 3, 1)
            return Tokens(self._normalised(map_BHWC.flatten(1, 2)), (map_BHWC.shape[1], map_BHWC.shape[2]))
        values_BTC = features[:, self.prefix_tokens :]
        grid = (images.shape[2] // self._stride, images.shape[3] // self._stride) if self._stride else None
        if grid is not None and grid[0] * grid[1] != values_BTC.shape[1]:
            grid = None
        prefix_BPC = self._normalised(features[:, : self.prefix_tokens]) if self.prefix_tokens else None
        return Tokens(self._normalised(values_BTC), grid, prefix_BPC)

    def no_weight_decay(self) -> set[str]:
        """The parameters, by name or pattern of names, that the network excludes from weight decay."""
        return {f"model.{name}" for name in getattr(self.model, "no_weight_decay", set)()}

    def _normalised(self, tokens_BTC: Tensor) -> Tensor:
        return tokens_BTC if self.final_norm is None else self.final_norm.apply(self.model, tokens_BTC)

    def load(self, state_dict: Mapping[str, Tensor], source: str, required: float = 0.95) -> LoadReport:
        """Load weights in timm's layout or that of the original authors. Raises as `load_weights` does."""
        # Many of timm's modules have a function that converts other files (names, InPlaceABN scales, position grids).
        convert = getattr(sys.modules[type(self.model).__module__], "checkpoint_filter_fn", None)
        self.loaded = load_weights(
            self.model,
            state_dict,
            source,
            classifiers=(*CLASSIFIERS, *self.dropped),
            convert=None if convert is None else partial(convert, model=self.model),
            required=required,
        )
        return self.loaded


def create_timm(name: str, *, image_size: int, drop_path: float = 0.0, **more: Any) -> nn.Module:
    """timm's model `name` for images of a size. Raises ConfigError for options that do not fit it."""
    options: dict[str, Any] = {"num_classes": 0, **more, "img_size": image_size, "drop_path_rate": drop_path or None}
    while True:
        try:
            return timm.create_model(name, **options)
        except TypeError as error:  # only models of a fixed size accept `img_size`
            if "'img_size'" in str(error):
                options["img_size"] = None
            elif "'drop_path_rate'" in str(error):
                options["drop_path_rate"] = None
            else:
                raise
        except (AssertionError, ValueError) as error:
            raise ConfigError(misfit(name, image_size, error)) from error


def finish(
    model: nn.Module, config: BackboneConfig, *, image_size: int, statistics: PixelStatistics | None
) -> Backbone:
    """`model` as a backbone with the weights and the normalization of `config`.

    Args:
        model: built with random weights.
        config: its common settings.
        image_size: side of the images in pixels.
        statistics: the mean and std of its weights; None if it has none of its own.

    Raises:
        ConfigError: the settings require weights, statistics or stochastic depth that do not exist.
        CheckpointError: weights that cannot be downloaded or read, or do not fit.
    """
    name = getattr(config, "model", config.name)
    has_drop_path = any(isinstance(module, DropPath) and module.drop_prob for module in model.modules())
    if config.drop_path and not has_drop_path:
        raise ConfigError(f"backbone.drop_path={config.drop_path}: {name} has no stochastic depth; use 0")
    source = find_source(name, config.pretrained)
    tensors: Mapping[str, Tensor] = {}
    if source is not None and source.kind == "hub":
        tensors = _hub_weights(source.name, image_size)
    elif source is not None:
        tensors, source = read_source(source, model.state_dict())
    backbone = Backbone(
        model,
        image_size=image_size,
        normalization=_choose_statistics(config, name, source, statistics),
        final_norm=config.keeps_final_norm,
    )
    if source is not None:
        backbone.load(tensors, source.title, required=1.0 if source.kind == "package" else 0.95)
    freeze(backbone.model, config.freeze, name)
    return backbone


def _choose_statistics(
    config: BackboneConfig, name: str, source: Source | None, own: PixelStatistics | None
) -> PixelStatistics:
    """Mean and std of the images: those of the loaded weights, or where these have none the network's own."""
    if config.normalize == "unit" or (config.normalize == "auto" and source is None):
        return UNIT
    found = own if source is None or source.statistics is None else source.statistics
    if found is None and config.normalize == "backbone":
        raise ConfigError(f"backbone.normalize=backbone: {name} has no statistics of its own; use unit")
    return UNIT if found is None else found


def build_timm(config: BackboneConfig, *, image_size: int) -> Backbone:
    """The network that timm builds by the name in `config.model` or, for the ResNets, in `config.name`."""
    name: str = getattr(config, "model", config.name)
    model = create_timm(name, image_size=image_size, drop_path=config.drop_path)
    return finish(model, config, image_size=image_size, statistics=published_statistics(name))


BACKBONES.register("timm", TimmBackboneConfig)(build_timm)
for _depth in (18, 34, 50, 101, 152):
    BACKBONES.register(f"resnet{_depth}", BackboneConfig)(build_timm)


def _hub_weights(name: str, image_size: int) -> dict[str, Tensor]:
    try:
        # With its own classifier, timm loads strictly, so the result is complete.
        published = cast(PretrainedCfg, timm.get_pretrained_cfg(name))
        donor = create_timm(name, image_size=image_size, num_classes=published.num_classes, pretrained=True)
        return donor.state_dict()
    except Exception as error:  # the clients of the hub document no exceptions
        raise CheckpointError(
            f"backbone.pretrained=true: the download of {name} from timm's hub failed ({first_lines(error)}); "
            f"{advice(name)}"
        ) from error
