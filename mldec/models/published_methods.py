"""Checkpoints of other methods: the names of their tensors, and how they become those of our heads.

Each method has a pattern that only its files contain, and rules that rename their tensors: those of the head to ours,
below `head.`, and those of the backbone to torchvision's or timm's. Shapes that differ only by axes of length 1, such
as those of a 1 x 1 convolution, are fitted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mldec.errors import CheckpointError
from mldec.models.method_layout import HEAD, Method, Tensors

MOST_HEADS = 8  # of CSRA

SEQUENTIAL = tuple(  # a ResNet whose modules are numbered, as in ML-GCN and ADD-GCN
    (rf"features\.{number}\.(.+)", rf"{name}.\1")
    for number, name in ((0, "conv1"), (1, "bn1"), (4, "layer1"), (5, "layer2"), (6, "layer3"), (7, "layer4"))
)


RESIDUALS = {4: 0.5, 6: 0.4}  # CSRA's lambda of published files, by their number of heads; of others 0.1


def _csra(head: Tensors) -> dict[str, Any]:
    heads = len(head["weight"])
    return {"num_heads": heads, "residual": RESIDUALS.get(heads, 0.1)}


def _ml_gcn(head: Tensors) -> dict[str, Any]:
    return {"hidden": head["weight1"].shape[1]}


def _ssgrl(head: Tensors) -> dict[str, Any]:
    return {
        "hidden": len(head["token_map.weight"]),
        "output_dim": len(head["output.weight"]),
        "published": True,
    }


def _add_gcn(head: Tensors) -> dict[str, Any]:
    return {"dim": len(head["token_map.weight"])}


def _c_tran(head: Tensors) -> dict[str, Any]:
    layers = {name.split(".")[1] for name in head if name.startswith("layers.")}
    return {
        "num_layers": len(layers),
        "ffn_dim": len(head["layers.0.linear1.weight"]),
        "label_masks": "states.weight" in head,
        "published": True,
    }


def _query2label(head: Tensors) -> dict[str, Any]:
    encoder = {name.split(".")[1] for name in head if name.startswith("encoder.")}
    layers = {name.split(".")[1] for name in head if name.startswith("layers.")}
    own = {name.split(".")[1] for name in head if ".self_attn." in name and name.startswith("layers.")}
    first, others = "0" in own, bool(own - {"0"})
    return {
        "dim": head["queries.weight"].shape[1],
        "ffn_dim": len(head["layers.0.linear1.weight"]),
        "encoder_layers": len(encoder),
        "decoder_layers": len(layers),
        "self_attention": ("all" if others else "first") if first else "others" if others else "none",
        "input_projection": "input_projection.weight" in head,
    }


def _none(head: Tensors) -> dict[str, Any]:
    return {}


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _channels_first(tensor: Tensor) -> Tensor:
    """A kernel of TensorFlow, (height, width, in, out), as (out, in, height, width)."""
    return tensor.permute(3, 2, 0, 1) if tensor.dim() == 4 else tensor


def _stacked_heads(found: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """The weights of all heads of CSRA as one tensor."""
    start = f"{HEAD}weight."
    numbered = {name.removeprefix(start): name for name in found if name.startswith(start)}
    parts = [found.pop(numbered[key]) for key in map(str, range(len(numbered))) if key in numbered]
    if not 1 <= len(parts) == len(numbered) <= MOST_HEADS or len({part.shape for part in parts}) > 1:
        shapes = ", ".join(str(tuple(part.shape)) for part in parts[: MOST_HEADS + 1])
        raise CheckpointError(
            f"{source}: its {len(numbered):,} heads of attention (first: {', '.join(list(numbered)[:3])}) must be "
            f"1 to {MOST_HEADS}, numbered from 0, and of one shape; those so numbered have {shapes or 'none'}"
        )
    return found | {f"{HEAD}weight": torch.stack(parts)}


def _without_batch_axis(found: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """The output weights of Query2Label, (1, N, D) and (1, N), as (N, D, 1) and (N,)."""
    weight, bias = f"{HEAD}fc.weight", f"{HEAD}fc.bias"
    if not {weight, bias} <= set(found):
        return found
    shaped = found[weight].reshape(-1, *found[weight].shape[-1:], 1)
    return found | {weight: shaped, bias: found[bias].reshape(-1)}


METHODS = (
    Method(
        "csra",
        "CSRA",
        r"classifier\.multi_head\.0\.head\.weight",
        ((r"classifier\.multi_head\.(\d+)\.head\.weight", r"head.weight.\1"),),
        _csra,
        ("weight", 1),
        answer="heads of residual attention: {num_heads}, lambda = {residual:g}",
        assumed=("residual",),
        unit=True,
        merge=_stacked_heads,
    ),
    Method(
        "ml_gcn",
        "ML-GCN",
        r"gc1\.weight",
        (
            (r"gc1\.weight", "head.weight1"),
            (r"gc2\.weight", "head.weight2"),
            (r"A", "head.adjacency"),
            *SEQUENTIAL,
        ),
        _ml_gcn,
        ("adjacency", 0),
        answer="a graph of {count} labels, label embeddings of width {width}",
        embeddings=("weight1", 0),
    ),
    Method(
        "ssgrl",
        "SSGRL",
        r"word_semantic\.fc_1\.weight",
        (
            (r"word_semantic\.fc_1\.(.+)", r"head.token_map.\1"),
            (r"word_semantic\.fc_2\.(.+)", r"head.label_map.\1"),
            (r"word_semantic\.fc_3\.(.+)", r"head.joint_map.\1"),
            (r"word_semantic\.fc_a\.(.+)", r"head.attention.\1"),
            *((rf"graph_net\.fc_eq{n}_w\.(.+)", rf"head.{gate}_in.\1") for n, gate in ((3, "update"), (4, "reset"))),
            *((rf"graph_net\.fc_eq{n}_u\.(.+)", rf"head.{gate}_own.\1") for n, gate in ((3, "update"), (4, "reset"))),
            (r"graph_net\.fc_eq5_w\.(.+)", r"head.state_in.\1"),
            (r"graph_net\.fc_eq5_u\.(.+)", r"head.state_own.\1"),
            (r"fc_output\.(.+)", r"head.output.\1"),
            (r"classifiers\.(weight|bias)", r"head.\1"),
            (r"resnet_101\.(.+)", r"\1"),
        ),
        _ssgrl,
        ("weight", 0),
        answer="a graph of {count} labels, {steps} steps, label embeddings of width {width}",
        embeddings=("label_map.weight", 1),
        assumed=("steps",),
        not_in_file=("adjacency",),
    ),
    Method(
        "add_gcn",
        "ADD-GCN",
        r"gcn\.static_adj\.0\.weight",
        (
            (r"fc\.weight", "head.label_map.weight"),
            (r"conv_transform\.(.+)", r"head.token_map.\1"),
            (r"gcn\.static_adj\.0\.weight", "head.static_graph.weight"),
            (r"gcn\.static_weight\.0\.(.+)", r"head.static_map.\1"),
            (r"gcn\.conv_global\.(.+)", r"head.image_map.\1"),
            (r"gcn\.bn_global\.(.+)", r"head.image_norm.\1"),
            (r"gcn\.conv_create_co_mat\.(.+)", r"head.dynamic_graph.\1"),
            (r"gcn\.dynamic_weight\.(.+)", r"head.dynamic_map.\1"),
            (r"last_linear\.(.+)", r"head.fc.\1"),
            (r"mask_mat", ""),
            *SEQUENTIAL,
        ),
        _add_gcn,
        ("fc.weight", 0),
        answer="a learned graph of {count} labels and one of each image, D = {dim}",
        identities=("mask_mat",),
    ),
    Method(
        "c_tran",
        "C-Tran",
        r"label_lt\.weight",
        (
            (r"label_lt\.weight", "head.labels.weight"),
            (r"known_label_lt\.weight", "head.states.weight"),
            (r"LayerNorm\.(.+)", r"head.norm.\1"),
            (r"self_attn_layers\.(\d+)\.transformer_layer\.(.+)", r"head.layers.\1.\2"),
            (r"output_linear\.(.+)", r"head.fc.\1"),
            (r"backbone\.base_network\.fc\..+", ""),  # ImageNet's classifier
            (r"backbone\.base_network\.(.+)", r"\1"),
        ),
        _c_tran,
        ("labels.weight", 0),
        answer="{num_layers} encoder layers over tokens and {count} labels, label_masks={label_masks}",
        assumed=("num_heads", "label_masks"),
        spare=("states.weight",),
        training=("dropout", "known_share"),
    ),
    Method(
        "query2label",
        "Query2Label",
        r"transformer\.decoder\.layers\.0\..+",
        (
            (r"input_proj\.(.+)", r"head.input_projection.\1"),
            (r"query_embed\.weight", "head.queries.weight"),
            (r"transformer\.encoder\.layers\.(.+)", r"head.encoder.\1"),
            (r"transformer\.decoder\.layers\.(.+)", r"head.layers.\1"),
            (r"transformer\.decoder\.norm\.(.+)", r"head.norm.\1"),
            (r"fc\.W", "head.fc.weight"),
            (r"fc\.b", "head.fc.bias"),
            (r"backbone\.1\.pe", ""),  # positions, which are computed
            (r"backbone\.0\.body\.(.+)", r"\1"),
        ),
        _query2label,
        ("queries.weight", 0),
        answer="{count} queries, encoder layers: {encoder_layers}, decoder layers: {decoder_layers}, D = {dim}",
        assumed=("num_heads",),
        training=("dropout",),
        merge=_without_batch_axis,
        positions="backbone.1.pe",
    ),
    Method("sdl", "SDL", r"embedding\.weight", ((r"embedding\.(.+)", r"head.embedding.\1"),), _none, None),
    Method(
        "lesa",
        "LESA",
        r"(attention_layer/)?w_att_1",
        (
            (r"conv/conv/weights|conv_weights", "head.regions.conv.weight"),
            (r"bn_gamma", "head.regions.norm.weight"),
            (r"bn_beta", "head.regions.norm.bias"),
            (r"moving_mean", "head.regions.norm.running_mean"),
            (r"moving_variance", "head.regions.norm.running_var"),
            (r"(attention_layer/)?w_att_1", "head.regions.hidden"),
            (r"(attention_layer/)?w_att_2", "head.attention_weight"),
            (r"(prediction_frac/)?W", "head.label_weight"),
        ),
        _none,
        None,
        fit=_channels_first,
    ),
    Method(
        "biam",
        "BiAM",
        r"region_context_block\.w_q\.weight",
        (
            (r"conv_3X3\.body\.(.+)", r"head.input_conv.conv.\1"),
            (r"conv_3X3\.bn\.(.+)", r"head.input_conv.norm.\1"),
            *((rf"region_context_block\.w_{n[0]}\.(.+)", rf"head.region.{n}.\1") for n in ("query", "key", "value")),
            (r"region_context_block\.w_o\.(.+)", r"head.region.output.\1"),
            (r"region_context_block\.sub_network\.conv([12])\.(.+)", r"head.region.linear\1.\2"),
            (r"scene_context_block\.w_g\.(.+)", r"head.scene.gate.\1"),
            (r"scene_context_block\.gcff\.body\.(.+)", r"head.scene.conv.conv.\1"),
            (r"scene_context_block\.gcff\.bn\.(.+)", r"head.scene.conv.norm.\1"),
            (r"scene_context_block\.channel_conv\.body\.(.+)", r"head.scene.channels.\1"),
            (r"W\.(.+)", r"head.labels.\1"),
            (r"conv_1X1\.body\.(.+)", r"head.join.\1"),
        ),
        _none,
        None,
        fit=_as_it_is,
    ),
)


def find_method(names: Mapping[str, Any]) -> Method | None:
    """The method of a file with these names of tensors, without a prefix such as `module.`; None if it is none here."""
    whole = [method for method in METHODS if method.num_classes]
    return next((method for method in whole if any(re.fullmatch(method.mark, name) for name in names)), None)
