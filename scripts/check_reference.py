"""Compare heads and losses with what the published code of each method gave: python scripts/check_reference.py FILE

FILE is a JSON file of cases: seeded inputs and weights, by recipe, and the logits, losses and gradients that the
published code computed from them in float64. Each case is computed again by mldec's own modules. One line per family
of cases says how far the two are apart at most; cases that mldec has nothing for are listed. The exit status is 1 if a
case differs by more than 1e-5, relative to the largest expected value.
"""

from __future__ import annotations

import json
import math
import sys
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mldec import losses
from mldec.losses import lesa as lesa_losses
from mldec.models import heads, method_layout, published_methods
from mldec.models.heads.conse import conse_scores
from mldec.models.heads.label_graph import normalised_adjacency
from mldec.models.label_embeddings import LabelEmbeddings
from mldec.models.tokens import Tokens

ALLOWED = 1e-5
SMALL = 1e-20  # published masks of -100 leave less than this of an exact 0
NOISE = 1e-9  # gradient norms below this share of the largest one of a case are rounding errors

Case = Mapping[str, Any]
Tensors = Mapping[str, Tensor]


class Comparison(NamedTuple):
    """What was compared, "values" or "gradients", and the largest difference relative to the largest expected value."""

    what: str
    difference: float


# Inputs and weights of a case ----------------------------------------------------------------------------------------


def drawn(recipe: Mapping[str, Any]) -> Tensor:
    """The input that a recipe describes, float64."""
    random = np.random.RandomState(recipe["seed"])
    shape = recipe["shape"]
    x = random.standard_normal(shape) if recipe["draw"] == "standard_normal" else random.random_sample(shape)
    x = x * recipe.get("scale", 1.0)
    x = np.maximum(x, 0) if recipe.get("relu") else x
    if recipe.get("l2_normalize_rows"):
        x = x / np.linalg.norm(x, axis=-1, keepdims=True)
    return torch.from_numpy(np.asarray(x))


def weights_of(case: Case) -> dict[str, Tensor]:
    """The weights of a case by their published names, float64."""

    def draw(name: str, shape: Sequence[int]) -> np.ndarray:
        z = np.random.RandomState(zlib.crc32((case["salt"] + name).encode())).standard_normal(shape)
        if name.endswith(("running_var", "moving_variance")):
            return np.asarray(1 + 0.1 * abs(z))
        if len(shape) > 1:
            return z / math.sqrt(np.prod(shape[1:]))
        return np.asarray(0.1 * z + (name.endswith("weight") or name == "bn_gamma"))

    return {name: torch.from_numpy(draw(name, shape)) for name, shape in case["weights"].items()}


def tokens_of(features: Tensor) -> Tokens:
    """A map (B, C, H, W) as tokens."""
    return Tokens(features.flatten(2).transpose(1, 2), tuple(features.shape[2:]))  # type: ignore[arg-type]


def embeddings_of(words: Tensor) -> LabelEmbeddings:
    return LabelEmbeddings(tuple(f"label {n}" for n in range(len(words))), words, "the file")


def cooccurrence_of(case: Case) -> np.ndarray:
    """Counts of pairs of labels, with those of single labels on the diagonal."""
    counts = np.array(case["cooccurrence_counts"])
    np.fill_diagonal(counts, case["label_counts"])
    return counts


# Comparing -----------------------------------------------------------------------------------------------------------


def compare(expected: Any, found: Any, what: str = "values") -> Comparison:
    """Two arrays; shapes must agree. A value that is not finite differs infinitely."""
    a, b = (np.asarray(x.detach() if isinstance(x, Tensor) else x, dtype=np.float64) for x in (expected, found))
    if a.shape != b.shape:
        raise ValueError(f"expected shape {a.shape}, found {b.shape}")
    difference = float(abs(a - b).max() / max(abs(a).max(), SMALL)) if a.size else 0.0
    return Comparison(what, difference if math.isfinite(difference) else math.inf)


def compare_norms(expected: Mapping[str, float | None], found: Mapping[str, float | None]) -> Iterator[Comparison]:
    """Norms of gradients by name; None where no gradient arrives."""
    largest = max(value for value in expected.values() if value is not None)
    for name, value in expected.items():
        other = found[name]
        if value is None:
            yield Comparison("gradients", 0.0 if not other else math.inf)
        elif max(value, other or 0.0) > NOISE * largest:
            yield Comparison("gradients", abs(value - (other or 0.0)) / max(value, NOISE * largest))


def call(head: nn.Module, weights: Tensors, tokens: Tokens, **inputs: Any) -> Any:
    """The output of `head` with these weights, which must be all parameters that it has."""
    parameters, known = set(dict(head.named_parameters())), set(head.state_dict())
    if wrong := [*(parameters - set(weights)), *(set(weights) - known)]:
        raise ValueError(f"weights without a counterpart: {', '.join(sorted(wrong))}")
    return torch.func.functional_call(head, dict(weights), (tokens,), inputs)


def compare_head(
    case: Case, head: nn.Module, rename: Callable[[Tensors], Tensors], has_grid: bool = True, **inputs: Any
) -> Iterator[Comparison]:
    """Logits, and the norms of the gradients of their sum weighted by the cotangent, with the weights of the case.

    `rename` turns tensors with published names into the head's state dict; it must be differentiable. Without a grid
    the head does not know how its tokens lie.
    """
    published = weights_of(case)
    for name in case["grad_norms"]:
        published[name].requires_grad_()
    features = drawn(case["inputs"]["features"]).requires_grad_()
    head.eval()
    tokens = tokens_of(features) if has_grid else tokens_of(features)._replace(grid=None)
    logits = call(head, rename(published), tokens, **inputs)
    yield compare(case["logits"], logits)
    names = [name for name, tensor in published.items() if tensor.requires_grad]
    cotangent = drawn(case["cotangent"])
    total = (logits * cotangent).sum()
    found = torch.autograd.grad(total, [features, *(published[name] for name in names)], allow_unused=True)
    norms = [None if gradient is None else float(gradient.norm()) for gradient in found]
    yield from compare_norms({"features": case["grad_norm_features"]}, {"features": norms[0]})
    yield from compare_norms(case["grad_norms"], dict(zip(names, norms[1:], strict=True)))


def by_method(name: str) -> Callable[[Tensors], Tensors]:
    """The renaming of a published layout."""
    method = next(method for method in published_methods.METHODS if method.head == name)
    before = "classifier." if name == "csra" else ""

    def rename(tensors: Tensors) -> Tensors:
        found = method_layout.converted(method, {before + key: value for key, value in tensors.items()})
        return {key.removeprefix(method_layout.HEAD): value for key, value in found.items()}

    return rename


# Families of cases ---------------------------------------------------------------------------------------------------


def csra(case: Case) -> Iterator[Comparison]:
    given = case["settings"]
    head = heads.ClassSpecificResidualAttention(
        given["channels"], given["num_classes"], given["num_heads"], given["lam"]
    )
    yield from compare_head(case, head, by_method("csra"))


def ml_gcn(case: Case) -> Iterator[Comparison]:
    given, words = case["settings"], drawn(case["inputs"]["words"])
    counts, channels = cooccurrence_of(case), case["inputs"]["features"]["shape"][1]
    hidden = case["weights"]["gc1.weight"][1]
    head = heads.MLGCN(channels, len(words), embeddings_of(words), counts, hidden, given["t"], given["p"])
    yield compare(case["aux"]["A"], head.adjacency)
    yield compare(case["aux"]["normalised_adjacency"], normalised_adjacency(head.adjacency))
    yield from compare_head(case, head, by_method("ml_gcn"))


def ssgrl(case: Case) -> Iterator[Comparison]:
    """The features of a case are pooled by 2 x 2 already; without a grid our head does not pool them again."""
    given, words = case["settings"], drawn(case["inputs"]["words"])
    sizes = {"steps": given["time_step"], "hidden": given["intermediary_dim"], "output_dim": given["output_dim"]}
    head = heads.SSGRL(given["channels"], len(words), embeddings_of(words), **sizes, published=True)
    head.adjacency = drawn(case["inputs"]["adjacency"])
    yield from compare_head(case, head, by_method("ssgrl"), has_grid=False)


def add_gcn(case: Case) -> Iterator[Comparison]:
    channels, dim = case["inputs"]["features"]["shape"][1], case["weights"]["conv_transform.weight"][0]
    head = heads.ADDGCN(channels, case["settings"]["num_classes"], dim)
    rename = by_method("add_gcn")
    yield from compare_head(case, head, rename)
    if "logits_batchnorm_training" in case["aux"]:
        logits = call(head.train(), rename(weights_of(case)), tokens_of(drawn(case["inputs"]["features"])))
        yield compare(case["aux"]["logits_batchnorm_training"], logits)


def c_tran(case: Case) -> Iterator[Comparison]:
    given = case["settings"]
    sizes = (given["hidden"], given["num_classes"], given["heads"], given["layers"])
    head = heads.CTran(*sizes, label_masks=given["use_lmt"], published=True)
    known = torch.tensor(case["mask"]) if given["use_lmt"] else None
    keep = set(head.state_dict())  # without label masks the published network still has the states, unused

    def rename(tensors: Tensors) -> Tensors:
        return {name: tensor for name, tensor in by_method("c_tran")(tensors).items() if name in keep}

    extra: dict[str, Any] = {} if known is None else {"known": known}
    yield from compare_head(case, head, rename, **extra)
    logits = call(head, rename(weights_of(case)), tokens_of(drawn(case["inputs"]["features"])), **extra)
    loss, targets = losses.BinaryCrossEntropy(reduction="sum"), torch.tensor(case["targets"])
    yield compare(case["aux"]["loss_all_sum"], loss(logits, targets))
    yield compare(case["aux"]["loss_unknown_labels_only_sum"], loss(logits, targets, torch.tensor(case["mask"]) < 0))


def query2label(case: Case) -> Iterator[Comparison]:
    given, channels = case["settings"], case["inputs"]["features"]["shape"][1]
    first, others = given["keep_first_self_attn_dec"], given["keep_other_self_attn_dec"]
    head = heads.Query2Label(
        channels,
        given["num_classes"],
        given["d_model"],
        given["nhead"],
        given["dim_feedforward"],
        encoder_layers=given["enc_layers"],
        decoder_layers=given["dec_layers"],
        self_attention=("all" if others else "first") if first else "others" if others else "none",
        input_projection=given["input_proj"],
    )
    yield from compare_head(case, head, by_method("query2label"))


def sdl(case: Case) -> Iterator[Comparison]:
    given, words = case["settings"], drawn(case["inputs"]["words"])
    channels = case["inputs"]["features"]["shape"][1]
    head = heads.SDL(channels, len(words), given["num_rows"], label_embeddings=embeddings_of(words))
    yield from compare_head(case, head, by_method("sdl"))
    weight = weights_of(case)["embedding.weight"].requires_grad_()
    tokens, aux = tokens_of(drawn(case["inputs"]["features"])), case["aux"]
    logits, details = call(head.train(), {"embedding.weight": weight}, tokens)
    loss = losses.SdlLoss(given["weight"], unknown_weight=1)(logits, torch.tensor(case["targets"]), details=details)
    by_weight, by_matrix = torch.autograd.grad(loss, (weight, details["matrix"]), retain_graph=True)
    by_matrix = by_matrix.flatten(1)
    yield compare(aux["loss"], loss)
    yield compare(aux["loss_grad_embedding_image0_first_8"], by_matrix[0, :8], "gradients")
    yield compare(aux["loss_grad_embedding_norm"], by_matrix.norm(), "gradients")
    yield compare(aux["loss_grad_weight_norm"], by_weight.norm(), "gradients")


def lesa(case: Case) -> Iterator[Comparison]:
    given, words = case["settings"], drawn(case["inputs"]["words"])
    channels = case["inputs"]["features"]["shape"][1]
    head = heads.LESA(channels, len(words), given["T"], label_embeddings=embeddings_of(words))
    rename = by_method("lesa")
    yield from compare_head(case, head, rename)
    tokens, signs = tokens_of(drawn(case["inputs"]["features"])), torch.tensor(case["labels_pm1"])
    logits, _ = call(head.train(), rename(weights_of(case)), tokens)
    yield compare(case["aux"]["logits_batchnorm_training"], logits)
    for module in head.modules():
        module.train(not isinstance(module, nn.BatchNorm2d))
    head.training = True
    logits, details = call(head, rename(weights_of(case)), tokens)
    positive, absent = signs > 0, (signs < 0).to(logits.dtype)
    yield compare(case["aux"]["loss_dist"], lesa_losses.distribution_loss(details["attention_logits"], positive).mean())
    below = lesa_losses.global_loss(logits, details["mean_logits"], positive, absent)
    yield compare(case["aux"]["loss_global"], below)
    yield compare(case["aux"]["loss_span"], lesa_losses.span_loss(details["attention_scores"]))


def biam(case: Case) -> Iterator[Comparison]:
    given, words = case["settings"], drawn(case["inputs"]["words"])
    channels, scene = case["inputs"]["features"]["shape"][1], drawn(case["inputs"]["global_features"])
    head = heads.BiAM(
        channels,
        len(words),
        dim=given["channel_dim"],
        num_heads=given["heads"],
        top_k=given["top_k"],
        label_embeddings=embeddings_of(words),
        scene_features=scene.shape[1],
    )
    yield from compare_head(case, head, by_method("biam"), scene=scene)


def conse(case: Case) -> Iterator[Comparison]:
    logits, trained, unseen = (drawn(case["inputs"][name]) for name in ("seen_logits", "seen_words", "unseen_words"))
    yield compare(
        case["scores"], conse_scores(logits, trained, unseen, case["settings"]["T"], case["settings"]["activation"])
    )


def compare_loss(case: Case, loss: nn.Module) -> Iterator[Comparison]:
    """Value and gradient of a loss with our targets: 1 present, 0 absent, -1 unknown."""
    inputs = case["inputs_of_losses"]
    logits = torch.tensor(inputs["logits"]).requires_grad_()
    value = loss(logits, torch.tensor(inputs[case["targets"]]))
    (gradient,) = torch.autograd.grad(value, logits)
    yield compare(case["loss"], value)
    yield compare(case["grad"], gradient, "gradients")


def hinge_ranking(case: Case) -> Iterator[Comparison]:
    """With the targets "positives" the published code was told that unknown labels are absent."""
    yield from compare_loss(case, losses.HingeRankingLoss(unknown_weight=float(case["targets"] == "targets_positives")))


def ranknet(case: Case) -> Iterator[Comparison]:
    yield from compare_loss(case, losses.RankNetLoss())


def two_way(case: Case) -> Iterator[Comparison]:
    """The authors leave unknown labels out."""
    yield from compare_loss(case, losses.TwoWayLoss(case["settings"]["tp"], case["settings"]["tn"]))


def two_way_of_timm(case: Case) -> Iterator[Comparison]:
    """timm counts them as absent."""
    loss = losses.TwoWayLoss(case["settings"]["tp"], case["settings"]["tn"], unknown_weight=1)
    yield from compare_loss(case, loss)


def zlpr(case: Case) -> Iterator[Comparison]:
    yield from compare_loss(case, losses.ZlprLoss(unknown_weight=1))


def distribution_balanced(case: Case) -> Iterator[Comparison]:
    settings = {name.replace("smoothing", "label_smoothing"): value for name, value in case["settings"].items()}
    counts = torch.tensor(case["class_counts"])
    yield from compare_loss(
        case, losses.DistributionBalancedLoss(counts, case["num_samples"], **settings, unknown_weight=1)
    )


#: The start of a case's name -> how it is computed. Of the kinds `head` and `port`,
FAMILIES: dict[str, Callable[[Case], Iterator[Comparison]]] = {
    "csra": csra,
    "mlgcn": ml_gcn,
    "ssgrl": ssgrl,
    "addgcn": add_gcn,
    "ctran": c_tran,
    "q2l": query2label,
    "sdl": sdl,
    "lesa": lesa,
    "biam": biam,
    "conse": conse,
}
#: and of the kind `loss`.
LOSSES: dict[str, Callable[[Case], Iterator[Comparison]]] = {
    "hinge_ranking": hinge_ranking,
    "ranknet": ranknet,
    "twoway_official": two_way,
    "twoway": two_way_of_timm,
    "zlpr": zlpr,
    "db": distribution_balanced,
}


KINDS = {"head": FAMILIES, "port": FAMILIES, "loss": LOSSES}


def main(path: Path) -> int:
    """Print a line per family; 1 if a case differs or cannot be computed, or if there is no case, else 0."""
    torch.set_default_dtype(torch.float64)
    cases = json.loads(path.read_text()).get("cases", [])
    inputs: Case = next((case for case in cases if case.get("kind") == "loss_inputs"), {})
    found: dict[str, list[Comparison]] = defaultdict(list)
    counts: dict[str, int] = defaultdict(int)
    apart, failed, unknown = [], [], []
    for number, case in enumerate(cases):
        name, families = str(case.get("name", f"case {number}")), KINDS.get(case.get("kind"), {})
        family = next((prefix for prefix in families if name.startswith(prefix)), None)
        if family is None:
            unknown += [name] if case is not inputs else []
            continue
        counts[family] += 1
        try:
            comparisons = list(families[family]({**case, "inputs_of_losses": inputs}))
        except Exception as error:  # whatever a case lacks or a head refuses: the others are compared all the same
            comparisons = []
            failed.append(f"{name} ({type(error).__name__}: {error})")
        found[family] += comparisons
        if not all(each.difference <= ALLOWED for each in comparisons):
            apart.append(name)
    for family, comparisons in found.items():
        parts = []
        for what in ("values", "gradients"):
            differences = [each.difference for each in comparisons if each.what == what]
            parts += [f"{what} by {max(differences):.1e}"] if differences else []
        print(f"{family}: {counts[family]} cases, at most apart: {', '.join(parts) or 'nothing compared'}")
    if unknown:
        print(f"not implemented: {len(unknown)} cases: {', '.join(unknown)}")
    if apart:
        print(f"more than {ALLOWED:g} apart: {', '.join(apart)}", file=sys.stderr)
    if failed:
        print(f"could not be computed: {', '.join(failed)}", file=sys.stderr)
    if not counts:
        print(f"{path}: no case that mldec has anything for", file=sys.stderr)
    return 1 if apart or failed or not counts else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1])))
