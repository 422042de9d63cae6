"""The zero-shot heads of other methods: their equations in plain loops, published values, and common properties."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn

from mldec.engine.export.graph import Scorer, read_program, takes_vectors, write_program
from mldec.errors import DataError
from mldec.models.classifier import Classifier
from mldec.models.heads import LESA, SDL, AttentionPerLabel, BiAM, ConSE, Fast0Tag, conse, lesa
from mldec.models.heads.biam import BiAMConfig
from mldec.models.heads.projection import TokenProjection
from mldec.models.label_embeddings import LabelEmbeddings, LabelEmbeddingsConfig
from mldec.models.tokens import HeadOutput, Tokens
from mldec.registry import HEADS

C, N, WIDTH, GRID = 6, 5, 4, (4, 3)
NAMES = tuple("abcde")
MADE = {
    "conse": (ConSE, {"top": 3}),
    "conse of all": (ConSE, {"top": None, "activation": "softmax"}),
    "fast0tag": (Fast0Tag, {"hidden": (10, 7)}),
    "lesa": (LESA, {"num_attentions": 3}),
    "attention per label": (AttentionPerLabel, {}),
    "biam": (BiAM, {"dim": 8, "num_heads": 2, "out_dim": 9, "top_k": 3}),
    "sdl": (SDL, {"num_rows": 3}),
}


@pytest.fixture(autouse=True)
def double():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def known() -> LabelEmbeddings:
    """Of the trained labels a to e, and of others."""
    return LabelEmbeddings((*NAMES, "f", "g", "h"), torch.randn(8, WIDTH), "a test")


def made(kind: str, **more):
    """In evaluation, with norms and biases that training could have left."""
    build, settings = MADE[kind]
    head = build(C, N, **{**settings, **more}, label_embeddings=known()).eval()
    for name, tensor in head.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif tensor.dim() == 1:
            tensor.normal_(std=0.5)
    return head


def some_tokens(batch: int = 2) -> Tokens:
    return Tokens(torch.randn(batch, GRID[0] * GRID[1], C), GRID)


# The equations, label by label and place by place ---------------------------------------------------------------------


def relu(x):
    return np.maximum(x, 0)


def leaky(x):
    return np.where(x > 0, x, 0.2 * x)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def conv(x_CHW, weight, bias=None, before=0):
    """A convolution that keeps the size: zeros `before` the map, and after it what is then missing."""
    out_channels, _, size, _ = weight.shape
    _, height, width = x_CHW.shape
    after = size - 1 - before
    padded = np.pad(x_CHW, ((0, 0), (before, after), (before, after)))
    out = np.zeros((out_channels, height, width))
    for o in range(out_channels):
        for i in range(height):
            for j in range(width):
                out[o, i, j] = (weight[o] * padded[:, i : i + size, j : j + size]).sum()
    return out if bias is None else out + bias[:, None, None]


def batch_norm(x_CHW, w, name):
    mean, var = w[f"{name}.running_mean"][:, None, None], w[f"{name}.running_var"][:, None, None]
    return (x_CHW - mean) / np.sqrt(var + 1e-3) * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]


def expected_conse(x_TC, v, trained, w, head):
    logits = w["fc.weight"] @ x_TC.mean(0) + w["fc.bias"]
    p = sigmoid(logits) if head.activation == "sigmoid" else softmax(logits)
    chosen = np.argsort(-p)[: head.top or len(p)]
    e = sum(p[s] * trained[s] for s in chosen) / sum(p[s] for s in chosen)
    return [e @ u / np.linalg.norm(e) / np.linalg.norm(u) for u in v]


def expected_fast0tag(x_TC, v, _, w, head):
    x = x_TC.mean(0)
    for i in range(len(head.hidden)):
        x = relu(w[f"hidden.{i}.weight"] @ x + w[f"hidden.{i}.bias"])
    return v @ (w["fc.weight"] @ x + w["fc.bias"])


def regions(x_TC, w):
    x = x_TC.T.reshape(C, *GRID)
    x = relu(batch_norm(conv(x, w["regions.conv.weight"]), w, "regions.norm"))
    x_TC = x.reshape(C, -1).T
    return x_TC, np.array([np.tanh(np.append(x, 1) @ w["regions.hidden"]) for x in x_TC])


def expected_lesa(x_TC, v, _, w, head):
    x_TC, e_TC = regions(x_TC, w)
    a_TK = np.array([np.append(e, 1) @ w["attention_weight"] for e in e_TC])
    attended = [softmax(a_T) @ x_TC for a_T in a_TK.T]
    return [max(g @ w["label_weight"] @ u for g in attended) for u in v]


def expected_attention_per_label(x_TC, v, _, w, head):
    x_TC, e_TC = regions(x_TC, w)
    return [softmax(e_TC @ w["attention_weight"] @ u) @ x_TC @ w["label_weight"] @ u for u in v]


def expected_biam(x_TC, v, _, w, head):
    def point(name, x_cT):
        weight = w[f"{name}.weight"]
        return weight.reshape(len(weight), -1) @ x_cT + w[f"{name}.bias"][:, None]

    def conv_norm(name, x):
        x = relu(conv(x, w[f"{name}.conv.weight"], w[f"{name}.conv.bias"], before=1))
        return batch_norm(x, w, f"{name}.norm")

    h = conv_norm("input_conv", x_TC.T.reshape(C, *GRID)).reshape(8, -1)
    q, k, values = (point(f"region.{name}", h) for name in ("query", "key", "value"))
    attended = np.zeros_like(h)
    for first in (0, 4):
        part = slice(first, first + 4)
        for t in range(h.shape[1]):
            attended[part, t] = values[part] @ softmax(k[part].T @ q[part, t] / 2)
    o = point("region.output", attended) + h
    e_r = point("region.linear2", relu(point("region.linear1", o))) + o
    s = leaky(point("scene.channels", h))
    gamma = sigmoid(s.mean(1) * point("scene.gate", x_TC.mean(0)[:, None])[:, 0])
    gated = gamma[:, None] * s
    e_g = gated + conv_norm("scene.conv", gated.reshape(8, *GRID)).reshape(8, -1)
    joined = leaky(point("join", np.concatenate([e_r, e_g])))
    m = joined.T @ np.array([w["labels.weight"] @ u + w["labels.bias"] for u in v]).T
    return [np.sort(m[:, n])[-head.top_k :].mean() for n in range(len(v))]


def expected_sdl(x_TC, v, _, w, head):
    a = w["embedding.weight"] @ x_TC.mean(0)
    k = head.num_rows
    return [max(sum(a[d * k + row] * u[d] for d in range(WIDTH)) for row in range(k)) for u in v]


EXPECTED = {
    "conse": expected_conse,
    "conse of all": expected_conse,
    "fast0tag": expected_fast0tag,
    "lesa": expected_lesa,
    "attention per label": expected_attention_per_label,
    "biam": expected_biam,
    "sdl": expected_sdl,
}


@pytest.mark.parametrize("kind", MADE)
def test_logits_are_what_the_equations_say(kind):
    head, tokens = made(kind), some_tokens()
    head.vocabulary.set_labels(["h", "b", "f"])
    unit = {name: v / np.linalg.norm(v) for name, v in zip(head.vocabulary.known.names, known_of(head), strict=True)}
    w = {name: tensor.numpy() for name, tensor in head.state_dict().items()}
    for logits, x_TC in zip(head(tokens), tokens.values.numpy(), strict=True):
        v, trained = (np.array([unit[name] for name in names]) for names in (("h", "b", "f"), NAMES))
        np.testing.assert_allclose(logits.detach(), EXPECTED[kind](x_TC, v, trained, w, head), rtol=1e-9, atol=1e-12)


def known_of(head) -> np.ndarray:
    return head.vocabulary.known.vectors.numpy()


def test_conse_scores_trained_labels_by_its_classifier_alone():
    head, tokens = made("conse"), some_tokens()
    logits = tokens.values.mean(1) @ head.fc.weight.T + head.fc.bias
    torch.testing.assert_close(head(tokens), logits)
    torch.testing.assert_close(head.train()(tokens), logits)
    head.eval().vocabulary.set_labels(["d", "a"])
    torch.testing.assert_close(head(tokens), logits[:, [3, 0]])
    head.vocabulary.set_labels(["d", "f"])
    assert (head(tokens).abs() <= 1).all()
    with pytest.raises(DataError, match=r"head=conse has maps of trained labels only.*head=zero_shot"):
        head.maps(tokens)


def test_conse_is_finite_where_every_probability_rounds_to_zero():
    scores = conse.conse_scores(torch.full((1, N), -1e4), torch.randn(N, WIDTH), torch.randn(2, WIDTH), 2, "sigmoid")
    assert scores.isfinite().all()
    assert (scores != 0).all()


def test_biam_averages_the_published_share_of_the_places():
    for grid, k in (((14, 14), 6), ((7, 7), 2), ((2, 2), 1)):
        head = BiAM(C, N, dim=8, num_heads=2, label_embeddings=known()).eval()
        maps = head.maps(Tokens(torch.randn(2, grid[0] * grid[1], C), grid))
        assert ((maps != 0).sum(dim=2) == k).all()


def test_biam_can_be_given_the_scene():
    head, tokens = BiAM(C, N, dim=8, num_heads=2, label_embeddings=known(), scene_features=11).eval(), some_tokens()
    one, other = (head(tokens, scene=torch.randn(2, 11)) for _ in range(2))
    assert one.shape == (2, N)
    assert not torch.allclose(one, other)
    for call in (lambda: head(tokens), lambda: made("biam")(tokens, scene=torch.randn(2, 11))):
        with pytest.raises(ValueError, match=r"takes scene .* and only then"):
            call()


# Common properties ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", ["unit", "none", "centered"])
@pytest.mark.parametrize("kind", MADE)
def test_a_logit_depends_on_no_other_label(kind, normalize):
    """ConSE: among labels of which some are not trained."""
    head, tokens = made(kind, normalize=normalize, projection=7), some_tokens()
    head.vocabulary.set_labels(["a", "f", "d", "g"])
    together = head(tokens)
    head.vocabulary.set_labels(["g", "f", "a", "h"])
    torch.testing.assert_close(head(tokens)[:, [2, 1, 0]], together[:, [0, 1, 3]])
    vectors = head.vocabulary.known.select(["g", "a"]).vectors
    torch.testing.assert_close(head(tokens, head.vocabulary.one_group_each(vectors)), together[:, [3, 0]])
    assert takes_vectors(Classifier(nn.Identity(), head))


@pytest.mark.parametrize("kind", MADE)
def test_a_map_sums_to_the_logit_without_the_bias(kind):
    head, tokens = made(kind, projection=7), some_tokens()
    if not kind.startswith("conse"):
        head.vocabulary.set_labels(["a", "f", "d", "g"])
    bias = torch.zeros(())
    if kind.startswith("conse"):
        bias = head.fc.bias
    elif kind == "fast0tag":  # what its network gives of no tokens, with the units that are active for these
        mean, bias = head.projection(tokens).values.mean(1), torch.zeros(2, 7)
        for linear in head.hidden:
            bias, mean = linear(bias) * (linear(mean) > 0), linear(mean).relu()
        bias = head.fc(bias) @ head.label_vectors().T
    maps = head.maps(tokens)
    torch.testing.assert_close(maps.sum(dim=2) + bias, head(tokens))
    assert maps.shape[2] == GRID[0] * GRID[1]
    assert (maps.std(dim=2) > 0).all()


@pytest.mark.parametrize("kind", MADE)
def test_attention_is_a_distribution_where_there_is_one(kind):
    head, tokens = made(kind), some_tokens()
    if kind not in ("lesa", "attention per label"):
        with pytest.raises(DataError, match="no attention; use maps=label"):
            head.maps(tokens, "attention")
        return
    attention = head.maps(tokens, "attention")
    torch.testing.assert_close(attention.sum(dim=2), torch.ones(2, N))
    regions, _ = head.regions(tokens)
    attended = torch.einsum("bnt,btc->bnc", attention, regions)
    weights = head.label_vectors() @ head.label_weight.T
    torch.testing.assert_close((attended * weights).sum(dim=2), head(tokens))


@pytest.mark.parametrize("kind", MADE)
def test_every_parameter_gets_a_gradient_and_norms_alone_are_buffers(kind):
    head = made(kind, projection=7).train()
    output = head(some_tokens())
    logits = output.logits if isinstance(output, HeadOutput) else output
    (logits * torch.randn(2, N)).sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
    buffers = set(head.state_dict()) - dict(head.named_parameters()).keys()
    assert all(re.search(r"norm\.(running_|num_batches)", name) for name in buffers)


@pytest.mark.parametrize("kind", MADE)
def test_under_autocast_logits_have_the_steps_of_float32(kind):
    torch.set_default_dtype(torch.float32)
    head = made(kind)
    head.vocabulary.set_labels(["a", "f"])
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(Tokens(3 * torch.randn(500, 12, C), GRID))
        head.vocabulary.set_labels(["a"])
        assert head.maps(some_tokens()).isfinite().all()
    assert logits.dtype == torch.float32
    assert len(logits[:, 0].unique()) > 0.9 * len(logits)


def test_what_a_loss_needs_is_given_in_training_alone():
    tokens = some_tokens()
    head = made("sdl").train()
    output = head(tokens)
    matrix, vectors = output.details["matrix"], output.details["label_vectors"]
    assert (matrix.shape, vectors.shape) == ((2, WIDTH, 3), (N, WIDTH))
    torch.testing.assert_close(torch.einsum("bwk,nw->bkn", matrix, vectors).amax(dim=1), output.logits)
    assert tuple(output.details) == HEADS["sdl"].config_class.gives
    head = made("lesa").train()
    output = head(tokens)
    assert {name: tuple(detail.shape) for name, detail in output.details.items()} == {
        "attention_logits": (2, 3, N),
        "mean_logits": (2, N),
        "attention_scores": (2, 3, 12),
    }
    torch.testing.assert_close(output.details["attention_logits"].amax(dim=1), output.logits)
    assert tuple(output.details) == HEADS["lesa"].config_class.gives
    for kind in MADE:
        assert isinstance(made(kind).eval()(tokens), torch.Tensor)


@pytest.mark.parametrize("kind", ["lesa", "attention per label", "biam"])
def test_convolutions_need_a_grid(kind):
    for tokens in (torch.randn(2, 12, C), Tokens(torch.randn(2, 12, C), None)):
        with pytest.raises(ValueError, match=r"(LESA|BiAM) has convolutions, which need the grid of the tokens"):
            made(kind)(tokens)


def test_wrong_sizes_are_named():
    with pytest.raises(ValueError, match="top_k=13: the tokens have 12 places"):
        BiAM(C, N, dim=8, num_heads=2, top_k=13, label_embeddings=known())(some_tokens())
    for build in (
        lambda: BiAM(C, N, dim=9, num_heads=2, label_embeddings=known()),
        lambda: BiAMConfig(name="biam", dim=9, num_heads=2, label_embeddings=LabelEmbeddingsConfig(source="random:3")),
    ):
        with pytest.raises(ValueError, match=r"dim=9.*num_heads=2"):
            build()
    with pytest.raises(ValueError, match="activation"):
        ConSE(C, N, activation="tanh", label_embeddings=known())


@pytest.mark.parametrize("kind", MADE)
def test_initial_logits_do_not_depend_on_the_length_of_the_vectors(kind):
    build, settings = MADE[kind]
    logits = []
    for scale in (1.0, 50.0):
        torch.manual_seed(0)
        vectors = scale * nn.functional.normalize(torch.randn(N, WIDTH), dim=1)
        embeddings = LabelEmbeddings(NAMES, vectors, "a test")
        logits.append(build(C, N, **settings, label_embeddings=embeddings, normalize="none").eval()(some_tokens()))
    torch.testing.assert_close(*logits)


def test_lesa_starts_as_published():
    weight = lesa.variance_scaled(500, 2000)
    assert float(weight.std()) == pytest.approx((2 / 500) ** 0.5, rel=0.01)
    assert float(weight.abs().max()) <= 2 * (2.6 / 500) ** 0.5


def test_a_graph_of_conse_takes_the_vectors_of_any_labels(tmp_path):
    """Graphs of other heads are compared in tests/engine/test_embedding_head_training.py."""
    torch.set_default_dtype(torch.float32)
    head = made("conse", projection=7)

    class Patches(nn.Module):
        def forward(self, images):
            return Tokens(images.unfold(2, 2, 2).unfold(3, 2, 2).mean(dim=(4, 5)).flatten(2).transpose(1, 2), GRID)

    scorer = Scorer(Classifier(Patches(), head), softmax=False).eval()
    example = (torch.randn(2, C, 8, 6), torch.randn(3, WIDTH))
    write_program(scorer, example, tmp_path / "head.pt2", {})
    run, _ = read_program(tmp_path / "head.pt2", [])
    for batch, labels in ((2, 3), (1, 1), (4, 9)):
        images, vectors = torch.randn(batch, C, 8, 6), torch.randn(labels, WIDTH)
        names = tuple(f"new {i}" for i in range(labels))
        head.vocabulary.set_labels(names, LabelEmbeddings(names, vectors, "a test"))
        head.vocabulary.known = known()  # the next ones have other vectors
        with torch.no_grad():
            torch.testing.assert_close(run([images, vectors])[1], scorer(images)[1])


def test_projection_maps_tokens_and_keeps_their_places():
    tokens = Tokens(torch.randn(2, 6, C), (2, 3), torch.randn(2, 1, C))
    same, mapped = TokenProjection(C), TokenProjection(C, 4)
    assert same(tokens) == tokens
    assert (same.out_features, mapped.out_features) == (C, 4)
    assert not list(same.parameters())
    out = mapped(tokens)
    assert (out.values.shape, out.grid, out.prefix.shape) == ((2, 6, 4), (2, 3), (2, 1, 4))
    torch.testing.assert_close(out.values, mapped.linear(tokens.values).relu())
    torch.testing.assert_close(mapped(tokens.values).values, out.values)
    assert mapped(tokens.values).grid is None


@pytest.mark.parametrize("kind", ["lesa", "attention per label", "biam"])
def test_one_image_of_one_token_is_trained_with_running_statistics(kind):
    head = made(kind, **({"dropout": 0.0, "scene_dropout": 0.0, "top_k": 1} if kind == "biam" else {}))
    tokens = Tokens(torch.randn(1, 1, C), (1, 1))
    trained = head.train()(tokens)
    torch.testing.assert_close(getattr(trained, "logits", trained), head.eval()(tokens))
