"""Determining the network of a published file from the names and shapes of its tensors (paper §1.5-1.7)."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mldec.errors import CheckpointError
from mldec.models.tresnet import VARIANTS

POOLING = "duplicate_pooling"  # the weights of the group fully-connected layer, which every published ML-Decoder has
WRAPPERS = ("module.", "_orig_mod.", "model.")
NUM_HEADS = 8  # of attention: no shape depends on it, and both published implementations have 8

#: Our name of a part -> the published one.
PARTS = {
    "fc.weight": POOLING,
    "fc.bias": f"{POOLING}_bias",
    "input_projection": "embed_standart",
    "queries.projection": "wordvec_proj",
    "queries": "query_embed",
}

#: Blocks per stage, bottlenecks in the first stage, channels of the stem -> the settings of the backbone. The last two
#: are the wider networks that the authors' earlier publications call TResNet-L and XL, as timm does.
TRESNETS: dict[tuple[tuple[int, ...], bool, int], dict[str, str]] = {
    **{(layers, is_v2, 64): {"name": name} for name, (layers, is_v2) in VARIANTS.items()},
    ((4, 5, 18, 3), False, 76): {"name": "timm", "model": "tresnet_l"},
    ((4, 5, 24, 3), False, 83): {"name": "timm", "model": "tresnet_xl"},
}
#: Blocks and width of a vision transformer with patches of 16 px -> the settings of the backbone.
VISION_TRANSFORMERS: dict[tuple[int, int], dict[str, str]] = {
    (12, 768): {"name": "timm", "model": "vit_base_patch16_224"},
    (24, 1024): {"name": "timm", "model": "vit_large_patch16_224"},
}
RESNETS: dict[tuple[tuple[int, ...], bool], dict[str, str]] = {
    ((2, 2, 2, 2), False): {"name": "resnet18"},
    ((3, 4, 6, 3), False): {"name": "resnet34"},
    ((3, 4, 6, 3), True): {"name": "resnet50"},
    ((3, 4, 23, 3), True): {"name": "resnet101"},
    ((3, 8, 36, 3), True): {"name": "resnet152"},
}


@dataclass(frozen=True)
class HeadLayout:
    """The location of the head in a file.

    Attributes:
        kind: "authors", "timm" (some names of the decoder one level higher), "pooling" (a linear layer only), or "own"
            (our names: `method_layout` has renamed the tensors of another method).
        prefix: of all names of the head, such as `head.`.
        attention: the name of the cross-attention.
    """

    kind: str
    prefix: str
    attention: str = "multihead_attn"

    def file_name(self, ours: str) -> str:
        """The name in the file of a tensor of our head."""
        if self.kind in ("pooling", "own"):
            return self.prefix + ours
        if ours.startswith("layers."):
            return f"{self.prefix}decoder.{ours.replace('multihead_attn', self.attention)}"
        part = next(part for part in PARTS if ours.startswith(part))
        inside = "decoder." if self.kind == "authors" and part != "queries.projection" else ""
        return self.prefix + inside + PARTS[part] + ours.removeprefix(part)

    def holds(self, name: str) -> bool:
        """Whether a name in the file belongs to the head."""
        own = (f"{self.prefix}fc.",) if self.kind == "pooling" else (self.prefix,)
        return name.startswith(own)


@dataclass(frozen=True)
class FoundBackbone:
    """The backbone that the names of a file's tensors indicate.

    Attributes:
        settings: of the config group `backbone`; None where no known network has these names.
        certain: no other network has these names.
        description: of the network, for messages.
    """

    settings: dict[str, str] | None
    certain: bool
    description: str


def unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors without the prefixes that DataParallel, torch.compile or a trainer add to every name."""
    names = {name: name for name in tensors}  # with all prefixes -> without those removed so far
    while wrapper := next((w for w in WRAPPERS if names and all(left.startswith(w) for left in names.values())), None):
        names = {name: left.removeprefix(wrapper) for name, left in names.items()}
    return {left: tensors[name] for name, left in names.items()}


def find_head(names: Collection[str], source: str) -> HeadLayout:
    """The location of the head. Raises CheckpointError if there is no known head, or more than one."""
    anchors = sorted(name for name in names if name.split(".")[-1] == POOLING)
    if len(anchors) > 1:
        raise CheckpointError(f"{source} has more than one ML-Decoder: {', '.join(anchors)}")
    if anchors:
        prefix = anchors[0].removesuffix(POOLING)
        kind = "authors" if re.search(r"(^|\.)decoder\.$", prefix) else "timm"
        prefix = prefix.removesuffix("decoder.") if kind == "authors" else prefix
        decoder = [name for name in names if name.startswith(f"{prefix}decoder.layers.")]
        renamed = any(".self_attn." in name for name in decoder) and not any(".multihead_attn." in n for n in decoder)
        return HeadLayout(kind, prefix, "self_attn" if renamed else "multihead_attn")
    for prefix in ("head.", ""):
        if f"{prefix}fc.weight" in names:
            return HeadLayout("pooling", prefix)
    parts = ", ".join(dict.fromkeys(name.split(".")[0] for name in names))
    raise CheckpointError(
        f"{source} has no known head: neither an ML-Decoder (…{POOLING}) nor the linear layer of average pooling "
        f"(head.fc or fc). Its parts are {parts}; if it is only a backbone, train with backbone.pretrained={source}"
    )


def head_settings(
    layout: HeadLayout, tensors: Mapping[str, Tensor], source: str
) -> tuple[dict[str, Any], int | None, int | None]:
    """Settings of the config group `head`, the number of classes N, and the width of label embeddings.

    N is None for a zero-shot head, the width is None for any other.

    Raises CheckpointError for tensors that are missing or contradict one another.
    """

    def shape(ours: str, dims: int) -> tuple[int, ...]:
        name = layout.file_name(ours)
        if name not in tensors:
            raise CheckpointError(f"{source} has no {name}, which is needed to read its head")
        found = tuple(tensors[name].shape)
        if len(found) != dims:
            raise CheckpointError(f"{source}: {name} has shape {found}, expected {dims} dimensions")
        return found

    if layout.kind == "pooling":
        return {"name": "gap"}, shape("fc.weight", 2)[0], None
    (outputs,) = shape("fc.bias", 1)
    by_embeddings = layout.file_name("queries.projection.weight") in tensors
    pooling, name = shape("fc.weight", 2 if by_embeddings else 3), layout.file_name("fc.weight")
    dim = pooling[0] if by_embeddings else pooling[1]
    layers = _numbers(tensors, re.escape(f"{layout.prefix}decoder.layers.") + r"(\d+)\.")
    if dim % NUM_HEADS:
        raise CheckpointError(f"{source}: {name} has shape {pooling}: D = {dim} is not a multiple of {NUM_HEADS}")
    settings = {
        "name": "ml_decoder",
        "num_groups": None,
        "dim": dim,
        "num_heads": NUM_HEADS,
        "ffn_dim": shape("layers.0.linear1.weight", 2)[0],
        "num_layers": len(layers),
        "queries": "fixed",
        "grouping": "contiguous",
        "fc": "group",
        "label_embeddings": None,
    }
    if by_embeddings:
        if pooling[1] != 1 or outputs != 1:
            raise CheckpointError(
                f"{source}: {name} has shape {pooling} and its bias ({outputs},); those of a zero-shot head are (D, 1) "
                "and (1,)"
            )
        published = {"queries": "label_embeddings", "fc": "shared", "normalize": "none"}
        return settings | published, None, shape("queries.projection.weight", 2)[1]
    num_groups, _, group_size = pooling
    if not 1 <= num_groups <= outputs or group_size != -(-outputs // num_groups):
        raise CheckpointError(
            f"{source}: {name} has shape {pooling} for {outputs} classes; expected (K, D, g), K groups of "
            "g = ceil(classes / K)"
        )
    return settings | {"num_groups": None if num_groups == outputs else num_groups}, outputs, None


def find_backbone(tensors: Mapping[str, Tensor]) -> FoundBackbone:
    """The network of the tensors outside of the head, by its blocks."""
    if not tensors:
        return FoundBackbone(None, False, "a head without a backbone")
    if "cls_token" in tensors and "patch_embed.proj.weight" in tensors:
        size = (len(_numbers(tensors, r"blocks\.(\d+)\.")), tensors["cls_token"].shape[-1])
        text = f"a vision transformer with {size[0]} blocks of width {size[1]}"
        return FoundBackbone(VISION_TRANSFORMERS.get(size), certain=False, description=text)
    is_tresnet = any(name.startswith("body.conv1.") for name in tensors)
    start = "body." if is_tresnet else ""
    stages = _numbers(tensors, re.escape(start) + r"layer(\d+)\.")
    blocks = tuple(len(_numbers(tensors, re.escape(f"{start}layer{stage}.") + r"(\d+)\.")) for stage in stages)
    bottleneck = any(name.startswith(f"{start}layer1.0.conv3.") for name in tensors)
    stem = next(
        (tensors[n] for n in tensors if re.fullmatch(re.escape(start) + r"conv1\.(0\.|conv\.)?weight", n)), None
    )
    if stem is None or not stages:
        return FoundBackbone(None, False, f"a network with tensors such as {', '.join(list(tensors)[:3])}")
    kind = "bottlenecks" if bottleneck else "basic blocks"
    text = f"{'TResNet' if is_tresnet else 'ResNet'} with {', '.join(map(str, blocks))} blocks"
    text += f", {kind} in the first stage and {len(stem)} channels in the stem"
    settings = TRESNETS.get((blocks, bottleneck, len(stem))) if is_tresnet else RESNETS.get((blocks, bottleneck))
    return FoundBackbone(settings, certain=is_tresnet, description=f"a {text}")


def _numbers(names: Collection[str], pattern: str) -> list[int]:
    """The numbers that the group of `pattern` matches at the start of names, sorted, without repetitions."""
    return sorted({int(found[1]) for name in names if (found := re.match(pattern, name))})
