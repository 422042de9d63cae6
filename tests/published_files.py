"""Classifiers of ours written as the authors' code and timm's write theirs (paper §1.5-1.7)."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mldec.models.classifier import Classifier

HEAD = {  # what timm has one level higher than the authors
    "input_projection.weight": "embed_standart.weight",
    "input_projection.bias": "embed_standart.bias",
    "queries.weight": "query_embed.weight",
    "fc.weight": "duplicate_pooling",
    "fc.bias": "duplicate_pooling_bias",
}


def stir(classifier: nn.Module, seed: int = 0) -> nn.Module:
    """Random scales, shifts and statistics in every batch norm, so that each entry matters; the result is in eval."""
    generator = torch.Generator().manual_seed(seed)
    for module in classifier.modules():
        if isinstance(module, nn.BatchNorm2d):
            size = module.weight.shape
            module.weight.data = torch.rand(size, generator=generator) + 0.01
            module.bias.data = torch.randn(size, generator=generator) * 0.1
            module.running_mean = torch.randn(size, generator=generator) * 0.1
            module.running_var = torch.rand(size, generator=generator) + 0.5
    return classifier.eval()


def authors_file(classifier: Classifier, head: str = "head.") -> dict[str, Tensor]:
    """The state dict of the authors' network: InPlaceABN scales, half of them negative, and their names."""
    return authors_body(classifier.backbone.model) | {
        head + name: value for name, value in authors_head(classifier.head.state_dict()).items()
    }


def timm_file(classifier: Classifier, head: str = "head.") -> dict[str, Tensor]:
    """The state dict of timm's network with its ML-Decoder, or with average pooling."""
    renamed = {}
    for name, value in classifier.head.state_dict().items():
        renamed[HEAD.get(name, f"decoder.{name}") if "queries.weight" in classifier.head.state_dict() else name] = value
    return dict(classifier.backbone.model.state_dict()) | {head + name: value for name, value in renamed.items()}


def authors_head(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if set(state) == {"fc.weight", "fc.bias"}:
        return dict(state)
    words = {name: name.replace("queries.projection", "wordvec_proj") for name in state if "projection." in name}
    words = {name: theirs for name, theirs in words.items() if theirs.startswith("wordvec")}
    return {words.get(name, "decoder." + HEAD.get(name, name)): value for name, value in state.items()}


def authors_body(model: nn.Module) -> dict[str, Tensor]:
    """A ResNet's names are the same everywhere; a TResNet's convolutions and norms are numbered, one level deeper where
    a blur follows."""
    state = model.state_dict()
    if not any(name.startswith("body.") for name in state):
        return dict(state)
    renamed = {}
    for number, (name, value) in enumerate(state.items()):
        found = re.fullmatch(r"(.+)\.(conv|bn)\.(\w+)", name)
        if found is None:
            renamed[name] = value
            continue
        parent, kind, entry = found.groups()
        blurred = not isinstance(getattr(model.get_submodule(parent), "aa", None), (nn.Identity, type(None)))
        place = ("0." if blurred else "") + ("0" if kind == "conv" else "1")
        if kind == "bn" and entry == "weight" and value.device.type != "meta":
            signs = torch.where(torch.rand(value.shape, generator=torch.Generator().manual_seed(number)) < 0.5, -1, 1)
            value = (value - 1e-5) * signs
        renamed[f"{parent}.{place}.{entry}"] = value
    return renamed
