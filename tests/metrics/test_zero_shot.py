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


def micro_f1(scores, targets, k):
    """ZS_SDL's calc_F1: over pictures with a relevant label, the k best labels of each are predicted."""
    rows = targets.sum(1) > 0
    scores, targets = scores[rows], targets[rows]
    predicted = np.zeros_like(targets)
    np.put_along_axis(predicted, np.argsort(-scores, axis=1)[:, :k], 1, axis=1)
    return 100 * f1_score(targets, predicted, average="micro")


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_definitions(seed):
    scores, targets = data(seed)
    found = zero_shot_metrics(scores, targets, SEEN, k=(1, 2))
    rows = targets[:, ~SEEN].any(axis=1)
    tasks = {"seen": SEEN, "zsl": ~SEEN, "gzsl": np.ones(6, bool)}
    expected = {}
    for task, columns in tasks.items():
        for ending, chosen in (("", np.ones(60, bool)), ("_with_unseen", rows)):
            if ending and task == "seen":
                continue
            part = scores[chosen][:, columns], targets[chosen][:, columns]
            expected[f"{task}_mAP{ending}"] = sklearn_map(*part)
            for k in (1, 2):
                expected[f"{task}_F1@{k}{ending}"] = micro_f1(*part, k)
    chances = {name: value for name, value in found.items() if "chance" in name}
    assert {name: found[name] for name in found if name not in chances} == pytest.approx(expected)
    assert set(chances) == {name.replace("mAP", "chance") for name in expected if "mAP" in name}


def test_what_is_over_the_number_of_labels_is_left_out():
    found = zero_shot_metrics(*data(), SEEN, k=(2, 3, 5, 7))
    assert {name for name in found if "@" in name} == {
        *(f"{task}_F1@2{ending}" for task in ("zsl", "gzsl") for ending in ("", "_with_unseen")),
        *(f"gzsl_F1@{k}{ending}" for k in (3, 5) for ending in ("", "_with_unseen")),
        "seen_F1@2",
        "seen_F1@3",
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
