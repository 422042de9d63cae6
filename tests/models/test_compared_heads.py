"""The heads of other methods, each against an implementation in plain numpy that was written from its equations."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mldec.errors import DataError
from mldec.labels import LabelSpace
from mldec.models import heads
from mldec.models.classifier import Classifier
from mldec.models.heads import ADDGCN, MLGCN, SSGRL, ClassSpecificResidualAttention, CTran, GlobalAverageMaxPool
from mldec.models.heads.label_graph import conditional_probabilities, normalised_adjacency, reweighted_adjacency
from mldec.models.label_embeddings import LabelEmbeddings
from mldec.models.tokens import Tokens
from mldec.registry import HEADS

B, C, N, GRID = 3, 12, 5, (3, 4)
T = GRID[0] * GRID[1]
COUNTS = np.array([[9, 4, 0, 1, 0], [4, 5, 2, 0, 0], [0, 2, 8, 3, 0], [1, 0, 3, 3, 0], [0, 0, 0, 0, 0]])


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def tokens():
    return Tokens(torch.randn(B, T, C), GRID)


def embeddings(width: int = 7) -> LabelEmbeddings:
    vectors = torch.randn(N + 1, width, dtype=torch.float64)
    return LabelEmbeddings(tuple(f"label {n}" for n in range(N + 1)), vectors, "a test")


def arrays(head: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in head.state_dict().items()}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def leaky(x):
    return np.where(x > 0, x, 0.2 * x)


def make(name: str) -> nn.Module:
    """A head of each method, small."""
    return {
        "csra": lambda: ClassSpecificResidualAttention(C, N, num_heads=4, residual=0.3),
        "gap_gmp": lambda: GlobalAverageMaxPool(C, N),
        "ml_gcn": lambda: MLGCN(C, N, embeddings(), COUNTS, hidden=6),
        "ssgrl": lambda: SSGRL(C, N, embeddings(), COUNTS, steps=2, hidden=6, output_dim=8),
        "add_gcn": lambda: ADDGCN(C, N, dim=6),
        "c_tran": lambda: CTran(C, N, num_heads=2, num_layers=2),
    }[name]()


HEAD_NAMES = ("csra", "gap_gmp", "ml_gcn", "ssgrl", "add_gcn", "c_tran")


# Values ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_heads", "taus"),
    [
        (1, [1]),
        (2, [1, 99]),
        (3, [1, 2, 99]),
        (4, [1, 2, 4, 99]),
        (6, [1, 2, 3, 4, 5, 99]),
        (8, [1, 2, 3, 4, 5, 6, 7, 99]),
    ],
)
def test_csra_adds_an_attended_score_to_the_mean_score(tokens, num_heads, taus):
    head = ClassSpecificResidualAttention(C, N, num_heads, residual=0.3)
    x, weight = tokens.values.numpy(), arrays(head)["weight"]
    expected = np.zeros((B, N))
    for b in range(B):
        for n in range(N):
            for w, tau in zip(weight[:, n], taus, strict=True):
                scores = np.array([w @ token for token in x[b]]) / np.sqrt(w @ w)
                attention = np.exp(tau * scores) / np.exp(tau * scores).sum()
                attended = scores.max() if tau == 99 else attention @ scores
                expected[b, n] += scores.mean() + 0.3 * attended
    np.testing.assert_allclose(head(tokens).detach(), expected, rtol=1e-12)


def test_graph_of_co_occurrence_follows_the_published_rule():
    """Row i of P is given by the images of label i; sums over columns; the transpose of A is what is normalised."""
    p = np.zeros((N, N))
    for i in range(N):
        for j in range(N):
            p[i, j] = COUNTS[i, j] / COUNTS[i, i] if i != j and COUNTS[i, i] else 0
    np.testing.assert_allclose(conditional_probabilities(COUNTS), p)
    edges = (p >= 0.4).astype(float)
    assert edges.sum() == 4
    assert not (edges == edges.T).all()
    a = np.eye(N)
    for i in range(N):
        for j in range(N):
            a[i, j] += 0.25 * edges[i, j] / (edges[:, j].sum() + 1e-6)
    found = reweighted_adjacency(torch.from_numpy(p), 0.4, 0.2)
    np.testing.assert_allclose(found, a)
    d = np.diag(a.sum(axis=1) ** -0.5)
    np.testing.assert_allclose(normalised_adjacency(found), (a @ d).T @ d)


def test_ml_gcn_computes_classifiers_from_the_graph(tokens):
    head = make("ml_gcn")
    parts = arrays(head)
    graph = normalised_adjacency(head.adjacency).numpy()
    hidden = leaky(graph @ head.vectors.numpy() @ parts["weight1"])
    classifiers = graph @ hidden @ parts["weight2"]
    expected = tokens.values.numpy().max(axis=1) @ classifiers.T
    np.testing.assert_allclose(head(tokens).detach(), expected, rtol=1e-12)
    np.testing.assert_array_equal(head.vectors, head.label_embeddings.vectors[:N])


@pytest.mark.parametrize("published", [False, True])
def test_ssgrl_exchanges_attended_features_over_the_graph(tokens, published):
    head = SSGRL(C, N, embeddings(), COUNTS, steps=2, hidden=6, output_dim=8, published=published)
    p, v, x = arrays(head), head.vectors.numpy(), tokens.values.numpy()
    gates = {"update": "update", "reset": "update" if published else "reset", "state": "state"}
    expected = np.zeros((B, N))
    for b in range(B):
        f = np.zeros((N, C))
        for n in range(N):
            logits = []
            for t in range(T):
                joint = np.tanh((p["token_map.weight"] @ x[b, t]) * (p["label_map.weight"] @ v[n]))
                u = p["joint_map.weight"] @ joint + p["joint_map.bias"]
                logits.append(p["attention.weight"][0] @ u + p["attention.bias"][0])
            alpha = np.exp(logits) / np.exp(logits).sum()
            f[n] = alpha @ x[b]
        h, a = f, p["adjacency"]
        for _ in range(2):
            received = np.concatenate([a @ h, a.T @ h], axis=1)

            def gate(name, state, received=received):
                own = gates[name]
                mapped = received @ p[f"{name}_in.weight"].T + p[f"{name}_in.bias"]
                return mapped + state @ p[f"{own}_own.weight"].T + p[f"{own}_own.bias"]

            z, r = sigmoid(gate("update", h)), sigmoid(gate("reset", h))
            h = (1 - z) * h + z * np.tanh(gate("state", r * h))
        o = np.tanh(np.concatenate([h, f], axis=1) @ p["output.weight"].T + p["output.bias"])
        expected[b] = (p["weight"] * o).sum(axis=1) + p["bias"]
    np.testing.assert_allclose(head(tokens).detach(), expected, rtol=1e-10)


def test_ssgrl_averages_large_maps_over_2_by_2_tokens():
    head = make("ssgrl")
    x = torch.randn(B, 14 * 15, C)
    pooled = nn.functional.avg_pool2d(x.transpose(1, 2).unflatten(2, (14, 15)), 2).flatten(2).transpose(1, 2)
    torch.testing.assert_close(head(Tokens(x, (14, 15))), head(Tokens(pooled, (7, 7))))
    maps = head.maps(Tokens(x, (14, 15)), "attention")
    assert maps.shape == (B, N, 14 * 15)
    torch.testing.assert_close(maps.sum(dim=2), torch.ones(B, N))
    torch.testing.assert_close(maps.unflatten(2, (14, 15))[..., 0, 0], maps.unflatten(2, (14, 15))[..., 1, 1])


def test_add_gcn_averages_the_scores_of_maps_and_of_graphs(tokens):
    head = make("add_gcn").eval()
    head.image_norm.running_mean.normal_()
    head.image_norm.running_var.uniform_(0.5, 2)
    p, x = arrays(head), tokens.values.numpy()

    def linear(name, value):
        return value @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    expected = np.zeros((B, N))
    for b in range(B):
        m = p["label_map.weight"] @ x[b].T  # (N, T)
        v = sum(np.outer(sigmoid(m[:, t]), linear("token_map", x[b, t])) for t in range(T))  # (N, D)
        u = v + leaky(linear("static_map", leaky(p["static_graph.weight"] @ v)))
        g = linear("image_map", u.mean(axis=0))
        scale = p["image_norm.weight"] / np.sqrt(p["image_norm.running_var"] + 1e-5)
        g = leaky((g - p["image_norm.running_mean"]) * scale + p["image_norm.bias"])
        graph = np.stack([sigmoid(linear("dynamic_graph", np.concatenate([g, u[j]]))) for j in range(N)], axis=1)
        mixed = np.stack([sum(graph[i, j] * u[i] for i in range(N)) for j in range(N)])
        z = leaky(linear("dynamic_map", leaky(mixed)))
        expected[b] = (m.max(axis=1) + (p["fc.weight"] * (v + z)).sum(axis=1) + p["fc.bias"]) / 2
    np.testing.assert_allclose(head(tokens).detach(), expected, rtol=1e-10)


def test_add_gcn_trains_on_a_single_image_with_running_statistics(tokens):
    head = make("add_gcn").train()
    one = Tokens(tokens.values[:1], GRID)
    torch.testing.assert_close(head(one), head.eval()(one))


def test_a_single_image_takes_part_in_the_statistics_of_all_processes(tokens, monkeypatch):
    """The others, which may have more images, would wait for it for ever."""
    called = []
    monkeypatch.setattr(nn.SyncBatchNorm, "forward", lambda self, x: called.append(x.shape) or x)
    head = nn.SyncBatchNorm.convert_sync_batchnorm(make("add_gcn")).train()
    head(Tokens(tokens.values[:1], GRID))
    assert called == [(1, 6)]


def test_c_tran_adds_the_state_of_each_label(tokens):
    head = make("c_tran").eval()
    known = torch.tensor([[1, 0, -1, -1, 1], [-1] * N, [0] * N])
    states = head.states.weight
    torch.testing.assert_close(states[0], torch.zeros(C))
    x = torch.cat([tokens.values, (head.labels.weight + states[known + 1])], dim=1)
    x = head.norm(x)
    for layer in head.layers:
        reference = nn.TransformerEncoderLayer(C, 2, C, dropout=0.0, batch_first=True)
        reference.load_state_dict(layer.state_dict())
        x = reference(x)
    expected = torch.einsum("bnd,nd->bn", x[:, -N:], head.fc.weight) + head.fc.bias
    torch.testing.assert_close(head(tokens, known), expected)
    torch.testing.assert_close(head(tokens, torch.full((B, N), -1)), head(tokens))
    assert not torch.allclose(head(tokens, known)[0], head(tokens)[0])


def test_c_tran_without_label_masks_cannot_be_told_labels(tokens):
    head = CTran(C, N, num_heads=2, label_masks=False)
    assert not Classifier(nn.Identity(), head).reads_known_labels
    with pytest.raises(ValueError, match="label_masks=false"):
        head(tokens, torch.zeros(B, N, dtype=torch.int8))


def test_c_tran_tells_between_none_and_three_quarters_of_the_labels():
    head = CTran(C, 40, num_heads=2)
    targets = torch.randint(-1, 2, (2000, 40), dtype=torch.int8)
    drawn = head.draw_known(targets, torch.Generator().manual_seed(0))
    told = drawn >= 0
    assert drawn.dtype == torch.int8
    assert (drawn[told] == targets[told]).all()
    everything = head.draw_known(torch.ones(2000, 40, dtype=torch.int8), torch.Generator().manual_seed(0))
    counts = (everything == 1).sum(dim=1)
    assert counts.min() == 0
    assert counts.max() == 30
    assert abs(counts.double().mean() - 15) < 1
    assert ((everything == 1).double().mean(dim=0) - 0.375).abs().max() < 0.05  # no label is told more than others
    again = head.draw_known(targets, torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn, again)


def test_average_and_maximum_pooling_side_by_side(tokens):
    head = make("gap_gmp")
    weight = head.fc.weight
    pooled = tokens.values.mean(dim=1) @ weight[:, :C].T + tokens.values.amax(dim=1) @ weight[:, C:].T
    torch.testing.assert_close(head(tokens), pooled + head.fc.bias)


# Properties of all ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HEAD_NAMES)
def test_the_logits_of_an_image_do_not_depend_on_the_batch(name, tokens):
    head = make(name).eval()
    for row in range(B):
        torch.testing.assert_close(head(tokens)[row], head(Tokens(tokens.values[row : row + 1], GRID))[0])


@pytest.mark.parametrize("name", HEAD_NAMES)
def test_every_trained_parameter_gets_a_gradient(name, tokens):
    """An unused parameter would stop training on several devices."""
    head = make(name).train()
    targets = torch.zeros(B, N, dtype=torch.int8)
    known = {"known": head.draw_known(targets, torch.Generator())} if name == "c_tran" else {}
    (head(tokens, **known) * torch.randn(B, N)).sum().backward()
    unused = [key for key, value in head.named_parameters() if value.requires_grad and value.grad is None]
    assert unused == []


@pytest.mark.parametrize("name", ["csra", "gap_gmp", "ml_gcn"])
def test_maps_add_up_to_the_logits(name, tokens):
    head = make(name)
    bias = head.fc.bias if name == "gap_gmp" else 0.0
    torch.testing.assert_close(head.maps(tokens).sum(dim=2) + bias, head(tokens))


def test_the_maps_of_add_gcn_leave_out_what_the_dynamic_graph_adds(tokens):
    head = make("add_gcn").eval()
    features = head.label_map(tokens.values).transpose(1, 2).sigmoid() @ head.token_map(tokens.values)
    left_out = (head._exchange(features) * head.fc.weight).sum(dim=2) + head.fc.bias
    torch.testing.assert_close(head.maps(tokens).sum(dim=2), head(tokens) - left_out / 2)


def test_the_maps_of_ssgrl_are_what_a_token_s_share_of_its_label_s_feature_changes(tokens):
    head = make("ssgrl")
    features, attention, values = (part.detach() for part in head._decouple(tokens))
    own = features.clone().requires_grad_()
    state = head._step(head._step(features))
    outputs = torch.tanh(head.output(torch.cat([state, own], dim=2)))
    (gradient,) = torch.autograd.grad((outputs * head.weight).sum(), own)
    torch.testing.assert_close(head.maps(tokens), attention * (gradient @ values.transpose(1, 2)))


def test_the_attention_maps_of_c_tran_are_those_of_its_last_layer(tokens):
    head = make("c_tran").eval()
    sequence = head.layers[0](head._embed(tokens, None))
    weights = head.layers[1].self_attn.weights(sequence, sequence).mean(dim=1)
    torch.testing.assert_close(head.maps(tokens, "attention"), weights[:, T:, :T])
    assert head.maps(tokens).shape == (B, N, T)


@pytest.mark.parametrize("name", ["csra", "ssgrl", "c_tran"])
def test_attention_maps_are_distributions_over_the_tokens(name, tokens):
    maps = make(name).eval().maps(tokens, "attention")
    assert maps.shape == (B, N, T)
    assert (maps >= 0).all()
    total = maps.sum(dim=2)
    if name == "c_tran":  # labels attend to labels too
        assert (total < 1).all()
        assert (total > 0.3).all()
    else:
        torch.testing.assert_close(total, torch.ones(B, N))


@pytest.mark.parametrize("name", ["gap_gmp", "ml_gcn", "add_gcn"])
def test_heads_without_attention_say_so(name, tokens):
    with pytest.raises(DataError, match="no attention"):
        make(name).maps(tokens, "attention")


@pytest.mark.parametrize("name", ["csra", "ml_gcn", "ssgrl", "add_gcn", "c_tran"])
def test_tokens_can_be_mapped_to_another_width_first(name, tokens):
    labels = LabelSpace([f"label {n}" for n in range(N)])
    component = HEADS[name]
    extra = {} if name in ("csra", "add_gcn", "c_tran") else {"label_embeddings": embeddings(), "cooccurrence": COUNTS}
    settings = {} if not extra else {"label_embeddings": {"source": "random:7"}}
    config = component.config_class(name=name, projection=8, **settings)
    head = component.build(config, in_features=C, labels=labels, **extra).eval()
    mapped = torch.relu(head.projection.linear(tokens.values))
    assert mapped.shape == (B, T, 8)
    logits = head(tokens)
    head.projection.linear = None
    torch.testing.assert_close(head(Tokens(mapped, GRID)), logits)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="1 to 8"):
        ClassSpecificResidualAttention(C, N, num_heads=9)
    with pytest.raises(ValueError, match="label embeddings of 6 labels for 7 classes"):
        MLGCN(C, 7, embeddings())
    with pytest.raises(ValueError, match="there are 4 classes"):
        MLGCN(C, 4, embeddings(), COUNTS)
    with pytest.raises(ValueError, match="num_heads=5"):
        CTran(C, N, num_heads=5)


@pytest.mark.parametrize("name", HEAD_NAMES)
def test_its_graph_gives_the_same_logits_for_any_number_of_images(name, tokens):
    """What `mldec export` traces."""
    torch.set_default_dtype(torch.float32)
    head = make(name).float().eval()

    class OnTokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = head

        def forward(self, values):
            return self.head(Tokens(values, GRID))

    values = tokens.values.float()
    program = torch.export.export(OnTokens(), (values,), dynamic_shapes=({0: torch.export.Dim("images", min=1)},))
    with torch.no_grad():
        for images in (values, values[:2]):
            torch.testing.assert_close(program.module()(images), head(Tokens(images, GRID)))


def test_each_head_is_one_short_module():
    """At most 150 lines of code: without comments, docstrings and blank lines."""
    folder = Path(heads.__file__).parent
    for path in sorted(folder.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        quoted = {
            line
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
            for line in range(node.lineno, (node.end_lineno or 0) + 1)
        }
        lines = [line.strip() for number, line in enumerate(text.splitlines(), 1) if number not in quoted]
        assert sum(bool(line) and not line.startswith("#") for line in lines) <= 150, path.name
