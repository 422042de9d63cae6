"""The baselines: pooling and the transformer decoder."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mldec.errors import ConfigError
from mldec.labels import LabelSpace
from mldec.models.classifier import Tokens
from mldec.models.heads import GlobalAveragePool, GlobalMaxPool, MLDecoder, TransformerDecoderHead, ZeroShotMLDecoder
from mldec.models.heads.gap import PoolingConfig
from mldec.models.heads.layers import EncoderLayer, MultiHeadAttention
from mldec.models.heads.per_class import sine_position
from mldec.models.heads.transformer_decoder import TransformerDecoderConfig
from mldec.models.label_embeddings import LabelEmbeddings
from mldec.registry import HEADS

SMALL = {"dim": 16, "num_heads": 4, "ffn_dim": 32}
LABELS = LabelSpace(["a", "b", "c", "d", "e"])


def embeddings():
    return LabelEmbeddings(LABELS.names, torch.randn(5, 3), "a test")


def test_pooling_is_the_linear_layer_of_the_mean():
    head = GlobalAveragePool(8, 5, dropout=0.5).eval()
    values = torch.randn(3, 6, 8)
    torch.testing.assert_close(head(Tokens(values, (2, 3))), head.fc(values.mean(1)))
    torch.manual_seed(0)
    assert not torch.equal(head.train()(values), head(values))


def test_maximum_pooling_is_the_linear_layer_of_the_largest_values():
    head = GlobalMaxPool(8, 5, dropout=0.5).eval()
    values = torch.randn(3, 6, 8)
    torch.testing.assert_close(head(Tokens(values, (2, 3))), head.fc(values.max(1).values))
    torch.manual_seed(0)
    assert not torch.equal(head.train()(values), head(values))
    assert build("gmp", PoolingConfig(name="gmp", dropout=0.2)).dropout == 0.2


@pytest.mark.parametrize("head", ["gap", "transformer_decoder", "ml_decoder", "shared", "label_embeddings"])
def test_under_autocast_logits_have_the_steps_of_float32(head):
    """bfloat16 logits of thousands of images tie by the hundred, and average precision ranks them."""
    torch.manual_seed(0)
    made = {
        "gap": lambda: GlobalAveragePool(8, 5),
        "transformer_decoder": lambda: TransformerDecoderHead(8, 5, **SMALL),
        "ml_decoder": lambda: MLDecoder(8, 5, 2, **SMALL),
        "shared": lambda: ZeroShotMLDecoder(
            8, 5, **SMALL, queries="label_embeddings", fc="shared", label_embeddings=embeddings()
        ),
        "label_embeddings": lambda: ZeroShotMLDecoder(
            8, 5, 2, **SMALL, queries="fixed", fc="label_embeddings", label_embeddings=embeddings()
        ),
    }[head]().eval()
    tokens = 0.05 * torch.randn(2000, 6, 8)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        logits = made(tokens)
    assert logits.dtype == torch.float32
    assert len(logits[:, 0].unique()) > 0.9 * len(logits)


def reference_layer(kind, ours):
    """torch's own post-norm layer with our weights; the names agree, so the weights load strictly."""
    layer = kind(16, 4, 32, dropout=0.0, batch_first=True)
    layer.load_state_dict(ours.state_dict())
    return layer.eval()


def test_decoder_equals_torchs_own_layers():
    torch.manual_seed(0)
    head = TransformerDecoderHead(8, 5, **SMALL, decoder_layers=2, final_norm=True).eval()
    tokens = torch.randn(3, 6, 8)
    memory = head.input_projection(tokens)
    embeddings = head.queries.weight.expand(3, -1, -1)
    for layer in head.layers:
        embeddings = reference_layer(nn.TransformerDecoderLayer, layer)(embeddings, memory)
    expected = torch.einsum("bnd,nd->bn", head.norm(embeddings), head.fc.weight.squeeze(2)) + head.fc.bias
    torch.testing.assert_close(head(tokens), expected, rtol=1e-5, atol=1e-6)


def test_encoder_equals_torchs_own_layer():
    torch.manual_seed(0)
    layer = EncoderLayer(16, 4, 32, dropout=0.1).eval()
    tokens = torch.randn(3, 6, 16)
    expected = reference_layer(nn.TransformerEncoderLayer, layer)(tokens)
    torch.testing.assert_close(layer(tokens), expected, rtol=1e-5, atol=1e-6)


def test_positions_are_added_to_what_is_compared_and_not_to_what_is_read():
    torch.manual_seed(0)
    layer = EncoderLayer(16, 4, 32, dropout=0.0).eval()
    attention = nn.MultiheadAttention(16, 4, batch_first=True).eval()
    attention.load_state_dict(layer.self_attn.state_dict())
    tokens, position = torch.randn(2, 6, 16), torch.randn(6, 16)
    placed = tokens + position
    attended = layer.norm1(tokens + attention(placed, placed, tokens, need_weights=False)[0])
    expected = layer.norm2(attended + layer.linear2(F.relu(layer.linear1(attended))))
    torch.testing.assert_close(layer(tokens, position), expected, rtol=1e-5, atol=1e-6)


def test_sine_positions():
    code = sine_position((3, 4), 16).view(3, 4, 16)
    assert (code.abs() <= 1).all()
    assert len({tuple(row) for row in code.view(12, 16).tolist()}) == 12
    assert torch.equal(code[:, 0, :8], code[:, 3, :8])  # the first half knows the row alone
    assert torch.equal(code[0, :, 8:], code[2, :, 8:])  # the second the column
    assert code.dtype == torch.float64
    phase = torch.tensor(2 * torch.pi / (3 + 1e-6), dtype=torch.float64)
    torch.testing.assert_close(code[0, 0, :2], torch.stack([phase.sin(), phase.cos()]))
    finer = sine_position((6, 8), 16).view(6, 8, 16)[1::2, 1::2]
    torch.testing.assert_close(finer, code, rtol=1e-5, atol=2e-6)  # the same at any resolution


@pytest.mark.parametrize("encoder_layers", [0, 1])
def test_order_of_tokens_matters_only_with_positions(encoder_layers):
    torch.manual_seed(0)
    values, order = torch.randn(2, 6, 8), torch.randperm(6)
    for position in ("none", "sine"):
        head = TransformerDecoderHead(8, 5, **SMALL, encoder_layers=encoder_layers, position=position).eval()
        straight, shuffled = head(Tokens(values, (2, 3))), head(Tokens(values[:, order], (2, 3)))
        assert torch.allclose(straight, shuffled, atol=1e-6) == (position == "none")


def test_sine_positions_need_a_grid():
    head = TransformerDecoderHead(8, 5, **SMALL, position="sine")
    for tokens in (torch.randn(2, 6, 8), Tokens(torch.randn(2, 6, 8), None)):
        with pytest.raises(ValueError, match="sine positions need the grid of the tokens"):
            head(tokens)


def test_every_trainable_parameter_gets_a_gradient():
    torch.manual_seed(0)
    head = TransformerDecoderHead(8, 5, **SMALL, encoder_layers=1, decoder_layers=2, position="sine", final_norm=True)
    (head(Tokens(torch.randn(3, 6, 8), (2, 3))) * torch.randn(3, 5)).sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_query_self_attention_is_computed_once_a_batch_in_evaluation():
    head = TransformerDecoderHead(8, 5, **SMALL).eval()
    seen = []
    head.layers[0].norm1.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[0]))
    together = head(tokens := torch.randn(4, 6, 8))
    torch.testing.assert_close(together, torch.cat([head(row[None]) for row in tokens]), rtol=1e-5, atol=1e-6)
    head.train()(tokens)
    assert seen[0] == 1
    assert seen[-1] == 4


def test_compiles_and_exports():
    torch._dynamo.reset()
    head = TransformerDecoderHead(8, 5, **SMALL, encoder_layers=1, position="sine").eval()
    tokens = Tokens(torch.randn(2, 6, 8), (2, 3))
    torch.testing.assert_close(torch.compile(head, fullgraph=True, backend="eager")(tokens), head(tokens))
    torch.testing.assert_close(torch.export.export(head, (tokens,)).module()(tokens), head(tokens))


def build(name, config):
    return HEADS[name].build(config, in_features=8, labels=LABELS)


def test_build_from_settings():
    assert build("gap", PoolingConfig(name="gap", dropout=0.2)).dropout == 0.2
    name = "transformer_decoder"
    head = build(
        name, TransformerDecoderConfig(name=name, dim=8, input_projection=False, encoder_layers=2, queries="fixed")
    )
    assert isinstance(head.input_projection, nn.Identity)
    assert len(head.encoder) == 2
    assert not head.queries.weight.requires_grad
    assert head(torch.randn(2, 3, 8)).shape == (2, 5)


def test_settings_that_do_not_fit():
    name = "transformer_decoder"
    with pytest.raises(ConfigError, match=r"equal the backbone's 8 features; use head.dim=8 or"):
        build(name, TransformerDecoderConfig(name=name, dim=16, input_projection=False))
    with pytest.raises(ValueError, match="dim=10: not a multiple of num_heads=8"):
        TransformerDecoderConfig(name=name, dim=10)
    with pytest.raises(ValueError, match="dim=6: not a multiple of 4"):
        TransformerDecoderConfig(name=name, dim=6, num_heads=2, position="sine")
    with pytest.raises(ConfigError, match="must equal the backbone's 8 features"):
        TransformerDecoderHead(8, 5, **SMALL, input_projection=False)


@pytest.mark.parametrize("make", [MLDecoder, TransformerDecoderHead])
def test_a_head_whose_weights_are_bfloat16_computes_in_it_on_the_cpu(make):
    """`model.to(torch.bfloat16)`, without autocast: close to the float32 head, in training and in evaluation."""
    torch.manual_seed(0)
    head = make(8, 5, dropout=0.0, **SMALL)
    values = torch.randn(3, 6, 8)
    for mode in (True, False):
        expected = head.float().train(mode)(Tokens(values, (2, 3)))
        found = head.bfloat16()(Tokens(values.bfloat16(), (2, 3)))
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.05)


def test_on_the_cpu_attention_is_computed_in_float32_under_bfloat16():
    """The products around it are bfloat16; the softmax and its sums equal a float32 attention of what they gave."""
    torch.manual_seed(0)
    attention = MultiHeadAttention(16, num_heads=4).eval()
    query, tokens = torch.randn(1, 3, 16), torch.randn(2, 5, 16)
    with torch.autocast("cpu", torch.bfloat16):
        given = attention(query, tokens, tokens)
        parts = [x.float() for x in attention._project(query, tokens, tokens)]
    with torch.autocast("cpu", enabled=False):
        weights = torch.softmax((parts[0].expand(2, -1, -1, -1) @ parts[1].transpose(2, 3)) / 2, dim=-1)
        mixed = (weights @ parts[2]).transpose(1, 2).flatten(2)
    with torch.autocast("cpu", torch.bfloat16):
        wanted = attention.out_proj(mixed)
    assert given.dtype == torch.bfloat16
    torch.testing.assert_close(given, wanted, rtol=2**-7, atol=2**-9)  # a step of bfloat16 where sums differ in order


def test_attention_with_dropout_is_the_fused_kernel_s_where_nothing_is_dropped():
    """A probability below half of 1 / 65,536 drops nothing, but takes the path of training with dropout."""
    torch.manual_seed(0)
    attention = MultiHeadAttention(16, num_heads=4, dropout=1e-6).double()
    query, memory = torch.randn(1, 5, 16).double(), torch.randn(3, 7, 16).double()
    torch.testing.assert_close(attention.train()(query, memory, memory), attention.eval()(query, memory, memory))
    apart = attention(query, memory, memory.clone())  # keys and values in products of their own
    torch.testing.assert_close(attention(query, memory, memory), apart)
