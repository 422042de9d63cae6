"""ML-Decoder against the published head's numbers, and the properties that its mathematics promises."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mldec.config import build_config
from mldec.errors import ConfigError
from mldec.labels import LabelSpace
from mldec.models.classifier import Tokens
from mldec.models.complexity import count_parameters
from mldec.models.heads import MLDecoder, ZeroShotMLDecoder
from mldec.models.heads.ml_decoder_config import MLDecoderConfig
from mldec.models.label_embeddings import LabelEmbeddings, LabelEmbeddingsConfig
from mldec.models.label_vocabulary import QueryAugment
from mldec.registry import HEADS

SMALL = {"dim": 16, "num_heads": 8, "ffn_dim": 32}


def embeddings(vectors):
    """Vectors (V, width) under the names "0", "1", …"""
    return LabelEmbeddings(tuple(map(str, range(len(vectors)))), vectors, "a test")


def published_names(head):
    """Our name -> the published name of each entry of the head's state dict."""
    fixed = {
        "input_projection.weight": "decoder.embed_standart.weight",
        "input_projection.bias": "decoder.embed_standart.bias",
        "queries.weight": "decoder.query_embed.weight",
        "queries.projection.weight": "wordvec_proj.weight",
        "queries.projection.bias": "wordvec_proj.bias",
        "fc.weight": "decoder.duplicate_pooling",
        "fc.bias": "decoder.duplicate_pooling_bias",
    }
    return {name: fixed.get(name, f"decoder.{name}") for name in head.state_dict()}


def fill(head):
    """The rule by which the golden numbers were made (paper §1.8)."""
    published = {theirs: head.state_dict()[ours] for ours, theirs in published_names(head).items()}
    for n, name in enumerate(sorted(published)):
        tensor = published[name]
        values = 0.05 * torch.sin(0.37 * torch.arange(tensor.numel(), dtype=torch.float64) + n)
        values += 1.0 if "norm" in name and name.endswith("weight") else 0.0
        tensor.copy_(values.view_as(tensor))
    return head.eval()


def golden_tokens():
    maps = torch.cos(0.11 * torch.arange(96, dtype=torch.float64)).view(2, 8, 2, 3)
    return Tokens(maps.flatten(2).transpose(1, 2), (2, 3))


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


GOLDEN = {
    "groups": [
        [-0.0121192296, 0.0040685977, 0.0197057594, -0.0163527637, -0.0404054945, -0.0589895312, -0.0043071274],
        [-0.0119461437, 0.0041883743, 0.0197560154, -0.0162448707, -0.0403160616, -0.0589306627, -0.0041663333],
    ],
    "full": [
        [0.3764356663, 0.400352844, 0.3821200892, 0.3478956286, 0.3194778279],
        [0.3771224818, 0.4019762254, 0.3845358915, 0.3502668971, 0.3213430117],
    ],
    "zero_shot": [
        [0.0932257842, 0.1000422164, 0.1216802407, 0.1440141684],
        [0.0953571623, 0.1021984172, 0.1238797192, 0.1462289402],
    ],
}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("case", GOLDEN)
def test_equals_the_published_head(case):
    if case == "groups":
        head = MLDecoder(8, 7, 3, dim=16)
    elif case == "full":
        head = MLDecoder(8, 5, dim=16)
    else:
        vectors = torch.sin(0.23 * torch.arange(1200.0)).view(4, 300)
        head = ZeroShotMLDecoder(8, 4, dim=16, label_embeddings=embeddings(vectors))
    with torch.no_grad():
        fill(head)
    logits = head(golden_tokens())
    torch.testing.assert_close(logits, torch.tensor(GOLDEN[case]), rtol=0, atol=1e-8)


def test_equals_torch_attention_and_the_published_loop_over_queries():
    """An independent reading of paper §1.2 with torch's own attention, one query's product after the other."""
    torch.manual_seed(0)
    head = MLDecoder(12, 11, 4, **SMALL).eval()
    layer = head.layers[0]
    attention = nn.MultiheadAttention(16, 8, batch_first=True).eval()
    attention.load_state_dict(layer.multihead_attn.state_dict())
    tokens = torch.randn(3, 9, 12)

    memory = F.relu(head.input_projection(tokens))
    queries = layer.norm1(2 * head.queries.weight).expand(3, -1, -1)
    queries = layer.norm2(queries + attention(queries, memory, memory, need_weights=False)[0])
    embeddings = layer.norm3(queries + layer.linear2(F.relu(layer.linear1(queries))))
    expected = torch.cat([embeddings[:, k] @ head.fc.weight[k] for k in range(4)], dim=1)[:, :11] + head.fc.bias
    torch.testing.assert_close(head(tokens), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("num_classes", "num_groups", "group_size"), [(80, None, 1), (80, 20, 4), (9605, 100, 97), (1000, 100, 10)]
)
def test_shapes_of_the_published_state_dict(num_classes, num_groups, group_size):
    with torch.device("meta"):
        head = MLDecoder(2048, num_classes, num_groups)
    k = num_groups or num_classes
    shapes = {theirs: tuple(head.state_dict()[ours].shape) for ours, theirs in published_names(head).items()}
    layer = "decoder.layers.0."
    assert shapes == {
        "decoder.duplicate_pooling": (k, 768, group_size),
        "decoder.duplicate_pooling_bias": (num_classes,),
        "decoder.embed_standart.weight": (768, 2048),
        "decoder.embed_standart.bias": (768,),
        "decoder.query_embed.weight": (k, 768),
        layer + "multihead_attn.in_proj_weight": (2304, 768),
        layer + "multihead_attn.in_proj_bias": (2304,),
        layer + "multihead_attn.out_proj.weight": (768, 768),
        layer + "multihead_attn.out_proj.bias": (768,),
        layer + "linear1.weight": (2048, 768),
        layer + "linear1.bias": (2048,),
        layer + "linear2.weight": (768, 2048),
        layer + "linear2.bias": (768,),
        **{f"{layer}norm{n}.{kind}": (768,) for n in (1, 2, 3) for kind in ("weight", "bias")},
    }
    if num_classes == 80 and num_groups is None:
        assert count_parameters(head) == (7_212_112, 7_212_112 - 80 * 768)


@pytest.mark.parametrize(
    ("num_classes", "num_groups", "std"), [(80, 80, 0.0486), (80, 20, 0.0252), (1000, 100, 0.0152)]
)
def test_group_weights_start_with_xavier_of_three_dimensions(num_classes, num_groups, std):
    torch.manual_seed(0)
    weight = MLDecoder(8, num_classes, num_groups).fc.weight
    group_size = math.ceil(num_classes / num_groups)
    assert std == pytest.approx(math.sqrt(2 / ((768 + num_groups) * group_size)), rel=5e-3)
    assert weight.std().item() == pytest.approx(std, rel=0.02)


def test_fixed_queries_are_standard_normal_saved_and_not_trained():
    torch.manual_seed(0)
    head = MLDecoder(8, 400)
    assert "queries.weight" in head.state_dict()
    assert not head.queries.weight.requires_grad
    assert head.queries.weight.mean().item() == pytest.approx(0, abs=0.01)
    assert head.queries.weight.std().item() == pytest.approx(1, abs=0.01)


def test_random_grouping_is_contiguous_grouping_of_permuted_labels():
    torch.manual_seed(0)
    random = MLDecoder(8, 11, 3, **SMALL, grouping="random", grouping_seed=5).eval()
    contiguous = MLDecoder(8, 11, 3, **SMALL).eval()
    state = random.state_dict()
    places = state.pop("fc.places")
    contiguous.load_state_dict(state)
    contiguous.fc.bias.data.zero_()
    tokens = torch.randn(2, 6, 8)
    torch.testing.assert_close(random(tokens), contiguous(tokens)[:, places])
    assert sorted(places.tolist()) == list(range(11))
    assert places.tolist() != list(range(11))
    again = MLDecoder(8, 11, 3, **SMALL, grouping="random", grouping_seed=5)
    other = MLDecoder(8, 11, 3, **SMALL, grouping="random", grouping_seed=6)
    assert torch.equal(again.fc.places, places)
    assert not torch.equal(other.fc.places, places)


def test_each_bias_moves_its_own_class_also_in_random_groups():
    head = MLDecoder(8, 7, 3, **SMALL, grouping="random").eval()
    tokens = torch.randn(1, 4, 8)
    before = head(tokens)
    head.fc.bias.data[4] += 1
    torch.testing.assert_close(head(tokens) - before, F.one_hot(torch.tensor([4]), 7).float())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("queries", ["fixed", "learnable", "label_embeddings"])
def test_every_trainable_parameter_gets_a_gradient_and_padding_gets_none(queries, training):
    torch.manual_seed(0)
    vectors = embeddings(torch.randn(10, 5))
    settings = {**SMALL, "queries": queries, "num_layers": 2}
    head = (
        ZeroShotMLDecoder(8, 10, 4, **settings, fc="group", label_embeddings=vectors)
        if queries == "label_embeddings"
        else MLDecoder(8, 10, 4, **settings)
    ).train(training)
    # A sum over classes would leave the biases of a layer norm's input without gradient; random weights do not.
    (head(torch.randn(3, 6, 8)) * torch.randn(3, 10)).sum().backward()
    for name, parameter in head.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name
        else:
            assert parameter.grad is None
            assert name == "queries.weight"
    # 4 groups of 3 for 10 classes: the last two places are no class.
    assert head.fc.weight.grad[3, :, 1:].abs().sum() == 0
    assert head.fc.weight.grad[3, :, 0].abs().sum() > 0


def test_an_image_does_not_depend_on_its_neighbours_in_evaluation():
    torch.manual_seed(0)
    head = MLDecoder(8, 10, 4, **SMALL).double().eval()
    tokens = torch.randn(5, 6, 8, dtype=torch.float64)
    together = head(tokens)
    torch.testing.assert_close(together, torch.cat([head(row[None]) for row in tokens]), rtol=0, atol=1e-12)
    torch.testing.assert_close(together, head(tokens[:, torch.randperm(6)]), rtol=0, atol=1e-12)  # no position either
    tokens[1:] += 1
    torch.testing.assert_close(head(tokens)[0], together[0], rtol=0, atol=1e-12)


def test_queries_are_projected_once_for_the_whole_batch_in_evaluation(monkeypatch):
    head = MLDecoder(8, 10, 4, **SMALL).eval()
    seen = []
    head.layers[0].norm1.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[0]))
    head(torch.randn(5, 6, 8))
    head.train()(torch.randn(5, 6, 8))
    assert seen == [1, 5]


def test_dropout_in_training_differs_from_image_to_image():
    torch.manual_seed(0)
    head = MLDecoder(8, 10, 4, **SMALL, dropout=0.5).train()
    same = torch.randn(1, 6, 8).expand(4, -1, -1)
    assert (head(same).std(dim=0) > 0).all()
    without = MLDecoder(8, 10, 4, **SMALL, dropout=0.0).train()
    torch.testing.assert_close(without(same), without.eval()(same))


def test_attention_weights_are_those_that_the_logits_come_from():
    torch.manual_seed(0)
    head = MLDecoder(8, 10, 4, **SMALL, num_layers=2).eval()
    tokens = torch.randn(3, 6, 8)
    weights = head.attention_weights(tokens)
    assert weights.shape == (3, 8, 4, 6)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 8, 4))
    attention = head.layers[1].multihead_attn
    reference = nn.MultiheadAttention(16, 8, batch_first=True).eval()
    reference.load_state_dict(attention.state_dict())
    memory = F.relu(head.input_projection(tokens))
    queries = head.layers[1].norm1(2 * head.layers[0](head.queries()[None], memory))
    torch.testing.assert_close(weights, reference(queries, memory, memory, average_attn_weights=False)[1])


def test_tokens_and_plain_tensors_are_the_same():
    head = MLDecoder(8, 3, **SMALL).eval()
    values = torch.randn(2, 6, 8)
    assert torch.equal(head(Tokens(values, (2, 3))), head(values))
    with pytest.raises(ValueError, match=r"\(B, T, C\)"):
        head(values.view(2, 2, 3, 8))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_without_graph_breaks(backend):
    torch._dynamo.reset()
    head = MLDecoder(8, 10, 4, **SMALL, grouping="random").eval()
    tokens = Tokens(torch.randn(3, 6, 8), (2, 3))
    compiled = torch.compile(head, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(tokens), head(tokens))


def test_compiles_in_training():
    torch._dynamo.reset()
    head = MLDecoder(8, 10, 4, **SMALL).train()
    logits = torch.compile(head, fullgraph=True, backend="aot_eager")(torch.randn(3, 6, 8))
    logits.sum().backward()
    assert head.fc.weight.grad is not None


def test_exports_with_any_batch_size():
    head = MLDecoder(8, 10, 4, **SMALL).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(head, (torch.randn(3, 6, 8),), dynamic_shapes=({0: batch},))
    tokens = torch.randn(7, 6, 8)
    torch.testing.assert_close(program.module()(tokens), head(tokens))


def test_exports_to_onnx(tmp_path):
    pytest.importorskip("onnxscript")
    head = MLDecoder(8, 10, 4, **SMALL).eval()
    torch.onnx.export(head, (torch.randn(3, 6, 8),), str(tmp_path / "head.onnx"), dynamo=True)
    assert (tmp_path / "head.onnx").stat().st_size > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_groups": 11}, r"num_groups=11 is not within 1\.\.10"),
        ({"num_groups": 0}, "num_groups=0"),
        ({"dim": 20}, "dim=20 .* num_heads=8"),
        ({"grouping": "sorted"}, "contiguous or random"),
        ({"queries": "noise"}, "fixed or learnable"),
        ({"queries": "label_embeddings"}, "fixed or learnable"),
    ],
)
def test_says_what_does_not_fit(settings, message):
    with pytest.raises(ValueError, match=message):
        MLDecoder(8, 10, **{**SMALL, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_groups": 11}, r"num_groups=11 is not within 1\.\.10"),
        ({"grouping": "sorted"}, "contiguous or random"),
        ({"queries": "noise"}, "fixed, learnable or label_embeddings"),
        ({"fc": "own"}, "group, shared or label_embeddings"),
        ({"label_embeddings": embeddings(torch.ones(9, 3))}, "9 labels for 10 classes"),
        ({"normalize": "max"}, "none, unit or centered"),
        ({"queries": "fixed", "fc": "group"}, "without effect for queries=fixed"),
        ({"queries": "fixed"}, "one output for all groups"),
    ],
)
def test_says_what_does_not_fit_a_zero_shot_head(settings, message):
    with pytest.raises(ValueError, match=message):
        ZeroShotMLDecoder(8, 10, **{**SMALL, "label_embeddings": embeddings(torch.ones(10, 3)), **settings})


@pytest.mark.parametrize("queries", ["fixed", "learnable", "label_embeddings"])
@pytest.mark.parametrize("fc", ["group", "shared", "label_embeddings"])
def test_the_settings_choose_the_class(queries, fc):
    """The plain head has no branch for label embeddings; every combination that uses them is zero-shot."""
    if fc == "shared" and queries != "label_embeddings":
        return
    uses = "label_embeddings" in (queries, fc)
    source = {"label_embeddings": LabelEmbeddingsConfig(source="random:5")} if uses else {}
    config = MLDecoderConfig(name="ml_decoder", dim=16, num_heads=4, queries=queries, fc=fc, **source)
    vectors = LabelEmbeddings(LABELS.names, torch.randn(6, 5), "a test") if uses else None
    head = HEADS["ml_decoder"].build(config, in_features=8, labels=LABELS, label_embeddings=vectors)
    assert type(head) is (ZeroShotMLDecoder if uses else MLDecoder)


LABELS = LabelSpace([f"class {n}" for n in range(6)])


def build(**settings):
    return HEADS["ml_decoder"].build(MLDecoderConfig(name="ml_decoder", **settings), in_features=8, labels=LABELS)


def test_builds_from_settings(tmp_path):
    head = build(num_groups=2, dim=16, num_heads=4, ffn_dim=24, num_layers=2, queries="learnable", grouping="random")
    assert head.fc.weight.shape == (2, 16, 3)
    assert head.layers[1].linear1.weight.shape == (24, 16)
    assert head.layers[0].multihead_attn.num_heads == 4
    assert head.queries.weight.requires_grad
    assert head.fc.places is not None


def test_settings_that_do_not_fit_the_labels():
    with pytest.raises(ConfigError, match=r"head.num_groups=7 exceeds the 6 classes; use 1\.\.6 or null"):
        build(num_groups=7)


def test_builds_with_label_embeddings_from_settings():
    settings = {"dim": 16, "num_heads": 4, "num_groups": 2, "queries": "label_embeddings", "fc": "label_embeddings"}
    config = MLDecoderConfig(
        name="ml_decoder",
        **settings,
        label_embeddings=LabelEmbeddingsConfig(source="random:5"),
        query_noise=0.5,
        random_queries=3,
    )
    vectors = LabelEmbeddings((*LABELS.names, "another"), torch.randn(7, 5), "a test")
    head = HEADS["ml_decoder"].build(config, in_features=8, labels=LABELS, label_embeddings=vectors)
    assert head.vocabulary.normalize == "centered"
    assert head.vocabulary.augment == QueryAugment(noise=0.5, random=3)
    assert head.vocabulary.names == LABELS.names
    assert head.vocabulary.known is vectors
    assert head.queries.projection.weight.shape == (6, 5)  # 16 dimensions for 3 labels a group: 6 each, 2 cut off
    assert head.fc.weight.shape == (16, 5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dim": 100}, "head.dim=100: not a multiple of num_heads=8"),
        (
            {"queries": "label_embeddings"},
            "head.label_embeddings: queries=label_embeddings needs the label embeddings of the classes",
        ),
        (
            {"fc": "label_embeddings"},
            "head.label_embeddings: fc=label_embeddings needs the label embeddings of the classes",
        ),
        (
            {"label_embeddings": {"source": "x.txt"}},
            "head.label_embeddings: without effect for queries=fixed and fc=group",
        ),
        (
            {"queries": "label_embeddings", "label_embeddings": {"source": " "}},
            "head.label_embeddings.source: missing; label embeddings come from one of",
        ),
        (
            {"queries": "label_embeddings", "label_embeddings": {"source": "x", "templates": ["a"]}},
            "head.label_embeddings.templates=['a']",
        ),
        ({"queries": "label_embeddings", "label_embeddings": {"file": "x"}}, "head.label_embeddings.source: missing"),
        ({"queries": "label_embeddings", "label_embeddings": 3}, "head.label_embeddings=3: expected settings"),
        ({"query_noise": 0.1}, "query_noise, random_queries, query_cutout: without effect"),
        ({"fc": "shared"}, "head.fc=shared: one output for all groups"),
        ({"num_groups": 0}, "head.num_groups=0: expected an integer ≥ 1, or null"),
        ({"groups": 3}, "did you mean num_groups"),
    ],
)
def test_settings_are_checked_before_anything_is_read(settings, message):
    with pytest.raises(ConfigError) as caught:
        build_config({"name": "x", "head": {"name": "ml_decoder", **settings}})
    assert message in str(caught.value)
