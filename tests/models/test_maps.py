"""Properties of the maps of heads: exact contributions to a logit, each label's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mldec.errors import DataError
from mldec.models.heads import (
    GlobalAveragePool,
    GlobalMaxPool,
    MLDecoder,
    Query2Label,
    TransformerDecoderHead,
    ZeroShotMLDecoder,
)
from mldec.models.heads.layers import DecoderLayer
from mldec.models.label_embeddings import LabelEmbeddings
from mldec.models.tokens import Tokens

SMALL = {"dim": 16, "num_heads": 4, "ffn_dim": 24, "dropout": 0.0}
GRID, FEATURES, LABELS = (2, 3), 8, 7


@pytest.fixture(autouse=True)
def double():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def tokens(batch: int = 3) -> Tokens:
    return Tokens(torch.randn(batch, GRID[0] * GRID[1], FEATURES), GRID)


def embeddings() -> LabelEmbeddings:
    return LabelEmbeddings(tuple(map(str, range(LABELS + 2))), torch.randn(LABELS + 2, 10), "a test")


def heads() -> dict[str, nn.Module]:
    """One of each kind, with norms and biases that training could have left."""
    made = {
        "full": MLDecoder(FEATURES, LABELS, **SMALL),
        "groups": MLDecoder(FEATURES, LABELS, 3, **SMALL, num_layers=2),
        "random groups": MLDecoder(FEATURES, LABELS, 3, **SMALL, grouping="random"),
        "label-embedding queries": ZeroShotMLDecoder(
            FEATURES,
            LABELS,
            **SMALL,
            queries="label_embeddings",
            fc="label_embeddings",
            label_embeddings=embeddings(),
        ),
        "word groups": ZeroShotMLDecoder(
            FEATURES,
            LABELS,
            3,
            **SMALL,
            queries="label_embeddings",
            fc="label_embeddings",
            label_embeddings=embeddings(),
        ),
        "shared": ZeroShotMLDecoder(
            FEATURES, LABELS, 3, **SMALL, queries="label_embeddings", fc="shared", label_embeddings=embeddings()
        ),
        "word weights": ZeroShotMLDecoder(
            FEATURES, LABELS, 3, **SMALL, queries="fixed", fc="label_embeddings", label_embeddings=embeddings()
        ),
        "transformer": TransformerDecoderHead(FEATURES, LABELS, **SMALL),
        "two layers": TransformerDecoderHead(
            FEATURES, LABELS, **SMALL, encoder_layers=1, decoder_layers=2, position="sine", final_norm=True
        ),
        "query2label": Query2Label(FEATURES, LABELS, **SMALL, input_projection=True),
        "query2label with self-attention": Query2Label(
            FEATURES, LABELS, **SMALL, input_projection=True, self_attention="all"
        ),
    }
    for head in made.values():
        for parameter in head.parameters():
            if parameter.dim() == 1:
                nn.init.normal_(parameter, std=0.5)
        head.eval()
    return made


DECODERS = list(heads())


class Held(nn.Module):
    """A layer norm, or a ReLU, as it was for one input: what is left of it is linear."""

    def __init__(self, x: torch.Tensor, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.norm, self.sigma = norm, (x.var(-1, keepdim=True, unbiased=False) + norm.eps).sqrt()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean(-1, keepdim=True)) / self.sigma * self.norm.weight + self.norm.bias


def logits_without(head: nn.Module, seen: Tokens, token: int) -> torch.Tensor:
    """Logits of `head` by its own forward, where the last layer finds nothing at a token; all else held as it was."""
    last: DecoderLayer = head.layers[-1]
    found: dict[str, torch.Tensor] = {}
    modules = {"norm2": last.norm2, "norm3": last.norm3, "norm": getattr(head, "norm", None), "gates": last.linear1}
    hooks = [
        module.register_forward_hook(
            lambda _, inputs, output, name=name: found.update({name: inputs[0], "out": output})
        )
        for name, module in modules.items()
        if isinstance(module, (nn.LayerNorm, nn.Linear))
    ]
    attention, memory = last.multihead_attn, {}
    hooks.append(
        attention.register_forward_hook(lambda _, inputs, output: memory.update(zip("qkv", inputs, strict=True)))
    )
    head(seen)
    for hook in hooks:
        hook.remove()

    embeddings = memory["q"]
    if isinstance(head, Query2Label):  # its queries ask, but are not what the answer is added to
        embeddings = embeddings - head.queries.weight
    weights = attention.weights(memory["q"], memory["k"])
    values = F.linear(memory["v"], *(x[32:] for x in (attention.in_proj_weight, attention.in_proj_bias)))
    values = values.unflatten(2, (4, 4)).transpose(1, 2).clone()
    values[:, :, token] = 0
    taken = attention.out_proj((weights @ values).transpose(1, 2).flatten(2))
    x = Held(found["norm2"], last.norm2)(embeddings + taken)
    gates = last.linear1(found["gates"].view(*found["norm3"].shape[:2], -1)) > 0
    x = Held(found["norm3"], last.norm3)(x + last.linear2(last.linear1(x) * gates))
    if isinstance(modules["norm"], nn.LayerNorm):
        x = Held(found["norm"], modules["norm"])(x)
    vocabulary = getattr(head, "vocabulary", None)
    return head.fc(x) if vocabulary is None else head.fc(x, vocabulary())


@pytest.mark.parametrize("kind", DECODERS)
@torch.no_grad()
def test_a_contribution_is_what_the_logit_loses_without_the_token(kind):
    head, seen = heads()[kind], tokens()
    logits, maps = head(seen), head.maps(seen)
    assert maps.shape == (3, LABELS, 6)
    for token in range(6):
        torch.testing.assert_close(logits - maps[:, :, token], logits_without(head, seen, token))


@torch.no_grad()
def test_the_class_activation_map_and_the_bias_are_the_logit():
    head, seen = GlobalAveragePool(FEATURES, LABELS).eval(), tokens()
    torch.testing.assert_close(head.maps(seen).sum(dim=2) + head.fc.bias, head(seen))
    torch.testing.assert_close(head.maps(seen) * 6, seen.values.matmul(head.fc.weight.T).transpose(1, 2))
    with pytest.raises(DataError, match=r"no attention; use maps=label"):
        head.maps(seen, "attention")


@torch.no_grad()
def test_with_maximum_pooling_a_channel_counts_where_it_is_largest():
    head, seen = GlobalMaxPool(FEATURES, LABELS).eval(), tokens()
    seen.values[:, 3] = seen.values[:, 1]  # which counts once
    maps = head.maps(seen)
    torch.testing.assert_close(maps.sum(dim=2) + head.fc.bias, head(seen))
    assert not maps[:, :, 3].any()
    largest = seen.values.argmax(dim=1)
    for image, token in ((0, 1), (2, 5)):
        parts = head.fc.weight * seen.values[image, token] * (largest[image] == token)
        torch.testing.assert_close(maps[image, :, token], parts.sum(dim=1))
    with pytest.raises(DataError, match=r"no attention; use maps=label"):
        head.maps(seen, "attention")


@pytest.mark.parametrize("kind", DECODERS)
@torch.no_grad()
def test_attention_is_a_distribution_that_labels_of_a_group_share(kind):
    head, seen = heads()[kind], tokens()
    attention, own = head.maps(seen, "attention"), head.maps(seen, "label")
    torch.testing.assert_close(attention.sum(dim=2), torch.ones(3, LABELS))
    assert (attention >= 0).all()
    groups = head.query_of_labels().tolist() if isinstance(head, MLDecoder) else list(range(LABELS))
    for a in range(LABELS):
        for b in range(a):
            assert torch.allclose(attention[:, a], attention[:, b]) == (groups[a] == groups[b])
            assert not torch.allclose(own[:, a], own[:, b])


@pytest.mark.parametrize("weighting", ["label", "attention"])
@pytest.mark.parametrize("kind", ["label-embedding queries", "word groups", "word weights", "shared"])
@torch.no_grad()
def test_labels_in_another_order_have_their_maps_in_that_order(kind, weighting):
    head, seen = heads()[kind], tokens()
    before = head.maps(seen, weighting)
    order = torch.randperm(LABELS).tolist()
    head.vocabulary.set_labels([str(label) for label in order])
    torch.testing.assert_close(head.maps(seen, weighting), before[:, order])


@torch.no_grad()
def test_labels_that_were_never_trained_have_maps():
    head, seen = heads()["label-embedding queries"], tokens()
    head.vocabulary.set_labels([str(LABELS + 1), "2"])
    for weighting in ("label", "attention"):
        assert head.maps(seen, weighting).shape == (3, 2, 6)


@pytest.mark.parametrize("kind", ["full", "groups", "transformer", "query2label"])
@torch.no_grad()
def test_one_attention_head_over_tokens_of_one_value_leaves_attention(kind):
    """Then places differ by the attention that they get, and by nothing else."""
    small = SMALL | {"num_heads": 1}
    head = {
        "full": lambda: MLDecoder(FEATURES, LABELS, **small),
        "groups": lambda: MLDecoder(FEATURES, LABELS, 3, **small),
        "transformer": lambda: TransformerDecoderHead(FEATURES, LABELS, **small),
        "query2label": lambda: Query2Label(FEATURES, LABELS, **small, input_projection=True, encoder_layers=0),
    }[kind]().eval()
    attention = head.layers[-1].multihead_attn
    attention.in_proj_weight[32:] = 0
    nn.init.normal_(attention.in_proj_bias)
    maps = head.maps(seen := tokens(), "label")
    torch.testing.assert_close(maps / maps.sum(dim=2, keepdim=True), head.maps(seen, "attention"))


@pytest.mark.parametrize("kind", DECODERS)
@torch.no_grad()
def test_a_image_has_its_maps_whatever_its_neighbours_are(kind):
    head, seen = heads()[kind], tokens()
    alone = torch.cat([head.maps(Tokens(seen.values[i : i + 1], GRID)) for i in range(3)])
    torch.testing.assert_close(head.maps(seen), alone)


@pytest.mark.parametrize("source", ["cls", "both"])
@torch.no_grad()
def test_the_class_token_counts_evenly_at_all_positions(source):
    head = GlobalAveragePool(FEATURES, LABELS, source=source).eval()
    seen = tokens()._replace(prefix=torch.randn(3, 2, FEATURES))
    weights = head.fc.weight[:, :FEATURES]
    alone = seen.prefix[:, 0] @ weights.T
    maps, logits = head.maps(seen), head(seen)
    torch.testing.assert_close(maps.sum(dim=2) + head.fc.bias, logits)
    if source == "cls":
        torch.testing.assert_close(logits, alone + head.fc.bias)
        torch.testing.assert_close(maps, (alone / 6)[:, :, None].expand(maps.shape))
        return
    rest = GlobalAveragePool(FEATURES, LABELS)
    rest.fc.weight.copy_(head.fc.weight[:, FEATURES:])
    torch.testing.assert_close(maps - (alone / 6)[:, :, None], rest.maps(seen))


def test_without_a_class_token_the_head_says_so():
    head = GlobalAveragePool(FEATURES, LABELS, source="cls")
    for seen in (tokens(), tokens().values):
        with pytest.raises(ValueError, match="the head reads the class token"):
            head(seen)
