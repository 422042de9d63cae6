"""A published file gives the network that it was saved from, whatever its layout, or is refused with its names."""

import argparse
import copy

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.tresnet import TResNet

from mldec.errors import CheckpointError, ConfigError, DataError
from mldec.models import published as room
from mldec.models.classifier import Classifier
from mldec.models.heads import GlobalAveragePool, MLDecoder, ZeroShotMLDecoder
from mldec.models.label_embeddings import LabelEmbeddings
from mldec.models.published import load_published, read_published
from mldec.models.published_layouts import find_head, head_settings
from mldec.models.tresnet import VARIANTS
from tests.published_files import authors_body, authors_file, authors_head, stir, timm_file

SMALL = {"dim": 16, "ffn_dim": 24}
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def head_of(kind, features, num_classes=5):
    if kind == "pooling":
        return GlobalAveragePool(features, num_classes)
    if kind == "zero_shot":
        vectors = LabelEmbeddings(tuple("abcde"), torch.randn(5, 12), "some embeddings")
        return ZeroShotMLDecoder(
            features, 5, queries="label_embeddings", fc="shared", label_embeddings=vectors, **SMALL
        )
    # Full decoding; groups; groups of which the last places and queries are unused (paper §1.3).
    outputs, groups = {"full": (num_classes, None), "groups": (num_classes, 3), "unused": (10, 7)}[kind]
    return MLDecoder(features, outputs, groups, **SMALL)


def classifier_of(built, name, kind):
    backbone = copy.deepcopy(built(name))
    return stir(Classifier(backbone, head_of(kind, backbone.num_features)))


@pytest.fixture(scope="module")
def small(built):
    return classifier_of(built, "resnet18", "full")


def logits(classifier):
    with torch.no_grad():
        return classifier(IMAGES)


def read_back(found, original):
    """The published weights in a network of the same kind that had others."""
    fresh = copy.deepcopy(original)
    for value in fresh.state_dict().values():
        value.zero_()
    found.load_into(fresh)
    return fresh.eval()


# The network comes back -----------------------------------------------------------------------------------------------


SOME = [("tresnet_s", authors_file), ("tresnet_s", timm_file), ("resnet18", timm_file)]
OTHERS = [(f"tresnet_{size}", write) for size in ("m", "l", "xl") for write in (authors_file, timm_file)]
OTHERS += [(f"resnet{depth}", authors_file) for depth in (34, 50, 101, 152)]


@pytest.mark.parametrize(
    ("name", "write"), [*SOME, *(pytest.param(*other, marks=pytest.mark.slow) for other in OTHERS)]
)
def test_every_backbone_comes_back(built, name, write):
    original = classifier_of(built, name, "groups")
    prefix = "fc." if name.startswith("resnet") else "head."
    state = write(original, head=prefix)
    if write is authors_file and name.startswith("tresnet"):
        scales = torch.cat([value for key, value in state.items() if key.endswith(".1.weight") and value.ndim == 1])
        assert (scales < 0).float().mean() > 0.4
    found = read_published(state)
    assert found.backbone["name"] == name
    assert found.layout.kind == ("authors" if write is authors_file else "timm")
    torch.testing.assert_close(logits(read_back(found, original)), logits(original), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "write"),
    [(kind, authors_file) for kind in ("pooling", "full", "groups", "unused", "zero_shot")]
    + [(kind, timm_file) for kind in ("pooling", "full", "groups", "unused")],
)
def test_every_head_in_every_layout(built, kind, write):
    original = classifier_of(built, "resnet18", kind)
    own = "" if kind == "pooling" else "fc."
    found = read_published(write(original, head=own))
    assert found.num_classes == {"unused": 10, "zero_shot": None}.get(kind, 5)
    assert found.embedding_width == (12 if kind == "zero_shot" else None)
    if kind not in ("pooling", "zero_shot"):
        assert (found.head["num_groups"], found.head["dim"], found.head["ffn_dim"]) == (
            {"full": None, "groups": 3, "unused": 7}[kind],
            16,
            24,
        )
    torch.testing.assert_close(logits(read_back(found, original)), logits(original), rtol=0, atol=1e-5)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module.", "model."])
@pytest.mark.parametrize("kind", ["pooling", "full"])
def test_what_wrappers_put_before_every_name_is_cut_off(small, built, prefix, kind):
    original = small if kind == "full" else classifier_of(built, "resnet18", kind)
    state = authors_file(original, head="fc." if kind == "full" else "")
    found = read_published({prefix + name: value for name, value in state.items()})
    assert found.tensors.keys() == state.keys()
    torch.testing.assert_close(logits(read_back(found, original)), logits(original), rtol=0, atol=1e-5)


def test_a_file_is_a_classifier_in_one_call(built, tmp_path):
    original = classifier_of(built, "tresnet_s", "full")
    state = authors_file(original)
    names = {number: f"label {number}" for number in (3, 0, 1, 2, 4)}
    torch.save({"model": state, "idx_to_class": names, "num_classes": 5}, tmp_path / "tresnet_s.pth")
    loaded = load_published(tmp_path / "tresnet_s.pth", 5, backbone="tresnet_s", image_size=64)
    assert not loaded.training
    assert loaded.backbone.normalization == ((0, 0, 0), (1, 1, 1))
    torch.testing.assert_close(logits(loaded), logits(original), rtol=0, atol=1e-5)
    found = read_published(tmp_path / "tresnet_s.pth")
    assert found.entry == "model"
    assert found.labels() == tuple(f"label {number}" for number in range(5))


def test_where_the_state_dict_may_stand(small, tmp_path):
    state = authors_file(small, head="fc.")
    for entry, content in (("", state), ("model", {"model": state}), ("state_dict", {"state_dict": state, "epoch": 7})):
        torch.save(content, tmp_path / "file.pth")
        found = read_published(tmp_path / "file.pth")
        assert (found.entry, found.others, found.labels()) == (entry, (), None)
        assert found.tensors.keys() == state.keys()
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "file.safetensors")
    assert read_published(tmp_path / "file.safetensors").tensors.keys() == state.keys()


def test_the_scales_of_inplace_abn_have_no_sign(built):
    """y = (x - m) / sqrt(v + eps) * (|w| + eps) + b: a scale of 0 is one of 1e-5 (paper §1.6)."""
    original = classifier_of(built, "tresnet_s", "pooling")
    state = authors_file(original)
    state["body.conv1.1.weight"] = torch.linspace(-2, 2, 64)
    state["body.layer2.0.conv1.0.1.weight"] = torch.zeros(128)
    model = read_back(read_published(state), original).backbone.model
    torch.testing.assert_close(model.body.conv1.bn.weight.data, torch.linspace(-2, 2, 64).abs() + 1e-5)
    assert model.body.layer2[0].conv1.bn.weight.tolist() == pytest.approx([1e-5] * 128)
    timms = timm_file(original)  # whose batch norms have a sign
    timms["body.conv1.bn.weight"] = torch.linspace(-2, 2, 64)
    model = read_back(read_published(timms), original).backbone.model
    assert torch.equal(model.body.conv1.bn.weight.data, torch.linspace(-2, 2, 64))


def test_the_names_of_the_published_tresnet_l():
    """763 entries, 51,337,936 parameters, 744 entries and 44,125,824 parameters of them in the body (paper §1.5)."""
    expected = {"conv1.0.weight": (64, 48, 3, 3)} | norm("conv1.1", 64)
    for stage, (planes, blocks, reduced) in enumerate(((64, 3, 64), (128, 4, 64), (256, 23, 128), (512, 3, 0)), 1):
        for block in range(blocks):
            own = f"layer{stage}.{block}"
            inputs = (64 if stage == 1 else planes * 2) if block == 0 else planes * 4
            deeper = ".0" if block == 0 and stage > 1 else ""
            expected |= {
                f"{own}.conv1.0.weight": (planes, inputs, 1, 1),
                f"{own}.conv2{deeper}.0.weight": (planes, planes, 3, 3),
                f"{own}.conv3.0.weight": (planes * 4, planes, 1, 1),
            }
            for name, width in (("conv1", planes), (f"conv2{deeper}", planes), ("conv3", planes * 4)):
                expected |= norm(f"{own}.{name}.1", width)
            if reduced:
                expected |= {f"{own}.se.fc1.weight": (reduced, planes, 1, 1), f"{own}.se.fc1.bias": (reduced,)}
                expected |= {f"{own}.se.fc2.weight": (planes, reduced, 1, 1), f"{own}.se.fc2.bias": (planes,)}
            if block == 0:
                at = f"{own}.downsample.{0 if stage == 1 else 1}"
                expected |= {f"{at}.0.weight": (planes * 4, inputs, 1, 1)} | norm(f"{at}.1", planes * 4)
    assert len(expected) == 744
    expected = {f"body.{name}": shape for name, shape in expected.items()}
    layer = "head.decoder.layers.0"
    head = {
        "head.decoder.duplicate_pooling": (80, 768, 1),
        "head.decoder.duplicate_pooling_bias": (80,),
        f"{layer}.multihead_attn.in_proj_weight": (2304, 768),
        f"{layer}.multihead_attn.in_proj_bias": (2304,),
        f"{layer}.multihead_attn.out_proj.weight": (768, 768),
        f"{layer}.multihead_attn.out_proj.bias": (768,),
        f"{layer}.linear1.weight": (2048, 768),
        f"{layer}.linear1.bias": (2048,),
        f"{layer}.linear2.weight": (768, 2048),
        f"{layer}.linear2.bias": (768,),
        "head.decoder.embed_standart.weight": (768, 2048),
        "head.decoder.embed_standart.bias": (768,),
        "head.decoder.query_embed.weight": (80, 768),
    }
    head |= {f"{layer}.norm{n}.{entry}": (768,) for n in (1, 2, 3) for entry in ("weight", "bias")}

    with torch.device("meta"):
        layers, v2 = VARIANTS["tresnet_l"]
        backbone, decoder = TResNet(list(layers), num_classes=0, v2=v2), MLDecoder(2048, 80)
    state = authors_body(backbone)
    state |= {f"head.{name}": value for name, value in authors_head(decoder.state_dict()).items()}
    assert {name: tuple(value.shape) for name, value in state.items()} == expected | head
    assert len(state) == 763
    parameters = [sum(parameter.numel() for parameter in part.parameters()) for part in (backbone, decoder)]
    assert parameters == [44_125_824, 51_337_936 - 44_125_824]
    found = read_published({name: torch.empty(shape, device="meta") for name, shape in (expected | head).items()})
    assert found.backbone["name"] == "tresnet_l"
    assert found.num_classes == 80
    assert {**found.head, "num_groups": 80} == {
        "name": "ml_decoder",
        "num_groups": 80,
        "dim": 768,
        "num_heads": 8,
        "ffn_dim": 2048,
        "num_layers": 1,
        "queries": "fixed",
        "grouping": "contiguous",
        "fc": "group",
        "label_embeddings": None,
    }


def norm(name, width):
    entries = {f"{name}.{entry}": (width,) for entry in ("weight", "bias", "running_mean", "running_var")}
    return entries | {f"{name}.num_batches_tracked": ()}


GOLDEN = {  # paper §1.8: (N, K or None, row 0, row 1)
    "groups": (
        (7, 3),
        [-0.0121192296, 0.0040685977, 0.0197057594, -0.0163527637, -0.0404054945, -0.0589895312, -0.0043071274],
        [-0.0119461437, 0.0041883743, 0.0197560154, -0.0162448707, -0.0403160616, -0.0589306627, -0.0041663333],
    ),
    "full": (
        (5, None),
        [0.3764356663, 0.400352844, 0.3821200892, 0.3478956286, 0.3194778279],
        [0.3771224818, 0.4019762254, 0.3845358915, 0.3502668971, 0.3213430117],
    ),
    "zero_shot": (
        (4, None),
        [0.0932257842, 0.1000422164, 0.1216802407, 0.1440141684],
        [0.0953571623, 0.1021984172, 0.1238797192, 0.1462289402],
    ),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_the_golden_values_of_the_published_head(case):
    """Published names and numbers through the reader of layouts into our head."""
    (num_classes, num_groups), *rows = GOLDEN[case]
    double = {"dtype": torch.float64}
    embeddings = LabelEmbeddings(tuple("abcd"), torch.sin(0.23 * torch.arange(1200.0, **double)).view(4, 300), "golden")
    shapes = MLDecoder(8, num_classes, num_groups, dim=16).state_dict()
    if case == "zero_shot":
        shapes = ZeroShotMLDecoder(
            8, 4, dim=16, queries="label_embeddings", fc="shared", label_embeddings=embeddings
        ).state_dict()
    state = authors_head(shapes)
    for n, name in enumerate(sorted(state)):
        values = 0.05 * torch.sin(0.37 * torch.arange(state[name].numel(), **double) + n)
        state[name] = (values + ("norm" in name and name.endswith("weight"))).view(state[name].shape)
    tokens = torch.cos(0.11 * torch.arange(96, **double)).view(2, 8, 6).transpose(1, 2)

    file = {f"head.{name}": value for name, value in state.items()}
    layout = find_head(file, "golden")
    settings, outputs, width = head_settings(layout, file, "golden")
    assert (outputs, width) == ((None, 300) if case == "zero_shot" else (num_classes, None))
    options = {name: value for name, value in settings.items() if name not in ("name", "label_embeddings")}
    if case == "zero_shot":
        head = ZeroShotMLDecoder(8, 4, **options, label_embeddings=embeddings).double().eval()
        head.vocabulary.trained, head.vocabulary.query = embeddings.vectors, embeddings.vectors
    else:
        del options["fc"]
        head = MLDecoder(8, outputs, **options).double().eval()
    head.load_state_dict({name: file[layout.file_name(name)] for name in head.state_dict()})
    torch.testing.assert_close(head(tokens), torch.tensor(rows, **double), rtol=0, atol=1e-8)


# Files that are something else ----------------------------------------------------------------------------------------


def test_what_is_missing_left_over_or_of_another_shape_is_listed(small):
    state = authors_file(small, head="fc.")
    for name in ("layer1.0.bn1.bias", "layer4.1.conv2.weight", "fc.decoder.layers.0.norm2.bias"):
        del state[name]
    state |= {"layer5.0.weight": torch.zeros(1), "fc.decoder.extra": torch.zeros(1), "head_dist.bias": torch.zeros(1)}
    state["bn1.weight"] = torch.ones(32)
    state["fc.decoder.layers.0.linear2.bias"] = torch.zeros(17)
    found = read_published(state, backbone="resnet18")
    with pytest.raises(CheckpointError) as caught:
        read_back(found, small)
    lines = str(caught.value).splitlines()
    assert "3 missing: layer1.0.bn1.bias, layer4.1.conv2.weight, fc.decoder.layers.0.norm2.bias" in lines[1]
    assert "3 unexpected: layer5.0.weight, head_dist.bias, fc.decoder.extra" in lines[2]
    assert "2 of another shape: bn1.weight: (32,) in the file, (64,) in the model, " in lines[3]
    assert "fc.decoder.layers.0.linear2.bias: (17,) in the file, (16,) in the model" in lines[3]
    assert lines[4].endswith("backbone=NAME")


def test_one_tensor_that_is_missing_is_enough(small):
    for name in ("layer1.0.bn1.running_mean", "fc.decoder.query_embed.weight"):
        state = authors_file(small, head="fc.")
        del state[name]
        with pytest.raises(CheckpointError, match=f"1 missing: {name}"):
            read_back(read_published(state), small)
    state = authors_file(small, head="fc.")
    counters = [name for name in state if name.endswith("num_batches_tracked")]
    old = {name: value for name, value in state.items() if name not in counters}  # from before torch counted batches
    torch.testing.assert_close(logits(read_back(read_published(old), small)), logits(small), rtol=0, atol=1e-5)


def test_a_prefix_of_some_names_only_is_no_prefix(small):
    state = authors_file(small, head="fc.")
    state = {(f"module.{name}" if name.startswith("layer4") else name): value for name, value in state.items()}
    with pytest.raises(CheckpointError, match=r"unexpected: module\.layer4\.0\.conv1\.weight"):
        load_published(state, backbone="resnet18", image_size=64)


def test_a_network_of_another_kind_is_named(small, built):
    wide = classifier_of(built, "tresnet_s", "full")
    with pytest.raises(
        CheckpointError, match=r"TResNet with 3, 4, 6, 3 blocks.*which is tresnet_s; leave out backbone="
    ):
        read_published(authors_file(wide), backbone="tresnet_l")
    with pytest.raises(CheckpointError, match=r"missing: layer1.2.conv1.weight"):
        load_published(authors_file(small, head="fc."), backbone="resnet34", image_size=64)
    with pytest.raises(ConfigError, match="backbone=resnet19: no such backbone; did you mean resnet18"):
        read_published(authors_file(small, head="fc."), backbone="resnet19")
    odd = {name: value for name, value in authors_file(small, head="fc.").items() if not name.startswith("layer3.1")}
    with pytest.raises(CheckpointError, match=r"ResNet with 2, 2, 1, 2 blocks.*none of tresnet_s.*backbone=NAME"):
        read_published(odd)


def test_class_tokens_which_published_heads_read_are_refused():
    body = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=12)
    state = dict(body.state_dict()) | {
        f"head.{name}": value for name, value in authors_head(head_of("full", 192).state_dict()).items()
    }
    with pytest.raises(CheckpointError, match="also read the class token of timm's vit_tiny_patch16_224"):
        load_published(state, backbone="vit_tiny_patch16_224", image_size=224)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"duplicate_pooling": (5, 16, 2)}, r"\(5, 16, 2\) for 5 classes; expected \(K, D, g\)"),
        ({"duplicate_pooling_bias": (4,)}, r"\(5, 16, 1\) for 4 classes"),
        ({"duplicate_pooling": (5, 12, 1)}, r"D = 12 is not a multiple of 8"),
        ({"duplicate_pooling": (16, 1)}, r"has shape \(16, 1\), expected 3 dimensions"),
        ({"layers.0.linear1.weight": None}, "has no fc.decoder.layers.0.linear1.weight"),
    ],
)
def test_shapes_that_contradict_one_another(small, change, message):
    state = authors_file(small, head="fc.")
    for name, shape in change.items():
        del state[f"fc.decoder.{name}"]
        if shape is not None:
            state[f"fc.decoder.{name}"] = torch.zeros(shape)
    with pytest.raises(CheckpointError, match=message):
        read_published(state)


def test_files_without_a_known_head(small, tmp_path):
    body = dict(small.backbone.model.state_dict())
    with pytest.raises(CheckpointError, match=r"no known head.*parts are conv1, bn1, layer1.*backbone.pretrained"):
        read_published(body)
    two = body | authors_file(small, head="fc.") | authors_file(small, head="head.")
    with pytest.raises(CheckpointError, match="more than one ML-Decoder"):
        read_published(two)
    with pytest.raises(CheckpointError, match="a head without a backbone"):
        read_published({name: value for name, value in authors_file(small, head="fc.").items() if "fc." in name})
    with pytest.raises(CheckpointError, match="no such file of weights"):
        load_published(tmp_path / "tresnet_l.pth")
    with pytest.raises(CheckpointError, match="outputs for 5 classes, not for num_classes=80"):
        read_published(authors_file(small, head="fc."), 80)
    ours = {"format": 1, "config": {}, "labels": [], "normalization": {}, "model": small.state_dict()}
    with pytest.raises(CheckpointError, match="of mldec and needs no import"):
        read_published(ours)


def test_numbers_that_are_not_finite_are_named(small):
    state = authors_file(small, head="fc.")
    state["layer2.0.conv1.weight"] = torch.full_like(state["layer2.0.conv1.weight"], torch.nan)
    with pytest.raises(CheckpointError, match=r"not finite: layer2\.0\.conv1\.weight"):
        read_back(read_published(state), small)


def test_no_file_runs_code_but_timms_own_are_read(small, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "was here"), "w"))

    state = authors_file(small, head="fc.")
    torch.save({"model": state, "extra": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="not a readable file of plain tensors"):
        read_published(tmp_path / "evil.pth")
    assert not (tmp_path / "was here").exists()
    averaged = {name: value + 1 for name, value in state.items()}
    timms = {"epoch": 3, "arch": "resnet18", "state_dict": state, "state_dict_ema": averaged}
    torch.save(timms | {"args": argparse.Namespace(lr=1e-4, model="resnet18")}, tmp_path / "last.pth.tar")
    found = read_published(tmp_path / "last.pth.tar")
    assert (found.entry, found.others) == ("state_dict", ("state_dict_ema",))
    other = read_published(tmp_path / "last.pth.tar", key="state_dict_ema")
    assert torch.equal(other.tensors["bn1.bias"], found.tensors["bn1.bias"] + 1)
    with pytest.raises(CheckpointError, match="no state dict under 'ema'; allowed: state_dict, state_dict_ema"):
        read_published(tmp_path / "last.pth.tar", key="ema")


def test_pr_2045_calls_the_attention_self_attn(small):
    state = {name.replace("multihead_attn", "self_attn"): v for name, v in timm_file(small, head="fc.").items()}
    torch.testing.assert_close(logits(read_back(read_published(state), small)), logits(small), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({0: "a", 1: "b"}, "has 2 names for 5 classes"),
        ({0: "a", 2: "b"}, "not a list of names by index .*no index 1"),
        ({"a": 0}, "not a list of names by index"),
        (["a"] * 5, "must differ"),
        (7, "not a list of names by index"),
    ],
)
def test_tables_of_labels_that_are_none(small, table, message):
    found = read_published({"model": authors_file(small, head="fc."), "idx_to_class": table})
    with pytest.raises(CheckpointError, match=f"{message}.*labels=@FILE"):
        found.labels()


def test_zero_shot_heads_want_words_of_their_width(built):
    original = classifier_of(built, "resnet18", "zero_shot")
    state = authors_file(original, head="fc.")
    with pytest.raises(CheckpointError, match="12 numbers per label"):
        load_published(state, image_size=64)
    other = LabelEmbeddings(("x",), torch.ones(1, 13), "other embeddings")
    head = ZeroShotMLDecoder(512, 1, queries="label_embeddings", fc="shared", label_embeddings=other, **SMALL)
    with pytest.raises(CheckpointError, match="width 12, those of other embeddings have width 13"):
        read_published(state).load_into(Classifier(original.backbone, head))
    queried = LabelEmbeddings(("x", "y"), torch.randn(2, 12), "embeddings")
    loaded = load_published(state, image_size=64, label_embeddings=queried)
    assert logits(loaded).shape == (2, 2)
    with pytest.raises(DataError, match="no label embedding"):
        loaded.set_labels(["z"])


def test_pixels_of_resnets_are_normalised_and_of_tresnets_are_not(small, built):
    assert read_published(authors_file(small, head="fc.")).backbone["normalize"] == "backbone"
    tresnet = authors_file(classifier_of(built, "tresnet_s", "pooling"))
    assert read_published(tresnet).backbone == {"name": "tresnet_s", "normalize": "unit"}
    assert room.TIMM_NAMES["tresnet_v2_l"] == "tresnet_l"


def test_the_wider_networks_of_earlier_publications_are_timms():
    with torch.device("meta"):
        model = timm.create_model("tresnet_l", num_classes=80)
    found = read_published(dict(model.state_dict()))
    assert found.backbone == {"name": "timm", "model": "tresnet_l", "normalize": "unit"}
    assert found.head == {"name": "gap"}
    with pytest.raises(CheckpointError, match=r"TResNet with 4, 5, 18, 3 blocks.*which is timm's tresnet_l"):
        read_published(dict(model.state_dict()), backbone="tresnet_l")
