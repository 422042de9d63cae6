"""Checkpoints in the layouts of other methods, made here with the names and shapes of the published code."""

import pytest
import torch
from torch import Tensor

from mldec.errors import CheckpointError
from mldec.models.classifier import Classifier
from mldec.models.heads.csra import ClassSpecificResidualAttention
from mldec.models.heads.label_graph import label_probabilities
from mldec.models.label_embeddings import LabelEmbeddings
from mldec.models.published import load_published, read_published
from mldec.registry import BACKBONES
from tests.method_files import COUNTS, LABELS, METHODS, backbone, file_of, head_of
from tests.published_files import stir

N = len(LABELS.names)


def given(name: str) -> dict:
    if name not in ("ml_gcn", "ssgrl"):
        return {}
    return {"label_embeddings": LABELS} | ({"cooccurrence": COUNTS} if name == "ssgrl" else {})


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


def test_positions_show_the_size_of_the_images_and_must_be_those_that_are_computed():
    tensors = file_of("query2label", stir(Classifier(backbone(), head_of("query2label"))))
    name = "module.backbone.1.pe"
    assert tensors[name].shape == (1, 512, 3, 3)
    assert read_published(tensors).image_size == 96
    assert read_published({key: value for key, value in tensors.items() if key != name}).image_size is None
    for wrong, message in (
        (torch.zeros(1, 512, 3, 3), "are not the sines and cosines"),
        (tensors[name][0], r"\(512, 3, 3\); expected \(1, width, side, side\)"),
        (tensors[name][..., :2], "expected"),
        (torch.zeros(1, 4, 1, 1).expand(1, 4, 10_000, 10_000), "a side of at most 128"),
    ):
        with pytest.raises(CheckpointError, match=message):
            read_published(tensors | {name: wrong})


def test_the_weight_of_attention_follows_from_the_number_of_heads():
    """As in the published files: 0.1 for VOC, 0.5 for MS-COCO, 0.4 for its CutMix backbone."""
    torch.manual_seed(0)
    for count, residual in ((1, 0.1), (2, 0.1), (4, 0.5), (6, 0.4)):
        head = ClassSpecificResidualAttention(512, N, num_heads=count)
        published = read_published(file_of("csra", Classifier(backbone(), head)))
        assert published.head["residual"] == residual


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
    assert found.image_size == 224  # 14 x 14 patches of 16 px
    loaded = load_published(file, N)
    with torch.no_grad():
        logits = loaded(torch.rand(1, 3, 224, 224))
    scores = weight @ file["norm.bias"] / weight.norm(dim=1)  # every token is the bias of the last norm
    torch.testing.assert_close(logits[0], 1.1 * scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("csra", {"module.head.weight.foo": (4, 512)}, "5 heads of attention .* 1 to 8, numbered from 0"),
        ("csra", {"module.classifier.multi_head.00.head.weight": (4, 512)}, "numbered from 0"),
        ("csra", {f"module.classifier.multi_head.{n}.head.weight": (4, 512, 1, 1) for n in range(3000)}, "3,000 heads"),
        ("csra", {f"module.classifier.multi_head.{n}.head.weight": () for n in range(4)}, "too few dimensions"),
        ("ml_gcn", {"A": (10**9, 0)}, r"A has shape \(1000000000, 0\), which holds no values"),
        ("ml_gcn", {"A": (10**6, 1)}, "1000000 classes, but label_embeddings are of 4 labels"),
        ("ml_gcn", {"gc1.weight": (10**9, 0)}, "holds no values"),
        ("ssgrl", {"classifiers.weight": (1, 7)}, r"\(4, 4\), but there are 1 classes"),
        ("ssgrl", {"word_semantic.fc_1.weight": ()}, "too few dimensions"),
        ("add_gcn", {"mask_mat": (4, 4)}, "is not the identity"),
        ("c_tran", {"label_lt.weight": (10**9, 0)}, "holds no values"),
        ("c_tran", {"label_lt.weight": (10**6, 1)}, "more than [0-9,]+ parameters"),
        ("c_tran", {"self_attn_layers.0.transformer_layer.linear1.weight": ()}, "too few dimensions"),
        ("c_tran", {"head.labels.weight": (4, 512)}, "head.labels.weight are the same part|label_lt.weight and head"),
        ("query2label", {"module.query_embed.weight": (4, 10)}, "dim=10: not a multiple of num_heads=4"),
        ("query2label", {"module.fc.W": ()}, "of another shape"),
    ],
)
def test_hostile_shapes_and_names_are_refused_at_once(name, change, message):
    torch.manual_seed(0)
    tensors = file_of(name, Classifier(backbone(), head_of(name)))
    tensors |= {key: torch.zeros(shape) for key, shape in change.items()}
    with pytest.raises(CheckpointError, match=message) as found:
        load_published(tensors, image_size=64, **given(name))
    assert len(str(found.value)) < 2_000


def test_every_class_needs_a_label_embedding_and_weights_are_real():
    torch.manual_seed(0)
    tensors = file_of("ml_gcn", Classifier(backbone(), head_of("ml_gcn")))
    few = LabelEmbeddings(("a", "b"), LABELS.vectors[:2], "few")
    with pytest.raises(CheckpointError, match="4 classes, but label_embeddings are of 2 labels"):
        load_published(tensors, image_size=64, label_embeddings=few)
    with pytest.raises(CheckpointError, match=r"complex numbers.*gc1\.weight|complex numbers.*weight1"):
        load_published(
            tensors | {"gc1.weight": tensors["gc1.weight"].to(torch.complex64)}, image_size=64, label_embeddings=LABELS
        )


def test_a_number_of_labels_from_a_file_takes_no_memory_before_it_is_checked():
    with torch.device("meta"):
        assert label_probabilities(None, 10**6).is_meta  # 4 TB
