"""Files in the layouts of other methods, with the names and shapes of their published code and weights of ours."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from mldec.models import heads
from mldec.models.backbone import Backbone
from mldec.models.classifier import Classifier
from mldec.models.heads.per_class import sine_position
from mldec.models.label_embeddings import LabelEmbeddings
from mldec.registry import BACKBONES

METHODS = ("csra", "ml_gcn", "ssgrl", "add_gcn", "c_tran", "query2label")
C = 512
LABELS = LabelEmbeddings(tuple("abcd"), torch.randn(4, 6, generator=torch.Generator().manual_seed(0)), "words")
COUNTS = np.array([[9, 4, 0, 1], [4, 5, 2, 0], [0, 2, 8, 3], [1, 0, 3, 3]])
NUMBERED = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}  # a Sequential of a ResNet


def backbone() -> Backbone:
    component = BACKBONES["resnet18"]
    return component.build(component.config_class(name="resnet18", normalize="unit"), image_size=64)


def head_of(name: str, labels: LabelEmbeddings = LABELS, counts: np.ndarray = COUNTS) -> nn.Module:
    """A small head of the method, for as many classes as there are labels."""
    n = len(labels.names)
    return {
        "csra": lambda: heads.ClassSpecificResidualAttention(C, n, num_heads=4, residual=0.5),
        "ml_gcn": lambda: heads.MLGCN(C, n, labels, counts, hidden=5),
        "ssgrl": lambda: heads.SSGRL(C, n, labels, counts, hidden=5, output_dim=7, published=True),
        "add_gcn": lambda: heads.ADDGCN(C, n, dim=6),
        "c_tran": lambda: heads.CTran(C, n, num_layers=2, ffn_dim=8, published=True),
        "query2label": lambda: heads.Query2Label(C, n, C, ffn_dim=8, self_attention="first"),
    }[name]()


def file_of(name: str, classifier: Classifier) -> dict[str, Tensor]:
    """The state dict of the published network with the weights of ours."""
    body, own = classifier.backbone.model.state_dict(), classifier.head.state_dict()

    def conv(tensor: Tensor, axes: int) -> Tensor:
        return tensor[(...,) + (None,) * axes] if tensor.dim() == 2 else tensor

    def numbered() -> dict[str, Tensor]:
        parts = {key: key.split(".", 1) for key in body}
        return {f"features.{NUMBERED[first]}.{rest}": body[key] for key, (first, rest) in parts.items()}

    if name == "csra":
        weights = {f"classifier.multi_head.{h}.head.weight": w[..., None, None] for h, w in enumerate(own["weight"])}
        return {f"module.{key}": value for key, value in (body | weights).items()}
    if name == "ml_gcn":
        return numbered() | {"gc1.weight": own["weight1"], "gc2.weight": own["weight2"], "A": own["adjacency"]}
    if name == "ssgrl":
        found = {f"resnet_101.{key}": value for key, value in body.items()}
        semantic = {"token_map": "fc_1", "label_map": "fc_2", "joint_map": "fc_3", "attention": "fc_a"}
        for key, value in own.items():
            module, _, last = key.rpartition(".")
            if module in semantic:
                found[f"word_semantic.{semantic[module]}.{last}"] = value
            elif module.endswith(("_in", "_own")):
                gate, _, side = module.partition("_")
                number = {"update": 3, "reset": 4, "state": 5}[gate]
                found[f"graph_net.fc_eq{number}_{'w' if side == 'in' else 'u'}.{last}"] = value
            elif module == "output":
                found[f"fc_output.{last}"] = value
            elif key in ("weight", "bias"):
                found[f"classifiers.{key}"] = value
        return found
    if name == "add_gcn":
        parts = {
            "label_map": ("fc", 2),
            "token_map": ("conv_transform", 2),
            "static_graph": ("gcn.static_adj.0", 1),
            "static_map": ("gcn.static_weight.0", 1),
            "image_map": ("gcn.conv_global", 1),
            "image_norm": ("gcn.bn_global", 0),
            "dynamic_graph": ("gcn.conv_create_co_mat", 1),
            "dynamic_map": ("gcn.dynamic_weight", 1),
            "fc": ("last_linear", 1),
        }
        found = numbered() | {"mask_mat": torch.eye(len(own["fc.bias"]))}
        for key, value in own.items():
            module, _, last = key.rpartition(".")
            found[f"{parts[module][0]}.{last}"] = conv(value, parts[module][1])
        return found
    if name == "c_tran":
        found = {f"backbone.base_network.{key}": value for key, value in body.items()}
        found |= {"backbone.base_network.fc.weight": torch.zeros(1000, C), "label_lt.weight": own["labels.weight"]}
        found["known_label_lt.weight"] = own["states.weight"]
        for key, value in own.items():
            if key.startswith("layers."):
                _, number, rest = key.split(".", 2)
                found[f"self_attn_layers.{number}.transformer_layer.{rest}"] = value
            elif key.startswith(("norm.", "fc.")):
                found[key.replace("norm.", "LayerNorm.").replace("fc.", "output_linear.")] = value
        return found
    found = {f"backbone.0.body.{key}": value for key, value in body.items()}
    positions = sine_position((3, 3), C).T.reshape(1, C, 3, 3).float()
    found |= {"backbone.1.pe": positions, "query_embed.weight": own["queries.weight"]}
    found |= {"fc.W": own["fc.weight"][None, ..., 0], "fc.b": own["fc.bias"][None]}
    for key, value in own.items():
        for ours, theirs in (
            ("encoder.", "encoder.layers."),
            ("layers.", "decoder.layers."),
            ("norm.", "decoder.norm."),
        ):
            if key.startswith(ours):
                found[f"transformer.{theirs}{key.removeprefix(ours)}"] = value
    return {f"module.{key}": value for key, value in found.items()}
