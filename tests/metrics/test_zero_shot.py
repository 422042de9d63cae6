"""Zero-shot figures against scikit-learn, by the definitions of paper §2.5, and chance against all rankings."""

import itertools
import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from mldec.metrics import chance_average_precision, zero_shot_metrics

SEEN = np.array([True, False, True, True, False, True])


def data(seed=0, samples=60):
    rng = np.random.default_rng(seed)
    targets = (rng.random((samples, 6)) < 0.3).astype(np.int8)
    return rng.random((samples, 6)).astype(np.float32), targets


def sklearn_map(scores, targets):
    return 100 * np.mean([average_precision_score(targets[:, n], scores[:, n]) for n in range(targets.shape[1])])


def micro_f1(scores, targets, k, skip_empty=True):
    """ZS_SDL's calc_F1: over images with a relevant label, the k best labels of each are predicted."""
    rows = targets.sum(1) >= skip_empty
    scores, targets = scores[rows], targets[rows]
    predicted = np.zeros_like(targets)
    np.put_along_axis(predicted, np.argsort(-scores, axis=1)[:, :k], 1, axis=1)
    return 100 * f1_score(targets, predicted, average="micro")


TASKS = {"seen": SEEN, "zsl": ~SEEN, "gzsl": np.ones(6, bool)}
ALSO = {"seen": [], "zsl": ["with_unseen"], "gzsl": ["with_unseen", "with_any"]}


def rows_of(targets, images):
    """Which images are counted, by plain numpy: all, those with an unseen label, those with any label."""
    return {
        "all": np.ones(len(targets), bool),
        "with_unseen": (targets[:, ~SEEN] == 1).sum(axis=1) > 0,
        "with_any": (targets == 1).sum(axis=1) > 0,
    }[images]


@pytest.mark.parametrize("zsl_images", ["all", "with_unseen", "with_any"])
@pytest.mark.parametrize("gzsl_images", ["all", "with_unseen", "with_any"])
@pytest.mark.parametrize("seed", range(2))
def test_equals_the_definitions(seed, zsl_images, gzsl_images):
    scores, targets = data(seed)
    targets[:5] = 0  # images without any label
    found = zero_shot_metrics(scores, targets, SEEN, k=(1, 2), zsl_images=zsl_images, gzsl_images=gzsl_images)
    wanted = {"seen": "all", "zsl": zsl_images, "gzsl": gzsl_images}
    expected = {}
    for task, columns in TASKS.items():
        for ending, images in [("", wanted[task]), *((f"_{name}", name) for name in ALSO[task])]:
            chosen = rows_of(targets, images)
            part = scores[chosen][:, columns], targets[chosen][:, columns]
            expected[f"{task}_mAP{ending}"] = sklearn_map(*part)
            expected[f"{task}_images{ending}"] = chosen.sum()
            expected[f"{task}_F1_images{ending}"] = (part[1].sum(axis=1) > 0).sum()
            for k in (1, 2):
                expected[f"{task}_F1@{k}{ending}"] = micro_f1(*part, k)
                expected[f"{task}_F1@{k}_with_empty{ending}"] = micro_f1(*part, k, skip_empty=False)
    chances = {name: value for name, value in found.items() if "chance" in name}
    assert {name: found[name] for name in found if name not in chances} == pytest.approx(expected)
    assert set(chances) == {name.replace("mAP", "chance") for name in expected if "mAP" in name}


def test_the_sets_of_images_by_hand():
    """Two seen labels, one unseen; an image without any, one with a seen label alone, two with the unseen one."""
    seen = [True, True, False]
    scores = np.array([[0.1, 0.2, 0.9], [0.9, 0.1, 0.8], [0.2, 0.8, 0.7], [0.1, 0.3, 0.6]])
    targets = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 1], [0, 0, 1]])
    found = zero_shot_metrics(scores, targets, seen, k=(1,), zsl_images="with_unseen", gzsl_images="with_any")
    assert (found["zsl_images"], found["gzsl_images"], found["seen_images"]) == (2, 3, 4)
    assert found["zsl_mAP"] == 100  # nothing but images with the label is ranked
    assert found["gzsl_mAP"] == pytest.approx(100 * (1 + 1 + (1 / 2 + 2 / 3) / 2) / 3)
    found = zero_shot_metrics(scores, targets, seen, k=(1,))
    assert (found["zsl_images"], found["gzsl_images"], found["zsl_F1_images"]) == (4, 4, 2)
    assert found["zsl_mAP"] == pytest.approx(100 * (1 / 3 + 2 / 4) / 2)


def test_what_a_convention_does_not_count_has_no_effect():
    """Invariance: images without an unseen label for ZSL, without any label for GZSL; the order of images for all."""
    scores, targets = data()
    random = np.random.default_rng(9)
    more = random.random((20, 6)).astype(np.float32)
    nothing, only_seen = np.zeros((20, 6), np.int8), np.where(SEEN, 1, 0)[None].repeat(20, 0).astype(np.int8)
    convention = {"zsl_images": "with_unseen", "gzsl_images": "with_any"}
    before = zero_shot_metrics(scores, targets, SEEN, **convention)
    order = random.permutation(len(scores) + 20)

    def after(added):
        return zero_shot_metrics(
            np.concatenate([scores, more])[order], np.concatenate([targets, added])[order], SEEN, **convention
        )

    with_nothing, with_seen = after(nothing), after(only_seen)
    for name, value in before.items():
        if name.startswith(("zsl", "gzsl")):
            assert with_nothing[name] == pytest.approx(value), name
        if name.startswith("zsl"):
            assert with_seen[name] == pytest.approx(value), name
    assert with_seen["gzsl_images"] == before["gzsl_images"] + 20
    assert with_seen["gzsl_mAP"] != before["gzsl_mAP"]


def test_the_named_figures_do_not_depend_on_which_convention_is_asked_for():
    scores, targets = data()
    targets[:5] = 0
    published = zero_shot_metrics(scores, targets, SEEN, zsl_images="with_unseen", gzsl_images="with_any")
    everything = zero_shot_metrics(scores, targets, SEEN)
    named = [name for name in everything if name.endswith(("_with_unseen", "_with_any"))]
    assert len(named) == 4 + 2 * 8
    assert {name: published[name] for name in named} == {name: everything[name] for name in named}
    assert published["zsl_mAP"] == everything["zsl_mAP_with_unseen"]
    assert published["gzsl_mAP"] == everything["gzsl_mAP_with_any"]


def test_an_empty_class_is_left_out_or_counts_as_zero():
    """LESA and BiAM divide the sum of AP by the number of all classes; so does chance, which is of the same classes."""
    scores, targets = data()
    targets[:, 1] = 0  # one of the two unseen labels
    ap = average_precision_score(targets[:, 4], scores[:, 4])
    left_out = zero_shot_metrics(scores, targets, SEEN)
    as_zero = zero_shot_metrics(scores, targets, SEEN, "exact_zero")
    assert left_out["zsl_mAP"] == pytest.approx(100 * ap)
    assert as_zero["zsl_mAP"] == pytest.approx(100 * ap / 2)
    assert as_zero["zsl_chance"] == pytest.approx(left_out["zsl_chance"] / 2)
    assert as_zero["gzsl_mAP"] == pytest.approx(left_out["gzsl_mAP"] * 5 / 6)
    assert as_zero["zsl_images"] == left_out["zsl_images"]
    assert as_zero["seen_mAP"] == left_out["seen_mAP"]


def test_an_unknown_set_of_images_is_refused():
    with pytest.raises(ValueError, match="gzsl_images='some': no such gzsl_images; use all, with_unseen or with_any"):
        zero_shot_metrics(*data(), SEEN, gzsl_images="some")


def test_what_is_over_the_number_of_labels_is_left_out():
    found = zero_shot_metrics(*data(), SEEN, k=(2, 3, 5, 7))
    assert {name for name in found if "@" in name} == {
        f"{name}{empty}{ending}"
        for name, endings in {
            "zsl_F1@2": ("", "_with_unseen"),
            **{f"gzsl_F1@{k}": ("", "_with_unseen", "_with_any") for k in (2, 3, 5)},
            **{f"seen_F1@{k}": ("",) for k in (2, 3)},
        }.items()
        for ending in endings
        for empty in ("", "_with_empty")
    }


def test_unknown_labels_are_skipped_and_a_task_of_which_nothing_is_known_is_left_out():
    scores, targets = data()
    hidden = targets.copy()
    hidden[:, ~SEEN] = -1  # as in a val split that must not show them
    found = zero_shot_metrics(scores, hidden, SEEN)
    assert found["seen_mAP"] == zero_shot_metrics(scores, targets, SEEN)["seen_mAP"]
    assert not any(name.startswith("zsl") or name.endswith("_with_unseen") for name in found)
    assert found["gzsl_mAP"] == found["seen_mAP"]


@pytest.mark.parametrize(("positives", "known"), [(1, 1), (1, 5), (2, 5), (3, 6), (5, 6), (6, 6), (1, 7)])
def test_chance_is_the_mean_over_all_rankings(positives, known):
    values = []
    for places in itertools.combinations(range(1, known + 1), positives):
        values.append(np.mean([found / place for found, place in enumerate(places, start=1)]))
    assert chance_average_precision(positives, known) == pytest.approx(np.mean(values))


def test_chance_without_a_positive_is_not_defined():
    assert math.isnan(chance_average_precision(0, 5))


def test_random_scores_get_about_chance():
    rng = np.random.default_rng(0)
    targets = (rng.random((400, 200)) < 0.1).astype(np.int8)
    found = zero_shot_metrics(rng.random((400, 200)), targets, np.arange(200) % 2 == 0)
    for task in ("seen", "zsl", "gzsl"):
        assert found[f"{task}_mAP"] == pytest.approx(found[f"{task}_chance"], rel=0.05)


def test_seen_must_fit_the_labels():
    with pytest.raises(ValueError, match="`seen` has shape"):
        zero_shot_metrics(*data(), SEEN[:3])
