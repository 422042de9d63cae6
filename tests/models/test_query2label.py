"""Query2Label is that of its authors: equal to their code's outputs where they lie here, and to a plain rewriting."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from mldec.errors import ConfigError
from mldec.labels import LabelSpace
from mldec.models.complexity import count_parameters
from mldec.models.heads import Query2Label
from mldec.models.heads.query2label import Query2LabelConfig
from mldec.models.method_layout import HEAD, converted
from mldec.models.published_methods import METHODS
from mldec.models.tokens import Tokens
from mldec.registry import HEADS

REFERENCE = Path(__file__).parents[3] / "shared" / "data" / "reference" / "reference_shared.json"
SMALL = {"dim": 16, "num_heads": 4, "ffn_dim": 24}
VARIANTS = [
    {},
    {"self_attention": "first", "input_projection": True},
    {"self_attention": "others"},
    {"self_attention": "all", "input_projection": True, "encoder_layers": 2},
    {"decoder_layers": 3, "encoder_layers": 0},
]


class Plain(nn.Module):
    """The published network written out with torch's own attention, sequence first, names as in its checkpoints."""

    def __init__(self, features, classes, dim, heads, ffn, encoder, decoder, kept, projection):
        super().__init__()

        def layer(names, self_attn):
            made = nn.Module()
            if self_attn:
                made.self_attn = nn.MultiheadAttention(dim, heads)
            if names[0] != "norm1" or len(names) == 3:
                made.multihead_attn = nn.MultiheadAttention(dim, heads)
            made.linear1, made.linear2 = nn.Linear(dim, ffn), nn.Linear(ffn, dim)
            for name in names:
                setattr(made, name, nn.LayerNorm(dim))
            return made

        self.transformer = nn.Module()
        self.transformer.encoder, self.transformer.decoder = nn.Module(), nn.Module()
        self.transformer.encoder.layers = nn.ModuleList(layer(["norm1", "norm2"], True) for _ in range(encoder))
        self.transformer.decoder.layers = nn.ModuleList(
            layer((["norm1"] if i in kept else []) + ["norm2", "norm3"], i in kept) for i in range(decoder)
        )
        self.transformer.decoder.norm = nn.LayerNorm(dim)
        self.query_embed = nn.Embedding(classes, dim)
        if projection:
            self.input_proj = nn.Conv2d(features, dim, 1)
        self.fc = nn.Module()
        self.fc.W, self.fc.b = nn.Parameter(torch.randn(1, classes, dim)), nn.Parameter(torch.randn(1, classes))
        self.dim = dim

    def positions(self, height, width):
        """Entry by entry."""
        code = torch.zeros(height, width, self.dim)
        half = self.dim // 2
        for i in range(height):
            for j in range(width):
                for axis, (index, length) in enumerate([(i, height), (j, width)]):
                    c = (index + 1) / (length + 1e-6) * 2 * math.pi
                    for k in range(half):
                        angle = c / 10000 ** (2 * (k // 2) / half)
                        code[i, j, axis * half + k] = math.cos(angle) if k % 2 else math.sin(angle)
        return code.flatten(0, 1)[:, None]

    def forward(self, maps):
        x = self.input_proj(maps) if hasattr(self, "input_proj") else maps
        pos = self.positions(*x.shape[2:])
        x = x.flatten(2).permute(2, 0, 1)
        for layer in self.transformer.encoder.layers:
            x = layer.norm1(x + layer.self_attn(x + pos, x + pos, x)[0])
            x = layer.norm2(x + layer.linear2(layer.linear1(x).relu()))
        query = self.query_embed.weight[:, None].expand(-1, len(maps), -1)
        target = torch.zeros_like(query)
        for layer in self.transformer.decoder.layers:
            if hasattr(layer, "self_attn"):
                target = layer.norm1(target + layer.self_attn(target + query, target + query, target)[0])
            target = layer.norm2(target + layer.multihead_attn(target + query, x + pos, x)[0])
            target = layer.norm3(target + layer.linear2(layer.linear1(target).relu()))
        hidden = self.transformer.decoder.norm(target).transpose(0, 1)
        return (self.fc.W * hidden).sum(-1) + self.fc.b


@pytest.fixture
def double():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def tokens_of(maps):
    return Tokens(maps.flatten(2).transpose(1, 2), tuple(maps.shape[2:]))


def load(head, tensors):
    """Load a head with the names of a published file."""
    found = converted(next(method for method in METHODS if method.head == "query2label"), tensors)
    head.load_state_dict({name.removeprefix(HEAD): tensor for name, tensor in found.items()})


@pytest.mark.parametrize("settings", VARIANTS)
@pytest.mark.parametrize("training", [False, True])
def test_equals_a_plain_rewriting_with_torchs_attention(double, settings, training):
    features = 12 if settings.get("input_projection") else 16
    head = Query2Label(features, 5, **SMALL, dropout=0.0, **settings).train(training)
    layers = settings.get("decoder_layers", 2)
    kept = {"first": [0], "others": range(1, layers), "all": range(layers)}.get(settings.get("self_attention"), [])
    plain = Plain(
        features, 5, 16, 4, 24, settings.get("encoder_layers", 1), layers, kept, settings.get("input_projection", False)
    )
    for parameter in plain.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, std=0.5)
    load(head, plain.state_dict())
    for grid in ((2, 3), (4, 4)):
        maps = torch.randn(3, features, *grid)
        torch.testing.assert_close(head(tokens_of(maps)), plain(maps), rtol=1e-10, atol=1e-10)


def test_the_default_is_the_published_size():
    """80 labels on 2,048 channels, which are not projected."""
    with torch.device("meta"):
        config = Query2LabelConfig(name="query2label")
        head = HEADS["query2label"].build(config, in_features=2048, labels=LabelSpace([str(i) for i in range(80)]))
    assert count_parameters(head) == (151_406_672, 151_406_672)
    assert [layer.self_attn for layer in head.layers] == [None, None]


def test_the_start_is_the_published_one():
    torch.manual_seed(0)
    head = Query2Label(48, 40, dim=64, ffn_dim=256, self_attention="all", input_projection=True)
    for name, parameter in head.named_parameters():
        if name.startswith(("encoder.", "layers.")) and parameter.dim() > 1:  # Xavier-uniform
            bound = math.sqrt(6 / sum(parameter.shape))
            assert bound * 0.98 < parameter.abs().max() <= bound, name
            assert parameter.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05), name
        elif name.endswith(("in_proj_bias", "out_proj.bias")):
            assert not parameter.any()
    for parameter in (head.fc.weight, head.fc.bias):
        assert parameter.abs().max() <= 1 / 8
        assert parameter.std().item() == pytest.approx(1 / 8 / math.sqrt(3), rel=0.25)
    assert head.queries.weight.std().item() == pytest.approx(1, rel=0.05)


def test_labels_without_self_attention_do_not_know_of_one_another():
    torch.manual_seed(0)
    seen = Tokens(torch.randn(2, 6, 16), (2, 3))
    for kind, independent in (("none", True), ("first", False), ("others", False)):
        head = Query2Label(16, 5, **SMALL, self_attention=kind).eval()
        before = head(seen)
        with torch.no_grad():
            head.queries.weight[0] += torch.randn(16)
        assert torch.allclose(head(seen)[:, 1:], before[:, 1:], atol=1e-6) == independent or kind == "first", kind
        assert not torch.allclose(head(seen)[:, 0], before[:, 0], atol=1e-4)


def test_positions_are_computed_for_any_grid_and_need_one():
    head = Query2Label(16, 5, **SMALL).eval()
    values = torch.randn(2, 12, 16)
    assert not torch.allclose(head(Tokens(values, (3, 4))), head(Tokens(values, (4, 3))), atol=1e-5)
    for tokens in (values, Tokens(values, None)):
        with pytest.raises(ValueError, match="sine positions need the grid of the tokens"):
            head(tokens)


@pytest.mark.parametrize("settings", VARIANTS)
def test_every_parameter_gets_a_gradient(settings):
    head = Query2Label(16, 5, **SMALL, **settings)
    (head(Tokens(torch.randn(3, 6, 16), (2, 3))) * torch.randn(3, 5)).sum().backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_compiles_and_exports():
    torch._dynamo.reset()
    head = Query2Label(16, 5, **SMALL, self_attention="all").eval()
    tokens = Tokens(torch.randn(2, 6, 16), (2, 3))
    torch.testing.assert_close(torch.compile(head, fullgraph=True, backend="eager")(tokens), head(tokens))
    torch.testing.assert_close(torch.export.export(head, (tokens,)).module()(tokens), head(tokens))


def test_positions_in_a_published_file_are_not_read():
    plain = Plain(16, 5, 16, 4, 24, 1, 2, [0], False).state_dict() | {"backbone.1.pe": torch.zeros(1, 16, 2, 3)}
    load(Query2Label(16, 5, **SMALL, self_attention="first"), plain)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*layers\.0\.self_attn\.in_proj_weight"):
        load(Query2Label(16, 5, **SMALL), plain)


def test_settings_that_do_not_fit():
    name, labels = "query2label", LabelSpace(["a", "b"])
    build = HEADS[name].build
    with pytest.raises(ConfigError, match=r"head.dim=2048: .* the backbone's 512 features; use head.dim=512 or"):
        build(Query2LabelConfig(name=name), in_features=512, labels=labels)
    with pytest.raises(ValueError, match="dim=10: not a multiple of num_heads=4"):
        Query2LabelConfig(name=name, dim=10)
    with pytest.raises(ValueError, match="dim=6: not a multiple of 4"):
        Query2LabelConfig(name=name, dim=6, num_heads=2)
    with pytest.raises(ValueError, match="self_attention=others: there is only one decoder layer"):
        Query2LabelConfig(name=name, self_attention="others", decoder_layers=1)
    with pytest.raises(ValueError, match="no such self_attention; use none, first, others or all"):
        Query2Label(16, 5, **SMALL, self_attention="some")
    config = Query2LabelConfig(name=name, dim=8, ffn_dim=8, input_projection=True, self_attention="first")
    head = build(config, in_features=512, labels=labels)
    assert [layer.self_attn is None for layer in head.layers] == [False, True]
    assert head(Tokens(torch.randn(1, 6, 512), (2, 3))).shape == (1, 2)
