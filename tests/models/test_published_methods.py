"""Checkpoints in the layouts of other methods, made here with the names and shapes of the published code."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mldec.errors import CheckpointError
from mldec.models import heads
from mldec.models.backbone import Backbone
from mldec.models.classifier import Classifier
from mldec.models.label_embeddings import LabelEmbeddings
from mldec.models.published import load_published, read_published
from mldec.registry import BACKBONES
from tests.published_files import stir

N, C = 4, 512
LABELS = LabelEmbeddings(tuple("abcd"), torch.randn(N, 6, generator=torch.Generator().manual_seed(0)), "words")
COUNTS = np.array([[9, 4, 0, 1], [4, 5, 2, 0], [0, 2, 8, 3], [1, 0, 3, 3]])
NUMBERED = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}  # a Sequential of a ResNet


def backbone() -> Backbone:
    component = BACKBONES["resnet18"]
    return component.build(component.config_class(name="resnet18", normalize="unit"), image_size=64)


def head_of(name: str) -> nn.Module:
    return {
        "csra": lambda: heads.ClassSpecificResidualAttention(C, N, num_heads=4),
        "ml_gcn": lambda: heads.MLGCN(C, N, LABELS, COUNTS, hidden=5),
        "ssgrl": lambda: heads.SSGRL(C, N, LABELS, COUNTS, hidden=5, output_dim=7, published=True),
        "add_gcn": lambda: heads.ADDGCN(C, N, dim=6),
        "c_tran": lambda: heads.CTran(C, N, num_layers=2, ffn_dim=8, published=True),
        "query2label": lambda: heads.Query2Label(C, N, C, ffn_dim=8, self_attention="first"),
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
        found = numbered() | {"mask_mat": torch.eye(N)}
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
    found |= {"backbone.1.pe": torch.zeros(1, C, 2, 2), "query_embed.weight": own["queries.weight"]}
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


def given(name: str) -> dict:
    if name not in ("ml_gcn", "ssgrl"):
        return {}
    return {"label_embeddings": LABELS} | ({"cooccurrence": COUNTS} if name == "ssgrl" else {})


METHODS = ("csra", "ml_gcn", "ssgrl", "add_gcn", "c_tran", "query2label")


@pytest.fixture(params=METHODS)
def published(request) -> tuple[str, Classifier, dict[str, Tensor]]:
    torch.manual_seed(0)
    classifier = stir(Classifier(backbone(), head_of(request.param)))
    return request.param, classifier, file_of(request.param, classifier)


def test_the_network_of_a_file_gives_the_same_logits(published):
    name, classifier, tensors = published
    loaded = load_published({"state_dict": tensors}, N, image_size=64, **given(name))
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), classifier(images), rtol=1e-5, atol=1e-5)
    assert type(loaded.head) is type(classifier.head)
    mean = loaded.backbone.normalization[0]
    assert (mean == (0.0, 0.0, 0.0)) == (name == "csra")  # the others subtract ImageNet's


def test_a_missing_or_unexpected_tensor_is_named(published):
    name, _, tensors = published
    prefix = "module." if all(key.startswith("module.") for key in tensors) else ""
    for key in list(tensors)[:: max(1, len(tensors) // 5)]:
        if any(part in key for part in ("mask_mat", ".pe", "base_network.fc", "num_batches_tracked")):
            continue
        fewer = {other: value for other, value in tensors.items() if other != key}
        with pytest.raises(CheckpointError):
            load_published(fewer, image_size=64, **given(name))
    with pytest.raises(CheckpointError, match="something_else"):
        load_published(tensors | {f"{prefix}something_else.weight": torch.zeros(3)}, image_size=64, **given(name))


def test_what_no_file_holds_must_be_given():
    torch.manual_seed(0)
    for name, missing in (("ml_gcn", "label_embeddings="), ("ssgrl", "cooccurrence=")):
        tensors = file_of(name, stir(Classifier(backbone(), head_of(name))))
        known = {} if name == "ml_gcn" else {"label_embeddings": LABELS}
        with pytest.raises(CheckpointError, match=missing):
            load_published(tensors, image_size=64, **known)
    wide = LabelEmbeddings(LABELS.names, torch.ones(N, 9), "wide")
    with pytest.raises(CheckpointError, match="width 6, those of wide have width 9"):
        load_published(tensors, image_size=64, label_embeddings=wide, cooccurrence=COUNTS)


def test_a_vision_transformer_with_csra_reads_its_patches_only():
    torch.manual_seed(0)
    component = BACKBONES["timm"]
    config = component.config_class(name="timm", model="vit_base_patch16_224", normalize="unit")
    with torch.device("meta"):
        body = component.build(config, image_size=224)
    empty = {key: torch.zeros(value.shape) for key, value in body.model.state_dict().items()}
    weight = torch.randn(N, 768)
    file = empty | {"norm.bias": torch.randn(768), "classifier.multi_head.0.head.weight": weight[..., None, None]}
    found = read_published(file)
    assert (found.backbone["model"], found.num_classes) == ("vit_base_patch16_224", N)
    loaded = load_published(file, N, image_size=224)
    with torch.no_grad():
        logits = loaded(torch.rand(1, 3, 224, 224))
    scores = weight @ file["norm.bias"] / weight.norm(dim=1)  # every token is the bias of the last norm
    torch.testing.assert_close(logits[0], 1.1 * scores, rtol=1e-4, atol=1e-4)
