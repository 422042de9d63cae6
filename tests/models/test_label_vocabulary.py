"""A decoder with label embeddings: its logits do not depend on the other query labels, and equal the equations."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mldec.errors import DataError
from mldec.models.classifier import Classifier
from mldec.models.heads import GlobalAveragePool, MLDecoder, ZeroShotMLDecoder
from mldec.models.label_embeddings import LabelEmbeddings
from mldec.models.label_vocabulary import LabelVocabulary, QueryAugment

SMALL = {"dim": 16, "num_heads": 4, "ffn_dim": 32, "dropout": 0.0}
TRAINED = tuple(f"trained {n}" for n in range(11))
NEW = tuple(f"new {n}" for n in range(9))
KNOWN = LabelEmbeddings((*TRAINED, *NEW), torch.randn(20, 6, generator=torch.Generator().manual_seed(0)), "a test")

#: Table 8's combinations in which a label embedding takes part.
COMBINATIONS = [("label_embeddings", "group"), ("label_embeddings", "shared"), ("fixed", "label_embeddings")]
COMBINATIONS += [("learnable", "label_embeddings"), ("label_embeddings", "label_embeddings")]


def decoder(queries="label_embeddings", fc="shared", groups=None, **settings):
    torch.manual_seed(1)
    head = (
        ZeroShotMLDecoder(8, 11, groups, **{**SMALL, **settings}, queries=queries, fc=fc, label_embeddings=KNOWN)
        .double()
        .eval()
    )
    for parameter in head.fc.parameters():  # biases too, which start at zero
        nn.init.normal_(parameter)
    return head


def tokens(images=3):
    return torch.randn(images, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def answers(head, names):
    """Logits by name."""
    head.vocabulary.set_labels(names)
    return dict(zip(names, head(tokens()).unbind(1), strict=True))


def assert_same(ours, theirs):
    for name in set(ours) & set(theirs):
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-12, msg=name)


QUESTIONS = [
    TRAINED,
    TRAINED[::-1],
    TRAINED[4:6],
    NEW,
    NEW[:1],
    (NEW[3], TRAINED[7], NEW[1]),
    (*TRAINED, *NEW),
    (*NEW[::-1], *TRAINED[::-1]),
]


@pytest.mark.parametrize("fc", ["shared", "label_embeddings"])
def test_under_full_decoding_with_word_queries_a_label_does_not_depend_on_which_others_are_asked_for(fc):
    head = decoder("label_embeddings", fc)
    everything = answers(head, (*TRAINED, *NEW))
    for names in QUESTIONS:
        assert_same(answers(head, names), everything)


@pytest.mark.parametrize("queries", ["fixed", "learnable"])
def test_with_other_queries_new_labels_join_those_of_trained_ones_in_turn(queries):
    """So the logit of a new label depends on its position among the others: independence holds for embeddings only."""
    head = decoder(queries, "label_embeddings")
    first, second = answers(head, NEW[:2]), answers(head, NEW[1::-1])
    assert not torch.allclose(first[NEW[0]], second[NEW[0]])


@pytest.mark.parametrize("grouping", ["contiguous", "random"])
@pytest.mark.parametrize("groups", [None, 4, 3, 1])
@pytest.mark.parametrize(("queries", "fc"), COMBINATIONS)
def test_what_is_said_of_trained_labels_never_depends_on_the_question(queries, fc, groups, grouping):
    head = decoder(queries, fc, groups, grouping=grouping)
    everything = answers(head, TRAINED)
    for names in QUESTIONS:
        found = answers(head, names)
        assert all(value.shape == (3,) for value in found.values())
        assert_same(found, everything)


@pytest.mark.parametrize("grouping", ["contiguous", "random"])
@pytest.mark.parametrize("groups", [None, 5, 4, 2])
@pytest.mark.parametrize(("queries", "fc"), COMBINATIONS)
def test_equals_the_equations_written_as_loops(queries, fc, groups, grouping):
    """Equations 10 and 11 one label after the other, for the trained labels; D / g is not whole for any of these."""
    head = decoder(queries, fc, groups, grouping=grouping, grouping_seed=3)
    size = math.ceil(11 / (groups or 11))
    place = list(range(11))
    if grouping == "random":
        place = torch.randperm(11, generator=torch.Generator().manual_seed(3)).tolist()
    vectors = KNOWN.vectors.double()
    logits = head(tokens())
    memory = F.relu(head.input_projection(tokens()))
    for label in range(11):
        group = place[label] // size
        members = [other for other in sorted(range(11), key=place.__getitem__) if place[other] // size == group]
        members = [members[slot % len(members)] for slot in range(size)]  # the last group repeats its labels
        if queries == "label_embeddings":
            parts = [F.relu(head.queries.projection(vectors[member])) for member in members]
            query = torch.cat(parts)[:16]
            assert len(torch.cat(parts)) == size * math.ceil(16 / size)
        else:
            query = head.queries.weight[group]
        embedding = head.layers[0](query.expand(3, 1, -1), memory)[:, 0]
        if fc == "label_embeddings":
            expected = embedding @ head.fc.weight @ vectors[label] + head.fc.bias
        elif fc == "shared":
            slot = place[label] % size
            expected = embedding @ head.fc.weight[:, slot] + head.fc.bias[slot]
        else:
            expected = embedding @ head.fc.weight[group, :, place[label] % size] + head.fc.bias[label]
        torch.testing.assert_close(logits[:, label], expected)


def test_new_labels_come_in_groups_of_their_own_made_as_the_trained_ones_are():
    head = decoder(fc="label_embeddings", groups=4)
    found = answers(head, NEW[:4])
    for group, names in ((0, NEW[:3]), (1, (NEW[3], NEW[3], NEW[3]))):
        vectors = KNOWN.select(list(dict.fromkeys(names))).vectors.double()
        vectors = vectors.expand(3, -1) if len(vectors) == 1 else vectors
        query = F.relu(head.queries.projection(vectors)).flatten()[:16]
        embedding = head.layers[0](query.expand(3, 1, -1), F.relu(head.input_projection(tokens())))[:, 0]
        for name, vector in zip(names, vectors, strict=True):
            torch.testing.assert_close(found[name], embedding @ head.fc.weight @ vector + head.fc.bias)
        assert (head.query_of_labels() == torch.tensor([0, 0, 0, 1])).all(), group


def test_with_learned_outputs_new_labels_borrow_those_of_trained_groups_in_turn():
    """What they say of them is chance, but each place has its own: with equal weights the order would be a tie."""
    head = decoder(fc="group", groups=4)
    found = answers(head, NEW[:7])
    memory = F.relu(head.input_projection(tokens()))
    for number, (name, logits) in enumerate(found.items()):
        group, slot = divmod(number, 3)
        names = NEW[:7][3 * group : 3 * group + 3]
        vectors = KNOWN.select(names).vectors.double().expand(3, -1)  # the last group repeats its one label
        query = F.relu(head.queries.projection(vectors)).flatten()[:16]
        embedding = head.layers[0](query.expand(3, 1, -1), memory)[:, 0]
        expected = embedding @ head.fc.weight[group, :, slot] + head.fc.bias[number]
        torch.testing.assert_close(logits, expected, msg=name)


def test_only_the_queries_that_are_asked_for_are_computed():
    head = decoder()
    seen = []
    head.layers[0].norm1.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    for names in (TRAINED, TRAINED[2:5], (*NEW, TRAINED[0])):
        answers(head, names)
    assert seen == [11, 3, 10]


@pytest.mark.parametrize(("queries", "fc"), COMBINATIONS)
@pytest.mark.parametrize("groups", [None, 4])
def test_attention_and_queries_of_labels_agree_with_the_logits(queries, fc, groups):
    head = decoder(queries, fc, groups)
    head.vocabulary.set_labels((*NEW, *TRAINED))
    weights = head.attention_weights(tokens())
    queries_of = head.query_of_labels()
    assert queries_of.shape == (20,)
    assert weights.shape[2] == int(queries_of.max()) + 1 or queries != "label_embeddings"
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))


@pytest.mark.parametrize("fc", ["group", "shared", "label_embeddings"])
def test_centred_vectors_do_not_depend_on_origin_and_length(fc):
    torch.manual_seed(1)
    moved = LabelEmbeddings(KNOWN.names, 3 * KNOWN.vectors + torch.randn(6), "a test")
    heads = []
    for embeddings in (KNOWN, moved):
        torch.manual_seed(1)
        heads.append(
            ZeroShotMLDecoder(
                8,
                11,
                4,
                **SMALL,
                queries="label_embeddings",
                fc=fc,
                label_embeddings=embeddings,
                normalize="centered",
            ).eval()
        )
    for names in QUESTIONS:
        for head in heads:
            head.vocabulary.set_labels(names)
        ours, theirs = (head(tokens().float()) for head in heads)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("normalize", ["none", "unit", "centered"])
def test_normalized_vectors_have_the_promised_length(normalize):
    embeddings = LabelVocabulary(KNOWN, 11, 11, normalize=normalize)
    embeddings.set_labels((*NEW, TRAINED[0]))
    lengths = embeddings().vectors[:, 0].norm(dim=1)
    expected = {"none": KNOWN.select((TRAINED[0], *NEW)).vectors.norm(dim=1), "unit": torch.ones(10)}
    torch.testing.assert_close(lengths, expected.get(normalize, torch.full((10,), 6**0.5)))
    embeddings.set_labels(TRAINED)
    vectors = embeddings().vectors[:, 0]
    assert embeddings.length() == pytest.approx(vectors.square().sum(1).mean().sqrt().item())


def test_logits_begin_with_a_variance_of_about_one_for_vectors_of_any_length():
    torch.manual_seed(0)
    for scale in (0.05, 1.0, 20.0):
        embeddings = LabelEmbeddings(tuple(map(str, range(400))), scale * torch.randn(400, 64), "a test")
        head = ZeroShotMLDecoder(
            8, 400, fc="label_embeddings", queries="label_embeddings", label_embeddings=embeddings, dim=64
        ).eval()
        assert 0.5 < head(torch.randn(20, 9, 8)).std().item() < 2


# Augmentation ---------------------------------------------------------------------------------------------------------

AUGMENT = QueryAugment(noise=0.5, random=5, cutout=0.25)


@pytest.mark.parametrize("groups", [None, 4])
@pytest.mark.parametrize(("queries", "fc"), COMBINATIONS)
def test_augmentation_is_off_in_evaluation_and_adds_random_queries_in_training(queries, fc, groups):
    plain, varied = decoder(queries, fc, groups), decoder(queries, fc, groups, augment=AUGMENT)
    for names in QUESTIONS:
        assert_same(answers(varied, names), answers(plain, names))
    varied.vocabulary.set_labels(TRAINED)
    varied.train()
    first, second = varied(tokens()), varied(tokens())
    assert first.shape == (3, 16)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("groups", [None, 4, 3])
@pytest.mark.parametrize(("queries", "fc"), COMBINATIONS)
def test_random_queries_alone_leave_the_labels_as_they_are(queries, fc, groups):
    plain = decoder(queries, fc, groups)
    varied = decoder(queries, fc, groups, augment=QueryAugment(random=5)).train()
    logits = varied(tokens())
    torch.testing.assert_close(logits[:, :11], plain(tokens()), rtol=0, atol=1e-12)
    assert not torch.equal(logits[:, 11:], varied(tokens())[:, 11:])


def test_noise_and_cutout_are_of_the_size_that_is_asked_for():
    torch.manual_seed(0)
    known = LabelEmbeddings(tuple(map(str, range(300))), 7 * torch.randn(300, 200), "a test")
    plain = LabelVocabulary(known, 300, 300)().vectors
    noisy = LabelVocabulary(known, 300, 300, augment=QueryAugment(noise=0.3)).train()().vectors
    assert (noisy - plain).std().item() == pytest.approx(0.3 * plain.square().mean().sqrt().item(), rel=0.02)
    cut = LabelVocabulary(known, 300, 300, augment=QueryAugment(cutout=0.25)).train()().vectors
    assert (cut == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert torch.equal(cut[cut != 0], plain[cut != 0])
    random = LabelVocabulary(known, 300, 300, augment=QueryAugment(random=50)).train()().vectors
    assert torch.equal(random[:300], plain)
    assert random[300:].std().item() == pytest.approx(plain.square().mean().sqrt().item(), rel=0.05)


def test_augmentation_repeats_under_a_seed():
    head = decoder(augment=AUGMENT).train()
    torch.manual_seed(4)
    first = head(tokens())
    torch.manual_seed(4)
    assert torch.equal(first, head(tokens()))


@pytest.mark.parametrize("settings", [{"noise": -1}, {"random": -1}, {"cutout": 1.0}, {"cutout": -0.1}])
def test_augmentation_out_of_range(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        QueryAugment(**settings)


# Asking ---------------------------------------------------------------------------------------------------------------


def classifier(head):
    return Classifier(nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Flatten(2), Transposed()), head).eval()


class Transposed(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


def test_a_classifier_is_asked_for_labels_by_name():
    model = classifier(
        ZeroShotMLDecoder(8, 11, **SMALL, queries="label_embeddings", fc="shared", label_embeddings=KNOWN)
    )
    images = torch.randn(2, 3, 8, 8)
    everything = model(images)
    model.set_labels(["new 3", "trained 4"])
    torch.testing.assert_close(model(images)[:, 1], everything[:, 4])
    model.set_labels(["zebra", "trained 4"], LabelEmbeddings(("zebra",), torch.randn(1, 6), "another file"))
    torch.testing.assert_close(model(images)[:, 1], everything[:, 4])
    model.set_labels(["zebra"])  # known from now on
    assert model(images).shape == (2, 1)
    with model.querying(TRAINED):
        torch.testing.assert_close(model(images), everything)
    assert model.vocabulary.names == ("zebra",)


def test_asking_ends_also_after_an_error():
    model = classifier(
        ZeroShotMLDecoder(8, 11, **SMALL, queries="label_embeddings", fc="shared", label_embeddings=KNOWN)
    )
    with pytest.raises(RuntimeError), model.querying(NEW):
        raise RuntimeError
    assert model.vocabulary.names == TRAINED


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "at least one label"),
        (["new 1", "new 1"], "more than once: new 1"),
        (["new 1", " "], "found an empty one"),
        (["new 1", "new 10"], "(?s)no label embedding for 1 label.*'new 10': nearest known: new 1"),
    ],
)
def test_labels_that_cannot_be_asked_for(names, message):
    model = classifier(
        ZeroShotMLDecoder(8, 11, **SMALL, queries="label_embeddings", fc="shared", label_embeddings=KNOWN)
    )
    with pytest.raises(DataError, match=message):
        model.set_labels(names)
    assert model.vocabulary.names == TRAINED
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 11)


def test_vectors_of_another_width_are_refused():
    model = classifier(
        ZeroShotMLDecoder(8, 11, **SMALL, queries="label_embeddings", fc="shared", label_embeddings=KNOWN)
    )
    with pytest.raises(DataError, match=r"other.txt has label embeddings of width 7, .* with width 6 \(a test\)"):
        model.set_labels(["zebra"], LabelEmbeddings(("zebra",), torch.randn(1, 7), "other.txt"))


@pytest.mark.parametrize("head", [GlobalAveragePool(8, 3), MLDecoder(8, 3, **SMALL)])
def test_a_network_without_words_says_that_it_has_none(head):
    model = classifier(head)
    assert model.vocabulary is None
    with pytest.raises(
        DataError, match=r"trained without label embeddings.*head=zero_shot head.label_embeddings.source="
    ):
        model.set_labels(["zebra"])
    with model.querying(["zebra"]):
        assert model(torch.randn(2, 3, 8, 8)).shape == (2, 3)


def test_a_copy_is_asked_by_itself():
    head = decoder()
    other = copy.deepcopy(head)
    other.vocabulary.set_labels(NEW)
    assert head(tokens()).shape == (3, 11)
    assert other(tokens()).shape == (3, 9)


def test_weights_hold_no_word_vectors():
    """They travel beside the weights, so that starting from a run never brings its embeddings along."""
    ours, theirs = (
        decoder(),
        ZeroShotMLDecoder(8, 11, **SMALL, queries="label_embeddings", fc="shared", label_embeddings=KNOWN),
    )
    assert not any(name.startswith("embeddings") for name in ours.state_dict())
    theirs.double().load_state_dict(ours.state_dict())
    torch.testing.assert_close(theirs.eval()(tokens()), ours(tokens()))


@pytest.mark.parametrize("groups", [None, 4])
@pytest.mark.parametrize(("queries", "fc"), COMBINATIONS)
def test_compiles_without_graph_breaks(queries, fc, groups):
    torch._dynamo.reset()
    head = decoder(queries, fc, groups)
    compiled = torch.compile(head, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(tokens()), head(tokens()))
    head.vocabulary.set_labels(NEW)
    torch.testing.assert_close(compiled(tokens()), head(tokens()))


@pytest.mark.parametrize(("queries", "fc"), COMBINATIONS)
def test_is_built_where_there_are_no_numbers(queries, fc):
    with torch.device("meta"):
        head = ZeroShotMLDecoder(
            8, 11, 4, **SMALL, queries=queries, fc=fc, label_embeddings=KNOWN, normalize="centered", grouping="random"
        )
        head.vocabulary.set_labels((*NEW, TRAINED[3]))
        assert head(torch.randn(3, 6, 8)).shape == (3, 10)


def test_moves_with_the_network():
    head = decoder(groups=4).to("meta")
    head.vocabulary.set_labels(NEW)
    assert head(tokens().to("meta")).shape == (3, 9)
